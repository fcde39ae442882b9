//! This node's member of one Raft group.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, LinearizableReadError, RaftError};
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::vote::RaftLeaderId;
use openraft::{Config, Instant as _, LogIdOptionExt, ReadPolicy, ServerState, SnapshotPolicy};
use parking_lot::Mutex;
use polity_base::planted::{Bug, planted};
use polity_base::time::HybridClock;
use polity_base::{Batch, NodeId, RangeId, Timestamp};
use polity_store::log::Log;
use polity_store::state::{AppliedMark, State};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::contacts::Contacts;
use crate::decide::Questions;
use crate::error::Error;
use crate::log_store::LogStore;
use crate::machine::{Machine, Shared};
use crate::metrics::{GroupMetrics, add};
use crate::network::{Links, Network, NoPeers, Request, Response};
use crate::proposer::{GroupRaft, Proposer};
use crate::types::{Peer, StoredMembership, Types, stored_index};

pub use crate::proposer::Packing;

/// How long an orderly stop waits for what is on its way.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// How a group is set up.
pub struct GroupOptions {
    /// The members that vote when the group is founded; they are all founded with
    /// the same ones. Ignored once the group exists. Empty: this node alone.
    pub founders: BTreeMap<NodeId, Peer>,
    /// The way to the other members.
    pub network: Arc<dyn Network>,
    /// How batches are packed.
    pub packing: Packing,
    /// Applied entries to keep in the log for members that lag behind.
    pub keep_entries: u64,
    /// How often a leader tells its followers that it is there. Longer than a message
    /// and its answer take between the members that are farthest apart.
    pub heartbeat: Duration,
    /// Instead of founding a group, waits to be made a member of one.
    pub join: bool,
    /// How long a caller waits for a leader before it is refused.
    pub refuse_after: Duration,
}

impl Default for GroupOptions {
    fn default() -> GroupOptions {
        GroupOptions {
            founders: BTreeMap::new(),
            network: Arc::new(NoPeers),
            packing: Packing::default(),
            keep_entries: 0,
            heartbeat: Duration::from_millis(250),
            join: false,
            refuse_after: Duration::from_secs(2),
        }
    }
}

/// Says whether a batch may be ordered now: where the locks of the group's leader are
/// kept, a batch can ask for them on its way instead of before it.
pub trait Admission: Send + Sync + 'static {
    /// Takes what `batch` claims, until the result is dropped: when it is decided. None:
    /// somebody else has it.
    fn admit(&self, batch: &Batch, claim: &Bytes) -> Option<Box<dyn Send>>;
}

/// This node's member of one Raft group. Clones are the same member.
#[derive(Clone)]
pub struct Group {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub id: RangeId,
    pub node: NodeId,
    pub raft: GroupRaft,
    pub links: Links,
    pub questions: Questions,
    pub refuse_after: Duration,
    /// Without an answer of a majority for so long, a leader is none
    pub lease: Duration,
    /// Until when this member votes for nobody; none if it never voted before
    silent_until: Option<Instant>,
    pub server: openraft::type_config::alias::WatchReceiverOf<Types, RaftServerMetrics<Types>>,
    pub shared: Shared,
    pub proposer: Proposer,
    pub admission: OnceLock<Arc<dyn Admission>>,
    pub stopped: AtomicBool,
    /// Resolves when nothing is applied any more.
    machine_gone: Mutex<Option<oneshot::Receiver<()>>>,
}

/// What an operator wants to know of a group.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The range
    pub id: RangeId,
    /// Whether this member leads
    pub leads: bool,
    /// Who leads, as far as this member knows
    pub leader: Option<NodeId>,
    /// The term
    pub term: u64,
    /// The last index of the log, counted from 1
    pub last_index: u64,
    /// The last applied index, counted from 1
    pub applied_index: u64,
    /// The last purged index, counted from 1
    pub purged_index: u64,
    /// Who votes
    pub voters: Vec<NodeId>,
    /// Whether this member knows of a change of who votes that is not known to be
    /// finished: until then a majority of those who voted before counts too
    pub changing: bool,
    /// All members, by number
    pub members: Vec<MemberStatus>,
    /// How long ago a majority last answered this member as its leader
    pub heard: Option<Duration>,
    /// Why the member stopped, if it did
    pub failure: Option<String>,
}

