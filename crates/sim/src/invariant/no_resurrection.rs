//! No resurrection: a row that a replica knows as deleted does not come back by a write
//! from before; and what a replica has seen it does not forget.
//!
//! Shapiro et al. 2011, section 3: states only grow. Yu & Rostad, "A Low-Cost Set CRDT
//! Based on Causal Lengths", PaPoC 2020: of two lives of a row the greater stands.

use std::collections::BTreeMap;

use polity_base::Key;
use polity_crdt::{Stamp, VersionVector};

use super::View;
use super::rows_of_eventual::Row;

/// What was seen of each replica.
#[derive(Default)]
pub struct NoResurrection {
    vectors: BTreeMap<u64, VersionVector>,
    deleted: BTreeMap<(u64, Key), Stamp>,
}

impl NoResurrection {
    /// Looks at all replicas.
    pub fn check(&mut self, replicas: &[(&View, BTreeMap<Key, Row>)]) -> Result<(), String> {
        for (view, rows) in replicas {
            let vector = view.core.eventual().vector();
            if let Some(before) = self.vectors.insert(view.node, vector.clone())
                && !vector.dominates(&before)
                && view.core.eventual().writable().is_ok()
            {
                return Err(format!("no resurrection: n{} had seen {before:?}, and has now {vector:?}", view.node));
            }
            for (key, row) in rows {
                let life = row.state.life;
                let last = self.deleted.get(&(view.node, key.clone())).copied();
                if !row.state.is_live() {
                    self.deleted.insert((view.node, key.clone()), last.map_or(life.stamp, |last| last.max(life.stamp)));
                } else if let Some(deleted) = last.filter(|deleted| life.stamp < *deleted) {
                    return Err(format!(
                        "no resurrection: n{} has row {key} of {life:?}, which it knew as deleted by {deleted:?}",
                        view.node
                    ));
                }
            }
        }
        Ok(())
    }
}
