//! Random transactions on replicas that crash and are cut from each other, with a record
//! of what clients did and saw, which the invariants are checked against.
//!
//! Every transaction, whatever else it does, inserts two rows of its own that nobody
//! touches again: its *marks*. What a replica shows of a transaction is so known without
//! asking how replicas keep track themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use polity_base::{Bounds, ColumnChange, ColumnId, Key, NodeId, RowChange, Value};
use polity_store::disk::Crash;
use tokio::time::{sleep, timeout};

use super::invariant;
use super::world::*;
use crate::replica::{Limits, NoIndexes};
use crate::{Error, VersionVector};

/// Which insert a row comes from: written once.
pub const BIRTH: ColumnId = ColumnId(5);
/// A counter with both bounds.
pub const SEATS: ColumnId = ColumnId(6);
pub const SEATING: Bounds = Bounds { lower: Some(0), upper: Some(10) };

/// Rows that stay, with counters with bounds.
const STOCKS: i64 = 3;
/// Rows that come and go.
const ROWS: i64 = 6;
const FIRST_ROW: i64 = 100;
const FIRST_MARK: i64 = 10_000;

/// A transaction as its client knows it.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub node: NodeId,
    /// The transactions that its replica showed before
    pub seen: BTreeSet<usize>,
    /// What was answered; none while it runs
    pub acknowledged: bool,
    /// Not done, for certain
    pub refused: bool,
    /// What it takes from a stock
    pub takes: Option<(i64, i64)>,
}

/// What a replica shows at a moment.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Transactions of which the first mark, and of which the second mark is there
    pub marks: [BTreeSet<usize>; 2],
    /// Births of rows that are there
    pub births: BTreeMap<i64, String>,
    /// Tags of rows that are there
    pub tags: BTreeMap<i64, BTreeSet<String>>,
    /// Stocks and seats
    pub stocks: BTreeMap<i64, (i64, i64)>,
    /// Rows of which nothing is known
    pub blank: BTreeSet<i64>,
}

/// What has happened.
#[derive(Default)]
pub struct History {
    pub transactions: Vec<Transaction>,
    /// What each replica showed last, and shows now
    pub sights: BTreeMap<NodeId, (Sight, Sight)>,
    /// Births and tags that a replica showed once and then no more
    pub gone: BTreeMap<NodeId, BTreeSet<(i64, String)>>,
    /// A client that moves: what it has seen, and its token
    pub session: (BTreeSet<usize>, VersionVector),
}

pub struct Simulation {
    pub world: World,
    pub history: History,
    births: u64,
}

impl Simulation {
    pub async fn new(seed: u64) -> Simulation {
        let limits = Limits {
            upkeep_every: Duration::from_millis(200),
            shares_within: Duration::from_millis(300),
            call_within: Duration::from_secs(2),
            patrol_every: Duration::from_secs(7),
            held_bytes: 64 << 10,
            message_bytes: 4 << 10,
            // In some worlds members that are cut off for long must be filled from rows.
            log_bytes: if seed.is_multiple_of(3) { 12 << 10 } else { 1 << 30 },
            ..Limits::default()
        };
        let world = World::with(seed, 3 + seed % 2, limits, Arc::new(NoIndexes)).await;
        *world.net.weather.lock() = Weather { loss: 25, double: 10, delay: Duration::from_millis(40) };
        Simulation { world, history: History::default(), births: 0 }
    }

    fn node(&self) -> NodeId {
        let nodes: Vec<NodeId> = self.world.nodes.keys().copied().collect();
        nodes[self.world.chance.below(nodes.len() as u64) as usize]
    }

