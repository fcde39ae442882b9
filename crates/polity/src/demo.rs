//! `polity demo`: a node for trying things out.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use polity_node::{Node, NodeConfig, Security};
use serde_json::json;

use crate::{Outcome, description, runtime, stop};

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

/// The port a person would try first; any free one if it is taken.
const USUAL_SQL_PORT: u16 = 5433;
const USUAL_HTTP_PORT: u16 = 8080;

/// Starts a node on free ports of the loopback address, says how to connect, and
/// runs until it is asked to stop.
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
    runtime()?.block_on(async {
        let mut config = NodeConfig::new(data, Security::Development);
        config.sql = usual_or_free(USUAL_SQL_PORT, arguments.json);
        config.http = usual_or_free(USUAL_HTTP_PORT, arguments.json);
        let node = Node::start(config).await?;
        let mut out = std::io::stdout();
        if arguments.json {
            writeln!(out, "{}", json!({ "nodes": [description::of(&node)] }))?;
        } else {
            writeln!(out, "{}", welcome(&node, temporary.is_some()))?;
        }
        out.flush()?;
        stop::requested(false).await?;
        node.stop().await?;
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    })?;
    if let Some(folder) = temporary {
        folder.close()?;
    }
    Ok(())
}

/// Scripts get free ports always; people get the usual one when it is free.
fn usual_or_free(usual: u16, any: bool) -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, usual));
    let free = !any && std::net::TcpListener::bind(usual).is_ok();
    if free { usual } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) }
}

fn welcome(node: &Node, temporary: bool) -> String {
    let kept = if temporary { "temporary: removed at the end" } else { "kept" };
    let (url, http, data) = (description::url(node), node.http_address(), node.data().display());
    format!(
        "Polity {version} is ready.

  connect   psql \"{url}\"
            polity sql \"{url}\"
  health    http://{http}/health
  metrics   http://{http}/metrics
  data      {data} ({kept})

Try:
  CREATE TABLE greeting (id int PRIMARY KEY, text text) WITH (guarantee = 'strong');
  INSERT INTO greeting VALUES (1, 'hello') ON CONFLICT DO NOTHING RETURNING *;
  EXPLAIN SELECT * FROM greeting WHERE id = 1;

Ctrl-C stops it.",
        version = env!("CARGO_PKG_VERSION"),
    )
}
