//! Groups of three, linked in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use polity_base::{Batch, Class, IndexId, Key, NodeId, Operation, RangeId, Timestamp};
use polity_store::disk::{Crash, MemoryDisk};

use super::world::*;
use crate::network::{CallError, Network, Request, Response};
use crate::{Error, Group, GroupOptions, Peer};

/// Calls go straight to the member, unless one of the two is cut off.
#[derive(Clone, Default)]
struct Hub {
    inner: Arc<Mutex<HubInner>>,
}

#[derive(Default)]
struct HubInner {
    members: BTreeMap<NodeId, Group>,
    cut_off: Vec<NodeId>,
    /// Loses every third message on the way to it, or the answer
    unreliable: Option<NodeId>,
    calls: u64,
}

impl HubInner {
    /// What happens to a message to `to`: whether it arrives, and its answer.
    fn fate(&mut self, to: NodeId) -> (bool, bool) {
        self.calls += 1;
        let lost = self.unreliable == Some(to) && self.calls.is_multiple_of(3);
        (!lost || self.calls.is_multiple_of(2), !lost)
    }
}

struct Plug {
    hub: Hub,
    from: NodeId,
}

impl Network for Plug {
    fn call(&self, _: RangeId, to: NodeId, _: &Peer, request: Request) -> BoxFuture<'_, Result<Response, CallError>> {
        Box::pin(async move {
            let reachable = |inner: &HubInner| !inner.cut_off.contains(&to) && !inner.cut_off.contains(&self.from);
            let (arrives, is_answered) = self.hub.inner.lock().fate(to);
            let member = {
                let inner = self.hub.inner.lock();
                inner.members.get(&to).filter(|_| arrives && reachable(&inner)).cloned()
            };
            let member = member.ok_or_else(|| CallError::Unreachable(to, "cut off".to_owned()))?;
            // As over a wire: what arrives is a copy.
            let request = crate::payload::whole(&postcard::to_stdvec(&request).unwrap()).unwrap();
            let answer = member.answer(request).await.map_err(|e| CallError::Failed(to, e.to_string()))?;
            if is_answered && reachable(&self.hub.inner.lock()) {
                Ok(answer)
            } else {
                Err(CallError::Failed(to, "lost".to_owned()))
            }
        })
    }
}

impl Hub {
    fn cut_off(&self, node: u64) {
        self.inner.lock().cut_off.push(NodeId(node));
    }

    fn heal(&self) {
        self.inner.lock().cut_off.clear();
    }
}

async fn three() -> (Hub, BTreeMap<u64, Member>) {
    three_on(&[1, 2, 3].map(MemoryDisk::new)).await
}

async fn three_on(disks: &[MemoryDisk; 3]) -> (Hub, BTreeMap<u64, Member>) {
    let hub = Hub::default();
    let founders: BTreeMap<_, _> =
        (1..=3).map(|n| (NodeId(n), Peer { address: format!("n{n}"), ..Peer::default() })).collect();
    let mut members = BTreeMap::new();
    for (node, disk) in (1..=3).zip(disks) {
        let network = Arc::new(Plug { hub: hub.clone(), from: NodeId(node) });
        let options = GroupOptions {
            founders: founders.clone(),
            network,
            keep_entries: 1_000,
            heartbeat: Duration::from_millis(50),
            refuse_after: Duration::from_millis(500),
            ..GroupOptions::default()
        };
        let store = open_store(Arc::new(disk.clone())).await.unwrap();
        let member = start(store, node, options).await.unwrap();
        hub.inner.lock().members.insert(NodeId(node), member.group.clone());
        members.insert(node, member);
    }
    (hub, members)
}

