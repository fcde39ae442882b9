//! No resurrection: a row that a replica knows as deleted does not come back by a write
//! from before; and what a replica has seen it does not forget.
//!
//! Shapiro et al. 2011, section 3: states only grow. Yu & Rostad, "A Low-Cost Set CRDT
//! Based on Causal Lengths", PaPoC 2020: of two lives of a row the greater stands.
//!
//! So a row that was deleted may be there again for one of two reasons: somebody who saw
//! it deleted inserted it again, which makes its length greater than that of *every*
//! deletion of the life before, those that happened at the same time and bear a later
//! stamp included; or all had seen it deleted, its tombstone was collected, and a new
//! row begins with length one and a stamp that is later. A life that is neither longer
//! nor later than a deletion was brought back.

use std::collections::BTreeMap;

use polity_base::Key;
use polity_crdt::{Life, VersionVector};

use super::View;
use super::rows_of_eventual::Row;

/// What was seen of each replica.
#[derive(Default)]
pub struct NoResurrection {
    vectors: BTreeMap<u64, VersionVector>,
    deleted: BTreeMap<(u64, Key), Vec<Life>>,
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
                let known = self.deleted.entry((view.node, key.clone())).or_default();
                if !row.state.is_live() {
                    if !known.contains(&life) {
                        known.push(life);
                    }
                } else if let Some(deleted) = known.iter().find(|deleted| brought_back(life, **deleted)) {
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

/// Whether a row lives by something from before its deletion.
fn brought_back(life: Life, deleted: Life) -> bool {
    life.count < deleted.count && life.stamp < deleted.stamp
}

#[cfg(test)]
mod tests {
    use polity_base::{NodeId, Timestamp};
    use polity_crdt::Stamp;

    use super::*;

    fn life(count: u64, at: u64) -> Life {
        Life { count, stamp: Stamp { at: Timestamp(at), origin: NodeId(1) } }
    }

    #[test]
    fn what_was_inserted_again_or_anew_was_not_brought_back() {
        assert!(brought_back(life(1, 10), life(2, 20)), "an insert that the deletion saw");
        assert!(brought_back(life(3, 30), life(4, 40)), "likewise, in its second life");
        assert!(!brought_back(life(3, 15), life(2, 20)), "inserted again after another deletion of the same life");
        assert!(!brought_back(life(1, 30), life(2, 20)), "a new row after the tombstone was collected");
    }
}
