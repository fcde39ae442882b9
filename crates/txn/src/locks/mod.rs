//! Row locks: a courtesy that makes contention queue instead of fail.
//!
//! Nothing here is needed for correctness. What a transaction read is validated
//! when its batch is applied, so locks live in memory, at the node that leads
//! the range, and may be lost: that costs a retry and never an anomaly.
//!
//! ```text
//!  transaction ──▶ keeper ──▶ Locks ──▶ table            this node leads
//!                    │
//!                    ╰─▶ remote ┄┄┄▶ LockServer ──▶ Locks ──▶ table    another does
//! ```
//! | module    | holds                                                            |
//! |-----------|------------------------------------------------------------------|
//! | `table`   | who holds what, who waits behind whom, who would wait for ever   |
//! | `local`   | futures on top of the table                                      |
//! | `claim`   | locks that are asked for with the batch                          |
//! | `keeper`  | asks the node that leads, this one or another                    |
//! | `remote`  | asking another: renewing, cancelling, releasing                  |
//! | `server`  | answering others, and forgetting those that are gone             |
//! | `network` | what is asked and answered, and the seam that carries it         |

mod claim;
mod keeper;
mod local;
mod network;
mod remote;
mod server;
mod table;

use std::fmt;

use polity_base::NodeId;
use serde::{Deserialize, Serialize};

pub use claim::{Claim, Held};
pub(crate) use keeper::{Holds, LockKeeper};
pub use local::Locks;
pub use network::{CallFailed, LockNetwork, LockQuestion, LockRequest, LockResponse};
pub use server::LockServer;
pub use table::{Listed, LockMode, LockTable, Reply};

/// One transaction; never reused while its node runs. Shown as PostgreSQL shows
/// its virtual transaction ids: where it runs, a slash, and a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TransactionId {
    /// The node on which it runs
    pub node: NodeId,
    /// Which of that node's
    pub number: u64,
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.node.0, self.number)
    }
}

/// Whether to wait for a lock that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Wait one's turn.
    Block,
    /// Fail at once (`NOWAIT`).
    NoWait,
}

#[cfg(test)]
mod tests;
