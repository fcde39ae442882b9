//! The authenticated state: a Merkle tree over all rows and records, whose root is in
//! the header of each block.
//!
//! ```text
//!   root ─┬─ 0…                       a key's place is SHA-256(key), four bits a level;
//!         ├─ 1… ─┬─ 1a… leaf          a leaf stands as high as it is alone
//!         ┆      └─ 1f… leaf
//!         └─ f… leaf                  leaf = key hash, SHA-256(value)
//! ```
//! It is a Jellyfish Merkle Tree (Gao, Hu & Wu, "Jellyfish Merkle Tree", 2021): a sparse
//! Merkle tree in which a proof is as long as the logarithm of how many rows there are.
//! It proves that a key has a value, or that it has none. It proves nothing about *all*
//! keys of a span. Roots and proofs are those of the `jmt` crate, which is the tests'
//! oracle; this one changes many keys in one pass, removals among them.
//!
//! A node is four levels of the tree: what stands below each of its sixteen places, leaves
//! with all there is of them. So a new row writes little more than the node it stands in.
//! Nodes are kept by their path, one version a block, among the other keys of the ledger:
//! so the storage's own retention prunes the tree, and a view of an old state reads the
//! tree as it was.

use std::collections::BTreeMap;

use bytes::Bytes;
use polity_base::Key;

use super::error::Error;
use super::records;
use super::storage::{View, Writes};
use crate::hash::{Hash, sha256};

/// The root of a tree without leaves.
pub const EMPTY: Hash = *b"SPARSE_MERKLE_PLACEHOLDER_HASH__";

/// What keeps the state authenticated. The root is a function of the keys and values
/// alone, whatever they were before.
pub trait Authenticated {
    /// Changes values of keys in the tree that `view` has. The root after it, and what is
    /// to be written to keep the tree.
    fn update<V: View>(&self, view: &V, changes: &Changes) -> Result<(Hash, Writes), Error>;

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

/// A Jellyfish Merkle Tree.
#[derive(Clone, Copy, Debug, Default)]
pub struct Jellyfish;

impl Authenticated for Jellyfish {
    fn update<V: View>(&self, view: &V, changes: &Changes) -> Result<(Hash, Writes), Error> {
        if changes.is_empty() {
            return Ok((self.root(view)?, Writes::new()));
        }
        let value_hash = |value: &Option<Bytes>| value.as_ref().map(|value| sha256(&[value]));
        let mut changes: Vec<Change> =
            changes.iter().map(|(key, value)| (records::key_hash(key), value_hash(value))).collect();
        changes.sort_unstable_by_key(|(place, _)| *place);
        let mut pass = Pass { view, writes: Writes::new() };
        let top = node_key(&[], 0);
        // What its hash was does not matter to what it will be.
        let before = if view.get(&top)?.is_some() { Below::Inner(EMPTY) } else { Below::Nothing };
        let after = pass.change(before, &changes, 0)?;
        if let Below::Leaf(place, _) = after {
            // A leaf that is alone has no node above it, but for the topmost.
            let mut node = Node::default();
            node.0[nibble(&place, 0)] = after;
            pass.writes.retain(|(key, _)| *key != top);
            pass.writes.push((top, Some(node.encode())));
        }
        Ok((after.hash(), pass.writes))
    }

    fn root<V: View>(&self, view: &V) -> Result<Hash, Error> {
        let root = view.get(&node_key(&[], 0))?;
        root.map_or(Ok(EMPTY), |root| Ok(Node::decode(&root)?.hash()))
    }

    fn prove<V: View>(&self, view: &V, key: &[u8]) -> Result<Path, Error> {
        let (place, mut path) = (records::key_hash(key), Path::default());
        for depth in 0..NIBBLES {
            let Some(node) = view.get(&node_key(&place, depth))? else {
                return if depth == 0 { Ok(path) } else { Err(lacking(depth)) };
            };
            match Node::decode(&node)?.walk(nibble(&place, depth), &mut path.siblings) {
                Below::Inner(_) => {}
                Below::Nothing => break,
                Below::Leaf(place, value) => {
                    path.leaf = Some((place, value));
                    break;
                }
            }
        }
        path.siblings.reverse();
        Ok(path)
    }
}

/// How many steps of four bits a place is away from the root.
const NIBBLES: usize = 64;

/// The place of a key, and the hash of its value from now on.
type Change = (Hash, Option<Hash>);

fn nibble(place: &Hash, depth: usize) -> usize {
    usize::from(place[depth / 2] >> (4 * (1 - depth % 2)) & 15)
}

fn lacking(depth: usize) -> Error {
    Error::Damaged(format!("the tree lacks a node at depth {depth}"))
}

/// What stands at a place of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Below {
    #[default]
    Nothing,
    /// A key's place and its value's hash
    Leaf(Hash, Hash),
    /// A node with this hash, and with more than one leaf
    Inner(Hash),
}

