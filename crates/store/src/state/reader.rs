//! Reading: one consistent view of redb and the layers in memory.
//!
//! ```text
//!   active layer   |  newer
//!   frozen layer   |    |       a key's versions in an upper place are all
//!   redb           |  older     newer than those in a lower one
//! ```
//! A point read looks from the top down and stops at the first version that is
//! visible. Because every version carries its timestamp, a view stays what it is
//! although its active layer goes on growing: it reads nothing that was applied
//! after it was taken.
//!
//! A [`Reader`] keeps its layers in memory and its redb pages on disk from being
//! reused. Statements should take their own; what keeps *versions* from being
//! collected over a longer time is a pin (see `collect.rs`).

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use polity_base::key::Direction;
use polity_base::{Guarantee, Span, Timestamp};
use redb::{ReadOnlyTable, ReadableTable};

use crate::error::Error;
use crate::state::backend::Failure;
use crate::state::from_redb;
use crate::state::lanes::Lanes;
use crate::state::layer::{Cleared, Layer, is_cleared};
use crate::state::scan::Scan;
use crate::state::version::{VersionedKey, join, split, unwrap};

/// Rows as redb holds them.
pub(super) struct Base {
    pub rows: ReadOnlyTable<VersionedKey, &'static [u8]>,
    /// Versions that were superseded at or before this time may be gone.
    pub horizons: Lanes<Timestamp>,
    pub failure: Failure,
}

impl Base {
    /// The version of `key` that is visible at `at`.
    pub fn get(&self, key: &[u8], at: Timestamp) -> Result<Option<(Timestamp, Option<Bytes>)>, Error> {
        let mut bytes = Vec::new();
        let from: Bound<&[u8]> = Bound::Included(join(key, at, &mut bytes));
        let mut cursor = self.rows.lower_bound(from).map_err(|e| from_redb(e, &self.failure))?;
        let found = cursor.next().map_err(|e| from_redb(e, &self.failure))?;
        let Some((found, stored)) = found else { return Ok(None) };
        let (found, written) = split(found.value());
        Ok((found == key).then(|| (written, unwrap(stored.value()).map(Bytes::copy_from_slice))))
    }
}

/// Where rows are found.
pub(super) struct View {
    pub base: Arc<Base>,
    pub frozen: Option<Arc<Layer>>,
    pub active: Arc<Layer>,
    /// Spans cleared in the layers, which redb may still have rows in
    pub clears: Arc<[Cleared]>,
}

impl View {
    /// The version of `key` that is visible at `at`, also if it says "deleted".
    pub fn version(&self, key: &[u8], at: Timestamp) -> Result<Option<(Timestamp, Option<Bytes>)>, Error> {
        let found = match self.active.get(key, at) {
            Some(version) => Some(version),
            None => match self.frozen.as_ref().and_then(|frozen| frozen.get(key, at)) {
                Some(version) => Some(version),
                None => self.base.get(key, at)?,
            },
        };
        Ok(found.filter(|(written, _)| !is_cleared(&self.clears, key, *written)))
    }
}

/// A consistent view of the rows. Clones are the same view.
#[derive(Clone)]
pub struct Reader {
    pub(super) view: Arc<View>,
    pub(super) visible: Lanes<Timestamp>,
}

impl Reader {
    /// The newest timestamp at which keys of `guarantee` can be read.
    pub fn applied(&self, guarantee: Guarantee) -> Timestamp {
        self.visible[guarantee]
    }

    /// The oldest timestamp at which keys of `guarantee` can be read.
    pub fn horizon(&self, guarantee: Guarantee) -> Timestamp {
        self.view.base.horizons[guarantee]
    }

    /// Where to read for a read at `at`, by the first key: not later than what this
    /// view holds.
    fn clamp(&self, key: &[u8], at: Timestamp) -> Result<Timestamp, Error> {
        let guarantee = Guarantee::of_key(key);
        let horizon = self.horizon(guarantee);
        if at < horizon {
            return Err(Error::TooOld { at, horizon });
        }
        Ok(at.min(self.visible[guarantee]))
    }

    /// The row of `key` at `at`, and when it was written.
    ///
    /// # Errors
    /// [`Error::TooOld`] if `at` is before the horizon.
    pub fn get(&self, key: &[u8], at: Timestamp) -> Result<Option<(Bytes, Timestamp)>, Error> {
        let at = self.clamp(key, at)?;
        let found = self.view.version(key, at)?;
        Ok(found.and_then(|(written, row)| Some((row?, written))))
    }

    /// When `key` was last written or deleted; `None` if never, or if it was
    /// deleted so long ago that no trace is left.
    pub fn last_write(&self, key: &[u8]) -> Result<Option<Timestamp>, Error> {
        Ok(self.view.version(key, self.visible[Guarantee::of_key(key)])?.map(|(written, _)| written))
    }

    /// The version of `key` that is visible at `at`, which may say that it was deleted,
    /// and when it was written. `None` if there was none yet, or no trace is left.
    ///
    /// # Errors
    /// [`Error::TooOld`] if `at` is before the horizon.
    pub fn version(&self, key: &[u8], at: Timestamp) -> Result<Option<(Timestamp, Option<Bytes>)>, Error> {
        let at = self.clamp(key, at)?;
        self.view.version(key, at)
    }

    /// The rows of `span`, whose keys are of one guarantee, at `at`, in key order.
    ///
    /// # Errors
    /// [`Error::TooOld`] if `at` is before the horizon.
    pub fn scan(&self, span: &Span, at: Timestamp) -> Result<Scan, Error> {
        self.scan_directed(span, at, Direction::Ascending)
    }

    /// The rows of `span` at `at`, last key first.
    ///
    /// # Errors
    /// [`Error::TooOld`] if `at` is before the horizon.
    pub fn scan_rev(&self, span: &Span, at: Timestamp) -> Result<Scan, Error> {
        self.scan_directed(span, at, Direction::Descending)
    }

    /// The rows of `span` at `at` in the given direction.
    ///
    /// # Errors
    /// [`Error::TooOld`] if `at` is before the horizon.
    pub fn scan_directed(&self, span: &Span, at: Timestamp, direction: Direction) -> Result<Scan, Error> {
        let at = self.clamp(&span.start, at)?;
        Scan::new(self.view.clone(), span.clone(), at, direction)
    }

    /// Shows `visit` the rows of `span` at `at` where they lie, in key order, until
    /// it breaks. The fastest way through many rows.
    ///
    /// # Errors
    /// [`Error::TooOld`] if `at` is before the horizon.
    pub fn for_each(
        &self,
        span: &Span,
        at: Timestamp,
        mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.scan(span, at)?.drive(|key, _, row| visit(key, row))
    }
}
