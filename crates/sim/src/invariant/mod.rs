//! What must hold inside the cluster at every moment, one property a file.
//!
//! Clients judge what they saw; these look at the nodes themselves, between two
//! ticks, when nothing runs. What is cheap is looked at every few milliseconds
//! ([`Invariants::glance`]), what is on disk every few seconds
//! ([`Invariants::look`]).
//!
//! | property | source |
//! |---|---|
//! | [`election_safety`] | Ongaro & Ousterhout 2014, figure 3 and section 5.2 |
//! | [`log_matching`] | the same, figure 3 and section 5.3 |
//! | [`leader_completeness`] | the same, figure 3 and section 5.4 |
//! | [`state_machine_safety`] | the same, figure 3 and section 5.4.3 |
//! | [`acknowledged_is_durable`] | the same, section 5.3: what is committed is stored by a majority |
//! | [`checkpoint_is_prefix`] | the same, section 7 |
//! | [`versions_grow`] | Bernstein & Goodman 1983, section 4: versions in the order of their timestamps |
//! | [`leases_are_disjoint`] | Gray & Cheriton 1989, section 2; Ongaro 2014 (thesis), section 6.4.1 |
//! | [`directory_covers`] | Chang et al. 2006 (Bigtable), section 5: tablets partition the rows |
//! | [`strong_convergence`] | Shapiro et al. 2011, definition 2.3 |
//! | [`escrow_bound`] | O'Neil 1986; Balegas et al. 2015, section 4 |
//! | [`no_resurrection`] | Shapiro et al. 2011, section 3; Yu & Rostad 2020 |
//!
//! The last three are of the eventual tables. Ledgers are simulated where they are made.

mod acknowledged_is_durable;
mod checkpoint_is_prefix;
mod directory_covers;
mod election_safety;
mod escrow_bound;
mod leader_completeness;
mod leases_are_disjoint;
mod log_matching;
mod no_resurrection;
mod rows_of_eventual;
mod state_machine_safety;
mod stored;
mod strong_convergence;
mod versions_grow;

pub use stored::Stored;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use polity_base::{Guarantee, RangeId, Span};
use polity_node::Core;
use polity_raft::group::GroupStatus;
use polity_store::state::AppliedMark;

use crate::machine::{Machine, Sample, Setting};

/// A node, as it is at this moment.
pub struct View {
    /// Its number
    pub node: u64,
    /// How many starts there were before this one
    pub incarnation: u64,
    /// The simulated time
    pub now: Duration,
    /// What its member of the group says
    pub status: GroupStatus,
    /// What it has applied
    pub applied: AppliedMark,
    /// What it thought of its leadership
    pub sample: Sample,
    /// The node
    pub core: Arc<Core>,
}

impl View {
    /// A machine's node, if it is up: one that stopped in the middle of a write cannot be
    /// asked, even before anybody has noticed.
    pub fn of(machine: &Machine, now: Duration) -> Option<View> {
        let running = machine.running().filter(|_| !machine.disk().has_stopped())?;
        let (status, group) = (running.core.group().status(), running.core.group().id());
        let applied = running.core.state().applied(group);
        let (node, incarnation, sample) = (machine.node, running.incarnation, machine.sample());
        Some(View { node, incarnation, now, status, applied, sample, core: running.core })
    }

    /// The group that holds every key.
    pub fn group(&self) -> RangeId {
        self.core.group().id()
    }

    /// The term of an entry of its log, if it has it.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.core.log().term(self.group(), index)
    }

    /// In a few words.
    pub fn short(&self) -> String {
        let s = &self.status;
        let voters: Vec<u64> = s.voters.iter().map(|v| v.0).collect();
        let (leader, failure) = (s.leader.map(|l| l.0), &s.failure);
        format!(
            "term {} leader {leader:?} log {} applied {} voters {voters:?} {failure:?}",
            s.term, s.last_index, self.applied.index
        )
    }
}

/// All keys of the strong range.
fn everything() -> Span {
    Guarantee::Strong.span()
}

/// What is known to be committed: terms by index. Shared by several properties.
#[derive(Default)]
pub struct Committed {
    terms: BTreeMap<u64, u64>,
    seen: BTreeMap<(u64, u64), u64>,
}

impl Committed {
    /// Takes note of what a node has applied since it was last looked at. Entries
    /// that it has purged meanwhile are not found, and left out.
    fn note(&mut self, view: &View) -> Result<(), String> {
        let seen = self.seen.entry((view.node, view.incarnation)).or_default();
        for index in *seen + 1..=view.applied.index {
            let Some(term) = view.term_at(index) else { continue };
            if let Some(other) = self.terms.insert(index, term).filter(|other| *other != term) {
                return Err(format!(
                    "state machine safety: n{} applied entry {index} of term {term}, another node one of term {other}",
                    view.node
                ));
            }
        }
        *seen = (*seen).max(view.applied.index);
        Ok(())
    }

    /// The last one.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.terms.last_key_value().map(|(index, term)| (*index, *term))
    }
}

/// All properties, and what they remember.
pub struct Invariants {
    committed: Committed,
    election: election_safety::ElectionSafety,
    matching: log_matching::LogMatching,
    completeness: leader_completeness::LeaderCompleteness,
    machines: state_machine_safety::StateMachineSafety,
    durable: acknowledged_is_durable::AcknowledgedIsDurable,
    versions: versions_grow::VersionsGrow,
    resurrection: no_resurrection::NoResurrection,
}

impl Invariants {
    /// Properties of which nothing is known yet.
    pub fn new(_: &Setting) -> Invariants {
        Invariants {
            committed: Committed::default(),
            election: Default::default(),
            matching: Default::default(),
            completeness: Default::default(),
            machines: Default::default(),
            durable: Default::default(),
            versions: Default::default(),
            resurrection: Default::default(),
        }
    }

    /// Looks at what costs little.
    pub fn glance(&mut self, views: &[View]) -> Result<(), String> {
        for view in views {
            self.election.check(view)?;
            self.committed.note(view)?;
            self.versions.check(view)?;
        }
        for view in views {
            self.completeness.check(view, &self.committed)?;
        }
        leases_are_disjoint::check(views)
    }

    /// Looks at everything.
    pub fn look(&mut self, views: &[View], machines: &[Arc<Machine>]) -> Result<(), String> {
        for view in views {
            self.matching.check(view)?;
            directory_covers::check(view)?;
        }
        self.machines.check(views)?;
        self.durable.check(views, machines, &self.committed)?;
        checkpoint_is_prefix::check(views, machines)?;
        self.look_at_replicas(views)
    }

    /// Looks at the replicas of the eventual tables.
    fn look_at_replicas(&mut self, views: &[View]) -> Result<(), String> {
        let mut replicas = Vec::new();
        for view in views {
            if let Some(rows) = rows_of_eventual::read(view)? {
                replicas.push((view, rows));
            }
        }
        strong_convergence::check(&replicas)?;
        escrow_bound::check(&replicas)?;
        self.resurrection.check(&replicas)
    }

    /// Looks at nodes that have all applied the same.
    pub fn at_the_end(&mut self, views: &[View]) -> Result<(), String> {
        self.machines.check(views)?;
        self.machines.are_alike(views)?;
        self.look_at_replicas(views)
    }
}
