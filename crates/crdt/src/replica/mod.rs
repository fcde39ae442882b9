//! This node's replica of all eventual tables.
//!
//! ```text
//!  commit ─▶╮                                     ╭─▶ answers
//!  deltas ─▶┤ sequencer ──▶ store::log ──▶ apply ─┤
//!  repair ─▶╯     │      one fsync for all        ╰─▶ vector ──▶ replication ──▶ the others
//!                 ╰── reads store::state and what is on its way there
//! ```
//! One task, the sequencer, does everything that changes rows, one thing
//! after the other: it computes what a transaction, or a delta of another replica,
//! makes of the rows, writes down the outcome as plain puts and deletes, and lets the
//! node's log make it durable with whatever else is waiting. Only then is it applied
//! and seen. So what a reader sees survives any crash, a transaction is seen whole,
//! and a restart replays bytes instead of deciding anew.
//!
//! | module      | holds                                                           |
//! |-------------|-----------------------------------------------------------------|
//! | `options`   | what can be chosen                                              |
//! | [`peers`]   | the seam through which the other replicas are reached           |
//! | [`schema`]  | what is asked of the catalog                                    |
//! | `book`      | what the replica keeps besides rows, and under which keys       |
//! | `draft`     | rows as they become, before they are written                    |
//! | `sequencer` | the task; `entry`: its log entries; `recovery`: reading them back |
//! | `commit`    | local transactions; `merge`: deltas and rows of others          |
//! | `shares`    | escrow: shares that are given and asked for; `takeover`: those of members that are gone |
//! | `compare`   | finding and mending rows that differ from another replica's     |
//! | `fill`      | taking rows over from another replica                           |
//! | `upkeep`    | forgetting what all have seen, building indexes, old conflicts  |
//! | `serve`     | what other replicas ask                                         |
//! | [`status`]  | what an operator learns; `report`: how; `seen`: all at one moment |
//!
//! Spreading deltas, and finding out what was missed, is [`crate::replication`].

pub(crate) mod book;
mod commit;
mod compare;
mod draft;
mod entry;
mod fill;
mod merge;
mod options;
pub mod peers;
mod recovery;
mod report;
pub mod schema;
mod seen;
mod sequencer;
mod serve;
mod shares;
pub mod status;
mod takeover;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use polity_base::time::HybridClock;
use polity_base::{Batch, Guarantee, IndexId, Key, NodeId, RangeId, Timestamp};
use polity_store::Log;
use polity_store::log::Record;
use polity_store::state::{AppliedMark, Checkpointed, IndexStats, State};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::Error;
use crate::replication::driver;
use crate::replication::hold::Hold;
use crate::replication::machine::{Input, Machine};
use crate::replication::message::About;
use crate::stamp::VersionVector;

pub use options::{Limits, Options};
pub use peers::{Alone, CallFailed, Departure, Members, Peers, Traffic};
pub use schema::{NoIndexes, Schema};
pub use seen::Seen;
pub use status::{Comparison, Conflict, CounterShares, Counts, PeerStatus, Status};

/// The key under which a replica notes that it has built the secondary index `index`:
/// whoever sees it sees all entries.
pub fn built_key(index: IndexId) -> polity_base::Key {
    book::built(index)
}

/// This node's replica of all eventual tables. Clones are the same replica.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What the replica's tasks have in common.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) log: Log,
    pub(crate) state: Arc<State>,
    pub(crate) clock: Arc<HybridClock>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) schema: Arc<dyn Schema>,
    pub(crate) limits: Limits,
    /// When this replica was started
    started: Timestamp,
    /// Where pieces of work wait for the sequencer
    queue: mpsc::UnboundedSender<sequencer::Work>,
    /// What was applied, on the disk: all of it shows
    pub(crate) applied: watch::Sender<VersionVector>,
    /// What is on the disk: nothing else shows
    shown: Mutex<VersionVector>,
    /// Why the replica cannot go on, if it cannot
    failure: watch::Sender<Option<String>>,
    /// Up to where no single deltas are kept
    pub(crate) floor: RwLock<VersionVector>,
    pub(crate) hold: Mutex<Hold>,
    pub(crate) machine: Mutex<Machine>,
    /// Where the machine is told what happens
    pub(crate) inputs: mpsc::UnboundedSender<Input>,
    /// Commits that wait for other replicas
    pub(crate) waiters: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
    next_ticket: AtomicU64,
    /// Of departed members the last write that counts
    departed: RwLock<BTreeMap<NodeId, Timestamp>>,
    /// Rows in which a departed member may have got a share since its shares were taken over
    to_take_over: Mutex<BTreeSet<Key>>,
    /// Counters of which little was left here
    low: Mutex<BTreeSet<shares::Counted>>,
    /// Members whose shares were taken over once through all rows
    taken_over: Mutex<BTreeSet<NodeId>>,
    /// Indexes that are complete
    built: RwLock<BTreeSet<IndexId>>,
    /// How far the replica is filled, if it is not complete
    filling: RwLock<Option<fill::Filling>>,
    /// Whether it is about to be filled, and takes no writes of its own any more
    closing: AtomicBool,
    /// What is read meanwhile, if it can be read
    frozen: RwLock<Option<fill::Frozen>>,
    /// Bytes of deltas that were dropped since these were counted
    dropped: Mutex<(IndexStats, u64)>,
    /// What this covers may be forgotten here
    collected: Mutex<VersionVector>,
    pub(crate) counts: Counters,
}

