//! Row locks: a courtesy that makes contention queue instead of fail.
//!
//! Nothing here is needed for correctness. What a transaction read is validated
//! when its batch is applied, so locks live in memory, at the node that leads
//! the range, and may be lost: that costs a retry and never an anomaly.
//!
//! `table` is the protocol: who holds what, who waits behind whom, who would
//! wait for ever. It does no IO. [`Locks`] puts futures on top.

mod table;

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use polity_base::Key;
use tokio::sync::oneshot;

pub use table::{LockMode, LockTable, Reply};

use crate::error::{Error, WaitsFor};

/// One transaction of this node; never reused while the node runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TransactionId(pub u64);

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Whether to wait for a lock that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Wait one's turn.
    Block,
    /// Fail at once (`NOWAIT`).
    NoWait,
}

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
    sleepers: HashMap<TransactionId, oneshot::Sender<()>>,
}

impl State {
    fn wake(&mut self, granted: Vec<TransactionId>) {
        for owner in granted {
            if let Some(sleeper) = self.sleepers.remove(&owner) {
                // A sleeper that is gone holds the lock all the same until its
                // transaction ends.
                let _ = sleeper.send(());
            }
        }
    }
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
        let granted = {
            let mut state = self.state.lock();
            match state.table.request(owner, key, mode, wait == Wait::Block) {
                Reply::Granted => return Ok(()),
                Reply::Refused(blockers) => {
                    return Err(Error::LockNotAvailable { key: key.clone(), blockers, timed_out: false });
                }
                Reply::Deadlock(cycle) => return Err(Error::Deadlock(cycle)),
                Reply::Queued => {
                    let (sender, receiver) = oneshot::channel();
                    state.sleepers.insert(owner, sender);
                    receiver
                }
            }
        };
        let place = Place { locks: self, owner };
        match timeout {
            // The sender is dropped only after it was used.
            None => drop(granted.await),
            Some(timeout) => {
                if tokio::time::timeout(timeout, granted).await.is_err() {
                    let state = self.state.lock();
                    // Granted in the last moment is granted.
                    if state.sleepers.contains_key(&owner) {
                        let blockers = state.table.blockers(owner);
                        drop(state);
                        drop(place);
                        return Err(Error::LockNotAvailable { key: key.clone(), blockers, timed_out: true });
                    }
                }
            }
        }
        Ok(())
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
}

/// A place in the queue; given up when dropped.
struct Place<'a> {
    locks: &'a Locks,
    owner: TransactionId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.locks.state.lock();
        if state.sleepers.remove(&self.owner).is_some() {
            let granted = state.table.cancel(self.owner);
            state.wake(granted);
        }
    }
}

#[cfg(test)]
mod tests;
