//! The visible rows of the eventual tables, in one number.
//!
//! What merging remembers, the commit timestamps and the index entries are each replica's
//! own and no part of it: replicas that have applied the same writes have the same digest.

use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use polity_base::Span;
use polity_crdt::Replica;

use super::catalog::LocalCatalog;
use crate::admin::protocol::EventualDigest;

/// Rows that are read at a time, and their bytes.
const CHUNK: usize = 1024;
const CHUNK_BYTES: usize = 1 << 20;

/// The digest of what `replica` shows now.
pub(crate) async fn digest(replica: &Replica, catalog: Arc<LocalCatalog>) -> Result<EventualDigest, String> {
    replica.readable().map_err(|e| e.to_string())?;
    let replica = replica.clone();
    let read = move || read(&replica, &catalog);
    polity_store::blocking(read).await.map_err(|e| format!("its task failed: {e}"))?
}

fn read(replica: &Replica, catalog: &LocalCatalog) -> Result<EventualDigest, String> {
    let seen = replica.seen().map_err(|e| e.to_string())?;
    let tables = catalog.tables().ok_or("it has no catalog")?;
    let mut context = Context::new(&SHA256);
    let mut rows = 0;
    for storage in tables {
        let mut scan = seen.rows.scan(&Span::of_index(storage), seen.at).map_err(|e| e.to_string())?;
        loop {
            let chunk = scan.next_chunk(CHUNK, CHUNK_BYTES).map_err(|e| e.to_string())?;
            if chunk.is_empty() {
                break;
            }
            for (key, row) in chunk {
                rows += 1;
                for part in [&key[..], &row[..]] {
                    context.update(&(part.len() as u64).to_le_bytes());
                    context.update(part);
                }
            }
        }
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(context.finish().as_ref());
    Ok(EventualDigest { vector: seen.vector.to_token(), rows, sha256 })
}
