//! A ledger's storage in memory: for tests, and for simulated worlds.
//!
//! It keeps all versions. A crash may take from it what is applied, as far as entries
//! bring it back; what was appended stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use polity_base::{Key, Span};

use super::{Storage, View, Views, Visit, Writes};
use crate::ledger::error::Error;

type Versions = BTreeMap<Key, Vec<(u64, Option<Bytes>)>>;

/// The storage.
#[derive(Default)]
pub struct MemoryStorage {
    entries: Vec<Bytes>,
    forgotten: u64,
    applied: u64,
    views: MemoryViews,
}

/// Where states are seen.
#[derive(Clone, Default)]
pub struct MemoryViews {
    shared: Arc<RwLock<Shared>>,
}

#[derive(Default)]
struct Shared {
    rows: Arc<Versions>,
    newest: u64,
    /// The first time that can be read
    horizon: u64,
}

impl MemoryStorage {
    /// An empty storage.
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }

    /// The storage as a restart finds it whose last checkpoint was before everything:
    /// only its entries are left. If some are forgotten already, what is applied was
    /// durable.
    pub fn restart(self) -> MemoryStorage {
        match self.forgotten {
            0 => MemoryStorage { entries: self.entries, ..MemoryStorage::default() },
            _ => self,
        }
    }

    /// Another storage that holds the same.
    pub fn copy(&self) -> MemoryStorage {
        let shared = self.views.shared.read();
        let shared = Shared { rows: shared.rows.clone(), newest: shared.newest, horizon: shared.horizon };
        MemoryStorage {
            entries: self.entries.clone(),
            forgotten: self.forgotten,
            applied: self.applied,
            views: MemoryViews { shared: Arc::new(RwLock::new(shared)) },
        }
    }
}

impl Views for MemoryViews {
    type View = MemoryView;

    fn now(&self) -> Result<MemoryView, Error> {
        let shared = self.shared.read();
        Ok(MemoryView { rows: shared.rows.clone(), at: shared.newest })
    }

    fn at(&self, time_ms: u64) -> Result<Option<MemoryView>, Error> {
        let shared = self.shared.read();
        Ok((time_ms >= shared.horizon).then(|| MemoryView { rows: shared.rows.clone(), at: time_ms }))
    }
}

impl Storage for MemoryStorage {
    type Views = MemoryViews;

    fn views(&self) -> &MemoryViews {
        &self.views
    }

    fn append(&mut self, entry: Bytes) -> Result<(), Error> {
        self.entries.push(entry);
        Ok(())
    }

    fn apply(&mut self, time_ms: u64, writes: Writes, whole: bool) -> Result<(), Error> {
        let mut shared = self.views.shared.write();
        if whole {
            shared.rows = Arc::default();
            shared.horizon = time_ms;
        }
        let rows = Arc::make_mut(&mut shared.rows);
        for (key, value) in writes {
            rows.entry(key).or_default().push((time_ms, value));
        }
        shared.newest = time_ms;
        self.applied += 1;
        Ok(())
    }

    fn unapplied(&self) -> Result<Option<Bytes>, Error> {
        let place = self.applied.saturating_sub(self.forgotten);
        Ok(self.entries.get(place as usize).cloned())
    }

    fn entry(&self, back: u64) -> Result<Option<Bytes>, Error> {
        let place = (self.entries.len() as u64).checked_sub(back.saturating_add(1));
        Ok(place.and_then(|place| self.entries.get(place as usize)).cloned())
    }

    fn entries(&self) -> u64 {
        self.entries.len() as u64
    }

    fn forget(&mut self, keep: u64) {
        let gone = (self.entries.len() as u64).saturating_sub(keep);
        self.entries.drain(..gone as usize);
        self.forgotten += gone;
    }
}

/// A state in memory.
#[derive(Clone)]
pub struct MemoryView {
    rows: Arc<Versions>,
    at: u64,
}

impl MemoryView {
    fn visible<'a>(&self, versions: &'a [(u64, Option<Bytes>)]) -> Option<&'a Bytes> {
        let visible = versions.partition_point(|(time, _)| *time <= self.at);
        versions.get(visible.checked_sub(1)?)?.1.as_ref()
    }
}

impl View for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(self.rows.get(key).and_then(|versions| self.visible(versions)).cloned())
    }

    fn scan(&self, span: &Span, visit: Visit) -> Result<(), Error> {
        if span.is_empty() {
            return Ok(());
        }
        for (key, versions) in self.rows.range(span.start.clone()..span.end.clone()) {
            if let Some(value) = self.visible(versions)
                && visit(key, value).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    fn keys(&self, span: &Span, most: usize) -> Result<Vec<Key>, Error> {
        if span.is_empty() {
            return Ok(Vec::new());
        }
        let written = |versions: &[(u64, Option<Bytes>)]| versions.first().is_some_and(|(time, _)| *time <= self.at);
        let all = self.rows.range(span.start.clone()..span.end.clone());
        Ok(all.filter(|(_, versions)| written(versions)).map(|(key, _)| key.clone()).take(most).collect())
    }

    fn versions(&self, key: &[u8]) -> Result<Vec<(u64, Option<Bytes>)>, Error> {
        let versions = self.rows.get(key).into_iter().flatten().rev();
        Ok(versions.filter(|(time, _)| *time <= self.at).cloned().collect())
    }
}
