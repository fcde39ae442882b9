//! A row or an element that a replica has seen go does not come back.
//!
//! The contract (docs/guarantees.md, "eventual"); Shapiro et al., "A comprehensive study of
//! Convergent and Commutative Replicated Data Types", INRIA RR-7506, 2011, section 3.3.5.

use polity_base::NodeId;

use crate::tests::simulation::History;

pub fn check(history: &History, node: NodeId) -> Result<(), String> {
    let Some((_, now)) = history.sights.get(&node) else { return Ok(()) };
    let Some(gone) = history.gone.get(&node) else { return Ok(()) };
    let births = now.births.iter().map(|(row, birth)| (*row, birth.clone()));
    let tags = now.tags.iter().flat_map(|(row, tags)| tags.iter().map(|tag| (*row, tag.clone())));
    match births.chain(tags).find(|there| gone.contains(there)) {
        Some((row, what)) => Err(format!("no resurrection: {what} of row {row} had gone, and is back")),
        None => Ok(()),
    }
}
