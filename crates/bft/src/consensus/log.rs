//! Where a validator's records are kept: in the node's shared write-ahead log.
//!
//! The term of an entry is the height of its record, so that a restart sees which
//! records are of use without reading them. Records of committed heights are purged
//! with the first ones of the next.

use bytes::Bytes;
use polity_base::RangeId;
use polity_store::log::{Log, Record as Stored};

use super::error::Fatal;
use super::record::Record;
use crate::types::Height;

/// So many entries are read at once.
const CHUNK: u64 = 1024;

/// A validator's part of the node's log.
pub struct ValidatorLog {
    log: Log,
    group: RangeId,
    /// The index of the next entry
    next: u64,
    /// The height of the newest entry
    height: Height,
}

impl ValidatorLog {
    /// The validator's part of a log that was opened, and its records of heights
    /// after `tip`.
    pub fn open(log: Log, group: RangeId, tip: Height) -> Result<(ValidatorLog, Vec<Record>), Fatal> {
        let unusable = |e: polity_store::Error| Fatal::Log(e.to_string());
        let first = log.first(group).unwrap_or(0);
        let next = match (log.last(group), log.purged(group)) {
            (Some((last, _)), _) => last + 1,
            (None, purged) => purged.unwrap_or(0) + 1,
        };
        let mut records = Vec::new();
        let mut at = first;
        while at < next {
            for (_, height, payload) in log.read(group, at..next.min(at + CHUNK)).map_err(unusable)? {
                if height > tip.0 {
                    records.push(Record::decode(&payload)?);
                }
            }
            at += CHUNK;
        }
        let height = records.last().map_or(tip, |record| record.height);
        Ok((ValidatorLog { log, group, next, height }, records))
    }

    /// Appends records, in order; `done` is called when all are durable, or with the
    /// reason why that is not known. Never waits.
    pub fn append(&mut self, records: Vec<Record>, done: impl FnOnce(Result<(), Fatal>) + Send + 'static) {
        let mut stored = Vec::with_capacity(records.len() + 1);
        for record in records {
            if record.height > self.height {
                if self.next > 1 {
                    stored.push(Stored::Purge { group: self.group, upto_index: self.next - 1 });
                }
                self.height = record.height;
            }
            let payload = Bytes::from(record.encode());
            stored.push(Stored::Entry { group: self.group, index: self.next, term: record.height.0, payload });
            self.next += 1;
        }
        self.log.append(stored, move |outcome| done(outcome.map_err(|e| Fatal::Log(e.to_string()))));
    }
}
