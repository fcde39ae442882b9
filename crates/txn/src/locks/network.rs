//! What nodes say to each other about locks, and the seam that carries it.
//!
//! A node's locks at another node are a *lease* (five seconds by default): the
//! owner says five times in that time which of its transactions live, and whoever
//! keeps the locks frees those of the others, and all of a node that was silent
//! for the whole of it. So a message that is lost, or overtaken by a later one,
//! costs a second and never a lock for ever. Waiting is done in turns of a tenth
//! of a lease for the same reason: no question stays open for long, and each turn
//! is asked of whoever leads then.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use polity_base::{Key, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{LockMode, TransactionId};
use crate::error::WaitsFor;

/// How long a waiting request is held open before it is asked again.
pub(crate) fn turn(lease: Duration) -> Duration {
    lease / 10
}

/// How often an owner says which of its transactions live.
pub(crate) fn renew_every(lease: Duration) -> Duration {
    lease / 5
}

/// What a node asks of the one that keeps the locks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockRequest {
    /// Which run of the asking node: a later one owns nothing of an earlier one's.
    pub run: u64,
    /// Grows with each request of a run, so that one that was overtaken is known.
    pub sequence: u64,
    /// What is asked
    pub question: LockQuestion,
}

/// What is asked. Transactions are named by their numbers on the asking node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockQuestion {
    /// A lock; or, of a transaction that waits for this very lock, to wait on.
    Lock {
        /// For which transaction
        transaction: u64,
        /// Of which key
        key: Key,
        /// In which mode
        mode: LockMode,
        /// How long to wait; `None`: not at all.
        wait: Option<Duration>,
        /// Whether the transaction stays in the queue when that time is over.
        stay: bool,
    },
    /// The transaction waits no longer.
    Cancel {
        /// Which transaction
        transaction: u64,
    },
    /// The transaction has ended.
    Release {
        /// Which transaction
        transaction: u64,
    },
    /// These live, and none that was named before and is not among them.
    Renew {
        /// Which transactions
        transactions: Vec<u64>,
    },
}

/// What the node that keeps the locks answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LockResponse {
    /// To what has no other answer
    Done,
    /// The lock is held now.
    Granted {
        /// When the key was last written, as far as the leader has applied;
        /// [`Timestamp::ZERO`] if never. It has applied what earlier holders of
        /// the lock have committed.
        newest: Timestamp,
    },
    /// Not yet; the transaction stands in the queue.
    Waiting,
    /// The lock is taken, and the time is over. Who is in the way.
    Refused(Vec<TransactionId>),
    /// Waiting would never end.
    Deadlock(Vec<WaitsFor>),
    /// This node does not lead the range, and keeps no locks.
    NotHere {
        /// Who does, as far as it knows
        leader: Option<NodeId>,
    },
    /// It cannot say.
    Failed(String),
}

/// Why a request was not answered.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("node {} did not answer about locks: {why}", to.0)]
pub struct CallFailed {
    /// Who was asked
    pub to: NodeId,
    /// What happened
    pub why: String,
}

impl CallFailed {
    pub(crate) fn new(to: NodeId, why: impl fmt::Display) -> CallFailed {
        CallFailed { to, why: why.to_string() }
    }
}

/// Carries requests to the [`LockServer`](super::LockServer)s of other nodes.
#[async_trait]
pub trait LockNetwork: Send + Sync + 'static {
    /// Asks node `to`. The caller sets the deadline; a future that is dropped
    /// abandons the call, which the other may act on nevertheless.
    async fn call(&self, to: NodeId, request: LockRequest) -> Result<LockResponse, CallFailed>;
}
