//! Filling a replica from the rows of another one: a new one, or one that lacks deltas
//! which nobody keeps any more.
//!
//! ```text
//! page by page, in the order of keys     each page is as of some vector of its sender
//!   floor    what the sender of the first page had: is here once the last page is
//!   ceiling  what the senders of all pages had: may be here in part until then
//! then deltas, as always, from the floor up; whole again once the ceiling is here
//! ```
//! So pages need no common snapshot, may come from several replicas, and go on after a
//! restart where they were. Until the ceiling is reached a transaction may be here in
//! part: a new replica is not read until then, another one is read as of before, and
//! neither takes writes. As of before: with all that it has acknowledged.
//!
//! Two replicas that lack what the other one does not keep any more fill each other: what
//! a page of an incomplete replica may hold in part counts for the ceiling.
//!
//! Pages are joined like deltas. Only a replica that knows less than what the sender
//! has forgotten already, such as one restored from an old backup, may have rows that
//! were deleted since, with no trace of it anywhere: it takes the sender's rows in
//! place of its own, and then once more what it wrote itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use polity_base::{Guarantee, Key, NodeId, RangeId, Span, Timestamp};
use polity_store::state::{Pin, State};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Shared;
use super::book;
use super::draft::{Draft, encoded};
use super::peers::Traffic;
use super::recovery::{vector, vector_at};
use crate::cell::Cell;
use crate::delta::Delta;
use crate::error::Error;
use crate::replication::message::{Page, Request, Response, encode};
use crate::row::RowState;
use crate::stamp::{Stamp, VersionVector};

/// How often it is looked whether there is something to fill, or to go on with.
const GLANCE: Duration = Duration::from_millis(100);
/// Rows of one page at most, whatever their size.
const ROWS: usize = 2048;

/// How far a replica is filled.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Filling {
    /// Where to go on; everything before it is here
    cursor: Key,
    floor: Option<VersionVector>,
    ceiling: VersionVector,
    /// As of when the replica is read meanwhile; `None`: it never was complete
    pub frozen: Option<Timestamp>,
    /// Whether the last page is here
    pub paged: bool,
}

impl Filling {
    /// Nothing is here yet of what is to come.
    pub fn begin(frozen: Option<Timestamp>) -> Filling {
        let cursor = book::traces().start;
        Filling { cursor, floor: None, ceiling: VersionVector::new(), frozen, paged: false }
    }
}

/// What an incomplete replica is read as.
pub(super) struct Frozen {
    /// Keeps the rows from being collected
    _pin: Pin,
    /// The writes they are made of
    vector: VersionVector,
}

impl Frozen {
    /// What `state` held at `at`.
    pub fn of(state: &State, at: Timestamp) -> Result<Frozen, Error> {
        let _pin = state.pin(Guarantee::Eventual, at)?;
        Ok(Frozen { _pin, vector: vector_at(&state.snapshot()?, at)? })
    }
}

/// Fills the replica whenever that is needed, until `stop` turns true.
pub(super) async fn run(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    loop {
        let filling = shared.filling.read().clone();
        let stepped = match filling {
            None => Ok(false),
            Some(filling) => shared.fill(filling).await,
        };
        if let Err(error) = &stepped {
            tracing::debug!(%error, "could not go on with filling");
        }
        // The next page at once, anything else in a moment.
        if !matches!(stepped, Ok(true)) {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(GLANCE) => {}
            }
        }
        if *stop.borrow() {
            return;
        }
    }
}

impl Shared {
    /// Begins to fill this replica, unless that is under way.
    pub(crate) fn want_fill(self: &Arc<Shared>, from: NodeId) {
        if self.is_filling() || self.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(%from, "this replica lacks writes that are not kept any more: it is filled from rows");
        let shared = self.clone();
        tokio::spawn(async move {
            // Writes that are on their way are acknowledged, and must show; others are refused.
            if shared.run(|_| Ok(())).await.is_err() {
                return;
            }
            // Kept readable for as long as this takes; nobody has read what is later.
            let mut filling = shared.filling.write();
            let shown = shared.state.applied(RangeId::EVENTUAL).commit;
            let frozen = Frozen::of(&shared.state, shown);
            let frozen = frozen.inspect_err(|error| tracing::warn!(%error, "not read meanwhile")).ok();
            *filling = Some(Filling::begin(frozen.is_some().then_some(shown)));
            *shared.frozen.write() = frozen;
            drop(filling);
            shared.closing.store(false, Ordering::Release);
        });
    }

