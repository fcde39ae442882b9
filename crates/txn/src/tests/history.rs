//! Random transactions, and a checker that knows nothing of how they ran.
//!
//! Each transaction leaves a record: which version of which key it read, what
//! it wrote, its commit timestamp, when it began and ended. Commit timestamps
//! order the versions of each key, which gives the direct serialization graph
//! (Adya, "Weak Consistency", 1999, section 4.4.3):
//!
//! ```text
//! ww  wrote the version that mine replaced      wr  wrote the version I read
//! rw  I read the version that it replaced       rt  ended before I began
//! ```
//! Strictly serializable: no cycle. READ COMMITTED: no cycle of ww and wr.
//!
//! One thread and one seed decide everything (but for Raft); a failure prints the seed, and
//! `POLITY_SEED=… cargo test -p polity-txn history` runs it again.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use polity_base::key::Direction;
use polity_base::{Class, NodeId, Timestamp};

use super::local::LocalReplica;
use super::{all, key, name};
use crate::testing::{World, database, database_on};
use crate::*;

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// SplitMix64 (Steele, Lea & Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

/// The last write to each key; `None` deletes.
type Writes = BTreeMap<&'static str, Option<u64>>;

/// A committed transaction.
#[derive(Default, Debug)]
struct Record {
    /// Key, snapshot, and what was there: the number of the write that put it.
    reads: Vec<(&'static str, Timestamp, Option<u64>)>,
    writes: Writes,
    commit: Timestamp,
    began: u64,
    ended: u64,
}

#[derive(Default)]
struct Shared {
    /// Counts events: real time.
    now: u64,
    /// Counts writes: no two put the same value.
    writes: u64,
    records: Vec<Record>,
    conflicts: u64,
}

impl Shared {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

struct Client {
    database: Database,
    isolation: Isolation,
    random: Random,
    shared: Rc<RefCell<Shared>>,
}

impl Client {
    async fn pause(&mut self) {
        for _ in 0..self.random.below(3) {
            tokio::task::yield_now().await;
        }
    }

    fn some_key(&mut self) -> &'static str {
        KEYS[self.random.below(KEYS.len() as u64) as usize]
    }

    async fn transaction(&mut self) -> Result<(), Error> {
        let mut record = Record { began: self.shared.borrow_mut().tick(), ..Record::default() };
        let read_only = self.random.below(5) == 0;
        let options = TransactionOptions { isolation: self.isolation, read_only, ..Default::default() };
        let mut t = self.database.begin(options).await?;
        // A view that outlives its statement, and what was written before it.
        let mut portal: Option<(View, Writes)> = None;
        for _ in 0..1 + self.random.below(4) {
            self.pause().await;
            match self.random.below(6) {
                0 => {
                    t.begin_statement().await?;
                    portal = Some((t.view(), record.writes.clone()));
                }
                1 => portal = None,
                _ => {}
            }
            let mark = t.begin_statement().await?;
            self.pause().await;
            if let Some((view, writes)) = &portal {
                let name = self.some_key();
                note(&mut record, view, writes, name, view.get(&key(name))?);
            }
            match self.random.below(if read_only { 2 } else { 9 }) {
                0 => self.read_all(&t, &mut record).await?,
                1 | 2 => {
                    let key = self.some_key();
                    self.read(&t.view(), key, &mut record)?;
                }
                3 | 4 => self.update_point(&mut t, &mut record).await?,
                5 | 6 => self.update_all(&mut t, &mark, &mut record).await?,
                7 => self.write_blindly(&mut t, &mut record).await?,
                _ => self.undone(&mut t, &mut record)?,
            }
        }
        self.pause().await;
        let wrote = !record.writes.is_empty();
        let commit = t.commit().await?;
        // Without writes there is no version to order by it.
        record.commit = if wrote { commit } else { Timestamp::ZERO };
        let mut shared = self.shared.borrow_mut();
        record.ended = shared.tick();
        shared.records.push(record);
        Ok(())
    }

    fn read(&mut self, view: &View, name: &'static str, record: &mut Record) -> Result<(), Error> {
        let writes = record.writes.clone();
        note(record, view, &writes, name, view.get(&key(name))?);
        Ok(())
    }

