//! Strong convergence: replicas that have applied the same writes have the same rows,
//! in whatever order the writes came.
//!
//! Shapiro, Preguiça, Baquero & Zawirski, "Conflict-free Replicated Data Types", SSS
//! 2011, definition 2.3.

use std::collections::BTreeMap;

use polity_base::Key;

use super::View;
use super::rows_of_eventual::Row;

/// So many differing rows are named.
const SOME: usize = 3;

/// Looks at replicas that have seen the same.
pub fn check(replicas: &[(&View, BTreeMap<Key, Row>)]) -> Result<(), String> {
    for (at, (view, rows)) in replicas.iter().enumerate() {
        let vector = view.core.eventual().vector();
        let alike = replicas[at + 1..].iter().find(|(other, _)| other.core.eventual().vector() == vector);
        let Some((other, theirs)) = alike else { continue };
        let shown = |rows: &BTreeMap<Key, Row>, key: &Key| rows.get(key).and_then(|row| row.visible.clone());
        let keys = rows.keys().chain(theirs.keys());
        let differ: Vec<String> = keys
            .filter(|key| shown(rows, key) != shown(theirs, key))
            .take(SOME)
            .map(|key| {
                format!("{key}: {:?} and {:?}", rows.get(key).map(|r| &r.state), theirs.get(key).map(|r| &r.state))
            })
            .collect();
        if !differ.is_empty() {
            return Err(format!(
                "strong convergence: n{} and n{} have seen the same ({vector:?}) and differ: {}",
                view.node,
                other.node,
                differ.join("; ")
            ));
        }
    }
    Ok(())
}