/// What an operator wants to know of a member of a group.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// The node
    pub node: NodeId,
    /// Where it is
    pub peer: Peer,
    /// Whether it votes
    pub votes: bool,
    /// The last index of its log that agrees with the leader's; known to the leader
    pub matched_index: Option<u64>,
}

impl Group {
    /// Starts the member of group `id` on this `node`, from what `log` and `state`
    /// hold of it. A node that is the only voter leads, and has applied all it ever
    /// acknowledged, when this returns.
    pub async fn start(
        id: RangeId,
        node: NodeId,
        log: Log,
        state: Arc<State>,
        clock: Arc<HybridClock>,
        options: GroupOptions,
    ) -> Result<Group, Error> {
        let failed = |reason: String| Error::Start { range: id, reason };
        let metrics = Arc::new(GroupMetrics::default());
        let store = LogStore::open(id, log, metrics.clone()).map_err(|e| failed(e.to_string()))?;
        let shared = Shared::open(id, state, store.clone(), clock.clone(), metrics.clone())
            .map_err(|e| failed(e.to_string()))?;
        let (machine, machine_gone) = Machine::new(shared.clone());
        let contacts = Arc::new(Contacts::new(clock.clone()));
        let links = Links::new(options.network.clone(), contacts, shared.clone());
        let known = shared.membership();
        links.contacts.follow(&known);
        let mut config = config(id, &options).map_err(failed)?;
        let lease = Duration::from_millis(config.election_timeout_max);
        // A voter that answered a leader promised to elect nobody else for the time of
        // a lease, and has forgotten when that was.
        let promised = known.voter_ids().any(|voter| voter == node) && !sole_voter(&known, node);
        let silent_until = promised.then(|| Instant::now() + lease);
        config.enable_elect = !promised;
        let raft = GroupRaft::new(node, Arc::new(config), links.clone(), store, machine);
        let raft = raft.await.map_err(|e| failed(e.to_string()))?;
        // Until its task has begun it shows a log without entries, whatever is on the disk.
        raft.with_raft_state(|_| ()).await.map_err(|e| failed(e.to_string()))?;

        let proposer = Proposer::new(id, options.packing, clock, metrics);
        proposer.open(raft.clone());
        let inner = Inner {
            id,
            node,
            links,
            questions: Questions::default(),
            refuse_after: options.refuse_after,
            lease,
            silent_until,
            server: raft.server_metrics(),
            raft,
            shared,
            proposer,
            admission: OnceLock::new(),
            stopped: AtomicBool::new(false),
            machine_gone: Mutex::new(Some(machine_gone)),
        };
        let group = Group { inner: Arc::new(inner) };
        group.watch_for_failure();
        group.follow_membership();
        group.campaign_later();
        if options.join {
            return Ok(group);
        }
        if let Err(error) = group.found_or_rejoin(options.founders).await {
            group.shutdown().await;
            return Err(error);
        }
        Ok(group)
    }

    /// Has claims of batches judged, from now on. Without it, and once it was called, all
    /// that comes later changes nothing.
    pub fn admit_by(&self, admission: Arc<dyn Admission>) {
        let _ = self.inner.admission.set(admission);
    }

