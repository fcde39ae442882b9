//! Which write, and which writes were seen.
//!
//! Every delta of a replica has its own time, later than all of that replica's
//! before, and a replica applies another's deltas in that order. So one time an
//! origin says which of its deltas were applied, and a time with an origin names
//! a delta: the dots and vectors of Almeida et al. with hybrid logical time for a
//! counter.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use polity_base::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};

/// A write: when, and on which replica. Later writes are greater; of writes at one
/// time, that of the higher origin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// When, by the origin's hybrid clock
    pub at: Timestamp,
    /// The replica that took the write
    pub origin: NodeId,
}

/// Which deltas were applied: of each origin all up to a time.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VersionVector(BTreeMap<NodeId, Timestamp>);

/// A text that is not a vector's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a causal token")]
pub struct NotAToken;

impl VersionVector {
    /// Of nobody anything.
    pub const fn new() -> VersionVector {
        VersionVector(BTreeMap::new())
    }

    /// The time of the last delta of `origin`; zero before the first.
    pub fn of(&self, origin: NodeId) -> Timestamp {
        self.0.get(&origin).copied().unwrap_or_default()
    }

    /// Whether the write is among those.
    pub fn covers(&self, stamp: Stamp) -> bool {
        stamp.at <= self.of(stamp.origin)
    }

    /// Whether all of `other` is among those.
    pub fn dominates(&self, other: &VersionVector) -> bool {
        other.0.iter().all(|(origin, at)| *at <= self.of(*origin))
    }

    /// Notes the deltas of `origin` up to `at`.
    pub fn advance(&mut self, origin: NodeId, at: Timestamp) {
        if at > Timestamp::ZERO {
            let seen = self.0.entry(origin).or_default();
            *seen = (*seen).max(at);
        }
    }

    /// Notes all of `other`.
    pub fn join(&mut self, other: &VersionVector) {
        other.0.iter().for_each(|(origin, at)| self.advance(*origin, *at));
    }

    /// What is in both.
    pub fn meet(&mut self, other: &VersionVector) {
        self.0.retain(|origin, at| {
            *at = (*at).min(other.of(*origin));
            *at > Timestamp::ZERO
        });
    }

    /// Forgets `origin`.
    pub fn remove(&mut self, origin: NodeId) {
        self.0.remove(&origin);
    }

    /// Origins and the times of their last deltas, by origin.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Timestamp)> {
        self.0.iter().map(|(origin, at)| (*origin, *at))
    }

    /// The time of the last delta of all; zero if there is none.
    pub fn last(&self) -> Timestamp {
        self.0.values().copied().max().unwrap_or_default()
    }

    /// Whether it is of nobody anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `self` has that `other` lacks: for each origin the times after which,
    /// and up to which.
    pub fn beyond(&self, other: &VersionVector) -> Vec<(NodeId, Timestamp, Timestamp)> {
        let ahead = |(origin, at): (NodeId, Timestamp)| {
            let theirs = other.of(origin);
            (theirs < at).then_some((origin, theirs, at))
        };
        self.iter().filter_map(ahead).collect()
    }

    /// A short text for users to carry about: see `polity.causal_token`.
    pub fn to_token(&self) -> String {
        let mut bytes = Vec::with_capacity(self.0.len() * 12);
        for (origin, at) in &self.0 {
            bytes.extend_from_slice(&origin.0.to_be_bytes());
            bytes.extend_from_slice(&at.0.to_be_bytes());
        }
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The vector of a text.
    pub fn from_token(token: &str) -> Result<VersionVector, NotAToken> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| NotAToken)?;
        let (pairs, rest) = bytes.as_chunks::<16>();
        if !rest.is_empty() {
            return Err(NotAToken);
        }
        let mut vector = VersionVector::default();
        for pair in pairs {
            let (origin, at) = pair.split_at(8);
            let number = |bytes: &[u8]| bytes.try_into().map(u64::from_be_bytes).map_err(|_| NotAToken);
            match vector.0.entry(NodeId(number(origin)?)) {
                Entry::Vacant(entry) => entry.insert(Timestamp(number(at)?)),
                Entry::Occupied(_) => return Err(NotAToken),
            };
        }
        Ok(vector)
    }
}

impl FromIterator<(NodeId, Timestamp)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (NodeId, Timestamp)>>(pairs: I) -> VersionVector {
        let mut vector = VersionVector::default();
        pairs.into_iter().for_each(|(origin, at)| vector.advance(origin, at));
        vector
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.origin, self.at.0)
    }
}

impl fmt::Display for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (origin, at)) in self.iter().enumerate() {
            write!(f, "{}{origin}@{}", if n == 0 { "" } else { " " }, at.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(pairs: &[(u64, u64)]) -> VersionVector {
        pairs.iter().map(|(origin, at)| (NodeId(*origin), Timestamp(*at))).collect()
    }

    #[test]
    fn a_vector_covers_what_was_applied() {
        let seen = vector(&[(1, 10), (3, 7)]);
        let stamp = |origin, at| Stamp { at: Timestamp(at), origin: NodeId(origin) };
        assert!(seen.covers(stamp(1, 10)) && seen.covers(stamp(3, 1)));
        assert!(!seen.covers(stamp(1, 11)) && !seen.covers(stamp(2, 1)));
        assert!(seen.dominates(&vector(&[(1, 10)])) && !seen.dominates(&vector(&[(2, 1)])));
        assert_eq!(seen.beyond(&vector(&[(1, 4), (3, 9)])), [(NodeId(1), Timestamp(4), Timestamp(10))]);
    }

    #[test]
    fn a_token_is_the_vector_again() {
        for seen in [vector(&[]), vector(&[(1, 10)]), vector(&[(1, u64::MAX), (9, 3)])] {
            assert_eq!(VersionVector::from_token(&seen.to_token()), Ok(seen));
        }
        let twice = URL_SAFE_NO_PAD.encode([[0; 16], [0; 16]].concat());
        for wrong in ["x", "%", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAA", &twice] {
            assert_eq!(VersionVector::from_token(wrong), Err(NotAToken), "{wrong}");
        }
    }

    #[test]
    fn what_two_vectors_have_in_common_is_the_less_of_each() {
        let mut common = vector(&[(1, 10), (2, 5)]);
        common.meet(&vector(&[(1, 3), (3, 9)]));
        assert_eq!(common, vector(&[(1, 3)]));
    }
}
