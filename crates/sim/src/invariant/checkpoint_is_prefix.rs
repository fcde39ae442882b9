//! A checkpoint is a prefix of the log: the rows that a crash would leave are those
//! that applying the log up to their mark gives, as another node shows them at that
//! time.
//!
//! Ongaro & Ousterhout 2014, section 7: a snapshot replaces the log up to it.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use polity_base::{Guarantee, Timestamp};
use polity_store::state::State;

use super::View;
use super::stored::Stored;
use crate::machine::Machine;

/// So many differing rows are named.
const SOME: usize = 4;

/// When a row was written, and its key in hexadecimal digits.
type Row = (Timestamp, String);

/// The first four bytes of a row's key: its table's, or index's, storage.
fn storage(row: &Row) -> &str {
    row.1.get(..8).unwrap_or_default()
}

fn storages(rows: &BTreeSet<Row>) -> BTreeSet<&str> {
    rows.iter().map(storage).collect()
}

/// Keys of all rows at a time, and when each was written.
fn rows(state: &State, at: Timestamp) -> Result<BTreeSet<Row>, String> {
    let mut rows = BTreeSet::new();
    let read = state.snapshot().and_then(|reader| {
        reader.scan(&Guarantee::Strong.span(), at)?.drive(|key, written, _| {
            rows.insert((written, key.iter().map(|byte| format!("{byte:02x}")).collect()));
            ControlFlow::Continue(())
        })
    });
    read.map(|()| rows).map_err(|e| e.to_string())
}

/// Reads what is on the disks.
pub fn check(views: &[View], machines: &[Arc<Machine>]) -> Result<(), String> {
    for view in views {
        let Some(machine) = machines.iter().find(|machine| machine.node == view.node) else { continue };
        if machine.before_loss().is_some() {
            // Damaged on purpose.
            continue;
        }
        let Some(stored) = Stored::of(machine)? else { continue };
        let mark = stored.state.applied(view.group());
        let purged = stored.log.purged(view.group()).unwrap_or_default();
        if purged > mark.index {
            return Err(format!(
                "checkpoint is prefix: n{}'s on disk is at entry {}, and the log is purged up to {purged}",
                view.node, mark.index
            ));
        }
        if mark.index == 0 {
            continue;
        }
        // Nothing on disk is newer than the mark, though the horizon may be: it follows
        // what is applied in memory.
        let at = mark.commit.max(stored.state.horizon(Guarantee::Strong));
        let digest = stored.state.snapshot().and_then(|rows| rows.digest(&Guarantee::Strong.span(), at));
        let here = digest.map_err(|e| format!("checkpoint is prefix: n{}'s cannot be read: {e}", view.node))?;
        for other in views.iter().filter(|other| other.node != view.node && other.applied.commit >= mark.commit) {
            // What is older than another node's horizon it cannot show any more.
            if other.core.state().horizon(Guarantee::Strong) > mark.commit {
                continue;
            }
            let there =
                other.core.state().snapshot().and_then(|rows| rows.digest(&Guarantee::Strong.span(), mark.commit));
            let Ok(there) = there else { continue };
            if here != there {
                let (stored, shown) = (rows(&stored.state, at)?, rows(other.core.state(), mark.commit)?);
                let missing: Vec<_> = shown.difference(&stored).take(SOME).collect();
                // Of tables that nobody could read any more, nothing is left, at any time.
                let newest = rows(other.core.state(), Timestamp::MAX)?;
                let left = storages(&newest);
                let kept = |row: &&Row| left.contains(storage(row));
                let extra: Vec<_> = stored.difference(&shown).filter(kept).take(SOME).collect();
                if missing.is_empty() && extra.is_empty() {
                    continue;
                }
                return Err(format!(
                    "checkpoint is prefix: n{}'s at {mark:?} has {} rows, n{} shows {} others at that time; the first \
                     lacks {missing:?} and has {extra:?}",
                    view.node, here.0, other.node, there.0
                ));
            }
        }
    }
    Ok(())
}
