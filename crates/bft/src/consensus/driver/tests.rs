//! Validators with their tasks, in one process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use polity_base::{NodeId, RangeId};
use polity_store::disk::{Fault, MemoryDisk};

use super::{Handle, Options, Parts, SubmitError, start};
use crate::adversary;
use crate::block::{Block, Certificate};
use crate::consensus::application::{Application, CertifiedBlock, CommitError, Committed, Ingredients, Verified};
use crate::consensus::error::Fatal;
use crate::consensus::validator::Tip;
use crate::evidence::Evidence;
use crate::signing::SecretKey;
use crate::transaction::SignedTransaction;
use crate::types::{Height, LedgerId, Validator, Validators};
use crate::world::Subject;
use crate::world::local::{Hub, StepClock, open_log};
use crate::world::simple::SimpleLedger;

/// A ledger that outlives its validator.
#[derive(Clone)]
struct Kept(Arc<Mutex<SimpleLedger>>);

impl Application for Kept {
    type Outcome = ();

    fn tip(&self) -> Tip {
        self.0.lock().tip()
    }

    fn admits(&self, transaction: &SignedTransaction) -> bool {
        self.0.lock().admits(transaction)
    }

    fn admits_evidence(&self, evidence: &Evidence) -> bool {
        self.0.lock().admits_evidence(evidence)
    }

    fn build(&mut self, ingredients: Ingredients) -> Result<Option<Arc<Block>>, CommitError> {
        self.0.lock().build(ingredients)
    }

    fn check(&mut self, block: &Arc<Block>, verified: Verified) -> Result<(), String> {
        self.0.lock().check(block, verified)
    }

    fn commit(&mut self, block: &Arc<Block>, certificate: &Arc<Certificate>) -> Result<Committed<()>, CommitError> {
        self.0.lock().commit(block, certificate)
    }

    fn block(&self, height: Height) -> Result<Option<CertifiedBlock>, CommitError> {
        self.0.lock().block(height)
    }

    fn oldest_block(&self) -> Height {
        self.0.lock().oldest_block()
    }

    fn snapshot(&self) -> Option<Height> {
        self.0.lock().snapshot()
    }

    fn snapshot_part(&mut self, height: Height, part: u32) -> Result<Option<(Bytes, u32)>, CommitError> {
        self.0.lock().snapshot_part(height, part)
    }

    fn install(&mut self, height: Height, parts: Vec<Bytes>) -> Result<Tip, CommitError> {
        self.0.lock().install(height, parts)
    }
}

/// Four nodes, of which any may be started and stopped.
struct Cluster {
    name: LedgerId,
    hub: Arc<Hub>,
    nodes: Vec<NodeId>,
    disks: Vec<MemoryDisk>,
    ledgers: Vec<Kept>,
    handles: Vec<Option<Handle<Kept>>>,
    drawn: u64,
}

impl Cluster {
    async fn start() -> Cluster {
        let key = |n: u8| SecretKey::from_seed([n; 32]);
        let validator = |n: u8| Validator { node: NodeId(u64::from(n)), key: key(n).public(), power: 1 };
        let validators = Validators::new((1..=4).map(validator).collect());
        let nodes: Vec<NodeId> = (1..=4).map(NodeId).collect();
        let ledgers = nodes.iter().map(|node| SimpleLedger::genesis(&validators, *node));
        let ledgers = ledgers.map(|ledger| Kept(Arc::new(Mutex::new(ledger)))).collect();
        let disks = (0..4).map(MemoryDisk::new).collect();
        let handles = vec![None, None, None, None];
        let name = SimpleLedger::name(&validators);
        let mut cluster = Cluster { name, hub: Arc::default(), nodes, disks, ledgers, handles, drawn: 0 };
        for node in 0..4 {
            cluster.start_node(node).await;
        }
        cluster.wait(|condition| condition.quorum.missing() == 0).await;
        cluster
    }

    async fn start_node(&mut self, node: usize) {
        let log = open_log(Arc::new(self.disks[node].clone())).await.unwrap();
        let id = self.nodes[node];
        let parts = Parts {
            ledger: self.name,
            node: id,
            key: Arc::new(SecretKey::from_seed([id.0 as u8; 32])),
            application: self.ledgers[node].clone(),
            log,
            group: RangeId(77),
            network: self.hub.port(id, &self.nodes),
            clock: Arc::new(StepClock::default()),
        };
        let handle = start(parts, Options::default()).unwrap();
        self.hub.plug(id, handle.clone());
        self.handles[node] = Some(handle);
    }

