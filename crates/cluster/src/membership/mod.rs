//! Who is there: every node's view of the life and load of all others, by gossip.
//!
//! The protocol is SWIM (Das, Gupta and Motivala, "SWIM: Scalable
//! Weakly-consistent Infection-style Process Group Membership Protocol", DSN 2002):
//! each node asks one other after another whether it lives (section 3.1), has others
//! ask if there is no answer, suspects before it gives up (4.2), and tells what it
//! found on the messages that are sent anyway (4.1). `foca` decides; this module
//! carries its messages over the links and keeps its time.
//!
//! What is seen here is a hint, and is never asked who may vote, lead or commit: the
//! replicated membership of the group says that. Two nodes may see differently, for
//! as long as a partition lasts also for long.

mod gossip;
mod loads;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use gossip::{Event, Gossip, Identity};
pub use loads::Load;
use parking_lot::RwLock;
use polity_base::NodeId;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::links::{Handler, Links, Refusal, Service};

/// Events that may wait for their turn.
const QUEUE: usize = 1024;

/// Whether a node lives, as seen from here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Liveness {
    /// It answers somebody
    Alive,
    /// It has not answered, and may yet say that it lives
    Suspect,
    /// It is given up, until it is heard of again
    Down,
}

/// A node as seen from here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberView {
    /// The node
    pub node: NodeId,
    /// Where its links listen
    pub address: String,
    /// Whether it lives
    pub liveness: Liveness,
    /// For how long that has been seen so
    pub since: Duration,
    /// What it said of its load, if it did
    pub load: Option<Load>,
}

/// How membership is set up.
#[derive(Clone, Debug)]
pub struct MembershipOptions {
    /// Where other nodes reach this one's links: host and port
    pub address: String,
    /// Nodes to begin with, and where they are reached
    pub seeds: Vec<(NodeId, String)>,
    /// How often this node asks another one whether it lives. One that is gone is
    /// suspected after about one round of all nodes, and given up after five times
    /// this more.
    pub probe_every: Duration,
}

impl Default for MembershipOptions {
    fn default() -> MembershipOptions {
        MembershipOptions { address: String::new(), seeds: Vec::new(), probe_every: Duration::from_secs(1) }
    }
}

/// This node's view of who is there. A clone is the same view.
#[derive(Clone)]
pub struct Membership {
    events: mpsc::Sender<Event>,
    seen: Arc<RwLock<Vec<Seen>>>,
}

/// One node as it was last seen.
struct Seen {
    node: NodeId,
    address: String,
    liveness: Liveness,
    since: Instant,
    load: Option<Load>,
}

impl Membership {
    /// Begins to gossip over `links`, for as long as they run.
    pub fn start(links: &Links, options: MembershipOptions) -> Membership {
        let (events, inbox) = mpsc::channel(QUEUE);
        let seen = Arc::default();
        let gossip = Gossip::new(links.clone(), options, Arc::clone(&seen));
        links.hub.spawn(gossip.run(inbox));
        links.register(Service::MEMBERSHIP, Arc::new(Listener { events: events.clone() }));
        Membership { events, seen }
    }

    /// All nodes that were ever heard of and not forgotten since, this one among
    /// them, by number. One that is down is forgotten after an hour.
    pub fn view(&self) -> Vec<MemberView> {
        let seen = self.seen.read();
        let view = |seen: &Seen| MemberView {
            node: seen.node,
            address: seen.address.clone(),
            liveness: seen.liveness,
            since: seen.since.elapsed(),
            load: seen.load,
        };
        seen.iter().map(view).collect()
    }

    /// Says who should be there, in place of whom was said before: those of them that
    /// are not seen are looked for.
    pub async fn expect(&self, nodes: Vec<(NodeId, String)>) {
        let _ = self.events.send(Event::Expect(nodes)).await;
    }

    /// Tells the others how busy this node is. Once a second is often enough.
    pub async fn tell_load(&self, load: Load) {
        let _ = self.events.send(Event::Load(load)).await;
    }

    /// Tells the others that this node goes, so that none has to find out. To be
    /// followed by the end of the links.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        if self.events.send(Event::Leave(done)).await.is_ok() {
            let _ = left.await;
        }
    }
}

/// Takes in what other nodes say.
struct Listener {
    events: mpsc::Sender<Event>,
}

#[async_trait]
impl Handler for Listener {
    async fn answer(&self, from: NodeId, message: Bytes) -> Result<Bytes, Refusal> {
        let header = postcard::take_from_bytes::<foca::Header<Identity>>(&message);
        let (header, _) = header.map_err(|e| Refusal::Malformed(e.to_string()))?;
        if header.src.node != from {
            return Err(Refusal::Unauthorised(format!("gossip in the name of {}", header.src.node)));
        }
        let (answer, answered) = oneshot::channel();
        self.events.try_send(Event::Heard { message, answer }).map_err(|_| Refusal::Overloaded)?;
        answered.await.unwrap_or(Ok(())).map_err(Refusal::Malformed)?;
        Ok(Bytes::new())
    }
}
