//! Acknowledged is durable: what any node has applied, a majority of the voters
//! would find again if all of them lost power at this moment.
//!
//! Ongaro & Ousterhout 2014, section 5.3: an entry is committed once a majority
//! stores it, and section 5.1 wants that on stable storage. A client is answered
//! after its batch was applied, so this is stronger than what it asks for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use polity_base::RangeId;

use super::stored::Stored;
use super::{Committed, View};
use crate::machine::Machine;

/// Who voted when it was last looked, and since when.
#[derive(Default)]
pub struct AcknowledgedIsDurable {
    voters: BTreeSet<u64>,
    since: Duration,
}

/// After a change of voters, the majority that counts may still be the old one's.
const SETTLED: Duration = Duration::from_secs(3);

impl AcknowledgedIsDurable {
    /// Reads what is on the disks of all voters.
    pub fn check(&mut self, views: &[View], machines: &[Arc<Machine>], committed: &Committed) -> Result<(), String> {
        let newest = views.iter().max_by_key(|view| (view.status.term, view.status.last_index));
        let (Some(newest), Some((index, term))) = (newest, committed.last()) else { return Ok(()) };
        let voters: BTreeSet<u64> = newest.status.voters.iter().map(|voter| voter.0).collect();
        if voters != self.voters {
            (self.voters, self.since) = (voters, newest.now);
            return Ok(());
        }
        if newest.now < self.since + SETTLED {
            return Ok(());
        }
        let mut keepers = Vec::new();
        for machine in machines.iter().filter(|machine| voters.contains(&machine.node)) {
            if keeps(machine, newest.group(), index, term)? {
                keepers.push(machine.node);
            }
        }
        if 2 * keepers.len() > voters.len() {
            return Ok(());
        }
        Err(format!(
            "acknowledged is durable: entry {index} of term {term} was applied, and of the voters {voters:?} only \
             {keepers:?} would find it after a crash"
        ))
    }
}

/// Whether a machine would find an entry again.
fn keeps(machine: &Machine, group: RangeId, index: u64, term: u64) -> Result<bool, String> {
    if let Some(before) = machine.before_loss() {
        // What was taken from it on purpose it did keep. Of what it may have written
        // since, only it knows.
        let before = Stored::at(machine, before)?;
        return Ok(machine.had(group, index, term) || before.is_some_and(|stored| stored.holds(group, index, term)));
    }
    if machine.disk().has_stopped() {
        // What its crash leaves is decided when it happens: it may be all.
        return Ok(true);
    }
    Ok(Stored::of(machine)?.is_some_and(|stored| stored.holds(group, index, term)))
}
