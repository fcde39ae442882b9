//! Transactions, signed by their authors.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::signing::verify_all;
use crate::types::{Height, PublicKey, Signature};

/// A transaction's hash.
pub type TransactionId = [u8; 32];

/// A transaction and its author's signature.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SignedTransaction {
    /// Who signs it
    pub author: PublicKey,
    /// Makes it unique
    pub nonce: u64,
    /// The account it changes
    pub account: u64,
    /// By how much
    pub amount: i64,
    /// The last height that may order it
    pub expires: Height,
    /// What else it carries
    pub payload: Bytes,
    /// The author's signature
    pub signature: Signature,
}

impl SignedTransaction {
    /// What is signed.
    pub fn bytes(&self) -> Vec<u8> {
        let what = (&self.author, self.nonce, self.account, self.amount, self.expires, &self.payload);
        postcard::to_stdvec(&what).unwrap_or_default()
    }

    /// Its hash.
    pub fn id(&self) -> TransactionId {
        *blake3::hash(&self.bytes()).as_bytes()
    }

    /// Roughly how many bytes it takes.
    pub fn size(&self) -> usize {
        self.payload.len() + 160
    }

    /// Who signs it.
    pub fn author(&self) -> &PublicKey {
        &self.author
    }

    /// The last height that may order it.
    pub fn expires(&self) -> Height {
        self.expires
    }

    /// Whether the signatures of all of these are right. Faster than one by one.
    pub fn verify_all(transactions: &[Arc<SignedTransaction>]) -> bool {
        verify_all(transactions.iter().map(|t| (&t.author, t.bytes(), &t.signature)))
    }

    /// Whether the signature is right.
    pub fn verify(&self) -> bool {
        self.author.verify(&self.bytes(), &self.signature)
    }
}
