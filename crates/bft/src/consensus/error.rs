//! Why a validator stops.

use polity_base::Class;

use crate::types::{BlockId, Height};

/// A reason to stop for good. A validator that has returned one returns it again
/// for every input: what it would say next could contradict what it said before.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fatal {
    /// What was to be signed contradicts what was signed before.
    #[error("refused to sign twice at height {height}, round {round}: {what}")]
    DoubleSign {
        /// The height
        height: Height,
        /// The round
        round: u32,
        /// What kind of message
        what: &'static str,
    },
    /// The key cannot sign.
    #[error("cannot sign: {0}")]
    Sign(String),
    /// The log cannot be written, or what it holds makes no sense.
    #[error("the validator's log is unusable: {0}")]
    Log(String),
    /// The ledger's state cannot be written.
    #[error("the ledger cannot be written: {0}")]
    Storage(String),
    /// More than two thirds of the power certified a block that is not valid here.
    /// Either this node computes differently, or more than a third of the power lies.
    #[error("block {block} of height {height} is certified, and not valid here: {reason}")]
    Diverged {
        /// The height
        height: Height,
        /// The block
        block: BlockId,
        /// Why it is not valid
        reason: String,
    },
    /// The log is ahead of the state: the state has lost blocks.
    #[error("the log is at height {log}, the state at {state}: committed blocks are missing")]
    StateLost {
        /// The height of the log
        log: Height,
        /// The height of the state
        state: Height,
    },
    /// The core of the protocol failed.
    #[error("the consensus core failed: {0}")]
    Core(String),
}

impl Fatal {
    /// What a caller should do about it.
    pub fn class(&self) -> Class {
        match self {
            Fatal::Sign(_) | Fatal::Log(_) | Fatal::Storage(_) => Class::Unavailable,
            Fatal::StateLost { .. } => Class::Corrupt,
            Fatal::DoubleSign { .. } | Fatal::Diverged { .. } | Fatal::Core(_) => Class::Bug,
        }
    }
}
