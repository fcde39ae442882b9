//! The byzantine guarantee: a ledger decides, of which this node keeps a copy.
//!
//! What a transaction reads is what this node has applied. What it writes becomes a
//! transaction of the ledger, with what it read as preconditions; it is over once the
//! ledger has ordered it and this node has applied that.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use polity_base::{Class, Guarantee, NodeId, Timestamp};
use polity_store::state::State;
use tokio::sync::watch;

use crate::error::Error;
use crate::replica::Snapshot;
use crate::strong::Seen;

pub use polity_bft as bft;

use bft::consensus::driver::Condition;
use bft::ledger::storage::store::StoreViews;
use bft::ledger::{LedgerReader, Refusal};
use bft::transaction::{Operation, Precondition};
use bft::types::Height;

/// This node's ledger, to be asked.
pub type Reader = LedgerReader<StoreViews>;

/// The ledger that this node takes part in, or may come to take part in.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// The ledger to ask; none if there is none here yet.
    fn reader(&self) -> Option<Reader>;

    /// Where this node's validator is, also as it changes; none if there is none yet.
    fn condition(&self) -> Option<watch::Receiver<Condition>>;

    /// The rows of this node as they are now.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, Error>;

    /// Up to when rows of byzantine tables can be read here: the time of the newest block.
    fn applied(&self) -> Timestamp;

    /// Makes the ledger, in a user's name, if there is none; returns once it runs here
    /// and could decide.
    async fn ensure(&self, user: &str) -> Result<(), Error>;

    /// Has a transaction ordered in a user's name; returns once it is applied here.
    async fn submit(
        &self,
        user: &str,
        preconditions: Vec<Precondition>,
        operations: Vec<Operation>,
    ) -> Result<Height, Error>;
}

/// Why a ledger does not take a transaction.
#[derive(Debug)]
pub enum LedgerError {
    /// There are fewer nodes than a ledger needs.
    TooFewNodes {
        /// How many there are
        nodes: usize,
    },
    /// The validators refuse it.
    Refused(Refusal),
    /// Validators with too little power are heard.
    NoQuorum {
        /// The power of those that are heard, this node's included
        present: u64,
        /// The least power that decides
        needed: u64,
        /// The power of all
        total: u64,
        /// Who is not heard
        silent: Vec<NodeId>,
    },
    /// It is too large.
    TooLarge {
        /// How large it may be, in bytes
        limit: usize,
    },
}

impl LedgerError {
    /// What to do about it.
    pub fn class(&self) -> Class {
        match self {
            LedgerError::TooFewNodes { .. } => Class::Input,
            LedgerError::Refused(refusal) => refusal.class(),
            LedgerError::NoQuorum { .. } => Class::Unavailable,
            LedgerError::TooLarge { .. } => Class::Resource,
        }
    }
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LedgerError::TooFewNodes { nodes } => write!(f, "a ledger needs four nodes, and there are {nodes}"),
            LedgerError::Refused(refusal) => write!(f, "the ledger refuses it: {refusal}"),
            LedgerError::NoQuorum { present, needed, total, .. } => {
                write!(f, "validators with a power of {present} of {total} are heard, and deciding takes {needed}")
            }
            LedgerError::TooLarge { limit } => write!(f, "it is larger than {limit} bytes"),
        }
    }
}

impl std::error::Error for LedgerError {}

impl From<LedgerError> for Error {
    fn from(error: LedgerError) -> Error {
        Error::Ledger(Arc::new(error))
    }
}

/// The rows of `state` as they are now: [`Ledger::snapshot`] of whoever keeps them there.
pub fn snapshot_of(state: &Arc<State>) -> Result<Arc<dyn Snapshot>, Error> {
    Ok(Arc::new(Seen::of(state)?))
}

/// Up to when byzantine tables can be read in `state`: [`Ledger::applied`] there.
pub fn applied_in(state: &State) -> Timestamp {
    *state.observe_commits(Guarantee::Byzantine).borrow()
}

/// A ledger that could not be asked.
pub fn unreadable(error: bft::ledger::Error) -> Error {
    Error::Replica { class: error.class(), source: Arc::new(error) }
}
