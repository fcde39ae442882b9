//! `polity demo`: a whole cluster on this machine, with a small shop in it.
//!
//! Five node processes in three regions, with the delays that lie between such
//! regions. The parent starts them, loads the shop, says how to connect and what
//! to try, and ends them when it is asked to stop. They end with it whatever
//! happens to it: their standard input is a pipe from the parent.

mod cluster;
mod shop;
mod tour;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use cluster::Cluster;
use serde_json::json;

use crate::{Outcome, stop};

/// Arguments of `polity demo`.
#[derive(Args)]
pub struct Arguments {
    /// Print one line of JSON once ready, and nothing else
    #[arg(long)]
    json: bool,
    /// Keep the data in this folder. Without it, a temporary folder is used and
    /// removed at the end
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Starts the cluster and runs it until it is asked to stop.
pub fn run(arguments: Arguments) -> Outcome {
    let temporary = match &arguments.data {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("polity-demo-").tempdir()?),
    };
    let data = match (&arguments.data, &temporary) {
        (Some(data), _) => data.clone(),
        (None, Some(folder)) => folder.path().to_owned(),
        (None, None) => return Err("no data folder".into()),
    };
    std::fs::create_dir_all(&data).map_err(|e| format!("--data {}: {e}", data.display()))?;
    // Asked for absolute paths, so that what is printed works from anywhere.
    let data = data.canonicalize()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let progress = Progress { silent: arguments.json };
        let stopped = stop::requested(false);
        tokio::pin!(stopped);
        let mut cluster = tokio::select! {
            started = start(&data, progress) => started?,
            asked = &mut stopped => return Ok(asked?),
        };
        let mut out = std::io::stdout();
        if arguments.json {
            let admin = cluster.admin_arguments();
            writeln!(out, "{}", json!({ "nodes": cluster.nodes(), "admin": admin }))?;
        } else {
            writeln!(out, "{}", tour::text(&cluster, temporary.is_some()))?;
        }
        out.flush()?;
        let outcome = tokio::select! {
            asked = stopped => asked.map_err(Into::into),
            lost = cluster.lost() => Err(lost),
        };
        progress.say("stopping");
        cluster.stop().await;
        outcome
    });
    if let Some(folder) = temporary {
        folder.close()?;
    }
    ended
}

async fn start(data: &Path, progress: Progress) -> Result<Cluster, Box<dyn std::error::Error + Send + Sync>> {
    let cluster = Cluster::start(data, progress).await?;
    progress.say("loading the shop");
    let (client, connection) = tokio_postgres::connect(cluster.url(0), tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    shop::load(&client).await.map_err(|e| format!("the shop cannot be loaded: {}", crate::shell::describe(&e)))?;
    let seen: String = client.query_one("SHOW polity.causal_token", &[]).await?.get(0);
    drop(client);
    connection.await??;
    progress.say("waiting until all nodes have it");
    for at in 1..cluster.nodes().len() {
        wait_for(cluster.url(at), &seen).await?;
    }
    Ok(cluster)
}

/// Waits until a node has what was seen on another.
async fn wait_for(url: &str, seen: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    let connection = tokio::spawn(connection);
    client.batch_execute("SET polity.causal_timeout = '30s'").await?;
    client.batch_execute(&format!("SET polity.causal_token = '{seen}'")).await?;
    drop(client);
    Ok(connection.await??)
}

/// Says on standard error what is going on.
#[derive(Clone, Copy)]
pub struct Progress {
    silent: bool,
}

impl Progress {
    fn say(self, what: &str) {
        if !self.silent {
            eprintln!("… {what}");
        }
    }
}
