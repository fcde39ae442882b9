//! Many new rows at once: COPY and INSERT … SELECT.
//!
//! | the table …                                   | rows go                           |
//! |-----------------------------------------------|-----------------------------------|
//! | was made or emptied by this transaction       | past its batch, chunk by chunk    |
//! | has rows of others, and more than a few come  | into the batch, without row locks |
//! | otherwise                                     | into the batch, locked one by one |
//!
//! Without locks the conditions of the commit alone keep concurrent writers
//! apart: one for a whole chunk where nothing lies between its keys, else one a
//! key.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;
use polity_base::key::Direction;
use polity_base::{IndexId, Key, Span, Value};
use polity_txn::View;

use super::statement::{Locking, Step, Writing, primary_name, touch};
use super::target::Target;
use super::violation;
use crate::catalog::{Filler, rows};
use crate::error::{Error, Result};
use crate::expr::Local;
use crate::session::{Context, Watch};

/// Rows that are best given at a time.
pub const CHUNK: usize = 8_192;
/// So many rows of one statement are locked one by one.
const LOCKED_ROWS: u64 = 1_000;
/// Bytes that a key, and a row, is thought to take.
const KEY_BYTES: usize = 16;
const ROW_BYTES: usize = 64;
/// Chunks of fewer rows get a condition per key.
const SPAN_ROWS: usize = 1_024;

/// New rows on their way.
pub struct Bulk {
    /// Rows so far
    rows: u64,
    fill: Option<Fill>,
    is_fresh: bool,
}

/// A fresh table being filled.
struct Fill {
    filler: Filler,
    /// One for each unique index, the primary key first (if there is one)
    seen: Vec<Seen>,
}

impl Bulk {
    /// For rows of `target`, whether it is fresh or not.
    pub fn new(ctx: &Context<'_>, target: &Target) -> Bulk {
        let storages = std::iter::once(target.table.primary.storage).chain(target.indexes.iter().map(|i| i.storage));
        // A statement that may have to start over must not write past its batch.
        let is_fresh = target.parents.is_empty() && storages.into_iter().all(|s| ctx.fresh.contains(&s));
        Bulk { rows: 0, fill: None, is_fresh }
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Adds rows, completed and of the columns' types.
    pub async fn add(
        &mut self,
        ctx: &mut Context<'_>,
        writing: &mut Writing,
        target: &Arc<Target>,
        chunk: Vec<Vec<Value>>,
    ) -> Step<()> {
        self.rows += chunk.len() as u64;
        if self.is_fresh && self.fill.is_none() && self.rows >= LOCKED_ROWS {
            if self.rows == chunk.len() as u64 {
                self.fill = Some(Fill::begin(ctx, target)?);
            } else {
                // Some rows are in the batch already.
                self.is_fresh = false;
            }
        }
        writing.check_all(ctx, target, &chunk)?;
        if let Some(fill) = &mut self.fill {
            return fill.add(ctx, target, &chunk).await;
        }
        let is_eventual = target.table.guarantee != polity_base::Guarantee::Strong;
        if self.rows <= LOCKED_ROWS || is_eventual {
            for row in &chunk {
                ctx.watch.pause().await?;
                writing.insert(ctx, target, row, Locking::Locked).await?;
            }
            return Ok(());
        }
        ctx.watch.rest().await?;
        add_unlocked(ctx, writing, target, &chunk)
    }

    /// All rows were added.
    pub async fn finish(self, ctx: &mut Context<'_>) -> Result<()> {
        match self.fill {
            Some(fill) => fill.filler.finish(ctx).await,
            None => Ok(()),
        }
    }
}

/// A unique key of each row of a chunk, in the order of the keys.
struct Keys<'t> {
    name: &'t str,
    places: Vec<usize>,
    sorted: Vec<(Key, usize)>,
}

impl Keys<'_> {
    fn violation(&self, ctx: &Context<'_>, target: &Target, row: &[Value]) -> Error {
        violation::unique(&target.table, self.name, self.places.iter().copied(), row, Local::of(ctx))
    }
}

/// Byte strings made one after the other, which share their memory: for one in
/// hundreds of thousands, an allocation of its own is what costs most.
struct Strings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Strings {
    fn with_capacity(strings: usize, bytes_each: usize) -> Strings {
        Strings { bytes: Vec::with_capacity(strings * bytes_each), ends: Vec::with_capacity(strings) }
    }

    fn push(&mut self, string: &[u8]) {
        self.write(|bytes| bytes.extend_from_slice(string));
    }

