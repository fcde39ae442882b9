//! A number that replicas add to and take from, each in entries of its own.
//!
//! ```text
//! value = lowest + Σ added − Σ taken          lowest: the lower bound, 0 without one
//! ```
//! Every number of an entry only grows, and only its owner's replica makes it grow;
//! so of two states of an entry the greater numbers are the later ones. (When a
//! replica is lost for good, one other acts for it: see [`crate::escrow`].)
//!
//! Concurrent inserts of one row add up, like any additions. With some bounds they could
//! not: two inserts that begin with all that an upper bound allows, or each with what a
//! bound below zero lets be taken, are together beyond it. Such a counter is an
//! *incarnation*: it begins with one insert, and of two concurrent ones the later stands
//! whole.
//!
//! Sums are exact however large. A replica refuses what takes the number it sees out of
//! a bigint; if several together get there, the nearest bigint is shown until others
//! bring it back.

use std::collections::BTreeMap;

use polity_base::{Bounds, NodeId};
use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;

/// A number that is added to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counter {
    /// The write it began with; zero where inserts add up
    pub incarnation: Stamp,
    /// What it must stay within
    pub bounds: Bounds,
    /// What each replica did
    pub tallies: BTreeMap<NodeId, Tally>,
}

/// What one replica did to a counter. All of it only grows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// The sum of what it added
    pub added: u64,
    /// The sum of what it took
    pub taken: u64,
    /// How much of its right to take it gave to each other
    pub gave_take: BTreeMap<NodeId, u64>,
    /// How much of its right to add it gave to each other
    pub gave_add: BTreeMap<NodeId, u64>,
}

impl Counter {
    /// A counter that nobody has added to.
    pub fn new(bounds: Bounds, insert: Stamp) -> Counter {
        let adds_up = bounds.upper.is_none() && bounds.lower.is_none_or(|lower| lower == 0);
        let incarnation = if adds_up { Stamp::default() } else { insert };
        Counter { incarnation, bounds, tallies: BTreeMap::new() }
    }

    /// Where counting begins.
    pub fn lowest(&self) -> i64 {
        self.bounds.lower.unwrap_or(0)
    }

    /// The exact sum.
    pub fn sum(&self) -> i128 {
        let sums = self.tallies.values().map(|t| i128::from(t.added) - i128::from(t.taken));
        i128::from(self.lowest()) + sums.sum::<i128>()
    }

    /// Whether the number can be shown after `amount` more; or is at least nearer to that.
    pub fn can_show(&self, amount: i64) -> bool {
        let (sum, after) = (self.sum(), self.sum() + i128::from(amount));
        i64::try_from(after).is_ok() || after.unsigned_abs() < sum.unsigned_abs()
    }

    /// The tally of whoever begins this counter with `value`; `None` if that is too far
    /// from where counting begins, or before.
    pub fn beginning(&self, value: i64) -> Option<Tally> {
        let above = i128::from(value) - i128::from(self.lowest());
        let mut tally = Tally::default();
        match above < 0 {
            true if self.bounds.lower.is_some() => return None,
            true => tally.taken = u64::try_from(-above).ok()?,
            false => tally.added = u64::try_from(above).ok()?,
        }
        Some(tally)
    }

    /// The number; the nearest that fits, if replicas together went beyond.
    pub fn value(&self) -> i64 {
        let sum = self.sum();
        i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX })
    }

    /// What `node` did.
    pub fn tally(&self, node: NodeId) -> Tally {
        self.tallies.get(&node).cloned().unwrap_or_default()
    }

    /// This counter with nothing but one replica's part: what a delta carries.
    pub fn part(&self, node: NodeId, tally: Tally) -> Counter {
        let tallies = BTreeMap::from([(node, tally)]);
        Counter { incarnation: self.incarnation, bounds: self.bounds, tallies }
    }

    /// Both, unless they are of two incarnations: then the later.
    pub fn join(&mut self, other: &Counter) {
        match other.incarnation.cmp(&self.incarnation) {
            std::cmp::Ordering::Less => return,
            std::cmp::Ordering::Greater => {
                *self = other.clone();
                return;
            }
            std::cmp::Ordering::Equal => {}
        }
        // The same in every state of a column; the tighter, should that ever not be so.
        self.bounds.lower = self.bounds.lower.max(other.bounds.lower);
        self.bounds.upper = match (self.bounds.upper, other.bounds.upper) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        for (node, theirs) in &other.tallies {
            self.tallies.entry(*node).or_default().join(theirs);
        }
    }
}

impl Tally {
    /// The later of each number.
    pub fn join(&mut self, other: &Tally) {
        self.added = self.added.max(other.added);
        self.taken = self.taken.max(other.taken);
        let later = |ours: &mut BTreeMap<NodeId, u64>, theirs: &BTreeMap<NodeId, u64>| {
            for (node, sum) in theirs {
                let known = ours.entry(*node).or_default();
                *known = (*known).max(*sum);
            }
        };
        later(&mut self.gave_take, &other.gave_take);
        later(&mut self.gave_add, &other.gave_add);
    }

    /// The tally after `amount` more; `None` beyond what can be counted.
    pub fn after(&self, amount: i64) -> Option<Tally> {
        let mut tally = self.clone();
        let sum = if amount < 0 { &mut tally.taken } else { &mut tally.added };
        *sum = sum.checked_add(amount.unsigned_abs())?;
        Some(tally)
    }
}
