//! A node without its doors: everything that keeps data and answers statements.
//!
//! [`crate::Node`] puts sockets for clients before it. A simulation takes it as it
//! is, in a world of its own ([`crate::World`]), and talks to its sessions directly.

use std::sync::Arc;
use std::time::Duration;

use polity_base::NodeId;
use polity_cluster::links::{Links, Visited};
use polity_cluster::name::{Holder, Name};
use polity_raft::Group;
use polity_sql::session::{Engine, EngineOptions};
use polity_store::log::Log;
use polity_store::state::State;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{Answer, Request};
use crate::certificates;
use crate::config::{NodeConfig, Security};
use crate::error::Error;
use crate::foundation::Foundation;
use crate::tasks;
use crate::wire::{decode, encode};

/// The name of the one database, of its first role, and in development of that
/// role's password.
pub(crate) const USUAL_NAME: &str = "polity";
/// How long each step of an orderly stop may take. Connections have less.
pub(crate) const CLOSING: Duration = Duration::from_secs(8);

/// A node without its doors.
pub struct Core {
    pub(crate) foundation: Foundation,
    pub(crate) engine: Arc<Engine>,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Core {
    /// Starts everything below the doors. When this returns, everything the node
    /// ever acknowledged is there.
    pub async fn start(config: &NodeConfig) -> Result<Core, Error> {
        let foundation = Foundation::lay(config).await?;
        match open(config, &foundation).await {
            Ok(engine) => {
                let (stopping, stop) = watch::channel(false);
                let mut tasks = JoinSet::new();
                let (group, retention) = (foundation.group.clone(), config.limits.retention);
                tasks.spawn(tasks::clear_dropped(engine.clone(), group.clone(), retention, stop.clone()));
                if foundation.ledger.is_some() {
                    tasks.spawn(tasks::keep_ledger_in_step(engine.clone(), group, stop));
                }
                Ok(Core { foundation, engine, stopping, tasks })
            }
            Err(error) => {
                if let Err(second) = foundation.clear().await {
                    tracing::warn!(error = %second, "the node did not stop in order");
                }
                Err(error)
            }
        }
    }

    /// Turns true when the node stops.
    pub(crate) fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Says to all that the node stops, before it does.
    pub(crate) fn announce_stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Stops in order, and makes everything durable. Nobody is waited for longer
    /// than a while.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.announce_stop();
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a background task failed");
                }
            }
        };
        if tokio::time::timeout(CLOSING, ended).await.is_err() {
            self.tasks.shutdown().await;
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

    /// What its sessions share.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Its member of the group that holds every key.
    pub fn group(&self) -> &Group {
        &self.foundation.group
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.foundation.log
    }

    /// Its rows.
    pub fn state(&self) -> &Arc<State> {
        &self.foundation.state
    }

    /// Its replica of the eventual tables.
    pub fn eventual(&self) -> &polity_crdt::Replica {
        &self.foundation.eventual
    }

    /// Answers an administrator, for whom whoever holds this node vouches.
    pub async fn administer(&self, request: &Request) -> Result<Answer, String> {
        let administration = self.foundation.administration.clone().ok_or("the node is alone")?;
        let from = Name {
            cluster: self.foundation.identity.cluster,
            holder: Holder::Client(certificates::ADMINISTRATOR.to_owned()),
        };
        decode(&administration.answer(&from, encode(request)?).await?)
    }

    /// Its links; none if it is alone.
    pub fn links(&self) -> Option<&Links> {
        self.foundation.cluster.as_ref().map(|cluster| &cluster.links)
    }
}

async fn open(config: &NodeConfig, foundation: &Foundation) -> Result<Arc<Engine>, Error> {
    let options = EngineOptions {
        database: USUAL_NAME.to_owned(),
        role: USUAL_NAME.to_owned(),
        password: first_password(config, foundation)?,
        query_memory: config.limits.query_memory_bytes,
        spill: foundation.spill.clone(),
    };
    let (database, seams, clock) = (&foundation.database, &foundation.seams, &foundation.clock);
    let engine = Engine::open(database.clone(), seams.clone(), clock.clone(), options).await;
    engine.map_err(|e| Error::Config(format!("the catalog cannot be opened: {e}")))
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
