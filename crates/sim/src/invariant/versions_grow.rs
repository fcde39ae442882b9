//! Versions grow: a later entry of the log never commits at an earlier time, on no
//! node and across restarts; and the same entry commits at the same time everywhere.
//!
//! Bernstein & Goodman, "Multiversion Concurrency Control: Theory and Algorithms",
//! ACM TODS 1983, section 4: versions are ordered by timestamps. Here the log gives
//! the order, and the timestamps must agree with it.

use std::collections::BTreeMap;

use polity_base::Timestamp;

use super::View;

/// When entries committed, by index.
#[derive(Default)]
pub struct VersionsGrow(BTreeMap<u64, Timestamp>);

impl VersionsGrow {
    /// Looks at what a node has applied.
    pub fn check(&mut self, view: &View) -> Result<(), String> {
        let (index, commit) = (view.applied.index, view.applied.commit);
        let broken = |other: u64, at: Timestamp| {
            Err(format!(
                "versions grow: n{} has applied entry {index}, newest commit {commit}; with entry {other} it was {at}",
                view.node
            ))
        };
        if let Some((other, at)) = self.0.range(..index).next_back()
            && *at > commit
        {
            return broken(*other, *at);
        }
        if let Some((other, at)) = self.0.range(index + 1..).next()
            && *at < commit
        {
            return broken(*other, *at);
        }
        match *self.0.entry(index).or_insert(commit) {
            at if at == commit => Ok(()),
            at => broken(index, at),
        }
    }
}
