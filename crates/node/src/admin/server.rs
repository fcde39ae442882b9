//! A node's answers to administrators, and to nodes that announce themselves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::{Guarantee, NodeId, Operation, Timestamp};
use polity_cluster::links::Visited;
use polity_cluster::name::{Holder, Name};
use polity_crdt::Replica;
use polity_raft::Peer;
use polity_store::state::State;
use polity_txn::Database;

use super::ledger::Desk;
use super::protocol::{Announcement, Answer, Digest, Local, NodeFacts, Request};
use super::{departure, disturb};
use crate::cluster::{Cluster, preference};
use crate::eventual::{self, Departures, LocalCatalog};
use crate::wire::{decode, encode};

/// How long a node may take to apply what others have applied.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Answers for a node.
pub(crate) struct Server {
    pub cluster: Cluster,
    pub database: Database,
    pub state: Arc<State>,
    pub eventual: Replica,
    pub schema: Arc<LocalCatalog>,
    pub departures: Arc<Departures>,
    pub ledger: Option<Desk>,
}

#[async_trait]
impl Visited for Server {
    async fn answer(&self, from: &Name, request: Bytes) -> Result<Bytes, String> {
        let request: Request = decode(&request).map_err(|what| format!("the request {what}"))?;
        let answer = match (&from.holder, request) {
            (Holder::Node(node), Request::Announce(announcement)) if *node == announcement.node => {
                self.announced(announcement).await
            }
            (Holder::Node(_) | Holder::Client(_), Request::Nodes) => Answer::Nodes(self.nodes()),
            (Holder::Client(_), Request::Drain { node, drain }) => self.drain(node, drain).await,
            (Holder::Client(_), Request::Remove { node }) => self.remove(node).await,
            (Holder::Client(_), Request::Digest { at }) => self.digest(at).await,
            (Holder::Client(_), Request::EventualDigest) => {
                match eventual::digest(&self.eventual, self.schema.clone()).await {
                    Ok(digest) => Answer::EventualDigest(digest),
                    Err(why) => Answer::Refused(why),
                }
            }
            (Holder::Client(name), Request::Disturb(order)) => self.disturb(name, order),
            (Holder::Client(_), Request::Prefer { regions }) => self.prefer(regions).await,
            (Holder::Client(_), Request::Preferred) => match preference::regions(&self.state) {
                Ok(regions) => Answer::Regions(regions),
                Err(why) => Answer::Later(why),
            },
            (Holder::Client(_), Request::Disturbances) => {
                let mut all = self.cluster.disturbances();
                all.extend(self.ledger.as_ref().and_then(Desk::disturbance));
                Answer::Disturbances(all)
            }
            (Holder::Client(_), request) => match &self.ledger {
                Some(desk) => about_ledger(desk, from, request).await,
                None => may_not(from),
            },
            _ => may_not(from),
        };
        encode(&answer)
    }
}

fn may_not(from: &Name) -> Answer {
    Answer::Refused(format!("{from} may not ask that"))
}

async fn about_ledger(desk: &Desk, from: &Name, request: Request) -> Answer {
    match request {
        Request::LedgerGenesis => desk.genesis(),
        Request::LedgerStatus => desk.status().await,
        Request::Prove { keys, height } => desk.prove(keys, height).await,
        Request::LedgerTables => desk.tables().await,
        Request::Register { user, key, exclusive } => desk.register(user, &key, exclusive).await,
        Request::Order(transaction) => desk.order(&transaction).await,
        Request::Approve { node, key, power } => desk.approve(node, key, power).await,
        _ => may_not(from),
    }
}

impl Server {
    /// Where to ask instead, unless this node leads.
    fn elsewhere(&self) -> Option<Answer> {
        let status = self.cluster.group.status();
        if status.leads {
            return None;
        }
        let own = self.cluster.links.node();
        let leader = status.members.iter().find(|m| Some(m.node) == status.leader && m.node != own);
        Some(match leader {
            Some(leader) => Answer::Elsewhere(leader.peer.address.clone()),
            None => Answer::Later("no leader is known".to_owned()),
        })
    }

