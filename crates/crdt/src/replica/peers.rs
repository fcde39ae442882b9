//! The seam through which a replica reaches the others.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::{NodeId, Timestamp};

/// Who belongs to the cluster, as far as this node's copy of the strong range says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    /// Those who hold a replica, this node included unless it was removed
    pub nodes: BTreeSet<NodeId>,
    /// Those who were removed for good, and what became of their shares
    pub removed: BTreeMap<NodeId, Departure>,
}

/// A node that was removed for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Departure {
    /// What every remaining member has agreed to be the node's last write (see
    /// [`Replica::agree_on_last_write`](super::Replica::agree_on_last_write)). While
    /// there is none, nobody takes its later writes and nobody has its shares.
    pub last_write: Option<Timestamp>,
    /// Who gives out its shares from then on
    pub heir: Option<NodeId>,
}

/// Which way a request goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Traffic {
    /// Small and urgent
    Control,
    /// Large and patient
    Bulk,
}

/// No answer came.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct CallFailed(pub String);

/// The other replicas.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// Who belongs to the cluster. Cheap; asked several times a second.
    fn members(&self) -> Members;

    /// Since when `node` cannot be reached; `None` if it can, as far as is known.
    fn unreachable_since(&self, node: NodeId) -> Option<Timestamp>;

    /// Asks the replica on `node`, which passes the request to
    /// [`Replica::answer`](super::Replica::answer). Every request may be answered
    /// twice, or acted on without its answer coming back.
    async fn call(&self, node: NodeId, traffic: Traffic, request: Bytes) -> Result<Bytes, CallFailed>;
}

/// A cluster of one.
pub struct Alone(pub NodeId);

#[async_trait]
impl Peers for Alone {
    fn members(&self) -> Members {
        Members { nodes: BTreeSet::from([self.0]), removed: BTreeMap::new() }
    }

    fn unreachable_since(&self, _: NodeId) -> Option<Timestamp> {
        None
    }

    async fn call(&self, node: NodeId, _: Traffic, _: Bytes) -> Result<Bytes, CallFailed> {
        Err(CallFailed(format!("{node} does not exist")))
    }
}
