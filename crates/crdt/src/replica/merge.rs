//! Deltas of other replicas.

use std::sync::atomic::Ordering;

use polity_base::planted::{Bug, planted};
use polity_base::{Key, NodeId, Timestamp};

use super::Shared;
use super::book;
use super::draft::{Draft, storage_of};
use crate::cell::Cell;
use crate::delta::{Delta, Readiness};
use crate::error::Error;
use crate::row::{JoinContext, RowState};
use crate::stamp::{Stamp, VersionVector};

impl Draft<'_> {
    /// Joins what a delta or a peer adds to a row; whether that changed it.
    pub fn join(&mut self, key: &Key, part: &RowState, author: &VersionVector, by: Stamp) -> Result<bool, Error> {
        if self.schema.is_dropped(storage_of(key)) {
            return Ok(false);
        }
        let before = self.row(key)?;
        let mut after = before.clone();
        let mut lost = Vec::new();
        let changed = after.join(part, JoinContext { here: &self.vector, author }, &mut lost);
        self.note_lost(key, lost)?;
        if changed {
            self.store(key, &before, &after);
            self.note_collectable(key, part, by);
        }
        self.note_orphaned(key, &after);
        Ok(changed)
    }

    /// Applies a delta that is ready, and keeps it for those who lack it.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), Error> {
        let author = delta.author_seen();
        let half = delta.rows.len() > 1 && planted(Bug::SplitADelta);
        for (key, part) in delta.rows.iter().skip(usize::from(half)) {
            if planted(Bug::ForgetRemovals) {
                self.join(key, &without_removals(part.clone()), &author, delta.stamp())?;
                continue;
            }
            self.join(key, part, &author, delta.stamp())?;
        }
        let bytes = delta.encode().map_err(|e| Error::Stopped { reason: e.to_string() })?;
        self.put(book::delta(delta.stamp()), bytes);
        self.vector.advance(delta.origin, delta.at);
        Ok(())
    }
}

/// The part that puts elements into sets, without that which takes some out.
fn without_removals(mut part: RowState) -> RowState {
    for cell in part.cells.values_mut() {
        if let Cell::Set(set) = cell {
            set.elements.values_mut().for_each(|(_, marks)| marks.removed.clear());
        }
    }
    part
}

impl Shared {
    /// Takes deltas in: applies those that are ready, and what waited for them; holds
    /// the others. Returns once what was applied is on the disk.
    pub async fn take_in(self: &std::sync::Arc<Shared>, deltas: Vec<Delta>) -> Result<(), Error> {
        let shared = self.clone();
        let done = self.run(move |draft| shared.take_in_now(draft, deltas)).await;
        match done {
            Ok(_) => Ok(()),
            Err(error @ Error::Stopped { .. }) => Err(error),
            Err(error) => {
                // A replica that leaves out what all others apply would diverge.
                self.fail(error.to_string());
                Err(error)
            }
        }
    }

    fn take_in_now(&self, draft: &mut Draft<'_>, deltas: Vec<Delta>) -> Result<(), Error> {
        let mut hold = self.hold.lock();
        for delta in deltas {
            if self.is_after_departure(delta.stamp()) {
                continue;
            }
            self.clock.observe(delta.at);
            match delta.readiness(&draft.vector) {
                Readiness::Known => {
                    self.counts.repeated_deltas.fetch_add(1, Ordering::Relaxed);
                }
                Readiness::Early if !planted(Bug::SkipCausalCheck) => hold.put(delta),
                _ => {
                    draft.apply(&delta)?;
                    self.counts.applied_deltas.fetch_add(1, Ordering::Relaxed);
                }
            }
            while let Some(next) = hold.next_ready(&draft.vector) {
                draft.apply(&next)?;
                self.counts.applied_deltas.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Whether a write is one that a departed member's others have agreed not to know.
    fn is_after_departure(&self, stamp: Stamp) -> bool {
        let last = self.departed.read().get(&stamp.origin).copied();
        last.is_some_and(|last| stamp.at > last) && !planted(Bug::ApplyBeyondDeparture)
    }

    /// Refuses later writes of `node` than `last`, or than what was applied here; gives
    /// the last write of it that counts here from now on.
    pub async fn depart(
        self: &std::sync::Arc<Shared>,
        node: NodeId,
        last: Option<Timestamp>,
    ) -> Result<Timestamp, Error> {
        let shared = self.clone();
        let done = self.run(move |draft| {
            let mut departed = shared.departed.write();
            let known = departed.get(&node).copied();
            let counts = match (last, known) {
                (Some(last), _) => last,
                (None, Some(known)) => known,
                (None, None) => draft.vector.of(node),
            };
            if known != Some(counts) {
                draft.put(book::departed(node), counts.0.to_be_bytes().to_vec().into());
                departed.insert(node, counts);
                shared.hold.lock().forget(node, counts);
            }
            // What is here of it may be less than what counts, never more.
            Ok(counts)
        });
        done.await.map(|(counts, _)| counts)
    }
}