impl Below {
    fn hash(&self) -> Hash {
        match self {
            Below::Nothing => EMPTY,
            Below::Leaf(place, value) => sha256(&[b"JMT::LeafNode", place, value]),
            Below::Inner(hash) => *hash,
        }
    }
}

/// Four levels of the tree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Node([Below; 16]);

/// ```text
/// node = which are there u16, which are leaves u16, for each: hash | place value
/// ```
impl Node {
    fn encode(&self) -> Bytes {
        let (mut there, mut leaves, mut rest) = (0u16, 0u16, Vec::with_capacity(4 + 16 * 64));
        rest.extend([0; 4]);
        for (at, below) in self.0.iter().enumerate() {
            match below {
                Below::Nothing => continue,
                Below::Leaf(place, value) => {
                    leaves |= 1 << at;
                    rest.extend_from_slice(place);
                    rest.extend_from_slice(value);
                }
                Below::Inner(hash) => rest.extend_from_slice(hash),
            }
            there |= 1 << at;
        }
        rest[..2].copy_from_slice(&there.to_be_bytes());
        rest[2..4].copy_from_slice(&leaves.to_be_bytes());
        Bytes::copy_from_slice(&rest)
    }

    fn decode(bytes: &[u8]) -> Result<Node, Error> {
        let damaged = || Error::Damaged("a node of the tree that cannot be read".to_owned());
        let (there, rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let (leaves, mut rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (there, leaves) = (u16::from_be_bytes(*there), u16::from_be_bytes(*leaves));
        let mut hash = || {
            let (hash, left) = rest.split_first_chunk().ok_or_else(damaged)?;
            rest = left;
            Ok::<Hash, Error>(*hash)
        };
        let mut node = Node::default();
        for (at, below) in node.0.iter_mut().enumerate() {
            *below = match (there >> at & 1, leaves >> at & 1) {
                (0, 0) => continue,
                (1, 0) => Below::Inner(hash()?),
                (1, 1) => Below::Leaf(hash()?, hash()?),
                _ => return Err(damaged()),
            };
        }
        if rest.is_empty() { Ok(node) } else { Err(damaged()) }
    }

    fn hash(&self) -> Hash {
        hash_of(&self.0)
    }

    /// The one leaf below the node, if that is all there is: it stands where the node
    /// would, then.
    fn alone(&self) -> Option<Below> {
        alone(&self.0)
    }

    /// Goes four levels down to a place, and notes the hashes beside the way; what stands
    /// there.
    fn walk(&self, to: usize, beside: &mut Vec<Hash>) -> Below {
        let mut stretch = &self.0[..];
        let mut to = to;
        loop {
            if let Some(below) = alone(stretch) {
                return below;
            }
            let (left, right) = stretch.split_at(stretch.len() / 2);
            let is_right = to >= left.len();
            let (on, off) = if is_right { (right, left) } else { (left, right) };
            if is_right {
                to -= left.len();
            }
            beside.push(hash_of(off));
            stretch = on;
        }
    }
}

/// What stands for a whole stretch of places: the only leaf there, nothing, or what is at
/// the only place. None if that takes a hash of two halves.
fn alone(stretch: &[Below]) -> Option<Below> {
    if let [one] = stretch {
        return Some(*one);
    }
    let mut there = stretch.iter().filter(|below| **below != Below::Nothing);
    match (there.next(), there.next()) {
        (None, _) => Some(Below::Nothing),
        (Some(Below::Inner(_)), _) | (_, Some(_)) => None,
        (Some(leaf), None) => Some(*leaf),
    }
}

fn hash_of(stretch: &[Below]) -> Hash {
    match alone(stretch) {
        Some(below) => below.hash(),
        None => {
            let (left, right) = stretch.split_at(stretch.len() / 2);
            sha256(&[b"JMT::IntrnalNode", &hash_of(left), &hash_of(right)])
        }
    }
}

/// Changes on their way through the tree, and what is to be written because of them.
struct Pass<'a, V> {
    view: &'a V,
    writes: Writes,
}

impl<V: View> Pass<'_, V> {
    /// Makes changes below one place of the tree, which all of them share; what stands
    /// there then. They are in order.
    fn change(&mut self, before: Below, changes: &[Change], depth: usize) -> Result<Below, Error> {
        let Some((first, _)) = changes.first() else { return Ok(before) };
        match before {
            Below::Nothing => self.grow(&leaves(None, changes), depth),
            Below::Leaf(place, value) => self.grow(&leaves(Some((place, value)), changes), depth),
            // A place has no more steps: the node above it is damaged.
            Below::Inner(_) if depth == NIBBLES => Err(lacking(depth)),
            Below::Inner(_) => {
                let key = node_key(first, depth);
                let stored = self.view.get(&key)?.ok_or_else(|| lacking(depth))?;
                let mut node = Node::decode(&stored)?;
                for some in changes.chunk_by(|(a, _), (b, _)| nibble(a, depth) == nibble(b, depth)) {
                    let below = &mut node.0[nibble(&some[0].0, depth)];
                    *below = self.change(*below, some, depth + 1)?;
                }
                let alone = node.alone();
                let kept = if alone.is_none() { Some(node.encode()) } else { None };
                self.writes.push((key, kept));
                Ok(alone.unwrap_or_else(|| Below::Inner(node.hash())))
            }
        }
    }

