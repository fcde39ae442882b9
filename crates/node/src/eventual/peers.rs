//! The other replicas, over the links.
//!
//! Who they are, this node's copy of the strong range says: the members of its group, and
//! the rows of those who were removed. A node that was removed may never be told by that
//! range, of which it is no member any more; the others tell it when it turns to them, and
//! it remembers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use polity_base::time::HybridClock;
use polity_base::{NodeId, RangeId, Timestamp};
use polity_cluster::links::{CallError, Handler, Links, Refusal, Service, Traffic};
use polity_crdt::Replica;
use polity_crdt::replica::{CallFailed, Departure, Members, Peers, Traffic as Kind};
use polity_raft::Group;
use polity_store::log::{Log, Record};
use polity_store::state::State;
use tokio::time::Instant;

use crate::admin::departure;

/// So old what is known of the members may be: it is asked at every commit, and changes
/// seldom.
const FRESH: Duration = Duration::from_millis(200);
/// A member that was never reached has not been since the beginning of time.
const NEVER: Timestamp = Timestamp(1);

/// The name in the log, of group [`RangeId::NODE`], of the note that this node was removed.
const REMOVED: &str = "removed";

/// Whether this node was removed from its cluster, as far as it was told.
#[derive(Clone)]
pub(crate) struct Removal {
    told: Arc<AtomicBool>,
    log: Log,
}

impl Removal {
    /// What the log remembers.
    pub fn open(log: &Log) -> Removal {
        let told = Arc::new(AtomicBool::new(log.state(RangeId::NODE, REMOVED).is_some()));
        Removal { told, log: log.clone() }
    }

    /// Whether it was.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// It was, says `by`.
    pub fn tell(&self, by: &str) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::error!(by, "this node was removed from its cluster; it serves no eventual tables any more");
            let note = Record::State { group: RangeId::NODE, name: REMOVED.into(), value: Bytes::from_static(b"1") };
            // A failure is the log's, which tells the next who appends; the others say it
            // again after a restart.
            self.log.append(vec![note], drop);
        }
    }
}

/// The others, over the links.
pub(crate) struct PeerLinks {
    links: Links,
    group: Group,
    state: Arc<State>,
    clock: Arc<HybridClock>,
    removal: Removal,
    members: Mutex<Option<(Instant, Members)>>,
}

impl PeerLinks {
    /// The members of `group`, reached over `links`.
    pub fn new(links: Links, group: Group, state: Arc<State>, clock: Arc<HybridClock>, removal: Removal) -> PeerLinks {
        PeerLinks { links, group, state, clock, removal, members: Mutex::default() }
    }

    fn read_members(&self) -> Members {
        let mut removed: BTreeMap<NodeId, Departure> = match departure::all(&self.state) {
            Ok(removed) => removed,
            Err(error) => {
                tracing::error!(error, "who was removed cannot be read");
                BTreeMap::new()
            }
        };
        let own = self.links.node();
        if self.removal.is_told() {
            removed.entry(own).or_insert(Departure { last_write: None, heir: None });
        }
        let mut nodes: BTreeSet<NodeId> = self.group.status().members.iter().map(|m| m.node).collect();
        nodes.retain(|node| !removed.contains_key(node));
        Members { nodes, removed }
    }
}

#[async_trait]
impl Peers for PeerLinks {
    fn members(&self) -> Members {
        let mut known = self.members.lock();
        if let Some((at, members)) = &*known
            && at.elapsed() < FRESH
        {
            return members.clone();
        }
        let members = self.read_members();
        *known = Some((Instant::now(), members.clone()));
        members
    }

    fn unreachable_since(&self, node: NodeId) -> Option<Timestamp> {
        if node == self.links.node() {
            return None;
        }
        let links = self.links.peers();
        let link = links.iter().find(|link| link.node == node);
        if link.is_some_and(|link| link.connected) {
            return None;
        }
        let Some(span) = link.and_then(|link| link.since) else { return Some(NEVER) };
        let nanoseconds = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Some(Timestamp(self.clock.reading().midpoint().0.saturating_sub(nanoseconds)).max(NEVER))
    }

    async fn call(&self, node: NodeId, traffic: Kind, request: Bytes) -> Result<Bytes, CallFailed> {
        let peer = self.group.peer(node).ok_or_else(|| CallFailed("it does not belong to the cluster".to_owned()))?;
        let traffic = match traffic {
            Kind::Control => Traffic::Control,
            Kind::Bulk => Traffic::Bulk,
        };
        let answer = self.links.call(node, &peer.address, Service::EVENTUAL, traffic, request).await;
        answer.map_err(|error| {
            // Said by [`Answers`], and for this reason alone.
            if let CallError::Refused { refusal: Refusal::Unauthorised(_), .. } = &error {
                self.removal.tell(&node.to_string());
            }
            CallFailed(error.to_string())
        })
    }
}

/// Answers the others.
pub(crate) struct Answers {
    pub replica: Replica,
    pub state: Arc<State>,
}

#[async_trait]
impl Handler for Answers {
    async fn answer(&self, from: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        match departure::is_removed(&self.state, from) {
            Ok(false) => {}
            Ok(true) => return Err(Refusal::Unauthorised(format!("{from} was removed from the cluster"))),
            Err(why) => return Err(Refusal::Failed(why)),
        }
        self.replica.answer(from, request).await.map_err(|error| match error {
            polity_crdt::Error::Nonsense { .. } => Refusal::Malformed(error.to_string()),
            error => Refusal::Failed(error.to_string()),
        })
    }
}
