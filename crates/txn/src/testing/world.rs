//! Several nodes in one process: their replicas, clocks and locks, and the faults
//! between them, without log, disk or links.
//!
//! One node leads, as the test says. It orders the batches; every node applies
//! them in that order by itself, at once or, when it is made to lag, when a read
//! or a commit of its own makes it catch up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use polity_base::seams::{ClockSource, Seams, unique_id};
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{Batch, NodeId, RangeId, Span, Timestamp};

use super::MemoryReplica;
use super::eventual::{self, Kept};
use crate::eventual::{EventualReplica, Schema, VersionVector};
use crate::locks::{CallFailed, Claim, LockNetwork, LockQuestion, LockRequest, LockResponse, LockServer};
use crate::replica::{Change, Outcome, Replica, Snapshot};
use crate::{Contested, Database, Directory, Error, Options, Outage};

/// Which questions about locks are lost on their way.
pub type Losing = fn(&LockQuestion) -> bool;

/// Nodes 1, 2, 3 and so on; the first leads until the test says otherwise. Clones
/// are the same world.
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

struct Shared {
    /// Nanoseconds since 1970, by which no node's clock need go
    time: Arc<AtomicU64>,
    state: Mutex<State>,
    lease: Duration,
}

#[derive(Default)]
struct State {
    leader: NodeId,
    nodes: BTreeMap<NodeId, Node>,
    log: Vec<(Timestamp, Batch)>,
    /// Reach nobody, and are reached by nobody
    cut: BTreeMap<NodeId, Timestamp>,
    lagging: BTreeSet<NodeId>,
    losing: Option<Losing>,
    runs: u64,
}

struct Node {
    rows: MemoryReplica,
    applied: usize,
    clock: Arc<HybridClock>,
    server: Option<LockServer>,
    eventual: Option<Kept>,
}

/// What a program above a database is opened with.
pub struct Site {
    /// The node's database
    pub database: Database,
    /// Its time and entropy
    pub seams: Seams,
    /// Its clock
    pub clock: Arc<HybridClock>,
}

/// The world's time and so many nanoseconds more or less.
struct SkewedClock {
    time: Arc<AtomicU64>,
    skew: i64,
}

impl ClockSource for SkewedClock {
    fn read(&self) -> ClockReading {
        // No two readings are the same, as with a real clock.
        let now = Timestamp((self.time.fetch_add(1, Ordering::SeqCst)).saturating_add_signed(self.skew));
        ClockReading { earliest: now, latest: now }
    }
}

impl World {
    /// A world without nodes, in which locks are leased for so long.
    pub fn new(lease: Duration) -> World {
        // Some day of 2026.
        let time = Arc::new(AtomicU64::new(1_790_000_000_000_000_000));
        let state = State { leader: NodeId(1), ..State::default() };
        World { shared: Arc::new(Shared { time, state: Mutex::new(state), lease }) }
    }

    /// Starts a node, or starts it again without what it remembered, with a clock
    /// that is wrong by so many nanoseconds. Its rows stay. Must be called in a
    /// runtime.
    pub fn start(&self, node: NodeId, skew: i64) -> Site {
        let (seams, clock) = self.boot(node, skew);
        self.open(node, seams, clock, self.strong(node))
    }

    /// The same with a replica of the eventual tables, which stays when the node is
    /// started again.
    pub async fn start_with_eventual(&self, node: NodeId, skew: i64, schema: Arc<dyn Schema>) -> Result<Site, Error> {
        let (seams, clock) = self.boot(node, skew);
        let kept = match self.eventual().remove(&node) {
            Some(kept) => kept,
            None => eventual::start(self, node, clock.clone(), seams.entropy.clone(), schema).await?,
        };
        if let Some(known) = self.shared.state.lock().nodes.get_mut(&node) {
            known.eventual = Some(kept.clone());
        }
        let replica = EventualReplica::new(node, kept.replica, kept.state);
        let directory = self.strong(node).with_eventual(RangeId::EVENTUAL, replica);
        Ok(self.open(node, seams, clock, directory))
    }

