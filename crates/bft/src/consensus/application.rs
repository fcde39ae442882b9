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
use crate::transaction::SignedTransaction;
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

/// A ledger, as consensus sees it.
pub trait Application: Send + 'static {
    /// Where the ledger is.
    fn tip(&self) -> Tip;

    /// Makes the next block, which is valid; none if there is nothing to put into it.
    fn build(&mut self, ingredients: Ingredients) -> Result<Option<Arc<Block>>, CommitError>;

    /// Whether a block may be the next one; why not, if not.
    fn check(&mut self, block: &Arc<Block>) -> Result<(), String>;

    /// Applies the next block and makes it durable, in one step, with its certificate.
    /// Where the ledger is then.
    fn commit(&mut self, block: &Arc<Block>, certificate: &Arc<Certificate>) -> Result<Tip, CommitError>;

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
