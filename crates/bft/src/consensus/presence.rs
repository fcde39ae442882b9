//! Who is heard, and so whether there can be a quorum.
//!
//! Validators say something to each other at least every heartbeat, also while
//! there is nothing to agree on. Who stays silent for several of them is counted as
//! absent. That is a hint for people and for refusing early with the facts
//! (`PL001`): nothing is decided by it, and a liar that talks counts as present.

use std::collections::BTreeMap;
use std::time::Duration;

use polity_base::NodeId;

use crate::types::Validators;

/// A validator that is not heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Silent {
    /// Who
    pub node: NodeId,
    /// Its voting power
    pub power: u64,
    /// For how long, if it ever was heard since this node started
    pub silent_for: Option<Duration>,
}

/// Whether those who are heard could decide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quorum {
    /// The power of all validators
    pub total: u64,
    /// The least power that decides: more than two thirds
    pub needed: u64,
    /// The power of this node, if it is a validator, and of those it hears
    pub present: u64,
    /// The validators that are not heard
    pub silent: Vec<Silent>,
}

impl Quorum {
    /// The power that is missing to decide: 0 if there is a quorum.
    pub fn missing(&self) -> u64 {
        self.needed.saturating_sub(self.present)
    }
}

/// When each node was heard last.
#[derive(Clone, Debug)]
pub struct Presence {
    own: NodeId,
    patience: Duration,
    heard: BTreeMap<NodeId, Duration>,
}

impl Presence {
    /// Nobody was heard yet; who is silent for `patience` is absent.
    pub fn new(own: NodeId, patience: Duration) -> Presence {
        Presence { own, patience, heard: BTreeMap::new() }
    }

    /// Takes note that a node spoke.
    pub fn heard(&mut self, node: NodeId, now: Duration) {
        self.heard.insert(node, now);
    }

    /// Whether a node was heard of late.
    pub fn is_present(&self, node: NodeId, now: Duration) -> bool {
        node == self.own || self.heard.get(&node).is_some_and(|at| now.saturating_sub(*at) <= self.patience)
    }

    /// Whether those who are heard could decide.
    pub fn quorum(&self, validators: &Validators, now: Duration) -> Quorum {
        let silent: Vec<Silent> = validators
            .iter()
            .filter(|validator| !self.is_present(validator.node, now))
            .map(|validator| Silent {
                node: validator.node,
                power: validator.power,
                silent_for: self.heard.get(&validator.node).map(|at| now.saturating_sub(*at)),
            })
            .collect();
        let absent: u64 = silent.iter().map(|silent| silent.power).sum();
        let total = validators.total_power();
        Quorum { total, needed: validators.quorum(), present: total - absent, silent }
    }
}
