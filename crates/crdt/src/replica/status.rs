//! What an operator wants to know of a replica.

use std::time::Duration;

use polity_base::{ColumnId, Key, NodeId, Timestamp};

use crate::escrow::Share;
use crate::row::Lost;
use crate::stamp::VersionVector;

/// A replica at a glance.
#[derive(Clone, Debug)]
pub struct Status {
    /// What was applied here
    pub vector: VersionVector,
    /// What every member is known to have
    pub stable: VersionVector,
    /// The others
    pub peers: Vec<PeerStatus>,
    /// Deltas that wait for others before them, and their bytes
    pub held_deltas: u64,
    /// See `held_deltas`
    pub held_bytes: u64,
    /// Deltas that are kept for members that lack them, and their bytes
    pub log_deltas: u64,
    /// See `log_deltas`
    pub log_bytes: u64,
    /// Why reads or writes are refused, if they are
    pub not_ready: Option<String>,
    /// What the replica has done since it was started
    pub counts: Counts,
}

/// Another replica, as seen from here.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The node
    pub node: NodeId,
    /// What it is known to have
    pub vector: VersionVector,
    /// How much older the oldest write that it is not known to have is than now
    pub lag: Duration,
    /// Since when it cannot be reached
    pub unreachable_since: Option<Timestamp>,
    /// Whether it is what keeps the log from being collected
    pub holds_back: bool,
}

/// What a replica has done since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Transactions that were committed here
    pub commits: u64,
    /// Entries of the log that these and the others' took
    pub entries: u64,
    /// Bytes of those entries
    pub entry_bytes: u64,
    /// Deltas of others that were applied
    pub applied_deltas: u64,
    /// Deltas that came again
    pub repeated_deltas: u64,
    /// Deltas that were sent to others
    pub sent_deltas: u64,
    /// Bytes of them
    pub sent_bytes: u64,
    /// Values that lost to concurrent writes
    pub conflicts: u64,
    /// Transactions refused because the share here was too small
    pub short_shares: u64,
    /// Transfers of shares given to others
    pub transfers: u64,
    /// Tombstones and removals that were forgotten
    pub collected: u64,
    /// Rows that were found to differ from another replica's although both had
    /// applied the same, and were repaired
    pub repaired_rows: u64,
}

/// A value that lost to a concurrent write.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The row
    pub key: Key,
    /// What was lost, and to what
    pub lost: Lost,
    /// When this replica noticed
    pub noticed: Timestamp,
}

/// The shares of one counter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CounterShares {
    /// The row
    pub key: Key,
    /// The counter
    pub column: ColumnId,
    /// Who may do what, as far as is known here
    pub shares: Vec<Share>,
}

/// What comparing this replica with another one found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Comparison {
    /// Rows of this replica that were looked at
    pub rows: u64,
    /// Rows of which the two replicas held different states
    pub differing: u64,
    /// Rows that were mended here although all that the other had was applied here
    pub repaired: u64,
    /// Bytes sent
    pub sent_bytes: u64,
    /// Bytes received
    pub received_bytes: u64,
}
