//! Removing versions that nobody reads any more.
//!
//! The *horizon* is the oldest timestamp that can be read, of each guarantee its own.
//! Versions that were
//! superseded at or before it are invisible and go, as do deletions at or before
//! it; the work list is in redb's `garbage`, written by checkpoints in the order of
//! time. The horizon never passes a pin, nor what the retention period protects.
//!
//! Collection is local. What readers at or after the horizon see does not change,
//! so replicas may collect at different times.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use polity_base::{Guarantee, Timestamp};
use redb::{ReadableDatabase, ReadableTable, Table, WriteTransaction};

use crate::error::Error;
use crate::state::backend::Failure;
use crate::state::flush::superseded;
use crate::state::lanes::Lanes;
use crate::state::reader::{Base, View};
use crate::state::tables::{self, ROWS, garbage, put_horizons};
use crate::state::version::{VersionedKey, join, split, unwrap};
use crate::state::{State, from_redb};

/// What a collection did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// How many versions were removed
    pub versions: u64,
    /// Whether more can be removed up to the same time
    pub more: bool,
}

/// Timestamps that must stay readable.
pub(super) struct Pins {
    held: Lanes<BTreeMap<Timestamp, usize>>,
    horizons: Lanes<Timestamp>,
}

impl Pins {
    pub fn new(horizons: Lanes<Timestamp>) -> Pins {
        Pins { held: Lanes::default(), horizons }
    }

    pub fn horizons(&self) -> Lanes<Timestamp> {
        self.horizons
    }

    /// Moves the horizon of `guarantee` to `target` at least, whatever is pinned.
    pub fn raise(&mut self, guarantee: Guarantee, target: Timestamp) -> Lanes<Timestamp> {
        self.horizons[guarantee] = target.max(self.horizons[guarantee]);
        self.horizons
    }

    /// Moves the horizon of `guarantee` towards `target`, as far as pins allow.
    fn advance(&mut self, guarantee: Guarantee, target: Timestamp) {
        let oldest = self.held[guarantee].keys().next().copied().unwrap_or(Timestamp::MAX);
        self.raise(guarantee, target.min(oldest));
    }
}

/// Keeps a timestamp readable until it is dropped.
pub struct Pin {
    guarantee: Guarantee,
    at: Timestamp,
    pins: Arc<Mutex<Pins>>,
}

impl Pin {
    /// The timestamp.
    pub fn at(&self) -> Timestamp {
        self.at
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        let held = &mut pins.held[self.guarantee];
        if let Some(count) = held.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.at);
            }
        }
    }
}

impl State {
    /// Keeps what keys of `guarantee` were at `at` readable until the pin is dropped,
    /// however long that takes.
    ///
    /// # Errors
    /// [`Error::TooOld`] if `at` is before the horizon.
    pub fn pin(&self, guarantee: Guarantee, at: Timestamp) -> Result<Pin, Error> {
        let mut pins = self.pins.lock();
        let horizon = pins.horizons[guarantee];
        if at < horizon {
            return Err(Error::TooOld { at, horizon });
        }
        *pins.held[guarantee].entry(at).or_default() += 1;
        Ok(Pin { guarantee, at, pins: self.pins.clone() })
    }

    /// Removes versions that no read at or after `older_than` sees, or as many of
    /// them as `budget` versions of each guarantee take; pins and the retention period keep what they
    /// protect. Blocks; readers and whoever applies do not wait for it. Versions
    /// that are not in redb yet are not removed: call it after a checkpoint.
    pub fn collect(&self, older_than: Timestamp, budget: usize) -> Result<Collected, Error> {
        let _one = self.flusher.lock();
        self.check()?;
        let retention = u64::try_from(self.options.retention.as_nanos()).unwrap_or(u64::MAX);
        let newest = self.snapshot()?.visible;
        let (before, horizons) = {
            let mut pins = self.pins.lock();
            let before = pins.horizons();
            for guarantee in Guarantee::ALL {
                pins.advance(guarantee, older_than.min(newest[guarantee].minus_nanos(retention)));
            }
            (before, pins.horizons())
        };
        let failure = &self.failure;
        if !self.has_garbage(horizons)? {
            if before != horizons {
                self.publish(tables::base(&self.db, failure, horizons)?);
            }
            return Ok(Collected::default());
        }
        let collected = tables::write(&self.db, failure, |transaction| {
            let mut collected = Collected::default();
            for guarantee in Guarantee::ALL {
                let some = sweep(transaction, failure, (guarantee, horizons[guarantee]), budget)?;
                collected.versions += some.versions;
                collected.more |= some.more;
            }
            put_horizons(transaction, failure, horizons)?;
            Ok(collected)
        });
        let done = collected.and_then(|c| Ok((c, tables::base(&self.db, failure, horizons)?)));
        let (collected, base) = done.map_err(|e| self.poison(e))?;
        self.publish(base);
        Ok(collected)
    }

