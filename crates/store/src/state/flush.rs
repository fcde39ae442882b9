//! The rows of a layer on their way into redb.
//!
//! While they pass by, in key order, it is noted which of them supersede others:
//! that is the work list of collection, in the order of time. And rows are counted.
//!
//! ```text
//! garbage row = (timestamp u64, key length u32, key)*
//! ```

use std::ops::Bound;

use bytes::Bytes;
use polity_base::{Guarantee, Key, Timestamp};
use redb::{ReadableTable, Table, WriteTransaction};

use crate::error::Error;
use crate::state::layer::{Rows, Versions, is_cleared};
use crate::state::stats::Stats;
use crate::state::tables::{ROWS, clear_rows, garbage, unreadable};
use crate::state::version::{VersionedKey, join, split, unwrap, wrap};
use crate::state::{State, from_redb};

/// A row of garbage is full at this many bytes.
const GARBAGE_CHUNK: usize = 16 << 10;

/// The entries of a row of garbage.
pub(super) fn superseded(mut chunk: &[u8]) -> Result<Vec<(&[u8], Timestamp)>, Error> {
    let mut next = || {
        let (at, rest) = chunk.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        chunk = rest;
        Some((key, Timestamp(u64::from_le_bytes(*at))))
    };
    let entries: Vec<_> = std::iter::from_fn(&mut next).collect();
    if chunk.is_empty() { Ok(entries) } else { Err(unreadable()) }
}

/// A layer on its way into redb.
pub(super) struct Flush<'a> {
    state: &'a State,
    transaction: &'a WriteTransaction,
    rows: Table<'a, VersionedKey, &'static [u8]>,
    stats: &'a mut Stats,
    /// Keys with versions that another one superseded, and when it did
    superseded: Vec<(Timestamp, Key)>,
    ahead: Ahead,
}

/// What is known of the keys that redb has from the current one on.
enum Ahead {
    Unknown,
    /// The next one
    Key(Vec<u8>),
    /// There are none
    End,
}

impl<'a> Flush<'a> {
    pub fn new(
        state: &'a State,
        transaction: &'a WriteTransaction,
        content: &Rows,
        stats: &'a mut Stats,
    ) -> Result<Flush<'a>, Error> {
        let rows = transaction.open_table(ROWS).map_err(|e| from_redb(e, &state.failure))?;
        let mut flush = Flush { state, transaction, rows, stats, superseded: Vec::new(), ahead: Ahead::Unknown };
        for cleared in &content.clears {
            // All that redb has there is older than a clear that is in a layer.
            clear_rows(&mut flush.rows, &cleared.span, flush.stats, &state.failure)?;
        }
        Ok(flush)
    }

    /// Writes the layer's versions; how many there were.
    pub fn run(mut self, content: &Rows) -> Result<u64, Error> {
        let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
        let mut count = 0;
        for (key, versions) in content.iter() {
            let before = self.newest(key)?;
            self.note(key, versions, before.is_some());
            let (at, newest) = versions.newest();
            let newest = newest.as_ref().filter(|_| !is_cleared(&content.clears, key, *at));
            self.stats.change(key, before.flatten(), newest.map(Bytes::len));
            for (at, value) in versions.iter() {
                if is_cleared(&content.clears, key, *at) {
                    continue;
                }
                let stored = wrap(value.as_deref(), &mut value_bytes);
                let inserted = self.rows.insert(join(key, *at, &mut key_bytes), stored);
                inserted.map_err(|e| from_redb(e, &self.state.failure))?;
                count += 1;
            }
        }
        self.superseded.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        for guarantee in Guarantee::ALL {
            self.write_garbage(guarantee)?;
        }
        Ok(count)
    }

    /// Whether redb has versions of `key`, and the size of its row if it has one.
    /// Keys are asked for in order.
    #[allow(clippy::option_option)]
    fn newest(&mut self, key: &[u8]) -> Result<Option<Option<usize>>, Error> {
        match &self.ahead {
            Ahead::End => return Ok(None),
            Ahead::Key(next) if &**next > key => return Ok(None),
            _ => {}
        }
        let mut bytes = Vec::new();
        let from: Bound<&[u8]> = Bound::Included(join(key, Timestamp::MAX, &mut bytes));
        let failure = &self.state.failure;
        let mut cursor = self.rows.lower_bound(from).map_err(|e| from_redb(e, failure))?;
        let Some((stored, value)) = cursor.next().map_err(|e| from_redb(e, failure))? else {
            self.ahead = Ahead::End;
            return Ok(None);
        };
        let (found, _) = split(stored.value());
        if found == key {
            return Ok(Some(unwrap(value.value()).map(<[u8]>::len)));
        }
        self.ahead = Ahead::Key(found.to_vec());
        Ok(None)
    }

    fn note(&mut self, key: &Key, versions: &Versions, has_older: bool) {
        let mut versions = versions.iter().peekable();
        while let Some((at, value)) = versions.next() {
            // A deletion supersedes itself as soon as nobody reads before it.
            if value.is_none() || versions.peek().is_some() || has_older {
                self.superseded.push((*at, key.clone()));
            }
        }
    }

    fn write_garbage(&self, guarantee: Guarantee) -> Result<(), Error> {
        let failure = &self.state.failure;
        let mut garbage = self.transaction.open_table(garbage(guarantee)).map_err(|e| from_redb(e, failure))?;
        let mut chunk = Vec::with_capacity(GARBAGE_CHUNK * 2);
        let mut number = 0;
        let entries = self.superseded.iter().filter(|(_, key)| Guarantee::of_key(key) == guarantee);
        let mut entries = entries.peekable();
        while let Some((at, key)) = entries.next() {
            chunk.extend_from_slice(&at.0.to_le_bytes());
            chunk.extend_from_slice(&(key.len() as u32).to_le_bytes());
            chunk.extend_from_slice(key);
            if chunk.len() >= GARBAGE_CHUNK || entries.peek().is_none() {
                // Numbered, since one timestamp may fill several chunks, also of
                // different checkpoints when there are several groups of the guarantee.
                while garbage.get((at.0, number)).map_err(|e| from_redb(e, failure))?.is_some() {
                    number += 1;
                }
                garbage.insert((at.0, number), &chunk[..]).map_err(|e| from_redb(e, failure))?;
                chunk.clear();
            }
        }
        Ok(())
    }
}
