//! Which members answer this one, and where they are.
//!
//! Refusals name the nodes that cannot be reached and since when: that is what an
//! operator needs first. It is known from the calls this member makes anyway, of
//! which there are several a second whenever something is wrong: a leader sends
//! heartbeats, a member without a leader asks for votes.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use polity_base::time::HybridClock;
use polity_base::{NodeId, Timestamp};

use crate::types::{Peer, StoredMembership};

/// Which members answer this one, and where they are.
pub(crate) struct Contacts {
    clock: Arc<HybridClock>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    peers: BTreeMap<NodeId, Peer>,
    /// Members whose last call brought no answer, and when the first of those was made
    silent: BTreeMap<NodeId, Timestamp>,
}

impl Contacts {
    pub fn new(clock: Arc<HybridClock>) -> Contacts {
        Contacts { clock, inner: Mutex::default() }
    }

    /// Takes over who belongs to the group. A member that comes back elsewhere is
    /// called there from now on.
    pub fn follow(&self, membership: &StoredMembership) {
        let peers: BTreeMap<NodeId, Peer> =
            membership.membership().nodes().map(|(node, peer)| (*node, peer.clone())).collect();
        let mut inner = self.inner.lock();
        inner.silent.retain(|node, _| peers.contains_key(node));
        inner.peers = peers;
    }

    /// Where a member is.
    pub fn peer(&self, node: NodeId) -> Option<Peer> {
        self.inner.lock().peers.get(&node).cloned()
    }

    /// Notes whether a call brought an answer.
    pub fn note(&self, node: NodeId, answered: bool) {
        if answered {
            self.inner.lock().silent.remove(&node);
            return;
        }
        let now = self.clock.now();
        self.inner.lock().silent.entry(node).or_insert(now);
    }

    /// The members that do not answer, and since when the first of them does not.
    pub fn silent(&self) -> (Vec<NodeId>, Option<Timestamp>) {
        let inner = self.inner.lock();
        (inner.silent.keys().copied().collect(), inner.silent.values().min().copied())
    }
}
