//! The way of Raft's messages over the links.
//!
//! ```text
//! request    postcard of (range, request)
//! answer     postcard of the response
//! ```
//! Raft wants to know of a call that brought no answer whether the other member can
//! have acted on it: only then must it find out what became of what it asked for.

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use polity_base::{NodeId, RangeId};
use polity_raft::network::{CallError, Request, Response};
use polity_raft::{Group, Network, Peer};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::links::{self, Handler, Links, Refusal, Service, Traffic};

/// Bytes from which on a request goes with the bulk: what is smaller delays a
/// heartbeat by less than the heartbeat's own way takes.
const LARGE: usize = 256 * 1024;

/// Carries the requests of this node's groups to other nodes.
pub struct RaftLinks {
    links: Links,
}

impl RaftLinks {
    /// The way over `links`.
    pub fn new(links: Links) -> RaftLinks {
        RaftLinks { links }
    }
}

impl Network for RaftLinks {
    fn call(
        &self,
        group: RangeId,
        to: NodeId,
        peer: &Peer,
        request: Request,
    ) -> BoxFuture<'_, Result<Response, CallError>> {
        let address = peer.address.clone();
        Box::pin(async move {
            let request = encode(&(group, request)).map_err(|why| CallError::Unreachable(to, why))?;
            let traffic = if request.len() < LARGE { Traffic::Control } else { Traffic::Bulk };
            let answer = self.links.call(to, &address, Service::RAFT, traffic, request).await;
            let answer = answer.map_err(|error| translate(to, error))?;
            decode(&answer).map_err(|why| CallError::Failed(to, format!("its answer cannot be read: {why}")))
        })
    }
}

/// What Raft makes of a call without an answer: the member is unreachable if it
/// cannot have acted on the request.
fn translate(to: NodeId, error: links::CallError) -> CallError {
    use links::CallError as Links;
    match error {
        Links::Unreachable { why, .. } => CallError::Unreachable(to, why),
        Links::Overloaded { what, .. } => CallError::Unreachable(to, format!("it does not keep up: {what}")),
        Links::TooLarge { .. } => CallError::Unreachable(to, error.to_string()),
        Links::Lost { why, .. } => CallError::Failed(to, why),
        Links::Refused { refusal, .. } => match refusal {
            Refusal::Failed(why) => CallError::Failed(to, why),
            Refusal::NoService | Refusal::Overloaded | Refusal::Malformed(_) | Refusal::Unauthorised(_) => {
                CallError::Unreachable(to, refusal.to_string())
            }
        },
    }
}

/// Answers what other nodes ask this node's member of a group.
pub struct RaftAnswers {
    group: Group,
}

impl RaftAnswers {
    /// Answers for `group`.
    pub fn new(group: Group) -> RaftAnswers {
        RaftAnswers { group }
    }
}

#[async_trait]
impl Handler for RaftAnswers {
    async fn answer(&self, _: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        let (range, request): (RangeId, Request) = decode(&request).map_err(Refusal::Malformed)?;
        if range != self.group.id() {
            return Err(Refusal::NoService);
        }
        let response = self.group.answer(request).await.map_err(|e| Refusal::Failed(e.to_string()))?;
        encode(&response).map_err(Refusal::Failed)
    }
}

fn encode(what: &impl Serialize) -> Result<Bytes, String> {
    postcard::to_stdvec(what).map(Bytes::from).map_err(|e| format!("it cannot be sent: {e}"))
}

/// Reads what must fill all of `bytes`.
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((what, [])) => Ok(what),
        Ok((_, rest)) => Err(format!("{} bytes too many", rest.len())),
        Err(error) => Err(error.to_string()),
    }
}
