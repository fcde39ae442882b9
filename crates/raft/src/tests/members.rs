//! Groups of three, linked in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use polity_base::{Class, NodeId, RangeId};
use polity_store::disk::MemoryDisk;

use super::world::*;
use crate::network::{CallError, Network, Request, Response};
use crate::{Group, GroupOptions, Peer};

/// Calls go straight to the member, unless one of the two is cut off.
#[derive(Clone, Default)]
struct Hub {
    inner: Arc<Mutex<HubInner>>,
}

#[derive(Default)]
struct HubInner {
    members: BTreeMap<NodeId, Group>,
    cut_off: Vec<NodeId>,
}

struct Plug {
    hub: Hub,
    from: NodeId,
}

impl Network for Plug {
    fn call(&self, _: RangeId, to: NodeId, _: &Peer, request: Request) -> BoxFuture<'_, Result<Response, CallError>> {
        Box::pin(async move {
            let reachable = |inner: &HubInner| !inner.cut_off.contains(&to) && !inner.cut_off.contains(&self.from);
            let member = {
                let inner = self.hub.inner.lock();
                inner.members.get(&to).filter(|_| reachable(&inner)).cloned()
            };
            let member = member.ok_or_else(|| CallError::Unreachable(to, "cut off".to_owned()))?;
            // As over a wire: what arrives is a copy.
            let request = crate::payload::whole(&postcard::to_stdvec(&request).unwrap()).unwrap();
            let answer = member.answer(request).await.map_err(|e| CallError::Failed(to, e.to_string()))?;
            if reachable(&self.hub.inner.lock()) { Ok(answer) } else { Err(CallError::Failed(to, "lost".to_owned())) }
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
    let hub = Hub::default();
    let founders: BTreeMap<_, _> = (1..=3).map(|n| (NodeId(n), Peer { address: format!("n{n}") })).collect();
    let mut members = BTreeMap::new();
    for node in 1..=3 {
        let network = Arc::new(Plug { hub: hub.clone(), from: NodeId(node) });
        let options = GroupOptions {
            founders: founders.clone(),
            network,
            keep_entries: 1_000,
            heartbeat: Duration::from_millis(20),
            ..GroupOptions::default()
        };
        let store = open_store(Arc::new(MemoryDisk::new(node))).await.unwrap();
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
    let follower = if first == 1 { 2 } else { 1 };
    let refused = members[&follower].group.propose(put(99, "k", "v")).await.unwrap_err();
    assert!(matches!(refused, crate::Error::NotLeader { leader: Some(NodeId(n)), .. } if n == first), "{refused}");
    let refused = members[&follower].group.read_barrier().await.unwrap_err();
    assert_eq!(refused.class(), Class::Unavailable);
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
    // The old leader may believe what it likes; it cannot promise anything.
    let refused = members[&first].group.read_barrier().await.unwrap_err();
    assert_eq!(refused.class(), Class::Unavailable, "{refused}");

    hub.heal();
    let outcome = stranded.await.unwrap();
    assert!(outcome.as_ref().is_err_and(|e| matches!(e.class(), Class::Unknown | Class::Unavailable)), "{outcome:?}");
    let now = leader(&members, &[1, 2, 3]).await;
    assert_eq!(members[&now].read("k").await.as_deref(), Some("new"));
    for member in members.values() {
        while member.group.applied() < members[&now].group.applied() {
            tokio::task::yield_now().await;
        }
        assert_eq!(member.value("k", member.group.applied()).as_deref(), Some("new"));
    }
    stop(hub, members).await;
}
