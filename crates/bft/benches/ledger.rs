//! What the ledger costs, without consensus: executing a block, checking one, committing
//! one, and proving rows. `cargo bench -p polity-bft --bench ledger --features testing`.
//! Log and state are on a real disk, in `$POLITY_BENCH_FOLDER` or a temporary folder.
//!
//! Transactions insert one row of 200 bytes each. `rows` is how many rows there are
//! already. Figures are per transaction, of one thread.

use std::sync::Arc;

use bytes::Bytes;
use polity_base::seams::Entropy;
use polity_base::{ColumnChange, ColumnId, Guarantee, IndexId, NodeId, RowChange, Value};
use polity_bft::block::{Block, Certificate};
use polity_bft::consensus::application::{Application, Ingredients};
use polity_bft::genesis::{Genesis, Parameters};
use polity_bft::ledger::rules::{Column, Comparisons, Definition, ValueKind};
use polity_bft::ledger::storage::Storage;
use polity_bft::ledger::storage::memory::MemoryStorage;
use polity_bft::ledger::storage::store::StoreStorage;
use polity_bft::ledger::testing::{certify, define, genesis, row_key, secret};
use polity_bft::ledger::{Ledger, Options};
use polity_bft::proof::verify_file;
use polity_bft::transaction::{Body, Operation, SignedTransaction};
use polity_bft::types::Height;
use polity_bft::world::local::Counting;
use polity_store::disk::{MemoryDisk, RealDisk};
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{State, StateOptions};
use tokio::time::Instant;

fn storage() -> IndexId {
    Guarantee::Byzantine.storage(20)
}

fn definition() -> Definition {
    let column = |id, name: &str, kind| Column {
        id: ColumnId(id),
        name: name.to_owned(),
        kind,
        not_null: true,
        missing: Value::Null,
    };
    Definition {
        name: "rows".to_owned(),
        columns: vec![column(0, "id", ValueKind::Int8), column(1, "data", ValueKind::Bytea)],
        key: vec![ColumnId(0)],
        ..Definition::default()
    }
}

struct Bench<S: Storage> {
    ledger: Ledger<S>,
    genesis: Genesis,
    next: i64,
}

impl<S: Storage> Bench<S> {
    fn new(storage_of_ledger: S) -> Bench<S> {
        let parameters = Parameters { administrators: vec!["root".to_owned()], ..Parameters::default() };
        let genesis = Genesis { parameters, ..genesis(4) };
        let ledger =
            Ledger::open(storage_of_ledger, genesis.clone(), Arc::new(Comparisons), Options::default()).unwrap();
        let mut bench = Bench { ledger, genesis, next: 0 };
        let table = bench.sign(vec![define(storage(), &definition())]);
        bench.add(vec![table]);
        bench
    }

    fn sign(&mut self, operations: Vec<Operation>) -> Arc<SignedTransaction> {
        self.next += 1;
        let key = secret(1 + (self.next % 4) as u8);
        let body = Body {
            ledger: self.genesis.ledger(),
            author: key.public(),
            user: Some("root".to_owned()),
            nonce: self.next as u128,
            expires: Height(self.ledger.tip().height.0 + 500),
            preconditions: Vec::new(),
            operations,
        };
        Arc::new(SignedTransaction::sign(body, &key).unwrap())
    }

    fn inserts(&mut self, count: usize) -> Vec<Arc<SignedTransaction>> {
        let insert = |_| {
            // Rows come in any order.
            let id = (self.next as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) as i64;
            let data = Value::Bytea(Bytes::from(vec![self.next as u8; 200]));
            let columns =
                vec![(ColumnId(0), ColumnChange::Set(Value::Int8(id))), (ColumnId(1), ColumnChange::Set(data))];
            self.sign(vec![Operation::Row { key: row_key(storage(), id), change: RowChange::Insert(columns) }])
        };
        (0..count).map(insert).collect()
    }

    fn build(&mut self, transactions: Vec<Arc<SignedTransaction>>) -> Arc<Block> {
        let unix_ms = 2000 + self.next as u64;
        let ingredients = Ingredients { proposer: NodeId(1), unix_ms, transactions, evidence: Vec::new() };
        self.ledger.build(ingredients).unwrap().unwrap()
    }

    fn certify(&self, block: &Block) -> Arc<Certificate> {
        Arc::new(certify(self.genesis.ledger(), block, 1..=4))
    }