    /// Makes all that stands above leaves which share a place, and nobody else's.
    fn grow(&mut self, leaves: &[(Hash, Hash)], depth: usize) -> Result<Below, Error> {
        let (place, value) = match leaves {
            [] => return Ok(Below::Nothing),
            [(place, value)] => return Ok(Below::Leaf(*place, *value)),
            [first, ..] => first,
        };
        if depth == NIBBLES {
            // There is no other key with this hash.
            return Ok(Below::Leaf(*place, *value));
        }
        let mut node = Node::default();
        for some in leaves.chunk_by(|(a, _), (b, _)| nibble(a, depth) == nibble(b, depth)) {
            node.0[nibble(&some[0].0, depth)] = self.grow(some, depth + 1)?;
        }
        self.writes.push((node_key(place, depth), Some(node.encode())));
        Ok(Below::Inner(node.hash()))
    }
}

/// The leaves that are there after changes, in order.
fn leaves(before: Option<(Hash, Hash)>, changes: &[Change]) -> Vec<(Hash, Hash)> {
    let mut leaves: Vec<(Hash, Hash)> = changes.iter().filter_map(|(place, value)| Some((*place, (*value)?))).collect();
    if let Some(leaf) = before
        && let Err(at) = changes.binary_search_by_key(&leaf.0, |(place, _)| *place)
    {
        // So many of those before it go.
        let gone = changes[..at].iter().filter(|(_, value)| value.is_none()).count();
        leaves.insert(at - gone, leaf);
    }
    leaves
}

/// The key of the node so many steps from the root on the way to a place: how many steps,
/// and the steps, two a byte.
fn node_key(place: &[u8], depth: usize) -> Key {
    let bytes = depth.div_ceil(2);
    let mut key = Vec::with_capacity(5 + bytes);
    key.extend_from_slice(&records::nodes().0.to_be_bytes());
    key.push(depth as u8);
    key.extend_from_slice(&place[..bytes]);
    if let (1, Some(last)) = (depth % 2, key.last_mut()) {
        *last &= 0xF0;
    }
    key.into()
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
            let (root, writes) = Jellyfish.update(&storage.views().now().unwrap(), &changes).unwrap();
            storage.append(Bytes::new()).unwrap();
            storage.apply(height as u64 + 1, writes, false).unwrap();
            assert_eq!(Jellyfish.root(&storage.views().now().unwrap()).unwrap(), root);
            roots.push(root);
        }
        (storage, roots)
    }

    /// The root that the `jmt` crate gives keys and values.
    fn oracle(all: &BTreeMap<u8, Option<u8>>) -> Hash {
        struct Empty;
        impl jmt::storage::TreeReader for Empty {
            fn get_node_option(&self, _: &jmt::storage::NodeKey) -> anyhow::Result<Option<jmt::storage::Node>> {
                Ok(None)
            }

            fn get_value_option(&self, _: u64, _: jmt::KeyHash) -> anyhow::Result<Option<jmt::OwnedValue>> {
                Ok(None)
            }

            fn get_rightmost_leaf(&self) -> anyhow::Result<Option<(jmt::storage::NodeKey, jmt::storage::LeafNode)>> {
                Ok(None)
            }
        }
        let place = |n: u8| jmt::KeyHash(records::key_hash(&key(n)));
        let set = all.iter().filter_map(|(n, value)| Some((place(*n), Some(vec![(*value)?; 3]))));
        let tree = jmt::JellyfishMerkleTree::<_, sha2::Sha256>::new(&Empty);
        tree.put_value_set(set, 0).unwrap().0.0
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
            prop_assert_eq!(roots.last(), Some(&oracle(&all)));
            prop_assert_eq!(all.is_empty(), roots.last() == Some(&EMPTY));
        }

        #[test]
        fn nothing_is_left_of_what_was(batches in batches()) {
            let (mut storage, _) = grow(&batches);
            let all: Changes = (0..40).map(|n| (key(n), None)).collect();
            let (root, writes) = Jellyfish.update(&storage.views().now().unwrap(), &all).unwrap();
            prop_assert_eq!(root, EMPTY);
            storage.append(Bytes::new()).unwrap();
            storage.apply(99, writes, false).unwrap();
            let (view, mut left) = (storage.views().now().unwrap(), 0);
            let count = &mut |_: &[u8], _: &[u8]| {
                left += 1;
                std::ops::ControlFlow::Continue(())
            };
            view.scan(&polity_base::Span::of_index(records::nodes()), count).unwrap();
            prop_assert_eq!(left, 0);
        }

        #[test]
        fn noise_is_no_node_or_one_that_comes_out_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(node) = Node::decode(&bytes) {
                prop_assert_eq!(&node.encode()[..], &bytes[..]);
            }
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
