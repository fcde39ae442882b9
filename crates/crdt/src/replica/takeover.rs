//! What members that were removed for good leave behind.
//!
//! ```text
//! removed                          every member takes no later writes of it than it has
//! last write agreed, heir named    every member takes what the others have up to there,
//!                                  and nothing later, for good
//! the heir has all of that         it gives itself whatever the member may still spend
//! ```
//! A member that is not there to agree may have writes that nobody else has, spent shares
//! among them: so nothing is taken over until it is back, or is removed too. The heir
//! writes the departed member's own entries, as only that member did before; what that
//! member writes after its last write is refused everywhere, so nobody sees it spend what
//! the heir has.
//!
//! A replica that had not heard of the removal may still give a departed member a share,
//! of a new row's counter say. The heir takes these as it hears of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use polity_base::{Guarantee, Key, NodeId, Span, Timestamp};

use super::book;
use super::draft::Draft;
use super::peers::{Departure, Traffic};
use super::{Replica, Shared};
use crate::error::Error;
use crate::escrow::Share;
use crate::replication::message::{Request, Response, encode};
use crate::row::RowState;

/// Rows that are taken over in one piece of work,
const AT_ONCE: usize = 512;
/// and that are looked at before.
const LOOKED_AT: usize = 4096;

impl Replica {
    /// Makes every other member refuse whatever `node`, which was removed for good, wrote
    /// after what they have of it, and gives the last write that any of them has: what is
    /// to become [`Departure::last_write`](super::Departure::last_write). Can be asked
    /// again until all members answer.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if a member does not answer. As it may have writes that
    /// nobody else has, the shares of `node` are nobody's until it does, or is removed too.
    pub async fn agree_on_last_write(&self, node: NodeId) -> Result<Timestamp, Error> {
        let shared = &self.inner.shared;
        let mut last = shared.depart(node, None).await?;
        for member in shared.peers.members().nodes {
            if member == shared.node || member == node {
                continue;
            }
            match shared.call(member, Traffic::Control, encode(&Request::Depart(node))?).await? {
                Response::Departed(there) => last = last.max(there),
                _ => return Err(Error::Nonsense { from: member, reason: "another answer".to_owned() }),
            }
        }
        Ok(last)
    }
}

impl Shared {
    /// Does what there is to do about members that were removed.
    pub(super) async fn settle_departures(self: &Arc<Shared>) -> Result<(), Error> {
        let members = self.peers.members();
        for (node, departure) in &members.removed {
            let known = self.departed.read().get(node).copied();
            if known.is_none() || departure.last_write.is_some_and(|last| known != Some(last)) {
                self.depart(*node, departure.last_write).await?;
            }
        }
        // One of those that are gone may have been another's heir: so all that counts of
        // any of them must be here.
        let applied = self.applied.borrow().clone();
        let is_here = |(node, departure): (&NodeId, &Departure)| {
            departure.last_write.is_some_and(|last| applied.of(*node) >= last)
        };
        if self.filling.read().is_some() || !members.removed.iter().all(is_here) {
            return Ok(());
        }
        let left = members.removed.iter().filter(|(_, departure)| departure.heir == Some(self.node));
        let left: Vec<NodeId> = left.map(|(node, _)| *node).collect();
        if left.is_empty() { Ok(()) } else { self.take_over(left).await }
    }

    /// Gives this replica whatever members that are gone may still spend.
    async fn take_over(self: &Arc<Shared>, left: Vec<NodeId>) -> Result<(), Error> {
        let named: Vec<Key> = std::mem::take(&mut *self.to_take_over.lock()).into_iter().collect();
        self.take_over_rows(&left, named).await?;
        let fresh: Vec<NodeId> = left.iter().filter(|node| !self.taken_over.lock().contains(node)).copied().collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let mut from = book::traces().start;
        loop {
            let (shared, start, fresh_now) = (self.clone(), from, fresh.clone());
            let found = polity_store::blocking(move || shared.rows_with_shares(start, &fresh_now)).await;
            let (found, next) = found.map_err(|e| Error::Stopped { reason: e.to_string() })??;
            self.take_over_rows(&fresh, found).await?;
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        tracing::info!(nodes = ?fresh, "took over what they might spend");
        self.taken_over.lock().extend(fresh);
        Ok(())
    }

    async fn take_over_rows(self: &Arc<Shared>, left: &[NodeId], rows: Vec<Key>) -> Result<(), Error> {
        for some in rows.chunks(AT_ONCE) {
            let (some, left) = (some.to_vec(), left.to_vec());
            self.run(move |draft| draft.take_over(&left, some)).await?;
        }
        Ok(())
    }

    /// Of the next rows those whose counters some of the members may spend; where to go
    /// on. What changes in them meanwhile is noted when it does.
    fn rows_with_shares(&self, from: Key, left: &[NodeId]) -> Result<(Vec<Key>, Option<Key>), Error> {
        let reader = self.state.snapshot()?;
        let at = reader.applied(Guarantee::Eventual);
        let span = Span { start: from, end: book::traces().end };
        let traces = reader.scan(&span, at)?.next_chunk(LOOKED_AT, usize::MAX)?;
        let next = traces.last().filter(|_| traces.len() == LOOKED_AT).map(|(place, _)| place.successor());
        let mut found = Vec::new();
        for (place, trace) in traces {
            let key = book::traced(&place);
            let visible = reader.get(&key, at)?.map(|(visible, _)| visible);
            let state = RowState::load(visible.as_deref(), Some(&trace));
            let state = state.map_err(|e| Error::Damaged { key: key.clone(), reason: e.to_string() })?;
            if left.iter().any(|node| state.is_live() && may_spend(&state, *node)) {
                found.push(key);
            }
        }
        Ok((found, next))
    }
}

/// Whether `node` has a share of a counter of the row.
fn may_spend(state: &RowState, node: NodeId) -> bool {
    let some =
        |share: &Share| share.node == node && (share.take.is_some_and(|n| n > 0) || share.add.is_some_and(|n| n > 0));
    state.shares().iter().any(|(_, shares)| shares.iter().any(some))
}

impl Draft<'_> {
    /// Gives this replica what members that are gone may spend of the counters in these
    /// rows.
    fn take_over(&mut self, left: &[NodeId], keys: Vec<Key>) -> Result<(), Error> {
        let mut parts: Vec<(Key, RowState)> = Vec::new();
        for key in keys {
            let before = self.row(&key)?;
            let (mut after, mut part) = (before.clone(), RowState { life: before.life, ..RowState::default() });
            for node in left.iter().filter(|_| before.is_live()) {
                let Some(more) = after.take_over(*node, self.node) else { continue };
                for (column, cell) in more.cells {
                    if let Some(known) = after.cells.get_mut(&column) {
                        known.join(&cell);
                    }
                    part.cells.entry(column).and_modify(|known| known.join(&cell)).or_insert(cell);
                }
            }
            if !part.cells.is_empty() {
                self.store(&key, &before, &after);
                parts.push((key, part));
            }
        }
        if parts.is_empty() { Ok(()) } else { self.publish(parts) }
    }

    /// Notes a row if a member that was removed has a share of its counters.
    pub(super) fn note_orphaned(&mut self, key: &Key, state: &RowState) {
        let removed = &self.members.removed;
        if removed.keys().any(|node| may_spend(state, *node)) {
            self.orphaned.insert(key.clone());
        }
    }

    /// The rows that were noted.
    pub(super) fn orphaned(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.orphaned)
    }
}