    async fn stop_node(&mut self, node: usize) {
        self.hub.unplug(self.nodes[node]);
        if let Some(handle) = self.handles[node].take() {
            handle.stop().await;
        }
    }

    /// Waits until it is so on every node that runs.
    async fn wait(&self, mut so: impl FnMut(&super::Condition) -> bool) {
        for handle in self.handles.iter().flatten() {
            let mut condition = handle.condition();
            let reached = condition.wait_for(|condition| so(condition));
            tokio::time::timeout(Duration::from_secs(60), reached).await.expect("takes too long").unwrap();
        }
    }

    fn transaction(&mut self) -> Arc<SignedTransaction> {
        let drawn = &mut self.drawn;
        let mut draw = || {
            *drawn += 1;
            *drawn
        };
        Arc::new(self.ledgers[0].0.lock().transaction(&mut draw))
    }

    async fn submit(&mut self, node: usize) -> Result<(), SubmitError> {
        let transaction = self.transaction();
        self.handles[node].as_ref().unwrap().submit(transaction).await
    }

    fn tip(&self, node: usize) -> Tip {
        self.ledgers[node].tip()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_ordered_wherever_it_is_handed_in() {
    let mut cluster = Cluster::start().await;
    for node in 0..4 {
        cluster.submit(node).await.unwrap();
    }
    let height = cluster.tip(3).height;
    cluster.wait(|condition| condition.committed >= height).await;
    assert!(height >= Height(4), "one at a time makes a block each: {height}");
    let tips: Vec<Tip> = (0..4).map(|node| cluster.tip(node)).collect();
    assert!(tips.windows(2).all(|pair| pair[0] == pair[1]), "{tips:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_signature_is_refused_at_the_door() {
    let mut cluster = Cluster::start().await;
    let right = cluster.transaction();
    let mut body = right.body().clone();
    body.nonce += 1;
    let forged = SignedTransaction::with_signature(body, right.signature().clone());
    let handle = cluster.handles[0].clone().unwrap();
    assert_eq!(handle.submit(Arc::new(forged)).await, Err(SubmitError::Signature));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_comes_back_with_its_log_and_catches_up() {
    let mut cluster = Cluster::start().await;
    cluster.submit(0).await.unwrap();
    cluster.stop_node(3).await;
    for _ in 0..3 {
        cluster.submit(0).await.unwrap();
    }
    cluster.start_node(3).await;
    let height = cluster.tip(0).height;
    cluster.wait(|condition| condition.committed >= height && condition.quorum.missing() == 0).await;
    cluster.submit(3).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_the_missing_are_named_at_once() {
    let mut cluster = Cluster::start().await;
    cluster.submit(0).await.unwrap();
    cluster.stop_node(2).await;
    cluster.stop_node(3).await;
    cluster.wait(|condition| condition.quorum.missing() > 0).await;
    let Err(SubmitError::NoQuorum(quorum)) = cluster.submit(0).await else { panic!("there is no quorum") };
    assert_eq!((quorum.needed, quorum.present, quorum.missing()), (3, 2, 1));
    let silent: Vec<NodeId> = quorum.silent.iter().map(|silent| silent.node).collect();
    assert_eq!(silent, [NodeId(3), NodeId(4)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_validator_whose_log_fails_says_nothing_more() {
    let mut cluster = Cluster::start().await;
    cluster.submit(0).await.unwrap();
    cluster.disks[3].fail_after(0, Fault::Error);
    for _ in 0..3 {
        cluster.submit(0).await.unwrap();
    }
    let mut condition = cluster.handles[3].as_ref().unwrap().condition();
    let stopped = condition.wait_for(|condition| condition.stopped.is_some());
    let stopped = tokio::time::timeout(Duration::from_secs(60), stopped).await.expect("takes too long").unwrap();
    assert!(matches!(stopped.stopped, Some(Fatal::Log(_))), "{:?}", stopped.stopped);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_made_to_lie_is_accused_in_a_block() {
    let mut cluster = Cluster::start().await;
    cluster.handles[3].as_ref().unwrap().lie(adversary::by_name("double_voter"));
    let mut accused = false;
    for _ in 0..40 {
        cluster.submit(0).await.unwrap();
        let ledger = cluster.ledgers[0].0.lock();
        let newest = ledger.block(ledger.tip().height).unwrap();
        accused |= newest.is_some_and(|(block, _)| block.evidence.iter().any(|e| e.validator() == NodeId(4)));
        if accused {
            break;
        }
    }
    assert!(accused, "nobody was accused in forty blocks");
}
