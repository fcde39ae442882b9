//! What can go wrong with a ledger.

use polity_base::Class;

use crate::codec::DecodeError;
use crate::consensus::application::CommitError;
use crate::types::Height;

/// An error of the ledger.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// What was given is not what it claims to be.
    #[error("{0}")]
    Invalid(String),
    /// The disk fails.
    #[error(transparent)]
    Storage(#[from] polity_store::Error),
    /// What is kept here contradicts itself, or what was agreed on. Nothing can be
    /// applied to it: the node must be made anew from its peers.
    #[error("the ledger's state is damaged: {0}")]
    Damaged(String),
    /// A block comes to something else here than for those who decided about it.
    #[error("block {0} comes to another state here than for those who decided about it")]
    Diverged(Height),
    /// So old a state is not kept.
    #[error("the state of height {height} is not kept, only from height {oldest} on")]
    Gone {
        /// The height that was asked for
        height: Height,
        /// The oldest that is kept, as far as is known
        oldest: Height,
    },
    /// There is no such height yet.
    #[error("height {0} is not decided yet")]
    Ahead(Height),
}

impl Error {
    /// What a caller should do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::Invalid(_) | Error::Gone { .. } => Class::Input,
            Error::Storage(error) => error.class(),
            Error::Damaged(_) | Error::Diverged(_) => Class::Corrupt,
            Error::Ahead(_) => Class::Retry,
        }
    }

    /// The error for bytes that were kept here and cannot be read.
    pub fn damaged(what: &str, error: &DecodeError) -> Error {
        Error::Damaged(format!("{what}: {error}"))
    }
}

impl From<Error> for CommitError {
    fn from(error: Error) -> CommitError {
        match error {
            Error::Invalid(why) => CommitError::Invalid(why),
            other => CommitError::Storage(other.to_string()),
        }
    }
}
