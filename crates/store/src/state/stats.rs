//! How many rows there are, for whoever plans queries.
//!
//! Counted when a layer goes to redb, so exact as of the last checkpoint.

use std::collections::BTreeMap;

use polity_base::IndexId;
use serde::{Deserialize, Serialize};

use crate::state::State;

/// The rows of one index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct IndexStats {
    /// How many there are
    pub rows: u64,
    /// The bytes of their keys and values
    pub bytes: u64,
}

/// The rows of all indexes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Stats(BTreeMap<u32, IndexStats>);

impl Stats {
    /// Notes that the row of `key` changed from one size to another.
    pub fn change(&mut self, key: &[u8], before: Option<usize>, after: Option<usize>) {
        let Some(index) = key.first_chunk::<4>().map(|id| u32::from_be_bytes(*id)) else { return };
        if before.is_none() && after.is_none() {
            return;
        }
        let stats = self.0.entry(index).or_default();
        let size = |row: usize| (key.len() + row) as u64;
        if let Some(row) = before {
            stats.rows = stats.rows.saturating_sub(1);
            stats.bytes = stats.bytes.saturating_sub(size(row));
        }
        if let Some(row) = after {
            stats.rows += 1;
            stats.bytes += size(row);
        }
        if *stats == IndexStats::default() {
            self.0.remove(&index);
        }
    }
}

impl State {
    /// How many rows an index had at the last checkpoint, and their size.
    pub fn stats(&self, index: IndexId) -> IndexStats {
        self.stats.read().0.get(&index.0).copied().unwrap_or_default()
    }
}
