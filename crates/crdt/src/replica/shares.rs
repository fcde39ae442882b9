//! Escrow: shares that are given, asked for and taken over.
//!
//! A transaction that needs more than this replica holds asks the others, who holds
//! most first, until it has enough or its time is up. Whoever gives, gives what is
//! needed and half of what it has left: where one unit is needed, more will be.
//!
//! Before it comes to that, a replica that has spent until it holds less than half of
//! what another one does asks that one, in the background, for half of the difference.
//! So shares move to where they are spent, and do not move to and fro between two that
//! spend alike.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polity_base::planted::{Bug, planted};
use polity_base::{Bounds, ColumnChange, ColumnId, Key, NodeId, RowChange, Timestamp};
use tokio::time::{Instant, timeout};

use super::Shared;
use super::commit::Tried;
use super::draft::Draft;
use super::peers::Traffic;
use crate::cell::Counter;
use crate::error::{Error, Holder};
use crate::escrow::{Shortage, Side};
use crate::replication::message::{Request, Response, encode};
use crate::row::RowState;
use crate::stamp::VersionVector;

/// Counters that are evened out in one turn at most.
const LOW: usize = 1024;

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
                let (changes, shared) = (changes.clone(), self.clone());
                // Asked again: it may have waited for a share, or for those before it.
                let commit = move |draft: &mut Draft<'_>| match shared.is_filling() {
                    true => Err(super::not_ready()),
                    false => draft.commit(&changes),
                };
                self.run(commit).await?
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
            let request = Request::Share { key, column, side: shortage.side, amount: missing, urgent: true };
            self.ask(node, request, left).await;
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
    async fn ask(&self, node: NodeId, request: Request, within: Duration) {
        let asking = async {
            let Response::Shared { given, at } = self.call(node, Traffic::Control, encode(&request)?).await? else {
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
        (key, column, side): Counted,
        amount: u64,
        urgent: bool,
    ) -> Result<(u64, Timestamp), Error> {
        if self.filling.read().is_some() {
            return Ok((0, Timestamp::ZERO));
        }
        let shared = self.clone();
        let done = self.run(move |draft| {
            let before = draft.row(&key)?;
            let right = before.counter(column).and_then(|c| c.right(draft.node, side)).unwrap_or(0);
            let right = u64::try_from(right.max(0)).unwrap_or(u64::MAX);
            let more = if urgent { right.saturating_sub(amount) / 2 } else { 0 };
            let amount = amount.min(right).saturating_add(more);
            let Some((part, given)) = before.transfer(column, (draft.node, to), side, amount) else {
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

    /// Takes note of counters of which a draft left little here.
    pub(super) fn note_low(&self, draft: &mut Draft<'_>) {
        let mut low = self.low.lock();
        while let Some(counted) = draft.low.pop_first().filter(|_| low.len() < LOW) {
            low.insert(counted);
        }
    }

    /// Asks for shares of counters that were spent from until little was left.
    pub(super) async fn even_out(self: &Arc<Shared>) {
        let low: Vec<Counted> = std::mem::take(&mut *self.low.lock()).into_iter().collect();
        let deadline = Instant::now() + self.limits.upkeep_every;
        for (key, column, side) in low {
            let left = deadline.saturating_duration_since(Instant::now());
            let find = {
                let key = key.clone();
                self.run(move |draft| {
                    Ok(draft.row(&key)?.counter(column).map(|counter| most_held(counter, draft.node, side)))
                })
            };
            let Ok((Some((here, Some((node, there)))), _)) = find.await else { continue };
            let reachable = self.peers.members().nodes.contains(&node) && self.peers.unreachable_since(node).is_none();
            if here < there / 2 && reachable && !left.is_zero() {
                let request = Request::Share { key, column, side, amount: (there - here) / 2, urgent: false };
                self.ask(node, request, left).await;
            }
        }
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

/// A right to change a counter.
pub(super) type Counted = (Key, ColumnId, Side);

/// What `node` holds, and who of the others holds most.
fn most_held(counter: &Counter, node: NodeId, side: Side) -> (u64, Option<(NodeId, u64)>) {
    let held = |node| counter.right(node, side).and_then(|right| u64::try_from(right).ok()).unwrap_or(0);
    let others = counter.holders().into_iter().filter(|other| *other != node).map(|other| (other, held(other)));
    (held(node), others.max_by_key(|(other, held)| (*held, std::cmp::Reverse(*other))))
}

impl Draft<'_> {
    /// Notes counters of a row that a change left this replica little of.
    pub(super) fn note_low(&mut self, key: &Key, change: &RowChange, after: &RowState) {
        let RowChange::Update(columns) = change else { return };
        for (column, change) in columns {
            let (ColumnChange::Add { amount, bounds }, Some(counter)) = (change, after.counter(*column)) else {
                continue;
            };
            let side = if *amount < 0 { Side::Take } else { Side::Add };
            if *amount == 0 || !bounds.any() || counter.right(self.node, side).is_none() {
                continue;
            }
            if let (here, Some((_, there))) = most_held(counter, self.node, side)
                && here < there / 2
            {
                self.low.insert((key.clone(), *column, side));
            }
        }
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
