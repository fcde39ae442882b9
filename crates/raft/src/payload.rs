//! What a log entry carries, and its bytes.
//!
//! ```text
//! entry = version (1 byte) kind (1 byte) body
//! body  = nothing                     kind 0: a new leader's first entry
//!       | postcard of a pack          kind 1: batches
//!       | postcard of a membership    kind 2: who votes from here on
//! ```
//! The term and the index stand in the log record around it. A reader that meets
//! a version or a kind it does not know must stop: skipping an entry would let
//! this replica diverge from the others.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::EntryPayload;
use polity_base::{Batch, Timestamp};
use polity_store::state::BatchOutcome;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{Membership, Payload};

/// The version that is written.
const VERSION: u8 = 1;

const BLANK: u8 = 0;
const BATCHES: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Batches that are ordered together, shared so that an entry is cheap to clone.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Pack(pub Arc<Packed>);

/// The content of a [`Pack`].
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Packed {
    /// The leader's time when it packed the batches; none commits before it.
    pub proposed_at: Timestamp,
    /// The batches, in the order in which they are applied.
    pub batches: Vec<Batch>,
}

impl Pack {
    /// Batches packed at `proposed_at`.
    pub fn new(proposed_at: Timestamp, batches: Vec<Batch>) -> Pack {
        Pack(Arc::new(Packed { proposed_at, batches }))
    }

    /// Roughly how many bytes the pack takes in the log.
    pub fn size(&self) -> usize {
        self.0.batches.iter().map(Batch::size).sum()
    }
}

impl fmt::Display for Pack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} batches at {}", self.0.batches.len(), self.0.proposed_at)
    }
}

impl fmt::Debug for Pack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What became of an entry's batches, in their order; empty for other entries.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Outcomes(pub Vec<BatchOutcome>);

/// An entry's bytes are not what this version writes.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Nothing there.
    #[error("the log entry is empty")]
    Empty,
    /// Written by a later version.
    #[error("the log entry is of version {0}, this program reads version {VERSION}")]
    Version(u8),
    /// Of a kind this version does not know.
    #[error("the log entry is of unknown kind {0}")]
    Kind(u8),
    /// The body does not parse.
    #[error("the log entry does not parse: {0}")]
    Body(#[from] postcard::Error),
    /// The body is longer than what was parsed.
    #[error("the log entry has {0} bytes too many")]
    Trailing(usize),
}

/// The bytes of a payload.
pub fn encode(payload: &Payload) -> Result<Bytes, postcard::Error> {
    let (kind, capacity) = match payload {
        EntryPayload::Blank => (BLANK, 2),
        EntryPayload::Normal(pack) => (BATCHES, pack.size() + 16),
        EntryPayload::Membership(_) => (MEMBERSHIP, 64),
    };
    let mut bytes = Vec::with_capacity(capacity);
    bytes.extend_from_slice(&[VERSION, kind]);
    let bytes = match payload {
        EntryPayload::Blank => bytes,
        EntryPayload::Normal(pack) => postcard::to_extend(&*pack.0, bytes)?,
        EntryPayload::Membership(membership) => postcard::to_extend(membership, bytes)?,
    };
    Ok(bytes.into())
}

/// The payload of some bytes.
pub fn decode(bytes: &[u8]) -> Result<Payload, DecodeError> {
    let (version, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    let (kind, body) = rest.split_first().ok_or(DecodeError::Empty)?;
    match *kind {
        BLANK if body.is_empty() => Ok(EntryPayload::Blank),
        BLANK => Err(DecodeError::Trailing(body.len())),
        BATCHES => Ok(EntryPayload::Normal(Pack(Arc::new(whole(body)?)))),
        MEMBERSHIP => Ok(EntryPayload::Membership(whole::<Membership>(body)?)),
        other => Err(DecodeError::Kind(other)),
    }
}

/// Parses all of `bytes`.
pub(crate) fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, rest) = postcard::take_from_bytes(bytes)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing(rest.len())) }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use polity_base::{Key, NodeId, Operation, Precondition};

    use super::*;
    use crate::types::{LogId, Peer, StoredMembership, Vote, log_id};

    fn batch() -> Batch {
        let key = Key(Bytes::from_static(b"\0\0\x40\0k"));
        Batch {
            id: u128::MAX - 7,
            author: NodeId(3),
            preconditions: vec![Precondition::Unchanged { span: key.point(), since: Timestamp(9) }],
            operations: vec![Operation::Put { key, value: Bytes::from_static(b"v") }],
        }
    }

    fn membership() -> Membership {
        let nodes: BTreeMap<_, _> =
            [1, 2].into_iter().map(|n| (NodeId(n), Peer { address: format!("h{n}:1"), ..Peer::default() })).collect();
        Membership::new(vec![BTreeSet::from([NodeId(1), NodeId(2)]), BTreeSet::from([NodeId(1)])], nodes).unwrap()
    }

    #[test]
    fn every_payload_survives_its_bytes() {
        let pack = Pack::new(Timestamp(77), vec![batch(), batch()]);
        for payload in [EntryPayload::Blank, EntryPayload::Normal(pack), EntryPayload::Membership(membership())] {
            let bytes = encode(&payload).unwrap();
            assert_eq!(decode(&bytes).unwrap(), payload);
        }
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let bytes = encode(&EntryPayload::Normal(Pack::new(Timestamp(1), vec![batch()]))).unwrap().to_vec();
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(decode(&longer), Err(DecodeError::Trailing(1))));
        let mut later = bytes.clone();
        later[0] = VERSION + 1;
        assert!(matches!(decode(&later), Err(DecodeError::Version(_))));
        let mut strange = bytes;
        strange[1] = 9;
        assert!(matches!(decode(&strange), Err(DecodeError::Kind(9))));
    }

    #[test]
    fn votes_positions_and_memberships_survive_their_bytes() {
        let vote = Vote::new_committed(7, NodeId(2));
        assert_eq!(whole::<Vote>(&postcard::to_stdvec(&vote).unwrap()).unwrap(), vote);
        let at: Option<LogId> = log_id(3, 9);
        assert_eq!(whole::<Option<LogId>>(&postcard::to_stdvec(&at).unwrap()).unwrap(), at);
        let stored = StoredMembership::new(at, membership());
        assert_eq!(whole::<StoredMembership>(&postcard::to_stdvec(&stored).unwrap()).unwrap(), stored);
    }
}
