//! The way of questions about locks, over the links.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::NodeId;
use polity_cluster::links::{Handler, Links, Refusal, Service, Traffic};
use polity_raft::Group;
use polity_txn::{CallFailed, LockNetwork, LockRequest, LockResponse, LockServer};

use crate::wire::{decode, encode};

/// How long an answer may take beyond the time that the question says it will wait.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks other nodes.
pub(crate) struct LockLinks {
    pub links: Links,
    pub group: Group,
}

#[async_trait]
impl LockNetwork for LockLinks {
    async fn call(&self, to: NodeId, request: LockRequest) -> Result<LockResponse, CallFailed> {
        let failed = |why: String| CallFailed { to, why };
        let peer = self.group.peer(to).ok_or_else(|| failed("it does not belong to the cluster".to_owned()))?;
        let request = encode(&request).map_err(failed)?;
        let call = self.links.call(to, &peer.address, Service::LOCKS, Traffic::Control, request);
        let answer = tokio::time::timeout(PATIENCE, call).await;
        let answer = answer.map_err(|_| failed(format!("no answer in {PATIENCE:?}")))?;
        decode(&answer.map_err(|e| failed(e.to_string()))?).map_err(failed)
    }
}

/// Answers other nodes.
pub(crate) struct LockAnswers(pub LockServer);

#[async_trait]
impl Handler for LockAnswers {
    async fn answer(&self, from: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        let request: LockRequest = decode(&request).map_err(Refusal::Malformed)?;
        encode(&self.0.answer(from, request).await).map_err(Refusal::Failed)
    }
}
