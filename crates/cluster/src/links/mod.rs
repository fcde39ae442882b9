//! Requests and answers between nodes.
//!
//! Each node listens at one address and dials those it calls: one connection for
//! control traffic and one for bulk, so that rows on their way to a new replica
//! never stand before a heartbeat. (Both nodes of a pair do so; requests go the way
//! the connection was made, answers come back on it.) Services register a
//! [`Handler`] by number; [`Links::call`] asks one at another node.
//!
//! ```text
//! call ─▶ queue ─▶ frame ─▶ TLS 1.3 ─▶ TCP ─▶ frame ─▶ Handler::answer, in a task of its own
//!   ▲                                                        │
//!   ╰───────── by the request's number ◀─── frame ◀──────────╯
//! ```
//!
//! What holds: a peer is who its certificate says, or there is no connection. An
//! answer is that to the request, or there is an error that says whether the
//! request can have been acted on ([`CallError`]). Requests may overtake each other:
//! each is answered in a task of its own. Nothing is sent twice. What a peer sends
//! wrongly costs it its connection and nothing else.

mod calls;
pub mod carrier;
mod connection;
mod dial;
mod faults;
pub mod frame;
mod hub;
mod listen;
mod passage;
mod peer;
mod refused;
mod renewal;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod visit;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use carrier::Transport;
pub use faults::{Fault, Faults, Nonsense, Rule, Way};
use hub::{Given, Hub};
use listen::Listener;
use polity_base::NodeId;
use polity_base::seams::Seams;
pub use refused::{Reason, Refused};
use serde::{Deserialize, Serialize};
pub(crate) use tls::provider;
use tokio::sync::mpsc;
pub use visit::{Visited, Visitor};

use crate::certificates::{Credentials, Files};
use crate::error::Error;

/// A service, by its number. Numbers are never given to another service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Service(pub u16);

impl Service {
    /// Raft: see [`crate::raft_links`]
    pub const RAFT: Service = Service(1);
    /// Locks of rows at the leader of their range
    pub const LOCKS: Service = Service(2);
    /// Who is there
    pub const MEMBERSHIP: Service = Service(3);
    /// What an operator asks one node about another
    pub const ADMIN: Service = Service(4);
    /// Replicas of the eventual tables
    pub const EVENTUAL: Service = Service(5);
    /// Validators of the ledger, which keeps the byzantine tables
    pub const LEDGER: Service = Service(6);
    /// Validators that sign for users of nodes that are none
    pub const LEDGER_VOICE: Service = Service(7);
}

/// Which of a peer's two connections a request goes over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Traffic {
    /// Small and urgent; fails at once where too much waits
    Control,
    /// Large and patient; waits where too much waits
    Bulk,
}

/// Answers the requests of a service.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers `request` of the node `from`, which is certain. Runs in a task of its
    /// own, beside other requests of the same peer, and to its end even if the peer
    /// does not wait for the answer any more.
    async fn answer(&self, from: NodeId, request: Bytes) -> Result<Bytes, Refusal>;
}

/// Why a request was not answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The peer does not have the service, or not yet.
    #[error("it has no such service")]
    NoService,
    /// The peer has too many requests of this node already.
    #[error("it has too many requests to answer")]
    Overloaded,
    /// The request cannot be read. Ends the connection it came on.
    #[error("the request cannot be read: {0}")]
    Malformed(String),
    /// The node may not ask that. Ends the connection it came on.
    #[error("not allowed: {0}")]
    Unauthorised(String),
    /// The request cannot be answered.
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    /// What the peer did that costs it its connection, if it did.
    fn offence(&self) -> Option<String> {
        match self {
            Refusal::Malformed(what) => Some(format!("a request that cannot be read: {what}")),
            Refusal::Unauthorised(what) => Some(format!("a request that it may not make: {what}")),
            Refusal::NoService | Refusal::Overloaded | Refusal::Failed(_) => None,
        }
    }
}

