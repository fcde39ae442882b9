//! What is applied, and what becomes of it.

use bytes::Bytes;
use polity_base::{Batch, Key, Span, Timestamp};
use serde::{Deserialize, Serialize};

/// An entry of a group's log.
#[derive(Clone, PartialEq, Debug)]
pub struct OrderedEntry {
    /// Its place in the log; entries are applied without gaps
    pub index: u64,
    /// The term it was proposed in
    pub term: u64,
    /// What it says
    pub body: EntryBody,
}

/// What an entry says.
#[derive(Clone, PartialEq, Debug)]
pub enum EntryBody {
    /// Effects of transactions, applied one after the other.
    Batches {
        /// The proposer's time; no batch of the entry commits before it
        proposed_at: Timestamp,
        /// The batches, in order
        batches: Vec<Batch>,
    },
    /// Nothing: a leader's first entry.
    Blank,
    /// Of no concern to the rows.
    Membership(Bytes),
}

/// What became of an entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EntryOutcome {
    /// What became of its batches, in order.
    Batches(Vec<BatchOutcome>),
    /// It had none.
    Nothing,
}

/// What became of a batch: the same on every replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum BatchOutcome {
    /// All of it was applied, at this timestamp.
    Committed(Timestamp),
    /// Nothing was applied: a key of this span was written since it was read.
    Conflict(Span),
    /// Nothing was applied: the key has no value.
    Missing(Key),
    /// Nothing was applied: the key has a value.
    Exists(Key),
    /// Nothing was applied: what was written since it was read is not known any
    /// more.
    TooOld,
    /// Nothing was applied: the same batch was, at this timestamp.
    Duplicate(Timestamp),
}

/// How far a group's log was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AppliedMark {
    /// The index of the last applied entry, 0 before the first
    pub index: u64,
    /// Its term
    pub term: u64,
    /// The timestamp of the last batch that was committed
    pub commit: Timestamp,
}
