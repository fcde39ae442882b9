//! What is looked after while the node runs: votes, and where the leader stands, by
//! whoever leads; distances and whom to gossip with, by everyone.

use std::collections::BTreeSet;
use std::time::Duration;

use polity_base::NodeId;
use polity_raft::group::GroupStatus;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Cluster;
use super::placement::{successor, voters};

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(250);
/// For so long the same node must be the better leader before it is made it: one that
/// has just come back has other things to do.
const SETTLED: Duration = Duration::from_secs(3);

/// Looks after the cluster until the node stops.
pub async fn run(cluster: Cluster, mut stop: watch::Receiver<bool>) {
    let (mut expected, mut better) = (Vec::new(), None);
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        cluster.keep_distances();
        let status = cluster.group.status();
        expect(&cluster, &status, &mut expected).await;
        if !status.leads {
            better = None;
            continue;
        }
        give_votes(&cluster, &status).await;
        hand_leadership_on(&cluster, &status, &mut better).await;
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
    let wanted = voters(&cluster.candidates(status));
    // Whoever led when a change was decided may be gone before it was finished: until
    // then a majority of the former voters is needed, too (Ongaro 2014, section 4.3).
    if (wanted == now && !status.changing) || wanted.is_empty() {
        return;
    }
    match cluster.group.change_voters(wanted.clone()).await {
        Ok(()) => tracing::info!(voters = ?wanted, "votes were given anew"),
        // Another change is under way, or this node leads no more: it is looked at
        // again in a moment.
        Err(error) => tracing::debug!(%error, "votes could not be given anew"),
    }
}

/// A leader that is to be left alone, or stands in a less preferred region than another
/// voter, hands over. `since`: who could take it, and for how long that has been so.
async fn hand_leadership_on(cluster: &Cluster, status: &GroupStatus, since: &mut Option<(NodeId, Instant)>) {
    let own = cluster.links.node();
    let candidates = cluster.candidates(status);
    let next = successor(own, &candidates, &cluster.preferred_regions());
    *since = next.map(|next| match *since {
        Some((before, at)) if before == next => (next, at),
        _ => (next, Instant::now()),
    });
    let Some((next, at)) = *since else { return };
    let draining = candidates.get(&own).is_some_and(|c| c.draining);
    if draining || at.elapsed() >= SETTLED {
        *since = None;
        cluster.transfer(next).await;
    }
}
