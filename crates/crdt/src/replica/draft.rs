//! What the next entry of the log will write, computed against what there is.
//!
//! ```text
//! layer     the present piece of work: kept or dropped whole
//! kept      the pieces before it in this entry
//! pending   entries on their way to the disk
//! reader    rows that are applied
//! ```
//! What is found in an upper place is newer. A transaction that is refused so leaves
//! nothing behind in the entry of those that are not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use polity_base::guarantee::merging_key;
use polity_base::{Guarantee, IndexId, Key, NodeId, Operation, Span, Timestamp};
use polity_store::state::Reader;

use super::book::{self, StoredConflict};
use super::peers::Members;
use super::schema::Schema;
use super::shares::Counted;
use crate::cell::Cell;
use crate::error::Error;
use crate::row::{Lost, RowState};
use crate::stamp::{Stamp, VersionVector};

/// Writes of entries on their way to the disk: of which entry, and what.
pub(super) type Pending = HashMap<Key, (u64, Option<Bytes>)>;

type Writes = BTreeMap<Key, Option<Bytes>>;

/// What a piece of work is told, and what the pieces of one entry have in common.
pub(super) struct Draft<'a> {
    /// This node
    pub node: NodeId,
    /// Who belongs to the cluster
    pub members: &'a Members,
    /// What the catalog says
    pub schema: &'a dyn Schema,
    /// The time, later than any before
    pub now: Timestamp,
    /// What is applied once this entry is
    pub vector: VersionVector,
    reader: &'a Reader,
    pending: &'a Pending,
    kept: Writes,
    layer: Writes,
    /// Spans of dropped storages to clear
    clears: Vec<Span>,
    bytes: usize,
    /// Rows of which a member that was removed has shares
    pub orphaned: BTreeSet<Key>,
    /// Counters of which little is left here
    pub low: BTreeSet<Counted>,
    /// Values lost to concurrent writes, noticed by the present piece of work
    conflicts: u64,
}

