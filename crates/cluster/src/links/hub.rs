//! What all links of this node share.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use polity_base::NodeId;
use polity_base::seams::Entropy;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::carrier::Transport;
use super::faults::{Faults, Way};
use super::passage::{Passage, chance};
use super::peer::Peer;
use super::refused::{Reason, Tally};
use super::tls::Time;
use super::{Handler, Limits, Service, Visited};
use crate::certificates::{Credentials, Files};
use crate::name::{Holder, Name, Particulars};

/// A refusal is logged at most once in this time for the same peer and reason.
const QUIET: Duration = Duration::from_secs(10);
/// Refusals that are remembered for that.
const REMEMBERED: usize = 256;

/// What all links of this node share.
pub struct Hub {
    pub cluster: u128,
    pub node: NodeId,
    pub limits: Limits,
    pub files: Files,
    pub time: Time,
    pub entropy: Arc<dyn Entropy>,
    pub faults: Arc<Faults>,
    pub transport: Transport,
    /// What this node proves itself with
    pub credentials: RwLock<Arc<Credentials>>,
    services: RwLock<HashMap<u16, Arc<dyn Handler>>>,
    visited: RwLock<Option<Arc<dyn Visited>>>,
    peers: RwLock<HashMap<NodeId, Arc<Peer>>>,
    /// Connections that were refused
    pub tally: Tally,
    logged: Mutex<HashMap<String, Instant>>,
    stop: watch::Sender<bool>,
    /// Held by every task; the links have stopped once nobody holds it
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

/// What a new hub is told.
pub struct Given {
    pub cluster: u128,
    pub node: NodeId,
    pub limits: Limits,
    pub files: Files,
    pub time: Time,
    pub entropy: Arc<dyn Entropy>,
    pub credentials: Credentials,
    pub transport: Transport,
}

/// Whoever showed `chain`, which TLS has found to be signed by an authority of
/// `cluster`; and until when the certificate is valid.
pub fn named(cluster: u128, chain: Option<&[CertificateDer<'_>]>) -> Result<(Name, i64), String> {
    let leaf = chain.and_then(<[_]>::first).ok_or("it showed no certificate")?;
    let particulars = Particulars::read(leaf).map_err(|what| format!("its certificate {what}"))?;
    let name = particulars.name.map_err(|what| format!("its certificate {what}"))?;
    if name.cluster != cluster {
        return Err(format!("its certificate is of cluster {:032x}, this one is {cluster:032x}", name.cluster));
    }
    Ok((name, particulars.not_after))
}

impl Hub {
    /// The hub, and what ends once all its tasks have.
    pub fn new(given: Given) -> (Arc<Hub>, mpsc::Receiver<()>) {
        let (alive, ended) = mpsc::channel(1);
        let hub = Hub {
            cluster: given.cluster,
            node: given.node,
            limits: given.limits,
            files: given.files,
            time: given.time,
            entropy: given.entropy,
            faults: Arc::default(),
            transport: given.transport,
            credentials: RwLock::new(Arc::new(given.credentials)),
            services: RwLock::default(),
            visited: RwLock::default(),
            peers: RwLock::default(),
            tally: Tally::default(),
            logged: Mutex::default(),
            stop: watch::Sender::new(false),
            alive: Mutex::new(Some(alive)),
        };
        (Arc::new(hub), ended)
    }

    /// Turns true when the links stop.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Stops everything.
    pub fn stop(&self) {
        self.stop.send_replace(true);
        self.alive.lock().take();
    }

    /// Runs a task until it ends or the links stop.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // Moved once: on its way to the runtime a future is copied several times.
        let (mut stop, mut task) = (self.stopping(), Box::pin(task));
        self.spawn_whole(async move {
            tokio::select! {
                () = &mut task => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }

    /// Runs a task to its end, which comes soon once the links stop.
    pub fn spawn_whole(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(alive) = self.alive.lock().clone() else { return };
        tokio::spawn(async move {
            task.await;
            drop(alive);
        });
    }

    pub fn register(&self, service: Service, handler: Arc<dyn Handler>) {
        self.services.write().insert(service.0, handler);
    }

    pub fn handler(&self, service: Service) -> Option<Arc<dyn Handler>> {
        self.services.read().get(&service.0).cloned()
    }

    pub fn receive_visitors(&self, with: Arc<dyn Visited>) {
        *self.visited.write() = Some(with);
    }

    pub fn visited(&self) -> Option<Arc<dyn Visited>> {
        self.visited.read().clone()
    }

    /// The peer of that number.
    pub fn peer(&self, node: NodeId) -> Arc<Peer> {
        if let Some(peer) = self.peers.read().get(&node) {
            return peer.clone();
        }
        self.peers.write().entry(node).or_insert_with(|| Arc::new(Peer::new(node))).clone()
    }

    /// All peers, by number.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        let mut peers: Vec<_> = self.peers.read().values().cloned().collect();
        peers.sort_by_key(|peer| peer.node);
        peers
    }

    pub fn passage(&self, peer: &Peer, way: Way) -> Passage {
        Passage::new(self.faults.clone(), self.entropy.clone(), peer.node, way)
    }

    /// The node that showed `chain`, which TLS has found to be signed by an
    /// authority of this cluster; and until when the certificate is valid.
    pub fn identify(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<(NodeId, i64), String> {
        match named(self.cluster, chain)? {
            (Name { holder: Holder::Node(node), .. }, not_after) => Ok((node, not_after)),
            (name, _) => Err(format!("its certificate is that of {name}, not of a node")),
        }
    }

    /// Counts and logs a refused connection: `who`, as far as it is known, and why.
    pub fn refused(&self, reason: Reason, who: &str, why: &str) {
        self.tally.count(reason);
        if self.worth_logging(format!("{who} {why}")) {
            tracing::warn!(%reason, who, why, "a connection was refused");
        }
    }

    /// Whether the same was not said a moment ago.
    pub fn worth_logging(&self, what: String) -> bool {
        let (now, mut logged) = (Instant::now(), self.logged.lock());
        if logged.get(&what).is_some_and(|last| now.duration_since(*last) < QUIET) {
            return false;
        }
        if logged.len() >= REMEMBERED {
            logged.retain(|_, last| now.duration_since(*last) < QUIET);
        }
        // Strangers that vary what they do are not given the memory, nor the log.
        if logged.len() >= REMEMBERED {
            return false;
        }
        logged.insert(what, now);
        true
    }

    /// About `span`: half to one and a half of it.
    pub fn about(&self, span: Duration) -> Duration {
        span.mul_f64(0.5 + chance(&*self.entropy))
    }

    /// What was logged of late.
    #[cfg(test)]
    pub fn log(&self) -> Vec<String> {
        self.logged.lock().keys().cloned().collect()
    }

    /// Whether a logged line contains `what`.
    #[cfg(test)]
    pub fn was_logged(&self, what: &str) -> bool {
        self.log().iter().any(|line| line.contains(what))
    }
}
