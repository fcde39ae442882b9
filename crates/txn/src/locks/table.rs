//! Who holds which lock, and who waits behind whom.
//!
//! Each key has its holders and a queue. A request is granted when it conflicts
//! neither with another holder nor with anyone who waits before it; otherwise it
//! waits, so that a stream of readers cannot starve a writer. A holder that asks
//! for more stands before all who hold nothing: they wait for it anyway.
//!
//! ```text
//! holders  A:Share B:Share
//! queue    A:Exclusive(more)  C:Share  D:NoKeyExclusive
//!          waits for B        waits    waits for A, B, C
//!                             for A
//! ```
//! A waiter waits for the conflicting holders and the conflicting waiters before
//! it. Every new edge of that graph touches the request that creates it, so a
//! search from the requester, when it begins to wait, finds every deadlock.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

use polity_base::Key;
use serde::{Deserialize, Serialize};

use super::TransactionId;
use crate::error::WaitsFor;

/// PostgreSQL's four row locks, weakest first. Each conflicts with all that the
/// weaker ones conflict with, and more.
///
/// | conflicts      | KeyShare | Share | NoKeyExclusive | Exclusive |
/// |----------------|----------|-------|----------------|-----------|
/// | KeyShare       |          |       |                | x         |
/// | Share          |          |       | x              | x         |
/// | NoKeyExclusive |          | x     | x              | x         |
/// | Exclusive      | x        | x     | x              | x         |
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum LockMode {
    /// `FOR KEY SHARE`: the row stays, and so do its key columns
    KeyShare,
    /// `FOR SHARE`: the row stays as it is
    Share,
    /// `FOR NO KEY UPDATE`: columns outside the key may change
    NoKeyExclusive,
    /// `FOR UPDATE`: anything may change
    Exclusive,
}

impl LockMode {
    /// Whether two transactions cannot hold these at once.
    pub fn conflicts(self, other: LockMode) -> bool {
        self as u8 + other as u8 >= 3
    }
}

/// As SQL's locking clause has it.
impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LockMode::KeyShare => "KEY SHARE",
            LockMode::Share => "SHARE",
            LockMode::NoKeyExclusive => "NO KEY UPDATE",
            LockMode::Exclusive => "UPDATE",
        })
    }
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The lock is held now.
    Granted,
    /// The request waits; a later call names its owner when it is granted.
    Queued,
    /// The lock is not free, and the request was not to wait. Who is in the way.
    Refused(Vec<TransactionId>),
    /// Waiting would close this cycle; the request is forgotten.
    Deadlock(Vec<WaitsFor>),
}

/// A lock that is held or waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// What is locked
    pub key: Key,
    /// Who holds it or waits for it
    pub owner: TransactionId,
    /// In which mode
    pub mode: LockMode,
    /// Whether it is held
    pub granted: bool,
}

/// All locks, and all who wait.
#[derive(Default)]
pub struct LockTable {
    keys: HashMap<Key, Queue>,
    owners: HashMap<TransactionId, Owner>,
}

#[derive(Default)]
struct Owner {
    held: Vec<Key>,
    waits_for: Option<Key>,
}

#[derive(Default)]
struct Queue {
    holders: Vec<(TransactionId, LockMode)>,
    waiters: VecDeque<Waiter>,
}

struct Waiter {
    owner: TransactionId,
    mode: LockMode,
    /// Whether it holds the key in a weaker mode already.
    holds: bool,
}

impl Queue {
    fn held_by(&self, owner: TransactionId) -> Option<LockMode> {
        self.holders.iter().find(|(o, _)| *o == owner).map(|(_, mode)| *mode)
    }

    /// Whom a request of `owner` for `mode` behind the first `place` waiters
    /// would wait for.
    fn in_the_way(&self, owner: TransactionId, mode: LockMode, place: usize) -> impl Iterator<Item = TransactionId> {
        let holders = self.holders.iter().filter(move |(o, m)| *o != owner && m.conflicts(mode)).map(|(o, _)| *o);
        let waiters = self.waiters.iter().take(place).filter(move |w| w.owner != owner && w.mode.conflicts(mode));
        holders.chain(waiters.map(|w| w.owner))
    }

    /// Where a new request stands: the number of waiters before it.
    fn place(&self, holds: bool) -> usize {
        if holds { self.waiters.iter().take_while(|w| w.holds).count() } else { self.waiters.len() }
    }

    fn hold(&mut self, owner: TransactionId, mode: LockMode) {
        match self.holders.iter_mut().find(|(o, _)| *o == owner) {
            Some((_, held)) => *held = mode.max(*held),
            None => self.holders.push((owner, mode)),
        }
    }
}

impl LockTable {
    /// Asks for a lock. An owner that waits may ask again only for the same lock,
    /// and keeps its place.
    pub fn request(&mut self, owner: TransactionId, key: &Key, mode: LockMode, wait: bool) -> Reply {
        let queue = match self.keys.get_mut(key) {
            Some(queue) => queue,
            None => self.keys.entry(key.clone()).or_default(),
        };
        let held = queue.held_by(owner);
        if held.is_some_and(|held| held >= mode) {
            return Reply::Granted;
        }
        let holds = held.is_some();
        let place = queue.place(holds);
        if queue.in_the_way(owner, mode, place).next().is_none() {
            queue.hold(owner, mode);
            if !holds {
                self.owners.entry(owner).or_default().held.push(key.clone());
            }
            return Reply::Granted;
        }
        if !wait {
            return Reply::Refused(distinct(queue.in_the_way(owner, mode, place)));
        }
        if queue.waiters.iter().any(|w| w.owner == owner) {
            return Reply::Queued;
        }
        queue.waiters.insert(place, Waiter { owner, mode, holds });
        self.owners.entry(owner).or_default().waits_for = Some(key.clone());
        match self.cycle_through(owner) {
            None => Reply::Queued,
            Some(cycle) => {
                // Those behind waited for others before we came and still do:
                // leaving at once wakes nobody.
                let woken = self.cancel(owner);
                debug_assert!(woken.is_empty());
                Reply::Deadlock(cycle)
            }
        }
    }

