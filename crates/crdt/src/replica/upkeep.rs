//! What is done now and then: forgetting what all have seen, building indexes, letting
//! old conflicts go.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use polity_base::planted::{Bug, planted};
use polity_base::{Guarantee, IndexId, Key, NodeId, Span, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::book::{self, Book};
use super::draft::{Draft, encoded, storage_of};
use crate::error::Error;
use crate::stamp::VersionVector;

/// Notes that are looked at in one piece of work.
const AT_ONCE: usize = 512;

/// How often it is looked whether there is an index to build.
const GLANCE: Duration = Duration::from_millis(100);

/// Takes care of the replica until `stop` turns true.
pub(super) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let mut trimmed = shared.floor.read().clone();
    let mut last = Instant::now();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(GLANCE.min(shared.limits.upkeep_every)) => {}
        }
        // Nothing is lost by an error; the next turn tries again.
        if let Err(error) = shared.build_indexes().await {
            tracing::warn!(%error, "an index was not built");
        }
        if last.elapsed() < shared.limits.upkeep_every {
            continue;
        }
        last = Instant::now();
        if let Err(error) = shared.take_care(&mut trimmed).await {
            tracing::warn!(%error, "what can be forgotten was not");
        }
    }
}

/// Compares stretch after stretch of the rows with one peer after the other, until `stop`
/// turns true.
pub(super) async fn patrol(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let (mut turn, mut from) = (0, book::traces().start);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(shared.limits.patrol_every) => {}
        }
        let members = shared.peers.members().nodes;
        let others = members.into_iter().filter(|node| *node != shared.node);
        let others: Vec<NodeId> = others.filter(|node| shared.peers.unreachable_since(*node).is_none()).collect();
        let Some(peer) = others.get(turn % others.len().max(1)) else { continue };
        match shared.compare(*peer, from.clone(), shared.limits.patrol_rows).await {
            Ok((_, Some(next))) => from = next,
            Ok((_, None)) => {
                from = book::traces().start;
                turn += 1;
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "rows were not compared");
                turn += 1;
            }
        }
    }
}

impl Shared {
    /// Builds the indexes that are not built yet, out of the rows that are here. Rows
    /// that are written meanwhile bring their entries along.
    async fn build_indexes(self: &Arc<Shared>) -> Result<(), Error> {
        for (index, table) in self.schema.indexes() {
            if self.built.read().contains(&index) {
                continue;
            }
            let mut span = Span::of_index(table);
            loop {
                let part = span.clone();
                let build = move |draft: &mut Draft<'_>| draft.build(index, &part);
                match self.run(build).await?.0 {
                    Some(next) => span.start = next,
                    None => break,
                }
            }
            self.built.write().insert(index);
        }
        Ok(())
    }

    async fn take_care(self: &Arc<Shared>, trimmed: &mut VersionVector) -> Result<(), Error> {
        let (everywhere, stable) = {
            let machine = self.machine.lock();
            (machine.known_everywhere(), machine.stable())
        };
        for (origin, _, up_to) in everywhere.beyond(trimmed) {
            self.trim(origin, up_to).await?;
            trimmed.advance(origin, up_to);
        }
        self.drop_oldest().await?;
        self.settle_departures().await?;
        self.clear_dropped().await?;
        self.even_out().await;
        self.drop_old_conflicts().await?;
        let stable = if planted(Bug::CollectEarly) { self.applied.borrow().clone() } else { stable };
        self.collect(stable).await
    }