    fn peer(&self, node: NodeId) -> Option<Peer> {
        self.cluster.group.status().members.into_iter().find(|m| m.node == node).map(|m| m.peer)
    }

    async fn announced(&self, from: Announcement) -> Answer {
        if let Some(elsewhere) = self.elsewhere() {
            return elsewhere;
        }
        let Announcement { node, address, region, zone, has_log } = from;
        let status = self.cluster.group.status();
        let member = status.members.iter().find(|m| m.node == node);
        match departure::is_removed(&self.state, node) {
            Ok(false) => {}
            Ok(true) => return Answer::Refused(format!("node {} was removed; use a number that is new", node.0)),
            Err(why) => return Answer::Later(why),
        }
        // It may be welcome, and must not be told so by one that leads no more, nor while
        // nobody knows whether it will stay a member.
        if member.is_some()
            && !has_log
            && let Err(error) = self.database.write_direct(Vec::new()).await
        {
            return Answer::Later(error.to_string());
        }
        let done = match member {
            Some(member) if !has_log && (member.votes || member.matched_index.is_some_and(|at| at > 0)) => {
                return Answer::Refused(format!(
                    "node {} belongs to it already, and this folder is empty: if its data is lost, remove it and \
                     give the new node another number",
                    node.0
                ));
            }
            None if has_log => {
                return Answer::Refused(format!("node {} does not belong to it, and this folder is not empty", node.0));
            }
            Some(member) => {
                let peer = Peer { address, region, zone, ..member.peer.clone() };
                if peer == member.peer {
                    return Answer::Done("known".to_owned());
                }
                self.cluster.group.change_peer(node, peer).await
            }
            None => self.cluster.group.add_learner(node, Peer { address, region, zone, draining: false }).await,
        };
        match done {
            Ok(()) => {
                tracing::info!(node = %node, "a node announced itself");
                Answer::Done("welcome".to_owned())
            }
            Err(error) => Answer::Later(error.to_string()),
        }
    }

    fn nodes(&self) -> Vec<NodeFacts> {
        let (status, links) = (self.cluster.group.status(), self.cluster.links.peers());
        let gossip = self.cluster.membership.view();
        let own = self.cluster.links.node();
        let replicas = self.eventual.status().peers;
        let facts = |m: &polity_raft::group::MemberStatus| {
            let link = links.iter().find(|l| l.node == m.node);
            let heard = gossip.iter().find(|seen| seen.node == m.node);
            NodeFacts {
                node: m.node,
                address: m.peer.address.clone(),
                region: m.peer.region.clone(),
                zone: m.peer.zone.clone(),
                leads: status.leader == Some(m.node),
                votes: m.votes,
                draining: m.peer.draining,
                reachable: m.node == own || link.is_some_and(|l| l.connected || l.accepted),
                since: link.and_then(|l| l.since),
                behind: m.matched_index.map(|at| status.last_index.saturating_sub(at)),
                eventual_lag: match m.node == own {
                    true => Some(Duration::ZERO),
                    false => replicas.iter().find(|peer| peer.node == m.node).map(|peer| peer.lag),
                },
                liveness: heard.map(|seen| seen.liveness),
                load: heard.and_then(|seen| seen.load),
            }
        };
        status.members.iter().map(facts).collect()
    }

    async fn drain(&self, node: NodeId, drain: bool) -> Answer {
        if let Some(elsewhere) = self.elsewhere() {
            return elsewhere;
        }
        let Some(peer) = self.peer(node) else { return Answer::Refused(format!("there is no node {}", node.0)) };
        match self.cluster.group.change_peer(node, Peer { draining: drain, ..peer }).await {
            Ok(()) if drain => Answer::Done(format!("node {} is draining", node.0)),
            Ok(()) => Answer::Done(format!("node {} may lead and vote again", node.0)),
            Err(error) => Answer::Later(error.to_string()),
        }
    }

