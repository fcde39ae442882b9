//! A client that shows its token sees what it saw and wrote before, wherever it goes.
//!
//! Terry et al., "Session Guarantees for Weakly Consistent Replicated Data", PDIS 1994: read
//! your writes, monotonic reads; and with causal visibility, writes follow reads.

use std::collections::BTreeSet;

use polity_base::NodeId;

pub fn check(known: &BTreeSet<usize>, now: &BTreeSet<usize>, node: NodeId) -> Result<(), String> {
    match known.difference(now).next() {
        Some(number) => Err(format!("session guarantees: {node} does not show transaction {number} again")),
        None => Ok(()),
    }
}
