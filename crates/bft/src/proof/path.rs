//! The way from a key's place in the tree up to the root, verified without the tree.
//!
//! ```text
//! leaf   SHA-256("JMT::LeafNode" SHA-256(key) SHA-256(value))
//! inner  SHA-256("JMT::IntrnalNode" left right)
//! none   "SPARSE_MERKLE_PLACEHOLDER_HASH__"
//! ```
//! A key's place is given by the bits of SHA-256(key), highest first: 0 is left. A leaf
//! stands at the first place on its way where it is alone, so a key without a value is
//! proved by what stands where it would: nothing, or the leaf of another key.
//!
//! Written out here once more, with no part of the tree's own code, so that a fault of
//! the one is seen by the other.

use super::Fault;
use crate::hash::{Hash, sha256};
use crate::ledger::tree::Path;

const NONE: Hash = *b"SPARSE_MERKLE_PLACEHOLDER_HASH__";

/// Whether `path` proves that `key` has `value` under `root`; that it has none, if that is
/// what is claimed.
pub fn verify(path: &Path, root: &Hash, key: &[u8], value: Option<&[u8]>) -> Result<(), Fault> {
    let place = sha256(&[key]);
    if path.siblings.len() > 256 {
        return Err(Fault::Path("the way to the root is too long"));
    }
    let mut hash = match (&path.leaf, value) {
        (Some((key_hash, value_hash)), Some(value)) => {
            if *key_hash != place {
                return Err(Fault::Path("the leaf is of another key"));
            }
            if *value_hash != sha256(&[value]) {
                return Err(Fault::Path("the leaf is of another value"));
            }
            leaf(key_hash, value_hash)
        }
        (None, Some(_)) => return Err(Fault::Path("there is no leaf for the value")),
        (Some((key_hash, _)), None) if *key_hash == place => return Err(Fault::Path("the key has a value")),
        (Some((key_hash, value_hash)), None) => {
            // It must stand where the key would.
            if !(0..path.siblings.len()).all(|depth| bit(key_hash, depth) == bit(&place, depth)) {
                return Err(Fault::Path("the leaf does not stand where the key would"));
            }
            leaf(key_hash, value_hash)
        }
        (None, None) => NONE,
    };
    for (up, sibling) in path.siblings.iter().enumerate() {
        let depth = path.siblings.len() - 1 - up;
        hash = match bit(&place, depth) {
            false => sha256(&[b"JMT::IntrnalNode", &hash, sibling]),
            true => sha256(&[b"JMT::IntrnalNode", sibling, &hash]),
        };
    }
    if hash == *root { Ok(()) } else { Err(Fault::Path("it leads to another root")) }
}

fn leaf(key_hash: &Hash, value_hash: &Hash) -> Hash {
    sha256(&[b"JMT::LeafNode", key_hash, value_hash])
}

/// The bit of a hash at a depth below the root.
fn bit(hash: &Hash, depth: usize) -> bool {
    hash[depth / 8] >> (7 - depth % 8) & 1 == 1
}