    async fn found_or_rejoin(&self, mut founders: BTreeMap<NodeId, Peer>) -> Result<(), Error> {
        let raft = &self.inner.raft;
        let failed = |reason: String| Error::Start { range: self.inner.id, reason };
        let founded = !raft.is_initialized().await.map_err(|e| failed(e.to_string()))?;
        if founded {
            if founders.is_empty() {
                founders.insert(self.inner.node, Peer::default());
            }
            match raft.initialize(founders).await {
                // Another founder was faster, and its entries are here already.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        let ready = |now: &RaftMetrics<Types>| leads_alone(now, self.inner.node) && caught_up(now);
        let now = self.wait_until(|now| now.membership_config.log_id().is_some()).await?;
        if sole_voter(&now.membership_config, self.inner.node) {
            // Nobody else could win, so there is no reason to wait for a timeout; a new
            // group has called its first election already.
            if !founded {
                raft.trigger().elect(false).await.map_err(|e| failed(e.to_string()))?;
            }
            self.wait_until(ready).await?;
        }
        Ok(())
    }

    /// Waits for openraft to be where a start wants it.
    async fn wait_until(&self, there: impl Fn(&RaftMetrics<Types>) -> bool) -> Result<RaftMetrics<Types>, Error> {
        let failed = |reason: String| Error::Start { range: self.inner.id, reason };
        let mut metrics = self.inner.raft.metrics();
        loop {
            {
                let now = metrics.borrow_watched();
                now.running_state.as_ref().map_err(|e| failed(e.to_string()))?;
                if there(&now) {
                    return Ok(now.clone());
                }
            }
            metrics.changed().await.map_err(|_| failed("its task ended".to_string()))?;
        }
    }

    pub(crate) fn lost(&self) -> Error {
        let reason = self.failure().unwrap_or_else(|| "the member stopped".to_string());
        Error::OutcomeUnknown { range: self.inner.id, reason }
    }

    /// A timestamp such that everything acknowledged before the call, by whichever
    /// member, is at or below it and applied here.
    ///
    /// Alone, a leader answers at once from memory. That is right because:
    /// - *It still leads.* A new leader needs the vote of a majority of the voters in
    ///   force, which includes this node as long as it is the only one. Voters change
    ///   by two entries (joint consensus) that this leader itself must append, each in
    ///   its own turn of openraft's loop, and each turn begins by publishing the
    ///   membership read here. So before anyone else can have been elected, this
    ///   membership no longer names a sole voter.
    /// - *Everything acknowledged is applied here.* This leader acknowledges a batch
    ///   after applying it. What an earlier leader acknowledged stands before the
    ///   first entry of this leader's term, which is applied once any entry of this
    ///   term is. A restart begins a new term, so this also covers entries this node
    ///   acknowledged in an earlier life.
    ///
    /// With more voters the leader asks openraft, which answers from its lease or
    /// from a round of heartbeats; others ask the leader, and wait until they have
    /// applied what it names. All who ask at the same time share one question.
    pub async fn read_barrier(&self) -> Result<Timestamp, Error> {
        let inner = &self.inner;
        if inner.stopped.load(Ordering::Acquire) {
            return Err(self.is_stopped());
        }
        let unconfirmed = planted(Bug::SkipLeaderConfirmation);
        if unconfirmed || self.leads_alone_and_is_current() {
            add(&inner.shared.metrics.barriers, 1);
            return Ok(inner.shared.progress.commit());
        }
        self.shared_barrier().await
    }

    pub(crate) fn leads_alone_and_is_current(&self) -> bool {
        let inner = &self.inner;
        let server = inner.server.borrow_watched();
        server.state == ServerState::Leader
            && server.vote.is_committed()
            && *server.vote.leader_id().node_id() == inner.node
            && server.vote.leader_id().term() == inner.shared.progress.term()
            && sole_voter(&server.membership_config, inner.node)
    }

    pub(crate) async fn slow_barrier(&self) -> Result<Timestamp, Error> {
        let inner = &self.inner;
        add(&inner.shared.metrics.slow_barriers, 1);
        if planted(Bug::ReadAfterLease) && inner.server.borrow_watched().state == ServerState::Leader {
            return Ok(inner.shared.progress.commit());
        }
        let asked = match inner.raft.get_read_linearizer(ReadPolicy::LeaseRead).await {
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                inner.raft.get_read_linearizer(ReadPolicy::ReadIndex).await
            }
            answer => answer,
        };
        let linearizer = asked.map_err(|error| self.cannot_read(error))?;
        let stopped = |e: openraft::errors::Fatal<Types>| self.stopped_by(e.to_string());
        linearizer.await_ready(&inner.raft).await.map_err(stopped)?;
        Ok(inner.shared.progress.commit())
    }

    fn cannot_read(&self, error: RaftError<Types, LinearizableReadError<Types>>) -> Error {
        let range = self.inner.id;
        match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => {
                Error::NotLeader { range, leader: to.leader_id }
            }
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => self.no_quorum(),
            RaftError::Fatal(fatal) => self.stopped_by(fatal.to_string()),
        }
    }

