//! Durability: what a node has committed, it still has after any crash.
//!
//! Gray & Reuter, "Transaction Processing", 1993, chapter 10.

use std::collections::BTreeMap;

use polity_base::NodeId;

use super::{Invariant, Sight};
use crate::types::Height;

/// Where each node's ledger was.
#[derive(Default)]
pub struct Durability(BTreeMap<NodeId, Height>);

impl Invariant for Durability {
    fn look(&mut self, sight: &Sight) -> Result<(), String> {
        match sight {
            Sight::Committed(node, block, ..) => {
                self.0.insert(*node, block.header().height);
            }
            Sight::Installed(node, tip) => {
                self.0.insert(*node, tip.height);
            }
            Sight::Started(node, tip) => {
                let before = self.0.get(node).copied().unwrap_or_default();
                if tip.height < before {
                    return Err(format!("durability: {node} had committed {before} and came back with {}", tip.height));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