    /// A whole run; what is wrong, if something is.
    pub async fn run(&mut self, steps: usize) -> Result<(), String> {
        self.prepare().await?;
        for _ in 0..steps {
            self.step().await?;
        }
        self.world.heal();
        *self.world.net.weather.lock() = Weather::default();
        self.world.settled().await?;
        self.look()?;
        sleep(Duration::from_secs(4)).await;
        self.world.settled().await?;
        self.look()?;
        invariant::strong_convergence::check(&self.world)?;
        invariant::acknowledged_is_durable::check_everywhere(&self.history)
    }

    async fn prepare(&mut self) -> Result<(), String> {
        let rows = (0..STOCKS).map(|n| {
            let seats = ColumnChange::Add { amount: 5, bounds: SEATING };
            (key(n), RowChange::Insert(vec![(NAME, text("stock")), (STOCK, stock(12)), (SEATS, seats)]))
        });
        self.transact(NodeId(1), rows.collect(), |_| {}).await;
        self.look()
    }

    async fn step(&mut self) -> Result<(), String> {
        let chance = self.world.chance.clone();
        let node = self.node();
        match chance.below(20) {
            0 => self.world.cut(&[node.0]),
            1 => self.world.cut_pair(node.0, self.node().0),
            2 | 3 => self.world.heal(),
            4 => {
                let fate = [Crash::Lost, Crash::Torn, Crash::Kept][chance.below(3) as usize];
                self.world.crash(node, fate).await;
                self.look()?;
                invariant::acknowledged_is_durable::check(&self.history, node)?;
            }
            5 => self.visit(node).await?,
            6 if chance.one_in(6) => self.join().await,
            6 => self.checkpoint(node)?,
            7..=10 => self.trade(node).await,
            11 | 12 => self.several(node).await,
            _ => self.change_rows(node).await,
        }
        self.look()?;
        for _ in 0..chance.below(4) {
            sleep(Duration::from_millis(chance.below(80))).await;
            self.look()?;
        }
        Ok(())
    }

    /// A new node joins, unless there are many.
    async fn join(&mut self) {
        let node = NodeId(self.world.net.members.lock().nodes.len() as u64 + 1);
        if node.0 <= 5 {
            self.world.net.members.lock().nodes.insert(node);
            let disk = polity_store::disk::MemoryDisk::new(self.world.seed + node.0);
            self.world.start(node, disk, true).await.unwrap();
        }
    }

    fn checkpoint(&self, node: NodeId) -> Result<(), String> {
        let at = &self.world.nodes[&node];
        let done = at.state.checkpoint().map_err(|e| e.to_string())?;
        if let Some(mark) = done.marks.get(&polity_base::RangeId::EVENTUAL) {
            at.replica.checkpointed().made_durable(*mark);
        }
        at.state.collect(polity_base::Timestamp::MAX, 1000).map(|_| ()).map_err(|e| e.to_string())
    }

    /// Takes from a counter with bounds, or gives to it.
    async fn trade(&mut self, node: NodeId) {
        let chance = self.world.chance.clone();
        let (row, amount) = (chance.below(STOCKS as u64) as i64, chance.below(5) as i64 + 1);
        // Where the row has not come yet there is nothing to sell.
        if !self.world.row(node.0, &key(row)).is_live() {
            return;
        }
        if chance.one_in(3) {
            let amount = if chance.one_in(2) { amount } else { -amount };
            let change = ColumnChange::Add { amount, bounds: SEATING };
            self.transact(node, vec![(key(row), update(SEATS, change))], |_| {}).await;
        } else if chance.one_in(5) {
            self.transact(node, vec![(key(row), update(STOCK, stock(amount)))], |t| t.takes = Some((row, -amount)))
                .await;
        } else {
            self.transact(node, vec![(key(row), update(STOCK, stock(-amount)))], |t| t.takes = Some((row, amount)))
                .await;
        }
    }

