//! The effect of one transaction: what is ordered, replicated and applied.
//!
//! A batch is an effect, not a text. SQL runs once, at the node the client is
//! connected to; what leaves it are the keys to write and the conditions under
//! which writing them is right. Every replica decides alike because it decides
//! on the batch and its own rows alone.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::key::{Key, Span};
use crate::time::Timestamp;

/// The effect of one transaction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// Unique; the same batch ordered twice is applied once.
    pub id: u128,
    /// The node at which the transaction ran.
    pub author: NodeId,
    /// What must hold when the batch's turn comes, or none of it is applied.
    pub preconditions: Vec<Precondition>,
    /// What is written, each key at most once.
    pub operations: Vec<Operation>,
}

/// What must hold for a batch to be applied.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Precondition {
    /// No key of the span was written at a timestamp later than `since`.
    Unchanged {
        /// The keys that were read, or might have been
        span: Span,
        /// The timestamp they were read at
        since: Timestamp,
    },
    /// The key has a value.
    Present(Key),
    /// The key has no value.
    Absent(Key),
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation {
    /// Writes a new version of the key.
    Put {
        /// Where
        key: Key,
        /// What
        value: Bytes,
    },
    /// Writes a version that says the key has no value.
    Delete {
        /// Where
        key: Key,
    },
    /// Removes every version of every key of the span at once, for spans that
    /// no reader can reach any more: the rows of a dropped table.
    Clear {
        /// Where
        span: Span,
    },
}

impl Batch {
    /// Roughly how many bytes the batch takes in the log.
    pub fn size(&self) -> usize {
        let operations: usize = self
            .operations
            .iter()
            .map(|o| match o {
                Operation::Put { key, value } => key.len() + value.len() + 8,
                Operation::Delete { key } => key.len() + 4,
                Operation::Clear { span } => span.start.len() + span.end.len() + 8,
            })
            .sum();
        operations + self.preconditions.len() * 48 + 32
    }
}
