//! `polity start`: one node, in the foreground, until it is asked to stop.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use polity_base::NodeId;
use polity_node::{KeySource, Limits, LinkConfig, Node, NodeConfig, Security};

use crate::{Outcome, description, fault, runtime, stop};

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
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key", "tls_ca", "key_file", "password_file"])]
    dev: bool,
    /// The node's certificate chain, PEM
    #[arg(long, value_name = "FILE", required_unless_present = "dev")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", required_unless_present = "dev")]
    tls_key: Option<PathBuf>,
    /// The authority that signed it and the certificates of the other nodes, PEM;
    /// needed for --link
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// With --dev: the folder of the certificates that nodes of one cluster share.
    /// What is missing there is made
    #[arg(long, value_name = "DIR", requires = "dev")]
    certs: Option<PathBuf>,
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
    /// The zone of the region: a part of it that can fail as a whole
    #[arg(long, value_name = "NAME", default_value = "")]
    zone: String,
    /// The node's number in its cluster, if its certificate does not say it; a new
    /// folder without one is node 1
    #[arg(long, value_name = "NUMBER")]
    node: Option<u64>,
    /// Where other nodes and administrators connect. Without it, the node is alone
    #[arg(long, value_name = "ADDR")]
    link: Option<SocketAddr>,
    /// Host and port at which other nodes reach --link, if not as it is
    #[arg(long, value_name = "HOST:PORT", requires = "link")]
    advertise: Option<String>,
    /// Join the cluster of the node whose --link is reached here; several are
    /// tried one after the other. Without it, a new folder founds a cluster
    #[arg(long, value_name = "HOST:PORT", requires = "link")]
    join: Vec<String>,
    /// Let administrators cut this node off, slow it down, pause and kill it:
    /// for drills
    #[arg(long, requires = "link")]
    allow_faults: bool,
    /// Send messages to nodes of a region later by so much: for demonstrations
    #[arg(long, value_name = "REGION=TIME", requires = "link", value_parser = delay)]
    link_delay: Vec<(String, Duration)>,
    /// How much memory rows and queries may take: 512MiB, 4GiB
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    memory: Option<usize>,
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
        tokio::select! {
            requested = stop::requested(until_input_ends) => {
                requested?;
                tracing::info!("stopping");
                node.stop().await?;
                Ok(())
            }
            // A node that can only refuse is better gone: clients and supervisors notice.
            failure = node.failed() => Err(failure.into()),
        }
    })
}

fn config(arguments: Arguments) -> Result<NodeConfig, Box<dyn std::error::Error + Send + Sync>> {
    let security = if arguments.dev {
        Security::Development { certificates: arguments.certs }
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
        Security::Production { certificate, private_key, authority: arguments.tls_ca, key, initial_password }
    };
    let link = arguments.link.map(|listen| LinkConfig {
        listen,
        advertise: arguments.advertise,
        join: arguments.join,
        allow_faults: arguments.allow_faults,
        delays: arguments.link_delay.into_iter().collect(),
    });
    Ok(NodeConfig {
        zone: arguments.zone,
        node: arguments.node.map(NodeId),
        link,
        limits: arguments.memory.map_or_else(Limits::default, Limits::within),
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

/// `asia=80ms`
fn delay(text: &str) -> Result<(String, Duration), String> {
    let (region, time) = text.split_once('=').ok_or_else(|| format!("{text}: not REGION=TIME, such as asia=80ms"))?;
    Ok((region.to_owned(), fault::duration(time)?))
}

/// `512MiB`, `4GiB`
fn bytes(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text}: not a size such as 512MiB or 4GiB");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: usize = digits.parse().map_err(|_| wrong())?;
    let unit = match &text[digits.len()..] {
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    let bytes = number.checked_mul(unit).ok_or_else(wrong)?;
    if bytes < LEAST_MEMORY {
        return Err(format!("{text}: a node needs {} MiB at least", LEAST_MEMORY >> 20));
    }
    Ok(bytes)
}

/// Bytes of memory a node cannot do without.
const LEAST_MEMORY: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_delays_have_units() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("4GiB"), Ok(4 << 30));
        for wrong in ["", "64", "MiB", "1MiB", "64MB", "-64MiB", "99999999999999GiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(delay("asia=80ms"), Ok(("asia".to_owned(), Duration::from_millis(80))));
        for wrong in ["asia", "asia=80", "asia:80ms"] {
            assert!(delay(wrong).is_err(), "{wrong}");
        }
    }
}
