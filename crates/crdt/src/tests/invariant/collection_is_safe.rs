//! Of a deleted row nothing is forgotten on one replica while another one still has it.
//!
//! The contract (docs/guarantees.md, "eventual"): a tombstone goes only when every replica is
//! known to have it; causal stability, Baquero, Almeida, Shoker, "Making Operation-based
//! CRDTs Operation-based", DAIS 2014, section 4.3.

use polity_base::NodeId;

use crate::tests::simulation::History;

pub fn check(history: &History, node: NodeId) -> Result<(), String> {
    let Some((_, now)) = history.sights.get(&node) else { return Ok(()) };
    let Some(gone) = history.gone.get(&node) else { return Ok(()) };
    for row in &now.blank {
        for (other, (_, there)) in &history.sights {
            let Some(birth) = there.births.get(row) else { continue };
            if gone.contains(&(*row, birth.clone())) {
                return Err(format!("collection is safe: {row} is forgotten, {other} still has {birth}"));
            }
        }
    }
    Ok(())
}
