//! Who may take how much from a counter with bounds, and add how much to it.
//!
//! A counter that must not fall below its lower bound has that many *rights to
//! take* as it stands above the bound, and each belongs to one replica, which spends
//! it without asking (O'Neil, "The Escrow Transactional Method", TODS 1986; Balegas et
//! al., "Extending Eventually Consistent Cloud Databases for Enforcing Numeric
//! Invariants", SRDS 2015). What a replica adds it may take; rights are given away by
//! numbers that only grow. With an upper bound the same holds the other way round.
//!
//! ```text
//! may take(i) = added(i) − taken(i) + given to i − given by i          Σ = value − lower
//! may add(i)  = taken(i) − added(i) + given to i − given by i          Σ = upper − value
//!               + (upper − lowest) for the replica that inserted the row
//! ```
//! Nobody ever sees more rights than there are: what a replica holds it was given by
//! numbers that grow at the giver first, and it spends by numbers that only it makes
//! grow. So the bounds hold on every replica whatever it has heard of the others.
//! (A state that lacks the giver's or the spender's numbers shows fewer rights to the
//! receiver, or more to others than they have; it decides about its own alone.)

use std::collections::BTreeMap;

use polity_base::NodeId;

use crate::cell::{Counter, Tally};

/// Which way a counter is to go.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum Side {
    /// Down, to the lower bound
    Take,
    /// Up, to the upper bound
    Add,
}

/// What one replica may do to a counter, as far as is known here. `None`: there is no
/// bound on that side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// Whose
    pub node: NodeId,
    /// How much it may take
    pub take: Option<i64>,
    /// How much it may add
    pub add: Option<i64>,
}

/// Why a change of a counter with bounds is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortage {
    /// Which way it was to go
    pub side: Side,
    /// How much further
    pub wanted: u64,
    /// How much this replica may
    pub here: u64,
    /// What the counter stands at, as far as is known here
    pub value: i64,
    /// The bound
    pub bound: i64,
    /// How much every other replica may, as far as is known here
    pub elsewhere: Vec<(NodeId, u64)>,
}

impl Shortage {
    /// Whether all replicas together could, as far as is known here.
    pub fn is_local(&self) -> bool {
        let total = u128::from(self.here) + self.elsewhere.iter().map(|(_, share)| u128::from(*share)).sum::<u128>();
        total >= u128::from(self.wanted)
    }
}

impl Counter {
    /// How much `node` may take or add; `None` without a bound on that side.
    pub fn right(&self, node: NodeId, side: Side) -> Option<i128> {
        let zero = Tally::default();
        let own = self.tallies.get(&node).unwrap_or(&zero);
        let net = i128::from(own.added) - i128::from(own.taken);
        let (begun, out): (i128, &BTreeMap<NodeId, u64>) = match side {
            Side::Take => {
                self.bounds.lower?;
                (net, &own.gave_take)
            }
            Side::Add => {
                let upper = self.bounds.upper?;
                let founder = if self.incarnation.origin == node { upper } else { self.lowest() };
                (i128::from(founder) - i128::from(self.lowest()) - net, &own.gave_add)
            }
        };
        let given = |tally: &Tally| match side {
            Side::Take => tally.gave_take.get(&node).copied(),
            Side::Add => tally.gave_add.get(&node).copied(),
        };
        let into: i128 = self.tallies.values().filter_map(given).map(i128::from).sum();
        let out: i128 = out.values().map(|sum| i128::from(*sum)).sum();
        Some(begun + into - out)
    }

    /// Everybody who may do something, or did.
    pub fn holders(&self) -> Vec<NodeId> {
        let mut nodes: Vec<NodeId> = self.tallies.keys().copied().collect();
        for tally in self.tallies.values() {
            nodes.extend(tally.gave_take.keys().chain(tally.gave_add.keys()));
        }
        nodes.push(self.incarnation.origin);
        nodes.sort_unstable();
        nodes.dedup();
        // Where inserts add up, no one insert began it.
        nodes.retain(|node| *node != NodeId::default());
        nodes
    }

    /// What every replica may do. Empty without bounds.
    pub fn shares(&self) -> Vec<Share> {
        if !self.bounds.any() {
            return Vec::new();
        }
        let right = |node, side| self.right(node, side).map(clamped);
        let share = |node| Share { node, take: right(node, Side::Take), add: right(node, Side::Add) };
        self.holders().into_iter().map(share).collect()
    }

    /// Why `node` may not change the counter by `amount`, if it may not.
    pub fn shortage(&self, node: NodeId, amount: i64) -> Option<Shortage> {
        let (side, bound) = match amount {
            0 => return None,
            ..0 => (Side::Take, self.bounds.lower?),
            _ => (Side::Add, self.bounds.upper?),
        };
        let wanted = amount.unsigned_abs();
        let here = self.right(node, side)?;
        if here >= i128::from(wanted) {
            return None;
        }
        let share = |other: NodeId| Some((other, positive(self.right(other, side)?)));
        let elsewhere = self.holders().into_iter().filter(|other| *other != node).filter_map(share);
        let elsewhere = elsewhere.filter(|(_, share)| *share > 0).collect();
        Some(Shortage { side, wanted, here: positive(here), value: self.value(), bound, elsewhere })
    }

    /// The tally of `from` after it gave `to` as much as it can of `amount`; `None` if
    /// that is nothing.
    pub fn giving(&self, from: NodeId, to: NodeId, side: Side, amount: u64) -> Option<(Tally, u64)> {
        if from == to {
            return None;
        }
        let amount = amount.min(positive(self.right(from, side)?));
        let mut tally = self.tally(from);
        let sums = match side {
            Side::Take => &mut tally.gave_take,
            Side::Add => &mut tally.gave_add,
        };
        let sum = sums.entry(to).or_default();
        *sum = sum.checked_add(amount)?;
        (amount > 0).then_some((tally, amount))
    }

    /// Gives each of `members` its even share of what `owner` holds: done by whoever
    /// inserts a row, so that every replica can spend at once.
    pub fn spread(&mut self, owner: NodeId, members: &[NodeId]) {
        let others = members.iter().filter(|node| **node != owner).count() as u64;
        for side in [Side::Take, Side::Add] {
            let Some(right) = self.right(owner, side) else { continue };
            let each = positive(right) / (others + 1);
            for node in members {
                if let Some((tally, _)) = self.giving(owner, *node, side, each) {
                    self.tallies.insert(owner, tally);
                }
            }
        }
    }
}

fn clamped(right: i128) -> i64 {
    i64::try_from(right).unwrap_or(if right < 0 { i64::MIN } else { i64::MAX })
}

fn positive(right: i128) -> u64 {
    u64::try_from(right.max(0)).unwrap_or(u64::MAX)
}