    fn add(&mut self, transactions: Vec<Arc<SignedTransaction>>) {
        let block = self.build(transactions);
        let certificate = self.certify(&block);
        let outcomes = self.ledger.commit(&block, &certificate).unwrap().outcomes;
        assert!(outcomes.iter().all(|(_, outcome)| outcome.is_applied()));
    }

    fn fill(&mut self, rows: usize) {
        while (self.next as usize) < rows {
            let some = self.inserts(1000);
            self.add(some);
        }
    }

    /// Blocks of so many transactions, one after the other.
    fn measure(&mut self, name: &str, rows: usize, count: usize) {
        self.fill(rows);
        let (mut building, mut checking, mut committing) = (0.0, 0.0, 0.0);
        let rounds = 4000usize.div_ceil(count);
        for _ in 0..rounds {
            let transactions = self.inserts(count);
            let begun = Instant::now();
            let block = self.build(transactions);
            building += begun.elapsed().as_secs_f64();
            // Another block, so that this one is not known when it is checked.
            let other = self.inserts(1);
            self.build(other);
            let begun = Instant::now();
            self.ledger.check(&block, &|_| true).unwrap();
            checking += begun.elapsed().as_secs_f64();
            let certificate = self.certify(&block);
            let begun = Instant::now();
            self.ledger.commit(&block, &certificate).unwrap();
            committing += begun.elapsed().as_secs_f64();
        }
        let each = |seconds: f64| seconds * 1e6 / (rounds * count) as f64;
        println!(
            "bft::ledger::{name}/rows={rows},block={count}: build {:.1} µs, check {:.1} µs, commit {:.1} µs",
            each(building),
            each(checking),
            each(committing)
        );
    }

    fn prove(&mut self, name: &str) {
        let (reader, genesis) = (self.ledger.reader(), self.genesis.encode());
        let (mut proving, mut verifying, mut bytes) = (0.0, 0.0, 0);
        const ROUNDS: u64 = 500;
        for round in 1..=ROUNDS {
            let id = round.wrapping_mul(0x9E37_79B9_7F4A_7C15) as i64;
            let begun = Instant::now();
            let file = reader.prove(&[row_key(storage(), id)], None).unwrap().encode();
            proving += begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            verify_file(&file, &genesis).unwrap();
            verifying += begun.elapsed().as_secs_f64();
            bytes += file.len();
        }
        let each = |seconds: f64| seconds * 1e3 / ROUNDS as f64;
        println!(
            "bft::proof::{name}: get {:.3} ms, verify {:.3} ms, {} bytes",
            each(proving),
            each(verifying),
            bytes / ROUNDS as usize
        );
    }
}

fn verify_signatures() {
    let mut bench = Bench::new(MemoryStorage::new());
    for count in [1, 8, 128, 1024] {
        let transactions = bench.inserts(count);
        let rounds = 4096 / count;
        let begun = Instant::now();
        for _ in 0..rounds {
            assert!(SignedTransaction::verify_all(&transactions));
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / (rounds * count) as f64;
        println!("bft::signing::verify/together={count}: {each:.1} µs");
    }
}

async fn on_disk() -> StoreStorage {
    let folder = std::env::var_os("POLITY_BENCH_FOLDER").map(std::path::PathBuf::from);
    let folder = folder.unwrap_or_else(|| tempfile::tempdir().unwrap().keep());
    std::fs::create_dir_all(&folder).unwrap();
    let entropy = Counting::default();
    let keys = Keyring::open(&MemoryDisk::new(0), &MasterKey::generate(&entropy), &entropy).unwrap();
    let entropy: Arc<dyn Entropy> = Arc::new(entropy);
    let disk = Arc::new(RealDisk::open(&folder).unwrap());
    let (log, _) = Log::open(disk.clone(), &keys, entropy.clone(), LogOptions::default()).await.unwrap();
    let state = Arc::new(State::open(disk, &keys, entropy, StateOptions::default()).unwrap());
    StoreStorage::open(log, state)
}

fn main() {
    verify_signatures();
    let mut memory = Bench::new(MemoryStorage::new());
    memory.measure("memory", 0, 100);
    memory.measure("memory", 100_000, 100);
    memory.measure("memory", 100_000, 1000);
    memory.prove("memory");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let storage = runtime.block_on(on_disk());
    let mut disk = Bench::new(storage);
    disk.measure("disk", 100_000, 100);
    disk.measure("disk", 100_000, 1000);
    disk.prove("disk");
}
