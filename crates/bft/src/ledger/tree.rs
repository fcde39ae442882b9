//! The authenticated state: a Merkle tree over all rows and records, whose root is in
//! the header of each block.
//!
//! ```text
//!   root ─┬─ 0…                       a key's place is SHA-256(key), four bits a level;
//!         ├─ 1… ─┬─ 1a… leaf          a leaf stands as high as it is alone
//!         ┆      └─ 1f… leaf
//!         └─ f… leaf                  leaf = key hash, SHA-256(value)
//! ```
//! It is a Jellyfish Merkle Tree (Gao, Hu & Wu, "Jellyfish Merkle Tree", 2021), of the
//! `jmt` crate: a sparse Merkle tree in which a proof is as long as the logarithm of how
//! many rows there are. It proves that a key has a value, or that it has none. It proves
//! nothing about *all* keys of a span.
//!
//! Nodes are kept by their path, one version a block, among the other keys of the ledger:
//! so the storage's own retention prunes the tree, and a view of an old state reads the
//! tree as it was.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use jmt::storage::{LeafNode, NibblePath, Node, NodeKey, TreeReader};
use jmt::{JellyfishMerkleTree, KeyHash, OwnedValue};
use polity_base::Key;
use serde::Deserialize;
use sha2::Sha256;

use super::error::Error;
use super::records;
use super::storage::{View, Writes};
use crate::hash::Hash;
use crate::types::Height;

/// The root of a tree without leaves.
pub const EMPTY: Hash = *b"SPARSE_MERKLE_PLACEHOLDER_HASH__";

/// What keeps the state authenticated. The root is a function of the keys and values
/// alone, whatever they were before.
pub trait Authenticated {
    /// Changes values of keys in the tree that `view` has. The root after it, and what is
    /// to be written to keep the tree.
    fn update<V: View>(&self, view: &V, height: Height, changes: &Changes) -> Result<(Hash, Writes), Error>;

    /// The root of the tree that `view` has.
    fn root<V: View>(&self, view: &V) -> Result<Hash, Error>;

    /// What proves what a key has in the tree that `view` has.
    fn prove<V: View>(&self, view: &V, key: &[u8]) -> Result<Path, Error>;
}

/// Keys and what they have from now on.
pub type Changes = BTreeMap<Key, Option<Bytes>>;

/// A way through the tree, from a place in it up to the root.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Path {
    /// The leaf at that place: key hash and value hash
    pub leaf: Option<(Hash, Hash)>,
    /// The hashes beside the way, from the leaf up
    pub siblings: Vec<Hash>,
}

/// The tree of `jmt`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Jellyfish;

impl Authenticated for Jellyfish {
    fn update<V: View>(&self, view: &V, height: Height, changes: &Changes) -> Result<(Hash, Writes), Error> {
        if changes.is_empty() {
            return Ok((self.root(view)?, Writes::new()));
        }
        let nodes = Nodes::new(view);
        let tree = JellyfishMerkleTree::<_, Sha256>::new(&nodes);
        let place = |key: &Key| KeyHash(records::key_hash(key));
        let is_new = view.get(&node_key(&NibblePath::from_iter([])))?.is_none();
        let version = if is_new { 0 } else { height.0.max(1) };
        // One pass over all of them where nothing goes, which the crate cannot do
        // together with removals.
        let all_stay = changes.values().all(Option::is_some);
        let updated = if all_stay {
            let set = changes.iter().filter_map(|(key, value)| Some((place(key), value.as_ref()?.to_vec())));
            tree.batch_put_value_sets(vec![set.collect()], None, version)
                .map(|(roots, batch)| (roots.first().copied(), batch))
        } else {
            let set = changes.iter().map(|(key, value)| (place(key), value.as_ref().map(|value| value.to_vec())));
            tree.put_value_set(set, version).map(|(root, batch)| (Some(root), batch))
        };
        let (root, batch) = updated.map_err(|e| nodes.error(&e))?;
        let mut root = root.ok_or_else(|| Error::Damaged("the tree has no root".to_owned()))?.0;
        let mut writes = BTreeMap::new();
        for stale in &batch.stale_node_index_batch {
            writes.insert(node_key(stale.node_key.nibble_path()), None);
        }
        for (key, node) in batch.node_batch.nodes() {
            if matches!(node, Node::Null) {
                // Only a root is. Of a tree that becomes empty the crate may say what it was.
                root = EMPTY;
            }
            let encoded = postcard::to_stdvec(node).map_err(|e| Error::Damaged(e.to_string()))?;
            writes.insert(node_key(key.nibble_path()), Some(Bytes::from(encoded)));
        }
        Ok((root, writes.into_iter().collect()))
    }

