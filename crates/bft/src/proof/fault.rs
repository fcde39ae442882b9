//! Why a proof does not hold, in words for whoever checks it.

use polity_base::{Key, NodeId};

use crate::codec::DecodeError;
use crate::types::{Height, LedgerId};

/// Why a proof does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// It is not a file of that kind, or not a whole one.
    #[error("the {what} cannot be read: {error}")]
    Unreadable {
        /// Which file
        what: &'static str,
        /// Where, and why
        error: DecodeError,
    },
    /// It is about another ledger.
    #[error("it is about ledger {found}, and not about {expected}, which the genesis is of")]
    OtherLedger {
        /// That of the genesis
        expected: LedgerId,
        /// That of the proof
        found: LedgerId,
    },
    /// A header on the way from genesis does not hold.
    #[error("the change of validators after height {height}: {fault}")]
    Step {
        /// The header's height
        height: Height,
        /// What is wrong with it
        fault: Box<Fault>,
    },
    /// The header of the state does not hold.
    #[error("the header of height {height}: {fault}")]
    Header {
        /// Its height
        height: Height,
        /// What is wrong with it
        fault: Box<Fault>,
    },
    /// A header comes before one that it should follow.
    #[error("it does not come after the change before it")]
    Order,
    /// A header names others as those who decide about it.
    #[error("its validators are not those who decide there")]
    Validators,
    /// A header names others as those who decide next.
    #[error("the validators that come with it are not those it names as the next")]
    NextValidators,
    /// The certificate is for something else.
    #[error("its certificate is for another block")]
    OtherBlock,
    /// Somebody signed who does not decide.
    #[error("its certificate has a signature of {0}, who does not decide there")]
    Stranger(NodeId),
    /// Somebody is counted twice.
    #[error("its certificate counts {0} twice")]
    Twice(NodeId),
    /// A signature is wrong.
    #[error("its certificate has a signature of {0} that is wrong")]
    Signature(NodeId),
    /// Too few signed.
    #[error("its certificate has a power of {signed} of {total}, and it takes {needed}")]
    Power {
        /// The power of those who signed
        signed: u64,
        /// The power it takes
        needed: u64,
        /// The power of all
        total: u64,
    },
    /// A key does not have what is claimed.
    #[error("the row at {key}: {fault}")]
    Item {
        /// The key
        key: Key,
        /// What is wrong
        fault: Box<Fault>,
    },
    /// The way from the key's place in the tree to the root.
    #[error("its way through the tree: {0}")]
    Path(&'static str),
    /// It proves nothing.
    #[error("it says nothing about any row")]
    Empty,
}