    async fn read_all(&mut self, t: &Transaction, record: &mut Record) -> Result<(), Error> {
        let direction = if self.random.below(2) == 0 { Direction::Ascending } else { Direction::Descending };
        let view = t.view();
        let mut scan = view.scan(all(), direction)?;
        let mut seen = BTreeMap::new();
        loop {
            let chunk = scan.next_chunk(1 + self.random.below(3) as usize)?;
            if chunk.is_empty() {
                break;
            }
            seen.extend(chunk.into_iter().map(|(key, value)| (name(&key), value)));
            self.pause().await;
        }
        let writes = record.writes.clone();
        for name in KEYS {
            note(record, &view, &writes, name, seen.remove(name));
        }
        Ok(())
    }

    /// Puts a value no one else puts, or deletes.
    fn write(&mut self, t: &mut Transaction, name: &'static str, record: &mut Record) -> Result<(), Error> {
        let value = (self.random.below(4) > 0).then(|| {
            let mut shared = self.shared.borrow_mut();
            shared.writes += 1;
            shared.writes
        });
        record.writes.insert(name, value);
        match value {
            Some(value) => t.put(key(name), Bytes::copy_from_slice(&value.to_be_bytes())),
            None => t.delete(key(name)),
        }
    }

    /// READ COMMITTED relies on writers to lock; SERIALIZABLE does not.
    async fn write_blindly(&mut self, t: &mut Transaction, record: &mut Record) -> Result<(), Error> {
        let name = self.some_key();
        if self.isolation == Isolation::ReadCommitted {
            t.lock(&key(name), LockMode::NoKeyExclusive, Wait::Block).await?;
            // What this locks it will not read: only the lock must hold from here.
            t.advance().await?;
        }
        self.write(t, name, record)
    }

    async fn update_point(&mut self, t: &mut Transaction, record: &mut Record) -> Result<(), Error> {
        let name = self.some_key();
        let locked = t.lock(&key(name), LockMode::NoKeyExclusive, Wait::Block).await?;
        self.pause().await;
        if locked.newest > t.read_at() {
            t.advance().await?;
        }
        self.read(&t.view(), name, record)?;
        self.write(t, name, record)
    }

    /// Reads all, then locks and writes two; starts over while they are stale.
    async fn update_all(
        &mut self,
        t: &mut Transaction,
        mark: &StatementMark,
        record: &mut Record,
    ) -> Result<(), Error> {
        let (reads, writes) = (record.reads.len(), record.writes.clone());
        loop {
            self.read_all(t, record).await?;
            let mut stale = false;
            for _ in 0..2 {
                let name = self.some_key();
                stale |= t.lock(&key(name), LockMode::Exclusive, Wait::Block).await?.newest > t.read_at();
                self.write(t, name, record)?;
            }
            if !stale {
                return Ok(());
            }
            record.reads.truncate(reads);
            record.writes = writes.clone();
            t.restart_statement(mark).await?;
        }
    }

