//! Names and numbers of a ledger, and who decides about it.

use std::fmt;
use std::sync::Arc;

use polity_base::NodeId;
use serde::{Deserialize, Serialize};

pub use crate::signing::{PublicKey, Signature};

/// A block's place in its ledger; genesis is 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Height(pub u64);

impl fmt::Display for Height {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The hash of a block's header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct BlockId(pub [u8; 32]);

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The hash of a ledger's genesis.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct LedgerId(pub [u8; 32]);

/// One of those who decide.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Validator {
    /// The node it is
    pub node: NodeId,
    /// The key it signs with
    pub key: PublicKey,
    /// Its voting power
    pub power: u64,
}

/// Those who decide about a block. Clones are cheap.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Validators(Arc<Vec<Validator>>);

impl Validators {
    /// These validators, in this order.
    pub fn new(list: Vec<Validator>) -> Validators {
        Validators(Arc::new(list))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Validator> {
        self.0.iter()
    }

    /// The one that a node is.
    pub fn get(&self, node: NodeId) -> Option<&Validator> {
        self.0.iter().find(|validator| validator.node == node)
    }

    /// The power of all.
    pub fn total_power(&self) -> u64 {
        self.0.iter().map(|validator| validator.power).sum()
    }

    /// The least power that decides: more than two thirds.
    pub fn quorum(&self) -> u64 {
        (u128::from(self.total_power()) * 2 / 3 + 1) as u64
    }
}
