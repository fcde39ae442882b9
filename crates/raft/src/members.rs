//! Who belongs to the group, and who votes: changes that its leader makes.
//!
//! Voters change by joint consensus (Ongaro and Ousterhout, *In Search of an
//! Understandable Consensus Algorithm*, extended version, section 6), which openraft
//! does; learners come and go by one entry.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use polity_base::NodeId;
use tokio::time::timeout;

use crate::error::Error;
use crate::group::Group;
use crate::types::{Peer, Types};

/// How long a change of members may take.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// How long handing leadership on may take.
const TRANSFER_PATIENCE: Duration = Duration::from_secs(3);

type Changes = ChangeMembers<NodeId, Peer>;

impl Group {
    /// Makes `node` a member that is sent everything and does not vote.
    pub async fn add_learner(&self, node: NodeId, peer: Peer) -> Result<(), Error> {
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(node, peer)])), true).await
    }

    /// Notes that a member is elsewhere, or is to be treated otherwise.
    pub async fn change_peer(&self, node: NodeId, peer: Peer) -> Result<(), Error> {
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node, peer)])), true).await
    }

    /// Gives votes to exactly these members; the others stay as learners.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), Error> {
        self.change(ChangeMembers::ReplaceAllVoters(voters), true).await
    }

    /// Takes a member out of the group.
    pub async fn remove(&self, node: NodeId) -> Result<(), Error> {
        if self.status().voters.contains(&node) {
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node])), false).await
        } else {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node])), false).await
        }
    }

    async fn change(&self, changes: Changes, retain: bool) -> Result<(), Error> {
        let done = self.inner.raft.change_membership(changes, retain);
        self.in_time(async { done.await.map(drop) }).await
    }

    async fn in_time(
        &self,
        change: impl Future<Output = Result<(), RaftError<Types, ClientWriteError<Types>>>>,
    ) -> Result<(), Error> {
        match timeout(CHANGE_PATIENCE, change).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(self.not_leader()),
            Ok(Err(RaftError::APIError(error))) => {
                Err(Error::Members { range: self.inner.id, reason: error.to_string() })
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(self.stopped_by(fatal.to_string())),
            Err(_) => Err(self.no_quorum()),
        }
    }

    /// Hands leadership to the voter `to`, and returns when somebody else leads.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), Error> {
        let inner = &self.inner;
        if self.leader() != Some(inner.node) {
            return Err(self.not_leader());
        }
        inner.raft.trigger().transfer_leader(to).await.map_err(|e| self.stopped_by(e.to_string()))?;
        let mut server = inner.server.clone();
        let moved = async {
            while server.borrow_watched().current_leader.is_none_or(|leader| leader == inner.node) {
                if server.changed().await.is_err() {
                    return Err(self.is_stopped());
                }
            }
            Ok(())
        };
        let late = Error::Members { range: inner.id, reason: format!("{to} did not take the lead") };
        timeout(TRANSFER_PATIENCE, moved).await.unwrap_or(Err(late))
    }
}
