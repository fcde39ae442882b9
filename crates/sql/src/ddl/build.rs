//! Fills the fresh storages of a table or an index from rows that are there.
//!
//! ```text
//! rows of the old storage ──▶ converted ──▶ sorted by chunks ──▶ fresh storages
//!                                             │ equal neighbours: a duplicate
//! ```
//! Entries of a unique storage that are equal are one key, so a duplicate would
//! vanish silently. Within a chunk equal keys stand side by side; across chunks,
//! when their key ranges overlap, the entries are counted at the end.
//!
//! The table must be locked, and the snapshot taken under the lock.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use datafusion::sql::sqlparser::ast::Expr;
use polity_base::key::Direction;
use polity_base::{ColumnId, IndexId, Key, Span, Value};
use polity_txn::View;

use super::{expression, lock};
use crate::catalog::{Column, Filler, Index, Table, rows};
use crate::error::{Condition, Error, Result};
use crate::expr::{Assign, Local};
use crate::query::{RunEnv, Scalar};
use crate::session::{Context, Watch};

/// Bytes of entries that are sorted at a time.
const CHUNK_BYTES: usize = 32 << 20;
/// Rows read at a time.
const CHUNK_ROWS: usize = 1_024;

/// How the rows of the new storage come from those of the old.
pub(super) enum Conversion<'a> {
    /// As they are
    Keep,
    /// With the value of a new last column
    Append(&'a Column, &'a Expr),
    /// With another value at this position of the row
    Replace(usize, Replacement),
}

/// Where the other value comes from.
pub(super) enum Replacement {
    /// From the value there, as an assignment to the column
    Assign(Assign),
    /// From the whole old row
    Compute(Scalar),
}

/// What is to be built.
pub(super) struct Build<'a> {
    /// The table as it is
    pub old: &'a Table,
    /// The table as it will be; its storages are fresh where they are built
    pub new: &'a Table,
    pub conversion: Conversion<'a>,
    /// Whether the rows get a new storage (and with it, all indexes)
    pub rows: bool,
    /// Indexes of `new` to build
    pub indexes: Vec<&'a Index>,
}

