//! A counter is within its bounds in every state of every replica, and no more is sold than
//! there is.
//!
//! Balegas et al., "Extending Eventually Consistent Cloud Databases for Enforcing Numeric
//! Invariants", SRDS 2015, section 3.2; O'Neil 1986.

use std::collections::BTreeMap;

use polity_base::NodeId;

use crate::tests::simulation::History;

/// What every stock begins with.
const STOCKED: i64 = 12;

pub fn check(history: &History, node: NodeId) -> Result<(), String> {
    let Some((_, now)) = history.sights.get(&node) else { return Ok(()) };
    for (row, (stock, seats)) in &now.stocks {
        if *stock < 0 || !(0..=10).contains(seats) {
            return Err(format!("escrow bound: row {row} has {stock} in stock and {seats} seats"));
        }
    }
    Ok(())
}

/// What clients were told was sold, all over the cluster.
pub fn check_sales(history: &History) -> Result<(), String> {
    let mut left = BTreeMap::new();
    for transaction in &history.transactions {
        let Some((row, taken)) = transaction.takes else { continue };
        // What was not refused may have been added.
        if transaction.acknowledged || (taken < 0 && !transaction.refused) {
            *left.entry(row).or_insert(STOCKED) -= taken;
        }
    }
    match left.iter().find(|(_, left)| **left < 0) {
        Some((row, left)) => Err(format!("escrow bound: {} more of {row} were sold than there were", -left)),
        None => Ok(()),
    }
}
