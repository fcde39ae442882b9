//! Which replica serves which keys.
//!
//! Today one strong range holds the whole key space. Transactions ask by key or
//! span all the same, so that a second range is a change of this file and of
//! the commit, not of everyone who reads.

use std::sync::Arc;

use polity_base::{RangeId, Span};

use crate::replica::Replica;

/// The map from keys to the replicas that serve them on this node.
#[derive(Clone)]
pub struct Directory {
    range: RangeId,
    replica: Arc<dyn Replica>,
}

impl Directory {
    /// A directory in which `range` holds every key.
    pub fn of_one(range: RangeId, replica: Arc<dyn Replica>) -> Directory {
        Directory { range, replica }
    }

    /// The range that holds `key`, and its replica.
    pub fn of_key(&self, _key: &[u8]) -> (RangeId, &Arc<dyn Replica>) {
        (self.range, &self.replica)
    }

    /// The range that holds every key of `span`, and its replica. `None` when
    /// no single range does.
    pub fn of_span(&self, _span: &Span) -> Option<(RangeId, &Arc<dyn Replica>)> {
        Some((self.range, &self.replica))
    }

    /// All ranges.
    pub fn ranges(&self) -> impl Iterator<Item = (RangeId, &Arc<dyn Replica>)> {
        std::iter::once((self.range, &self.replica))
    }
}
