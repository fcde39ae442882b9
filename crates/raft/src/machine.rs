//! openraft's state machine over the versioned rows.
//!
//! Entries are applied in steps: everything openraft hands over at once becomes
//! one transaction of the store, up to a size that keeps a replaying node within
//! its memory. Outcomes go back to the proposers only after the step is in the
//! state and [`Progress`] says so, since a reader may trust an outcome it was told
//! of to be visible.
//!
//! A snapshot, in openraft's sense, is here a position up to which the state is
//! durable by itself: a checkpoint. It lets the log be purged. Its rows stay where
//! they are; a follower that needs them is sent those of now (see `transfer`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures::stream::{Stream, StreamExt};
use openraft::entry::RaftEntry;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use polity_base::time::HybridClock;
use polity_base::{Batch, IndexId, NodeId, Operation, RangeId, Timestamp};
use polity_store::state::{AppliedMark, EntryBody, EntryOutcome, OrderedEntry, State};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::log_store::LogStore;
use crate::metrics::GroupMetrics;
use crate::payload::{Outcomes, encode};
use crate::types::{Entry, LogId, Peer, SnapshotMeta, StoredMembership, Types, log_id, stored_index};

/// A step ends when it holds this many bytes of batches,
const STEP_BYTES: usize = 4 << 20;
/// or this many entries.
const STEP_ENTRIES: usize = 1024;
/// A step of more bytes than this takes long enough to leave the scheduler's
/// worker to others meanwhile.
const BLOCKING_BYTES: usize = 256 << 10;

/// Where the rows of a snapshot are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SnapshotRows {
    /// In this member's state, which is durable up to this position.
    Here(AppliedMark),
    /// Put aside, having come from another member: the number of their transfer.
    Staged(u128),
}

/// A snapshot in openraft's terms.
pub(crate) type GroupSnapshot =
    Snapshot<openraft::type_config::alias::CommittedLeaderIdOf<Types>, NodeId, Peer, SnapshotRows>;

/// How far this replica has applied the log; written by the machine alone.
#[derive(Default)]
pub(crate) struct Progress {
    term: AtomicU64,
    commit: AtomicU64,
}

impl Progress {
    /// Notes what was applied. The timestamp goes first: who sees the term sees at
    /// least its timestamp.
    fn advance(&self, mark: AppliedMark) {
        self.commit.fetch_max(mark.commit.0, Ordering::Release);
        self.term.fetch_max(mark.term, Ordering::Release);
    }

    /// The term of the last applied entry.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// The timestamp of the last applied batch.
    pub fn commit(&self) -> Timestamp {
        Timestamp(self.commit.load(Ordering::Acquire))
    }
}

/// The memberships and the checkpoint a snapshot is made of.
pub(crate) struct Marks {
    /// Memberships in log order: the one in force at the last snapshot, and later ones.
    memberships: Vec<StoredMembership>,
    /// Up to here the state is known to be durable.
    durable: AppliedMark,
}

impl Marks {
    fn current(&self) -> StoredMembership {
        self.memberships.last().cloned().unwrap_or_default()
    }

    fn meta(&self) -> SnapshotMeta {
        self.meta_at(self.durable)
    }

    fn meta_at(&self, mark: AppliedMark) -> SnapshotMeta {
        let at = position(mark);
        let last_membership = self.memberships.iter().rfind(|m| *m.log_id() <= at).cloned().unwrap_or_default();
        SnapshotMeta { last_log_id: at, last_membership }
    }
}

fn position(mark: AppliedMark) -> Option<LogId> {
    log_id(mark.term, mark.index)
}

/// What the parts of a group share with its state machine.
#[derive(Clone)]
pub(crate) struct Shared {
    pub group: RangeId,
    pub state: Arc<State>,
    pub log: LogStore,
    pub clock: Arc<HybridClock>,
    pub progress: Arc<Progress>,
    pub marks: Arc<Mutex<Marks>>,
    pub metrics: Arc<GroupMetrics>,
    /// Members that rows are being sent to. The log keeps what they will need next.
    pub sending: Arc<AtomicUsize>,
}