    fn root<V: View>(&self, view: &V) -> Result<Hash, Error> {
        let nodes = Nodes::new(view);
        let tree = JellyfishMerkleTree::<_, Sha256>::new(&nodes);
        let root = tree.get_root_hash_option(0).map_err(|e| nodes.error(&e))?;
        Ok(root.map_or(EMPTY, |root| root.0))
    }

    fn prove<V: View>(&self, view: &V, key: &[u8]) -> Result<Path, Error> {
        let nodes = Nodes::new(view);
        let tree = JellyfishMerkleTree::<_, Sha256>::new(&nodes);
        let (_, proof) = tree.get_with_proof(KeyHash(records::key_hash(key)), 0).map_err(|e| nodes.error(&e))?;
        // The crate keeps the siblings to itself, but for its serialized form.
        let unreadable = |e: postcard::Error| Error::Damaged(format!("a proof of the tree: {e}"));
        let bytes = postcard::to_stdvec(&proof).map_err(unreadable)?;
        let mirror: Mirror = postcard::from_bytes(&bytes).map_err(unreadable)?;
        Ok(mirror.into())
    }
}

/// The tree's nodes in a view. Which version of a node is meant follows from the view.
struct Nodes<'a, V> {
    view: &'a V,
    /// What went wrong below the crate
    failure: RefCell<Option<Error>>,
}

impl<'a, V: View> Nodes<'a, V> {
    fn new(view: &'a V) -> Nodes<'a, V> {
        Nodes { view, failure: RefCell::new(None) }
    }

    fn error(&self, error: &impl std::fmt::Display) -> Error {
        self.failure.take().unwrap_or_else(|| Error::Damaged(format!("the tree: {error:#}")))
    }
}

impl<V: View> TreeReader for Nodes<'_, V> {
    fn get_node_option(&self, key: &NodeKey) -> Result<Option<Node>, anyhow::Error> {
        let stored = self.view.get(&node_key(key.nibble_path())).map_err(|error| {
            let told = anyhow::anyhow!("{error}");
            self.failure.replace(Some(error));
            told
        })?;
        Ok(stored.map(|bytes| postcard::from_bytes(&bytes)).transpose()?)
    }

    fn get_value_option(&self, _: u64, _: KeyHash) -> Result<Option<OwnedValue>, anyhow::Error> {
        // Values are found by key, not by place in the tree. The crate asks for one only
        // to pass it on.
        Ok(Some(OwnedValue::new()))
    }

    fn get_rightmost_leaf(&self) -> Result<Option<(NodeKey, LeafNode)>, anyhow::Error> {
        Ok(None)
    }
}

/// The key of the node at a path: how many steps, and the steps, two a byte.
fn node_key(path: &NibblePath) -> Key {
    let mut key = Vec::with_capacity(8 + path.num_nibbles() / 2);
    key.extend_from_slice(&records::nodes().0.to_be_bytes());
    key.push(path.num_nibbles() as u8);
    for (step, nibble) in path.nibbles().enumerate() {
        let nibble = u8::from(nibble);
        match (step % 2, key.last_mut()) {
            (1, Some(last)) => *last |= nibble,
            _ => key.push(nibble << 4),
        }
    }
    key.into()
}

