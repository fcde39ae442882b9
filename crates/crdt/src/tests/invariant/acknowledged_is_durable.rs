//! What was acknowledged is there, after any crash of the replica that did, and in the end
//! on all of them.
//!
//! The contract (docs/guarantees.md, "eventual"): an acknowledged write is fsynced on the
//! node that took it.

use polity_base::NodeId;

use crate::tests::simulation::History;

/// Right after `node` was started again.
pub fn check(history: &History, node: NodeId) -> Result<(), String> {
    let Some((_, now)) = history.sights.get(&node) else { return Ok(()) };
    for (number, transaction) in history.transactions.iter().enumerate() {
        if transaction.node == node && transaction.acknowledged && !now.marks[0].contains(&number) {
            return Err(format!("acknowledged is durable: {node} lost transaction {number} by a crash"));
        }
    }
    Ok(())
}

/// At the end, when all replicas were told everything.
pub fn check_everywhere(history: &History) -> Result<(), String> {
    for (node, (_, now)) in &history.sights {
        for (number, transaction) in history.transactions.iter().enumerate() {
            if transaction.acknowledged && !now.marks[0].contains(&number) {
                return Err(format!("acknowledged is durable: {node} never got transaction {number}"));
            }
            if transaction.refused && now.marks[0].contains(&number) {
                return Err(format!("acknowledged is durable: {number} was refused, and is there"));
            }
        }
    }
    Ok(())
}
