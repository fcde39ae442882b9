//! The locks of this node's memory, for many tasks.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use polity_base::Key;
use tokio::sync::oneshot;

use super::table::{Listed, LockMode, LockTable, Reply};
use super::{TransactionId, Wait};
use crate::error::{Error, WaitsFor};

/// The locks of a range, for many tasks.
///
/// One mutex guards them all: a lock is held for well under a microsecond, and
/// finding a cycle needs the whole graph.
#[derive(Default)]
pub struct Locks {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    table: LockTable,
    sleepers: HashMap<TransactionId, Sleeper>,
    turns: u64,
}

/// A task that waits for its transaction's turn.
struct Sleeper {
    /// Tells it from an earlier task of the same transaction that is not gone yet.
    turn: u64,
    wake: oneshot::Sender<()>,
}

impl State {
    fn wake(&mut self, granted: Vec<TransactionId>) {
        for owner in granted {
            if let Some(sleeper) = self.sleepers.remove(&owner) {
                // A sleeper that is gone holds the lock all the same until its
                // transaction ends.
                let _ = sleeper.wake.send(());
            }
        }
    }
}

/// How long a turn is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// Until the lock is granted
    Unlimited,
    /// So long; then out of the queue
    AtMost(Duration),
    /// So long; then the place in the queue stays, and waits for the next turn
    Resumed(Duration),
}

impl Locks {
    /// Takes a lock for `owner`, which waits for at most one lock at a time.
    /// Locks are held until [`Locks::release_all`]. A future that is dropped
    /// leaves the queue.
    pub async fn lock(
        &self,
        owner: TransactionId,
        key: &Key,
        mode: LockMode,
        wait: Wait,
        timeout: Option<Duration>,
    ) -> Result<(), Error> {
        let turn = timeout.map_or(Turn::Unlimited, Turn::AtMost);
        match self.turn(owner, key, mode, wait, turn).await {
            Reply::Granted | Reply::Queued => Ok(()),
            Reply::Refused(blockers) => {
                let timed_out = wait == Wait::Block;
                Err(Error::LockNotAvailable { key: key.clone(), blockers, timed_out })
            }
            Reply::Deadlock(cycle) => Err(Error::Deadlock(cycle)),
        }
    }

    /// A lock, if it can be had at once.
    pub(crate) fn ask(&self, owner: TransactionId, key: &Key, mode: LockMode) -> Reply {
        self.state.lock().table.request(owner, key, mode, false)
    }

    /// One turn of waiting for a lock. [`Reply::Queued`] is the answer only to
    /// [`Turn::Resumed`], and to one whose locks were taken away meanwhile.
    pub(crate) async fn turn(&self, owner: TransactionId, key: &Key, mode: LockMode, wait: Wait, turn: Turn) -> Reply {
        let (granted, number) = {
            let mut state = self.state.lock();
            match state.table.request(owner, key, mode, wait == Wait::Block) {
                Reply::Queued => {}
                reply => return reply,
            }
            let (wake, granted) = oneshot::channel();
            state.turns += 1;
            let number = state.turns;
            state.sleepers.insert(owner, Sleeper { turn: number, wake });
            (granted, number)
        };
        let mut place = Place { locks: self, owner, turn: number, keep: false };
        let time = match turn {
            Turn::Unlimited => return if granted.await.is_ok() { Reply::Granted } else { Reply::Queued },
            Turn::AtMost(time) | Turn::Resumed(time) => time,
        };
        match tokio::time::timeout(time, granted).await {
            Ok(Ok(())) => return Reply::Granted,
            Ok(Err(_)) => return Reply::Queued,
            Err(_) => {}
        }
        let mut state = self.state.lock();
        if state.sleepers.get(&owner).is_none_or(|s| s.turn != number) {
            // Granted in the last moment is granted.
            return Reply::Granted;
        }
        if let Turn::Resumed(_) = turn {
            place.keep = true;
            state.sleepers.remove(&owner);
            return Reply::Queued;
        }
        let blockers = state.table.blockers(owner);
        drop(state);
        Reply::Refused(blockers)
    }

    /// Leaves the queue in which `owner` stands, if it does.
    pub(crate) fn leave(&self, owner: TransactionId) {
        let mut state = self.state.lock();
        state.sleepers.remove(&owner);
        let granted = state.table.cancel(owner);
        state.wake(granted);
    }

    /// Leaves the queue unless it is the one for this lock.
    pub(crate) fn leave_others(&self, owner: TransactionId, key: &Key, mode: LockMode) {
        let mut state = self.state.lock();
        if state.table.waiting(owner).is_some_and(|(other, wanted)| other != key || wanted != mode) {
            let granted = state.table.cancel(owner);
            state.wake(granted);
        }
    }

    /// Gives back all locks of `owner`, and its place in the queue if it has one.
    pub fn release_all(&self, owner: TransactionId) {
        let mut state = self.state.lock();
        state.sleepers.remove(&owner);
        let granted = state.table.release_all(owner);
        state.wake(granted);
    }

    /// Who waits for whom.
    pub fn waits(&self) -> Vec<WaitsFor> {
        self.state.lock().table.waits()
    }

    /// All locks that are held or waited for.
    pub fn all(&self) -> Vec<Listed> {
        self.state.lock().table.all()
    }

    /// Whether nothing is locked and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.state.lock().table.is_empty()
    }
}

/// A place in the queue; given up when dropped, unless it is to be kept.
struct Place<'a> {
    locks: &'a Locks,
    owner: TransactionId,
    turn: u64,
    keep: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let mut state = self.locks.state.lock();
        if state.sleepers.get(&self.owner).is_some_and(|s| s.turn == self.turn) {
            state.sleepers.remove(&self.owner);
            let granted = state.table.cancel(self.owner);
            state.wake(granted);
        }
    }
}
