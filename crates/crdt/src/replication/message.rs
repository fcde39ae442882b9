//! What replicas say to each other.

use bytes::Bytes;
use polity_base::{ColumnId, Key, NodeId, Span, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::escrow::Side;
use crate::stamp::VersionVector;

const VERSION: u8 = 1;

/// What a replica says about itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct About {
    /// When it was started: what it had before it may have lost
    pub started: Timestamp,
    /// What it has applied, on its disk
    pub vector: VersionVector,
    /// Up to where it keeps no single deltas any more
    pub floor: VersionVector,
    /// Whether it is being filled and can use no deltas yet
    pub filling: bool,
}

/// What one replica asks another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Take these deltas in; none: I am here
    Push {
        /// About the sender
        about: About,
        /// Encoded deltas, by time
        deltas: Vec<Bytes>,
    },
    /// Give me some of your share
    Share {
        /// The row
        key: Key,
        /// The counter
        column: ColumnId,
        /// Of which right
        side: Side,
        /// How much
        amount: u64,
        /// Whether somebody waits for it: more will be needed soon, then
        urgent: bool,
    },
    /// Give me rows from this place on
    Page {
        /// A key among traces
        from: Key,
    },
    /// Which of these pieces are not the same there?
    Compare(Compare),
    /// What are the rows in these spans?
    Hashes(Vec<Span>),
    /// These are my rows at some places; give me yours
    Exchange {
        /// Keys among traces
        places: Vec<Key>,
        /// Those that are here
        page: Page,
    },
    /// Take no later writes of this node, which was removed
    Depart(NodeId),
}

/// What it answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Response {
    /// What was ready is on my disk
    Pushed {
        /// About the receiver
        about: About,
        /// What deltas that I hold wait for
        wants: VersionVector,
    },
    /// My delta of this time gives you so much
    Shared {
        /// How much
        given: u64,
        /// The delta; zero if nothing is given
        at: Timestamp,
    },
    /// Rows
    Page(Page),
    /// The numbers of the pieces that are not the same
    Compared(Vec<u32>),
    /// Keys among traces, and what their rows are
    Hashes(Vec<(Key, u64)>),
    /// The last write of that node which counts here
    Departed(Timestamp),
}

/// Rows of a replica.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Page {
    /// What they hold
    pub vector: VersionVector,
    /// What they may hold in part
    pub ceiling: VersionVector,
    /// What the replica may have forgotten
    pub collected: VersionVector,
    /// Key, visible row, trace
    pub rows: Vec<(Key, Option<Bytes>, Bytes)>,
    /// Where to go on; none after the last
    pub next: Option<Key>,
}

/// Pieces that follow each other.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Compare {
    /// In order of keys
    pub pieces: Vec<Piece>,
}

/// Some rows that follow each other.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Piece {
    /// Keys among traces
    pub span: Span,
    /// What the rows in there are
    pub fingerprint: u64,
}

/// The bytes of a message.
pub(crate) fn encode(message: &impl Serialize) -> Result<Bytes, Error> {
    let bytes = postcard::to_extend(message, vec![VERSION]);
    Ok(bytes.map_err(|e| Error::Stopped { reason: format!("a message has no bytes: {e}") })?.into())
}

/// The message of these bytes, which `from` sent.
pub(crate) fn decode<T: DeserializeOwned>(from: NodeId, bytes: &[u8]) -> Result<T, Error> {
    let nonsense = |reason: &str| Error::Nonsense { from, reason: reason.to_owned() };
    match bytes.split_first() {
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((message, [])) => Ok(message),
            Ok(_) => Err(nonsense("bytes behind its end")),
            Err(error) => Err(nonsense(&error.to_string())),
        },
        Some((version, _)) => Err(nonsense(&format!("version {version} is unknown"))),
        None => Err(nonsense("it is empty")),
    }
}
