//! A transaction shows on a replica all at once.
//!
//! Bailis et al., "Scalable Atomic Visibility with RAMP Transactions", SIGMOD 2014, section
//! 2: either all or none of each transaction's updates are observed.

use polity_base::NodeId;

use crate::tests::simulation::History;

pub fn check(history: &History, node: NodeId) -> Result<(), String> {
    let Some((_, now)) = history.sights.get(&node) else { return Ok(()) };
    let [first, second] = &now.marks;
    match first.symmetric_difference(second).next() {
        Some(number) => Err(format!("atomic visibility: transaction {number} shows by half")),
        None => Ok(()),
    }
}