    /// Whether the oldest garbage may go.
    fn has_garbage(&self, horizons: Lanes<Timestamp>) -> Result<bool, Error> {
        let failure = &self.failure;
        let transaction = self.db.begin_read().map_err(|e| from_redb(e, failure))?;
        for guarantee in Guarantee::ALL {
            let garbage = match transaction.open_table(garbage(guarantee)) {
                Err(redb::TableError::TableDoesNotExist(_)) => continue,
                garbage => garbage.map_err(|e| from_redb(e, failure))?,
            };
            let first = garbage.first().map_err(|e| from_redb(e, failure))?;
            if first.is_some_and(|(key, _)| key.value().0 <= horizons[guarantee].0) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn publish(&self, base: Base) {
        let mut view = self.view.write();
        *view = Arc::new(View {
            base: Arc::new(base),
            frozen: view.frozen.clone(),
            active: view.active.clone(),
            clears: view.clears.clone(),
        });
    }
}

/// Works through the garbage of a guarantee up to its horizon.
fn sweep(
    transaction: &WriteTransaction,
    failure: &Failure,
    (guarantee, horizon): (Guarantee, Timestamp),
    budget: usize,
) -> Result<Collected, Error> {
    let mut garbage = transaction.open_table(garbage(guarantee)).map_err(|e| from_redb(e, failure))?;
    let mut collected = Collected::default();
    let mut looked_at = 0;
    // In key order, since neighbours lie on the same page; of several versions of
    // a key the last one that superseded others makes all before it go.
    let mut keys: BTreeMap<Vec<u8>, Timestamp> = BTreeMap::new();
    loop {
        let first = garbage.first().map_err(|e| from_redb(e, failure))?;
        let first = first.map(|(place, chunk)| (place.value(), chunk.value().to_vec()));
        let Some((place, chunk)) = first.filter(|(place, _)| place.0 <= horizon.0) else { break };
        if looked_at >= budget {
            collected.more = true;
            break;
        }
        for (key, at) in superseded(&chunk)? {
            looked_at += 1;
            keys.insert(key.to_vec(), at);
        }
        garbage.remove(place).map_err(|e| from_redb(e, failure))?;
    }
    let mut rows = transaction.open_table(ROWS).map_err(|e| from_redb(e, failure))?;
    for (key, at) in keys {
        collected.versions += remove(&mut rows, &key, at, failure)?;
    }
    Ok(collected)
}

/// Removes the versions of `key` before `at`, and the one at `at` if it says
/// "deleted". How many there were.
fn remove(
    rows: &mut Table<'_, VersionedKey, &'static [u8]>,
    key: &[u8],
    at: Timestamp,
    failure: &Failure,
) -> Result<u64, Error> {
    let (mut from, mut to) = (Vec::new(), Vec::new());
    let (from, to): (&[u8], &[u8]) = (join(key, at, &mut from), join(key, Timestamp::ZERO, &mut to));
    let mut removed = 0;
    let kept = |stored: &[u8], value: &[u8]| {
        let keep = split(stored).1 == at && unwrap(value).is_some();
        removed += u64::from(!keep);
        keep
    };
    rows.retain_in::<&[u8], _>(from..=to, kept).map_err(|e| from_redb(e, failure))?;
    Ok(removed)
}