impl Build<'_> {
    /// Builds, and moves the snapshot forward so that it sees what was built.
    pub async fn run(self, ctx: &mut Context<'_>) -> Result<()> {
        let view = ctx.txn.view().untracked();
        let mut sorter = Sorter::new(Filler::new(ctx.engine.database().clone()), self.unique_storages());
        let mut scan = view.scan(Span::of_index(self.old.primary.storage), Direction::Ascending)?;
        loop {
            let chunk = scan.next_chunk(CHUNK_ROWS)?;
            if chunk.is_empty() {
                break;
            }
            if let Err(failed) = self.add_chunk(ctx, &mut sorter, chunk).await {
                return Err(self.explain(ctx.watch, &view, failed).await);
            }
            ctx.watch.rest().await?;
        }
        let suspects = match sorter.finish(ctx).await {
            Ok(suspects) => suspects,
            Err(failed) => return Err(self.explain(ctx.watch, &view, failed).await),
        };
        for (storage, entries) in suspects {
            if count(ctx.watch, &ctx.txn.view().untracked(), storage).await? != entries {
                return Err(self.explain(ctx.watch, &view, Failed::Collision(storage)).await);
            }
        }
        lock::rows_stay(ctx, &view, self.old).await
    }

    fn unique_storages(&self) -> HashSet<IndexId> {
        let unique = self.indexes.iter().filter(|i| i.unique).map(|i| i.storage);
        // Hidden numbers are unique already.
        let rows = (self.rows && !self.new.has_hidden_key()).then_some(self.new.primary.storage);
        unique.chain(rows).collect()
    }

    async fn add_chunk(&self, ctx: &Context<'_>, sorter: &mut Sorter, chunk: Vec<(Key, Bytes)>) -> Outcome {
        let mut loaded = Vec::with_capacity(chunk.len());
        for (_, stored) in &chunk {
            loaded.push(rows::load(self.old, stored)?);
        }
        self.convert(ctx, &mut loaded).await?;
        for ((old_key, stored), row) in chunk.into_iter().zip(loaded) {
            self.check_not_null(&row)?;
            let key = match self.loses_key() {
                true => rows::hidden_key(self.new, ctx.engine.next_row_id())?,
                false => self.key(&old_key, &row)?,
            };
            for index in &self.indexes {
                let (entry, value) = rows::index_entry(self.new, index, &row, &key)?;
                sorter.put(entry, value).await?;
            }
            if self.rows {
                let value = match self.conversion {
                    Conversion::Keep => stored,
                    _ => rows::store(self.new, &row),
                };
                sorter.put(key, value).await?;
            }
        }
        Ok(())
    }

    async fn convert(&self, ctx: &Context<'_>, loaded: &mut [Vec<Value>]) -> Result<()> {
        match &self.conversion {
            Conversion::Keep => {}
            Conversion::Append(column, default) => {
                let values = expression::default_values(ctx, column, default, loaded.len()).await?;
                loaded.iter_mut().zip(values).for_each(|(row, value)| row.push(value));
            }
            Conversion::Replace(at, Replacement::Assign(assign)) => {
                let local = Local::of(ctx);
                for row in loaded {
                    if let Some(slot) = row.get_mut(*at) {
                        let value = std::mem::replace(slot, Value::Null);
                        *slot = assign.apply(value, local)?;
                    }
                }
            }
            Conversion::Replace(at, Replacement::Compute(scalar)) => {
                let values = scalar.eval(loaded, &[], &RunEnv::of(ctx))?;
                for (row, value) in loaded.iter_mut().zip(values) {
                    if let Some(slot) = row.get_mut(*at) {
                        *slot = value;
                    }
                }
            }
        }
        Ok(())
    }

    fn check_not_null(&self, row: &[Value]) -> Result<()> {
        for (column, value) in self.new.columns.iter().zip(row) {
            if column.not_null && value.is_null() {
                return Err(contains_null(self.new, column));
            }
        }
        Ok(())
    }

    /// Whether rows that had a key get hidden numbers.
    fn loses_key(&self) -> bool {
        self.rows && self.new.has_hidden_key() && !self.old.has_hidden_key()
    }

    /// The key of a row in the new storage.
    fn key(&self, old_key: &Key, row: &[Value]) -> Result<Key> {
        if !self.rows {
            return Ok(old_key.clone());
        }
        if !self.new.has_hidden_key() {
            return rows::row_key(self.new, row);
        }
        let mut key = polity_base::key::KeyBuilder::new(self.new.primary.storage);
        key.push_raw(old_key.get(rows::STORAGE_BYTES..).unwrap_or_default());
        Ok(key.finish())
    }

    /// The error for a duplicate, with the values that are there twice.
    async fn explain(&self, watch: &Watch, view: &View, failed: Failed) -> Error {
        match failed {
            Failed::Other(e) => e,
            Failed::Duplicate(key) => self.duplicate(watch, view, Some(&key), storage_of(&key)).await,
            Failed::Collision(storage) => self.duplicate(watch, view, None, storage).await,
        }
    }

    async fn duplicate(&self, watch: &Watch, view: &View, wanted: Option<&Key>, storage: IndexId) -> Error {
        let index = self.indexes.iter().find(|i| i.storage == storage);
        let primary = self.new.primary.name.as_deref().unwrap_or_default();
        let name = index.map_or(primary, |i| &i.name);
        let error = Error::new(Condition::UniqueViolation, format!("could not create unique index \"{name}\""))
            .table(&self.new.name)
            .constraint(name);
        let columns: Vec<ColumnId> = match index {
            Some(i) => i.columns.iter().map(|(c, _)| *c).collect(),
            None => self.new.primary.columns.clone(),
        };
        match self.find_duplicate(watch, view, wanted, index.copied()).await {
            Ok(Some(row)) => error.detail(format!("Key {} is duplicated.", describe_key(self.new, &columns, &row))),
            // To say which values they were would take too long.
            _ => error,
        }
    }

    /// A row whose key was seen before, or is the wanted one. Only asked when
    /// there is a duplicate and values were not computed anew for it.
    async fn find_duplicate(
        &self,
        watch: &Watch,
        view: &View,
        wanted: Option<&Key>,
        index: Option<&Index>,
    ) -> Result<Option<Vec<Value>>> {
        if !matches!(self.conversion, Conversion::Keep) {
            return Ok(None);
        }
        let mut seen = HashSet::new();
        let mut scan = view.scan(Span::of_index(self.old.primary.storage), Direction::Ascending)?;
        loop {
            let chunk = scan.next_chunk(CHUNK_ROWS)?;
            if chunk.is_empty() {
                return Ok(None);
            }
            watch.rest().await?;
            for (old_key, stored) in chunk {
                let row = rows::load(self.old, &stored)?;
                let mut key = self.key(&old_key, &row)?;
                if let Some(index) = index {
                    key = rows::index_key(self.new, index, &row, &key)?;
                }
                let found = match wanted {
                    Some(wanted) => key == *wanted,
                    None => !seen.insert(key),
                };
                if found {
                    return Ok(Some(row));
                }
            }
        }
    }
}

