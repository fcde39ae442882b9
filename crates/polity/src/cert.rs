//! `polity cert`: the certificates of a cluster.
//!
//! ```text
//! polity cert authority --out certs            on a safe machine: the cluster's authority
//! polity cert node 1 --host db1.example --out certs
//! polity cert client admin --out certs
//! ```
//! A node needs `ca.pem`, `node-N.pem` and `node-N.key`; the authority's own key
//! belongs on none of them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use polity_base::NodeId;
use polity_base::seams::{ClockSource, unique_id};
use polity_cluster::certificates::{Authority, Made};
use polity_node::clock::SystemClock;
use polity_node::entropy::SystemEntropy;

use crate::Outcome;

/// Arguments of `polity cert`.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Make the authority of a new cluster: ca.pem and ca.key
    Authority {
        /// The folder to write to
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// For how many days it is valid
        #[arg(long, value_name = "DAYS", default_value_t = 3650)]
        days: u32,
    },
    /// Make a node's certificate: node-N.pem and node-N.key
    Node {
        /// The node's number; no two nodes of a cluster have the same, ever
        number: u64,
        /// A name or address under which clients and nodes reach it; several are
        /// possible
        #[arg(long = "host", value_name = "HOST", required = true)]
        hosts: Vec<String>,
        /// For how many days it is valid
        #[arg(long, value_name = "DAYS", default_value_t = 365)]
        days: u32,
        #[command(flatten)]
        folders: Folders,
    },
    /// Make a client's certificate: client-NAME.pem and client-NAME.key
    Client {
        /// Its name
        name: String,
        /// For how many days it is valid
        #[arg(long, value_name = "DAYS", default_value_t = 365)]
        days: u32,
        #[command(flatten)]
        folders: Folders,
    },
}

#[derive(Args)]
struct Folders {
    /// The folder of the authority, with ca.pem and ca.key. Without it, the one
    /// written to
    #[arg(long, value_name = "DIR")]
    authority: Option<PathBuf>,
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Folders {
    fn authority(&self) -> Result<Authority, polity_cluster::Error> {
        Authority::open(self.authority.as_ref().unwrap_or(&self.out))
    }
}

/// Makes what is asked for.
pub fn run(arguments: Arguments) -> Outcome {
    let now = SystemClock::new(std::time::Duration::ZERO).read().midpoint();
    match arguments.what {
        What::Authority { out, days } => {
            let cluster = unique_id(&SystemEntropy::default());
            let authority = Authority::create(&out, cluster, days, now)?;
            println!("made the authority of cluster {cluster:032x}: {}", authority.certificate().display());
            println!("keep {} where no node can read it", out.join("ca.key").display());
        }
        What::Node { number, hosts, days, folders } => {
            let authority = folders.authority()?;
            write(&authority.node(NodeId(number), &hosts, days, now)?, &folders.out, &format!("node-{number}"))?;
        }
        What::Client { name, days, folders } => {
            let authority = folders.authority()?;
            write(&authority.client(&name, days, now)?, &folders.out, &format!("client-{name}"))?;
        }
    }
    Ok(())
}

fn write(made: &Made, folder: &Path, name: &str) -> Outcome {
    let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    made.write(&certificate, &key)?;
    println!("made {} and its key {}", certificate.display(), key.display());
    Ok(())
}