    /// Whether this replica is being filled, or about to be: it takes no writes of its own.
    pub(super) fn is_filling(&self) -> bool {
        self.closing.load(Ordering::Acquire) || self.filling.read().is_some()
    }

    /// The writes that reads see, of which `applied` were applied.
    pub(super) fn read_from(&self, applied: &VersionVector) -> VersionVector {
        match &*self.filling.read() {
            None => applied.clone(),
            // Not read at all before it is complete, unless it was before.
            Some(_) => self.frozen.read().as_ref().map(|frozen| frozen.vector.clone()).unwrap_or_default(),
        }
    }

    /// Notes durably that the replica is being filled.
    pub(super) async fn note_filling(&self, filling: Filling) -> Result<(), Error> {
        let note = move |draft: &mut Draft<'_>| {
            draft.put(book::filling(), encoded(&filling)?);
            Ok(())
        };
        self.run(note).await.map(|_| ())
    }

    /// Takes one step; whether the next can be taken at once.
    async fn fill(self: &Arc<Shared>, filling: Filling) -> Result<bool, Error> {
        if filling.paged {
            if self.applied.borrow().dominates(&filling.ceiling) {
                let done = |draft: &mut Draft<'_>| {
                    draft.delete(book::filling());
                    Ok(())
                };
                self.run(done).await?;
                *self.filling.write() = None;
                *self.frozen.write() = None;
                // Who waits to read it looks again.
                self.applied.send_modify(|_| ());
                tracing::info!("this replica is complete");
            }
            return Ok(false);
        }
        let Some(from) = self.whom_to_fill_from() else { return Ok(false) };
        let request = encode(&Request::Page { from: filling.cursor.clone() })?;
        let Response::Page(page) = self.call(from, Traffic::Bulk, request).await? else {
            return Err(Error::Nonsense { from, reason: "another answer than a page".to_owned() });
        };
        let shared = self.clone();
        let (next, _) = self.run(move |draft| shared.install(draft, from, page, filling)).await?;
        let paged = next.paged;
        *self.filling.write() = Some(next);
        Ok(!paged)
    }

    /// A replica that can be reached; rather one that is complete, and of several the one
    /// that has most.
    fn whom_to_fill_from(&self) -> Option<NodeId> {
        let machine = self.machine.lock();
        let able = |(node, about): (NodeId, &crate::replication::message::About)| {
            let able = about.started > Timestamp::ZERO && self.peers.unreachable_since(node).is_none();
            let has = || about.vector.iter().map(|(_, at)| u128::from(at.0)).sum::<u128>();
            able.then(|| (!about.filling, has(), node))
        };
        machine.peers().filter_map(able).max().map(|(_, _, node)| node)
    }

    /// Writes a page, and how far the replica is filled then.
    fn install(&self, draft: &mut Draft<'_>, from: NodeId, page: Page, filling: Filling) -> Result<Filling, Error> {
        if !page.vector.dominates(&self.collected.lock()) {
            let reason = "it lacks what was forgotten here".to_owned();
            return Err(Error::Unreachable { node: from, reason });
        }
        let stale = !draft.vector.dominates(&page.collected);
        let end = page.next.clone().unwrap_or_else(|| book::traces().end);
        let mut there = BTreeSet::new();
        for (key, visible, trace) in page.rows {
            let state = RowState::load(visible.as_deref(), Some(&trace));
            let state = state.map_err(|e| Error::Nonsense { from, reason: format!("the row of {key}: {e}") })?;
            if stale {
                let before = draft.row(&key)?;
                draft.store(&key, &before, &state);
            } else {
                draft.join(&key, &state, &page.vector, state.life.stamp)?;
            }
            draft.note_all_collectable(&key, &state);
            there.insert(key);
        }
        if stale {
            draft.remove_others(Span { start: filling.cursor.clone(), end: end.clone() }, &there)?;
        }
        let mut next = Filling { cursor: end, ..filling };
        let floor = next.floor.get_or_insert_with(|| page.vector.clone()).clone();
        next.ceiling.join(&page.ceiling);
        // What is written here from now on is later than all that is here.
        self.clock.observe(page.ceiling.last());
        if page.next.is_none() {
            next.paged = true;
            if stale {
                draft.apply_own_again(&floor)?;
            }
            draft.vector.join(&floor);
            self.floor.write().join(&floor);
        }
        draft.put(book::filling(), encoded(&next)?);
        Ok(next)
    }

    /// The rows from the trace at `from` on, as many as a message takes.
    pub(super) fn page(&self, from: &Key) -> Result<Page, Error> {
        let reader = self.state.snapshot()?;
        let at = reader.applied(Guarantee::Eventual);
        let span = Span { start: from.clone().max(book::traces().start), end: book::traces().end };
        let traces = reader.scan(&span, at)?.next_chunk(ROWS, self.limits.message_bytes)?;
        let vector = vector(&reader)?;
        let mut ceiling = vector.clone();
        if let Some(filling) = &*self.filling.read() {
            ceiling.join(&filling.ceiling);
        }
        let mut page = Page {
            vector,
            ceiling,
            collected: self.collected.lock().clone(),
            rows: Vec::with_capacity(traces.len()),
            next: None,
        };
        let mut bytes = 0;
        for (place, trace) in traces {
            let key = book::traced(&place);
            let visible = reader.get(&key, at)?.map(|(visible, _)| visible);
            bytes += key.len() + trace.len() + visible.as_ref().map_or(0, Bytes::len);
            page.next = Some(place.successor());
            page.rows.push((key, visible, trace));
            if bytes >= self.limits.message_bytes {
                break;
            }
        }
        Ok(page)
    }
}

