//! What a node is started with.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use polity_base::NodeId;
use polity_base::seams::Seams;
use polity_cluster::links::carrier::Transport;
use polity_store::disk::Disk;
use polity_store::log::LogOptions;

use crate::clock;

/// What a node is started with.
pub struct NodeConfig {
    /// The folder the node keeps everything in; made if absent
    pub data: PathBuf,
    /// Where PostgreSQL clients connect; port 0 takes a free one
    pub sql: SocketAddr,
    /// Where health and metrics answer; port 0 takes a free one
    pub http: SocketAddr,
    /// Keys, certificates and the first password
    pub security: Security,
    /// The region the node stands in
    pub region: String,
    /// Where the node stands in the region
    pub zone: String,
    /// The node's number in its cluster. A folder remembers its own; naming
    /// another one is refused. A new folder without one is node 1.
    pub node: Option<NodeId>,
    /// How the node and others reach each other; `None`: it is alone
    pub link: Option<LinkConfig>,
    /// How much the node may use
    pub limits: Limits,
    /// How far true time may be from this machine's clock
    pub clock_error: Duration,
    /// The world around the node, if it is not this machine
    pub world: Option<World>,
}

/// How a node and others reach each other.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Where other nodes and administrators connect; port 0 takes a free one
    pub listen: SocketAddr,
    /// Host and port at which they reach it, if not `listen`
    pub advertise: Option<String>,
    /// Link addresses of nodes whose cluster this one is to join, if its data
    /// folder is new; none founds a cluster
    pub join: Vec<String>,
    /// Whether administrators may disturb it for drills
    pub allow_faults: bool,
    /// How much longer messages to nodes of a region take: for demonstrations
    pub delays: BTreeMap<String, Duration>,
}

/// Keys, certificates and the first password.
#[derive(Clone)]
pub enum Security {
    /// For trying things out, on loopback addresses only: the node makes its own
    /// encryption key in its data folder, and its certificates, where they protect
    /// nothing; user `polity` has the password `polity`.
    Development {
        /// The folder of the authority that signs them, made if absent; nodes of
        /// one cluster share it. `None`: `dev` in the data folder
        certificates: Option<PathBuf>,
    },
    /// Everything is given.
    Production {
        /// The node's certificate chain, PEM
        certificate: PathBuf,
        /// The certificate's private key, PEM
        private_key: PathBuf,
        /// The authority that signs the certificates of the cluster's nodes, PEM;
        /// needed for links
        authority: Option<PathBuf>,
        /// The key that data at rest is encrypted under
        key: KeySource,
        /// The password that user `polity` gets in a new data folder
        initial_password: Option<String>,
    },
}

/// Where the key is that data at rest is encrypted under: 64 hexadecimal digits.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// A file
    File(PathBuf),
    /// An environment variable, by its name
    Environment(String),
}

/// How much a node may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of rows kept in memory
    pub row_cache_bytes: usize,
    /// Bytes of recent log entries kept in memory
    pub log_cache_bytes: usize,
    /// Bytes that all running queries together may hold before they spill; a quarter
    /// of them keeps columns of the tables that queries scan
    pub query_memory_bytes: usize,
    /// Bytes that all running queries together may put aside in files
    pub spill_bytes: u64,
    /// Connections at once
    pub connections: usize,
    /// Bytes that one transaction may write
    pub transaction_bytes: usize,
    /// For how long overwritten and deleted rows can still be read
    pub retention: Duration,
    /// How long the rows may stay behind the log on disk. The longer, the more often a
    /// page that is written takes several changes at once, and the more log there is
    /// to replay after a crash
    pub checkpoint_interval: Duration,
    /// How many bytes of log the rows may stay behind on disk
    pub checkpoint_bytes: u64,
    /// From how many bytes on a file of the log gets a successor
    pub log_segment_bytes: u64,
    /// Applied entries that stay in the log for members that lag behind a little
    pub kept_entries: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            row_cache_bytes: 512 << 20,
            log_cache_bytes: 32 << 20,
            query_memory_bytes: 1 << 30,
            spill_bytes: 100 << 30,
            connections: 4_000,
            transaction_bytes: 256 << 20,
            retention: Duration::from_secs(600),
            checkpoint_interval: Duration::from_secs(30),
            checkpoint_bytes: 128 << 20,
            log_segment_bytes: LogOptions::default().segment_bytes,
            kept_entries: 10_000,
        }
    }
}

impl Limits {
    /// Limits for a node that may keep about so many `bytes` of rows, log entries
    /// and running queries in memory.
    pub fn within(bytes: usize) -> Limits {
        let usual = Limits::default();
        let log_cache_bytes = usual.log_cache_bytes.min(bytes / 16);
        let row_cache_bytes = bytes / 3;
        let query_memory_bytes = bytes - row_cache_bytes - log_cache_bytes;
        Limits {
            row_cache_bytes,
            log_cache_bytes,
            query_memory_bytes,
            transaction_bytes: usual.transaction_bytes.min(bytes / 4),
            checkpoint_bytes: usual.checkpoint_bytes.min(bytes as u64 / 8),
            ..usual
        }
    }
}

/// The world around a node, where it is not the machine's own.
#[derive(Clone)]
pub struct World {
    /// Time and entropy
    pub seams: Seams,
    /// The data folder
    pub disk: Arc<dyn Disk>,
    /// What carries links. Only code that stands above this crate can say anything
    /// but TLS here: no file, flag or variable does.
    pub transport: Transport,
}

impl NodeConfig {
    /// A node in `data` with the usual addresses on the loopback interface.
    pub fn new(data: PathBuf, security: Security) -> NodeConfig {
        NodeConfig {
            data,
            sql: SocketAddr::from((Ipv4Addr::LOCALHOST, 5433)),
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            security,
            region: "local".to_owned(),
            zone: String::new(),
            node: None,
            link: None,
            limits: Limits::default(),
            clock_error: clock::USUAL_ERROR,
            world: None,
        }
    }
}
