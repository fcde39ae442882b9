//! A cluster of replicas in one seeded process: disks in memory, a network that cuts,
//! loses, delays and doubles, and time that jumps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use polity_base::key::KeyBuilder;
use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{
    Batch, Bounds, ColumnChange, ColumnId, Guarantee, IndexId, Key, NodeId, Operation, RowChange, Span, Timestamp,
    Value,
};
use polity_store::disk::{Crash, MemoryDisk};
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{State, StateOptions};
use tokio::time::{Instant, sleep};

use crate::replica::{CallFailed, Departure, Limits, Members, NoIndexes, Options, Peers, Replica, Schema, Traffic};
use crate::row::RowState;
use crate::{Error, VersionVector};

/// The columns of the tests' rows.
pub const NAME: ColumnId = ColumnId(1);
pub const STOCK: ColumnId = ColumnId(2);
pub const TAGS: ColumnId = ColumnId(3);
pub const LIKES: ColumnId = ColumnId(4);

/// The bounds of a stock.
pub const STOCKED: Bounds = Bounds { lower: Some(0), upper: None };

/// Chances, all from one seed (SplitMix64).
#[derive(Clone)]
pub struct Chance(Arc<Mutex<u64>>);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(Arc::new(Mutex::new(seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(1))))
    }

    /// A number below `limit`.
    pub fn below(&self, limit: u64) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit.max(1)
    }

    /// True once in so many times.
    pub fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }
}

impl Entropy for Chance {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill_with(|| self.below(256) as u8);
    }
}

/// A node's clock: the world's time, a little off.
struct SkewedClock {
    begun: Instant,
    skew_us: u64,
}

impl ClockSource for SkewedClock {
    fn read(&self) -> ClockReading {
        let now = Timestamp(1_000_000_000 + self.begun.elapsed().as_nanos() as u64 + self.skew_us * 1000);
        ClockReading { earliest: now, latest: now }
    }
}

/// What the network does to messages.
#[derive(Clone, Copy, Default)]
pub struct Weather {
    /// One in so many requests or answers is lost; 0: none
    pub loss: u64,
    /// One in so many requests arrives twice; 0: none
    pub double: u64,
    /// Messages take up to this long
    pub delay: Duration,
}

