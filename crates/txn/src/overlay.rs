//! A transaction's own writes, before it commits.
//!
//! Views share one ordered map with the transaction. Each write has a sequence
//! number and a view sees the numbers up to its own, so that freezing a view is
//! copying a number, however much was written:
//!
//! ```text
//! key a: [1: put x] [4: put y]        view at 3: a = x, b = put
//! key b: [2: put z] [5: untouched]    view at 5: a = y, b as in the snapshot
//! ```
//! Rolling back to a savepoint is writing what was there before under a new
//! number; views of the abandoned writes keep seeing them. While no view looks,
//! a key keeps its last version only.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use polity_base::key::Direction;
use polity_base::{Key, Operation, Span};

/// What a transaction says about a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Slot {
    /// Nothing (any more): the snapshot decides.
    Untouched,
    /// It has this value.
    Value(Bytes),
    /// It has no value.
    Deleted,
}

impl Slot {
    fn size(&self, key: &Key) -> usize {
        match self {
            Slot::Untouched => 0,
            Slot::Value(value) => key.len() + value.len() + 8,
            Slot::Deleted => key.len() + 4,
        }
    }
}

/// The versions of one key, newest first apart from the others.
struct Versions {
    sequence: u64,
    slot: Slot,
    /// In which segment of the undo log the newest version was written.
    segment: u64,
    /// Oldest first.
    older: Vec<(u64, Slot)>,
}

impl Versions {
    fn at(&self, sequence: u64) -> &Slot {
        if self.sequence <= sequence {
            return &self.slot;
        }
        self.older.iter().rev().find(|(s, _)| *s <= sequence).map_or(&Slot::Untouched, |(_, slot)| slot)
    }
}

#[derive(Default)]
struct Shared {
    keys: RwLock<BTreeMap<Key, Versions>>,
}

/// How far the undo log had come; see [`Overlay::mark`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct UndoMark {
    segment: u64,
    length: usize,
}

/// The transaction's end of its writes.
#[derive(Default)]
pub(crate) struct Overlay {
    shared: Arc<Shared>,
    sequence: u64,
    segment: u64,
    undo: Vec<(Key, Slot)>,
    size: usize,
    /// The segment in which a write was first refused for want of room.
    refused: Option<u64>,
}

impl Overlay {
    /// Whether nothing was ever written.
    pub fn is_pristine(&self) -> bool {
        self.sequence == 0
    }

    /// Bytes the writes take in a batch.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether a write was refused that has not been rolled back.
    pub fn has_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// Writes, unless the whole would grow beyond `limit` bytes. Returns whether
    /// it did.
    pub fn write(&mut self, key: Key, slot: Slot, limit: usize) -> bool {
        let growth = slot.size(&key);
        // Exact only when the key is new; when it is not, look before refusing.
        if self.size + growth > limit && self.size - self.size_of(&key) + growth > limit {
            self.refused.get_or_insert(self.segment);
            return false;
        }
        let segment = self.segment;
        if let Some(previous) = self.set(key.clone(), slot, segment) {
            self.undo.push((key, previous));
        }
        true
    }

    fn size_of(&self, key: &Key) -> usize {
        self.shared.keys.read().get(key).map_or(0, |v| v.slot.size(key))
    }

    /// Returns what an undo log must remember: nothing, when the key was written
    /// in this segment before.
    fn set(&mut self, key: Key, slot: Slot, segment: u64) -> Option<Slot> {
        self.sequence += 1;
        let sequence = self.sequence;
        self.size += slot.size(&key);
        let alone = Arc::strong_count(&self.shared) == 1;
        let mut keys = self.shared.keys.write();
        let Some(versions) = keys.get_mut(&key) else {
            keys.insert(key, Versions { sequence, slot, segment, older: Vec::new() });
            return Some(Slot::Untouched);
        };
        self.size -= versions.slot.size(&key);
        let previous = std::mem::replace(&mut versions.slot, slot);
        let remember = (versions.segment != segment).then(|| previous.clone());
        if alone {
            versions.older = Vec::new();
        } else {
            versions.older.push((versions.sequence, previous));
        }
        versions.sequence = sequence;
        versions.segment = segment;
        remember
    }