/// What the replica has done, as it is counted.
#[derive(Default)]
pub(crate) struct Counters {
    pub commits: AtomicU64,
    pub entries: AtomicU64,
    pub entry_bytes: AtomicU64,
    pub applied_deltas: AtomicU64,
    pub repeated_deltas: AtomicU64,
    pub sent_deltas: AtomicU64,
    pub sent_bytes: AtomicU64,
    pub conflicts: AtomicU64,
    pub short_shares: AtomicU64,
    pub transfers: AtomicU64,
    pub collected: AtomicU64,
    pub repaired_rows: AtomicU64,
}

impl Replica {
    /// Starts the replica from what the log and the rows hold of it. What was
    /// acknowledged is there when this returns.
    pub async fn start(options: Options) -> Result<Replica, Error> {
        let Options { node, log, state, clock, peers, schema, joins, limits } = options;
        let found = recovery::recover(node, &log, &state, &clock)?;
        let (queue, work) = mpsc::unbounded_channel();
        let (inputs, told) = mpsc::unbounded_channel();
        let started = clock.now();
        let is_new = joins && found.index == 0 && found.filling.is_none();
        let mut filling = if is_new { Some(fill::Filling::begin(None)) } else { found.filling };
        let frozen = filling.as_ref().and_then(|f| fill::Frozen::of(&state, f.frozen?).ok());
        if let (Some(filling), None) = (&mut filling, &frozen) {
            filling.frozen = None;
        }
        let about = About { started, vector: found.vector.clone(), floor: found.floor.clone(), filling: false };
        let shared = Arc::new(Shared {
            node,
            log,
            state,
            clock,
            peers,
            schema,
            started,
            queue,
            applied: watch::Sender::new(found.vector.clone()),
            shown: Mutex::new(found.vector.clone()),
            failure: watch::Sender::new(None),
            floor: RwLock::new(found.floor),
            hold: Mutex::new(Hold::new(limits.held_bytes)),
            machine: Mutex::new(Machine::new(node, limits.status_every, about)),
            inputs,
            waiters: Mutex::default(),
            next_ticket: AtomicU64::new(0),
            departed: RwLock::new(found.departed),
            to_take_over: Mutex::default(),
            taken_over: Mutex::default(),
            low: Mutex::default(),
            built: RwLock::new(found.built),
            filling: RwLock::new(filling.clone()),
            closing: AtomicBool::new(false),
            frozen: RwLock::new(frozen),
            dropped: Mutex::default(),
            collected: Mutex::new(found.collected),
            counts: Counters::default(),
            limits,
        });
        let (stop, stopped) = watch::channel(false);
        let sequencer = sequencer::Sequencer::new(shared.clone(), work, found.vector, found.index, stopped.clone());
        let tasks = vec![
            tokio::spawn(sequencer.run()),
            tokio::spawn(driver::run(shared.clone(), told, stopped.clone())),
            tokio::spawn(upkeep::run(shared.clone(), stopped.clone())),
            tokio::spawn(fill::run(shared.clone(), stopped.clone())),
            tokio::spawn(upkeep::patrol(shared.clone(), stopped)),
        ];
        if let Some(filling) = filling.filter(|_| is_new) {
            shared.note_filling(filling).await?;
        }
        Ok(Replica { inner: Arc::new(Inner { shared, stop, tasks: Mutex::new(tasks) }) })
    }

    /// Commits the changes of a local transaction: all of them, or none. Returns once
    /// they are kept by `acks` replicas, this one included, with the timestamp from which
    /// on they can be read here.
    ///
    /// An update or delete of a row that is not there changes nothing.
    ///
    /// # Errors
    /// After [`Error::AcksMissing`] the transaction is committed all the same.
    pub async fn commit(&self, batch: Batch, acks: u32) -> Result<Timestamp, Error> {
        let shared = &self.inner.shared;
        self.writable()?;
        let (size, limit) = (batch.size(), shared.limits.transaction_bytes);
        if size > limit {
            return Err(Error::TooLarge { size, limit });
        }
        let changes = commit::changes(batch)?.into();
        let (written, shown) = shared.commit_with_shares(changes).await?;
        shared.counts.commits.fetch_add(1, Ordering::Relaxed);
        if let Some(written) = written
            && acks > 1
        {
            shared.wait_for_keepers(written, acks).await?;
        }
        Ok(shown)
    }

    /// The newest timestamp that can be read here: nothing of the eventual tables will be
    /// written at or before it any more.
    pub fn applied(&self) -> Timestamp {
        let state = &self.inner.shared.state;
        // Held until it is known what is applied: nobody reads what is later than what is kept.
        let filling = self.inner.shared.filling.read();
        match filling.as_ref().and_then(|filling| filling.frozen) {
            Some(frozen) => frozen,
            None => state.applied(RangeId::EVENTUAL).commit.max(state.horizon(Guarantee::Eventual)),
        }
    }

