//! The state's root in every header is the one that applying all blocks from genesis
//! gives, on a ledger that takes no part.
//!
//! Schneider, "Implementing Fault-Tolerant Services Using the State Machine Approach",
//! ACM Computing Surveys 1990, section 2.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{FIRST, Invariant, Replay, Sight};
use crate::block::Block;
use crate::types::Height;

/// Applies blocks once more.
pub struct StateRoot {
    replay: Replay,
    next: Height,
    /// Committed blocks whose turn has not come
    waiting: BTreeMap<Height, Arc<Block>>,
}

impl StateRoot {
    /// Applies blocks with `replay`.
    pub fn new(replay: Replay) -> StateRoot {
        StateRoot { replay, next: FIRST, waiting: BTreeMap::new() }
    }
}

impl Invariant for StateRoot {
    fn look(&mut self, sight: &Sight) -> Result<(), String> {
        let Sight::Committed(_, block, ..) = sight else { return Ok(()) };
        if block.header().height >= self.next {
            self.waiting.insert(block.header().height, (*block).clone());
        }
        while let Some(block) = self.waiting.remove(&self.next) {
            self.next = Height(self.next.0 + 1);
            let (root, header) = ((self.replay)(&block), block.header());
            if root != header.state_root {
                return Err(format!(
                    "state root: the header of height {} has another than its block gives",
                    header.height
                ));
            }
        }
        Ok(())
    }
}
