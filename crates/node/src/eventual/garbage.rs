//! Finds out which eventual tables and indexes were dropped, so that the replica gives
//! back their space.
//!
//! Each node clears its own replica: what is dropped is told by the leader's catalog,
//! never by the mere absence of a name here ([`LocalCatalog`]).

use std::sync::Arc;
use std::time::Duration;

use polity_txn::Database;
use tokio::sync::watch;

use super::LocalCatalog;

/// How often the leader is asked about storages that nobody here knows, at most.
const EVERY: Duration = Duration::from_secs(60);

/// Has the catalog's suspicions confirmed until `stop` turns true.
pub(crate) async fn confirm(catalog: Arc<LocalCatalog>, database: Database, mut stop: watch::Receiver<bool>) {
    let every = EVERY.min(catalog.retention() / 2).max(Duration::from_millis(10));
    loop {
        let confirmed = async {
            tokio::time::sleep(every).await;
            catalog.confirm(&database).await
        };
        let confirmed = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            confirmed = confirmed => confirmed,
        };
        // Suspicions stay until somebody has answered.
        if let Err(why) = confirmed {
            tracing::debug!(%why, "nobody could say which eventual tables were dropped");
        }
    }
}