impl Shared {
    /// Reads what was applied before this start.
    pub fn open(
        group: RangeId,
        state: Arc<State>,
        log: LogStore,
        clock: Arc<HybridClock>,
        metrics: Arc<GroupMetrics>,
    ) -> io::Result<Shared> {
        // A state that was just opened is at its last checkpoint.
        let durable = state.applied(group);
        let memberships = log.membership()?.into_iter().collect();
        let progress = Progress::default();
        progress.advance(durable);
        clock.observe(durable.commit);
        let marks = Mutex::new(Marks { memberships, durable });
        Ok(Shared {
            group,
            state,
            log,
            clock,
            progress: Arc::new(progress),
            marks: Arc::new(marks),
            metrics,
            sending: Arc::default(),
        })
    }

    /// What a snapshot of the rows at `mark` is.
    pub fn meta_at(&self, mark: AppliedMark) -> SnapshotMeta {
        self.marks.lock().meta_at(mark)
    }

    /// Who belongs to the group, as far as the log on this node says.
    pub fn membership(&self) -> StoredMembership {
        self.marks.lock().current()
    }

    /// Notes that the state is durable up to `mark`.
    pub fn made_durable(&self, mark: AppliedMark) {
        let mut marks = self.marks.lock();
        if marks.durable.index < mark.index {
            marks.durable = mark;
        }
    }
}

/// The state machine of one group.
pub(crate) struct Machine {
    shared: Shared,
    /// Dropped with the machine: whoever holds the other end learns that nothing
    /// is applied any more.
    _alive: oneshot::Sender<()>,
}

/// Entries collected for one transaction.
#[derive(Default)]
struct Step {
    entries: Vec<OrderedEntry>,
    responders: Vec<Option<ApplyResponder<Types>>>,
    memberships: Vec<StoredMembership>,
    /// The last entry that changes definitions
    defines: Option<LogId>,
    bytes: usize,
}

impl Step {
    fn push(&mut self, entry: Entry, responder: Option<ApplyResponder<Types>>) -> io::Result<()> {
        let term = *entry.log_id.leader_id;
        let index = stored_index(entry.index());
        let body = match &entry.payload {
            EntryPayload::Blank => EntryBody::Blank,
            EntryPayload::Normal(pack) => {
                self.bytes += pack.size();
                if pack.0.batches.iter().any(defines) {
                    self.defines = Some(entry.log_id);
                }
                EntryBody::Batches { proposed_at: pack.0.proposed_at, batches: pack.0.batches.clone() }
            }
            EntryPayload::Membership(membership) => {
                self.memberships.push(StoredMembership::new(Some(entry.log_id), membership.clone()));
                EntryBody::Membership(encode(&entry.payload).map_err(io::Error::other)?)
            }
        };
        self.entries.push(OrderedEntry { index, term, body });
        self.responders.push(responder);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.bytes >= STEP_BYTES || self.entries.len() >= STEP_ENTRIES
    }
}

/// Whether a batch changes definitions: of tables, indexes, roles.
fn defines(batch: &Batch) -> bool {
    let catalog = IndexId::CATALOG.0.to_be_bytes();
    batch.operations.iter().any(|operation| match operation {
        Operation::Put { key, .. } | Operation::Delete { key } | Operation::Change { key, .. } => {
            key.starts_with(&catalog)
        }
        Operation::Clear { span } => span.start.starts_with(&catalog),
    })
}

impl Machine {
    /// The machine, and the end that learns of its own.
    pub fn new(shared: Shared) -> (Machine, oneshot::Receiver<()>) {
        let (alive, gone) = oneshot::channel();
        (Machine { shared, _alive: alive }, gone)
    }