/// The network and the strong range, as the replicas see them.
pub struct Net {
    chance: Chance,
    pub weather: Mutex<Weather>,
    replicas: Mutex<BTreeMap<NodeId, Replica>>,
    /// Pairs that cannot reach each other, the lower first
    cuts: Mutex<BTreeSet<(NodeId, NodeId)>>,
    pub members: Mutex<Members>,
    /// Bytes of requests and answers
    pub bytes: Mutex<u64>,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

struct Way {
    net: Arc<Net>,
    node: NodeId,
}

impl Way {
    async fn travel(&self, to: NodeId) -> Result<(), CallFailed> {
        let weather = *self.net.weather.lock();
        let delay = weather.delay.as_micros() as u64;
        if delay > 0 {
            sleep(Duration::from_micros(self.net.chance.below(delay))).await;
        }
        if self.net.cuts.lock().contains(&pair(self.node, to)) {
            return Err(CallFailed(format!("{} is cut from {to}", self.node)));
        }
        if weather.loss > 0 && self.net.chance.one_in(weather.loss) {
            sleep(Duration::from_secs(3)).await;
            return Err(CallFailed("lost".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl Peers for Way {
    fn members(&self) -> Members {
        self.net.members.lock().clone()
    }

    fn unreachable_since(&self, node: NodeId) -> Option<Timestamp> {
        self.net.cuts.lock().contains(&pair(self.node, node)).then_some(Timestamp(1))
    }

    async fn call(&self, node: NodeId, _: Traffic, request: Bytes) -> Result<Bytes, CallFailed> {
        self.travel(node).await?;
        let replica = self.net.replicas.lock().get(&node).cloned();
        let replica = replica.ok_or_else(|| CallFailed(format!("{node} is down")))?;
        *self.net.bytes.lock() += request.len() as u64;
        let twice = self.net.weather.lock().double;
        if twice > 0 && self.net.chance.one_in(twice) {
            let (replica, request, from) = (replica.clone(), request.clone(), self.node);
            tokio::spawn(async move {
                let _ = replica.answer(from, request).await;
            });
        }
        // As the links have it: the answer is computed even if nobody waits any more.
        let from = self.node;
        let answering = tokio::spawn(async move { replica.answer(from, request).await });
        let answer = answering.await.map_err(|e| CallFailed(e.to_string()))?;
        let answer = answer.map_err(|e| CallFailed(e.to_string()))?;
        *self.net.bytes.lock() += answer.len() as u64;
        self.travel(node).await?;
        Ok(answer)
    }
}

/// One node.
pub struct Node {
    pub disk: MemoryDisk,
    pub replica: Replica,
    pub state: Arc<State>,
    pub log: Log,
}

/// A cluster.
pub struct World {
    pub seed: u64,
    pub chance: Chance,
    pub net: Arc<Net>,
    pub nodes: BTreeMap<NodeId, Node>,
    pub limits: Limits,
    pub schema: Arc<dyn Schema>,
    begun: Instant,
    batches: u128,
}

/// The master key of every node in tests.
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

impl World {
    /// A cluster of so many nodes, none of which holds anything.
    pub async fn new(seed: u64, nodes: u64) -> World {
        let limits = Limits { upkeep_every: Duration::from_millis(300), ..Limits::default() };
        World::with(seed, nodes, limits, Arc::new(NoIndexes)).await
    }

    pub async fn with(seed: u64, nodes: u64, limits: Limits, schema: Arc<dyn Schema>) -> World {
        let chance = Chance::new(seed);
        let all: BTreeSet<NodeId> = (1..=nodes).map(NodeId).collect();
        let net = Arc::new(Net {
            chance: chance.clone(),
            weather: Mutex::default(),
            replicas: Mutex::default(),
            cuts: Mutex::default(),
            members: Mutex::new(Members { nodes: all.clone(), removed: BTreeMap::new() }),
            bytes: Mutex::new(0),
        });
        let (begun, nodes) = (Instant::now(), BTreeMap::new());
        let mut world = World { seed, chance, net, nodes, limits, schema, begun, batches: 0 };
        for node in all {
            world.start(node, MemoryDisk::new(seed + node.0), false).await.unwrap();
        }
        world
    }

    /// Opens what a node keeps on a disk.
    pub async fn open(&self, node: NodeId, disk: &MemoryDisk) -> Result<(Log, Arc<State>), Error> {
        let entropy: Arc<dyn Entropy> = Arc::new(Chance::new(self.seed + node.0 * 1000));
        let shared: Arc<dyn polity_store::Disk> = Arc::new(disk.clone());
        let keys = Keyring::open(&*shared, &MasterKey::from_hex(KEY, "the test")?, &*entropy)?;
        let log_options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
        let (log, _) = Log::open(shared.clone(), &keys, entropy.clone(), log_options).await?;
        let options = StateOptions { retention: Duration::from_secs(1), ..StateOptions::default() };
        Ok((log, Arc::new(State::open(shared, &keys, entropy, options)?)))
    }

    /// Starts a node on a disk.
    pub async fn start(&mut self, node: NodeId, disk: MemoryDisk, joins: bool) -> Result<(), Error> {
        let (log, state) = self.open(node, &disk).await?;
        let source = SkewedClock { begun: self.begun, skew_us: node.0 * 317 % 1000 };
        let clock = Arc::new(HybridClock::new(Arc::new(source), Timestamp::ZERO));
        let peers = Arc::new(Way { net: self.net.clone(), node });
        let replica = Replica::start(Options {
            node,
            log: log.clone(),
            state: state.clone(),
            clock,
            peers,
            schema: self.schema.clone(),
            joins,
            limits: self.limits.clone(),
        })
        .await?;
        self.net.replicas.lock().insert(node, replica.clone());
        self.nodes.insert(node, Node { disk, replica, state, log });
        Ok(())
    }

    /// Stops a node's machine, and starts it again on what the crash left.
    pub async fn crash(&mut self, node: NodeId, crash: Crash) {
        let disk = self.halt(node, crash).await;
        self.start(node, disk, false).await.unwrap();
    }

    /// Stops a node's machine; what its disk holds then.
    pub async fn halt(&mut self, node: NodeId, crash: Crash) -> MemoryDisk {
        self.net.replicas.lock().remove(&node);
        let old = self.nodes.remove(&node).unwrap();
        let disk = old.disk.restart(crash);
        old.replica.shutdown().await;
        old.log.close().await;
        disk
    }

    pub fn replica(&self, node: u64) -> &Replica {
        &self.nodes[&NodeId(node)].replica
    }

    /// Cuts the nodes of one side from all others.
    pub fn cut(&self, side: &[u64]) {
        let all = self.net.members.lock().nodes.clone();
        let inside: BTreeSet<NodeId> = side.iter().copied().map(NodeId).collect();
        let mut cuts = self.net.cuts.lock();
        for a in all.iter().filter(|n| inside.contains(n)) {
            cuts.extend(all.iter().filter(|n| !inside.contains(n)).map(|b| pair(*a, *b)));
        }
    }

    /// Cuts two nodes from each other.
    pub fn cut_pair(&self, a: u64, b: u64) {
        self.net.cuts.lock().insert(pair(NodeId(a), NodeId(b)));
    }

    pub fn heal(&self) {
        self.net.cuts.lock().clear();
    }

    pub fn depart(&self, node: u64, departure: Departure) {
        let mut members = self.net.members.lock();
        members.nodes.remove(&NodeId(node));
        members.removed.insert(NodeId(node), departure);
    }

    /// Lets time pass until all replicas have the same vector, or panics.
    pub async fn settle(&self) {
        self.settled().await.unwrap();
    }

    /// Lets time pass until all replicas have the same vector.
    pub async fn settled(&self) -> Result<(), String> {
        for _ in 0..600 {
            let vectors: Vec<VersionVector> = self.nodes.values().map(|node| node.replica.vector()).collect();
            if vectors.windows(2).all(|pair| pair[0] == pair[1]) {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        let vectors: Vec<String> = self.nodes.values().map(|node| node.replica.vector().to_string()).collect();
        Err(format!("seed {}: replicas do not come together: {vectors:#?}", self.seed))
    }

    /// A batch of changes.
    pub fn batch(&mut self, changes: Vec<(Key, RowChange)>) -> Batch {
        self.batches += 1;
        let operations = changes.into_iter().map(|(key, change)| Operation::Change { key, change }).collect();
        Batch { id: self.batches, author: NodeId(1), preconditions: Vec::new(), operations }
    }

    pub async fn commit(&mut self, node: u64, changes: Vec<(Key, RowChange)>) -> Result<Timestamp, Error> {
        let batch = self.batch(changes);
        self.replica(node).clone().commit(batch, 1).await
    }

    /// The state of a row on a node, as readers see it.
    pub fn row(&self, node: u64, key: &Key) -> RowState {
        let node = &self.nodes[&NodeId(node)];
        let (reader, at) = (node.state.snapshot().unwrap(), node.replica.applied());
        let get = |key: &Key| reader.get(key, at).unwrap().map(|(value, _)| value);
        let (visible, trace) = (get(key), get(&polity_base::guarantee::merging_key(key)));
        RowState::load(visible.as_deref(), trace.as_deref()).unwrap()
    }

    /// All rows of a node, as readers see them.
    pub fn rows(&self, node: u64) -> BTreeMap<Key, Bytes> {
        visible(&self.nodes[&NodeId(node)])
    }
}

pub fn visible(node: &Node) -> BTreeMap<Key, Bytes> {
    let reader = node.state.snapshot().unwrap();
    let mut scan = reader.scan(&Span::of_index(table()), node.replica.applied()).unwrap();
    std::iter::from_fn(|| scan.next().unwrap()).collect()
}

/// The storage of the tests' table.
pub fn table() -> IndexId {
    Guarantee::Eventual.storage(20_000)
}

pub fn key(n: i64) -> Key {
    let mut key = KeyBuilder::new(table());
    key.push(&Value::Int8(n)).unwrap();
    key.finish()
}

pub fn text(value: &str) -> ColumnChange {
    ColumnChange::Set(Value::Text(value.into()))
}

pub fn stock(amount: i64) -> ColumnChange {
    ColumnChange::Add { amount, bounds: STOCKED }
}

pub fn likes(amount: i64) -> ColumnChange {
    ColumnChange::Add { amount, bounds: Bounds::default() }
}

pub fn tags(added: &[&str], removed: &[&str]) -> ColumnChange {
    let values = |names: &[&str]| names.iter().map(|name| Value::Text((*name).into())).collect();
    ColumnChange::Elements { added: values(added), removed: values(removed) }
}

/// A whole row.
pub fn insert(name: &str, stocked: i64) -> RowChange {
    RowChange::Insert(vec![(NAME, text(name)), (STOCK, stock(stocked)), (TAGS, tags(&[], &[])), (LIKES, likes(0))])
}

pub fn update(column: ColumnId, change: ColumnChange) -> RowChange {
    RowChange::Update(vec![(column, change)])
}

/// The value of a column of a row, as readers see it.
pub fn shown(state: &RowState, column: ColumnId) -> Option<Value> {
    state.is_live().then(|| state.cells.get(&column).map(|cell| cell.shown())).flatten()
}