    async fn remove(&self, node: NodeId) -> Answer {
        if let Some(elsewhere) = self.elsewhere() {
            return elsewhere;
        }
        let status = self.cluster.group.status();
        if !status.members.iter().any(|m| m.node == node) {
            return Answer::Refused(format!("there is no node {}", node.0));
        }
        if status.members.len() == 1 {
            return Answer::Refused("it is the only node".to_owned());
        }
        if node == self.cluster.links.node() {
            return Answer::Refused(format!("node {} leads: drain it first", node.0));
        }
        // The number first: a node that is gone but not marked could come back.
        let mark = Operation::Put { key: departure::key(node), value: Bytes::new() };
        if let Err(error) = self.database.write_direct(vec![mark]).await {
            return Answer::Later(error.to_string());
        }
        match self.cluster.group.remove(node).await {
            Ok(()) => {
                let shares = match self.departures.settle().await {
                    Ok(()) => String::new(),
                    Err(why) => {
                        format!("; its shares of counters are given out once every member has answered: {why}")
                    }
                };
                let power = self.ledger.as_ref().map(|desk| desk.left_of(node)).unwrap_or_default();
                Answer::Done(format!("node {} was removed{shares}{power}", node.0))
            }
            Err(error) => Answer::Later(error.to_string()),
        }
    }

    async fn prefer(&self, regions: Vec<String>) -> Answer {
        let members = self.cluster.group.status().members;
        if let Some(unknown) = regions.iter().find(|r| !members.iter().any(|m| m.peer.region == **r)) {
            return Answer::Refused(format!("no node stands in region {unknown}"));
        }
        let change = match preference::change(&regions) {
            Ok(change) => change,
            Err(why) => return Answer::Refused(why),
        };
        match self.database.write_direct(vec![change]).await {
            Ok(_) if regions.is_empty() => Answer::Done("leaders may stand anywhere".to_owned()),
            Ok(_) => Answer::Done(format!("leaders are to stand in {}", regions.join(", else in "))),
            Err(error) => Answer::Later(error.to_string()),
        }
    }

    /// The rows at `at`, once this node has applied all that was committed by then.
    async fn digest(&self, at: Option<Timestamp>) -> Answer {
        let at = match at {
            Some(at) => at,
            None => match self.database.write_direct(Vec::new()).await {
                Ok(at) => at,
                Err(error) => return Answer::Later(error.to_string()),
            },
        };
        let mut applied = self.state.observe_commits(Guarantee::Strong);
        match tokio::time::timeout(CATCH_UP, applied.wait_for(|now| *now >= at)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Answer::Later("it stops".to_owned()),
            Err(_) => return Answer::Later(format!("it is not there yet after {} s", CATCH_UP.as_secs())),
        }
        let state = self.state.clone();
        let digest = polity_store::blocking(move || state.snapshot()?.digest(&Guarantee::Strong.span(), at)).await;
        match digest {
            Ok(Ok((rows, sha256))) => Answer::Digest(Digest { at, rows, sha256 }),
            Ok(Err(error)) => Answer::Refused(error.to_string()),
            Err(error) => Answer::Refused(format!("its task failed: {error}")),
        }
    }

    fn disturb(&self, name: &str, order: Local) -> Answer {
        if !self.cluster.allow_faults {
            return Answer::Refused("it was not started with --allow-faults".to_owned());
        }
        tracing::warn!(client = name, ?order, "a drill");
        let done = match order {
            Local::With(peers, weather) => {
                self.cluster.disturb(&peers, weather).map(|()| self.cluster.disturbances().join(", "))
            }
            Local::Heal => {
                let lies = self.ledger.as_ref().map_or(0, Desk::heal);
                Ok(format!("{} disturbances ended", self.cluster.heal() + lies))
            }
            Local::Lie(how) => match &self.ledger {
                Some(desk) => desk.lie(how),
                None => Err("the node takes part in no ledger".to_owned()),
            },
            Local::Pause(span) => disturb::pause(span).map(|()| format!("stands still for {span:?}")),
            Local::Kill => disturb::kill().map(|()| "killed".to_owned()),
        };
        done.map_or_else(Answer::Refused, Answer::Done)
    }
}