    fn boot(&self, node: NodeId, skew: i64) -> (Seams, Arc<HybridClock>) {
        let source = Arc::new(SkewedClock { time: self.shared.time.clone(), skew });
        let clock = Arc::new(HybridClock::new(source.clone(), Timestamp::ZERO));
        let seams = Seams { clock: source, entropy: super::seams().entropy };
        let mut state = self.shared.state.lock();
        // Every run draws other numbers.
        state.runs += 1;
        for _ in 0..state.runs * 1_000 {
            unique_id(seams.entropy.as_ref());
        }
        let rows = MemoryReplica::default();
        let new = Node { rows, applied: 0, clock: clock.clone(), server: None, eventual: None };
        let known = state.nodes.entry(node).or_insert(new);
        clock.observe(known.rows.applied());
        known.clock = clock.clone();
        state.catch_up(node);
        (seams, clock)
    }

    fn strong(&self, node: NodeId) -> Directory {
        Directory::of_one(RangeId(1), Arc::new(WorldReplica { world: self.clone(), node }))
    }

    fn open(&self, node: NodeId, seams: Seams, clock: Arc<HybridClock>, directory: Directory) -> Site {
        let options = Options { node, lock_lease: self.shared.lease, ..Options::default() };
        let network = Arc::new(Wire { world: self.clone(), from: node });
        let database = Database::open_among_others(directory, &seams, options, network);
        let server = LockServer::new(&database);
        if let Some(known) = self.shared.state.lock().nodes.get_mut(&node) {
            known.server = Some(server);
        }
        Site { database, seams, clock }
    }

    /// The replicas of the eventual tables.
    pub(super) fn eventual(&self) -> BTreeMap<NodeId, Kept> {
        let state = self.shared.state.lock();
        state.nodes.iter().filter_map(|(node, known)| Some((*node, known.eventual.clone()?))).collect()
    }

    /// Since when `node` is cut off, if it is.
    pub(super) fn cut_since(&self, node: NodeId) -> Option<Timestamp> {
        self.shared.state.lock().cut.get(&node).copied()
    }

    /// Waits until all nodes have applied the same writes to eventual tables.
    pub async fn settle(&self) {
        let vectors = || self.eventual().into_values().map(|kept| kept.replica.vector());
        while vectors().zip(vectors().skip(1)).any(|(a, b)| a != b) {
            let most = vectors().fold(VersionVector::new(), |mut all, one| {
                all.join(&one);
                all
            });
            for kept in self.eventual().into_values() {
                // Whatever is written meanwhile is waited for in the next round.
                let _ = kept.replica.wait_for(&most, Duration::from_secs(30)).await;
            }
        }
    }

    /// Makes `node` lead: it has applied all there is.
    pub fn lead(&self, node: NodeId) {
        let mut state = self.shared.state.lock();
        state.catch_up(node);
        state.leader = node;
    }

    /// Lets time pass.
    pub fn pass(&self, time: Duration) {
        self.shared.time.fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
    }

    /// Cuts a node off from all others.
    pub fn cut(&self, node: NodeId) {
        let now = Timestamp(self.shared.time.load(Ordering::SeqCst));
        self.shared.state.lock().cut.insert(node, now);
    }

    /// Mends all that was cut. Nodes that do not lag learn what was ordered meanwhile.
    pub fn mend(&self) {
        let mut state = self.shared.state.lock();
        state.cut.clear();
        let nodes: Vec<NodeId> = state.nodes.keys().filter(|node| !state.lagging.contains(node)).copied().collect();
        nodes.into_iter().for_each(|node| state.catch_up(node));
    }

    /// From now on `node` applies only what its own reads and commits wait for.
    pub fn lag(&self, node: NodeId) {
        self.shared.state.lock().lagging.insert(node);
    }

    /// From now on these questions about locks are lost.
    pub fn lose(&self, losing: Losing) {
        self.shared.state.lock().losing = Some(losing);
    }

    /// The server of the locks that `node` keeps.
    pub fn lock_server(&self, node: NodeId) -> Option<LockServer> {
        self.shared.state.lock().nodes.get(&node)?.server.clone()
    }

    /// How far `node` has applied what was ordered.
    pub fn applied(&self, node: NodeId) -> Timestamp {
        self.shared.state.lock().nodes.get(&node).map_or(Timestamp::ZERO, |node| node.rows.applied())
    }
}

impl State {
    fn catch_up(&mut self, node: NodeId) {
        let Some(node) = self.nodes.get_mut(&node) else { return };
        for (proposed_at, batch) in &self.log[node.applied..] {
            node.rows.apply(*proposed_at, batch);
        }
        node.applied = self.log.len();
        node.clock.observe(node.rows.applied());
    }

