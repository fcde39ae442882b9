//! Faults on purpose: what a team drills with, so that the first partition it sees
//! is not a real one.
//!
//! A [`Rule`] disturbs what this node sends to a peer, or what it takes from it, or
//! both; a partition that only one side suffers from is made at one node. Rules are
//! set and cleared while the node runs and forgotten when it ends. A cut is silent:
//! connections look alive, nothing passes, and new ones do not come about.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use polity_base::NodeId;
use serde::{Deserialize, Serialize};

/// Which way messages go, as seen from this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Way {
    /// From the peer to this node
    Incoming,
    /// From this node to the peer
    Outgoing,
    /// Both
    Both,
}

/// What happens to messages.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Fault {
    /// None passes
    Cut,
    /// Each takes longer
    Delay {
        /// By this much,
        by: Duration,
        /// and up to this much more, evenly distributed
        jitter: Duration,
    },
    /// Some are lost
    Drop {
        /// How likely each is, from 0 to 1
        probability: f64,
    },
    /// The line is narrow
    Bandwidth {
        /// What passes through it; at least 1
        bytes_per_second: u64,
    },
}

/// A fault, and where it is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// The peer; all of them if none is named
    pub peer: Option<NodeId>,
    /// Which way
    pub way: Way,
    /// What
    pub fault: Fault,
}

/// A rule that makes no sense, and why.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Nonsense(String);

/// The faults in force at this node.
#[derive(Default)]
pub struct Faults {
    rules: Mutex<Vec<(u64, Rule)>>,
    /// Counts changes; a rule's number is the count at which it was set
    version: AtomicU64,
}

/// What all rules together do one way of one peer.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) struct Disturbance {
    pub cut: bool,
    pub delay: Duration,
    pub jitter: Duration,
    pub drop: f64,
    pub bytes_per_second: Option<u64>,
}

impl Faults {
    /// Sets a rule, beside those there are; gives its number.
    pub fn set(&self, rule: Rule) -> Result<u64, Nonsense> {
        match rule.fault {
            Fault::Drop { probability } if !(0.0..=1.0).contains(&probability) => {
                return Err(Nonsense(format!("a probability is from 0 to 1, not {probability}")));
            }
            Fault::Bandwidth { bytes_per_second: 0 } => {
                return Err(Nonsense("a bandwidth of 0 bytes a second is a cut: say so".to_owned()));
            }
            _ => {}
        }
        let mut rules = self.rules.lock();
        let number = self.version.fetch_add(1, Ordering::Release) + 1;
        tracing::warn!(number, ?rule, "a fault was set");
        rules.push((number, rule));
        Ok(number)
    }

    /// Clears the rule of that number; false if there is none.
    pub fn clear(&self, number: u64) -> bool {
        let mut rules = self.rules.lock();
        let before = rules.len();
        rules.retain(|(other, _)| *other != number);
        self.version.fetch_add(1, Ordering::Release);
        tracing::warn!(number, "a fault was cleared");
        rules.len() < before
    }

    /// Clears all rules.
    pub fn clear_all(&self) {
        let mut rules = self.rules.lock();
        rules.clear();
        self.version.fetch_add(1, Ordering::Release);
        tracing::warn!("all faults were cleared");
    }

    /// The rules in force, by number.
    pub fn list(&self) -> Vec<(u64, Rule)> {
        self.rules.lock().clone()
    }

    /// Changes with every change of the rules.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// What disturbs one way of one peer, if anything does.
    pub(crate) fn on(&self, peer: NodeId, way: Way) -> Option<Disturbance> {
        let mut all: Option<Disturbance> = None;
        for (_, rule) in self.rules.lock().iter() {
            let here = rule.peer.is_none_or(|named| named == peer);
            if !here || (rule.way != Way::Both && way != Way::Both && rule.way != way) {
                continue;
            }
            let sum = all.get_or_insert_default();
            match rule.fault {
                Fault::Cut => sum.cut = true,
                Fault::Delay { by, jitter } => {
                    sum.delay += by;
                    sum.jitter += jitter;
                }
                Fault::Drop { probability } => sum.drop = 1.0 - (1.0 - sum.drop) * (1.0 - probability),
                Fault::Bandwidth { bytes_per_second } => {
                    let least = sum.bytes_per_second.map_or(bytes_per_second, |other| other.min(bytes_per_second));
                    sum.bytes_per_second = Some(least);
                }
            }
        }
        all
    }

    /// Whether no handshake with a peer can succeed.
    pub(crate) fn cuts(&self, peer: NodeId) -> bool {
        self.on(peer, Way::Both).is_some_and(|disturbance| disturbance.cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(peer: u64, way: Way, fault: Fault) -> Rule {
        Rule { peer: Some(NodeId(peer)), way, fault }
    }

    #[test]
    fn rules_add_up_where_they_hold() {
        let faults = Faults::default();
        let delay = |ms| Fault::Delay { by: Duration::from_millis(ms), jitter: Duration::ZERO };
        faults.set(rule(2, Way::Incoming, delay(5))).unwrap();
        faults.set(rule(2, Way::Both, delay(10))).unwrap();
        let cut = faults.set(Rule { peer: None, way: Way::Outgoing, fault: Fault::Cut }).unwrap();
        let on = |peer, way| faults.on(NodeId(peer), way);
        assert_eq!(on(2, Way::Incoming).unwrap().delay, Duration::from_millis(15));
        assert_eq!(on(2, Way::Outgoing).unwrap().delay, Duration::from_millis(10));
        assert!(!on(2, Way::Incoming).unwrap().cut && on(2, Way::Outgoing).unwrap().cut);
        assert!(on(3, Way::Incoming).is_none() && on(3, Way::Outgoing).unwrap().cut);
        assert!(faults.cuts(NodeId(3)));
        assert!(faults.clear(cut) && !faults.clear(cut));
        assert!(!faults.cuts(NodeId(3)) && on(3, Way::Outgoing).is_none());
        assert_eq!(faults.list().len(), 2);
        faults.clear_all();
        assert!(on(2, Way::Both).is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        let faults = Faults::default();
        assert!(faults.set(rule(1, Way::Both, Fault::Drop { probability: 1.5 })).is_err());
        assert!(faults.set(rule(1, Way::Both, Fault::Drop { probability: f64::NAN })).is_err());
        assert!(faults.set(rule(1, Way::Both, Fault::Bandwidth { bytes_per_second: 0 })).is_err());
        assert!(faults.list().is_empty());
    }
}
