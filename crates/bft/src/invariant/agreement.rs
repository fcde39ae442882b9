//! Agreement: no two honest nodes commit different blocks at one height.
//!
//! Pease, Shostak & Lamport, "Reaching Agreement in the Presence of Faults", JACM
//! 1980; Buchman, Kwon & Milosevic, "The latest gossip on BFT consensus", 2018,
//! section 3.

use std::collections::BTreeMap;

use polity_base::NodeId;

use super::{Invariant, Sight};
use crate::types::{BlockId, Height};

/// What was committed, and by whom first.
#[derive(Default)]
pub struct Agreement(BTreeMap<Height, (BlockId, NodeId)>);

impl Invariant for Agreement {
    fn look(&mut self, sight: &Sight) -> Result<(), String> {
        let (node, height, block) = match sight {
            Sight::Committed(node, block, ..) => (*node, block.header().height, block.id()),
            Sight::Installed(node, tip) => (*node, tip.height, tip.block),
            _ => return Ok(()),
        };
        match *self.0.entry(height).or_insert((block, node)) {
            (first, _) if first == block => Ok(()),
            (first, other) => {
                Err(format!("agreement: at height {height}, {other} committed {first} and {node} committed {block}"))
            }
        }
    }
}
