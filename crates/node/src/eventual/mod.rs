//! The replica of the eventual tables, put into its place.
//!
//! | module       | holds                                                        |
//! |--------------|--------------------------------------------------------------|
//! | `peers`      | the other replicas, over the links; having been removed      |
//! | `catalog`    | what the replica must know of the catalog                    |
//! | `departures` | the shares of removed nodes, settled by whoever leads        |
//! | `digest`     | the visible rows in one number                               |
//! | `figures`    | for `/metrics`                                               |
//! | `garbage`    | which tables were dropped                                    |

mod catalog;
mod departures;
mod digest;
mod figures;
mod garbage;
mod peers;

use std::time::Duration;

use polity_crdt::Replica;

pub(crate) use catalog::LocalCatalog;
pub(crate) use departures::Departures;
pub(crate) use digest::digest;
pub(crate) use figures::EventualFigures;
pub(crate) use garbage::confirm as confirm_dropped;
pub(crate) use peers::{Answers, PeerLinks, Removal};

use crate::error::Error;

/// How often it is looked whether others have what was written here.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a node that stops waits until they have.
const PARTING: Duration = Duration::from_secs(2);
/// How often a node that is filled says so.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Waits until a new node has been filled, and can serve eventual tables.
pub(crate) async fn filled(replica: &Replica) -> Result<(), Error> {
    let mut said = tokio::time::Instant::now();
    while let Err(error) = replica.writable() {
        if !matches!(error, polity_crdt::Error::NotReady { .. }) {
            return Err(Error::eventual(error));
        }
        if said.elapsed() >= SAY_EVERY {
            said = tokio::time::Instant::now();
            tracing::info!(%error, "waiting for the rows of the eventual tables");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Waits a little until those who can be reached have what was written here: a node that
/// is stopped for good so leaves nothing unsaid.
pub(crate) async fn part(replica: &Replica, node: polity_base::NodeId) {
    let told = async {
        loop {
            let status = replica.status();
            let own = status.vector.of(node);
            let lacks = |p: &polity_crdt::replica::PeerStatus| p.unreachable_since.is_none() && p.vector.of(node) < own;
            if !status.peers.iter().any(lacks) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    if tokio::time::timeout(PARTING, told).await.is_err() {
        tracing::info!("some nodes lack what was last written to eventual tables here, until it starts again");
    }
}
