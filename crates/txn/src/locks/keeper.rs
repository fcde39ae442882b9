//! Asks the node that keeps a lock, which is the one that leads the range.

use std::sync::Arc;
use std::time::Duration;

use polity_base::{Guarantee, Key, NodeId, Timestamp};
use tokio::time::Instant;

use super::local::{Locks, Turn};
use super::network::{CallFailed, LockNetwork, LockQuestion, LockResponse, turn};
use super::remote::Remote;
use super::{LockMode, Reply, TransactionId, Wait};
use crate::error::{Error, Outage, WaitsFor};
use crate::replica::Replica;

/// How long the node that keeps the locks may fail to answer before a request is
/// refused.
const REFUSE_AFTER: Duration = Duration::from_secs(2);
/// A wait for a lock kept here, of a transaction that holds others elsewhere, may be part
/// of a cycle that neither memory shows; after this long it is taken for one.
const SUSPECT_AFTER: Duration = Duration::from_secs(2);
/// Between two attempts to reach it.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The locks of all nodes, as this one sees them.
pub(crate) struct LockKeeper {
    node: NodeId,
    table: Locks,
    /// How long a turn is.
    turn: Duration,
    /// `None`: this node is alone, and need not ask who leads.
    remote: Option<Arc<Remote>>,
}

/// Where a transaction may hold locks.
#[derive(Default)]
pub(crate) struct Holds {
    here: bool,
    elsewhere: Vec<NodeId>,
}

/// What a transaction wants.
struct Wish<'a> {
    owner: TransactionId,
    key: &'a Key,
    mode: LockMode,
    wait: Wait,
}

impl LockKeeper {
    /// All locks are kept here.
    pub fn alone(node: NodeId) -> LockKeeper {
        LockKeeper { node, table: Locks::default(), turn: Duration::MAX, remote: None }
    }

    /// Locks are kept where the range is led. Must be called in a runtime.
    pub fn among_others(node: NodeId, network: Arc<dyn LockNetwork>, run: u64, lease: Duration) -> LockKeeper {
        let remote = Some(Remote::start(network, run, lease));
        LockKeeper { node, table: Locks::default(), turn: turn(lease), remote }
    }

    /// Whether another node keeps the locks of what `replica` holds, as far as is known.
    pub fn are_elsewhere(&self, replica: &dyn Replica) -> bool {
        self.remote.is_some() && replica.leader().is_some_and(|leader| leader != self.node)
    }

    /// The locks kept here.
    pub fn table(&self) -> &Locks {
        &self.table
    }

    /// Takes a lock for `owner`, and says when the key was last written. `holds`
    /// notes what [`LockKeeper::release_all`] must free.
    pub async fn lock(
        &self,
        replica: &Arc<dyn Replica>,
        (owner, holds): (TransactionId, &mut Holds),
        key: &Key,
        mode: LockMode,
        wait: Wait,
        timeout: Option<Duration>,
    ) -> Result<Timestamp, Error> {
        let Some(remote) = &self.remote else {
            holds.here = true;
            self.table.lock(owner, key, mode, wait, timeout).await?;
            return Ok(replica.last_write(key)?.unwrap_or(Timestamp::ZERO));
        };
        let wish = Wish { owner, key, mode, wait };
        let is_apart = Guarantee::of_key(key) == Guarantee::Eventual && !holds.elsewhere.is_empty();
        if !is_apart || timeout.is_some_and(|timeout| timeout <= SUSPECT_AFTER) {
            return self.lock_among_others(remote, replica, &wish, holds, timeout).await;
        }
        match self.lock_among_others(remote, replica, &wish, holds, Some(SUSPECT_AFTER)).await {
            Err(Error::LockNotAvailable { blockers, timed_out: true, .. }) => {
                let edge = |blocker| WaitsFor { waiter: owner, key: key.clone(), mode, blocker };
                Err(Error::Deadlock(blockers.into_iter().map(edge).collect()))
            }
            other => other,
        }
    }

