//! Leader completeness: what is committed is in the log of every later leader.
//!
//! Ongaro & Ousterhout 2014, figure 3 and section 5.4.

use std::collections::BTreeSet;

use super::{Committed, View};

/// Which leaders were looked at, by term.
#[derive(Default)]
pub struct LeaderCompleteness(BTreeSet<u64>);

impl LeaderCompleteness {
    /// Looks at a leader that is new.
    pub fn check(&mut self, view: &View, committed: &Committed) -> Result<(), String> {
        if !view.status.leads || !self.0.insert(view.status.term) {
            return Ok(());
        }
        let purged = view.core.log().purged(view.group()).unwrap_or_default();
        for (index, term) in committed.terms.range(purged + 1..) {
            // What was committed in a later term than this leader's is not its business.
            if *term <= view.status.term && view.term_at(*index) != Some(*term) {
                let has = view.term_at(*index);
                return Err(format!(
                    "leader completeness: n{} leads term {} without entry {index} of term {term}, which is committed \
                     (it has {has:?} there)",
                    view.node, view.status.term
                ));
            }
        }
        Ok(())
    }
}
