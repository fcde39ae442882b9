//! One node, running.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use polity_base::NodeId;
use polity_doors::http::{self, DoorMetrics, Health};
use polity_doors::pg::{self, DoorOptions};
use polity_raft::Group;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::certificates;
use crate::config::{NodeConfig, Security};
use crate::error::Error;
use crate::eventual::EventualFigures;
use crate::inner::{CLOSING, Core};
use crate::ledger::{self, LedgerFigures};
use crate::link_metrics::LinkFigures;
use crate::load;
use crate::metrics::Figures;

/// How long a client may take to log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// One node, running.
pub struct Node {
    pub(crate) core: Core,
    sql: SocketAddr,
    http: SocketAddr,
    data: PathBuf,
    region: String,
    zone: String,
    doors: JoinSet<()>,
}

impl Node {
    /// Starts a node. When this returns it serves, and everything it ever
    /// acknowledged is there.
    pub async fn start(config: NodeConfig) -> Result<Node, Error> {
        check(&config)?;
        if let Security::Production { certificate, private_key, .. } = &config.security {
            certificates::server(certificate, private_key)?;
        }
        // Before anything is changed: a port that is taken is the likeliest mistake.
        let sql = listen(config.sql, "PostgreSQL clients").await?;
        let http = listen(config.http, "health and metrics").await?;
        let (sql_address, http_address) = (address(&sql, config.sql), address(&http, config.http));
        let core = Core::start(&config).await?;
        match open_doors(&config, &core, sql, http) {
            Ok(doors) => Ok(Node {
                core,
                sql: sql_address,
                http: http_address,
                data: config.data,
                region: config.region,
                zone: config.zone,
                doors,
            }),
            Err(error) => {
                if let Err(second) = core.stop().await {
                    tracing::warn!(error = %second, "the node did not stop in order");
                }
                Err(error)
            }
        }
    }

    /// Waits until the node cannot go on, because its disk failed or is full, and gives
    /// the reason. What it acknowledged is safe; until a restart it serves nothing.
    pub async fn failed(&self) -> Error {
        tokio::select! {
            why = self.core.group().failed() => Error::Failed(why),
            why = self.core.foundation.eventual.failed() => Error::Failed(why),
        }
    }

    /// Stops in order: takes no more connections, ends those that are there, and
    /// makes everything durable. Nobody is waited for longer than a while.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.core.announce_stop();
        let closing = async {
            while let Some(ended) = self.doors.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a door failed");
                }
            }
        };
        if tokio::time::timeout(CLOSING, closing).await.is_err() {
            self.doors.shutdown().await;
        }
        self.core.stop().await
    }

    /// The node's number in its cluster.
    pub fn id(&self) -> NodeId {
        self.core.id()
    }

    /// The region it stands in.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Where it stands in the region.
    pub fn zone(&self) -> &str {
        &self.zone
    }

    /// Where other nodes and administrators connect; none if it has no links.
    pub fn link_address(&self) -> Option<&str> {
        self.core.foundation.cluster.as_ref().map(|cluster| cluster.own.address.as_str())
    }

    /// Where PostgreSQL clients connect.
    pub fn sql_address(&self) -> SocketAddr {
        self.sql
    }

    /// Where health and metrics answer.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }
}

fn check(config: &NodeConfig) -> Result<(), Error> {
    let development = matches!(config.security, Security::Development { .. });
    for address in [Some(config.sql), Some(config.http), config.link.as_ref().map(|l| l.listen)].into_iter().flatten() {
        if development && !address.ip().to_canonical().is_loopback() {
            let why = "development mode listens on loopback addresses only: its password is known to everyone";
            return Err(Error::Config(format!("{address}: {why}")));
        }
    }
    Ok(())
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|e| Error::Listen { address, purpose, why: e.to_string() })
}

fn address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// The doors to a node's engine.
fn open_doors(config: &NodeConfig, core: &Core, sql: TcpListener, http: TcpListener) -> Result<JoinSet<()>, Error> {
    let foundation = &core.foundation;
    let tls = certificates::server(&foundation.files.certificate, &foundation.files.private_key)?;
    let mut registry = Registry::with_prefix("polity");
    let counted = DoorMetrics::register(&mut registry);
    let (group, log, state) = (foundation.group.clone(), foundation.log.clone(), foundation.state.clone());
    registry.register_collector(Box::new(Figures { group: group.clone(), log, state }));
    registry.register_collector(Box::new(EventualFigures(foundation.eventual.clone())));
    if let Some(cluster) = &foundation.cluster {
        registry.register_collector(Box::new(LinkFigures(cluster.links.clone())));
    }
    if let Some(host) = &foundation.ledger {
        registry.register_collector(Box::new(LedgerFigures(host.clone())));
    }
    let options =
        DoorOptions { tls: Some(tls), most_connections: config.limits.connections, login_timeout: LOGIN_TIMEOUT };
    let mut doors = JoinSet::new();
    doors.spawn(pg::serve(sql, core.engine.clone(), options, counted.clone(), core.stopping()));
    let health = health(foundation.identity.node, config.region.clone(), group, foundation.ledger.clone());
    doors.spawn(http::serve(http, Arc::new(Mutex::new(registry)), health, core.stopping()));
    if let Some(cluster) = &foundation.cluster {
        doors.spawn(load::tell(cluster.membership.clone(), counted, core.stopping()));
    }
    Ok(doors)
}

fn health(node: NodeId, region: String, group: Group, host: Option<Arc<ledger::Host>>) -> Health {
    Arc::new(move || {
        let status = group.status();
        if let Some(failure) = status.failure {
            return Err(format!("the node stopped serving: {failure}"));
        }
        let Some(leader) = status.leader else {
            return Err("no leader is known: only reads of the past are served".to_owned());
        };
        let role = if status.leads { "leader" } else { "follower" };
        let mut facts = json!({
            "status": "serving",
            "node": node.0,
            "region": region,
            "role": role,
            "leader": leader.0,
            "applied": status.applied_index,
        });
        if let Some(ledger) = host.as_deref().and_then(ledger::health) {
            facts["ledger"] = ledger;
        }
        Ok(facts)
    })
}
