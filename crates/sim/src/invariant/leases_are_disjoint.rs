//! Leases are disjoint: never may two nodes answer reads alone at the same time.
//!
//! Gray & Cheriton, "Leases: An Efficient Fault-Tolerant Mechanism for Distributed
//! File Cache Consistency", SOSP 1989, section 2; for Raft, Ongaro's thesis (2014),
//! section 6.4.1.

use std::time::Duration;

use super::View;

/// How old a sample may be: machines do not run in the same instant.
const FRESH: Duration = Duration::from_millis(8);

/// Looks for two leases.
pub fn check(views: &[View]) -> Result<(), String> {
    let holds = |view: &&View| view.sample.lease.is_some() && view.sample.at + FRESH >= view.now;
    let mut holders = views.iter().filter(holds);
    match (holders.next(), holders.next()) {
        (Some(a), Some(b)) => Err(format!(
            "leases are disjoint: n{} (term {:?}) and n{} (term {:?}) may both answer reads alone",
            a.node, a.sample.lease, b.node, b.sample.lease
        )),
        _ => Ok(()),
    }
}
