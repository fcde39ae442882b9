//! Transactions on byzantine tables: four real validators in one process, each under a
//! database of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use polity_base::key::{Direction, KeyBuilder};
use polity_base::row::{decode, encode};
use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::ClockReading;
use polity_base::{Bounds, ColumnChange, ColumnId, Guarantee, Key, NodeId, RangeId, RowChange, Span, Timestamp, Value};
use polity_store::disk::MemoryDisk;
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{State, StateOptions};
use tokio::sync::watch;

use crate::byzantine::bft::consensus::driver::{self, Condition, Handle, Network, Parts};
use crate::byzantine::bft::genesis::{Genesis, Parameters};
use crate::byzantine::bft::ledger::rules::{Column, Comparisons, Definition, ValueKind};
use crate::byzantine::bft::ledger::storage::store::StoreStorage;
use crate::byzantine::bft::ledger::{Ledger as Machine, Options as LedgerOptions, Outcome as Ordered, Refusal};
use crate::byzantine::bft::signing::SecretKey;
use crate::byzantine::bft::transaction::{Body, Operation, Precondition, SignedTransaction};
use crate::byzantine::bft::types::{Height, Validator, Validators};
use crate::byzantine::{self, Ledger, LedgerError, Reader};
use crate::testing::{MemoryReplica, seams};
use crate::*;

type Running = Handle<Machine<StoreStorage>>;
type Nodes = Arc<Mutex<BTreeMap<NodeId, Running>>>;

/// Every node's validator, to hand messages to.
struct Ways {
    own: NodeId,
    nodes: Nodes,
}

impl Network for Ways {
    fn send(&self, to: NodeId, message: Bytes, _: bool) {
        let (from, handle) = (self.own, self.nodes.lock().get(&to).cloned());
        if let Some(handle) = handle {
            tokio::spawn(async move { handle.receive(from, message).await });
        }
    }

    fn peers(&self) -> Vec<NodeId> {
        (1..=4).map(NodeId).filter(|node| *node != self.own).collect()
    }
}

/// A clock that advances by a millisecond each time it is read.
#[derive(Default)]
struct StepClock(AtomicU64);

impl ClockSource for StepClock {
    fn read(&self) -> ClockReading {
        let at = Timestamp((1_700_000_000_000 + self.0.fetch_add(1, Ordering::Relaxed)) * 1_000_000);
        ClockReading { earliest: at, latest: at }
    }
}

/// One node's ledger.
struct Site {
    key: SecretKey,
    state: Arc<State>,
    handle: Running,
    reader: Reader,
    nonce: AtomicU64,
}

#[async_trait]
impl Ledger for Site {
    fn reader(&self) -> Option<Reader> {
        Some(self.reader.clone())
    }

