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

use polity_base::{Key, NodeId, Timestamp};

use super::book;
use super::draft::Draft;
use super::{Replica, Shared};
use crate::error::Error;
use crate::replica::peers::Traffic;
use crate::replication::message::{Request, Response, encode};
use crate::row::RowState;

/// Rows that are looked at in one piece of work.
const AT_ONCE: usize = 512;

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
            let (Some(last), Some(heir)) = (departure.last_write, departure.heir) else { continue };
            let has_all = self.applied.borrow().of(*node) >= last;
            if heir == self.node && has_all && self.filling.read().is_none() {
                self.take_over(*node).await?;
            }
        }
        Ok(())
    }

    /// Gives this replica whatever `node` may still spend.
    async fn take_over(self: &Arc<Shared>, node: NodeId) -> Result<(), Error> {
        let named: Vec<Key> = std::mem::take(&mut *self.to_take_over.lock()).into_iter().collect();
        for some in named.chunks(AT_ONCE) {
            let some = some.to_vec();
            self.run(move |draft| draft.take_over(node, some)).await?;
        }
        if self.taken_over.lock().contains(&node) {
            return Ok(());
        }
        let mut span = book::traces();
        loop {
            let part = span.clone();
            let take = move |draft: &mut Draft<'_>| {
                let (places, more) = draft.keys(&part, AT_ONCE)?;
                let next = places.last().filter(|_| more).map(Key::successor);
                draft.take_over(node, places.iter().map(book::traced).collect())?;
                Ok(next)
            };
            match self.run(take).await?.0 {
                Some(next) => span.start = next,
                None => break,
            }
        }
        self.taken_over.lock().insert(node);
        tracing::info!(%node, "took over what it might spend");
        Ok(())
    }
}

impl Draft<'_> {
    /// Gives this replica what `node` may spend of the counters in these rows.
    fn take_over(&mut self, node: NodeId, keys: Vec<Key>) -> Result<(), Error> {
        let mut parts: Vec<(Key, RowState)> = Vec::new();
        for key in keys {
            let before = self.row(&key)?;
            let Some(part) = before.is_live().then(|| before.take_over(node, self.node)).flatten() else { continue };
            let mut after = before.clone();
            for (column, cell) in &part.cells {
                if let Some(known) = after.cells.get_mut(column) {
                    known.join(cell);
                }
            }
            self.store(&key, &before, &after);
            parts.push((key, part));
        }
        if parts.is_empty() { Ok(()) } else { self.publish(parts) }
    }

    /// Notes a row if a member that was removed has a share of its counters.
    pub(super) fn note_orphaned(&mut self, key: &Key, state: &RowState) {
        let removed = &self.members.removed;
        if removed.is_empty() {
            return;
        }
        let left = |share: &crate::Share| {
            removed.contains_key(&share.node) && (share.take.is_some_and(|n| n > 0) || share.add.is_some_and(|n| n > 0))
        };
        if state.shares().iter().any(|(_, shares)| shares.iter().any(left)) {
            self.orphaned.insert(key.clone());
        }
    }

    /// The rows that were noted.
    pub(super) fn orphaned(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.orphaned)
    }
}