    fn write(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    fn finish(self) -> impl Iterator<Item = Bytes> {
        let bytes = Bytes::from(self.bytes.into_boxed_slice());
        let mut start = 0;
        self.ends.into_iter().map(move |end| bytes.slice(std::mem::replace(&mut start, end)..end))
    }
}

/// The stored forms of the rows of a chunk.
fn stored(target: &Target, chunk: &[Vec<Value>]) -> impl Iterator<Item = Bytes> + use<> {
    let mut strings = Strings::with_capacity(chunk.len(), ROW_BYTES);
    for row in chunk {
        strings.write(|bytes| rows::store_to(&target.table, row, bytes));
    }
    strings.finish()
}

/// Every row's key, and its entries in every index.
struct Laid<'t> {
    rows: Vec<Key>,
    entries: Vec<Vec<Key>>,
    unique: Vec<Keys<'t>>,
}

fn lay_out<'t>(ctx: &Context<'_>, target: &'t Target, chunk: &[Vec<Value>]) -> Result<Laid<'t>> {
    let mut keys = Strings::with_capacity(chunk.len(), KEY_BYTES);
    for row in chunk {
        match target.key.is_empty() {
            true => keys.push(&rows::hidden_key(&target.table, ctx.engine.next_row_id())?),
            false => keys.push(target.build_row_key(row)?.as_bytes()),
        }
    }
    let keys: Vec<Key> = keys.finish().map(Key).collect();
    let mut unique = Vec::new();
    if !target.key.is_empty() {
        let sorted = keys.iter().cloned().enumerate().map(|(at, key)| (key, at)).collect();
        unique.push(Keys { name: primary_name(target), places: target.key.clone(), sorted });
    }
    let mut entries = Vec::with_capacity(target.indexes.len());
    for index in &target.indexes {
        let mut list = Vec::with_capacity(chunk.len());
        let mut sorted = Vec::new();
        for (at, (row, key)) in chunk.iter().zip(&keys).enumerate() {
            let (entry, distinct) = index.entry(row, key)?;
            if distinct {
                sorted.push((entry.clone(), at));
            }
            list.push(entry);
        }
        if index.unique {
            unique.push(Keys { name: &index.name, places: index.columns.iter().map(|(p, _)| *p).collect(), sorted });
        }
        entries.push(list);
    }
    for keys in &mut unique {
        if !keys.sorted.is_sorted_by(|a, b| a.0 <= b.0) {
            keys.sorted.sort_unstable();
        }
    }
    Ok(Laid { rows: keys, entries, unique })
}

/// The first row (in the order they came) whose key another of the chunk has.
fn twice(keys: &Keys<'_>) -> Option<usize> {
    keys.sorted.windows(2).filter(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1).min()
}

/// Puts rows into the batch without locking them.
fn add_unlocked(ctx: &mut Context<'_>, writing: &mut Writing, target: &Arc<Target>, chunk: &[Vec<Value>]) -> Step<()> {
    let laid = lay_out(ctx, target, chunk)?;
    let view = ctx.txn.view().untracked();
    for keys in &laid.unique {
        let taken = match twice(keys) {
            Some(at) => Some(at),
            None => present(&view, keys)?,
        };
        if let Some(row) = taken.and_then(|at| chunk.get(at)) {
            return Err(keys.violation(ctx, target, row).into());
        }
        expect_absent(ctx, &view, keys)?;
    }
    drop(view);
    touch(ctx, target);
    for (at, ((row, key), value)) in chunk.iter().zip(laid.rows).zip(stored(target, chunk)).enumerate() {
        for entries in &laid.entries {
            if let Some(entry) = entries.get(at) {
                ctx.txn.put(entry.clone(), key.0.clone())?;
            }
        }
        writing.refer_once(target, row, &key)?;
        ctx.txn.put(key, value)?;
    }
    Ok(())
}

/// The first row whose key is there already.
fn present(view: &View, keys: &Keys<'_>) -> Result<Option<usize>> {
    let (Some((first, _)), Some((last, _))) = (keys.sorted.first(), keys.sorted.last()) else { return Ok(None) };
    let span = Span { start: first.clone(), end: last.successor() };
    // Few rows lie between new keys, as a rule; when many do, look up each key.
    let mut budget = 4 * keys.sorted.len() + 64;
    let mut scan = view.scan(span, Direction::Ascending)?;
    let mut found = None;
    while budget > 0 {
        let there = scan.next_chunk(1_024)?;
        if there.is_empty() {
            return Ok(found);
        }
        budget = budget.saturating_sub(there.len());
        for (key, _) in &there {
            if let Ok(at) = keys.sorted.binary_search_by(|(k, _)| k.cmp(key))
                && let Some((_, row)) = keys.sorted.get(at)
            {
                found = Some(found.map_or(*row, |f: usize| f.min(*row)));
            }
        }
    }
    for (key, row) in &keys.sorted {
        if view.get(key)?.is_some() {
            found = Some(found.map_or(*row, |f: usize| f.min(*row)));
        }
    }
    Ok(found)
}