    /// Lets go of conflicts that were noticed long ago.
    async fn drop_old_conflicts(self: &Arc<Shared>) -> Result<(), Error> {
        let age = u64::try_from(self.limits.conflict_age.as_nanos()).unwrap_or(u64::MAX);
        let before = self.clock.reading().midpoint().minus_nanos(age);
        let drop_some = move |draft: &mut Draft<'_>| {
            for key in draft.keys(&book::noticed(before), AT_ONCE)?.0 {
                if let Some(place) = draft.get(&key)? {
                    draft.delete(Key(place));
                    draft.delete(key);
                }
            }
            Ok(())
        };
        self.run(drop_some).await.map(|_| ())
    }

    /// Forgets the deltas of `origin` up to `up_to`: all have them, and nobody reads them
    /// any more. One note says so of all of them, those that are forgotten already among
    /// them: so it takes the place of the notes before.
    async fn trim(self: &Arc<Shared>, origin: NodeId, up_to: Timestamp) -> Result<(), Error> {
        self.floor.write().advance(origin, up_to);
        let span = book::deltas(origin, Timestamp::ZERO, up_to);
        let forget = move |draft: &mut Draft<'_>| {
            draft.clear(span);
            Ok(())
        };
        self.run(forget).await.map(|_| ())
    }

    /// Forgets the oldest deltas, whoever lacks them, while there are more bytes of them
    /// than may be kept: a member that lacks them will be filled from rows.
    async fn drop_oldest(self: &Arc<Shared>) -> Result<(), Error> {
        // As of the last checkpoint, so what was dropped since counts no more.
        let kept = self.state.stats(book::deltas_storage());
        let mut excess = {
            let mut dropped = self.dropped.lock();
            if dropped.0 != kept {
                *dropped = (kept, 0);
            }
            kept.bytes.saturating_sub(dropped.1).saturating_sub(self.limits.log_bytes)
        };
        while excess > 0 {
            let (vector, floor) = (self.applied.borrow().clone(), self.floor.read().clone());
            let oldest = vector.beyond(&floor).into_iter().min_by_key(|(origin, after, _)| (*after, *origin));
            let Some((origin, after, up_to)) = oldest else { return Ok(()) };
            let span = book::deltas(origin, after, up_to);
            let forget = move |draft: &mut Draft<'_>| {
                let (mut bytes, mut last) = (0, None);
                for key in draft.keys(&span, AT_ONCE)?.0 {
                    if let Some(delta) = draft.get(&key)? {
                        bytes += (key.len() + delta.len()) as u64;
                        last = book::delta_stamp(&key).map(|stamp| stamp.at);
                        draft.delete(key);
                    }
                    if bytes >= excess {
                        break;
                    }
                }
                Ok((bytes, last))
            };
            let ((bytes, last), _) = self.run(forget).await?;
            self.floor.write().advance(origin, last.unwrap_or(up_to));
            self.dropped.lock().1 += bytes;
            tracing::warn!(%origin, bytes, "too much waits for members that lack it: the oldest is not kept");
            excess = excess.saturating_sub(bytes);
        }
        Ok(())
    }

    /// Forgets deleted rows and elements that every replica has seen go.
    async fn collect(self: &Arc<Shared>, stable: VersionVector) -> Result<(), Error> {
        // By the time it went, so that what cannot be forgotten yet is not looked at.
        let Some(oldest) = stable.iter().map(|(_, at)| at).max() else { return Ok(()) };
        let mut from = Book::ToCollect.span().start;
        loop {
            let (shared, stable, start) = (self.clone(), stable.clone(), from.clone());
            let forget = move |draft: &mut Draft<'_>| shared.collect_some(draft, &stable, start, oldest);
            match self.run(forget).await?.0 {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }

    fn collect_some(
        &self,
        draft: &mut Draft<'_>,
        stable: &VersionVector,
        start: Key,
        newest: Timestamp,
    ) -> Result<Option<Key>, Error> {
        let mut span = Book::ToCollect.span();
        span.start = start;
        let (notes, more) = draft.keys(&span, AT_ONCE)?;
        let (mut last, mut forgot) = (None, false);
        for note in notes {
            last = Some(note.successor());
            let Some((stamp, row)) = book::parse_to_collect(&note) else { continue };
            if stamp.at > newest {
                last = None;
                break;
            }
            if draft.get(&note)?.is_none() || !stable.covers(stamp) {
                continue;
            }
            let before = draft.row(&row)?;
            let mut after = before.clone();
            if after.collect(stable) {
                draft.store(&row, &before, &after);
                self.counts.collected.fetch_add(1, Ordering::Relaxed);
                forgot = true;
            }
            draft.delete(note);
        }
        if forgot {
            let mut collected = self.collected.lock();
            collected.join(stable);
            draft.put(book::collected(), encoded(&*collected)?);
        }
        Ok(last.filter(|_| more))
    }
}

impl Draft<'_> {
    /// Writes the entries in `index` of the first rows of `span`; where to go on. After
    /// the last it notes that the index is built.
    fn build(&mut self, index: IndexId, span: &Span) -> Result<Option<Key>, Error> {
        let (rows, more) = self.keys(span, AT_ONCE)?;
        for key in &rows {
            let Some(visible) = self.get(key)? else { continue };
            for (entry, value) in self.schema.entries(key, &visible) {
                if storage_of(&entry) == index {
                    self.put(entry, value);
                }
            }
        }
        if more && let Some(last) = rows.last() {
            return Ok(Some(last.successor()));
        }
        self.put(book::built(index), Bytes::new());
        Ok(None)
    }
}

impl Shared {
    /// Removes what is kept of storages that were dropped.
    async fn clear_dropped(&self) -> Result<(), Error> {
        for storage in self.storages()? {
            if self.schema.is_dropped(storage) {
                self.clear(storage).await?;
                tracing::info!(%storage, "removed the rows of a dropped table or index");
            }
        }
        Ok(())
    }

    /// The storages of which something is kept: one look at each.
    fn storages(&self) -> Result<BTreeSet<IndexId>, Error> {
        let reader = self.state.snapshot()?;
        let at = reader.applied(Guarantee::Eventual);
        let mut storages = BTreeSet::new();
        let mut span = Guarantee::Eventual.span();
        while let Some((key, _)) = reader.scan(&span, at)?.next()? {
            let storage = storage_of(&key);
            storages.extend(book::table_of(storage));
            span.start = Span::of_index(storage).end;
        }
        Ok(storages)
    }

    /// Removes everything of a storage, and what merging remembers of its rows.
    pub(super) async fn clear(&self, storage: IndexId) -> Result<(), Error> {
        let clear = move |draft: &mut Draft<'_>| {
            draft.clear(Span::of_index(storage));
            draft.clear(Span::of_index(storage.merging()));
            draft.delete(book::built(storage));
            Ok(())
        };
        self.run(clear).await?;
        self.built.write().remove(&storage);
        Ok(())
    }
}
