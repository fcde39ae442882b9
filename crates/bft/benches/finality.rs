//! Transactions per second to finality, and how long one takes, through four
//! validators in this process, by how many transactions are in flight:
//! `cargo bench -p polity-bft --features testing`. Logs are on a real disk, in
//! `$POLITY_BENCH_FOLDER` or a temporary folder.
//!
//! The ledger keeps rows of 200 bytes in memory and blocks in the log, so what is
//! measured is consensus: signatures, votes, blocks, syncs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use polity_base::{ColumnChange, ColumnId, Key, NodeId, RangeId, RowChange, Value};
use polity_bft::block::{Block, Certificate, Header};
use polity_bft::consensus::application::{Application, CertifiedBlock, CommitError, Committed, Ingredients, Verified};
use polity_bft::consensus::driver::{Handle, Options, Parts, start};
use polity_bft::consensus::validator::Tip;
use polity_bft::evidence::Evidence;
use polity_bft::hash::sha256;
use polity_bft::signing::SecretKey;
use polity_bft::transaction::{Body, Operation, SignedTransaction, TransactionId};
use polity_bft::types::{BlockId, Height, LedgerId, Validator, Validators};
use polity_bft::world::local::{Hub, StepClock, open_log};
use polity_store::disk::RealDisk;
use polity_store::log::{Log, Record};
use tokio::time::Instant;

const LEDGER: LedgerId = LedgerId([3; 32]);
/// How long each figure is measured.
const SPAN: Duration = Duration::from_secs(4);

/// A ledger whose state's root is the hash of all that was ordered.
struct ChainLedger {
    tip: Tip,
    root: [u8; 32],
    time_ms: u64,
    rows: HashMap<u64, Bytes>,
    ordered: HashSet<TransactionId>,
    log: Log,
    blocks: BTreeMap<Height, CertifiedBlock>,
}

const BLOCKS: RangeId = RangeId(2);

impl ChainLedger {
    fn after(&self, transactions: &[Arc<SignedTransaction>]) -> [u8; 32] {
        let ids: Vec<TransactionId> = transactions.iter().map(|transaction| transaction.id()).collect();
        sha256(&[&self.root, &ids.concat()])
    }
}

impl Application for ChainLedger {
    type Outcome = Height;

    fn tip(&self) -> Tip {
        self.tip.clone()
    }

    fn admits(&self, transaction: &SignedTransaction) -> bool {
        !self.ordered.contains(&transaction.id())
    }

    fn admits_evidence(&self, _: &Evidence) -> bool {
        false
    }

    fn build(&mut self, ingredients: Ingredients) -> Result<Option<Arc<Block>>, CommitError> {
        let Ingredients { proposer, unix_ms, transactions, .. } = ingredients;
        if transactions.is_empty() {
            return Ok(None);
        }
        let header = Header {
            height: Height(self.tip.height.0 + 1),
            parent: self.tip.block,
            time_ms: unix_ms.max(self.time_ms + 1),
            state_root: self.after(&transactions),
            transactions: Block::transactions_hash(&transactions),
            evidence: Block::evidence_hash(&[]),
            proposer,
            ..Header::default()
        };
        Ok(Some(Arc::new(Block { header, transactions, evidence: Vec::new() })))
    }

    fn check(&mut self, block: &Arc<Block>, verified: Verified) -> Result<(), String> {
        let right = |t: &Arc<SignedTransaction>| self.admits(t) && (verified(&t.id()) || t.verify());
        let follows = block.header().parent == self.tip.block;
        match follows
            && block.transactions.iter().all(right)
            && self.after(&block.transactions) == block.header().state_root
        {
            true => Ok(()),
            false => Err("not valid".to_owned()),
        }
    }

    fn commit(&mut self, block: &Arc<Block>, certificate: &Arc<Certificate>) -> Result<Committed<Height>, CommitError> {
        let height = block.header().height;
        let payload = Bytes::from(postcard::to_stdvec(&(&**block, &**certificate)).unwrap());
        let record = Record::Entry { group: BLOCKS, index: height.0, term: 1, payload };
        let (done, durable) = std::sync::mpsc::channel();
        self.log.append(vec![record], move |outcome| done.send(outcome).unwrap());
        durable.recv().unwrap().map_err(|e| CommitError::Storage(e.to_string()))?;
        self.root = block.header().state_root;
        self.time_ms = block.header().time_ms;
        for transaction in &block.transactions {
            self.ordered.insert(transaction.id());
            self.rows.insert(transaction.body().nonce as u64, transaction.encode());
        }
        self.tip = Tip { height, block: block.id(), validators: self.tip.validators.clone() };
        self.blocks.insert(height, (block.clone(), certificate.clone()));
        self.blocks = self.blocks.split_off(&Height(height.0.saturating_sub(64)));
        let outcomes = block.transactions.iter().map(|t| (t.id(), height)).collect();
        Ok(Committed { tip: self.tip.clone(), outcomes })
    }