/// What the crate's proofs are, serialized.
#[derive(Deserialize)]
struct Mirror {
    leaf: Option<(Hash, Hash)>,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
enum Sibling {
    Nothing,
    Inner(Hash, Hash),
    Leaf(Hash, Hash),
}

impl From<Mirror> for Path {
    fn from(mirror: Mirror) -> Path {
        let hash = |sibling| match sibling {
            Sibling::Nothing => EMPTY,
            Sibling::Inner(left, right) => crate::hash::sha256(&[b"JMT::IntrnalNode", &left, &right]),
            Sibling::Leaf(key, value) => crate::hash::sha256(&[b"JMT::LeafNode", &key, &value]),
        };
        Path { leaf: mirror.leaf, siblings: mirror.siblings.into_iter().map(hash).collect() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::storage::memory::MemoryStorage;
    use crate::ledger::storage::{Storage, Views};
    use crate::proof::path;

    fn key(n: u8) -> Key {
        Key::from(vec![0x40, 0, 0, 0x20, n])
    }

    /// Applies batches one after the other; the storage, and all roots.
    fn grow(batches: &[BTreeMap<u8, Option<u8>>]) -> (MemoryStorage, Vec<Hash>) {
        let (mut storage, mut roots) = (MemoryStorage::new(), Vec::new());
        for (height, batch) in batches.iter().enumerate() {
            let changes: Changes =
                batch.iter().map(|(n, value)| (key(*n), value.map(|v| Bytes::from(vec![v; 3])))).collect();
            let (root, writes) =
                Jellyfish.update(&storage.views().now().unwrap(), Height(height as u64), &changes).unwrap();
            storage.append(Bytes::new()).unwrap();
            storage.apply(height as u64 + 1, writes, false).unwrap();
            assert_eq!(Jellyfish.root(&storage.views().now().unwrap()).unwrap(), root);
            roots.push(root);
        }
        (storage, roots)
    }

    fn batches() -> impl Strategy<Value = Vec<BTreeMap<u8, Option<u8>>>> {
        let batch = proptest::collection::btree_map(0u8..40, proptest::option::weighted(0.7, any::<u8>()), 0..12);
        proptest::collection::vec(batch, 1..8)
    }

    proptest! {
        #[test]
        fn the_root_is_a_function_of_what_is_there(batches in batches()) {
            let (_, roots) = grow(&batches);
            let mut all: BTreeMap<u8, Option<u8>> = BTreeMap::new();
            batches.iter().for_each(|batch| all.extend(batch.clone()));
            all.retain(|_, value| value.is_some());
            let (_, at_once) = grow(std::slice::from_ref(&all));
            prop_assert_eq!(roots.last(), at_once.last());
            prop_assert_eq!(all.is_empty(), roots.last() == Some(&EMPTY));
        }

        #[test]
        fn every_key_is_proved_present_or_absent_at_every_height(batches in batches()) {
            let (storage, roots) = grow(&batches);
            let mut all: BTreeMap<u8, Option<u8>> = BTreeMap::new();
            for (height, (batch, root)) in batches.iter().zip(&roots).enumerate() {
                all.extend(batch.clone());
                let view = storage.views().at(height as u64 + 1).unwrap().unwrap();
                for n in 0..45 {
                    if *root == EMPTY {
                        continue;
                    }
                    let proof = Jellyfish.prove(&view, &key(n)).unwrap();
                    let value = all.get(&n).copied().flatten().map(|v| vec![v; 3]);
                    prop_assert_eq!(path::verify(&proof, root, &key(n), value.as_deref()), Ok(()));
                    // And nothing else is proved.
                    prop_assert!(path::verify(&proof, root, &key(n), Some(b"other")).is_err());
                    if value.is_some() {
                        prop_assert!(path::verify(&proof, root, &key(n), None).is_err());
                    }
                    prop_assert!(path::verify(&proof, &[7; 32], &key(n), value.as_deref()).is_err());
                }
            }
        }
    }
}