    /// Writes and takes it back.
    fn undone(&mut self, t: &mut Transaction, record: &mut Record) -> Result<(), Error> {
        let (savepoint, writes) = (t.savepoint(), record.writes.clone());
        for _ in 0..2 {
            let name = self.some_key();
            self.write(t, name, record)?;
        }
        t.rollback_to(&savepoint);
        record.writes = writes;
        Ok(())
    }
}

/// Records a read, unless it was of one's own write, which is checked at once.
fn note(record: &mut Record, view: &View, writes: &Writes, name: &'static str, value: Option<Bytes>) {
    let value = value.map(|v| u64::from_be_bytes(v.as_ref().try_into().unwrap()));
    match writes.get(name) {
        Some(own) => assert_eq!(*own, value, "own write of {name} not seen"),
        None => record.reads.push((name, view.read_at(), value)),
    }
}

/// The direct serialization graph.
struct Graph {
    edges: Vec<Vec<(usize, &'static str)>>,
}

impl Graph {
    /// Fails when a read is not of the version that was current at its snapshot.
    fn of(records: &[Record], kinds: &[&'static str]) -> Graph {
        let mut graph = Graph { edges: vec![Vec::new(); records.len()] };
        let mut add = |from: usize, to: usize, kind: &'static str| {
            if from != to && kinds.contains(&kind) {
                graph.edges[from].push((to, kind));
            }
        };
        for name in KEYS {
            let writes = |(i, r): (usize, &Record)| r.writes.get(name).map(|value| (r.commit, i, *value));
            let mut versions: Vec<(Timestamp, usize, Option<u64>)> =
                records.iter().enumerate().filter_map(writes).collect();
            versions.sort();
            for pair in versions.windows(2) {
                assert!(pair[0].0 < pair[1].0, "two commits at one timestamp");
                add(pair[0].1, pair[1].1, "ww");
            }
            for (reader, record) in records.iter().enumerate() {
                for (_, at, seen) in record.reads.iter().filter(|(n, ..)| *n == name) {
                    let next = versions.partition_point(|(commit, ..)| commit <= at);
                    let read = next.checked_sub(1).map(|i| versions[i]);
                    assert_eq!(*seen, read.and_then(|v| v.2), "{name} at {at:?} by {record:?}");
                    if let Some((_, writer, _)) = read {
                        add(writer, reader, "wr");
                    }
                    if let Some((_, writer, _)) = versions.get(next) {
                        add(reader, *writer, "rw");
                    }
                }
            }
        }
        for (i, first) in records.iter().enumerate() {
            for (j, second) in records.iter().enumerate() {
                if first.ended < second.began {
                    add(i, j, "rt");
                }
            }
        }
        graph
    }

