//! Where a ledger's state is kept: a log of entries, and versions of keys that follow
//! from them.
//!
//! ```text
//!   entry ──append──▶ log (durable) ──the ledger applies it──▶ versions of keys
//! ```
//! The log is the durability: versions that a crash took are made again from the entries
//! after the last that is applied. An entry is applied by one call, all of it or nothing;
//! versions carry the time of their block, which grows from block to block.
//!
//! [`memory`] is for tests and simulation, [`store`] is the node's shared log and state.

pub mod memory;
pub mod store;

use std::ops::ControlFlow;

use bytes::Bytes;
use polity_base::{Key, Span};

use super::error::Error;

/// What a block writes: keys, and what they have then.
pub type Writes = Vec<(Key, Option<Bytes>)>;

/// Where states are seen, while others come. Clones see the same.
pub trait Views: Clone + Send + Sync + 'static {
    /// One consistent state.
    type View: View;

    /// The state as of the newest entry that is applied.
    fn now(&self) -> Result<Self::View, Error>;

    /// The state as it was after the block of that time; none if versions of that time
    /// are not kept any more.
    fn at(&self, time_ms: u64) -> Result<Option<Self::View>, Error>;
}

/// A log and the versions that follow from it.
pub trait Storage: Send + 'static {
    /// Where its states are seen.
    type Views: Views;

    /// Where its states are seen.
    fn views(&self) -> &Self::Views;

    /// Appends an entry, which is durable when this returns.
    fn append(&mut self, entry: Bytes) -> Result<(), Error>;

    /// Applies the first entry that is not applied yet: what it writes, at its block's
    /// time, which is later than that of all before. If it is `whole`, nothing else is
    /// left in the ledger's keys.
    fn apply(&mut self, time_ms: u64, writes: Writes, whole: bool) -> Result<(), Error>;

    /// The first entry that is not applied yet.
    fn unapplied(&self) -> Result<Option<Bytes>, Error>;

    /// The entry so many before the newest one, if it is kept.
    fn entry(&self, back: u64) -> Result<Option<Bytes>, Error>;

    /// How many entries are kept.
    fn entries(&self) -> u64;

    /// Lets go of all but the newest `keep` entries, as far as they are not needed to
    /// recover the state.
    fn forget(&mut self, keep: u64);
}

/// Is shown a key and its value, and says whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// One consistent state. Clones are the same one.
pub trait View: Clone + Send {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error>;

    /// Shows `visit` the keys of a span and their values, in order, until it breaks.
    fn scan(&self, span: &Span, visit: Visit) -> Result<(), Error>;

    /// The first keys of a span that have a value, or had one as far back as is kept.
    fn keys(&self, span: &Span, most: usize) -> Result<Vec<Key>, Error>;

    /// What a key had, newest first, and the times of the blocks that wrote it: as far
    /// back as is kept.
    fn versions(&self, key: &[u8]) -> Result<Vec<(u64, Option<Bytes>)>, Error>;
}