    fn condition(&self) -> Option<watch::Receiver<Condition>> {
        Some(self.handle.condition())
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, Error> {
        byzantine::snapshot_of(&self.state)
    }

    fn applied(&self) -> Timestamp {
        byzantine::applied_in(&self.state)
    }

    async fn ensure(&self, _: &str) -> Result<(), Error> {
        Ok(())
    }

    async fn submit(&self, user: &str, when: Vec<Precondition>, what: Vec<Operation>) -> Result<Height, Error> {
        let body = Body {
            ledger: self.reader.id(),
            author: self.key.public(),
            user: Some(user.to_owned()),
            nonce: self.nonce.fetch_add(1, Ordering::Relaxed).into(),
            expires: Height(self.reader.height().unwrap().0 + 100),
            preconditions: when,
            operations: what,
        };
        let signed = SignedTransaction::sign(body, &self.key).unwrap();
        match self.handle.submit(Arc::new(signed)).await.map_err(|e| Error::Unknown(e.to_string()))? {
            Ordered::Applied => Ok(self.reader.height().unwrap()),
            Ordered::Refused(Refusal::Conflict(key)) => Err(Error::Conflict(Contested::Key(key))),
            Ordered::Refused(Refusal::Exists(key)) => Err(Error::Exists(key)),
            Ordered::Refused(Refusal::Missing(key)) => Err(Error::Missing(key)),
            Ordered::Refused(other) => Err(LedgerError::Refused(other).into()),
        }
    }
}

/// What a node has before it has a ledger.
async fn store(node: u64, entropy: Arc<dyn Entropy>) -> (Log, Arc<State>) {
    let disk = Arc::new(MemoryDisk::new(node));
    let keys = Keyring::open(&*disk, &MasterKey::generate(&*entropy), &*entropy).unwrap();
    let (log, _) = Log::open(disk.clone(), &keys, entropy.clone(), LogOptions::default()).await.unwrap();
    let state = State::open(disk, &keys, entropy, StateOptions::default()).unwrap();
    (log, Arc::new(state))
}

/// Four nodes whose ledger has the table.
async fn nodes() -> Vec<Database> {
    let secret = |n: u8| SecretKey::from_seed([n; 32]);
    let validator = |n: u8| Validator { node: NodeId(n.into()), key: secret(n).public(), power: 1 };
    let genesis = Genesis {
        name: "test".to_owned(),
        created_ms: 1000,
        validators: Validators::new((1..=4).map(validator).collect()),
        parameters: Parameters { administrators: vec!["root".to_owned()], ..Parameters::default() },
    };
    let (nodes, entropy) = (Nodes::default(), seams().entropy);
    let mut sites = Vec::new();
    for n in 1..=4u8 {
        let node = NodeId(n.into());
        let (log, state) = store(node.0, entropy.clone()).await;
        let storage = StoreStorage::open(log.clone(), state.clone());
        let machine = Machine::open(storage, genesis.clone(), Arc::new(Comparisons), LedgerOptions::default()).unwrap();
        let reader = machine.reader();
        let parts = Parts {
            ledger: machine.id(),
            node,
            key: Arc::new(secret(n)),
            application: machine,
            log,
            group: RangeId(4),
            network: Arc::new(Ways { own: node, nodes: nodes.clone() }),
            clock: Arc::new(StepClock::default()),
        };
        let handle = driver::start(parts, driver::Options::default()).unwrap();
        nodes.lock().insert(node, handle.clone());
        sites.push(Arc::new(Site { key: secret(n), state, handle, reader, nonce: AtomicU64::new(1) }));
    }
    for site in &sites {
        site.handle.condition().wait_for(|condition| condition.quorum.missing() == 0).await.unwrap();
    }
    let define = Operation::Define { storage: storage(), definition: definition().encode().into() };
    sites[0].submit("root", vec![], vec![define]).await.unwrap();
    let databases: Vec<Database> = sites.into_iter().map(database).collect();
    for database in &databases {
        caught_up(&databases[0], database).await;
    }
    databases
}

fn database(site: Arc<Site>) -> Database {
    let strong = Directory::of_one(RangeId(1), Arc::new(MemoryReplica::default()));
    Database::open(strong.with_ledger(site), &seams(), Options::default())
}

/// Waits until one node has applied what the other has.
async fn caught_up(with: &Database, database: &Database) {
    let newest = height(with);
    let mut condition = database.directory().ledger().unwrap().condition().unwrap();
    condition.wait_for(|condition| condition.committed >= newest).await.unwrap();
}

fn height(database: &Database) -> Height {
    database.directory().ledger().unwrap().reader().unwrap().height().unwrap()
}

fn storage() -> polity_base::IndexId {
    Guarantee::Byzantine.storage(16_384)
}

/// `accounts (id bigint PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))`
fn definition() -> Definition {
    let column = |id: u16, name: &str| Column {
        id: ColumnId(id),
        name: name.to_owned(),
        kind: ValueKind::Int8,
        not_null: true,
        missing: Value::Null,
    };
    Definition {
        name: "accounts".to_owned(),
        columns: vec![column(0, "id"), column(1, "balance")],
        key: vec![ColumnId(0)],
        indexes: Vec::new(),
        references: Vec::new(),
        checks: vec![Comparisons::at_least("accounts_balance_check", ColumnId(1), 0)],
        extra: Bytes::new(),
    }
}

fn key(id: i64) -> Key {
    let mut key = KeyBuilder::new(storage());
    key.push(&Value::Int8(id)).unwrap();
    key.finish()
}

fn row(id: i64, balance: i64) -> Bytes {
    encode(&[Value::Int8(id), Value::Int8(balance)])
}

/// A transaction of an isolation level, whose first statement has begun.
async fn begin_at(database: &Database, isolation: Isolation) -> Transaction {
    let options = TransactionOptions { isolation, ..TransactionOptions::default() };
    let mut t = database.begin(options).await.unwrap();
    t.speak_for("root");
    t.begin_statement_with(Reach::Here).await.unwrap();
    t
}

async fn begin(database: &Database) -> Transaction {
    begin_at(database, Isolation::Serializable).await
}

fn insert(t: &mut Transaction, id: i64, balance: i64) {
    t.expect_absent(key(id));
    let set = |column: u16, value| (ColumnId(column), ColumnChange::Set(Value::Int8(value)));
    t.change(key(id), RowChange::Insert(vec![set(0, id), set(1, balance)]), Some(row(id, balance))).unwrap();
}

fn set(t: &mut Transaction, id: i64, balance: i64) {
    let change = RowChange::Update(vec![(ColumnId(1), ColumnChange::Set(Value::Int8(balance)))]);
    t.change(key(id), change, Some(row(id, balance))).unwrap();
}

fn add(t: &mut Transaction, id: i64, amount: i64) {
    let change = ColumnChange::Add { amount, bounds: Bounds::default() };
    let seen = balance(&t.view().untracked(), id).unwrap_or_default();
    t.change(key(id), RowChange::Update(vec![(ColumnId(1), change)]), Some(row(id, seen + amount))).unwrap();
}

fn balance(view: &View, id: i64) -> Option<i64> {
    let bytes = view.get(&key(id)).unwrap()?;
    decode(&bytes).unwrap()[1].as_i64()
}

fn total(view: &View) -> i64 {
    let mut scan = view.scan(Span::of_index(storage()), Direction::Ascending).unwrap();
    let rows = scan.next_chunk(100).unwrap();
    rows.iter().map(|(_, row)| decode(row).unwrap()[1].as_i64().unwrap()).sum()
}

async fn open(databases: &[Database], balances: &[i64]) {
    let mut t = begin(&databases[0]).await;
    for (id, balance) in (1..).zip(balances) {
        insert(&mut t, id, *balance);
    }
    t.commit().await.unwrap();
    for database in databases {
        caught_up(&databases[0], database).await;
    }
}

fn is_conflict(result: Result<Timestamp, Error>) -> bool {
    matches!(result, Err(Error::Conflict(_)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_shows_here_at_once_and_everywhere_soon() {
    let nodes = nodes().await;
    open(&nodes, &[10, 20]).await;
    for node in &nodes {
        let t = begin(node).await;
        assert_eq!((balance(&t.view(), 1), total(&t.view())), (Some(10), 30));
    }
    let mut t = begin(&nodes[3]).await;
    set(&mut t, 1, 15);
    assert_eq!(balance(&t.view(), 1), Some(15), "its own");
    t.commit().await.unwrap();
    assert_eq!(balance(&begin(&nodes[3]).await.view(), 1), Some(15));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_read_what_the_other_writes_one_commits() {
    let nodes = nodes().await;
    open(&nodes, &[10, 20]).await;
    // Each sees all rows and changes another one: write skew, if both could.
    let (mut one, mut other) = (begin(&nodes[0]).await, begin(&nodes[1]).await);
    assert_eq!((total(&one.view()), total(&other.view())), (30, 30));
    set(&mut one, 1, 0);
    set(&mut other, 2, 0);
    let (one, other) = tokio::join!(one.commit(), other.commit());
    assert!(is_conflict(one) != is_conflict(other));
    // A row that was not there when it was looked for is a conflict as well.
    let mut looked = begin(&nodes[0]).await;
    assert_eq!(balance(&looked.view(), 3), None);
    let mut made = begin(&nodes[0]).await;
    insert(&mut made, 3, 1);
    made.commit().await.unwrap();
    set(&mut looked, 1, 1);
    assert!(is_conflict(looked.commit().await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_added_unseen_never_conflicts_and_what_is_locked_does() {
    let nodes = nodes().await;
    open(&nodes, &[10]).await;
    let mut some = Vec::new();
    for node in &nodes {
        let mut t = begin(node).await;
        add(&mut t, 1, 5);
        some.push(tokio::spawn(t.commit()));
    }
    for one in some {
        one.await.unwrap().unwrap();
    }
    for node in &nodes {
        caught_up(node, &nodes[0]).await;
    }
    let mut locker = begin(&nodes[0]).await;
    assert!(!locker.lock(&key(1), LockMode::Exclusive, Wait::Block).await.unwrap().is_newer());
    assert_eq!(balance(&locker.view().untracked(), 1), Some(30));
    let mut faster = begin(&nodes[0]).await;
    add(&mut faster, 1, 1);
    faster.commit().await.unwrap();
    add(&mut locker, 1, 1);
    assert!(is_conflict(locker.commit().await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_see_newer_states_unless_all_are_to_see_one() {
    let nodes = nodes().await;
    open(&nodes, &[10]).await;
    let mut each = begin_at(&nodes[0], Isolation::ReadCommitted).await;
    let mut all = begin(&nodes[0]).await;
    let mut starting_over = begin(&nodes[0]).await;
    let mark = starting_over.begin_statement_with(Reach::Here).await.unwrap();
    for t in [&each, &all, &starting_over] {
        assert_eq!(balance(&t.view(), 1), Some(10));
    }
    let mut t = begin(&nodes[0]).await;
    add(&mut t, 1, 1);
    t.commit().await.unwrap();
    for t in [&mut each, &mut all] {
        t.begin_statement_with(Reach::Here).await.unwrap();
    }
    assert_eq!((balance(&each.view(), 1), balance(&all.view(), 1)), (Some(11), Some(10)));
    // A statement that starts over forgets what it read, and sees what there is now.
    starting_over.restart_statement(&mark).await.unwrap();
    assert_eq!(balance(&starting_over.view(), 1), Some(11));
    set(&mut starting_over, 1, 12);
    starting_over.commit().await.unwrap();
    // What the first statement read is a condition under either level.
    for mut t in [each, all] {
        set(&mut t, 1, 0);
        assert!(is_conflict(t.commit().await));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_says_why_it_refuses() {
    let nodes = nodes().await;
    open(&nodes, &[10]).await;
    let mut t = begin(&nodes[1]).await;
    add(&mut t, 1, -11);
    let refused = t.commit().await.unwrap_err();
    let Error::Ledger(error) = &refused else { panic!("{refused}") };
    assert!(matches!(&**error, LedgerError::Refused(Refusal::Check(name)) if name == "accounts_balance_check"));
    let mut t = begin(&nodes[1]).await;
    insert(&mut t, 1, 0);
    assert!(matches!(t.commit().await, Err(Error::Exists(taken)) if taken == key(1)));
    let mut t = begin(&nodes[1]).await;
    t.speak_for("somebody");
    insert(&mut t, 2, 0);
    let refused = t.commit().await.unwrap_err();
    let Error::Ledger(error) = &refused else { panic!("{refused}") };
    assert!(matches!(&**error, LedgerError::Refused(Refusal::Denied(_))));
    assert_eq!(total(&begin(&nodes[1]).await.view()), 10, "nothing of these was applied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_writes_tables_of_one_guarantee() {
    let nodes = nodes().await;
    let mut t = begin(&nodes[0]).await;
    insert(&mut t, 1, 0);
    let mixed = t.put(super::key("strong"), super::number(1)).unwrap_err();
    assert!(matches!(mixed, Error::Mixed { earlier: Guarantee::Byzantine, now: Guarantee::Strong }));
}
