//! Storages made in the running transaction.
//!
//! Nobody else can see the rows of a storage before the catalog change that
//! mentions it commits. So a transaction may fill one past its own batch, in
//! chunks ([`polity_txn::Database::write_direct`]): a million rows never sit in
//! one batch. Should the transaction roll back, the rows are garbage that
//! [`crate::ddl::garbage`] finds.
//!
//! Rows written so cannot be taken back one by one, so a storage is fresh only
//! until the next savepoint: the session clears the set there, as PostgreSQL
//! forgets its `rd_createSubid`. And the writer's snapshot is older than its
//! rows: [`Filler::finish`] moves it forward.

use bytes::Bytes;
use polity_base::{Key, Operation};
use polity_txn::Database;

use crate::error::Result;
use crate::session::Context;

/// Bytes written in one batch.
const CHUNK_BYTES: usize = 8 << 20;
/// Rows written in one batch.
const CHUNK_ROWS: usize = 20_000;

/// Writes many rows into fresh storages, chunk by chunk.
pub struct Filler {
    database: Database,
    operations: Vec<Operation>,
    bytes: usize,
    /// The chunk before, on its way: one is prepared while one is written.
    running: Option<tokio::task::JoinHandle<std::result::Result<polity_base::Timestamp, polity_txn::Error>>>,
}

impl Filler {
    /// Begins to fill.
    pub fn new(database: Database) -> Filler {
        Filler { database, operations: Vec::new(), bytes: 0, running: None }
    }

    /// Writes one row or entry. The key must be new.
    pub async fn put(&mut self, key: Key, value: Bytes) -> Result<()> {
        self.bytes += key.len() + value.len();
        self.operations.push(Operation::Put { key, value });
        if self.bytes >= CHUNK_BYTES || self.operations.len() >= CHUNK_ROWS {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.settle().await?;
        self.bytes = 0;
        let operations = std::mem::take(&mut self.operations);
        if !operations.is_empty() {
            let database = self.database.clone();
            self.running = Some(tokio::spawn(async move { database.write_direct(operations).await }));
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.await.map_err(crate::Error::internal)??;
        }
        Ok(())
    }

    /// Writes what is left and moves the transaction's snapshot forward, and its
    /// catalog with it, so that it sees what was written.
    pub async fn finish(mut self, ctx: &mut Context<'_>) -> Result<()> {
        self.flush().await?;
        self.settle().await?;
        ctx.txn.advance().await?;
        // Others may have changed other tables up to there.
        *ctx.catalog = std::sync::Arc::new(super::store::load(&ctx.txn.view())?);
        Ok(())
    }
}
