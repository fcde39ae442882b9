//! What can go wrong with a disk.

use std::io;
use std::sync::Arc;

use polity_base::Class;

/// An error of the store. Clones share their cause, since one failed sync
/// answers every append that waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was tried, as a verb: "read", "sync"
        action: &'static str,
        /// The file, by its name in the data folder
        file: String,
        /// Why
        source: Arc<io::Error>,
    },
    /// What is on disk is not what was written.
    #[error("{file} is damaged at offset {offset}: {what}")]
    Corrupt {
        /// The file, by its name in the data folder
        file: String,
        /// Where in the file, in bytes
        offset: u64,
        /// What is wrong there
        what: String,
    },
    /// The data folder was sealed with another master key.
    #[error("the master key does not open this data folder's keyring: it was sealed with another key")]
    WrongKey,
    /// The master key cannot be read.
    #[error("no usable master key in {source_name}: {what}")]
    BadKey {
        /// The file or environment variable
        source_name: String,
        /// What is wrong with it
        what: String,
    },
    /// Another process holds the data folder.
    #[error("the data folder {folder} is in use by another process")]
    InUse {
        /// The folder
        folder: String,
    },
    /// No space is left on the disk.
    #[error("the disk is full: cannot {action} {file}")]
    Full {
        /// What was tried, as a verb
        action: &'static str,
        /// The file, by its name in the data folder
        file: String,
    },
    /// An earlier write or sync failed. What reached the disk is not known, so
    /// nothing more is written until a restart has read it back.
    #[error("nothing is written until a restart, because: {cause}")]
    Poisoned {
        /// The failure that came first
        cause: Arc<Error>,
    },
    /// The log or state was closed.
    #[error("the store is closed")]
    Closed,
    /// The record is larger than any the log takes.
    #[error("a record of {size} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The record's size in bytes
        size: usize,
        /// The limit in bytes
        limit: usize,
    },
    /// Entries of a group must follow each other without gaps.
    #[error("group {group} expects entry {expected}, not {given}")]
    OutOfOrder {
        /// The group
        group: polity_base::RangeId,
        /// The index that comes next
        expected: u64,
        /// The index that came
        given: u64,
    },
    /// The timestamp is so old that versions visible at it may be gone.
    #[error("rows as of {at} are not kept any more, only from {horizon} on")]
    TooOld {
        /// The timestamp
        at: polity_base::Timestamp,
        /// The oldest one that can be read
        horizon: polity_base::Timestamp,
    },
    /// A fault in Polity.
    #[error("internal error in the store: {0}")]
    Internal(String),
}

impl Error {
    /// What a caller should do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::Io { .. } | Error::Poisoned { .. } | Error::Closed => Class::Unavailable,
            Error::Corrupt { .. } => Class::Corrupt,
            Error::WrongKey | Error::BadKey { .. } | Error::InUse { .. } | Error::TooLarge { .. } => Class::Input,
            Error::Full { .. } => Class::Resource,
            Error::TooOld { .. } => Class::Conflict,
            Error::OutOfOrder { .. } | Error::Internal(_) => Class::Bug,
        }
    }

    /// The error for a failed operation on a file.
    pub fn io(action: &'static str, file: &str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { action, file: file.to_owned() },
            _ => Error::Io { action, file: file.to_owned(), source: Arc::new(source) },
        }
    }

    /// The error for damage found in a file.
    pub fn corrupt(file: &str, offset: u64, what: impl Into<String>) -> Error {
        Error::Corrupt { file: file.to_owned(), offset, what: what.into() }
    }
}
