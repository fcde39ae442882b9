//! Election safety: at most one leader is elected in a term.
//!
//! Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm",
//! USENIX ATC 2014, figure 3 and section 5.2.

use std::collections::BTreeMap;

use super::View;

/// Who led in which term.
#[derive(Default)]
pub struct ElectionSafety(BTreeMap<u64, u64>);

impl ElectionSafety {
    /// Takes note of who leads.
    pub fn check(&mut self, view: &View) -> Result<(), String> {
        if !view.status.leads {
            return Ok(());
        }
        let (term, node) = (view.status.term, view.node);
        match *self.0.entry(term).or_insert(node) {
            first if first == node => Ok(()),
            first => Err(format!("election safety: n{first} and n{node} both lead in term {term}")),
        }
    }
}