    /// A point to roll back to.
    pub fn mark(&mut self) -> UndoMark {
        self.segment += 1;
        UndoMark { segment: self.segment, length: self.undo.len() }
    }

    /// Takes back what was written since `mark`, which stays valid.
    pub fn rollback_to(&mut self, mark: UndoMark) {
        while self.undo.len() > mark.length {
            if let Some((key, slot)) = self.undo.pop() {
                // Segment 0 is before all marks: the next write is logged again.
                self.set(key, slot, 0);
            }
        }
        if self.refused.is_some_and(|segment| segment >= mark.segment) {
            self.refused = None;
        }
    }

    /// What the transaction says about `key` now.
    pub fn current(&self, key: &[u8]) -> Slot {
        self.shared.keys.read().get(key).map_or(Slot::Untouched, |v| v.slot.clone())
    }

    /// The writes so far, frozen. `None` when there are none.
    pub fn freeze(&self) -> Option<Frozen> {
        (!self.is_pristine()).then(|| Frozen { shared: self.shared.clone(), sequence: self.sequence })
    }

    /// The writes as operations, in the order of their keys.
    pub fn into_operations(self) -> Vec<Operation> {
        let operation = |key: Key, slot: Slot| match slot {
            Slot::Untouched => None,
            Slot::Value(value) => Some(Operation::Put { key, value }),
            Slot::Deleted => Some(Operation::Delete { key }),
        };
        match Arc::try_unwrap(self.shared) {
            Ok(shared) => shared.keys.into_inner().into_iter().filter_map(|(k, v)| operation(k, v.slot)).collect(),
            Err(shared) => {
                shared.keys.read().iter().filter_map(|(k, v)| operation(k.clone(), v.slot.clone())).collect()
            }
        }
    }
}

/// A view's end: the writes up to a sequence number.
#[derive(Clone)]
pub(crate) struct Frozen {
    shared: Arc<Shared>,
    sequence: u64,
}

impl Frozen {
    /// What the transaction said about `key`.
    pub fn get(&self, key: &[u8]) -> Slot {
        self.shared.keys.read().get(key).map_or(Slot::Untouched, |v| v.at(self.sequence).clone())
    }

    /// Holds the writes still to walk over them; writing waits meanwhile.
    pub fn read(&self) -> FrozenGuard<'_> {
        FrozenGuard { keys: self.shared.keys.read(), sequence: self.sequence }
    }
}

pub(crate) struct FrozenGuard<'a> {
    keys: RwLockReadGuard<'a, BTreeMap<Key, Versions>>,
    sequence: u64,
}

impl FrozenGuard<'_> {
    /// The written keys of `span`, deleted ones included.
    pub fn range(&self, span: &Span, direction: Direction) -> Box<dyn Iterator<Item = (&Key, &Slot)> + '_> {
        let sequence = self.sequence;
        if span.is_empty() {
            return Box::new(std::iter::empty());
        }
        let bounds = (Bound::Included(&span.start), Bound::Excluded(&span.end));
        let range = self.keys.range::<Key, _>(bounds);
        match direction {
            Direction::Ascending => Box::new(range.filter_map(move |(k, v)| seen(k, v, sequence))),
            Direction::Descending => Box::new(range.rev().filter_map(move |(k, v)| seen(k, v, sequence))),
        }
    }
}

fn seen<'a>(key: &'a Key, versions: &'a Versions, sequence: u64) -> Option<(&'a Key, &'a Slot)> {
    let slot = versions.at(sequence);
    (*slot != Slot::Untouched).then_some((key, slot))
}
