//! Which failure model a table is kept under, and how a key tells it.
//!
//! The two highest bits of a stored key say which kind of replica keeps it, so
//! that routing needs no catalog:
//!
//! ```text
//! 00  strong      rows, indexes and the catalog
//! 01  byzantine   rows and indexes of the ledger
//! 10  eventual    rows and indexes
//! 11  eventual    what merging remembers of each row, and of the replica itself
//! ```

use serde::{Deserialize, Serialize};

use crate::ids::{IndexId, RangeId};
use crate::key::{Key, Span};

/// Which failure model a table is kept under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Serialize, Deserialize)]
pub enum Guarantee {
    /// Strictly serializable, or refused
    #[default]
    Strong,
    /// Readable and writable wherever there is a replica; replicas merge
    Eventual,
    /// Agreed among nodes of which less than a third of the power may lie
    Byzantine,
}

const KIND: u32 = 0xC000_0000;
const BYZANTINE: u32 = 0x4000_0000;
const EVENTUAL: u32 = 0x8000_0000;
const MERGING: u32 = 0xC000_0000;

impl Guarantee {
    /// All of them, in order.
    pub const ALL: [Guarantee; 3] = [Guarantee::Strong, Guarantee::Eventual, Guarantee::Byzantine];

    /// The word that names it in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Guarantee::Strong => "strong",
            Guarantee::Eventual => "eventual",
            Guarantee::Byzantine => "byzantine",
        }
    }

    /// The guarantee that a stored key is kept under.
    pub fn of_key(key: &[u8]) -> Guarantee {
        match key.first().map_or(0, |first| first >> 6) {
            0b00 => Guarantee::Strong,
            0b01 => Guarantee::Byzantine,
            _ => Guarantee::Eventual,
        }
    }

    /// Whether a key is of what merging remembers, which no statement reads.
    pub fn is_of_merging(key: &[u8]) -> bool {
        key.first().is_some_and(|first| first >> 6 == 0b11)
    }

    /// The stretch of keys with this `number`, which must be below 2^30, under
    /// this guarantee.
    pub fn storage(self, number: u32) -> IndexId {
        debug_assert_eq!(number & KIND, 0, "storages are numbered below 2^30");
        let number = number & !KIND;
        IndexId(match self {
            Guarantee::Strong => number,
            Guarantee::Byzantine => number | BYZANTINE,
            Guarantee::Eventual => number | EVENTUAL,
        })
    }

    /// All keys that are kept under this guarantee, in order.
    pub fn span(self) -> Span {
        let from = |first: u8| Key(bytes::Bytes::copy_from_slice(&[first]));
        match self {
            Guarantee::Strong => Span { start: Key::default(), end: from(0x40) },
            Guarantee::Byzantine => Span { start: from(0x40), end: from(0x80) },
            Guarantee::Eventual => Span { start: from(0x80), end: Key(bytes::Bytes::from_static(&[0xFF; 5])) },
        }
    }
}

impl RangeId {
    /// No range: what belongs to the node, in its log.
    pub const NODE: RangeId = RangeId(0);
    /// The catalog and all strong tables.
    pub const STRONG: RangeId = RangeId(1);
    /// All eventual tables, of which every node holds a replica.
    pub const EVENTUAL: RangeId = RangeId(2);
    /// The range of all byzantine tables.
    pub const LEDGER: RangeId = RangeId(3);
    /// No range: what this node's validator of the ledger has said, in its log.
    pub const VALIDATOR: RangeId = RangeId(4);

    /// The guarantee its keys are kept under.
    pub fn guarantee(self) -> Guarantee {
        match self {
            RangeId::EVENTUAL => Guarantee::Eventual,
            RangeId::LEDGER => Guarantee::Byzantine,
            _ => Guarantee::Strong,
        }
    }
}

/// What the cluster knows of itself, in strong storages that no table has.
impl IndexId {
    /// The catalog.
    pub const CATALOG: IndexId = IndexId(1);
    /// The nodes that were removed.
    pub const REMOVED_NODES: IndexId = IndexId(2);
    /// Where leaders are to stand.
    pub const PREFERENCE: IndexId = IndexId(3);
    /// What the ledger began with.
    pub const GENESIS: IndexId = IndexId(4);
}

impl IndexId {
    /// The guarantee its keys are kept under.
    pub fn guarantee(self) -> Guarantee {
        Guarantee::of_key(&self.0.to_be_bytes())
    }

    /// Where merging remembers what it must of the rows of this storage, which is
    /// an eventual table's.
    pub fn merging(self) -> IndexId {
        IndexId(self.0 | MERGING)
    }
}

/// The key under which merging remembers what it must of the row at `row`, which is
/// an eventual table's.
pub fn merging_key(row: &Key) -> Key {
    let mut bytes = row.0.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first |= 0xC0;
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyBuilder;
    use crate::value::Value;

    #[test]
    fn a_key_tells_its_guarantee() {
        for guarantee in [Guarantee::Strong, Guarantee::Eventual, Guarantee::Byzantine] {
            for number in [1, 16_384, (1 << 30) - 1] {
                let storage = guarantee.storage(number);
                assert_eq!(storage.guarantee(), guarantee);
                let mut key = KeyBuilder::new(storage);
                key.push(&Value::Int8(7)).unwrap();
                let key = key.finish();
                assert_eq!(Guarantee::of_key(&key), guarantee);
                assert!(guarantee.span().contains(&key));
                assert!(Span::of_index(storage).contains(&key));
            }
        }
    }

    #[test]
    fn what_merging_remembers_lies_apart_and_in_the_same_order() {
        let key = |n| {
            let mut key = KeyBuilder::new(Guarantee::Eventual.storage(20_000));
            key.push(&Value::Int8(n)).unwrap();
            key.finish()
        };
        let (a, b) = (merging_key(&key(1)), merging_key(&key(2)));
        assert!(a < b);
        assert_eq!(Guarantee::of_key(&a), Guarantee::Eventual);
        assert!(Span::of_index(Guarantee::Eventual.storage(20_000).merging()).contains(&a));
        assert!(!Span::of_index(Guarantee::Eventual.storage(20_000)).contains(&a));
        assert!(Guarantee::Eventual.span().contains(&a));
    }
}
