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
use rustls::ServerConfig;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::certificates;
use crate::config::{NodeConfig, Security};
use crate::error::Error;
use crate::foundation::Foundation;
use crate::metrics::Figures;

/// The name of the one database, of its first role, and in development of that
/// role's password.
const USUAL_NAME: &str = "polity";
/// Where queries spill to, in the data folder.
const SPILL: &str = "spill";
/// How long a client may take to log in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// One node, running.
pub struct Node {
    foundation: Foundation,
    sql: SocketAddr,
    http: SocketAddr,
    data: PathBuf,
    region: String,
    stopping: watch::Sender<bool>,
    doors: JoinSet<()>,
}

impl Node {
    /// Starts a node. When this returns it serves, and everything it ever
    /// acknowledged is there.
    pub async fn start(config: NodeConfig) -> Result<Node, Error> {
        check(&config)?;
        let given = match &config.security {
            Security::Development => None,
            Security::Production { certificate, private_key, .. } => {
                Some(certificates::given(certificate, private_key)?)
            }
        };
        // Before anything is changed: a port that is taken is the likeliest mistake.
        let sql = listen(config.sql, "PostgreSQL clients").await?;
        let http = listen(config.http, "health and metrics").await?;
        let (sql_address, http_address) = (address(&sql, config.sql), address(&http, config.http));
        let foundation = Foundation::lay(&config).await?;
        match Node::raise(&config, &foundation, given, (sql, sql_address), http).await {
            Ok((stopping, doors)) => Ok(Node {
                foundation,
                sql: sql_address,
                http: http_address,
                data: config.data,
                region: config.region,
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
        given: Option<Arc<ServerConfig>>,
        (sql, sql_address): (TcpListener, SocketAddr),
        http: TcpListener,
    ) -> Result<(watch::Sender<bool>, JoinSet<()>), Error> {
        let tls = given.map_or_else(|| made_certificate(config, sql_address, foundation), Ok)?;
        let options = EngineOptions {
            database: USUAL_NAME.to_owned(),
            role: USUAL_NAME.to_owned(),
            password: first_password(config, foundation)?,
            query_memory: config.limits.query_memory_bytes,
            spill_folder: spill_folder(config)?,
        };
        let (database, seams, clock) = (&foundation.database, &foundation.seams, &foundation.clock);
        let engine = Engine::open(database.clone(), seams.clone(), clock.clone(), options).await;
        let engine = engine.map_err(|e| Error::Config(format!("the catalog cannot be opened: {e}")))?;

        let mut registry = Registry::with_prefix("polity");
        let counted = DoorMetrics::register(&mut registry);
        let (group, log, state) = (foundation.group.clone(), foundation.log.clone(), foundation.state.clone());
        registry.register_collector(Box::new(Figures { group: group.clone(), log, state }));

        let (stopping, stop) = watch::channel(false);
        let options =
            DoorOptions { tls: Some(tls), most_connections: config.limits.connections, login_timeout: LOGIN_TIMEOUT };
        let mut doors = JoinSet::new();
        doors.spawn(pg::serve(sql, engine, options, counted, stop.clone()));
        let health = health(foundation.identity.node, config.region.clone(), group);
        doors.spawn(http::serve(http, Arc::new(Mutex::new(registry)), health, stop));
        Ok((stopping, doors))
    }

    /// Stops in order: takes no more connections, ends those that are there, and
    /// makes everything durable.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.stopping.send_replace(true);
        while let Some(ended) = self.doors.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a door failed");
            }
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
    let development = matches!(config.security, Security::Development);
    for address in [config.sql, config.http] {
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

fn made_certificate(
    config: &NodeConfig,
    address: SocketAddr,
    foundation: &Foundation,
) -> Result<Arc<ServerConfig>, Error> {
    let now = foundation.seams.clock.read().midpoint();
    certificates::development(&config.data.join(certificates::FOLDER), address, now)
}

/// The password of the first role; it matters to a cluster without a catalog only.
fn first_password(config: &NodeConfig, foundation: &Foundation) -> Result<String, Error> {
    match &config.security {
        Security::Development => Ok(USUAL_NAME.to_owned()),
        Security::Production { initial_password: Some(password), .. } => Ok(password.clone()),
        Security::Production { initial_password: None, .. } if foundation.is_new()? => Err(Error::Config(format!(
            "the data folder is new, so user {USUAL_NAME} needs a password: in a file (--password-file) or in \
             POLITY_INITIAL_PASSWORD"
        ))),
        Security::Production { initial_password: None, .. } => Ok(String::new()),
    }
}

/// The folder that queries spill to, empty: what an earlier run left is of no use.
fn spill_folder(config: &NodeConfig) -> Result<PathBuf, Error> {
    let folder = config.data.join(SPILL);
    let failed = |e: std::io::Error| Error::file(folder.display(), e);
    match std::fs::remove_dir_all(&folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    std::fs::create_dir_all(&folder).map_err(failed)?;
    Ok(folder)
}

fn health(node: NodeId, region: String, group: Group) -> Health {
    Arc::new(move || {
        let status = group.status();
        if let Some(failure) = status.failure {
            return Err(format!("the node stopped serving: {failure}"));
        }
        if !status.leads {
            return Err("the node waits for a leader".to_owned());
        }
        Ok(json!({ "status": "serving", "node": node.0, "region": region, "applied": status.applied_index }))
    })
}
