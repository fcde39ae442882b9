//! Groups of three over links on the loopback interface.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use polity_base::time::HybridClock;
use polity_base::{Batch, Key, Operation, Timestamp};
use polity_raft::GroupOptions;
use polity_store::disk::MemoryDisk;
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{BatchOutcome, State, StateOptions};
use proptest::prelude::*;

use super::*;
use crate::links::tests::{NOW, Numbers, SetClock, World, until};
use crate::links::{Fault, Rule, Way};

const RANGE: RangeId = RangeId(1);
const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

struct Node {
    links: Links,
    group: Group,
    log: Log,
    state: Arc<State>,
}

impl Node {
    async fn start(links: Links, founders: BTreeMap<NodeId, Peer>) -> Node {
        let (node, disk) = (links.node(), Arc::new(MemoryDisk::new(links.node().0)));
        let entropy = Arc::new(Numbers(AtomicU64::new(100 + node.0)));
        let keys = Keyring::open(&*disk, &MasterKey::from_hex(KEY, "the test").unwrap(), &*entropy).unwrap();
        let (log, _) = Log::open(disk.clone(), &keys, entropy.clone(), LogOptions::default()).await.unwrap();
        let state = Arc::new(State::open(disk, &keys, entropy, StateOptions::default()).unwrap());
        let clock = Arc::new(HybridClock::new(Arc::new(SetClock(AtomicU64::new(NOW.0))), Timestamp::ZERO));
        let options = GroupOptions {
            founders,
            network: Arc::new(RaftLinks::new(links.clone())),
            keep_entries: 1_000,
            ..GroupOptions::default()
        };
        let group = Group::start(RANGE, node, log.clone(), state.clone(), clock, options).await.unwrap();
        links.register(Service::RAFT, Arc::new(RaftAnswers::new(group.clone())));
        Node { links, group, log, state }
    }

    async fn stop(self) {
        self.group.shutdown().await;
        self.links.stop().await;
        self.log.close().await;
    }

    /// The value of a key as of what is applied here.
    fn value(&self, key: &str) -> Option<Bytes> {
        let snapshot = self.state.snapshot().unwrap();
        snapshot.get(&named(key), self.group.applied()).unwrap().map(|(value, _)| value)
    }
}

fn peer(links: &Links) -> Peer {
    Peer { address: links.local_address().to_string(), ..Peer::default() }
}

async fn three(world: &World) -> Vec<Node> {
    let mut links = Vec::new();
    for node in 1..=3 {
        let mut config = world.config(node);
        config.limits.silence = Duration::from_secs(2);
        links.push(Links::start(config).await.unwrap());
    }
    let founders: BTreeMap<_, _> = links.iter().map(|links| (links.node(), peer(links))).collect();
    let mut nodes = Vec::new();
    for links in links {
        nodes.push(Node::start(links, founders.clone()).await);
    }
    nodes
}

fn named(key: &str) -> Key {
    Key([b"\0\0\x40\0", key.as_bytes()].concat().into())
}

fn put(id: u128, key: &str, value: &[u8]) -> Batch {
    let operation = Operation::Put { key: named(key), value: Bytes::copy_from_slice(value) };
    Batch { id, author: NodeId(1), preconditions: vec![], operations: vec![operation] }
}

/// The one among `nodes` that leads and can write.
async fn leader<'a>(nodes: &[&'a Node]) -> &'a Node {
    loop {
        for node in nodes {
            if node.group.status().leads && node.group.read_barrier().await.is_ok() {
                return node;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Commits a batch, and asks again where a change of leaders leaves that open, as
/// may happen on a machine that has much to do.
async fn commit(node: &Node, batch: Batch) {
    loop {
        match node.group.propose(batch.clone()).await {
            Ok(BatchOutcome::Committed(_) | BatchOutcome::Duplicate(_)) => return,
            Err(polity_raft::Error::OutcomeUnknown { .. } | polity_raft::Error::NoQuorum { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_agrees_over_links_and_outlives_a_partition() {
    let world = World::new();
    let nodes = three(&world).await;
    let first = leader(&nodes.iter().collect::<Vec<_>>()).await;
    for n in 0..50u128 {
        commit(first, put(n, &n.to_string(), b"v")).await;
    }
    for (n, node) in nodes.iter().enumerate() {
        commit(node, put(100 + n as u128, "by any", b"v")).await;
    }
    // One that goes with the bulk, and is larger than a control message may be
    let large = vec![7; 6 << 20];
    commit(first, put(50, "large", &large)).await;
    for node in &nodes {
        until("it has applied all", || node.value("large").is_some()).await;
        assert_eq!(node.value("49").as_deref(), Some(&b"v"[..]));
        assert_eq!(node.value("large").as_deref(), Some(&large[..]));
    }
    let sent_large = |node: &Node| node.links.peers().iter().any(|peer| peer.bulk.bytes_sent > large.len() as u64);
    assert!(nodes.iter().any(sent_large));

    let first = leader(&nodes.iter().collect::<Vec<_>>()).await;
    first.links.faults().set(Rule { peer: None, way: Way::Both, fault: Fault::Cut }).unwrap();
    let others: Vec<&Node> = nodes.iter().filter(|node| node.links.node() != first.links.node()).collect();
    let second = leader(&others).await;
    commit(second, put(51, "k", b"new")).await;
    assert_eq!(first.value("k"), None);

    first.links.faults().clear_all();
    until("the old leader has caught up", || first.value("k").is_some()).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test]
async fn what_is_no_request_of_the_group_is_refused() {
    let world = World::new();
    let links = world.start(1).await;
    let node = Node::start(links, BTreeMap::new()).await;
    let answers = RaftAnswers::new(node.group.clone());
    let ask = async |bytes: Bytes| answers.answer(NodeId(2), bytes).await.unwrap_err();
    assert!(matches!(ask(Bytes::new()).await, Refusal::Malformed(_)));
    assert!(matches!(ask(Bytes::from(vec![0xff; 100])).await, Refusal::Malformed(_)));
    // A heartbeat, field by field
    let vote = polity_raft::types::Vote::new(0, NodeId(2));
    let append = |range: u64| encode(&(RangeId(range), 0u8, vote, None::<u8>, [0u8; 1], None::<u8>)).unwrap();
    assert!(decode::<(RangeId, Request)>(&append(9)).is_ok_and(|(range, _)| range == RangeId(9)));
    let elsewhere = append(9);
    assert_eq!(ask(elsewhere).await, Refusal::NoService);
    let longer = [&append(1)[..], b"!"].concat();
    assert_eq!(ask(longer.into()).await, Refusal::Malformed("1 bytes too many".to_owned()));
    node.stop().await;
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = decode::<(RangeId, Request)>(&bytes);
        let _ = decode::<Response>(&bytes);
    }
}
