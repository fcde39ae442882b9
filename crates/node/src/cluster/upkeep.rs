//! What is looked after while the node runs: votes, by whoever leads; distances and
//! whom to gossip with, by everyone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use polity_base::NodeId;
use polity_raft::group::GroupStatus;
use tokio::sync::watch;

use super::Cluster;
use super::placement::{Candidate, voters};

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(250);
/// A member that lacks so many entries at most is as good as current.
const NEARLY: u64 = 1_000;

/// Looks after the cluster until the node stops.
pub async fn run(cluster: Cluster, mut stop: watch::Receiver<bool>) {
    let mut expected = Vec::new();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        cluster.keep_distances();
        let status = cluster.group.status();
        expect(&cluster, &status, &mut expected).await;
        if !status.leads {
            continue;
        }
        give_votes(&cluster, &status).await;
        hand_leadership_on(&cluster, &status).await;
    }
}

/// Has this node look for all members in its gossip.
async fn expect(cluster: &Cluster, status: &GroupStatus, expected: &mut Vec<(NodeId, String)>) {
    let own = cluster.links.node();
    let others = status.members.iter().filter(|m| m.node != own);
    let members: Vec<_> = others.map(|m| (m.node, m.peer.address.clone())).collect();
    if members != *expected {
        cluster.membership.expect(members.clone()).await;
        *expected = members;
    }
}

async fn give_votes(cluster: &Cluster, status: &GroupStatus) {
    let now: BTreeSet<NodeId> = status.voters.iter().copied().collect();
    let wanted = voters(&candidates(status));
    if wanted == now || wanted.is_empty() {
        return;
    }
    match cluster.group.change_voters(wanted.clone()).await {
        Ok(()) => tracing::info!(voters = ?wanted, "votes were given anew"),
        // Another change is under way, or this node leads no more: it is looked at
        // again in a moment.
        Err(error) => tracing::debug!(%error, "votes could not be given anew"),
    }
}

/// A leader that is to be left alone hands over to a voter that is current.
async fn hand_leadership_on(cluster: &Cluster, status: &GroupStatus) {
    let own = cluster.links.node();
    if status.members.iter().any(|m| m.node == own && m.peer.draining) {
        cluster.hand_over().await;
    }
}

/// What the choice of voters needs to know of each member.
pub(super) fn candidates(status: &GroupStatus) -> BTreeMap<NodeId, Candidate> {
    let candidate = |m: &polity_raft::group::MemberStatus| Candidate {
        votes: m.votes,
        is_current: m.matched_index.is_some_and(|at| at + NEARLY >= status.last_index),
        draining: m.peer.draining,
        region: m.peer.region.clone(),
        zone: m.peer.zone.clone(),
    };
    status.members.iter().map(|m| (m.node, candidate(m))).collect()
}
