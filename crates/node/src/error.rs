//! Why a node cannot start, or did not stop in order.

use std::net::SocketAddr;

use polity_base::Class;

/// Why a node cannot start, or did not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] polity_store::Error),
    /// The Raft group cannot be started.
    #[error(transparent)]
    Raft(#[from] polity_raft::Error),
    /// The replica of the eventual tables cannot be started.
    #[error(transparent)]
    Eventual(Box<polity_crdt::Error>),
    /// The ledger of the byzantine tables cannot be started.
    #[error("ledger: {0}")]
    Ledger(String),
    /// Links cannot be started, or certificates not be made.
    #[error(transparent)]
    Cluster(#[from] polity_cluster::Error),
    /// A file beside the data is not what it should be.
    #[error("{file}: {what}")]
    File {
        /// The file
        file: String,
        /// What is wrong with it
        what: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for {purpose}: {why}")]
    Listen {
        /// The address
        address: SocketAddr,
        /// What was to listen there
        purpose: &'static str,
        /// Why not
        why: String,
    },
    /// The configuration contradicts itself or the data folder.
    #[error("{0}")]
    Config(String),
    /// A certificate cannot be made or used.
    #[error("TLS: {0}")]
    Tls(String),
    /// A running node cannot go on.
    #[error("the node cannot go on: {0}. What was acknowledged is safe; mend the cause and start it again")]
    Failed(String),
}

impl Error {
    /// What the caller should do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::Store(error) => error.class(),
            Error::Raft(error) => error.class(),
            Error::Cluster(error) => error.class(),
            Error::Eventual(error) => error.class(),
            Error::Ledger(_) => Class::Corrupt,
            Error::Failed(_) => Class::Resource,
            Error::File { .. } | Error::Listen { .. } | Error::Config(_) | Error::Tls(_) => Class::Input,
        }
    }

    pub(crate) fn eventual(error: polity_crdt::Error) -> Error {
        Error::Eventual(Box::new(error))
    }

    pub(crate) fn file(file: impl ToString, what: impl ToString) -> Error {
        Error::File { file: file.to_string(), what: what.to_string() }
    }
}