    /// Why `node` cannot reach the leader, if it cannot. A leader that is alone is
    /// none.
    fn outage(&self, node: NodeId) -> Option<Outage> {
        let since = self.cut.get(&node).or_else(|| self.cut.get(&self.leader)).copied()?;
        let unreachable = match self.cut.contains_key(&node) {
            true => self.nodes.keys().copied().filter(|other| *other != node).collect(),
            false => vec![self.leader],
        };
        Some(Outage { why: "too few nodes answer".to_owned(), unreachable, since: Some(since) })
    }

    fn order(&mut self, node: NodeId, batch: Batch) -> Outcome {
        let leader = self.leader;
        self.catch_up(leader);
        let proposed_at = self.nodes.get(&leader).map_or(Timestamp::ZERO, |node| node.clock.now());
        self.log.push((proposed_at, batch.clone()));
        let outcome = match self.nodes.get_mut(&leader) {
            Some(leader) => leader.rows.apply(proposed_at, &batch),
            None => Outcome::TooOld,
        };
        let length = self.log.len();
        if let Some(leader) = self.nodes.get_mut(&leader) {
            leader.applied = length;
        }
        let others: Vec<NodeId> = self.nodes.keys().copied().collect();
        for other in others {
            let keeps_up = !self.lagging.contains(&other) && !self.cut.contains_key(&other);
            if other == node || keeps_up {
                self.catch_up(other);
            }
        }
        outcome
    }
}

/// The replica of one node.
struct WorldReplica {
    world: World,
    node: NodeId,
}

impl WorldReplica {
    fn rows(&self) -> MemoryReplica {
        let state = self.world.shared.state.lock();
        state.nodes.get(&self.node).map(|node| node.rows.clone()).unwrap_or_default()
    }
}

#[async_trait]
impl Replica for WorldReplica {
    async fn read_timestamp(&self) -> Result<Timestamp, Error> {
        tokio::task::yield_now().await;
        let mut state = self.world.shared.state.lock();
        if let Some(outage) = state.outage(self.node) {
            return Err(Error::Unavailable(outage));
        }
        state.catch_up(self.node);
        Ok(state.nodes.get(&self.node).map_or(Timestamp::ZERO, |node| node.rows.applied()))
    }

    fn leader(&self) -> Option<NodeId> {
        Some(self.world.shared.state.lock().leader)
    }

    fn has_peers(&self) -> bool {
        self.world.shared.state.lock().nodes.len() > 1
    }

    fn applied(&self) -> Timestamp {
        self.rows().applied()
    }

    fn oldest(&self) -> Timestamp {
        Timestamp::ZERO
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, Error> {
        self.rows().snapshot()
    }

    async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        // Others run between the read and the write, as they would with a log.
        tokio::task::yield_now().await;
        let mut state = self.world.shared.state.lock();
        match state.outage(self.node) {
            Some(outage) => Err(Error::Unavailable(outage)),
            None => Ok(state.order(self.node, batch)),
        }
    }

    async fn commit_if_free(&self, batch: Batch, claim: Claim) -> Result<Outcome, Error> {
        let keeper = self.leader().and_then(|leader| self.world.lock_server(leader));
        let _held = match keeper.map(|keeper| keeper.take(batch.author, &claim)) {
            Some(None) => return Err(Error::Conflict(Contested::Lock)),
            held => held,
        };
        self.commit(batch).await
    }

    fn changed_since(&self, span: &Span, since: Timestamp) -> Change {
        self.rows().changed_since(span, since)
    }

    fn last_write(&self, key: &[u8]) -> Result<Option<Timestamp>, Error> {
        self.rows().last_write(key)
    }
}

/// The way to the locks of others, as one node sees it.
struct Wire {
    world: World,
    from: NodeId,
}

#[async_trait]
impl LockNetwork for Wire {
    async fn call(&self, to: NodeId, request: LockRequest) -> Result<LockResponse, CallFailed> {
        let server = {
            let state = self.world.shared.state.lock();
            if state.cut.contains_key(&self.from) || state.cut.contains_key(&to) {
                return Err(CallFailed { to, why: "no route".to_owned() });
            }
            if state.losing.is_some_and(|losing| losing(&request.question)) {
                return Err(CallFailed { to, why: "lost".to_owned() });
            }
            state.nodes.get(&to).and_then(|node| node.server.clone())
        };
        match server {
            Some(server) => Ok(server.answer(self.from, request).await),
            None => Err(CallFailed { to, why: "nobody is there".to_owned() }),
        }
    }
}
