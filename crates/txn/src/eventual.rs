//! The eventual guarantee: this node's replica answers, whatever becomes of the
//! others.
//!
//! What a transaction reads is the state of this replica. It is kept apart from
//! other transactions of this node by row locks, which are kept here; those of other
//! nodes come together with it by merging. So nothing that was read is a condition
//! of the commit, and no commit fails because of what others did, except that a
//! counter stays within its bounds.

use std::sync::Arc;

use async_trait::async_trait;
use polity_base::{Batch, NodeId, Span, Timestamp};
use polity_store::state::State;

use crate::error::{Error, Outage};
use crate::replica::{Change, Outcome, Replica, Snapshot};
use crate::strong::Seen;

pub use polity_crdt::replica::NoIndexes;
pub use polity_crdt::replica::{Conflict, CounterShares, PeerStatus};
pub use polity_crdt::{Error as EventualError, Replica as Eventual, Schema, VersionVector};

/// This node's replica of the eventual tables.
pub struct EventualReplica {
    node: NodeId,
    replica: polity_crdt::Replica,
    state: Arc<State>,
}

impl EventualReplica {
    /// What `replica` keeps in `state` on `node`.
    pub fn new(node: NodeId, replica: polity_crdt::Replica, state: Arc<State>) -> EventualReplica {
        EventualReplica { node, replica, state }
    }

    /// The replica itself: for what there is besides rows.
    pub fn replica(&self) -> &polity_crdt::Replica {
        &self.replica
    }
}

#[async_trait]
impl Replica for EventualReplica {
    async fn read_timestamp(&self) -> Result<Timestamp, Error> {
        self.replica.readable()?;
        Ok(self.applied())
    }

    /// Locks of eventual tables are this node's own.
    fn leader(&self) -> Option<NodeId> {
        Some(self.node)
    }

    fn has_peers(&self) -> bool {
        false
    }

    fn applied(&self) -> Timestamp {
        self.replica.applied()
    }

    fn oldest(&self) -> Timestamp {
        self.state.horizon(polity_base::Guarantee::Eventual)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, Error> {
        Ok(Arc::new(Seen::of(&self.state)?))
    }

    async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        self.commit_kept_by(batch, 1).await
    }

    async fn commit_kept_by(&self, batch: Batch, replicas: u32) -> Result<Outcome, Error> {
        match self.replica.commit(batch, replicas).await {
            Ok(at) => Ok(Outcome::Committed(at)),
            Err(EventualError::Exists { key }) => Ok(Outcome::Exists(key)),
            Err(error) => Err(error.into()),
        }
    }

    /// Nothing that was read here is a condition of anything.
    fn changed_since(&self, _: &Span, _: Timestamp) -> Change {
        Change::Unchanged
    }

    fn last_write(&self, key: &[u8]) -> Result<Option<Timestamp>, Error> {
        Ok(self.state.last_write(key)?)
    }
}

impl From<EventualError> for Error {
    fn from(error: EventualError) -> Error {
        match error {
            EventualError::Store(error) => error.into(),
            EventualError::Stopped { reason } => Error::Unknown(reason),
            EventualError::NotReady { .. } | EventualError::Removed => {
                Error::Unavailable(Outage::because(error.to_string()))
            }
            error => Error::Eventual(Arc::new(error)),
        }
    }
}