impl<'a> Draft<'a> {
    pub fn new(
        node: NodeId,
        (members, schema): (&'a Members, &'a dyn Schema),
        (reader, pending): (&'a Reader, &'a Pending),
        vector: VersionVector,
    ) -> Draft<'a> {
        Draft {
            node,
            members,
            schema,
            now: Timestamp::ZERO,
            vector,
            reader,
            pending,
            kept: Writes::new(),
            layer: Writes::new(),
            clears: Vec::new(),
            orphaned: BTreeSet::new(),
            low: BTreeSet::new(),
            bytes: 0,
            conflicts: 0,
        }
    }

    /// Keeps what the present piece of work wrote; gives the number of values that it
    /// found lost.
    pub fn keep(&mut self) -> u64 {
        let size = |(key, value): (&Key, &Option<Bytes>)| key.len() + value.as_ref().map_or(0, Bytes::len) + 8;
        self.bytes += self.layer.iter().map(size).sum::<usize>();
        self.kept.append(&mut self.layer);
        std::mem::take(&mut self.conflicts)
    }

    /// Drops what the present piece of work wrote.
    pub fn drop_layer(&mut self) {
        self.layer.clear();
        self.conflicts = 0;
    }

    /// Roughly how many bytes are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many writes are kept.
    pub fn writes(&self) -> usize {
        self.kept.len()
    }

    /// All that is to be written, and what is applied then.
    pub fn finish(mut self, before: &VersionVector) -> Result<(Vec<Operation>, VersionVector), Error> {
        if self.vector != *before {
            self.kept.insert(book::vector(), Some(encoded(&self.vector)?));
        }
        let operation = |(key, value)| match value {
            Some(value) => Operation::Put { key, value },
            None => Operation::Delete { key },
        };
        let clears = self.clears.into_iter().map(|span| Operation::Clear { span });
        Ok((clears.chain(self.kept.into_iter().map(operation)).collect(), self.vector))
    }

    /// Removes everything in `span`, which nobody reads any more.
    pub fn clear(&mut self, span: Span) {
        self.clears.push(span);
    }

    pub fn put(&mut self, key: Key, value: Bytes) {
        self.layer.insert(key, Some(value));
    }

    pub fn delete(&mut self, key: Key) {
        self.layer.insert(key, None);
    }

    pub fn get(&self, key: &Key) -> Result<Option<Bytes>, Error> {
        if let Some(written) = self.layer.get(key).or_else(|| self.kept.get(key)) {
            return Ok(written.clone());
        }
        if let Some((_, written)) = self.pending.get(key) {
            return Ok(written.clone());
        }
        Ok(self.reader.get(key, Timestamp::MAX)?.map(|(value, _)| value))
    }

    /// The keys of `span` that are stored, or may be once what is pending is applied,
    /// from the first on; at most `most`, and whether there are more.
    pub fn keys(&self, span: &Span, most: usize) -> Result<(Vec<Key>, bool), Error> {
        let mut scan = self.reader.scan(span, self.reader.applied(Guarantee::Eventual))?;
        let stored = scan.next_chunk(most + 1, usize::MAX)?;
        let more = stored.len() > most;
        let mut keys: Vec<Key> = stored.into_iter().take(most).map(|(key, _)| key).collect();
        let last = keys.last().cloned();
        let within = |key: &&Key| span.contains(key) && (!more || last.as_ref().is_some_and(|last| *key <= last));
        let written = self.pending.keys().chain(self.kept.keys()).chain(self.layer.keys());
        keys.extend(written.filter(within).cloned());
        keys.sort_unstable();
        keys.dedup();
        Ok((keys, more))
    }

    /// The state of a row.
    pub fn row(&self, key: &Key) -> Result<RowState, Error> {
        let (visible, trace) = (self.get(key)?, self.get(&merging_key(key))?);
        let state = RowState::load(visible.as_deref(), trace.as_deref());
        state.map_err(|e| Error::Damaged { key: key.clone(), reason: e.to_string() })
    }

    /// Writes a row's state, and the index entries that follow from it.
    pub fn store(&mut self, key: &Key, before: &RowState, after: &RowState) {
        let (old, new) = (before.visible(), after.visible());
        if old != new {
            let entries = |row: &Option<Bytes>| row.as_ref().map_or_else(Vec::new, |r| self.schema.entries(key, r));
            let (gone, come) = (entries(&old), entries(&new));
            for (entry, _) in gone {
                self.layer.insert(entry, None);
            }
            self.layer.extend(come.into_iter().map(|(entry, value)| (entry, Some(value))));
            self.layer.insert(key.clone(), new);
        }
        self.layer.insert(merging_key(key), after.trace());
    }

    /// Notes values that were lost to concurrent writes.
    pub fn note_lost(&mut self, key: &Key, lost: Vec<Lost>) -> Result<(), Error> {
        for lost in lost {
            let place = book::conflict(key, lost.column, lost.lost_stamp);
            let conflict = StoredConflict { row: key.clone(), lost, noticed: self.now };
            if self.get(&place)?.is_some() {
                continue;
            }
            self.layer.insert(book::noticed_at(self.now, &place), Some(place.0.clone()));
            self.layer.insert(place, Some(encoded(&conflict)?));
            self.conflicts += 1;
        }
        Ok(())
    }

    /// Notes that something of a row can be forgotten once every replica has it.
    pub fn note_collectable(&mut self, key: &Key, part: &RowState, by: Stamp) {
        let removes = |cell: &Cell| match cell {
            Cell::Set(set) => set.elements.values().any(|(_, marks)| !marks.removed.is_empty()),
            _ => false,
        };
        if !part.is_live() || part.cells.values().any(removes) {
            self.put(book::to_collect(by, key), Bytes::new());
        }
    }
}

/// The bytes of one of the replica's own values.
pub(super) fn encoded(value: &impl serde::Serialize) -> Result<Bytes, Error> {
    let bytes =
        postcard::to_stdvec(value).map_err(|e| Error::Stopped { reason: format!("no bytes for a note: {e}") })?;
    Ok(bytes.into())
}

/// The storage of a key.
pub(crate) fn storage_of(key: &[u8]) -> IndexId {
    IndexId(key.first_chunk().map_or(0, |id| u32::from_be_bytes(*id)))
}
