//! The effect of one transaction: what is ordered, replicated and applied.
//!
//! A batch is an effect, not a text. SQL runs once, at the node the client is
//! connected to; what leaves it are the keys to write and the conditions under
//! which writing them is right. Every replica decides alike because it decides
//! on the batch and its own rows alone.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::decimal::Decimal;
use crate::ids::{ColumnId, NodeId};
use crate::key::{Key, Span};
use crate::time::Timestamp;
use crate::value::Value;

/// The effect of one transaction.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Batch {
    /// Unique; the same batch ordered twice is applied once.
    pub id: u128,
    /// The node at which the transaction ran.
    pub author: NodeId,
    /// What must hold when the batch's turn comes, or none of it is applied.
    pub preconditions: Vec<Precondition>,
    /// What is written, each key at most once. (A row that is changed several times
    /// may stand there as often, in order.)
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
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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
    /// Changes a row column by column. What the row is then depends on what it is
    /// when the change is applied, so that changes of several authors come together
    /// without one undoing another. Replicas of a strong range know rows only as
    /// bytes and refuse it.
    Change {
        /// The row
        key: Key,
        /// How
        change: RowChange,
    },
}

/// How a row changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum RowChange {
    /// A new row, with all of its columns.
    Insert(Vec<(ColumnId, ColumnChange)>),
    /// A row that is there, in these columns.
    Update(Vec<(ColumnId, ColumnChange)>),
    /// The row goes.
    Delete,
}

/// How one column of a row changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum ColumnChange {
    /// It has this value.
    Set(Value),
    /// A counter grows by so much, or shrinks. A new row's counter begins at 0.
    Add {
        /// By how much; below 0 to shrink
        amount: i64,
        /// What the counter must stay within
        bounds: Bounds,
    },
    /// A set gets elements and loses elements, none of which is NULL.
    Elements {
        /// Those that are put in
        added: Vec<Value>,
        /// Those that are taken out
        removed: Vec<Value>,
    },
    /// An exact number grows by so much, or shrinks if that is below 0. Only where writes
    /// are ordered: rounding would not add up in any order.
    AddNumeric(Decimal),
}

/// What a counter must stay within, ends included. The same for all rows of a
/// column, for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct Bounds {
    /// The smallest value
    pub lower: Option<i64>,
    /// The largest value
    pub upper: Option<i64>,
}

impl Bounds {
    /// Whether there is anything to stay within.
    pub fn any(&self) -> bool {
        self.lower.is_some() || self.upper.is_some()
    }
}

impl RowChange {
    /// Roughly how many bytes the change takes.
    pub fn size(&self) -> usize {
        match self {
            RowChange::Insert(columns) | RowChange::Update(columns) => {
                columns.iter().map(|(_, change)| change.size() + 4).sum::<usize>() + 4
            }
            RowChange::Delete => 4,
        }
    }
}

impl ColumnChange {
    fn size(&self) -> usize {
        match self {
            ColumnChange::Set(value) => value.size(),
            ColumnChange::Add { .. } | ColumnChange::AddNumeric(_) => 24,
            ColumnChange::Elements { added, removed } => added.iter().chain(removed).map(Value::size).sum(),
        }
    }
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
                Operation::Change { key, change } => key.len() + change.size(),
            })
            .sum();
        operations + self.preconditions.len() * 48 + 32
    }
}