    /// A cycle, as the nodes on it and the kinds of edges between.
    fn cycle(&self) -> Option<Vec<(usize, &'static str)>> {
        let mut done = vec![false; self.edges.len()];
        for root in 0..self.edges.len() {
            let mut path: Vec<(usize, usize)> = vec![(root, 0)];
            while let Some((node, edge)) = path.last_mut() {
                let Some((next, _)) = self.edges[*node].get(*edge).copied().filter(|_| !done[*node]) else {
                    done[*node] = true;
                    path.pop();
                    continue;
                };
                *edge += 1;
                if let Some(from) = path.iter().position(|(n, _)| *n == next) {
                    return Some(path[from..].iter().map(|(n, e)| (*n, self.edges[*n][e - 1].1)).collect());
                }
                if !done[next] {
                    path.push((next, 0));
                }
            }
        }
        None
    }
}

/// Where histories are made: the nodes to which clients are connected, and what
/// happens to those now and then.
struct Nodes {
    databases: Vec<Database>,
    disturb: Rc<dyn Fn(&mut Random)>,
}

impl From<Database> for Nodes {
    fn from(alone: Database) -> Nodes {
        Nodes { databases: vec![alone], disturb: Rc::new(|_| {}) }
    }
}

/// Three nodes, whose clocks differ by seconds, of which one lags behind. The
/// leader changes all the time, and forgets its locks thereby.
fn three_nodes() -> Nodes {
    let world = World::new(Duration::from_millis(200));
    let skews = [0, -7_000_000_000, 3_000_000_000];
    let start = |(node, skew): (u64, i64)| world.start(NodeId(node), skew).database;
    let databases = (1..).zip(skews).map(start).collect();
    world.lag(NodeId(3));
    let disturb = Rc::new(move |random: &mut Random| {
        if random.below(4) == 0 {
            world.lead(NodeId(1 + random.below(3)));
        }
    });
    Nodes { databases, disturb }
}

fn run(seed: u64, isolation: Isolation, make: impl AsyncFnOnce() -> Nodes) -> Shared {
    let shared = Rc::new(RefCell::new(Shared::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    let nodes = local.block_on(&runtime, make());
    let clients: Vec<_> = (0..6)
        .map(|client| {
            let random = Random(seed.wrapping_mul(31).wrapping_add(client));
            let database = nodes.databases[client as usize % nodes.databases.len()].clone();
            let mut client = Client { database, isolation, random, shared: shared.clone() };
            let disturb = nodes.disturb.clone();
            local.spawn_local(async move {
                for _ in 0..25 {
                    disturb(&mut client.random);
                    if let Err(error) = client.transaction().await {
                        assert_eq!(error.class(), Class::Conflict, "{error}");
                        if matches!(error, Error::Conflict(_)) {
                            client.shared.borrow_mut().conflicts += 1;
                        }
                    }
                }
            })
        })
        .collect();
    local.block_on(&runtime, async {
        for client in clients {
            client.await.unwrap();
        }
    });
    // Among nodes, whoever gave up waiting has said so, and it may be on its way.
    let patience = nodes.databases.len() > 1;
    local.block_on(&runtime, async {
        for database in &nodes.databases {
            while patience && !database.lock_waits().is_empty() {
                tokio::task::yield_now().await;
            }
            assert_eq!(database.lock_waits(), []);
        }
    });
    Rc::into_inner(shared).unwrap().into_inner()
}

fn check(seed: u64, isolation: Isolation, make: impl AsyncFnOnce() -> Nodes, forbidden: &[&'static str]) -> Shared {
    eprintln!("seed {seed} {isolation:?}");
    let shared = run(seed, isolation, make);
    let graph = Graph::of(&shared.records, forbidden);
    if let Some(cycle) = graph.cycle() {
        let members: Vec<_> = cycle.iter().map(|(n, kind)| format!("{:?}\n  --{kind}->", shared.records[*n])).collect();
        panic!("seed {seed}: not allowed at {isolation:?}:\n{}", members.join("\n"));
    }
    shared
}

fn seeds() -> Vec<u64> {
    match std::env::var("POLITY_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..60).collect(),
    }
}

#[test]
fn histories_are_strictly_serializable() {
    let all: Vec<Shared> = seeds()
        .into_iter()
        .map(|seed| check(seed, Isolation::Serializable, async || database().into(), &["ww", "wr", "rw", "rt"]))
        .collect();
    let (committed, conflicts) =
        all.iter().fold((0, 0), |(n, c), shared| (n + shared.records.len() as u64, c + shared.conflicts));
    eprintln!("{committed} committed, {conflicts} conflicts");
    assert!(committed > 0 && (conflicts > 0 || all.len() == 1));
}

/// The same on the rows of the store, while they move to disk and old versions
/// are collected.
#[test]
fn histories_on_the_store_are_strictly_serializable() {
    for seed in seeds().into_iter().take(20) {
        let make = async || database_on(LocalReplica::restless(), Options::default()).into();
        check(seed, Isolation::Serializable, make, &["ww", "wr", "rw", "rt"]);
    }
}

/// The same on several nodes whose clocks disagree, and whose leader changes.
#[test]
fn histories_of_several_nodes_are_strictly_serializable() {
    for seed in seeds().into_iter().take(20) {
        check(seed, Isolation::Serializable, async || three_nodes(), &["ww", "wr", "rw", "rt"]);
    }
}

/// Lost locks cost READ COMMITTED a refusal, and never an update.
#[test]
fn read_committed_histories_of_several_nodes_have_no_dirty_phenomena() {
    for seed in seeds().into_iter().take(20) {
        check(seed, Isolation::ReadCommitted, async || three_nodes(), &["ww", "wr"]);
    }
}

/// The same through a Raft group, whose own tasks and threads no seed decides.
#[test]
fn histories_of_a_group_are_strictly_serializable() {
    for seed in seeds().into_iter().take(5) {
        let make = async || super::strong::database().await.0.into();
        check(seed, Isolation::Serializable, make, &["ww", "wr", "rw", "rt"]);
    }
}

#[test]
fn read_committed_histories_have_no_dirty_phenomena_and_no_serialization_errors() {
    for seed in seeds() {
        let shared = check(seed, Isolation::ReadCommitted, async || database().into(), &["ww", "wr"]);
        assert_eq!(shared.conflicts, 0);
    }
}

/// The checker must see what is wrong: READ COMMITTED is not serializable.
#[test]
fn the_checker_finds_anomalies() {
    let found = (0..20).any(|seed| {
        let shared = run(seed, Isolation::ReadCommitted, async || database().into());
        Graph::of(&shared.records, &["ww", "wr", "rw", "rt"]).cycle().is_some()
    });
    assert!(found);
}
