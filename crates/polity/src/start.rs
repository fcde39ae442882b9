//! `polity start`: one node, in the foreground, until it is asked to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use polity_node::{KeySource, Node, NodeConfig, Security};

use crate::{Outcome, description, runtime, stop};

/// Arguments of `polity start`.
#[derive(Args)]
pub struct Arguments {
    /// The folder the node keeps everything in; made if absent
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where PostgreSQL clients connect
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:5433")]
    sql: SocketAddr,
    /// Where /health and /metrics answer
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// For development, on loopback addresses only: makes its own certificates
    /// and encryption key; user polity, password polity, database polity
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key", "key_file", "password_file"])]
    dev: bool,
    /// The node's certificate chain, PEM
    #[arg(long, value_name = "FILE", required_unless_present = "dev")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", required_unless_present = "dev")]
    tls_key: Option<PathBuf>,
    /// The key that data at rest is encrypted under: a file of 64 hexadecimal
    /// digits. Without it, the environment variable POLITY_KEY holds them
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A file with the password that user polity gets in a new data folder.
    /// Without it, the environment variable POLITY_INITIAL_PASSWORD holds it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The region the node stands in
    #[arg(long, value_name = "NAME", default_value = "local")]
    region: String,
    /// Print one line of JSON to standard output once ready: where the node is
    #[arg(long)]
    json: bool,
    /// Also stop when standard input ends: for programs that start nodes and
    /// may be killed themselves
    #[arg(long)]
    until_input_ends: bool,
}

/// Runs a node until it is asked to stop.
pub fn run(arguments: Arguments) -> Outcome {
    let (json, until_input_ends) = (arguments.json, arguments.until_input_ends);
    let config = config(arguments)?;
    runtime()?.block_on(async {
        let node = Node::start(config).await?;
        tracing::info!(sql = %node.sql_address(), http = %node.http_address(), data = %node.data().display(), "ready");
        if json {
            let mut out = std::io::stdout();
            writeln!(out, "{}", serde_json::json!({ "nodes": [description::of(&node)] }))?;
            out.flush()?;
        }
        stop::requested(until_input_ends).await?;
        tracing::info!("stopping");
        node.stop().await?;
        Ok(())
    })
}

fn config(arguments: Arguments) -> Result<NodeConfig, Box<dyn std::error::Error + Send + Sync>> {
    let security = if arguments.dev {
        Security::Development
    } else {
        let key = match arguments.key_file {
            Some(file) => KeySource::File(file),
            None => KeySource::Environment("POLITY_KEY".to_owned()),
        };
        let initial_password = match arguments.password_file {
            Some(file) => Some(read_password(&file)?),
            None => std::env::var("POLITY_INITIAL_PASSWORD").ok(),
        };
        let (Some(certificate), Some(private_key)) = (arguments.tls_cert, arguments.tls_key) else {
            return Err("--tls-cert and --tls-key are needed, or --dev".into());
        };
        Security::Production { certificate, private_key, key, initial_password }
    };
    Ok(NodeConfig {
        sql: arguments.sql,
        http: arguments.http,
        region: arguments.region,
        ..NodeConfig::new(arguments.data, security)
    })
}

fn read_password(file: &std::path::Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("--password-file {}: {e}", file.display()))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(format!("--password-file {}: the file is empty", file.display()));
    }
    Ok(password.to_owned())
}
