//! How busy nodes are: small, and carried along with the gossip.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use foca::{BroadcastHandler, Invalidates};
use parking_lot::Mutex;
use polity_base::NodeId;
use serde::{Deserialize, Serialize};

use super::gossip::Identity;

/// Nodes whose load is remembered: more than a cluster has.
const REMEMBERED: usize = 4096;

/// How busy a node is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Sessions of clients
    pub sessions: u32,
    /// Of the time of the threads that serve, the part in use, in thousandths
    pub busy_permille: u16,
}

/// One node's load at one time.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Report {
    pub node: NodeId,
    /// The life of the node that said it, and the how-manieth time in that life
    pub at: (u64, u64),
    pub load: Load,
}

/// The loads that are known.
#[derive(Clone)]
pub struct Loads {
    own: NodeId,
    known: Arc<Mutex<BTreeMap<NodeId, Report>>>,
}

impl Loads {
    pub fn new(own: NodeId) -> Loads {
        Loads { own, known: Arc::default() }
    }

    pub fn of(&self, node: NodeId) -> Option<Load> {
        self.known.lock().get(&node).map(|report| report.load)
    }
}

/// Which report replaces which.
pub struct Key {
    node: NodeId,
    at: (u64, u64),
}

impl Invalidates for Key {
    fn invalidates(&self, other: &Key) -> bool {
        self.node == other.node && self.at.cmp(&other.at) != Ordering::Less
    }
}

impl BroadcastHandler<Identity> for Loads {
    type Key = Key;
    type Error = Infallible;

    /// Takes in a report, and has it passed on if it is news. One that cannot be read
    /// is none.
    fn receive_item(&mut self, bytes: &[u8], sender: Option<&Identity>) -> Result<Option<Key>, Infallible> {
        let Ok(report) = postcard::from_bytes::<Report>(bytes) else { return Ok(None) };
        let mut known = self.known.lock();
        // Nobody else knows how busy this node is.
        let foreign = sender.is_some() && report.node == self.own;
        let old = known.get(&report.node).is_some_and(|known| known.at >= report.at);
        let crowded = known.len() >= REMEMBERED && !known.contains_key(&report.node);
        if foreign || old || crowded {
            return Ok(None);
        }
        known.insert(report.node, report);
        Ok(Some(Key { node: report.node, at: report.at }))
    }
}
