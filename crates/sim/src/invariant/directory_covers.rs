//! The directory covers every key exactly once: no key is served by two ranges, none
//! by no range.
//!
//! Chang et al., "Bigtable: A Distributed Storage System for Structured Data", OSDI
//! 2006, section 5: a table's tablets partition its rows.

use super::{View, everything};

/// Looks at a node's directory.
pub fn check(view: &View) -> Result<(), String> {
    let directory = view.core.engine().database().directory();
    let ranges: Vec<_> = directory.ranges().map(|(range, _)| range).collect();
    let whole = directory.of_span(&everything()).map(|(range, _)| range);
    // With one range it holds everything; more will say which spans are theirs.
    match (ranges.as_slice(), whole) {
        ([one], Some(range)) if *one == range => Ok(()),
        _ => Err(format!("directory covers: n{} has ranges {ranges:?}, {whole:?} for everything", view.node)),
    }
}
