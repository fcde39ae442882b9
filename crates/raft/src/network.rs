//! The seam through which the members of a group talk.
//!
//! openraft wants a client per peer and kind of traffic; the node wants one set
//! of authenticated links for all groups. Between them stands one function:
//! [`Network::call`] carries a [`Request`] to a peer's [`crate::Group::answer`]
//! and brings the [`Response`] back. Whatever the links do about batching, order
//! and back-pressure, they do below it.
//!
//! Rows for a member that has fallen behind the log travel in chunks
//! (`transfer`), so that no message is large and none is sent twice for long.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use polity_base::planted::{Bug, planted};
use polity_base::{Batch, NodeId, RangeId, Timestamp};
use polity_store::state::BatchOutcome;
use serde::{Deserialize, Serialize};

use crate::contacts::Contacts;
use crate::machine::{GroupSnapshot, Shared, SnapshotRows};
use crate::types::{Peer, SnapshotMeta, Types, Vote};

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
    /// Put this aside: a part of the rows of a snapshot.
    Stage {
        /// The number of the transfer
        transfer: u128,
        /// The number of the chunk, counted from 0
        number: u64,
        /// The chunk
        chunk: Bytes,
    },
    /// Take over the rows of this transfer, all of which are put aside.
    Install {
        /// Who leads
        vote: Vote,
        /// What the snapshot is
        meta: SnapshotMeta,
        /// The number of the transfer
        transfer: u128,
    },
    /// You lead: order this batch.
    Propose(Batch),
    /// You lead: what must I have applied to read everything that is acknowledged?
    Barrier,
    /// You lead: order this batch if its claim is free, see [`Admission`](crate::Admission).
    ProposeIfFree {
        /// The batch
        batch: Batch,
        /// What it claims, in the words of who built it
        claim: Bytes,
    },
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
    /// To [`Request::Stage`]
    Staged,
    /// To [`Request::Install`]
    Installed(SnapshotResponse<Types>),
    /// To [`Request::Propose`] and [`Request::ProposeIfFree`]
    Proposed(Result<BatchOutcome, Declined>),
    /// To [`Request::Barrier`]
    Barrier(Result<Timestamp, Declined>),
}

/// Why a member does not do what only a leader can.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Declined {
    /// It does not lead, or cannot show that it does. Nothing was done.
    NotLeader,
    /// The batch was handed over, and its outcome did not come back.
    Unknown(String),
    /// The batch is larger than a log entry may be. Nothing was done.
    TooLarge {
        /// Bytes of the batch
        size: u64,
        /// Bytes allowed
        limit: u64,
    },
    /// It is stopped. Nothing was done.
    Stopped(String),
    /// What the batch claims is taken. Nothing was done.
    Taken,
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

/// One group's view of the network.
#[derive(Clone)]
pub(crate) struct Links {
    group: RangeId,
    network: Arc<dyn Network>,
    pub contacts: Arc<Contacts>,
    pub shared: Shared,
}

impl Links {
    pub fn new(network: Arc<dyn Network>, contacts: Arc<Contacts>, shared: Shared) -> Links {
        Links { group: shared.group, network, contacts, shared }
    }

    /// Asks the member on node `to`, for `patience` at most.
    pub async fn ask(&self, to: NodeId, request: Request, patience: Duration) -> Result<Response, CallError> {
        let Some(peer) = self.contacts.peer(to) else {
            return Err(CallError::Unreachable(to, "it does not belong to the group".to_owned()));
        };
        let call = self.network.call(self.group, to, &peer, request);
        let answer = match tokio::time::timeout(patience, call).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Failed(to, format!("no answer in {patience:?}"))),
        };
        self.contacts.note(to, answer.is_ok());
        answer
    }
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, _: &Peer) -> Link {
        Link { links: self.clone(), to: target }
    }
}

/// One group's link to one peer.
///
/// openraft allows an answer no longer than a heartbeat's interval. Between regions
/// that is short, and a call that is given up is sent again in full; whether a
/// peer is gone is for the links to say. So calls are waited for longer.
pub(crate) struct Link {
    links: Links,
    to: NodeId,
}

/// How long entries may take to be stored: a lost call holds up all that follow it to
/// that peer for as long,
const APPEND_PATIENCE: Duration = Duration::from_secs(3);
/// and how long a vote.
const VOTE_PATIENCE: Duration = Duration::from_secs(2);

impl Link {
    async fn call(&self, request: Request, patience: Duration) -> Result<Response, RPCError<Types>> {
        match self.links.ask(self.to, request, patience).await {
            Ok(response) => Ok(response),
            Err(error @ CallError::Unreachable(..)) => Err(RPCError::Unreachable(Unreachable::new(&error))),
            Err(error) => Err(RPCError::Network(NetworkError::new(&error))),
        }
    }

    fn mismatch(&self) -> RPCError<Types> {
        let error = AnyError::error(format!("{} answered another question than was asked", self.to));
        RPCError::Network(NetworkError::new(&error))
    }
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = SnapshotRows;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.call(Request::Append(rpc), APPEND_PATIENCE).await {
            Ok(Response::Append(response)) => Ok(response),
            Err(_) if planted(Bug::CommitWithoutMajority) => Ok(AppendEntriesResponse::Success),
            Err(error) => Err(error),
            Ok(_) => Err(self.mismatch()),
        }
    }

    async fn vote(&mut self, rpc: VoteRequest<Types>, _: RPCOption) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Request::Vote(rpc), VOTE_PATIENCE).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(self.mismatch()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(Request::PreVote(rpc), VOTE_PATIENCE).await? {
            Response::Vote(response) => Ok(response),
            _ => Err(self.mismatch()),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<Types>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.call(Request::TransferLeader(rpc), VOTE_PATIENCE).await? {
            Response::TransferLeader(response) => Ok(response),
            _ => Err(self.mismatch()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        _: GroupSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            sent = self.links.send_rows(self.to, vote) => sent,
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }
}
