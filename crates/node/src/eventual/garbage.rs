//! Gives back the space of eventual tables and indexes that were dropped.
//!
//! Each node clears its own replica: what is dropped is told by the leader's catalog,
//! never by the mere absence of a name here ([`LocalCatalog`]), and is cleared once no
//! snapshot shows it any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use polity_base::{Guarantee, IndexId, Key, Span};
use polity_crdt::Replica;
use polity_txn::Database;
use tokio::sync::watch;

use super::LocalCatalog;

/// How often storages are looked for that nobody can reach any more, at most.
const EVERY: Duration = Duration::from_secs(60);
/// The number of the first storage of a table.
const FIRST_TABLE: u32 = 16_384;

/// What is needed to clear what was dropped.
pub(crate) struct Garbage {
    pub replica: Replica,
    pub catalog: Arc<LocalCatalog>,
    pub database: Database,
    /// For how long what was dropped may still be read
    pub retention: Duration,
}

impl Garbage {
    /// Clears until `stop` turns true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut cleared = BTreeSet::new();
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(EVERY.min(self.retention / 2).max(Duration::from_millis(10))) => {}
            }
            let collected = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                collected = self.collect(&mut cleared) => collected,
            };
            // Found again next time: what is garbage is told by the rows alone.
            if let Err(why) = collected {
                tracing::debug!(why, "the space of dropped eventual tables could not be given back");
            }
        }
    }

    async fn collect(&self, cleared: &mut BTreeSet<IndexId>) -> Result<(), String> {
        let replica = self.replica.clone();
        let found = polity_store::blocking(move || stored(&replica)).await;
        let found = found.map_err(|e| format!("its task failed: {e}"))??;
        self.catalog.suspect(found.iter().copied());
        self.catalog.confirm(&self.database).await.map_err(|e| e.to_string())?;
        for storage in self.catalog.dropped_for(self.retention) {
            // Rows of it may have come again, from a node that did not know yet.
            if found.contains(&storage) || cleared.insert(storage) {
                self.replica.clear(storage).await.map_err(|e| e.to_string())?;
                tracing::info!(%storage, "the space of a dropped eventual table or index was given back");
            }
        }
        Ok(())
    }
}

/// The storages of rows and of index entries that hold something.
fn stored(replica: &Replica) -> Result<BTreeSet<IndexId>, String> {
    let seen = replica.seen().map_err(|e| e.to_string())?;
    let first = Guarantee::Eventual.storage(FIRST_TABLE);
    // What merging remembers lies behind them.
    let end = Key::from(first.merging().0.to_be_bytes().to_vec());
    let mut from = Key::from(first.0.to_be_bytes().to_vec());
    let mut found = BTreeSet::new();
    loop {
        let span = Span { start: from, end: end.clone() };
        let next = seen.rows.scan(&span, seen.at).and_then(|mut rows| rows.next()).map_err(|e| e.to_string())?;
        let storage = next.and_then(|(key, _)| key.get(..4)?.try_into().ok().map(u32::from_be_bytes));
        let Some(storage) = storage else { return Ok(found) };
        found.insert(IndexId(storage));
        from = Span::of_index(IndexId(storage)).end;
    }
}