    /// Asks in turns, and whoever leads at each: a queue of a node that leads no
    /// longer is no place to wait in, and a cycle of waits through two nodes'
    /// memories would not be found.
    async fn lock_among_others(
        &self,
        remote: &Arc<Remote>,
        replica: &Arc<dyn Replica>,
        wish: &Wish<'_>,
        holds: &mut Holds,
        timeout: Option<Duration>,
    ) -> Result<Timestamp, Error> {
        let begun = Instant::now();
        let mut place = Place { keeper: self, remote, owner: wish.owner, at: None };
        let mut silent_since: Option<Instant> = None;
        loop {
            let remaining = timeout.map_or(self.turn, |timeout| timeout.saturating_sub(begun.elapsed()));
            let stay = timeout.is_none() || remaining > self.turn;
            let turn = remaining.min(self.turn);
            let asked = match replica.leader() {
                Some(leader) => {
                    place.move_to(leader);
                    self.turn(remote, replica, wish, holds, leader, (turn, stay)).await?
                }
                None => Asked::Silent("no node leads the range".to_owned()),
            };
            let why = match asked {
                Asked::Answered(answer) => {
                    place.at = None;
                    return answer;
                }
                Asked::Waiting => {
                    silent_since = None;
                    continue;
                }
                Asked::Silent(why) => why,
            };
            // Whoever cannot reach a leader at all is told so better from there.
            replica.read_timestamp().await?;
            if silent_since.get_or_insert_with(Instant::now).elapsed() > REFUSE_AFTER {
                return Err(Error::Unavailable(Outage::because(why)));
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn turn(
        &self,
        remote: &Arc<Remote>,
        replica: &Arc<dyn Replica>,
        wish: &Wish<'_>,
        holds: &mut Holds,
        leader: NodeId,
        (turn, stay): (Duration, bool),
    ) -> Result<Asked, Error> {
        let Wish { owner, key, mode, wait } = *wish;
        let not_available = |blockers| {
            let timed_out = wait == Wait::Block;
            Asked::Answered(Err(Error::LockNotAvailable { key: key.clone(), blockers, timed_out }))
        };
        if leader == self.node {
            holds.here = true;
            let turn = if stay { Turn::Resumed(turn) } else { Turn::AtMost(turn) };
            return Ok(match self.table.turn(owner, key, mode, wait, turn).await {
                Reply::Granted => Asked::Answered(Ok(replica.last_write(key)?.unwrap_or(Timestamp::ZERO))),
                Reply::Queued => Asked::Waiting,
                Reply::Refused(blockers) => not_available(blockers),
                Reply::Deadlock(cycle) => Asked::Answered(Err(Error::Deadlock(cycle))),
            });
        }
        if !holds.elsewhere.contains(&leader) {
            holds.elsewhere.push(leader);
            remote.enlist(leader, owner.number);
        }
        let wait = (wait == Wait::Block).then_some(turn);
        let question = LockQuestion::Lock { transaction: owner.number, key: key.clone(), mode, wait, stay };
        Ok(match remote.ask(leader, question).await {
            Ok(LockResponse::Granted { newest }) => Asked::Answered(Ok(newest)),
            Ok(LockResponse::Waiting) => Asked::Waiting,
            Ok(LockResponse::Refused(blockers)) => not_available(blockers),
            Ok(LockResponse::Deadlock(cycle)) => Asked::Answered(Err(Error::Deadlock(cycle))),
            Ok(LockResponse::NotHere { .. }) => Asked::Silent(format!("node {} leads the range no longer", leader.0)),
            Ok(LockResponse::Failed(why)) => Asked::Silent(CallFailed::new(leader, why).to_string()),
            Ok(LockResponse::Done) => Asked::Silent(CallFailed::new(leader, "it answered something else").to_string()),
            Err(failed) => Asked::Silent(failed.to_string()),
        })
    }

    /// Gives back all locks of `owner`, wherever they are kept.
    pub fn release_all(&self, owner: TransactionId, holds: &Holds) {
        if holds.here {
            self.table.release_all(owner);
        }
        if let Some(remote) = &self.remote {
            holds.elsewhere.iter().for_each(|at| remote.release(*at, owner.number));
        }
    }
}

/// What a turn came to.
enum Asked {
    Answered(Result<Timestamp, Error>),
    Waiting,
    Silent(String),
}

/// A place in a queue that is kept between turns; given up when dropped.
struct Place<'a> {
    keeper: &'a LockKeeper,
    remote: &'a Arc<Remote>,
    owner: TransactionId,
    at: Option<NodeId>,
}

impl Place<'_> {
    fn move_to(&mut self, node: NodeId) {
        if self.at.is_some_and(|at| at != node) {
            self.leave();
        }
        self.at = Some(node);
    }

    fn leave(&mut self) {
        match self.at.take() {
            Some(at) if at == self.keeper.node => self.keeper.table.leave(self.owner),
            Some(at) => self.remote.cancel(at, self.owner.number),
            None => {}
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}