    fn block(&self, height: Height) -> Result<Option<CertifiedBlock>, CommitError> {
        Ok(self.blocks.get(&height).cloned())
    }

    fn oldest_block(&self) -> Height {
        self.blocks.keys().next().copied().unwrap_or(Height(1))
    }

    fn snapshot(&self) -> Option<Height> {
        None
    }

    fn snapshot_part(&mut self, _: Height, _: u32) -> Result<Option<(Bytes, u32)>, CommitError> {
        Ok(None)
    }

    fn install(&mut self, _: Height, _: Vec<Bytes>) -> Result<Tip, CommitError> {
        Err(CommitError::Invalid("there are no snapshots".to_owned()))
    }
}

fn key(n: u64) -> SecretKey {
    SecretKey::from_seed([n as u8; 32])
}

/// Seconds of processor time that this process has used.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn transaction(author: &SecretKey, number: u64) -> Arc<SignedTransaction> {
    let row = ColumnChange::Set(Value::Bytea(Bytes::from(vec![number as u8; 200])));
    let body = Body {
        ledger: LEDGER,
        author: author.public(),
        user: None,
        nonce: u128::from(number),
        expires: Height(u64::MAX),
        preconditions: Vec::new(),
        operations: vec![Operation::Row {
            key: Key::from(number.to_be_bytes().to_vec()),
            change: RowChange::Insert(vec![(ColumnId(0), row)]),
        }],
    };
    Arc::new(SignedTransaction::sign(body, author).unwrap())
}

async fn measure(handles: &[Handle<ChainLedger>], in_flight: u64, drawn: &Arc<AtomicU64>) {
    let height = handles[0].condition().borrow().committed;
    let processor = processor_seconds();
    let begun = Instant::now();
    let client = |client: u64| {
        let (handle, drawn) = (handles[client as usize % handles.len()].clone(), drawn.clone());
        tokio::spawn(async move {
            let author = key(100 + client % 100);
            let mut waits = Vec::new();
            while begun.elapsed() < SPAN {
                let transaction = transaction(&author, drawn.fetch_add(1, Ordering::Relaxed));
                let asked = Instant::now();
                if let Err(error) = handle.submit(transaction).await {
                    panic!("{error}");
                }
                waits.push(asked.elapsed());
            }
            waits
        })
    };
    let clients: Vec<_> = (0..in_flight).map(client).collect();
    let mut waits = Vec::new();
    for client in clients {
        waits.extend(client.await.unwrap());
    }
    let (took, used) = (begun.elapsed().as_secs_f64(), processor_seconds() - processor);
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let blocks = handles[0].condition().borrow().committed.0 - height.0;
    println!(
        "bft::finality/n=4,in_flight={in_flight}: {:.0} tx/s, p50 {:.1} ms, p99 {:.1} ms, {:.0} µs of processor each, \
         {:.0} blocks/s",
        waits.len() as f64 / took,
        at(0.5),
        at(0.99),
        used * 1e6 / waits.len() as f64,
        blocks as f64 / took,
    );
}

#[tokio::main]
async fn main() {
    let folder = std::env::var("POLITY_BENCH_FOLDER").map_or_else(|_| std::env::temp_dir(), Into::into);
    let folder = tempfile::tempdir_in(folder).unwrap();
    let nodes: Vec<NodeId> = (1..=4).map(NodeId).collect();
    let list = nodes.iter().map(|node| Validator { node: *node, key: key(node.0).public(), power: 1 });
    let validators = Validators::new(list.collect());
    let hub = Arc::new(Hub::default());
    let mut handles = Vec::new();
    for node in &nodes {
        let path = folder.path().join(node.to_string());
        std::fs::create_dir(&path).unwrap();
        let log = open_log(Arc::new(RealDisk::open(&path).unwrap())).await.unwrap();
        let application = ChainLedger {
            tip: Tip { height: Height(0), block: BlockId(LEDGER.0), validators: validators.clone() },
            root: [0; 32],
            time_ms: 0,
            rows: HashMap::new(),
            ordered: HashSet::new(),
            log: log.clone(),
            blocks: BTreeMap::new(),
        };
        let parts = Parts {
            ledger: LEDGER,
            node: *node,
            key: Arc::new(key(node.0)),
            application,
            log,
            group: RangeId(1),
            network: hub.port(*node, &nodes),
            clock: Arc::new(StepClock::default()),
        };
        let handle = start(parts, Options::default()).unwrap();
        hub.plug(*node, handle.clone());
        handles.push(handle);
    }
    for handle in &handles {
        let mut condition = handle.condition();
        condition.wait_for(|condition| condition.quorum.missing() == 0).await.unwrap();
    }
    let drawn = Arc::new(AtomicU64::new(0));
    for in_flight in [1, 64, 1024] {
        measure(&handles, in_flight, &drawn).await;
    }
}
