//! A transaction shows on a replica not before all that its author saw.
//!
//! Lloyd et al., "Don't Settle for Eventual" (COPS), SOSP 2011, section 3: causal+
//! consistency, the dependencies of a write are visible where it is.

use polity_base::NodeId;

use crate::tests::simulation::History;

pub fn check(history: &History, node: NodeId) -> Result<(), String> {
    let Some((_, now)) = history.sights.get(&node) else { return Ok(()) };
    for number in &now.marks[0] {
        if let Some(missing) = history.transactions[*number].seen.difference(&now.marks[0]).next() {
            return Err(format!("causal visibility: transaction {number} shows, {missing} that it saw does not"));
        }
    }
    Ok(())
}
