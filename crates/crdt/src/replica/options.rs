//! What can be chosen about a replica.

use std::sync::Arc;
use std::time::Duration;

use polity_base::NodeId;
use polity_base::time::HybridClock;
use polity_store::log::Log;
use polity_store::state::State;

use super::peers::Peers;
use super::schema::Schema;

/// What a replica is made of.
pub struct Options {
    /// This node
    pub node: NodeId,
    /// The node's log
    pub log: Log,
    /// The node's rows
    pub state: Arc<State>,
    /// The node's clock
    pub clock: Arc<HybridClock>,
    /// The way to the others
    pub peers: Arc<dyn Peers>,
    /// What the catalog says
    pub schema: Arc<dyn Schema>,
    /// Whether this node joined a cluster that was there already, so that an empty
    /// replica must be filled before it is read. Ignored once that is done.
    pub joins: bool,
    /// Bounds and intervals
    pub limits: Limits,
}

/// Bounds and intervals.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries of the log that may be on their way at once
    pub window: usize,
    /// Bytes of writes after which an entry is full
    pub entry_bytes: usize,
    /// Bytes that a transaction may change at most
    pub transaction_bytes: usize,
    /// Bytes of deltas that may wait for others before them; those beyond come again
    pub held_bytes: usize,
    /// Bytes of deltas that are kept for members that lack them. A member that lacks
    /// more is brought up to date by its rows
    pub log_bytes: u64,
    /// Bytes of deltas, or of rows, in one message
    pub message_bytes: usize,
    /// How often each peer is told what was applied here, whether or not something was
    pub status_every: Duration,
    /// How long a message may go unanswered
    pub call_within: Duration,
    /// How long a commit waits for other replicas to keep it too
    pub acks_within: Duration,
    /// How long a commit waits for shares of others
    pub shares_within: Duration,
    /// How often what all have seen is forgotten, and shares are evened out
    pub upkeep_every: Duration,
    /// How often a stretch of rows is compared with another replica's
    pub patrol_every: Duration,
    /// Rows of one such stretch
    pub patrol_rows: usize,
    /// How long values that lost to concurrent writes are kept
    pub conflict_age: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            window: 4,
            entry_bytes: 1 << 20,
            transaction_bytes: 64 << 20,
            held_bytes: 64 << 20,
            log_bytes: 1 << 30,
            message_bytes: 1 << 20,
            status_every: Duration::from_millis(500),
            call_within: Duration::from_secs(5),
            acks_within: Duration::from_secs(5),
            shares_within: Duration::from_secs(1),
            upkeep_every: Duration::from_secs(1),
            patrol_every: Duration::from_secs(60),
            patrol_rows: 4096,
            conflict_age: Duration::from_secs(7 * 24 * 3600),
        }
    }
}
