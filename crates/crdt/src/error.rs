//! Why a replica could not do what it was asked.

use std::fmt;
use std::time::Duration;

use polity_base::{Bounds, Class, ColumnId, Key, NodeId, Timestamp};

use crate::stamp::VersionVector;

/// An error of the replica of the eventual tables.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The counter would have to spend more than this replica holds of it, and
    /// nobody who could be asked in time gave the rest, although the counter itself
    /// has enough. Nothing was done.
    #[error("{key}: column {column} changes by {wanted}, of which this node holds {here}")]
    ShareTooSmall {
        /// The row
        key: Key,
        /// The counter
        column: ColumnId,
        /// By how much it was to change
        wanted: i64,
        /// By how much this node may change it in that direction
        here: u64,
        /// By how much others may
        elsewhere: Vec<Holder>,
    },
    /// The counter would leave its bounds, as far as is known here. Nothing was done.
    #[error("{key}: column {column} is {value} and cannot change by {wanted}")]
    OutOfBounds {
        /// The row
        key: Key,
        /// The counter
        column: ColumnId,
        /// By how much it was to change
        wanted: i64,
        /// What it is
        value: i64,
        /// What it must stay within
        bounds: Bounds,
    },
    /// A new row is there already. Nothing was done.
    #[error("{key} is there already")]
    Exists {
        /// The row
        key: Key,
    },
    /// The change does not fit what the row holds. Nothing was done.
    #[error("{key}: {reason}")]
    Unfit {
        /// The row
        key: Key,
        /// Why
        reason: String,
    },
    /// The transaction is kept here and will spread, but fewer replicas than it asked
    /// for said in time that they keep it too.
    #[error("kept by {} of {wanted} replicas after {waited:?}; it will spread to the others", kept_by.len())]
    AcksMissing {
        /// When it was committed here
        at: Timestamp,
        /// How many replicas were to keep it
        wanted: u32,
        /// Those that do, this one included
        kept_by: Vec<NodeId>,
        /// How long they were waited for
        waited: Duration,
    },
    /// What was asked to be seen has not arrived here.
    #[error("this node lacks what {} wrote, after {waited:?}", names(missing.iter().map(|m| m.0)))]
    Behind {
        /// Whose writes are missing, and up to which time
        missing: Vec<(NodeId, Timestamp)>,
        /// How long they were waited for
        waited: Duration,
    },
    /// This node does not belong to the cluster any more.
    #[error("this node was removed from the cluster")]
    Removed,
    /// This replica is being filled, or catches up with what the others do not keep
    /// as single changes any more.
    #[error("this node's copy of the eventual tables is not complete yet: {why}")]
    NotReady {
        /// How far it is
        why: String,
    },
    /// The transaction changes more than one may.
    #[error("the transaction takes {size} bytes, it may take {limit}")]
    TooLarge {
        /// Its size in bytes
        size: usize,
        /// The limit in bytes
        limit: usize,
    },
    /// Another node cannot be asked.
    #[error("{node} does not answer: {reason}")]
    Unreachable {
        /// The node
        node: NodeId,
        /// Why
        reason: String,
    },
    /// The batch is not one of changes to rows of eventual tables.
    #[error("not a batch for eventual tables: {0}")]
    Misuse(&'static str),
    /// What another node sent makes no sense.
    #[error("a message of {from} makes no sense: {reason}")]
    Nonsense {
        /// The node
        from: NodeId,
        /// What is wrong with it
        reason: String,
    },
    /// The replica stopped, in order or after a failure. It is not known whether the
    /// transaction will be there after a restart.
    #[error("the replica of the eventual tables is stopped on this node: {reason}")]
    Stopped {
        /// Why
        reason: String,
    },
    /// The disk.
    #[error(transparent)]
    Store(#[from] polity_store::Error),
    /// What is kept of a row cannot be read.
    #[error("what is kept of {key} is damaged: {reason}")]
    Damaged {
        /// The row, or the entry of this replica's own books
        key: Key,
        /// What is wrong with it
        reason: String,
    },
}

/// How much of a counter somebody may spend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Who
    pub node: NodeId,
    /// How much, as far as is known here
    pub share: u64,
    /// Since when that node cannot be reached; `None` if it can
    pub unreachable_since: Option<Timestamp>,
}

fn names(nodes: impl Iterator<Item = NodeId>) -> String {
    let names: Vec<String> = nodes.map(|node| node.to_string()).collect();
    names.join(", ")
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} holds {}", self.node, self.share)?;
        if self.unreachable_since.is_some() { f.write_str(" and cannot be reached") } else { Ok(()) }
    }
}

impl Error {
    /// What the caller should do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::ShareTooSmall { .. } | Error::Behind { .. } | Error::Removed | Error::Unreachable { .. } => {
                Class::Unavailable
            }
            Error::OutOfBounds { .. } | Error::Exists { .. } | Error::Unfit { .. } => Class::Input,
            Error::NotReady { .. } => Class::Retry,
            Error::AcksMissing { .. } | Error::Stopped { .. } => Class::Unknown,
            Error::TooLarge { .. } => Class::Resource,
            Error::Nonsense { .. } => Class::Input,
            Error::Store(error) => error.class(),
            Error::Damaged { .. } => Class::Corrupt,
            Error::Misuse(_) => Class::Bug,
        }
    }

    /// What is missing of `wanted` in `seen`.
    pub(crate) fn behind(wanted: &VersionVector, seen: &VersionVector, waited: Duration) -> Error {
        let missing = wanted.beyond(seen).into_iter().map(|(node, _, at)| (node, at)).collect();
        Error::Behind { missing, waited }
    }
}