/// Why a call brought no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// There is no connection. The peer has not seen the request.
    #[error("{to} cannot be reached: {why}")]
    Unreachable {
        /// The peer
        to: NodeId,
        /// Why not, and for how long
        why: String,
    },
    /// Too much waits for the peer already. It has not seen the request.
    #[error("{to} does not keep up: {what}")]
    Overloaded {
        /// The peer
        to: NodeId,
        /// What waits
        what: String,
    },
    /// The request is larger than a message may be. The peer has not seen it.
    #[error("a request of {bytes} bytes, where {limit} are allowed")]
    TooLarge {
        /// Bytes of the request
        bytes: usize,
        /// Bytes allowed
        limit: usize,
    },
    /// The connection ended before the answer came. The peer may have acted on the
    /// request.
    #[error("the answer of {to} was lost: {why}")]
    Lost {
        /// The peer
        to: NodeId,
        /// Why
        why: String,
    },
    /// The peer refused the request.
    #[error("{to} refused: {refusal}")]
    Refused {
        /// The peer
        to: NodeId,
        /// Why
        refusal: Refusal,
    },
}

/// What links are started with.
pub struct LinksConfig {
    /// The cluster, by its number
    pub cluster: u128,
    /// This node
    pub node: NodeId,
    /// Where other nodes connect; port 0 takes a free one
    pub listen: SocketAddr,
    /// What this node proves itself with
    pub certificates: Files,
    /// Time and entropy
    pub seams: Seams,
    /// Bounds
    pub limits: Limits,
    /// What carries their bytes
    pub transport: Transport,
}

/// The bounds of links.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a control request or answer
    pub control_bytes: usize,
    /// Bytes of a bulk request or answer
    pub bulk_bytes: usize,
    /// Bytes that may wait to be sent on one connection, and that requests being
    /// answered may take on one
    pub waiting_bytes: usize,
    /// Calls of one service that may wait for answers on one connection
    pub calls: usize,
    /// How long making a connection may take
    pub dial_timeout: Duration,
    /// How long a call waits for a connection that is being made
    pub dial_wait: Duration,
    /// How often a peer is asked whether it is there
    pub ping_every: Duration,
    /// After which silence it is taken for dead
    pub silence: Duration,
    /// How long a connection made with replaced certificates may go on
    pub retirement: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            control_bytes: 4 << 20,
            // The largest batch a transaction may write is one entry of the log, and an
            // entry is one message.
            bulk_bytes: 320 << 20,
            waiting_bytes: 64 << 20,
            calls: 4096,
            dial_timeout: Duration::from_secs(3),
            dial_wait: Duration::from_millis(500),
            ping_every: Duration::from_millis(250),
            silence: Duration::from_millis(1200),
            retirement: Duration::from_secs(10),
        }
    }
}

impl Limits {
    fn message_bytes(&self, traffic: Traffic) -> usize {
        match traffic {
            Traffic::Control => self.control_bytes,
            Traffic::Bulk => self.bulk_bytes,
        }
    }
}

/// How the link to a peer stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerLink {
    /// The peer
    pub node: NodeId,
    /// Where it is called; empty if it never was
    pub address: String,
    /// Whether this node is connected to it
    pub connected: bool,
    /// For how long that has been so, or not been so; none if it was never called
    pub since: Option<Duration>,
    /// Why it is not connected
    pub why: Option<String>,
    /// Whether it is connected to this node
    pub accepted: bool,
    /// How long it takes to answer when it has nothing else to do, smoothed
    pub round_trip: Option<Duration>,
    /// What went over the control connections, both that it made and that this node
    /// made
    pub control: PeerTraffic,
    /// What went over the bulk connections
    pub bulk: PeerTraffic,
    /// Calls that wait for its answers
    pub waiting: usize,
    /// Its calls that are being answered
    pub being_answered: usize,
}

/// What went over one kind of connections of a peer since the links were started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PeerTraffic {
    /// Bytes sent, before encryption
    pub bytes_sent: u64,
    /// Bytes received, after decryption
    pub bytes_received: u64,
    /// Messages sent
    pub messages_sent: u64,
    /// Messages received
    pub messages_received: u64,
    /// Frames sent
    pub frames_sent: u64,
    /// Frames received
    pub frames_received: u64,
    /// How often this node connected to it
    pub connects: u64,
    /// Requests it refused
    pub refused: u64,
}