impl Draft<'_> {
    /// Notes everything of a whole state that can be forgotten some day.
    pub(super) fn note_all_collectable(&mut self, key: &Key, state: &RowState) {
        if !state.is_live() {
            self.put(book::to_collect(state.life.stamp, key), Bytes::new());
        }
        let mut stamps: BTreeSet<Stamp> = BTreeSet::new();
        for cell in state.cells.values() {
            if let Cell::Set(set) = cell {
                let removals = set.elements.values().flat_map(|(_, marks)| marks.removed.values());
                stamps.extend(removals.map(|removal| removal.by));
            }
        }
        stamps.into_iter().for_each(|stamp| self.put(book::to_collect(stamp, key), Bytes::new()));
    }

    /// Removes the rows whose traces are in `span`, unless they are among `others`.
    fn remove_others(&mut self, span: Span, others: &BTreeSet<Key>) -> Result<(), Error> {
        let (traces, _) = self.keys(&span, usize::MAX - 1)?;
        for key in traces.iter().map(book::traced).filter(|key| !others.contains(key)) {
            let before = self.row(&key)?;
            self.store(&key, &before, &RowState::default());
        }
        Ok(())
    }

    /// Applies the deltas beyond `floor` that are kept here once more.
    fn apply_own_again(&mut self, floor: &VersionVector) -> Result<(), Error> {
        for (origin, after, up_to) in self.vector.clone().beyond(floor) {
            let (keys, _) = self.keys(&book::deltas(origin, after, up_to), usize::MAX - 1)?;
            for key in keys {
                let Some(bytes) = self.get(&key)? else { continue };
                let delta = Delta::decode(&bytes).map_err(|e| Error::Damaged { key, reason: e.to_string() })?;
                self.apply(&delta)?;
            }
        }
        Ok(())
    }
}
