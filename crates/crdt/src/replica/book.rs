//! What a replica keeps for itself, as rows beside those of tables.
//!
//! ```text
//! 1  vector                              ->  version vector
//! 2  delta: origin, at                   ->  the delta
//! 3  conflict: row, column, lost stamp   ->  the conflict
//! 4  trace to collect: at, origin, row   ->  (nothing)
//! 5  departed member                     ->  the last of its deltas that counts
//! 6  index built                         ->  (nothing)
//! 7  filling                             ->  how far the replica is filled
//! 8  collected                           ->  version vector: what it covers may be forgotten
//! 9  conflict by time: noticed, …        ->  the conflict's key
//! ```
//! Numbers are big endian, so keys sort as they do.

use bytes::Bytes;
use polity_base::guarantee::Guarantee;
use polity_base::{ColumnId, IndexId, Key, NodeId, Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::row::Lost;
use crate::stamp::Stamp;

/// The kinds of rows that a replica keeps for itself.
#[derive(Clone, Copy)]
pub(crate) enum Book {
    Vector = 1,
    Delta = 2,
    Conflict = 3,
    ToCollect = 4,
    Departed = 5,
    Built = 6,
    Filling = 7,
    Collected = 8,
    Noticed = 9,
}

/// The number of the first storage of a table: those of books are below.
const FIRST_TABLE: u32 = 16_384;

impl Book {
    fn bytes(self) -> Vec<u8> {
        let storage = Guarantee::Eventual.storage(self as u32).merging();
        storage.0.to_be_bytes().to_vec()
    }

    /// All rows of this kind.
    pub fn span(self) -> Span {
        Key::from(self.bytes()).prefix_span()
    }

    fn with(self, parts: &[&[u8]]) -> Key {
        let mut bytes = self.bytes();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        bytes.into()
    }
}

/// Where deltas are.
pub(crate) fn deltas_storage() -> IndexId {
    Guarantee::Eventual.storage(Book::Delta as u32).merging()
}

pub(crate) fn vector() -> Key {
    Book::Vector.with(&[])
}

pub(crate) fn filling() -> Key {
    Book::Filling.with(&[])
}

pub(crate) fn collected() -> Key {
    Book::Collected.with(&[])
}

/// Where what merging remembers of rows is, of all tables.
pub(crate) fn traces() -> Span {
    let storage = |number| Guarantee::Eventual.storage(number).merging().0.to_be_bytes().to_vec();
    Span { start: storage(FIRST_TABLE).into(), end: Guarantee::Eventual.span().end }
}

/// The storage whose rows, entries or traces are in `storage`; none for that of notes.
pub(crate) fn table_of(storage: IndexId) -> Option<IndexId> {
    let number = storage.0 & 0x3FFF_FFFF;
    let table = Guarantee::Eventual.storage(number);
    (storage == table || number >= FIRST_TABLE).then_some(table)
}

/// The row of a key in [`traces`].
pub(crate) fn traced(place: &Key) -> Key {
    let mut bytes = place.to_vec();
    if let Some(first) = bytes.first_mut() {
        *first = *first & 0x3F | 0x80;
    }
    bytes.into()
}

pub(crate) fn delta(stamp: Stamp) -> Key {
    Book::Delta.with(&[&stamp.origin.0.to_be_bytes(), &stamp.at.0.to_be_bytes()])
}

/// The deltas of `origin` after `after`, up to `up_to`.
pub(crate) fn deltas(origin: NodeId, after: Timestamp, up_to: Timestamp) -> Span {
    let key = |at: Timestamp| delta(Stamp { at, origin });
    Span { start: key(after.next()), end: key(up_to).successor() }
}

/// The stamp in a delta's key.
pub(crate) fn delta_stamp(key: &[u8]) -> Option<Stamp> {
    let origin = NodeId(number(key.get(4..12)?)?);
    Some(Stamp { origin, at: Timestamp(number(key.get(12..20)?)?) })
}

pub(crate) fn conflict(row: &Key, column: ColumnId, lost: Stamp) -> Key {
    let (column, at, origin) = (column.0.to_be_bytes(), lost.at.0.to_be_bytes(), lost.origin.0.to_be_bytes());
    Book::Conflict.with(&[row, &column, &at, &origin])
}

/// Where a conflict is noted by the time it was noticed.
pub(crate) fn noticed_at(at: Timestamp, conflict: &Key) -> Key {
    Book::Noticed.with(&[&at.0.to_be_bytes(), conflict.get(4..).unwrap_or_default()])
}

/// The notes of conflicts that were noticed before `before`.
pub(crate) fn noticed(before: Timestamp) -> Span {
    Span { start: Book::Noticed.span().start, end: Book::Noticed.with(&[&before.0.to_be_bytes()]) }
}

pub(crate) fn to_collect(stamp: Stamp, row: &Key) -> Key {
    Book::ToCollect.with(&[&stamp.at.0.to_be_bytes(), &stamp.origin.0.to_be_bytes(), row])
}

/// Stamp and row in a key of what is to be collected.
pub(crate) fn parse_to_collect(key: &[u8]) -> Option<(Stamp, Key)> {
    let at = Timestamp(number(key.get(4..12)?)?);
    let origin = NodeId(number(key.get(12..20)?)?);
    Some((Stamp { at, origin }, Key(Bytes::copy_from_slice(key.get(20..)?))))
}

pub(crate) fn departed(node: NodeId) -> Key {
    Book::Departed.with(&[&node.0.to_be_bytes()])
}

/// The node in a departed member's key, and its last delta that counts.
pub(crate) fn parse_departed(key: &[u8], value: &[u8]) -> Option<(NodeId, Timestamp)> {
    Some((NodeId(number(key.get(4..12)?)?), Timestamp(number(value)?)))
}

pub(crate) fn built(index: IndexId) -> Key {
    Book::Built.with(&[&index.0.to_be_bytes()])
}

/// The index in the key that says it is built.
pub(crate) fn parse_built(key: &[u8]) -> Option<IndexId> {
    Some(IndexId(u32::from_be_bytes(key.get(4..)?.try_into().ok()?)))
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

/// A value that a write lost to a concurrent one, as it is kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct StoredConflict {
    pub row: Key,
    pub lost: Lost,
    /// When this replica noticed
    pub noticed: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_what_they_are_of() {
        let stamp = Stamp { at: Timestamp(7), origin: NodeId(3) };
        assert_eq!(delta_stamp(&delta(stamp)), Some(stamp));
        let row = Key::from(vec![0x80, 0, 1, 2, 3]);
        assert_eq!(parse_to_collect(&to_collect(stamp, &row)), Some((stamp, row.clone())));
        let span = deltas(NodeId(3), Timestamp(6), Timestamp(7));
        assert!(span.contains(&delta(stamp)));
        assert!(!span.contains(&delta(Stamp { at: Timestamp(6), ..stamp })));
        assert!(!span.contains(&delta(Stamp { at: Timestamp(8), ..stamp })));
        assert_eq!(traced(&polity_base::guarantee::merging_key(&row)), row);
        let table = Key::from([&[0x80, 0, 0x40, 0], &[1u8][..]].concat());
        assert!(traces().contains(&polity_base::guarantee::merging_key(&table)));
        assert!(!traces().contains(&vector()) && !traces().contains(&delta(stamp)));
        assert!(Book::Delta.span().contains(&delta(stamp)) && !Book::Conflict.span().contains(&delta(stamp)));
    }
}
