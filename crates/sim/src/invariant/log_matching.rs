//! Log matching: if two logs have an entry of the same index and term, they are
//! alike up to it.
//!
//! Ongaro & Ousterhout 2014, figure 3 and section 5.3. By induction it is enough
//! that such entries say the same and follow an entry of the same term.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::View;

/// Every entry that was seen, by index and term: what it says, and the term before.
#[derive(Default)]
pub struct LogMatching {
    entries: BTreeMap<(u64, u64), (u64, Option<u64>)>,
    /// Up to where a node's log was looked at: index and term
    seen: BTreeMap<(u64, u64), (u64, u64)>,
}

impl LogMatching {
    /// Looks at what is new in a node's log.
    pub fn check(&mut self, view: &View) -> Result<(), String> {
        let (group, log) = (view.group(), view.core.log());
        let who = (view.node, view.incarnation);
        let (index, term) = self.seen.get(&who).copied().unwrap_or_default();
        // If what was seen last is still there, so is all before it.
        let from = if log.term(group, index) == Some(term) { index + 1 } else { 1 };
        let entries = log.read(group, from..u64::MAX).map_err(|e| format!("n{}: {e}", view.node))?;
        for (index, term, payload) in entries {
            let mut hasher = DefaultHasher::new();
            payload.hash(&mut hasher);
            let here = (hasher.finish(), view.term_at(index - 1));
            let known = self.entries.entry((index, term)).or_insert(here);
            let alike = known.0 == here.0 && (known.1.is_none() || here.1.is_none() || known.1 == here.1);
            if !alike {
                return Err(format!(
                    "log matching: n{}'s entry {index} of term {term} is another than elsewhere",
                    view.node
                ));
            }
            known.1 = known.1.or(here.1);
            self.seen.insert(who, (index, term));
        }
        Ok(())
    }
}
