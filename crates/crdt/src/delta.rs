//! One transaction's changes, on their way to the other replicas.
//!
//! A delta is applied whole, and not before everything that its author had applied:
//! so a transaction shows on every replica all at once, and never before one it
//! depends on (causal consistency: Lloyd et al., "Don't Settle for Eventual", SOSP
//! 2011).

use bytes::Bytes;
use polity_base::guarantee::Guarantee;
use polity_base::{Key, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::row::RowState;
use crate::stamp::{Stamp, VersionVector};

const VERSION: u8 = 1;

/// One transaction's changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Delta {
    /// Who took the transaction
    pub origin: NodeId,
    /// When: later than all deltas of the origin before
    pub at: Timestamp,
    /// The origin's delta before this one; zero for its first
    pub previous: Timestamp,
    /// What the origin had applied, itself left out
    pub seen: VersionVector,
    /// What it adds to the states of rows, each row at most once
    pub rows: Vec<(Key, RowState)>,
}

/// What to do with a delta that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// It was applied already.
    Known,
    /// All that it depends on was applied.
    Ready,
    /// Something is missing that it depends on.
    Early,
}

/// Bytes that are not a delta.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a delta: {0}")]
pub struct NotADelta(pub String);

impl Delta {
    /// Its stamp, which all of its writes have.
    pub fn stamp(&self) -> Stamp {
        Stamp { at: self.at, origin: self.origin }
    }

    /// What its author had applied when it wrote this, its own deltas included.
    pub fn author_seen(&self) -> VersionVector {
        let mut seen = self.seen.clone();
        seen.advance(self.origin, self.previous);
        seen
    }

    /// Whether a replica that has applied `here` may apply it.
    pub fn readiness(&self, here: &VersionVector) -> Readiness {
        if self.at <= here.of(self.origin) {
            return Readiness::Known;
        }
        match self.previous <= here.of(self.origin) && here.dominates(&self.seen) {
            true => Readiness::Ready,
            false => Readiness::Early,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Result<Bytes, NotADelta> {
        let bytes = postcard::to_extend(self, vec![VERSION]).map_err(|e| NotADelta(e.to_string()))?;
        Ok(bytes.into())
    }

    /// The delta of these bytes, which may come from anywhere.
    pub fn decode(bytes: &[u8]) -> Result<Delta, NotADelta> {
        let wrong = |what: &str| Err(NotADelta(what.to_owned()));
        let Some((&VERSION, rest)) = bytes.split_first() else { return wrong("unknown version") };
        let (delta, rest) = postcard::take_from_bytes::<Delta>(rest).map_err(|e| NotADelta(e.to_string()))?;
        if !rest.is_empty() {
            return wrong("bytes behind its end");
        }
        delta.check()?;
        Ok(delta)
    }

    fn check(&self) -> Result<(), NotADelta> {
        let wrong = |what: &str| Err(NotADelta(what.to_owned()));
        if self.previous >= self.at || self.at == Timestamp::MAX {
            return wrong("a time that is not after the one before");
        }
        if self.seen.of(self.origin) > Timestamp::ZERO {
            return wrong("what it saw includes itself");
        }
        for (key, row) in &self.rows {
            if key.first().map(|first| first >> 6) != Some(0b10) || key.len() < 4 {
                return wrong("a key that is no row's of an eventual table");
            }
            debug_assert_eq!(Guarantee::of_key(key), Guarantee::Eventual);
            if row.is_blank() || (!row.is_live() && !row.cells.is_empty()) {
                return wrong("a row that cannot be");
            }
        }
        Ok(())
    }
}
