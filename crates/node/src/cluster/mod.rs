//! This node among others: its links, its place in the group, its answers.
//!
//! ```text
//! Links ── RAFT ──▶ Group          agree on the order of batches
//!       ── LOCKS ─▶ LockServer     queue where rows are fought over
//!       ── visitors ▶ admin        join, list, drain, remove, drills
//!       ── MEMBERSHIP              gossip: who lives, and how busy it is
//! ```
//! | module        | holds                                                     |
//! |---------------|-----------------------------------------------------------|
//! | [`placement`] | who votes                                                 |
//! | `announce`    | saying where this node is, and joining                    |
//! | `locks`       | questions about row locks, over the links                 |
//! | `upkeep`      | what the leader, and every node, looks after              |

pub(crate) mod announce;
pub(crate) mod locks;
pub mod placement;
pub(crate) mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use polity_base::NodeId;
use polity_cluster::links::{Fault, Links, Rule, Way};
use polity_cluster::membership::{Membership, MembershipOptions};
use polity_raft::{Group, Peer};

use crate::admin::Weather;

/// This node among others.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub links: Links,
    pub membership: Membership,
    pub group: Group,
    pub own: Peer,
    pub allow_faults: bool,
    delays: Arc<BTreeMap<String, Duration>>,
    rules: Arc<Mutex<Rules>>,
}

/// The rules that were set on the links, by their numbers there.
#[derive(Default)]
struct Rules {
    /// Delays to regions, which stay
    distances: BTreeMap<NodeId, u64>,
    /// Drills, which end with healing
    drills: Vec<(u64, String)>,
}

impl Cluster {
    pub fn new(
        links: Links,
        group: Group,
        own: Peer,
        allow_faults: bool,
        delays: BTreeMap<String, Duration>,
    ) -> Cluster {
        let options = MembershipOptions { address: own.address.clone(), ..MembershipOptions::default() };
        let membership = Membership::start(&links, options);
        Cluster { links, membership, group, own, allow_faults, delays: Arc::new(delays), rules: Arc::default() }
    }

    /// Delays messages to members in regions that are said to be far away.
    pub fn keep_distances(&self) {
        if self.delays.is_empty() {
            return;
        }
        for member in self.group.status().members {
            let Some(by) = self.delays.get(&member.peer.region).copied() else { continue };
            let mut rules = self.rules.lock();
            if member.node == self.links.node() || rules.distances.contains_key(&member.node) {
                continue;
            }
            let rule = Rule {
                peer: Some(member.node),
                way: Way::Outgoing,
                fault: Fault::Delay { by, jitter: Duration::ZERO },
            };
            match self.links.faults().set(rule) {
                Ok(number) => drop(rules.distances.insert(member.node, number)),
                Err(error) => tracing::warn!(%error, "a distance cannot be kept"),
            }
        }
    }

    /// Disturbs messages between this node and `peers`.
    pub fn disturb(&self, peers: &[NodeId], weather: Weather) -> Result<(), String> {
        let mut rules = self.rules.lock();
        for peer in peers {
            // Each side is told: what both delay or lose would be delayed or lost twice.
            let (way, fault) = match weather {
                Weather::Cut => (Way::Both, Fault::Cut),
                Weather::Slow(by) => (Way::Outgoing, Fault::Delay { by, jitter: Duration::ZERO }),
                Weather::Loss(probability) => (Way::Outgoing, Fault::Drop { probability }),
            };
            let number = self.links.faults().set(Rule { peer: Some(*peer), way, fault }).map_err(|e| e.to_string())?;
            let what = match weather {
                Weather::Cut => format!("cut off from node {}", peer.0),
                Weather::Slow(by) => format!("messages to node {} take {by:?} longer", peer.0),
                Weather::Loss(share) => format!("{} % of messages to node {} are lost", share * 100.0, peer.0),
            };
            rules.drills.push((number, what));
        }
        Ok(())
    }

    /// Ends all drills; distances stay.
    pub fn heal(&self) -> usize {
        let drills = std::mem::take(&mut self.rules.lock().drills);
        for (number, _) in &drills {
            self.links.faults().clear(*number);
        }
        drills.len()
    }

    /// The drills there are.
    pub fn disturbances(&self) -> Vec<String> {
        self.rules.lock().drills.iter().map(|(_, what)| what.clone()).collect()
    }

    /// Hands leadership on, if this node has it and another can take it: so that its
    /// stop makes nobody wait for an election.
    pub async fn hand_over(&self) {
        let status = self.group.status();
        if !status.leads {
            return;
        }
        let candidates = upkeep::candidates(&status);
        let own = self.links.node();
        let next = candidates.iter().find(|(node, c)| **node != own && c.votes && c.is_current && !c.draining);
        let Some((next, _)) = next else { return };
        if let Err(error) = self.group.transfer_leader(*next).await {
            tracing::info!(%error, "leadership could not be handed on");
        }
    }
}
