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
use polity_sql::session::{Engine, EngineOptions};
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::certificates;
use crate::config::{NodeConfig, Security};
use crate::error::Error;
use crate::foundation::Foundation;
use crate::link_metrics::LinkFigures;
use crate::metrics::Figures;
use crate::tasks;

/// The name of the one database, of its first role, and in development of that
/// role's password.
const USUAL_NAME: &str = "polity";
/// How long a client may take to log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long each step of an orderly stop may take. Connections have less.
const CLOSING: Duration = Duration::from_secs(8);

/// One node, running.
pub struct Node {
    pub(crate) foundation: Foundation,
    engine: Arc<Engine>,
    sql: SocketAddr,
    http: SocketAddr,
    data: PathBuf,
    region: String,
    zone: String,
    stopping: watch::Sender<bool>,
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
        let foundation = Foundation::lay(&config).await?;
        match Node::raise(&config, &foundation, sql, http).await {
            Ok((engine, stopping, doors)) => Ok(Node {
                foundation,
                engine,
                sql: sql_address,
                http: http_address,
                data: config.data,
                region: config.region,
                zone: config.zone,
                stopping,
                doors,
            }),
            Err(error) => {
                if let Err(second) = foundation.clear().await {
                    tracing::warn!(error = %second, "the node did not stop in order");
                }
                Err(error)
            }
        }
    }

    /// The upper half: the engine, and the doors to it.
    async fn raise(
        config: &NodeConfig,
        foundation: &Foundation,
        sql: TcpListener,
        http: TcpListener,
    ) -> Result<(Arc<Engine>, watch::Sender<bool>, JoinSet<()>), Error> {
        let tls = certificates::server(&foundation.files.certificate, &foundation.files.private_key)?;
        let options = EngineOptions {
            database: USUAL_NAME.to_owned(),
            role: USUAL_NAME.to_owned(),
            password: first_password(config, foundation)?,
            query_memory: config.limits.query_memory_bytes,
            spill: foundation.spill.clone(),
        };
        let (database, seams, clock) = (&foundation.database, &foundation.seams, &foundation.clock);
        let engine = Engine::open(database.clone(), seams.clone(), clock.clone(), options).await;
        let engine = engine.map_err(|e| Error::Config(format!("the catalog cannot be opened: {e}")))?;

        let mut registry = Registry::with_prefix("polity");
        let counted = DoorMetrics::register(&mut registry);
        let (group, log, state) = (foundation.group.clone(), foundation.log.clone(), foundation.state.clone());
        registry.register_collector(Box::new(Figures { group: group.clone(), log, state }));
        if let Some(cluster) = &foundation.cluster {
            registry.register_collector(Box::new(LinkFigures(cluster.links.clone())));
        }

        let (stopping, stop) = watch::channel(false);
        let options =
            DoorOptions { tls: Some(tls), most_connections: config.limits.connections, login_timeout: LOGIN_TIMEOUT };
        let mut doors = JoinSet::new();
        doors.spawn(pg::serve(sql, engine.clone(), options, counted, stop.clone()));
        let retention = config.limits.retention;
        doors.spawn(tasks::clear_dropped(engine.clone(), group.clone(), retention, stop.clone()));
        let health = health(foundation.identity.node, config.region.clone(), group);
        doors.spawn(http::serve(http, Arc::new(Mutex::new(registry)), health, stop));
        Ok((engine, stopping, doors))
    }

    /// Waits until the node cannot go on, because its disk failed or is full, and gives
    /// the reason. What it acknowledged is safe; until a restart it serves nothing.
    pub async fn failed(&self) -> Error {
        Error::Failed(self.foundation.group.failed().await)
    }

    /// Stops in order: takes no more connections, ends those that are there, and
    /// makes everything durable. Nobody is waited for longer than a while.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.stopping.send_replace(true);
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
        // Without it, the sequences skip a few numbers.
        match tokio::time::timeout(CLOSING, self.engine.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "reserved sequence numbers were not given back"),
            Err(_) => tracing::info!("reserved sequence numbers were not given back in time"),
        }
        self.foundation.clear().await
    }

    /// The node's number in its cluster.
    pub fn id(&self) -> NodeId {
        self.foundation.identity.node
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
        self.foundation.cluster.as_ref().map(|cluster| cluster.own.address.as_str())
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

/// The password of the first role; it matters to a cluster without a catalog only.
fn first_password(config: &NodeConfig, foundation: &Foundation) -> Result<String, Error> {
    match &config.security {
        Security::Development { .. } => Ok(USUAL_NAME.to_owned()),
        Security::Production { initial_password: Some(password), .. } => Ok(password.clone()),
        Security::Production { initial_password: None, .. } if foundation.is_new()? => Err(Error::Config(format!(
            "the data folder is new, so user {USUAL_NAME} needs a password: in a file (--password-file) or in \
             POLITY_INITIAL_PASSWORD"
        ))),
        Security::Production { initial_password: None, .. } => Ok(String::new()),
    }
}

fn health(node: NodeId, region: String, group: Group) -> Health {
    Arc::new(move || {
        let status = group.status();
        if let Some(failure) = status.failure {
            return Err(format!("the node stopped serving: {failure}"));
        }
        let Some(leader) = status.leader else {
            return Err("no leader is known: only reads of the past are served".to_owned());
        };
        let role = if status.leads { "leader" } else { "follower" };
        Ok(json!({
            "status": "serving",
            "node": node.0,
            "region": region,
            "role": role,
            "leader": leader.0,
            "applied": status.applied_index,
        }))
    })
}
