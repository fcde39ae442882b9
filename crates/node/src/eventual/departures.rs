//! What becomes of the shares of nodes that were removed for good, by whoever leads.
//!
//! ```text
//! removed        every member keeps to what it has of the node's writes; the leader asks
//!                them all, and the strong range records the last one and an heir
//! heir removed   another one, once all that the first wrote is here: then what it gave
//!                itself is seen, and is not given twice
//! ```
//! The record is written by a transaction that read what was there, so that there is one
//! heir at a time whatever leaders believe.

use std::sync::Arc;
use std::time::Duration;

use polity_base::NodeId;
use polity_crdt::Replica;
use polity_crdt::replica::Departure;
use polity_raft::Group;
use polity_store::state::State;
use polity_txn::{Database, Isolation, TransactionOptions};
use tokio::sync::watch;

use crate::admin::departure;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// After so many times it is said again what is waited for.
const SAY_EVERY: u32 = 60;

/// What is needed to settle departures.
pub(crate) struct Departures {
    pub node: NodeId,
    pub group: Group,
    pub state: Arc<State>,
    pub database: Database,
    pub replica: Replica,
}

impl Departures {
    /// Settles them while this node leads, until `stop` turns true.
    pub async fn run(self: Arc<Departures>, mut stop: watch::Receiver<bool>) {
        let mut failures = 0;
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            if !self.group.status().leads {
                continue;
            }
            let settled = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                settled = self.settle() => settled,
            };
            match settled {
                Ok(()) => failures = 0,
                Err(why) if failures % SAY_EVERY == 0 => {
                    tracing::warn!(why, "nobody has the shares of a removed node yet");
                    failures += 1;
                }
                Err(_) => failures += 1,
            }
        }
    }

    /// Settles what can be settled now.
    pub async fn settle(&self) -> Result<(), String> {
        let removed = departure::all(&self.state)?;
        for (node, known) in &removed {
            if known.last_write.is_none() {
                let last = self.replica.agree_on_last_write(*node).await.map_err(|e| e.to_string())?;
                self.record(*node, *known, Departure { last_write: Some(last), heir: Some(self.node) }).await?;
                continue;
            }
            // The heir may be gone, too.
            let Some(gone) = known.heir.and_then(|heir| Some((heir, removed.get(&heir)?))) else { continue };
            let (heir, Departure { last_write: Some(last), .. }) = gone else { continue };
            if self.replica.vector().of(heir) >= *last {
                self.record(*node, *known, Departure { heir: Some(self.node), ..*known }).await?;
            }
        }
        Ok(())
    }

    /// Records what became of a node, unless another leader was first.
    async fn record(&self, node: NodeId, known: Departure, now: Departure) -> Result<(), String> {
        let options = TransactionOptions { isolation: Isolation::Serializable, ..TransactionOptions::default() };
        let mut transaction = self.database.begin(options).await.map_err(|e| e.to_string())?;
        transaction.begin_statement().await.map_err(|e| e.to_string())?;
        let key = departure::key(node);
        let said = transaction.view().get(&key).map_err(|e| e.to_string())?;
        if said.map(|said| departure::parse(&said)).transpose()? != Some(known) {
            return Ok(());
        }
        transaction.put(key, departure::value(&now)?).map_err(|e| e.to_string())?;
        transaction.commit().await.map_err(|e| e.to_string())?;
        tracing::info!(%node, last_write = ?now.last_write, heir = ?now.heir, "a removed node's shares have an heir");
        Ok(())
    }
}