    async fn apply_step(&self, step: Step) -> io::Result<()> {
        let shared = &self.shared;
        let Some(last) = step.entries.last().map(|e| e.index) else { return Ok(()) };
        for membership in &step.memberships {
            // Before the entry counts as applied: a restart looks for memberships
            // in the log only after the applied position.
            shared.log.save_membership(membership).await?;
            shared.marks.lock().memberships.push(membership.clone());
        }
        if let Some(committed) = step.defines {
            // Before anything relies on them: a node that starts where no leader can tell
            // it how far the log is committed must know all definitions that it knew, or
            // its rows of eventual tables would be those of tables it has not heard of.
            shared.log.mark_committed(committed).await?;
        }
        let begun = Instant::now();
        let outcomes = on_worker(step.bytes, || shared.state.apply(shared.group, &step.entries));
        // What is committed must be applied: a replica that cannot, stops.
        let outcomes = outcomes.map_err(io::Error::other)?;
        shared.metrics.apply_micros.record_micros(begun.elapsed());
        shared.metrics.entries_per_apply.record(step.entries.len() as u64);

        let mark = shared.state.applied(shared.group);
        shared.clock.observe(mark.commit);
        shared.progress.advance(mark);
        shared.log.applied(last - 1);
        for (responder, outcome) in step.responders.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(match outcome {
                    EntryOutcome::Batches(outcomes) => Outcomes(outcomes),
                    _ => Outcomes::default(),
                });
            }
        }
        Ok(())
    }
}

/// Runs `work` on so many bytes, which does not yield, where it disturbs least.
pub(crate) fn on_worker<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let multi = Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
    if multi && bytes > BLOCKING_BYTES { tokio::task::block_in_place(work) } else { work() }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = SnapshotRows;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.shared.state.applied(self.shared.group);
        Ok((position(applied), self.shared.marks.lock().current()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        let mut step = Step::default();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            step.push(entry, responder)?;
            if step.is_full() {
                self.apply_step(std::mem::take(&mut step)).await?;
            }
        }
        self.apply_step(step).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder { shared: self.shared.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, rows: SnapshotRows) -> io::Result<()> {
        let SnapshotRows::Staged(transfer) = rows else {
            return Err(io::Error::other("a snapshot without rows cannot be installed"));
        };
        let shared = &self.shared;
        // Before the rows: a membership that is known too early is only a hint.
        shared.log.save_membership(&meta.last_membership).await?;
        let (state, group) = (shared.state.clone(), shared.group);
        let installed = polity_store::blocking(move || state.install_staged(group, transfer)).await;
        let mark = installed.map_err(io::Error::other)?.map_err(io::Error::other)?;
        if position(mark) != meta.last_log_id {
            return Err(io::Error::other(format!("rows of {mark:?} came with a snapshot of {:?}", meta.last_log_id)));
        }
        {
            let mut marks = shared.marks.lock();
            marks.memberships = vec![meta.last_membership.clone()];
            marks.durable = mark;
        }
        shared.clock.observe(mark.commit);
        shared.progress.advance(mark);
        tracing::info!(group = %shared.group, index = mark.index, "took over the rows of another member");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<GroupSnapshot>> {
        let marks = self.shared.marks.lock();
        let meta = marks.meta();
        Ok(meta.last_log_id.map(|_| Snapshot { meta, snapshot: SnapshotRows::Here(marks.durable) }))
    }
}

/// Makes a snapshot: the newest checkpoint, or one of its own if there is none.
pub(crate) struct Builder {
    shared: Shared,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotRows;

    async fn build_snapshot(&mut self) -> io::Result<GroupSnapshot> {
        let shared = &self.shared;
        if shared.marks.lock().durable.index == 0 {
            let (state, group) = (shared.state.clone(), shared.group);
            let done = polity_store::blocking(move || state.checkpoint()).await;
            let done = done.map_err(io::Error::other)?.map_err(io::Error::other)?;
            if let Some(mark) = done.marks.get(&group) {
                shared.made_durable(*mark);
            }
        }
        let mut marks = shared.marks.lock();
        let meta = marks.meta();
        // Only the membership in force at the snapshot and later ones are needed.
        let at = meta.last_membership.log_id().to_owned();
        marks.memberships.retain(|m| *m.log_id() >= at);
        Ok(Snapshot { meta, snapshot: SnapshotRows::Here(marks.durable) })
    }
}