/// The error for NULLs in a column that must not have any.
pub(super) fn contains_null(table: &Table, column: &Column) -> Error {
    Error::new(
        Condition::NotNullViolation,
        format!("column \"{}\" of relation \"{}\" contains null values", column.name, table.name),
    )
    .table(&table.name)
    .column(&column.name)
}

/// Columns and values as PostgreSQL's errors show a key: `(a, b)=(1, x)`.
pub fn describe_key(table: &Table, columns: &[ColumnId], row: &[Value]) -> String {
    let mut names = Vec::with_capacity(columns.len());
    let mut values = Vec::with_capacity(columns.len());
    for id in columns {
        if let Some((column, value)) = table.columns.iter().zip(row).find(|(c, _)| c.id == *id) {
            names.push(column.name.clone());
            values.push(super::shown(value, &column.r#type));
        }
    }
    format!("({})=({})", names.join(", "), values.join(", "))
}

/// How many keys a storage has.
async fn count(watch: &Watch, view: &View, storage: IndexId) -> Result<u64> {
    let mut scan = view.scan(Span::of_index(storage), Direction::Ascending)?;
    let mut n = 0;
    loop {
        watch.rest().await?;
        match scan.next_chunk(4 * CHUNK_ROWS)?.len() {
            0 => return Ok(n),
            more => n += more as u64,
        }
    }
}

fn storage_of(key: &[u8]) -> IndexId {
    let bytes = key.get(..rows::STORAGE_BYTES).and_then(|b| b.try_into().ok()).unwrap_or_default();
    IndexId(u32::from_be_bytes(bytes))
}

type Outcome = std::result::Result<(), Failed>;

enum Failed {
    /// This key came twice
    Duplicate(Key),
    /// Some key of this storage came twice
    Collision(IndexId),
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed::Other(error)
    }
}

/// Sorts entries by chunks and looks for duplicates.
struct Sorter {
    filler: Filler,
    unique: HashSet<IndexId>,
    pending: Vec<(Key, Bytes)>,
    bytes: usize,
    /// Per unique storage: entries so far, and the greatest key
    written: HashMap<IndexId, (u64, Key)>,
    /// Unique storages with a chunk that does not lie wholly after those before
    suspects: HashSet<IndexId>,
}

impl Sorter {
    fn new(filler: Filler, unique: HashSet<IndexId>) -> Sorter {
        Sorter { filler, unique, pending: Vec::new(), bytes: 0, written: HashMap::new(), suspects: HashSet::new() }
    }

    async fn put(&mut self, key: Key, value: Bytes) -> Outcome {
        self.bytes += key.len() + value.len() + 64;
        self.pending.push((key, value));
        if self.bytes >= CHUNK_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Outcome {
        self.bytes = 0;
        let mut chunk = std::mem::take(&mut self.pending);
        chunk.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = chunk.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Failed::Duplicate(pair[0].0.clone()));
        }
        for run in chunk.chunk_by(|a, b| storage_of(&a.0) == storage_of(&b.0)) {
            let (Some((first, _)), Some((last, _))) = (run.first(), run.last()) else { continue };
            let storage = storage_of(first);
            if !self.unique.contains(&storage) {
                continue;
            }
            let (entries, greatest) = self.written.entry(storage).or_default();
            if *entries > 0 && first <= &*greatest {
                self.suspects.insert(storage);
            }
            *entries += run.len() as u64;
            *greatest = last.clone().max(greatest.clone());
        }
        for (key, value) in chunk {
            self.filler.put(key, value).await?;
        }
        Ok(())
    }

    /// Writes the rest. What is given back must have so many entries.
    async fn finish(mut self, ctx: &mut Context<'_>) -> std::result::Result<Vec<(IndexId, u64)>, Failed> {
        self.flush().await?;
        self.filler.finish(ctx).await?;
        let suspects = self.suspects.iter();
        Ok(suspects.filter_map(|s| self.written.get(s).map(|(entries, _)| (*s, *entries))).collect())
    }
}
