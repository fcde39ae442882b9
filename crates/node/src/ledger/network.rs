//! The way of validators' messages, over the links: each is a request that is answered with
//! nothing. An empty request is the question for the key that a node signs with. Links vouch
//! for who sent it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::NodeId;
use polity_bft::consensus::driver::Network;
use polity_bft::transaction::{Body, SignedTransaction};
use polity_bft::types::Signature;
use polity_cluster::links::{Handler, Links, Refusal, Service, Traffic};
use polity_raft::Group;
use tokio::sync::Semaphore;

use super::host::Host;

/// So many messages are on their way at once; more are lost, as messages may be.
const UNDER_WAY: usize = 4096;
const LARGE_UNDER_WAY: usize = 256;
/// The way to other nodes.
pub(crate) struct LedgerLinks {
    links: Links,
    group: Group,
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl LedgerLinks {
    /// To the members of `group`.
    pub fn new(links: Links, group: Group) -> LedgerLinks {
        let (small, large) = (Arc::new(Semaphore::new(UNDER_WAY)), Arc::new(Semaphore::new(LARGE_UNDER_WAY)));
        LedgerLinks { links, group, small, large }
    }

    /// The key that a node signs with, in its own words.
    pub async fn key_of(&self, node: NodeId) -> Result<Bytes, String> {
        let peer = self.group.peer(node).ok_or_else(|| "it does not belong to the cluster".to_owned())?;
        let call = self.links.call(node, &peer.address, Service::LEDGER, Traffic::Control, Bytes::new());
        call.await.map_err(|e| e.to_string())
    }

    /// What a validator signs a transaction with, for a user of this node.
    pub async fn signature(&self, node: NodeId, body: &Body) -> Result<Signature, String> {
        let peer = self.group.peer(node).ok_or_else(|| "it does not belong to the cluster".to_owned())?;
        let request = body.encode().into();
        let call = self.links.call(node, &peer.address, Service::LEDGER_VOICE, Traffic::Bulk, request);
        let answer = call.await.map_err(|e| e.to_string())?;
        let signature = Signature::decode(&answer).map_err(|e| format!("its signature: {e}"))?;
        match SignedTransaction::with_signature(body.clone(), signature.clone()).verify() {
            true => Ok(signature),
            false => Err("its signature is not right".to_owned()),
        }
    }
}

impl Network for LedgerLinks {
    fn send(&self, to: NodeId, message: Bytes, bulk: bool) {
        let (room, traffic) = match bulk {
            true => (&self.large, Traffic::Bulk),
            false => (&self.small, Traffic::Control),
        };
        let (Ok(room), Some(peer)) = (room.clone().try_acquire_owned(), self.group.peer(to)) else { return };
        let links = self.links.clone();
        tokio::spawn(async move {
            // What is lost, validators say again.
            let _ = links.call(to, &peer.address, Service::LEDGER, traffic, message).await;
            drop(room);
        });
    }

    fn peers(&self) -> Vec<NodeId> {
        let own = self.links.node();
        self.group.status().members.iter().map(|member| member.node).filter(|node| *node != own).collect()
    }
}

/// Answers other nodes.
pub(crate) struct LedgerAnswers(pub Arc<Host>);

#[async_trait]
impl Handler for LedgerAnswers {
    async fn answer(&self, from: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        if request.is_empty() {
            return Ok(self.0.public_key().into());
        }
        // Whoever has no ledger yet hears of it all again once it has.
        self.0.receive(from, request).await;
        Ok(Bytes::new())
    }
}
