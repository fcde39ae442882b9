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
//! | [`placement`] | who votes, and who leads                                  |
//! | `preference`  | where leaders are to stand, as an operator prefers        |
//! | `announce`    | saying where this node is, and joining                    |
//! | `locks`       | questions about row locks, over the links                 |
//! | `upkeep`      | what the leader, and every node, looks after              |

pub(crate) mod announce;
pub(crate) mod locks;
pub mod placement;
pub(crate) mod preference;
pub(crate) mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use polity_base::NodeId;
use polity_cluster::links::{Fault, Links, Rule, Way};
use polity_cluster::membership::{Liveness, Membership, MembershipOptions};
use polity_raft::group::{GroupStatus, MemberStatus};
use polity_raft::{Group, Peer};
use polity_store::state::State;

use self::placement::{Candidate, successor};
use crate::admin::Weather;

/// A member that lacks so many entries at most is as good as current.
const NEARLY: u64 = 1_000;

/// This node among others.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub links: Links,
    pub membership: Membership,
    pub group: Group,
    pub state: Arc<State>,
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
        state: Arc<State>,
        own: Peer,
        allow_faults: bool,
        delays: BTreeMap<String, Duration>,
    ) -> Cluster {
        let options = MembershipOptions { address: own.address.clone(), ..MembershipOptions::default() };
        let membership = Membership::start(&links, options);
        Cluster { links, membership, group, state, own, allow_faults, delays: Arc::new(delays), rules: Arc::default() }
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

    /// Where leaders are to stand, the most preferred region first.
    pub fn preferred_regions(&self) -> Vec<String> {
        preference::regions(&self.state).unwrap_or_else(|why| {
            tracing::warn!(why, "it is not known which regions are preferred");
            Vec::new()
        })
    }

    /// What the choice of voters and leaders needs to know of each member.
    pub fn candidates(&self, status: &GroupStatus) -> BTreeMap<NodeId, Candidate> {
        let (links, gossip) = (self.links.peers(), self.membership.view());
        let is_reachable = |node: NodeId| {
            let connected = links.iter().any(|l| l.node == node && l.connected);
            let heard = gossip.iter().all(|seen| seen.node != node || seen.liveness == Liveness::Alive);
            node == self.links.node() || connected && heard
        };
        let candidate = |m: &MemberStatus| Candidate {
            votes: m.votes,
            is_current: m.matched_index.is_some_and(|at| at > 0 && at + NEARLY >= status.last_index),
            is_reachable: is_reachable(m.node),
            draining: m.peer.draining,
            region: m.peer.region.clone(),
            zone: m.peer.zone.clone(),
        };
        status.members.iter().map(|m| (m.node, candidate(m))).collect()
    }

    /// Hands leadership on, if this node has it and another can take it: so that its
    /// stop makes nobody wait for an election.
    pub async fn hand_over(&self) {
        let status = self.group.status();
        if !status.leads {
            return;
        }
        let (own, mut candidates) = (self.links.node(), self.candidates(&status));
        if let Some(this) = candidates.get_mut(&own) {
            this.draining = true;
        }
        if let Some(next) = successor(own, &candidates, &self.preferred_regions()) {
            self.transfer(next).await;
        }
    }

    /// Hands leadership to a voter.
    pub async fn transfer(&self, to: NodeId) {
        match self.group.transfer_leader(to).await {
            Ok(()) => tracing::info!(%to, "leadership was handed on"),
            Err(error) => tracing::info!(%error, "leadership could not be handed on"),
        }
    }
}
