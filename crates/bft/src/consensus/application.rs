//! What consensus asks of the ledger: to make blocks, to judge them, to keep them.
//!
//! All of it is deterministic but for one thing: which of the pending transactions a
//! new block holds. What a block does is a function of the block and of the blocks
//! before it, and its header says what comes out, so that validators vote on the
//! outcome and not on a hope.

use std::sync::Arc;

use bytes::Bytes;
use polity_base::NodeId;

use super::validator::Tip;
use crate::block::{Block, Certificate};
use crate::evidence::Evidence;
use crate::transaction::{SignedTransaction, TransactionId};
use crate::types::Height;

/// What a new block is made of.
pub struct Ingredients {
    /// The node that makes it
    pub proposer: NodeId,
    /// Its clock, in milliseconds since 1970. The block's time is this or later: it
    /// grows from block to block.
    pub unix_ms: u64,
    /// Transactions whose signatures are right, in the order they came
    pub transactions: Vec<Arc<SignedTransaction>>,
    /// Evidence that holds
    pub evidence: Vec<Evidence>,
}

/// Why a decided block is not kept.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommitError {
    /// It is not valid here.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be written.
    #[error("{0}")]
    Storage(String),
}

/// A committed block and what certifies it.
pub type CertifiedBlock = (Arc<Block>, Arc<Certificate>);

/// What came of a block.
pub struct Committed<O> {
    /// Where the ledger is now
    pub tip: Tip,
    /// What came of each transaction of the block
    pub outcomes: Vec<(TransactionId, O)>,
}

/// Whether a transaction's signature is known to be right, so that it need not be
/// verified once more.
pub type Verified<'a> = &'a dyn Fn(&TransactionId) -> bool;

/// Whether a transaction whose signature is right is worth keeping until it is ordered,
/// as far as can be told at once and by any task: its author is known, say, and it
/// expires in time.
pub type Gate = Arc<dyn Fn(&SignedTransaction) -> bool + Send + Sync>;

/// A ledger, as consensus sees it.
pub trait Application: Send + 'static {
    /// What comes of a transaction that is ordered.
    type Outcome: Clone + Send + 'static;

    /// Where the ledger is.
    fn tip(&self) -> Tip;

    /// Whether a transaction whose signature is right may still be ordered: it was
    /// not yet, and is not too late.
    fn admits(&self, transaction: &SignedTransaction) -> bool;

    /// Whom transactions are taken from. What passes may still come to nothing when it is
    /// applied; what does not pass costs no room.
    fn gate(&self) -> Gate {
        Arc::new(|_| true)
    }

    /// Whether evidence holds, and was not ordered yet.
    fn admits_evidence(&self, evidence: &Evidence) -> bool;

    /// Makes the next block, which is valid; none if there is nothing to put into it.
    fn build(&mut self, ingredients: Ingredients) -> Result<Option<Arc<Block>>, CommitError>;

    /// Whether a block may be the next one; why not, if not.
    fn check(&mut self, block: &Arc<Block>, verified: Verified) -> Result<(), String>;

    /// Applies the next block and makes it durable, in one step, with its certificate.
    fn commit(
        &mut self,
        block: &Arc<Block>,
        certificate: &Arc<Certificate>,
    ) -> Result<Committed<Self::Outcome>, CommitError>;

    /// A committed block, if it is kept.
    fn block(&self, height: Height) -> Result<Option<CertifiedBlock>, CommitError>;

    /// The oldest height whose block is kept.
    fn oldest_block(&self) -> Height;

    /// The height whose state can be had as a snapshot.
    fn snapshot(&self) -> Option<Height>;

    /// A part of that snapshot, and how many there are.
    fn snapshot_part(&mut self, height: Height, part: u32) -> Result<Option<(Bytes, u32)>, CommitError>;

    /// Puts a snapshot in place of the state, if its certificates lead from what this
    /// node trusts to the state it holds. Where the ledger is then.
    fn install(&mut self, height: Height, parts: Vec<Bytes>) -> Result<Tip, CommitError>;
}
