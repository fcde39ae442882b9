//! The escrow bound: all replicas together never hold more rights than there are, so
//! no counter can leave its bounds, whatever they do next.
//!
//! O'Neil, "The Escrow Transactional Method", TODS 1986; Balegas, Serra, Duarte,
//! Ferreira, Shapiro, Rodrigues & Preguiça, "Extending Eventually Consistent Cloud
//! Databases for Enforcing Numeric Invariants", SRDS 2015, section 4.
//!
//! What each replica knows of its own rights is exact, so the states of all are joined:
//! in the join the value is within its bounds, nobody's right is below zero, and the
//! rights to take add up to what there is above the lower bound. A replica that is down
//! only lacks what it spent itself.

use std::collections::BTreeMap;

use polity_base::Key;
use polity_crdt::{JoinContext, RowState, VersionVector};

use super::View;
use super::rows_of_eventual::Row;

/// Looks at the counters of all rows.
pub fn check(replicas: &[(&View, BTreeMap<Key, Row>)]) -> Result<(), String> {
    let mut joined: BTreeMap<&Key, RowState> = BTreeMap::new();
    let nothing = VersionVector::default();
    for (_, rows) in replicas {
        for (key, row) in rows {
            let context = JoinContext { here: &nothing, author: &nothing };
            joined.entry(key).or_default().join(&row.state, context, &mut Vec::new());
        }
    }
    for (key, state) in joined {
        for (column, shares) in state.shares() {
            let Some(counter) = state.counter(column) else { continue };
            let (value, sum, bounds) = (i128::from(counter.value()), counter.sum(), counter.bounds);
            let said = || format!("{key}, column {column}: value {value}, bounds {bounds:?}, shares {shares:?}");
            let below = bounds.lower.is_some_and(|lower| value < i128::from(lower));
            let above = bounds.upper.is_some_and(|upper| value > i128::from(upper));
            if below || above {
                return Err(format!("escrow bound: {} is beyond its bounds", said()));
            }
            if shares.iter().any(|share| share.take.is_some_and(|s| s < 0) || share.add.is_some_and(|s| s < 0)) {
                return Err(format!("escrow bound: {}: a right is below zero", said()));
            }
            let rights: i128 = shares.iter().filter_map(|share| share.take).map(i128::from).sum();
            if bounds.lower.is_some() && rights != sum {
                return Err(format!("escrow bound: {}: the rights to take come to {rights}, not {sum}", said()));
            }
        }
    }
    Ok(())
}