/// This node's links. A clone is the same links.
#[derive(Clone)]
pub struct Links {
    pub(crate) hub: Arc<Hub>,
    address: SocketAddr,
    ended: Arc<tokio::sync::Mutex<mpsc::Receiver<()>>>,
}

impl Links {
    /// Reads the certificates, and listens.
    pub async fn start(config: LinksConfig) -> Result<Links, Error> {
        let now = config.seams.clock.read().midpoint();
        let credentials = Credentials::load(&config.certificates, config.cluster, config.node, now)?;
        let failed = |e: std::io::Error| Error::Listen { address: config.listen, why: e.to_string() };
        let listener = Listener::open(&config.transport, config.listen).await.map_err(failed)?;
        let address = listener.local_address().map_err(failed)?;
        let (hub, ended) = Hub::new(Given {
            cluster: config.cluster,
            node: config.node,
            limits: config.limits,
            files: config.certificates,
            time: tls::Time(config.seams.clock),
            entropy: config.seams.entropy,
            credentials,
            transport: config.transport,
        });
        hub.spawn(listen::listen(hub.clone(), listener));
        hub.spawn(renewal::look_after(hub.clone()));
        Ok(Links { hub, address, ended: Arc::new(tokio::sync::Mutex::new(ended)) })
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.hub.node
    }

    /// What carries their bytes.
    pub fn transport(&self) -> Transport {
        self.hub.transport.clone()
    }

    /// Has the requests for `service` answered by `handler` from now on.
    pub fn register(&self, service: Service, handler: Arc<dyn Handler>) {
        self.hub.register(service, handler);
    }

    /// Has those who are not linked to this node answered by `with` from now on.
    pub fn receive_visitors(&self, with: Arc<dyn Visited>) {
        self.hub.receive_visitors(with);
    }

    /// What this node proves itself with at present.
    pub fn credentials(&self) -> Arc<Credentials> {
        self.hub.credentials.read().clone()
    }

    /// Asks `service` of the node `to`, reached at `address` (host and port). The
    /// caller sets the deadline; a future that is dropped abandons the call, which
    /// the peer may act on nevertheless.
    pub async fn call(
        &self,
        to: NodeId,
        address: &str,
        service: Service,
        traffic: Traffic,
        request: Bytes,
    ) -> Result<Bytes, CallError> {
        let limit = self.hub.limits.message_bytes(traffic);
        if request.len() > limit {
            return Err(CallError::TooLarge { bytes: request.len(), limit });
        }
        if to == self.hub.node {
            return Err(CallError::Unreachable { to, why: "it is this node itself".to_owned() });
        }
        let peer = self.hub.peer(to);
        dial::want(&self.hub, &peer, traffic, address);
        if traffic == Traffic::Bulk {
            // It is the control connection that tells whether the peer lives.
            dial::want(&self.hub, &peer, Traffic::Control, address);
        }
        let connection = peer.outbound(traffic).connection(to, self.hub.limits.dial_wait).await?;
        connection.call(service, request).await
    }

    /// How the links to all peers stand, by number.
    pub fn peers(&self) -> Vec<PeerLink> {
        self.hub.peers().iter().map(|peer| peer.figures()).collect()
    }

    /// Connections that were refused, in either direction.
    pub fn refused(&self) -> Refused {
        self.hub.tally.figures()
    }

    /// Reads the certificates again, and has every connection made anew under them.
    /// Otherwise that happens within seconds after the files change.
    pub fn reload(&self) -> Result<(), Error> {
        self.hub.reload()
    }

    /// Seconds until this node's certificate runs out; below 0 when it has. The log
    /// warns once a day from 30 days before.
    pub fn certificate_expires_seconds(&self) -> i64 {
        self.hub.seconds_left()
    }

    /// Faults on purpose, for drills.
    pub fn faults(&self) -> &Faults {
        &self.hub.faults
    }

    /// Ends all connections, and returns when nothing of the links runs any more.
    pub async fn stop(self) {
        self.hub.stop();
        // Nobody sends: it ends once every task has let go of its sender.
        let _ = self.ended.lock().await.recv().await;
    }
}
