//! The replica's entries in the node's log: what they write, as bytes.

use bytes::Bytes;
use polity_base::{Batch, NodeId, Operation, RangeId, Timestamp};
use polity_store::log::Record;
use polity_store::state::{EntryBody, OrderedEntry};
use serde::{Deserialize, Serialize};

use crate::error::Error;

const VERSION: u8 = 1;
/// Nobody else decides what comes next, so there is one term.
const TERM: u64 = 1;

/// What one entry writes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its place in the log, counted from 1
    pub index: u64,
    /// The time it was computed
    pub at: Timestamp,
    /// Puts and deletes
    pub operations: Vec<Operation>,
}

impl Entry {
    /// The record that keeps it.
    pub fn record(&self) -> Result<Record, Error> {
        let bytes = postcard::to_extend(&(self.at, &self.operations), vec![VERSION]);
        let payload = bytes.map_err(|e| Error::Stopped { reason: format!("an entry has no bytes: {e}") })?;
        Ok(Record::Entry { group: RangeId::EVENTUAL, index: self.index, term: TERM, payload: payload.into() })
    }

    /// The entry that a record keeps.
    pub fn read(index: u64, payload: &Bytes) -> Result<Entry, Error> {
        let damaged = || Error::Stopped { reason: format!("entry {index} of the log cannot be read") };
        let (version, bytes) = payload.split_first().ok_or_else(damaged)?;
        if *version != VERSION {
            return Err(damaged());
        }
        let (at, operations) = postcard::from_bytes(bytes).map_err(|_| damaged())?;
        Ok(Entry { index, at, operations })
    }

    /// The entry as the rows take it: one batch, so that all of it shows at once.
    pub fn ordered(self, author: NodeId) -> OrderedEntry {
        let batch =
            Batch { id: u128::from(self.index), author, preconditions: Vec::new(), operations: self.operations };
        let body = EntryBody::Batches { proposed_at: self.at, batches: vec![batch] };
        OrderedEntry { index: self.index, term: TERM, body }
    }
}
