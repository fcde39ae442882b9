//! What a replica must know of the catalog, which is of a floor above.

use bytes::Bytes;
use polity_base::{IndexId, Key};

/// What the catalog on this node says of eventual tables. It may be behind, and
/// answers for tables it does not know yet as for such without indexes.
pub trait Schema: Send + Sync + 'static {
    /// The entries of the secondary indexes for the visible row at `key`: keys and
    /// values. Entries of indexes that are still being built are among them.
    fn entries(&self, key: &Key, row: &Bytes) -> Vec<(Key, Bytes)>;

    /// The storages of the secondary indexes, each with that of its table's rows, in this
    /// order. The replica builds those that it has not built.
    fn indexes(&self) -> Vec<(IndexId, IndexId)>;

    /// Whether the storage, of rows or of index entries, was dropped: nothing is
    /// kept for it any more, and nobody reads it.
    fn is_dropped(&self, storage: IndexId) -> bool;
}

/// A catalog without secondary indexes.
pub struct NoIndexes;

impl Schema for NoIndexes {
    fn entries(&self, _: &Key, _: &Bytes) -> Vec<(Key, Bytes)> {
        Vec::new()
    }

    fn indexes(&self) -> Vec<(IndexId, IndexId)> {
        Vec::new()
    }

    fn is_dropped(&self, _: IndexId) -> bool {
        false
    }
}
