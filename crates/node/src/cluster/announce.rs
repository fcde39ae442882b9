//! Saying where this node is: how a new one joins, and how one that comes back
//! elsewhere is found again.

use std::time::Duration;

use polity_base::NodeId;
use polity_raft::Peer;
use tokio::time::Instant;

use super::Cluster;
use crate::admin::{Announcement, Answer, Client, Request};
use crate::error::Error;

/// How often a node that joins looks whether it has been sent what it needs.
pub const LOOK_EVERY: Duration = Duration::from_millis(20);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often a node says that it still waits.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Says where this node is until the leader knows, asking the nodes at `seeds` and
/// the members it knows of. Fails when it is told that it does not belong there.
pub async fn announce(cluster: &Cluster, client: &Client, node: NodeId, seeds: &[String]) -> Result<(), Error> {
    let mut pause = FIRST_PAUSE;
    let (begun, mut said) = (Instant::now(), Instant::now());
    loop {
        let status = cluster.group.status();
        let known = |peer: &Peer| peer.address == cluster.own.address && peer.region == cluster.own.region;
        if status.members.iter().any(|m| m.node == node && known(&m.peer)) && status.leader.is_some() {
            return Ok(());
        }
        let announcement = Announcement {
            node,
            address: cluster.own.address.clone(),
            region: cluster.own.region.clone(),
            zone: cluster.own.zone.clone(),
            has_log: status.last_index > 0,
        };
        let members = status.members.iter().filter(|m| m.node != node).map(|m| m.peer.address.clone());
        let mut reasons = Vec::new();
        for address in seeds.iter().cloned().chain(members) {
            match client.ask(&address, &Request::Announce(announcement.clone())).await {
                Ok(Answer::Done(_)) => return Ok(()),
                Ok(Answer::Refused(why)) => return Err(Error::Config(format!("the cluster refuses this node: {why}"))),
                Ok(Answer::Later(why)) => reasons.push(format!("{address}: {why}")),
                Ok(other) => reasons.push(format!("{address} answers something else than was asked: {other:?}")),
                Err(why) => reasons.push(format!("{address}: {why}")),
            }
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let reasons = reasons.join("; ");
            tracing::warn!(reasons, "for {:.0?} no leader has taken notice of this node", begun.elapsed());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
