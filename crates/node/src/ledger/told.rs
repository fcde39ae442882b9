//! What a validator tells people, in the log of the process.

use polity_bft::consensus::validator::Event;
use tokio::sync::mpsc;

/// Writes down what is told, until there is nobody who tells any more.
pub async fn write_down(mut told: mpsc::Receiver<Event>) {
    while let Some(event) = told.recv().await {
        match event {
            Event::Round(height, round, proposer) if round > 0 => {
                tracing::info!(%height, round, %proposer, "another round of the ledger: no block was decided in time");
            }
            Event::Round(height, round, proposer) => tracing::trace!(%height, round, %proposer, "round"),
            Event::Decided(height, round, block) => tracing::debug!(%height, round, %block, "block decided"),
            Event::Misbehaves(node, how) => tracing::warn!(%node, how, "a validator lies or fails"),
            Event::Behind(height) => tracing::info!(%height, "this node lacks blocks of the ledger"),
            Event::Invalid(height, block, why) => {
                tracing::warn!(%height, %block, why, "a proposed block of the ledger is not valid");
            }
        }
    }
}