    /// Inserts, deletes or changes a row that comes and goes.
    async fn change_rows(&mut self, node: NodeId) {
        let chance = self.world.chance.clone();
        let row = FIRST_ROW + chance.below(ROWS as u64) as i64;
        let state = self.world.row(node.0, &key(row));
        self.births += 1;
        let name = format!("{}", self.births);
        if !state.is_live() {
            let columns = vec![
                (NAME, text(&name)),
                (LIKES, likes(0)),
                (TAGS, tags(&[&format!("t{name}")], &[])),
                (BIRTH, text(&format!("b{name}"))),
            ];
            self.transact(node, vec![(key(row), RowChange::Insert(columns))], |_| {}).await;
            return;
        }
        let change = match chance.below(5) {
            0 => return self.transact(node, vec![(key(row), RowChange::Delete)], |_| {}).await,
            1 => update(TAGS, tags(&[&format!("t{name}")], &[])),
            2 => match shown(&state, TAGS) {
                Some(Value::Array(values)) if !values.is_empty() => {
                    let one = values[chance.below(values.len() as u64) as usize].clone();
                    update(TAGS, ColumnChange::Elements { added: vec![], removed: vec![one] })
                }
                _ => return,
            },
            3 => update(LIKES, likes(1)),
            _ => update(NAME, text(&name)),
        };
        self.transact(node, vec![(key(row), change)], |_| {}).await;
    }

    /// Several transactions at once on one replica, so that they share an entry.
    async fn several(&mut self, node: NodeId) {
        for _ in 0..3 {
            self.change_rows(node).await;
        }
    }

    /// Runs a transaction, and notes it. What it does besides, it marks.
    async fn transact(
        &mut self,
        node: NodeId,
        mut changes: Vec<(Key, RowChange)>,
        note: impl FnOnce(&mut Transaction),
    ) {
        let number = self.history.transactions.len();
        let seen = see(&self.world, node, number).marks[0].clone();
        let mut transaction = Transaction { node, seen, acknowledged: false, refused: false, takes: None };
        note(&mut transaction);
        self.history.transactions.push(transaction);
        for part in 0..2 {
            changes.push((mark(number, part), RowChange::Insert(vec![(NAME, text("mark"))])));
        }
        let answer = self.world.commit(node.0, changes).await;
        let transaction = &mut self.history.transactions[number];
        match answer {
            Ok(_) => transaction.acknowledged = true,
            Err(Error::ShareTooSmall { .. } | Error::OutOfBounds { .. } | Error::NotReady { .. }) => {
                transaction.refused = true;
            }
            Err(other) => panic!("seed {}: {other}", self.world.seed),
        }
    }

    /// The client that moves shows its token at a node, and looks around.
    async fn visit(&mut self, node: NodeId) -> Result<(), String> {
        let replica = self.world.replica(node.0).clone();
        let (known, token) = self.history.session.clone();
        let token = VersionVector::from_token(&token.to_token()).map_err(|e| e.to_string())?;
        if replica.readable().is_err() {
            return Ok(());
        }
        let waited = timeout(Duration::from_secs(9), replica.wait_for(&token, Duration::from_millis(500))).await;
        if !matches!(waited, Ok(Ok(()))) {
            return Ok(());
        }
        let now = see(&self.world, node, self.history.transactions.len()).marks[0].clone();
        invariant::session_guarantees::check(&known, &now, node)?;
        let mut token = token;
        token.join(&replica.vector());
        self.history.session = (now, token);
        // It writes, and leaves.
        self.change_rows(node).await;
        let number = self.history.transactions.len() - 1;
        // A node that takes no writes at the moment took none.
        if self.history.transactions[number].acknowledged && self.history.transactions[number].node == node {
            self.history.session.0.insert(number);
            self.history.session.1.join(&self.world.replica(node.0).vector());
        }
        Ok(())
    }