/// Makes the commit conditional on the keys being absent.
fn expect_absent(ctx: &mut Context<'_>, view: &View, keys: &Keys<'_>) -> Result<()> {
    let (Some((first, _)), Some((last, _))) = (keys.sorted.first(), keys.sorted.last()) else { return Ok(()) };
    let span = Span { start: first.clone(), end: last.successor() };
    if keys.sorted.len() >= SPAN_ROWS && view.scan(span.clone(), Direction::Ascending)?.next_chunk(1)?.is_empty() {
        ctx.txn.expect_unchanged(span);
        return Ok(());
    }
    for (key, _) in &keys.sorted {
        ctx.txn.expect_absent(key.clone());
    }
    Ok(())
}

/// What was written of one unique index of a fresh table. As long as keys come
/// in order the last one is enough to tell that the next is new; then their
/// hashes are.
struct Seen {
    storage: IndexId,
    last: Option<Key>,
    hashes: Option<HashSet<u64>>,
}

fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.0.hash(&mut hasher);
    hasher.finish()
}

impl Seen {
    fn begin(view: &View, storage: IndexId) -> Result<Seen> {
        let last = view.scan(Span::of_index(storage), Direction::Descending)?.next_chunk(1)?.pop().map(|(key, _)| key);
        Ok(Seen { storage, last, hashes: None })
    }

    async fn remember_all(&mut self, view: &View, watch: &Watch) -> Result<()> {
        let mut hashes = HashSet::new();
        let mut scan = view.scan(Span::of_index(self.storage), Direction::Ascending)?;
        loop {
            let chunk = scan.next_chunk(4_096)?;
            if chunk.is_empty() {
                break;
            }
            watch.rest().await?;
            hashes.extend(chunk.iter().map(|(key, _)| hash(key)));
        }
        self.hashes = Some(hashes);
        Ok(())
    }
}

impl Fill {
    fn begin(ctx: &Context<'_>, target: &Target) -> Result<Fill> {
        let view = ctx.txn.view().untracked();
        let primary = (!target.key.is_empty()).then_some(target.table.primary.storage);
        let unique = target.indexes.iter().filter(|i| i.unique).map(|i| i.storage);
        let seen = primary.into_iter().chain(unique).map(|s| Seen::begin(&view, s)).collect::<Result<_>>()?;
        Ok(Fill { filler: Filler::new(ctx.engine.database().clone()), seen })
    }

    async fn add(&mut self, ctx: &mut Context<'_>, target: &Arc<Target>, chunk: &[Vec<Value>]) -> Step<()> {
        let laid = lay_out(ctx, target, chunk)?;
        for (at, keys) in laid.unique.iter().enumerate() {
            let taken = match twice(keys) {
                Some(row) => Some(row),
                None => self.known(ctx, at, keys).await?,
            };
            if let Some(row) = taken.and_then(|at| chunk.get(at)) {
                return Err(keys.violation(ctx, target, row).into());
            }
        }
        for (at, (key, value)) in laid.rows.into_iter().zip(stored(target, chunk)).enumerate() {
            for entries in &laid.entries {
                if let Some(entry) = entries.get(at) {
                    self.filler.put(entry.clone(), key.0.clone()).await?;
                }
            }
            self.filler.put(key, value).await?;
        }
        Ok(())
    }

    /// The first row whose key was written before; notes the others.
    async fn known(&mut self, ctx: &mut Context<'_>, at: usize, keys: &Keys<'_>) -> Result<Option<usize>> {
        let Some(seen) = self.seen.get_mut(at) else { return Ok(None) };
        let Some((first, _)) = keys.sorted.first() else { return Ok(None) };
        if seen.hashes.is_none() {
            if seen.last.as_ref().is_none_or(|last| last < first) {
                seen.last = keys.sorted.last().map(|(key, _)| key.clone());
                return Ok(None);
            }
            settle(&mut self.filler, ctx).await?;
            seen.remember_all(&ctx.txn.view().untracked(), ctx.watch).await?;
        }
        let mut suspects = Vec::new();
        if let Some(hashes) = &mut seen.hashes {
            suspects.extend(keys.sorted.iter().filter(|(key, _)| !hashes.insert(hash(key))));
        }
        if suspects.is_empty() {
            return Ok(None);
        }
        // Equal hashes are not equal keys yet.
        settle(&mut self.filler, ctx).await?;
        let view = ctx.txn.view().untracked();
        let mut found: Option<usize> = None;
        for (key, row) in suspects {
            if view.get(key)?.is_some() {
                found = Some(found.map_or(*row, |f| f.min(*row)));
            }
        }
        Ok(found)
    }
}

/// Writes what is on its way and lets the transaction see it.
async fn settle(filler: &mut Filler, ctx: &mut Context<'_>) -> Result<()> {
    let next = Filler::new(ctx.engine.database().clone());
    std::mem::replace(filler, next).finish(ctx).await
}
