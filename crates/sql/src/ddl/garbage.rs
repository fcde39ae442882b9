//! Rows that nobody can reach any more: of dropped and truncated tables, of
//! rewritten ones, and of transactions that made a storage and rolled back.
//!
//! A storage is garbage when it holds keys, the newest catalog does not mention
//! it, and no running transaction has made it (it would hold the storage's lock).
//! That needs no records, so nothing can be forgotten in a crash. Readers of
//! older snapshots may still look into a dropped table: a storage is cleared only
//! after it has been garbage for the whole time that old snapshots are kept.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use polity_base::key::Direction;
use polity_base::{Guarantee, IndexId, Key, Operation, Span, Timestamp};
use polity_txn::{LockMode, Transaction, TransactionOptions, Wait};

use crate::catalog::{Catalog, store};
use crate::error::Result;
use crate::session::Engine;

/// Collects garbage; remembers since when each storage has been some.
#[derive(Default)]
pub struct Collector {
    seen: HashMap<IndexId, Timestamp>,
}

impl Collector {
    /// Looks for garbage and clears what has been some for `retention`: how long
    /// snapshots of the past can be read. Returns the cleared storages.
    pub async fn collect(&mut self, engine: &Engine, retention: Duration) -> Result<Vec<IndexId>> {
        let mut txn = begin(engine).await?;
        let garbage = garbage(&mut txn).await?;
        txn.rollback().await;
        self.seen.retain(|storage, _| garbage.contains(storage));
        // After a restart timestamps may stand still until the time of day has caught up.
        let now = engine.clock().reading().midpoint();
        let mut cleared = Vec::new();
        for storage in garbage {
            let since = *self.seen.entry(storage).or_insert(now);
            let age = Duration::from_nanos(now.0.saturating_sub(since.0));
            if age >= retention && clear(engine, storage).await? {
                self.seen.remove(&storage);
                cleared.push(storage);
            }
        }
        Ok(cleared)
    }
}

async fn begin(engine: &Engine) -> Result<Transaction> {
    let mut txn = engine.database().begin(TransactionOptions::default()).await?;
    txn.begin_statement().await?;
    Ok(txn)
}

/// Storages that hold keys and that the catalog does not mention. They are found
/// by stepping from the first key of one to the first key after it.
async fn garbage(txn: &mut Transaction) -> Result<HashSet<IndexId>> {
    let view = txn.view().untracked();
    let used = used(&store::load(&view)?);
    let mut found = HashSet::new();
    let mut from = store::FIRST_ID;
    loop {
        let start = Key::from(from.to_be_bytes().to_vec());
        // What is not strong, its own replicas clear.
        let end = Guarantee::Strong.span().end;
        let Some((key, _)) = view.scan(Span { start, end }, Direction::Ascending)?.next_chunk(1)?.pop() else {
            return Ok(found);
        };
        let id = key.get(..4).and_then(|b| b.try_into().ok()).map_or(u32::MAX, u32::from_be_bytes);
        if !used.contains(&IndexId(id)) {
            found.insert(IndexId(id));
        }
        let Some(next) = id.checked_add(1) else { return Ok(found) };
        from = next;
        tokio::task::yield_now().await;
    }
}

fn used(catalog: &Catalog) -> HashSet<IndexId> {
    let tables = catalog.tables.values();
    let storages = tables.flat_map(|t| std::iter::once(t.primary.storage).chain(t.indexes.iter().map(|i| i.storage)));
    storages.chain(catalog.sequences.values().map(|s| s.storage)).collect()
}

/// Clears a storage, unless it is in use after all or a transaction that may yet commit has made it.
async fn clear(engine: &Engine, storage: IndexId) -> Result<bool> {
    let mut txn = begin(engine).await?;
    let free = txn.lock(&store::storage_key(storage), LockMode::Exclusive, Wait::NoWait).await;
    if let Err(polity_txn::Error::LockNotAvailable { .. }) = free {
        return Ok(false);
    }
    free?;
    // Its maker is gone; perhaps it committed.
    txn.advance().await?;
    if used(&store::load(&txn.view().untracked())?).contains(&storage) {
        return Ok(false);
    }
    // Locks may be lost. Whatever brought the storage into use since would have
    // changed the catalog's version; and whoever would do it later finds that the
    // storage's key was written.
    let clear = Operation::Clear { span: Span::of_index(storage) };
    let mark = Operation::Delete { key: store::storage_key(storage) };
    let cleared =
        engine.database().write_unless_changed(store::version_span(), txn.read_at(), vec![clear, mark]).await?;
    txn.rollback().await;
    Ok(cleared)
}