    /// Looks at all replicas, and checks what must hold in every state.
    fn look(&mut self) -> Result<(), String> {
        let count = self.history.transactions.len();
        // One that is being filled shows nothing to anybody.
        let readable = self.world.nodes.iter().filter(|(_, node)| node.replica.readable().is_ok());
        let nodes: Vec<NodeId> = readable.map(|(node, _)| *node).collect();
        for node in &nodes {
            let now = see(&self.world, *node, count);
            let (_, last) = self.history.sights.remove(node).unwrap_or_default();
            let gone = self.history.gone.entry(*node).or_default();
            for (row, birth) in &last.births {
                if now.births.get(row) != Some(birth) {
                    gone.insert((*row, birth.clone()));
                }
            }
            for (row, tags) in &last.tags {
                let left = now.tags.get(row);
                let lost = tags.iter().filter(|tag| left.is_none_or(|left| !left.contains(*tag)));
                gone.extend(lost.map(|tag| (*row, tag.clone())));
            }
            self.history.sights.insert(*node, (last, now));
        }
        for node in &nodes {
            let context = |what: String| format!("seed {}: {node}: {what}", self.world.seed);
            invariant::atomic_visibility::check(&self.history, *node).map_err(context)?;
            invariant::causal_visibility::check(&self.history, *node).map_err(context)?;
            invariant::escrow_bound::check(&self.history, *node).map_err(context)?;
            invariant::no_resurrection::check(&self.history, *node).map_err(context)?;
            invariant::collection_is_safe::check(&self.history, *node).map_err(context)?;
        }
        invariant::escrow_bound::check_sales(&self.history)
    }
}

fn mark(transaction: usize, part: i64) -> Key {
    key(FIRST_MARK + transaction as i64 * 2 + part)
}

/// What a replica shows.
fn see(world: &World, node: NodeId, transactions: usize) -> Sight {
    let mut sight = Sight::default();
    let rows = visible(&world.nodes[&node]);
    for number in 0..transactions {
        for part in 0..2 {
            if rows.contains_key(&mark(number, part)) {
                sight.marks[part as usize].insert(number);
            }
        }
    }
    for row in FIRST_ROW..FIRST_ROW + ROWS {
        let state = world.row(node.0, &key(row));
        if state.is_blank() {
            sight.blank.insert(row);
        }
        if let Some(Value::Text(birth)) = shown(&state, BIRTH) {
            sight.births.insert(row, birth.to_string());
        }
        if let Some(Value::Array(tags)) = shown(&state, TAGS) {
            sight.tags.insert(row, tags.iter().map(|tag| format!("{tag:?}")).collect());
        }
    }
    for row in 0..STOCKS {
        let state = world.row(node.0, &key(row));
        if let (Some(Value::Int8(stock)), Some(Value::Int8(seats))) = (shown(&state, STOCK), shown(&state, SEATS)) {
            sight.stocks.insert(row, (stock, seats));
        }
    }
    sight
}

/// One run on a runtime of its own, so that a bug can be planted on its thread.
pub fn run(seed: u64, steps: usize) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut simulation = Simulation::new(seed).await;
        simulation.run(steps).await
    })
}

#[test]
fn what_is_promised_holds_in_every_state_of_random_worlds() {
    let number = |name| std::env::var(name).ok().map(|number| number.parse::<u64>().unwrap());
    let first = number("POLITY_SEED");
    let count = number("POLITY_SEEDS").unwrap_or(if first.is_some() { 1 } else { 12 });
    let seeds = first.unwrap_or(1)..first.unwrap_or(1) + count;
    for seed in seeds {
        if let Err(wrong) = run(seed, 120) {
            panic!("{wrong}\nPOLITY_SEED={seed} cargo test -p polity-crdt random_worlds");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    let digest = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut simulation = Simulation::new(seed).await;
            simulation.run(40).await.unwrap();
            let vectors: Vec<String> =
                simulation.world.nodes.values().map(|node| node.replica.vector().to_string()).collect();
            (vectors, simulation.world.rows(1), *simulation.world.net.bytes.lock())
        })
    };
    assert_eq!(digest(5), digest(5));
    assert_ne!(digest(5).0, digest(6).0);
}
