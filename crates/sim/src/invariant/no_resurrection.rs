//! No resurrection: a row that a replica knows as deleted does not come back by a write
//! from before; and what a replica has seen it does not forget.
//!
//! Shapiro et al. 2011, section 3: states only grow. Yu & Rostad, "A Low-Cost Set CRDT
//! Based on Causal Lengths", PaPoC 2020: of two lives of a row the greater stands.
//!
//! So a row that was deleted may be there again for one of two reasons: somebody who saw
//! it deleted made it anew, which makes its length greater than that of *every* deletion
//! of the life before, those of the same time and with a later stamp included; or all had
//! seen it deleted, that was forgotten, and a new row began with length one, later.

use std::collections::BTreeMap;

use polity_base::Key;
use polity_crdt::{Life, VersionVector};

use super::View;
use super::rows_of_eventual::Row;

/// What was seen of each replica.
#[derive(Default)]
pub struct NoResurrection {
    vectors: BTreeMap<u64, VersionVector>,
    deleted: BTreeMap<(u64, Key), Life>,
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
                if !row.state.is_live() {
                    self.deleted.insert((view.node, key.clone()), life);
                } else if let Some(deleted) = self.deleted.get(&(view.node, key.clone()))
                    && is_from_before(life, *deleted)
                {
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

/// Whether a life of a row is none that a replica may know after it has known a deletion.
/// One of a greater count may have an earlier time: who made the row anew had seen another
/// deletion than this one. One of a lower count is later than the deletion if that was
/// forgotten meanwhile.
fn is_from_before(life: Life, deleted: Life) -> bool {
    life < deleted && life.stamp < deleted.stamp
}

#[cfg(test)]
mod tests {
    use polity_base::{NodeId, Timestamp};
    use polity_crdt::Stamp;

    use super::*;

    #[test]
    fn known_answers() {
        let life = |count, at| Life { count, stamp: Stamp { at: Timestamp(at), origin: NodeId(1) } };
        assert!(is_from_before(life(1, 10), life(2, 20)), "the row is back");
        assert!(is_from_before(life(3, 10), life(4, 20)));
        assert!(!is_from_before(life(3, 10), life(2, 20)), "deleted twice at a time, and made anew after the first");
        assert!(!is_from_before(life(1, 30), life(2, 20)), "made anew after all was forgotten");
        assert!(!is_from_before(life(3, 30), life(2, 20)));
    }
}
