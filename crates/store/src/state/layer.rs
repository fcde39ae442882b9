//! Versions that are not in redb yet.
//!
//! Applied batches go into an ordered map in memory, the *active* layer. A
//! checkpoint makes it the *frozen* layer, which no longer changes, starts a new
//! active one, and writes the frozen one to redb, in key order and in one
//! transaction. Readers look into all three (see `reader.rs`), so nobody waits for
//! the disk but the checkpoint. What the layers lose in a crash the log replays.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::{RwLock, RwLockReadGuard};
use polity_base::key::Direction;
use polity_base::{Key, RangeId, Span, Timestamp};

/// A version of a row: when it was written, and the row unless it was deleted.
pub(super) type Version = (Timestamp, Option<Bytes>);

/// Roughly what a version takes besides its bytes.
const OVERHEAD: usize = 192;

/// The versions of one key.
pub(super) struct Versions {
    newest: Version,
    /// Oldest first
    older: Vec<Version>,
}

impl Versions {
    /// The version that is visible at `at`.
    pub fn at(&self, at: Timestamp) -> Option<&Version> {
        if self.newest.0 <= at {
            return Some(&self.newest);
        }
        let visible = self.older.partition_point(|v| v.0 <= at);
        visible.checked_sub(1).and_then(|i| self.older.get(i))
    }

    /// The newest version.
    pub fn newest(&self) -> &Version {
        &self.newest
    }

    /// All versions, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Version> {
        std::iter::once(&self.newest).chain(self.older.iter().rev())
    }
}

/// A span that was cleared: versions in it from before then are gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cleared {
    pub span: Span,
    pub at: Timestamp,
}

/// Whether a version of `key` written at `at` was cleared since.
pub(super) fn is_cleared(clears: &[Cleared], key: &[u8], at: Timestamp) -> bool {
    clears.iter().any(|c| at < c.at && c.span.contains(key))
}

/// Versions in memory, and what else a checkpoint has to write.
#[derive(Default)]
pub(super) struct Layer {
    rows: RwLock<Rows>,
}

/// The content of a layer.
#[derive(Default)]
pub(super) struct Rows {
    map: BTreeMap<Key, Versions>,
    /// Spans cleared while the layer was active
    pub clears: Vec<Cleared>,
    /// Encoded commits of each group, and the timestamp of the last one
    pub history: BTreeMap<RangeId, Vec<Chunk>>,
    bytes: usize,
}

/// Encoded commits.
pub(super) struct Chunk {
    pub last: Timestamp,
    pub bytes: Vec<u8>,
}

/// A chunk of history is full at this many bytes.
pub(super) const CHUNK: usize = 32 << 10;

impl Rows {
    /// Adds a version that is newer than all others of its key.
    pub fn push(&mut self, key: Key, version: Version) {
        self.bytes += key.len() + version.1.as_ref().map_or(0, Bytes::len) + OVERHEAD;
        match self.map.entry(key) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(Versions { newest: version, older: Vec::new() });
            }
            btree_map::Entry::Occupied(mut entry) => {
                let versions = entry.get_mut();
                debug_assert!(versions.newest.0 <= version.0, "versions are pushed in order");
                if versions.newest.0 == version.0 {
                    // The same batch wrote the key twice; the last one counts.
                    versions.newest = version;
                } else {
                    let older = std::mem::replace(&mut versions.newest, version);
                    versions.older.push(older);
                }
            }
        }
    }

    /// The chunk that the next commit of `group` at `at` is encoded into.
    pub fn history(&mut self, group: RangeId, at: Timestamp) -> &mut Vec<u8> {
        let chunks = self.history.entry(group).or_default();
        if chunks.last().is_none_or(|c| c.bytes.len() >= CHUNK) {
            chunks.push(Chunk { last: at, bytes: Vec::new() });
        }
        let last = chunks.len() - 1;
        let chunk = &mut chunks[last];
        chunk.last = at;
        &mut chunk.bytes
    }

    /// All keys and their versions, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Versions)> {
        self.map.iter()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty() && self.clears.is_empty() && self.history.is_empty()
    }
}

impl Layer {
    /// Changes the layer. Only whoever applies does.
    pub fn change(&self, change: impl FnOnce(&mut Rows)) {
        change(&mut self.rows.write());
    }

    /// The layer's content. Nothing is added while it is held.
    pub fn rows(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read()
    }

    /// Roughly how many bytes the layer takes.
    pub fn bytes(&self) -> usize {
        self.rows.read().bytes
    }

    /// The version of `key` that is visible at `at`.
    pub fn get(&self, key: &[u8], at: Timestamp) -> Option<Version> {
        self.rows.read().map.get(key)?.at(at).cloned()
    }

    /// Up to `max` keys between the bounds that have a version visible at `at`, in
    /// the given direction.
    pub fn collect(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        at: Timestamp,
        direction: Direction,
        max: usize,
    ) -> Vec<(Key, Version)> {
        if is_void(from, to) {
            return Vec::new();
        }
        let rows = self.rows.read();
        let range = rows.map.range::<[u8], _>((from, to));
        let visible = |(key, versions): (&Key, &Versions)| Some((key.clone(), versions.at(at)?.clone()));
        match direction {
            Direction::Ascending => range.filter_map(visible).take(max).collect(),
            Direction::Descending => range.rev().filter_map(visible).take(max).collect(),
        }
    }
}

/// Whether nothing lies between the bounds; the map panics when they are crossed.
fn is_void(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => a >= b,
    }
}
