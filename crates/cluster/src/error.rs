//! Why links cannot be started, or certificates not be made or used.

use std::net::SocketAddr;
use std::path::Path;

use polity_base::Class;

/// Why links cannot be started, or certificates not be made or used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or key file is not what it should be.
    #[error("{file}: {what}")]
    File {
        /// The file
        file: String,
        /// What is wrong with it
        what: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address} for other nodes: {why}")]
    Listen {
        /// The address
        address: SocketAddr,
        /// Why not
        why: String,
    },
    /// A certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

impl Error {
    /// What the caller should do about it.
    pub fn class(&self) -> Class {
        Class::Input
    }

    pub(crate) fn file(file: &Path, what: impl ToString) -> Error {
        Error::File { file: file.display().to_string(), what: what.to_string() }
    }
}
