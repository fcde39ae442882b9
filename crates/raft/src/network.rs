//! The seam through which the members of a group talk.
//!
//! openraft wants a client per peer and kind of traffic; the node wants one set
//! of authenticated links for all groups. Between them stands one function:
//! [`Network::call`] carries a [`Request`] to a peer's [`crate::Group::answer`]
//! and brings the [`Response`] back. Whatever the links do about batching, order
//! and back-pressure, they do below it.
//!
//! Snapshots are not among the requests: rows travel in bulk, beside the control
//! traffic, and a follower that has fallen behind the purged log cannot be helped
//! without them. Until that transfer exists a leader that would need it gets an
//! error here, and the follower stays behind, visibly.

use std::future::Future;
use std::sync::Arc;

use futures::future::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use polity_base::{NodeId, RangeId};
use serde::{Deserialize, Serialize};

use crate::machine::Checkpointed;
use crate::types::{Peer, Types, Vote};

/// What one member asks of another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Store these entries, or only stay a follower.
    Append(AppendEntriesRequest<Types>),
    /// Vote for me.
    Vote(VoteRequest<Types>),
    /// Would you vote for me?
    PreVote(VoteRequest<Types>),
    /// Lead the group.
    TransferLeader(TransferLeaderRequest<Types>),
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Response {
    /// To [`Request::Append`]
    Append(AppendEntriesResponse<Types>),
    /// To [`Request::Vote`] and [`Request::PreVote`]
    Vote(VoteResponse<Types>),
    /// To [`Request::TransferLeader`]
    TransferLeader(TransferLeaderResponse<Types>),
}

/// Why a request was not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection, and there will hardly be one in a moment.
    #[error("{0} is unreachable: {1}")]
    Unreachable(NodeId, String),
    /// The request or its answer was lost.
    #[error("the call to {0} failed: {1}")]
    Failed(NodeId, String),
}

/// Carries requests to the other members of this node's groups.
pub trait Network: Send + Sync + 'static {
    /// Asks the member of `group` on node `to`, reached at `peer`. The caller sets
    /// a deadline; a future that is dropped abandons the call.
    fn call(
        &self,
        group: RangeId,
        to: NodeId,
        peer: &Peer,
        request: Request,
    ) -> BoxFuture<'_, Result<Response, CallError>>;
}

/// The network of a node that is alone: nobody is there.
pub struct NoPeers;

impl Network for NoPeers {
    fn call(&self, _: RangeId, to: NodeId, _: &Peer, _: Request) -> BoxFuture<'_, Result<Response, CallError>> {
        Box::pin(async move { Err(CallError::Unreachable(to, "this node has no links".to_string())) })
    }
}

/// One group's view of the network, in openraft's terms.
pub(crate) struct Links {
    group: RangeId,
    network: Arc<dyn Network>,
}

impl Links {
    pub fn new(group: RangeId, network: Arc<dyn Network>) -> Links {
        Links { group, network }
    }
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> Link {
        Link { group: self.group, to: target, peer: node.clone(), network: self.network.clone() }
    }
}

/// One group's link to one peer.
pub(crate) struct Link {
    group: RangeId,
    to: NodeId,
    peer: Peer,
    network: Arc<dyn Network>,
}

impl Link {
    async fn call(&self, request: Request, option: RPCOption) -> Result<Response, RPCError<Types>> {
        let call = self.network.call(self.group, self.to, &self.peer, request);
        match tokio::time::timeout(option.hard_ttl(), call).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error @ CallError::Unreachable(..))) => Err(RPCError::Unreachable(Unreachable::new(&error))),
            Ok(Err(error)) => Err(RPCError::Network(NetworkError::new(&error))),
            Err(late) => Err(RPCError::Network(NetworkError::new(&late))),
        }
    }

    fn mismatch(&self) -> RPCError<Types> {
        let error = AnyError::error(format!("{} answered another question than was asked", self.to));
        RPCError::Network(NetworkError::new(&error))
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Checkpointed;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.call(Request::Append(rpc), option).await? {
            Response::Append(response) => Ok(response),
            _ => Err(self.mismatch()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Request::Vote(rpc), option).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(self.mismatch()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Request::PreVote(rpc), option).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(self.mismatch()),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.call(Request::TransferLeader(rpc), option).await? {
            Response::TransferLeader(response) => Ok(response),
            _ => Err(self.mismatch()),
        }
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot<openraft::type_config::alias::CommittedLeaderIdOf<Types>, NodeId, Peer, Checkpointed>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let error = AnyError::error(format!(
            "{} needs entries of {} that are purged here, and rows cannot be sent to it",
            self.to, self.group
        ));
        Err(StreamingError::Unreachable(Unreachable::new(&error)))
    }
}