    /// Who leads the group, as far as this member knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.server.borrow_watched().current_leader
    }

    /// The timestamp of the last batch applied here, with no promise about others.
    pub fn applied(&self) -> Timestamp {
        self.inner.shared.progress.commit()
    }

    /// Answers what another member asks.
    pub async fn answer(&self, request: Request) -> Result<Response, Error> {
        let raft = &self.inner.raft;
        if matches!(request, Request::Vote(_) | Request::PreVote(_)) && self.keeps_silent() {
            return Err(Error::Silent { range: self.inner.id });
        }
        let answered = match request {
            Request::Append(rpc) => raft.append_entries(rpc).await.map(Response::Append),
            Request::Vote(rpc) => raft.vote(rpc).await.map(Response::Vote),
            Request::PreVote(rpc) => raft.pre_vote(rpc).await.map(Response::Vote),
            Request::TransferLeader(rpc) => {
                return raft
                    .handle_transfer_leader(rpc)
                    .await
                    .map(Response::TransferLeader)
                    .map_err(|e| self.stopped_by(e.to_string()));
            }
            Request::Stage { transfer, number, chunk } => return self.stage(transfer, number, chunk).await,
            Request::Install { vote, meta, transfer } => return self.install(vote, meta, transfer).await,
            Request::Propose(batch) => return Ok(Response::Proposed(self.proposed(batch, None).await)),
            Request::ProposeIfFree { batch, claim } => {
                return Ok(Response::Proposed(self.proposed(batch, Some(claim)).await));
            }
            Request::Barrier => return Ok(Response::Barrier(self.asked_for_barrier().await)),
        };
        answered.map_err(|e| self.stopped_by(e.to_string()))
    }

    /// Lets the log be purged up to `mark`, at which the state was made durable.
    pub async fn compact(&self, mark: AppliedMark) -> Result<(), Error> {
        let inner = &self.inner;
        inner.shared.made_durable(mark);
        add(&inner.shared.metrics.checkpoints, 1);
        if inner.shared.sending.load(Ordering::Acquire) > 0 {
            // Who is sent rows goes on from the log where they end.
            return Ok(());
        }
        inner.raft.trigger().snapshot().await.map_err(|e| self.stopped_by(e.to_string()))
    }

    /// Stops the member: takes no more batches, lets those on their way end, and
    /// returns when nothing is applied any more. The state is not made durable here.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.stopped.store(true, Ordering::Release);
        let closed = inner.proposer.close("the node is stopping");
        if tokio::time::timeout(STOP_PATIENCE, closed).await.is_err() {
            tracing::warn!(range = %inner.id, "batches are on their way and do not end; stopping without them");
        }
        // The error says only that openraft's task panicked, which it logged.
        let _ = inner.raft.shutdown().await;
        let gone = inner.machine_gone.lock().take();
        if let Some(gone) = gone {
            // Ends with an error when the machine is dropped: that is the signal.
            let _ = gone.await;
        }
    }

    /// For how long a leader that a majority has answered may answer reads alone.
    pub fn lease(&self) -> Duration {
        self.inner.lease
    }

    /// The range this is a member of.
    pub fn id(&self) -> RangeId {
        self.inner.id
    }

    /// Its figures.
    pub fn metrics(&self) -> &GroupMetrics {
        &self.inner.shared.metrics
    }

    /// Where it stands.
    pub fn status(&self) -> GroupStatus {
        let receiver = self.inner.raft.metrics();
        let now = receiver.borrow_watched();
        let membership = now.membership_config.membership();
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let matched = |node: &NodeId| match &now.replication {
            Some(_) if *node == self.inner.node => Some(now.last_log_index.map_or(0, |i| i + 1)),
            Some(progress) => Some(progress.get(node)?.as_ref().map_or(0, |at| stored_index(at.index))),
            None => None,
        };
        let member = |(node, peer): (&NodeId, &Peer)| MemberStatus {
            node: *node,
            peer: peer.clone(),
            votes: voters.contains(node),
            matched_index: matched(node),
        };
        let members = membership.nodes().map(member).collect();
        GroupStatus {
            id: self.inner.id,
            leads: now.state == ServerState::Leader,
            leader: now.current_leader,
            term: now.current_term,
            last_index: now.last_log_index.map_or(0, |i| i + 1),
            applied_index: now.last_applied.next_index(),
            purged_index: now.purged.next_index(),
            members,
            voters,
            changing: membership.get_joint_config().len() > 1
                || now.membership_config != now.committed_membership_config,
            heard: now.last_quorum_acked.as_ref().map(|at| at.elapsed()),
            failure: now.running_state.as_ref().err().map(|e| e.to_string()).or_else(|| self.failure_of_rows()),
        }
    }

    fn failure_of_rows(&self) -> Option<String> {
        self.inner.shared.state.observe_failure().borrow().as_ref().map(ToString::to_string)
    }

    fn failure(&self) -> Option<String> {
        self.status().failure
    }

    pub(crate) fn is_stopped(&self) -> Error {
        self.stopped_by("the member stopped".to_string())
    }

    pub(crate) fn stopped_by(&self, reason: String) -> Error {
        Error::Stopped { range: self.inner.id, reason: self.failure().unwrap_or(reason) }
    }

    /// Keeps in mind who belongs to the group, and where they are.
    fn follow_membership(&self) {
        let (mut server, contacts) = (self.inner.server.clone(), self.inner.links.contacts.clone());
        tokio::spawn(async move {
            loop {
                contacts.follow(&server.borrow_watched().membership_config);
                if server.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Whether this member must not vote yet. Until then a leader may answer reads
    /// alone, trusting in what this member promised before it was restarted.
    fn keeps_silent(&self) -> bool {
        self.inner.silent_until.is_some_and(|until| Instant::now() < until)
    }

    /// Lets this member call elections once it may vote.
    fn campaign_later(&self) {
        let (Some(until), raft) = (self.inner.silent_until, self.inner.raft.clone()) else { return };
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            raft.runtime_config().elect(true);
        });
    }

    /// Waits until this member cannot go on, because the log or the state failed, and
    /// gives the reason. Only a restart mends it.
    pub fn failed(&self) -> impl Future<Output = String> + use<> {
        let (mut metrics, mut rows) = (self.inner.raft.metrics(), self.inner.shared.state.observe_failure());
        async move {
            loop {
                if let Err(fatal) = &metrics.borrow_watched().running_state {
                    return fatal.to_string();
                }
                // Who applies nothing meets it never: a checkpoint did, or rows of others.
                if let Some(error) = &*rows.borrow_and_update() {
                    return error.to_string();
                }
                let ended = tokio::select! {
                    changed = metrics.changed() => changed.is_err(),
                    changed = rows.changed() => changed.is_err(),
                };
                if ended {
                    return "its task ended".to_string();
                }
            }
        }
    }

    /// Closes the doors when openraft stops by itself.
    fn watch_for_failure(&self) {
        let (failed, proposer, weak) = (self.failed(), self.inner.proposer.clone(), Arc::downgrade(&self.inner));
        tokio::spawn(async move {
            let reason = failed.await;
            if let Some(inner) = weak.upgrade() {
                inner.stopped.store(true, Ordering::Release);
            }
            proposer.close(&reason).await;
        });
    }
}

fn sole_voter(membership: &StoredMembership, node: NodeId) -> bool {
    let [voters] = membership.get_joint_config().as_slice() else { return false };
    voters.len() == 1 && voters.contains(&node)
}

fn leads_alone(metrics: &RaftMetrics<Types>, node: NodeId) -> bool {
    metrics.state == ServerState::Leader && sole_voter(&metrics.membership_config, node)
}

fn caught_up(metrics: &RaftMetrics<Types>) -> bool {
    metrics.last_applied.index() == metrics.last_log_index
        && metrics.last_applied.is_some_and(|at| *at.leader_id == metrics.current_term)
}

fn config(id: RangeId, options: &GroupOptions) -> Result<Config, String> {
    let heartbeat = options.heartbeat.as_millis().max(1) as u64;
    let config = Config {
        cluster_name: id.to_string(),
        heartbeat_interval: heartbeat,
        // A member campaigns after the lease (which is the longest timeout) and its own
        // timeout: between 4.8 and 6 heartbeats after the last one it saw. So a leader is
        // replaced within 1.5 s by default, and four heartbeats in a row may be lost.
        election_timeout_min: heartbeat * 9 / 5,
        election_timeout_max: heartbeat * 3,
        // A restarted leader campaigns again: its first entry in the new term is what
        // the read barrier recognises that all earlier ones are applied by.
        enable_leader_restore: Some(false),
        enable_pre_vote: Some(true),
        // Snapshots are checkpoints, which the node takes for all groups at once.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: options.keep_entries,
        ..Config::default()
    };
    config.validate().map_err(|e| e.to_string())
}
