//! What the replica must know of the catalog: which indexes there are, and which
//! storages nobody reads any more.
//!
//! Rows may arrive before the catalog that names their table: they spread without the
//! leader, the catalog through it. So a storage that the catalog here does not name is
//! not dropped yet, it is *suspect*. Once the leader has confirmed a catalog that is
//! newer than the suspicion and does not name it either, it is: a table is in the catalog
//! before its first row is anywhere, and numbers of storages are not used again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use polity_base::{Guarantee, IndexId, Key};
use polity_crdt::Schema;
use polity_sql::catalog::{Catalog, CatalogCache, Table, rows, store};
use polity_txn::{Database, TransactionOptions};
use tokio::time::Instant;

/// So old what was read of the catalog may be. Everything is answered from what was read
/// last, so that an index which the replica was told of gets the entries of all rows that
/// are written afterwards.
const FRESH: Duration = Duration::from_millis(20);

/// The catalog as this node's copy of the strong range has it.
pub(crate) struct LocalCatalog {
    /// Read without asking anyone
    database: Database,
    cache: CatalogCache,
    known: Mutex<Option<Known>>,
    /// Storages with rows that no catalog here has named
    suspect: Mutex<BTreeSet<IndexId>>,
    /// Storages that no catalog will name any more, and since when that is known
    dropped: Mutex<BTreeMap<IndexId, Instant>>,
    retention: Duration,
}

/// What was read of the catalog last.
#[derive(Clone)]
struct Known {
    at: Instant,
    version: u64,
    eventual: Arc<Eventual>,
}

/// The eventual tables of a catalog.
struct Eventual {
    /// By the storage of their rows
    tables: BTreeMap<IndexId, Arc<Table>>,
    /// The storages of rows and index entries
    storages: BTreeSet<IndexId>,
}

impl Eventual {
    fn of(catalog: &Catalog) -> Eventual {
        let tables = catalog.tables.values().filter(|t| t.guarantee == Guarantee::Eventual);
        let tables: BTreeMap<_, _> = tables.map(|t| (t.primary.storage, t.clone())).collect();
        let indexes = tables.values().flat_map(|t| t.indexes.iter().map(|i| i.storage));
        let storages = tables.keys().copied().chain(indexes).collect();
        Eventual { tables, storages }
    }
}

impl LocalCatalog {
    /// The catalog that `database` holds. What was dropped may be read for `retention`
    /// afterwards.
    pub fn new(database: Database, retention: Duration) -> LocalCatalog {
        let cache = CatalogCache::new(database.clone());
        let (known, suspect, dropped) = (Mutex::default(), Mutex::default(), Mutex::default());
        LocalCatalog { cache, database, known, suspect, dropped, retention }
    }

    /// For how long what was dropped may still be read.
    pub fn retention(&self) -> Duration {
        self.retention
    }

    /// The storages of the rows of all eventual tables; none while this node has no
    /// catalog.
    pub fn tables(&self) -> Option<Vec<IndexId>> {
        Some(self.now()?.tables.keys().copied().collect())
    }

    fn now(&self) -> Option<Arc<Eventual>> {
        let mut known = self.known.lock();
        if known.as_ref().is_none_or(|known| known.at.elapsed() >= FRESH)
            && let Some(catalog) = self.read()
        {
            let eventual = match known.take() {
                Some(before) if before.version == catalog.version => before.eventual,
                _ => Arc::new(Eventual::of(&catalog)),
            };
            *known = Some(Known { at: Instant::now(), version: catalog.version, eventual });
        }
        // What was read before is better than nothing.
        known.as_ref().map(|known| known.eventual.clone())
    }

    /// What this node holds, which is there without waiting.
    fn read(&self) -> Option<Arc<Catalog>> {
        let view = store::local(&self.database).now_or_never()?.ok()?;
        self.cache.at(&view).ok()
    }

    /// Takes note of a storage that is in use here, if no catalog here names it.
    fn suspect(&self, storage: IndexId) {
        if self.now().is_some_and(|now| !now.storages.contains(&storage)) {
            self.suspect.lock().insert(storage);
        }
    }

    /// Has suspicions confirmed by the leader.
    pub async fn confirm(&self, database: &Database) -> polity_sql::Result<()> {
        let suspect = self.suspect.lock().clone();
        if suspect.is_empty() {
            return Ok(());
        }
        let there = self.confirmed(database).await?;
        let mut dropped = self.dropped.lock();
        for storage in suspect.difference(&there.storages) {
            dropped.entry(*storage).or_insert_with(Instant::now);
        }
        self.suspect.lock().retain(|storage| !suspect.contains(storage));
        Ok(())
    }

    /// The newest catalog there is.
    async fn confirmed(&self, database: &Database) -> polity_sql::Result<Eventual> {
        let mut transaction = database.begin(TransactionOptions::default()).await?;
        transaction.begin_statement().await?;
        Ok(Eventual::of(&*self.cache.at(&transaction.view())?))
    }
}

impl Schema for LocalCatalog {
    fn entries(&self, key: &Key, row: &Bytes) -> Vec<(Key, Bytes)> {
        let storage = key.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let (Some(eventual), Some(storage)) = (self.now(), storage) else { return Vec::new() };
        let table = eventual.tables.get(&IndexId(storage)).filter(|table| !table.indexes.is_empty());
        let Some(table) = table else { return Vec::new() };
        let entries = || {
            let values = rows::load(table, row)?;
            table.indexes.iter().map(|index| rows::index_entry(table, index, &values, key)).collect()
        };
        let entries: polity_sql::Result<Vec<_>> = entries();
        entries.unwrap_or_else(|error| {
            tracing::error!(table = table.name, %error, "a row has no index entries");
            Vec::new()
        })
    }

    fn indexes(&self) -> Vec<(IndexId, IndexId)> {
        let Some(eventual) = self.now() else { return Vec::new() };
        let of = |table: &Arc<Table>| table.indexes.iter().map(|i| (i.storage, table.primary.storage)).collect();
        eventual.tables.values().flat_map::<Vec<_>, _>(of).collect()
    }

    fn is_dropped(&self, storage: IndexId) -> bool {
        if let Some(since) = self.dropped.lock().get(&storage) {
            return since.elapsed() >= self.retention;
        }
        self.suspect(storage);
        false
    }
}
