//! The directory covers every key exactly once: no key is served by two ranges, none
//! by no range.
//!
//! Chang et al., "Bigtable: A Distributed Storage System for Structured Data", OSDI
//! 2006, section 5: a table's tablets partition its rows.

use polity_base::Guarantee;

use super::View;

/// Looks at a node's directory.
pub fn check(view: &View) -> Result<(), String> {
    let directory = view.core.engine().database().directory();
    let ranges: Vec<_> = directory.ranges().map(|(range, _)| range).collect();
    // One range holds all keys of a guarantee; more will say which spans are theirs.
    let guarantees = [Guarantee::Strong, Guarantee::Eventual];
    let holders = guarantees.map(|guarantee| directory.of_span(&guarantee.span()).map(|(range, _)| range));
    let each_once =
        ranges.len() == holders.len() && ranges.iter().zip(holders).all(|(range, holder)| holder == Some(*range));
    match each_once {
        true => Ok(()),
        false => Err(format!("directory covers: n{} has ranges {ranges:?}, {holders:?} for the guarantees", view.node)),
    }
}
