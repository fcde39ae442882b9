//! Names and numbers of a ledger, and who decides about it.

use std::fmt;
use std::sync::Arc;

use polity_base::NodeId;
use serde::{Deserialize, Serialize};

use crate::codec::{Decoded, Reader, Write};
use crate::hash::{Hash, sha256, short};
pub use crate::signing::{PublicKey, Signature};

/// A block's place in its ledger; genesis is 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Height(pub u64);

impl Height {
    /// The height after this one.
    pub fn next(self) -> Height {
        Height(self.0.saturating_add(1))
    }
}

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

impl fmt::Display for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short(&self.0))
    }
}

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

/// The most power that all validators of a ledger may have together.
pub const MOST_POWER: u64 = 1 << 60;

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

    /// Why these cannot be the validators of a ledger, if they cannot.
    pub fn fault(&self) -> Option<&'static str> {
        let unordered = self.0.windows(2).any(|pair| pair[0].node >= pair[1].node);
        let mut keys: Vec<PublicKey> = self.0.iter().map(|validator| validator.key.clone()).collect();
        keys.sort_unstable();
        let total = self.0.iter().try_fold(0u64, |total, validator| total.checked_add(validator.power));
        match total {
            _ if self.0.is_empty() => Some("there are no validators"),
            _ if unordered => Some("validators are not in the order of their nodes"),
            _ if keys.windows(2).any(|pair| pair[0] == pair[1]) => Some("two validators have one key"),
            _ if self.0.iter().any(|validator| validator.power == 0) => Some("a validator has no power"),
            Some(total) if total <= MOST_POWER => None,
            _ => Some("the validators have too much power"),
        }
    }

    /// Writes the list.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.count(self.0.len());
        for validator in self.iter() {
            out.u64(validator.node.0);
            validator.key.write(out);
            out.u64(validator.power);
        }
    }

    /// The list's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.0.len() * 49);
        self.write(&mut out);
        out
    }

    /// Reads a list, which must be one that a ledger may have.
    pub fn read(reader: &mut Reader) -> Decoded<Validators> {
        let list = reader.list(49, |reader| {
            Ok(Validator { node: reader.node()?, key: PublicKey::read(reader)?, power: reader.u64()? })
        });
        let validators = Validators::new(list?);
        match validators.fault() {
            None => Ok(validators),
            Some(fault) => Err(reader.error(fault)),
        }
    }

    /// What headers call these validators.
    pub fn hash(&self) -> Hash {
        sha256(&[b"polity/bft/validators/1", &self.encode()])
    }
}
