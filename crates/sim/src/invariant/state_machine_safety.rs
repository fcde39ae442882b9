//! State machine safety: who has applied the same entries has the same rows.
//!
//! Ongaro & Ousterhout 2014, figure 3 and section 5.4.3. (That no two nodes apply
//! different entries at an index is looked at where commits are noted.)

use std::collections::BTreeMap;

use polity_store::state::AppliedMark;

use super::{View, everything};

/// Digests of all rows, by what was applied.
#[derive(Default)]
pub struct StateMachineSafety(BTreeMap<u64, (u64, AppliedMark, u64, [u8; 32])>);

impl StateMachineSafety {
    /// Looks at the rows of all nodes.
    pub fn check(&mut self, views: &[View]) -> Result<(), String> {
        for view in views {
            if view.applied.index == 0 {
                continue;
            }
            let digest = view.core.state().digest(view.group(), &everything());
            // A state whose disk failed answers nothing any more.
            let Ok(digest) = digest else { continue };
            let here = (view.node, digest.mark, digest.rows, digest.sha256);
            let known = self.0.entry(digest.mark.index).or_insert(here);
            if (known.1, known.2, known.3) != (here.1, here.2, here.3) {
                return Err(format!(
                    "state machine safety: with {:?} applied, n{} has {} rows, and n{} with {:?} has {} others",
                    here.1, here.0, here.2, known.0, known.1, known.2
                ));
            }
        }
        Ok(())
    }

    /// Looks whether all nodes have the same rows now.
    pub fn are_alike(&self, views: &[View]) -> Result<(), String> {
        let indexes: std::collections::BTreeSet<u64> = views.iter().map(|view| view.applied.index).collect();
        if indexes.len() == 1 {
            return Ok(());
        }
        Err(format!("convergence: at the end nodes have applied up to {indexes:?}"))
    }
}