    /// The lock that `owner` waits for.
    pub fn waiting(&self, owner: TransactionId) -> Option<(&Key, LockMode)> {
        let key = self.owners.get(&owner)?.waits_for.as_ref()?;
        let waiter = self.keys.get(key)?.waiters.iter().find(|w| w.owner == owner)?;
        Some((key, waiter.mode))
    }

    /// Takes `owner` out of the queue it stands in. Returns whose requests are
    /// granted by that.
    pub fn cancel(&mut self, owner: TransactionId) -> Vec<TransactionId> {
        let Some(entry) = self.owners.get_mut(&owner) else { return Vec::new() };
        let Some(key) = entry.waits_for.take() else { return Vec::new() };
        if entry.held.is_empty() {
            self.owners.remove(&owner);
        }
        if let Some(queue) = self.keys.get_mut(&key) {
            queue.waiters.retain(|w| w.owner != owner);
        }
        let mut granted = Vec::new();
        self.advance(&key, &mut granted);
        granted
    }

    /// Takes everything from `owner`. Returns whose requests are granted by that.
    pub fn release_all(&mut self, owner: TransactionId) -> Vec<TransactionId> {
        let mut granted = self.cancel(owner);
        let Some(entry) = self.owners.remove(&owner) else { return granted };
        for key in entry.held {
            if let Some(queue) = self.keys.get_mut(&key) {
                queue.holders.retain(|(o, _)| *o != owner);
            }
            self.advance(&key, &mut granted);
        }
        granted
    }

    /// Whom `owner` waits for.
    pub fn blockers(&self, owner: TransactionId) -> Vec<TransactionId> {
        distinct(self.edges(owner).map(|wait| wait.blocker))
    }

    /// Who waits for whom: the whole graph.
    pub fn waits(&self) -> Vec<WaitsFor> {
        self.owners.keys().flat_map(|owner| self.edges(*owner)).collect()
    }

    /// All locks that are held or waited for, in the order of their keys, holders first.
    pub fn all(&self) -> Vec<Listed> {
        let mut all = Vec::new();
        for (key, queue) in &self.keys {
            let listed = |owner, mode, granted| Listed { key: key.clone(), owner, mode, granted };
            all.extend(queue.holders.iter().map(|(owner, mode)| listed(*owner, *mode, true)));
            all.extend(queue.waiters.iter().map(|w| listed(w.owner, w.mode, false)));
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Whether nothing is locked and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.owners.is_empty()
    }

    /// Grants what can be granted at `key`, in the order of the queue.
    fn advance(&mut self, key: &Key, granted: &mut Vec<TransactionId>) {
        let Some(queue) = self.keys.get_mut(key) else { return };
        let mut place = 0;
        while let Some(waiter) = queue.waiters.get(place) {
            let (owner, mode) = (waiter.owner, waiter.mode);
            if queue.in_the_way(owner, mode, place).next().is_some() {
                place += 1;
                continue;
            }
            let holds = waiter.holds;
            queue.waiters.remove(place);
            queue.hold(owner, mode);
            let entry = self.owners.entry(owner).or_default();
            entry.waits_for = None;
            if !holds {
                entry.held.push(key.clone());
            }
            granted.push(owner);
        }
        if queue.holders.is_empty() && queue.waiters.is_empty() {
            self.keys.remove(key);
        }
    }

    /// The waits of `owner`, which are for one key and perhaps many blockers.
    fn edges(&self, owner: TransactionId) -> impl Iterator<Item = WaitsFor> {
        let key = self.owners.get(&owner).and_then(|entry| entry.waits_for.as_ref());
        let queue = key.and_then(|key| self.keys.get(key).map(|queue| (key, queue)));
        queue.into_iter().flat_map(move |(key, queue)| {
            let place = queue.waiters.iter().position(|w| w.owner == owner);
            let waiter = place.and_then(|place| queue.waiters.get(place).map(|w| (place, w.mode)));
            waiter.into_iter().flat_map(move |(place, mode)| {
                let blockers = queue.in_the_way(owner, mode, place);
                blockers.map(move |blocker| WaitsFor { waiter: owner, key: key.clone(), mode, blocker })
            })
        })
    }

    /// A cycle of the waits-for graph on which `start` lies.
    fn cycle_through(&self, start: TransactionId) -> Option<Vec<WaitsFor>> {
        let mut seen = HashSet::from([start]);
        let mut path: Vec<WaitsFor> = Vec::new();
        let mut branches = vec![self.edges(start)];
        while let Some(branch) = branches.last_mut() {
            let Some(wait) = branch.next() else {
                branches.pop();
                path.pop();
                continue;
            };
            let next = wait.blocker;
            if next == start {
                path.push(wait);
                return Some(path);
            }
            if seen.insert(next) {
                path.push(wait);
                branches.push(self.edges(next));
            }
        }
        None
    }
}

fn distinct(owners: impl Iterator<Item = TransactionId>) -> Vec<TransactionId> {
    let mut owners: Vec<TransactionId> = owners.collect();
    owners.sort_unstable();
    owners.dedup();
    owners
}
