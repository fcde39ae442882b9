//! Blocks: what is agreed on.
//!
//! ```text
//! header = "polity/bft/header/1" ledger height parent time_ms state results
//!          transactions evidence validators next_validators proposer
//! id     = SHA-256(header)                              which votes are for
//! block  = header transaction* evidence*                each with its length
//! ```
//! A header does not depend on the round, so that a block may be decided in any. It
//! says what the state is *after* the block: validators vote on the outcome.
//!
//! | field | is |
//! |---|---|
//! | `state_root` | the root of the tree over all rows and records ([`crate::ledger::tree`]) |
//! | `results` | what became of each transaction, and which keys were written |
//! | `transactions`, `evidence` | the hashes of what the block holds |
//! | `validators`, `next_validators` | who decides about this block and about the next |

use std::sync::Arc;

use polity_base::NodeId;

pub use crate::certificate::Certificate;
use crate::codec::{Decoded, Reader, Write, serde_as_bytes};
use crate::evidence::Evidence;
use crate::hash::{Hash, hash_list, sha256};
use crate::transaction::{SignedTransaction, TransactionId};
use crate::types::{BlockId, Height, LedgerId};

/// A block larger than this is none, in bytes.
pub const MAX_BYTES: usize = 64 << 20;

const NAME: &str = "polity/bft/header/1";
/// The bytes of a header, which are always as many.
pub const HEADER_BYTES: usize = NAME.len() + 32 + 8 + 32 + 8 + 32 * 6 + 8;

/// What is voted on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// The ledger
    pub ledger: LedgerId,
    /// Its place
    pub height: Height,
    /// The block before; for the first one, the ledger's id
    pub parent: BlockId,
    /// When it was made, in milliseconds since 1970; later than its parent
    pub time_ms: u64,
    /// The root of the state after it
    pub state_root: Hash,
    /// What became of its transactions
    pub results: Hash,
    /// Its transactions
    pub transactions: Hash,
    /// Its evidence
    pub evidence: Hash,
    /// Who decides about it
    pub validators: Hash,
    /// Who decides about the block after it
    pub next_validators: Hash,
    /// Who made it
    pub proposer: NodeId,
}

serde_as_bytes!(Header);

impl Header {
    /// Writes the header.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.raw(NAME.as_bytes());
        out.raw(&self.ledger.0);
        out.u64(self.height.0);
        out.raw(&self.parent.0);
        out.u64(self.time_ms);
        out.raw(&self.state_root);
        out.raw(&self.results);
        out.raw(&self.transactions);
        out.raw(&self.evidence);
        out.raw(&self.validators);
        out.raw(&self.next_validators);
        out.u64(self.proposer.0);
    }

    /// Reads a header.
    pub fn read(reader: &mut Reader) -> Decoded<Header> {
        reader.name(NAME)?;
        Ok(Header {
            ledger: LedgerId(reader.hash()?),
            height: reader.height()?,
            parent: BlockId(reader.hash()?),
            time_ms: reader.u64()?,
            state_root: reader.hash()?,
            results: reader.hash()?,
            transactions: reader.hash()?,
            evidence: reader.hash()?,
            validators: reader.hash()?,
            next_validators: reader.hash()?,
            proposer: reader.node()?,
        })
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        self.write(&mut out);
        out
    }

    /// Reads a header and nothing else.
    pub fn decode(bytes: &[u8]) -> Decoded<Header> {
        Reader::whole(bytes, Header::read)
    }

    /// What votes call the block.
    pub fn id(&self) -> BlockId {
        BlockId(sha256(&[&self.encode()]))
    }
}

/// A block.
#[derive(Clone, PartialEq, Debug)]
pub struct Block {
    /// What is voted on
    pub header: Header,
    /// Transactions, in order
    pub transactions: Vec<Arc<SignedTransaction>>,
    /// Who lied
    pub evidence: Vec<Evidence>,
}

serde_as_bytes!(Block);

impl Block {
    /// What is voted on.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The header's hash.
    pub fn id(&self) -> BlockId {
        self.header.id()
    }

    /// The ids of its transactions, in order.
    pub fn transaction_ids(&self) -> Vec<TransactionId> {
        self.transactions.iter().map(|transaction| transaction.id()).collect()
    }

    /// What a header says of transactions.
    pub fn transactions_hash(transactions: &[Arc<SignedTransaction>]) -> Hash {
        let ids: Vec<TransactionId> = transactions.iter().map(|transaction| transaction.id()).collect();
        transactions_hash(&ids, &signatures_hash(transactions))
    }

    /// What a header says of evidence.
    pub fn evidence_hash(evidence: &[Evidence]) -> Hash {
        let encoded: Vec<Vec<u8>> = evidence.iter().map(Evidence::encode).collect();
        hash_list("polity/bft/evidence/1", encoded.iter().map(|bytes| &bytes[..]))
    }

    /// Whether the block holds what its header says, to the last byte: the signatures
    /// of its transactions are part of that, so that nobody can make a block look
    /// invalid by passing it on with one that is wrong.
    pub fn is_whole(&self) -> bool {
        Block::transactions_hash(&self.transactions) == self.header.transactions
            && Block::evidence_hash(&self.evidence) == self.header.evidence
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let size: usize = self.transactions.iter().map(|transaction| transaction.size() + 4).sum();
        let mut out = Vec::with_capacity(HEADER_BYTES + 8 + size + self.evidence.len() * 512);
        self.write(&mut out);
        out
    }

    /// Writes the block.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.header.write(out);
        out.count(self.transactions.len());
        self.transactions.iter().for_each(|transaction| out.bytes(&transaction.encode()));
        out.count(self.evidence.len());
        self.evidence.iter().for_each(|evidence| out.bytes(&evidence.encode()));
    }

    /// Reads a block, whole or not.
    pub fn read(reader: &mut Reader) -> Decoded<Block> {
        if reader.left() > MAX_BYTES {
            return Err(reader.error("it is too large"));
        }
        Ok(Block {
            header: Header::read(reader)?,
            transactions: reader.list(4, |reader| {
                let damaged = reader.error("a transaction that cannot be read");
                SignedTransaction::decode(reader.bytes()?).map(Arc::new).map_err(|_| damaged)
            })?,
            evidence: reader.list(4, |reader| {
                let damaged = reader.error("evidence that cannot be read");
                Evidence::decode(reader.bytes()?).map_err(|_| damaged)
            })?,
        })
    }

    /// Reads a block and nothing else.
    pub fn decode(bytes: &[u8]) -> Decoded<Block> {
        Reader::whole(bytes, Block::read)
    }
}

/// The hash of the signatures of transactions, in order.
pub fn signatures_hash(transactions: &[Arc<SignedTransaction>]) -> Hash {
    let mut bytes = Vec::with_capacity(transactions.len() * 65);
    transactions.iter().for_each(|transaction| transaction.signature().write(&mut bytes));
    sha256(&[b"polity/bft/signatures/1", &bytes])
}

/// What a header says of transactions with these ids, whose signatures have this hash.
pub fn transactions_hash(ids: &[TransactionId], signatures: &Hash) -> Hash {
    let count = (ids.len() as u32).to_be_bytes();
    sha256(&[b"polity/bft/transactions/1", signatures, &count, &ids.concat()])
}
