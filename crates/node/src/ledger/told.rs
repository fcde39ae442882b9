//! What a validator tells people: in the log of the process, and counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use polity_base::NodeId;
use polity_bft::consensus::validator::Event;
use tokio::sync::mpsc;

/// How often nodes were seen to send what they must not, and what it was last.
#[derive(Clone, Default)]
pub(crate) struct Misbehaviour(Arc<Mutex<BTreeMap<NodeId, (u64, &'static str)>>>);

impl Misbehaviour {
    /// By node.
    pub fn all(&self) -> BTreeMap<NodeId, (u64, &'static str)> {
        self.0.lock().clone()
    }

    fn note(&self, node: NodeId, how: &'static str) {
        let mut seen = self.0.lock();
        let (count, last) = seen.entry(node).or_default();
        *count += 1;
        *last = how;
    }
}

/// Writes down what is told, until there is nobody who tells any more.
pub async fn write_down(mut told: mpsc::Receiver<Event>, misbehaviour: Misbehaviour) {
    while let Some(event) = told.recv().await {
        match event {
            Event::Round(height, round, proposer) if round > 0 => {
                tracing::info!(%height, round, %proposer, "another round of the ledger: no block was decided in time");
            }
            Event::Round(height, round, proposer) => tracing::trace!(%height, round, %proposer, "round"),
            Event::Decided(height, round, block) => tracing::debug!(%height, round, %block, "block decided"),
            Event::Misbehaves(node, how) => {
                tracing::warn!(%node, how, "a validator lies or fails");
                misbehaviour.note(node, how);
            }
            Event::Behind(height) => tracing::info!(%height, "this node lacks blocks of the ledger"),
            Event::Invalid(height, block, why) => {
                tracing::warn!(%height, %block, why, "a proposed block of the ledger is not valid");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_misbehaves_is_counted() {
        let (teller, told) = mpsc::channel(4);
        let seen = Misbehaviour::default();
        for (node, how) in [(2, "noise"), (3, "noise"), (2, "two votes")] {
            teller.send(Event::Misbehaves(NodeId(node), how)).await.unwrap();
        }
        drop(teller);
        write_down(told, seen.clone()).await;
        assert_eq!(seen.all(), BTreeMap::from([(NodeId(2), (2, "two votes")), (NodeId(3), (1, "noise"))]));
    }
}
