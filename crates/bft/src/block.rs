//! Blocks, and what certifies them.

use std::sync::Arc;

use polity_base::NodeId;
use serde::{Deserialize, Serialize};

use crate::evidence::Evidence;
use crate::transaction::SignedTransaction;
use crate::types::{BlockId, Height, Signature};

/// What is voted on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Header {
    /// Its place
    pub height: Height,
    /// The block before
    pub parent: BlockId,
    /// When it was made, in milliseconds since 1970
    pub time_ms: u64,
    /// The state after it
    pub state_root: [u8; 32],
    /// Its transactions and evidence
    pub transactions: [u8; 32],
    /// Who made it
    pub proposer: NodeId,
}

/// A block.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Block {
    /// What is voted on
    pub header: Header,
    /// Transactions, in order
    pub transactions: Vec<Arc<SignedTransaction>>,
    /// Who lied
    pub evidence: Vec<Evidence>,
}

impl Block {
    /// What is voted on.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The header's hash.
    pub fn id(&self) -> BlockId {
        BlockId(hash(&self.header))
    }

    /// The hash of what a block holds.
    pub fn root(transactions: &[Arc<SignedTransaction>], evidence: &[Evidence]) -> [u8; 32] {
        hash(&(transactions, evidence))
    }

    /// Whether the block holds what its header says.
    pub fn is_whole(&self) -> bool {
        Block::root(&self.transactions, &self.evidence) == self.header.transactions
    }
}

fn hash(what: &impl Serialize) -> [u8; 32] {
    *blake3::hash(&postcard::to_stdvec(what).unwrap_or_default()).as_bytes()
}

/// Precommits of more than two thirds of the power for a block.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// The block's height
    pub height: Height,
    /// The round of the precommits
    pub round: u32,
    /// The block
    pub block: BlockId,
    /// Who precommitted
    pub signatures: Vec<(NodeId, Signature)>,
}