/// The member among `nodes` that leads and can write.
async fn leader(members: &BTreeMap<u64, Member>, nodes: &[u64]) -> u64 {
    loop {
        for node in nodes {
            let group = &members[node].group;
            if group.status().leads && group.read_barrier().await.is_ok() {
                return *node;
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Does what only the leader can: again with the next one, should it have just changed,
/// as it may on a busy machine.
async fn by_the_leader(members: &BTreeMap<u64, Member>, act: impl AsyncFn(&Group) -> Result<(), Error>) {
    let all: Vec<u64> = members.keys().copied().collect();
    while let Err(error) = act(&members[&leader(members, &all).await].group).await {
        assert!(matches!(error, Error::NotLeader { .. }), "{error}");
    }
}

async fn stop(hub: Hub, members: BTreeMap<u64, Member>) {
    hub.inner.lock().members.clear();
    for (_, member) in members {
        member.stop().await;
    }
}

#[tokio::test]
async fn three_members_agree() {
    let (hub, members) = three().await;
    let first = leader(&members, &[1, 2, 3]).await;
    for n in 0..50u128 {
        committed(members[&first].group.propose(put(n, &n.to_string(), "v")).await.unwrap());
    }
    // Any member takes batches and reads; what it was told is there when it is asked.
    let follower = &members[&if first == 1 { 2 } else { 1 }];
    let at = committed(follower.group.propose(put(99, "k", "v")).await.unwrap());
    assert_eq!(follower.value("k", at).as_deref(), Some("v"));
    assert_eq!(follower.read("49").await.as_deref(), Some("v"));
    // The same batch again is not done again.
    let again = follower.group.propose(put(99, "k", "v")).await.unwrap();
    assert_eq!(again, polity_store::state::BatchOutcome::Duplicate(at));
    let rows = members[&first].rows();
    for member in members.values() {
        while member.group.applied() < members[&first].group.applied() {
            tokio::task::yield_now().await;
        }
        assert_eq!(member.rows(), rows);
    }
    stop(hub, members).await;
}

#[tokio::test]
async fn a_member_that_starts_alone_has_the_definitions_it_had() {
    let disks = [1, 2, 3].map(MemoryDisk::new);
    let (hub, members) = three_on(&disks).await;
    let define = |n: u8| {
        let key = Key([&IndexId::CATALOG.0.to_be_bytes()[..], &[n]].concat().into());
        let operation = Operation::Put { key: key.clone(), value: vec![n].into() };
        (key, Batch { operations: vec![operation], ..put(n.into(), "k", "v") })
    };
    // Nothing is ordered after the last of them that would tell how far the log is committed.
    for n in 0..5 {
        let (_, batch) = define(n);
        by_the_leader(&members, async |group| group.propose(batch.clone()).await.map(|outcome| _ = committed(outcome)))
            .await;
    }
    let (last, _) = define(4);
    let has_it = |member: &Member| member.state.snapshot().unwrap().get(&last, Timestamp::MAX).unwrap().is_some();
    while !members.values().all(has_it) {
        tokio::task::yield_now().await;
    }
    // What is not synced by now is lost.
    let crashed = disks.map(|disk| disk.restart(Crash::Lost));
    stop(hub, members).await;
    for (node, disk) in (1..=3).zip(crashed) {
        let network = Arc::new(Plug { hub: Hub::default(), from: NodeId(node) });
        let options = GroupOptions { network, ..GroupOptions::default() };
        let alone = start(open_store(Arc::new(disk)).await.unwrap(), node, options).await.unwrap();
        assert!(has_it(&alone), "node {node}");
        assert!(!alone.group.status().leads);
        alone.stop().await;
    }
}

#[tokio::test]
async fn the_majority_goes_on_and_the_minority_refuses() {
    let (hub, members) = three().await;
    let first = leader(&members, &[1, 2, 3]).await;
    let old = &members[&first].group;
    committed(old.propose(put(1, "k", "old")).await.unwrap());
    hub.cut_off(first);
    let stranded = tokio::spawn({
        let old = old.clone();
        async move { old.propose(put(2, "k", "stranded")).await }
    });
    let others: Vec<u64> = (1..=3).filter(|n| *n != first).collect();
    let second = leader(&members, &others).await;
    assert_eq!(members[&second].read("k").await.as_deref(), Some("old"));
    committed(members[&second].group.propose(put(3, "k", "new")).await.unwrap());
    assert_eq!(members[&second].read("k").await.as_deref(), Some("new"));
    // The old leader may believe what it likes; it cannot promise anything, and says
    // whom it misses.
    let refused = members[&first].group.read_barrier().await.unwrap_err();
    let missed: Vec<NodeId> = others.iter().map(|n| NodeId(*n)).collect();
    match &refused {
        crate::Error::NoQuorum { unreachable, since: Some(_), .. } => assert_eq!(*unreachable, missed),
        other => panic!("{other}"),
    }
    let refused = members[&first].group.propose(put(4, "k", "late")).await.unwrap_err();
    assert_eq!(refused.class(), Class::Unavailable, "{refused}");

    // What was on its way when the leader was cut off is decided by the others, or
    // once, or never; its caller is told which, or that it is not known.
    hub.heal();
    match stranded.await.unwrap() {
        Err(error) => assert_eq!(error.class(), Class::Unknown, "{error}"),
        Ok(outcome) => drop(committed(outcome)),
    }
    members[&first].read("k").await;
    let value = members[&first].read("k").await;
    assert!(["new", "stranded"].contains(&value.as_deref().unwrap()), "{value:?}");
    let now = leader(&members, &[1, 2, 3]).await;
    let end = members[&now].group.applied();
    for member in members.values() {
        while member.group.applied() < end {
            tokio::task::yield_now().await;
        }
        assert_eq!(member.value("k", end), members[&now].value("k", end));
    }
    stop(hub, members).await;
}

/// A member that is not one yet, on `hub`.
async fn newcomer(hub: &Hub, node: u64) -> Member {
    let network = Arc::new(Plug { hub: hub.clone(), from: NodeId(node) });
    let options = GroupOptions {
        network,
        keep_entries: 1_000,
        heartbeat: Duration::from_millis(50),
        join: true,
        ..GroupOptions::default()
    };
    let member = start(open_store(Arc::new(MemoryDisk::new(node))).await.unwrap(), node, options).await.unwrap();
    hub.inner.lock().members.insert(NodeId(node), member.group.clone());
    member
}

#[tokio::test]
async fn a_member_is_replaced() {
    let (hub, mut members) = three().await;
    let first = leader(&members, &[1, 2, 3]).await;
    committed(members[&first].group.propose(put(1, "k", "v")).await.unwrap());
    let lost = if first == 1 { 2 } else { 1 };
    members.remove(&lost).unwrap().stop().await;
    hub.inner.lock().members.remove(&NodeId(lost));

    members.insert(4, newcomer(&hub, 4).await);
    let here = Peer { region: "here".to_owned(), ..Peer::default() };
    by_the_leader(&members, async |group| group.add_learner(NodeId(4), here.clone()).await).await;
    // It reads as soon as it has caught up, without a vote.
    assert_eq!(members[&4].read("k").await.as_deref(), Some("v"));
    let voters: BTreeSet<NodeId> = (1..=4).filter(|n| *n != lost).map(NodeId).collect();
    by_the_leader(&members, async |group| group.change_voters(voters.clone()).await).await;
    by_the_leader(&members, async |group| group.remove(NodeId(lost)).await).await;
    let voted: Vec<u64> = members.keys().copied().collect();
    let status = members[&leader(&members, &voted).await].group.status();
    assert_eq!(status.voters.len(), 3);
    assert_eq!(status.members.iter().find(|m| m.node == NodeId(4)).unwrap().peer.region, "here");
    assert!(!status.members.iter().any(|m| m.node == NodeId(lost)));
    // Its vote counts: without another one the group goes on.
    let third = 6 - first - lost;
    hub.cut_off(third);
    committed(members[&4].group.propose(put(2, "k", "w")).await.unwrap());
    hub.heal();
    stop(hub, members).await;
}

#[tokio::test]
async fn leadership_is_handed_on_and_nobody_notices() {
    let (hub, members) = three().await;
    let first = leader(&members, &[1, 2, 3]).await;
    let next = first % 3 + 1;
    let writer = {
        let group = members[&(next % 3 + 1)].group.clone();
        tokio::spawn(async move {
            for n in 0..200u128 {
                committed(group.propose(put(n, "k", &n.to_string())).await.unwrap());
            }
        })
    };
    members[&first].group.transfer_leader(NodeId(next)).await.unwrap();
    writer.await.unwrap();
    assert_eq!(members[&first].read("k").await.as_deref(), Some("199"));
    stop(hub, members).await;
}

#[tokio::test]
async fn a_member_that_the_log_cannot_help_is_sent_the_rows_though_the_way_is_bad() {
    let (hub, members) = three().await;
    let first = leader(&members, &[1, 2, 3]).await;
    let group = &members[&first].group;
    for n in 0..1_500u128 {
        committed(group.propose(put(n, &format!("k{n}"), &"v".repeat(4_000))).await.unwrap());
    }
    for member in members.values() {
        while member.group.applied() < group.applied() {
            tokio::task::yield_now().await;
        }
        let made = member.state.checkpoint().unwrap();
        member.group.compact(made.marks[&RANGE]).await.unwrap();
    }
    while group.status().purged_index == 0 {
        tokio::task::yield_now().await;
    }
    by_the_leader(&members, async |group| group.add_learner(NodeId(4), Peer::default()).await).await;
    let fourth = newcomer(&hub, 4).await;
    // Every third message to it is lost, or its answer is.
    hub.inner.lock().unreliable = Some(NodeId(4));
    let last = committed(group.propose(put(9_999, "last", "v")).await.unwrap());
    while fourth.group.applied() < last {
        tokio::task::yield_now().await;
    }
    assert!(fourth.group.status().purged_index > 0);
    assert_eq!(fourth.read("k7").await.map(|v| v.len()), Some(4_000));
    hub.inner.lock().unreliable = None;
    let (ours, theirs) = (members[&first].rows(), fourth.rows());
    assert_eq!(ours.len(), theirs.len());
    assert!(ours == theirs);
    // It can be made a voter, and what it holds survives its restart.
    by_the_leader(&members, async |group| group.change_voters([1, 2, 3, 4].map(NodeId).into()).await).await;
    let mut members = members;
    members.insert(4, fourth);
    stop(hub, members).await;
}
