//! Escrow: shares that are given, asked for and taken over.
//!
//! A transaction that needs more than this replica holds asks the others, who holds
//! most first, until it has enough or its time is up. Whoever gives, gives what is
//! needed and half of what it has left: where one unit is needed, more will be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polity_base::planted::{Bug, planted};
use polity_base::{Bounds, ColumnId, Key, NodeId, RowChange, Timestamp};
use tokio::time::{Instant, timeout};

use super::Shared;
use super::commit::Tried;
use super::peers::Traffic;
use crate::error::{Error, Holder};
use crate::escrow::{Shortage, Side};
use crate::replication::message::{Request, Response, encode};
use crate::stamp::VersionVector;

impl Shared {
    /// Does a local transaction, asking others for shares if it must. Gives its time,
    /// unless it changed nothing, and from when on it shows.
    pub(super) async fn commit_with_shares(
        self: &Arc<Shared>,
        changes: Arc<[(Key, RowChange)]>,
    ) -> Result<(Option<Timestamp>, Timestamp), Error> {
        let deadline = Instant::now() + self.limits.shares_within;
        let mut asked = BTreeSet::new();
        loop {
            let tried = {
                let changes = changes.clone();
                self.run(move |draft| draft.commit(&changes)).await?
            };
            let (key, column, shortage) = match tried {
                (Tried::Done(written), shown) => return Ok((written, shown)),
                (Tried::Short { key, column, shortage }, _) => (key, column, shortage),
            };
            if !shortage.is_local() {
                return Err(out_of_bounds(key, column, &shortage));
            }
            let missing = shortage.wanted - shortage.here;
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(node) = self.whom_to_ask(&key, column, &shortage, &mut asked).filter(|_| !left.is_zero()) else {
                self.counts.short_shares.fetch_add(1, Ordering::Relaxed);
                return Err(self.share_too_small(key, column, &shortage));
            };
            self.ask(node, &key, column, shortage.side, missing, left).await;
        }
    }

    /// Who is to be asked next: of those not asked yet and not known to be out of reach,
    /// who holds most.
    fn whom_to_ask(
        &self,
        key: &Key,
        column: ColumnId,
        shortage: &Shortage,
        asked: &mut BTreeSet<(Key, ColumnId, NodeId)>,
    ) -> Option<NodeId> {
        let members = self.peers.members();
        let open = |node: NodeId| {
            members.nodes.contains(&node)
                && self.peers.unreachable_since(node).is_none()
                && !asked.contains(&(key.clone(), column, node))
        };
        let holders = shortage.elsewhere.iter().filter(|(node, _)| open(*node));
        let (node, _) = holders.max_by_key(|(node, share)| (*share, std::cmp::Reverse(*node)))?;
        asked.insert((key.clone(), column, *node));
        Some(*node)
    }

    /// Asks a replica for some of its share, and waits until it is here.
    async fn ask(&self, node: NodeId, key: &Key, column: ColumnId, side: Side, amount: u64, within: Duration) {
        let asking = async {
            let request = encode(&Request::Share { key: key.clone(), column, side, amount })?;
            let Response::Shared { given, at } = self.call(node, Traffic::Control, request).await? else {
                return Err(Error::Nonsense { from: node, reason: "another answer than to a share".to_owned() });
            };
            if given > 0 {
                let wanted = VersionVector::from_iter([(node, at)]);
                let mut applied = self.applied.subscribe();
                let _ = applied.wait_for(|applied| applied.dominates(&wanted)).await;
            }
            Ok(())
        };
        match timeout(within, asking).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%node, %error, "no share was given"),
            Err(_) => tracing::debug!(%node, "no share was given in time"),
        }
    }

    /// Gives `to` some of this replica's share; how much, and by which delta.
    pub(super) async fn give(
        self: &Arc<Shared>,
        to: NodeId,
        key: Key,
        column: ColumnId,
        side: Side,
        amount: u64,
    ) -> Result<(u64, Timestamp), Error> {
        if self.filling.read().is_some() {
            return Ok((0, Timestamp::ZERO));
        }
        let shared = self.clone();
        let done = self.run(move |draft| {
            let before = draft.row(&key)?;
            let right = before.counter(column).and_then(|c| c.right(draft.node, side)).unwrap_or(0);
            let right = u64::try_from(right.max(0)).unwrap_or(u64::MAX);
            let generous = amount.min(right).saturating_add(right.saturating_sub(amount) / 2);
            let Some((part, given)) = before.transfer(column, (draft.node, to), side, generous) else {
                return Ok((0, Timestamp::ZERO));
            };
            let mut after = before.clone();
            if !planted(Bug::DropTransferDebit) {
                after.cells.iter_mut().for_each(|(id, cell)| {
                    if let Some(more) = part.cells.get(id) {
                        cell.join(more);
                    }
                });
            }
            draft.store(&key, &before, &after);
            let at = draft.now;
            draft.publish(vec![(key, part)])?;
            shared.counts.transfers.fetch_add(1, Ordering::Relaxed);
            Ok((given, at))
        });
        done.await.map(|(given, _)| given)
    }

    fn share_too_small(&self, key: Key, column: ColumnId, shortage: &Shortage) -> Error {
        let holder = |(node, share): &(NodeId, u64)| Holder {
            node: *node,
            share: *share,
            unreachable_since: self.peers.unreachable_since(*node),
        };
        let elsewhere = shortage.elsewhere.iter().map(holder).collect();
        Error::ShareTooSmall { key, column, wanted: wanted(shortage), here: shortage.here, elsewhere }
    }
}

/// By how much the counter was to change.
fn wanted(shortage: &Shortage) -> i64 {
    let amount = i64::try_from(shortage.wanted).unwrap_or(i64::MAX);
    if shortage.side == Side::Take { -amount } else { amount }
}

fn out_of_bounds(key: Key, column: ColumnId, shortage: &Shortage) -> Error {
    let bounds = match shortage.side {
        Side::Take => Bounds { lower: Some(shortage.bound), upper: None },
        Side::Add => Bounds { lower: None, upper: Some(shortage.bound) },
    };
    Error::OutOfBounds { key, column, wanted: wanted(shortage), value: shortage.value, bounds }
}