    /// Why rows cannot be read here at the moment, if they cannot.
    pub fn readable(&self) -> Result<(), Error> {
        self.serving()?;
        match &*self.inner.shared.filling.read() {
            Some(filling) if filling.frozen.is_none() => Err(not_ready()),
            _ => Ok(()),
        }
    }

    /// Why rows cannot be written here at the moment, if they cannot.
    pub fn writable(&self) -> Result<(), Error> {
        self.serving()?;
        if self.inner.shared.is_filling() { Err(not_ready()) } else { Ok(()) }
    }

    fn serving(&self) -> Result<(), Error> {
        let shared = &self.inner.shared;
        if shared.failure.borrow().is_some() {
            return Err(shared.stopped());
        }
        if shared.peers.members().removed.contains_key(&shared.node) {
            return Err(Error::Removed);
        }
        Ok(())
    }

    /// What was applied here: nothing that can be read now is missing in it.
    pub fn vector(&self) -> VersionVector {
        self.inner.shared.shown.lock().clone()
    }

    /// Waits until all of `wanted` can be read here.
    pub async fn wait_for(&self, wanted: &VersionVector, within: Duration) -> Result<(), Error> {
        let shared = &self.inner.shared;
        let mut applied = shared.applied.subscribe();
        let shows = |applied: &VersionVector| shared.read_from(applied).dominates(wanted);
        let come = timeout(within, applied.wait_for(shows)).await.map(|r| r.is_ok());
        match come {
            Ok(true) => Ok(()),
            Ok(false) => Err(shared.stopped()),
            Err(_) => Err(Error::behind(wanted, &shared.read_from(&self.vector()), within)),
        }
    }

    /// Answers what the replica on node `from` asks.
    pub async fn answer(&self, from: NodeId, request: Bytes) -> Result<Bytes, Error> {
        self.inner.shared.serve(from, &request).await
    }

    /// Whether the secondary index `index` is complete here, and may be read.
    pub fn is_built(&self, index: IndexId) -> bool {
        self.inner.shared.built.read().contains(&index)
    }

    /// What lets the node purge the log.
    pub fn checkpointed(&self) -> Arc<dyn Checkpointed> {
        self.inner.shared.clone()
    }

    /// Waits until the replica cannot go on, because the log or the rows failed, and gives
    /// the reason. Only a restart mends it.
    pub fn failed(&self) -> impl Future<Output = String> + use<> {
        let mut failure = self.inner.shared.failure.subscribe();
        async move {
            let failed = failure.wait_for(Option::is_some).await;
            failed.map_or_else(|_| "it ended".to_owned(), |reason| reason.clone().unwrap_or_default())
        }
    }

    /// Ends the replica, and waits until nothing of it runs any more.
    pub async fn shutdown(&self) {
        self.inner.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.inner.tasks.lock());
        for task in tasks {
            // A task that failed has ended, too.
            let _ = task.await;
        }
    }
}

fn not_ready() -> Error {
    Error::NotReady { why: "it is being filled from another node's".to_owned() }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Shared {
    /// What this replica says about itself.
    pub(crate) fn about(&self) -> About {
        let vector = self.applied.borrow().clone();
        let filling = self.filling.read().as_ref().is_some_and(|filling| !filling.paged);
        About { started: self.started, vector, floor: self.floor.read().clone(), filling }
    }

    /// Waits until `acks` replicas keep what was committed here at `at`.
    async fn wait_for_keepers(&self, at: Timestamp, acks: u32) -> Result<(), Error> {
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (kept, waiter) = oneshot::channel();
        self.waiters.lock().insert(ticket, kept);
        self.tell(Input::Await { ticket, at, replicas: acks as usize });
        let waited = self.limits.acks_within;
        if let Ok(Ok(())) = timeout(waited, waiter).await {
            return Ok(());
        }
        self.waiters.lock().remove(&ticket);
        self.tell(Input::Forget(ticket));
        let kept_by = self.machine.lock().keepers(at);
        Err(Error::AcksMissing { at, wanted: acks, kept_by, waited })
    }
}

impl Checkpointed for Shared {
    fn group(&self) -> RangeId {
        RangeId::EVENTUAL
    }

    fn logged_bytes(&self) -> u64 {
        self.counts.entry_bytes.load(Ordering::Relaxed)
    }

    fn made_durable(&self, mark: AppliedMark) {
        if self.log.purged(RangeId::EVENTUAL).unwrap_or_default() < mark.index {
            let purge = Record::Purge { group: RangeId::EVENTUAL, upto_index: mark.index };
            // A failure is the log's, which tells the next who appends.
            self.log.append(vec![purge], drop);
        }
    }
}

/// An entry of the log as the rows take it, for tests that write behind a replica's back.
#[cfg(test)]
pub(crate) fn entry_for_tests(index: u64, payload: &Bytes, node: NodeId) -> polity_store::state::OrderedEntry {
    entry::Entry::read(index, payload).unwrap().ordered(node)
}
