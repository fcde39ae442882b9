//! One row: whether it is there, and its cells.
//!
//! **Life** is a count that is odd while the row is there: an insert makes it odd, a
//! delete even, and the greater count stands (causal length: Yu and Rostad, "A
//! Low-Cost Set CRDT Based on Causal Lengths", PaPoC 2020). Cells belong to the life
//! they were written in and go with it. So a delete wins over whatever was done to
//! that life at the same time, and a row that is inserted again begins afresh.
//!
//! ```text
//! life   0 ── insert ──▶ 1 ── delete ──▶ 2 ── insert ──▶ 3 …
//! cells      {a, b, c}       {}              {a, b, c}
//! ```
//! A state is a pair in lexicographic order: of two lives the greater stands whole; of
//! one life the cells join. That is a join semilattice, with one exception: once
//! every replica has applied a delete its trace is forgotten, and a later insert begins
//! with 1 again. It may meet a replica that has not forgotten yet; that one sees that
//! the author knew of the delete and lets the insert stand ([`RowState::join`]).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use polity_base::key::NotAKey;
use polity_base::planted::{Bug, planted};
use polity_base::{ColumnChange, ColumnId, NodeId, RowChange, Value};
use serde::{Deserialize, Serialize};

use crate::cell::{Cell, Counter, Register, Set, Tally};
use crate::escrow::{Share, Shortage, Side};
use crate::stamp::{Stamp, VersionVector};

/// Whether a row is there, and since which write.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Life {
    /// Inserts and deletes so far; odd: the row is there
    pub count: u64,
    /// The last of them; of concurrent ones, the later
    pub stamp: Stamp,
}

/// The state of a row, or the part of it that a change adds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct RowState {
    /// Whether it is there
    pub life: Life,
    /// Its cells, of this life
    pub cells: BTreeMap<ColumnId, Cell>,
}

/// A value that a write lost to one whose author had not seen it. Of a counter or a set
/// that lost whole, what it stood at.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Lost {
    /// The column
    pub column: ColumnId,
    /// What stands; `None`: the row was deleted
    pub kept: Option<Value>,
    /// The write that stands
    pub kept_stamp: Stamp,
    /// What does not
    pub lost: Value,
    /// The write that wrote it
    pub lost_stamp: Stamp,
}

/// Who had seen what, of two states that are joined.
#[derive(Clone, Copy, Debug)]
pub struct JoinContext<'a> {
    /// What this replica has applied
    pub here: &'a VersionVector,
    /// What the author of the other state had applied
    pub author: &'a VersionVector,
}

/// Why a change is refused. Nothing of it is done then.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// An insert of a row that is there
    #[error("the row is there already")]
    Exists,
    /// An update or delete of a row that is not there
    #[error("the row is not there")]
    Missing,
    /// This replica may not change the counter so far
    #[error("the counter in column {0} may not go that far")]
    Short(ColumnId, Shortage),
    /// A new row's counter is beyond its bounds
    #[error("the counter in column {0} begins beyond its bounds")]
    OutOfBounds(ColumnId),
    /// The sums of a counter do not fit any more
    #[error("the counter in column {0} cannot count that far")]
    Overflow(ColumnId),
    /// The column is of another kind than the change
    #[error("column {column} is a {kind}")]
    Kind {
        /// The column
        column: ColumnId,
        /// What it is
        kind: &'static str,
    },
    /// An element that has no order
    #[error("an element of column {0}: {1}")]
    Element(ColumnId, NotAKey),
}

impl RowState {
    /// Whether the row is there.
    pub fn is_live(&self) -> bool {
        self.life.count % 2 == 1
    }

    /// Whether nothing is known of it.
    pub fn is_blank(&self) -> bool {
        self.life.count == 0
    }

    /// What `change` adds to this state when the replica `stamp.origin` does it by the
    /// write `stamp`. A new row's counters are spread over `members`.
    pub fn change(&self, change: &RowChange, stamp: Stamp, members: &[NodeId]) -> Result<RowState, Refused> {
        match change {
            RowChange::Insert(_) if self.is_live() => Err(Refused::Exists),
            RowChange::Insert(columns) => {
                let life = Life { count: self.life.count + 1, stamp };
                let cells = columns.iter().map(|(id, change)| Ok((*id, begin(*id, change, stamp, members)?)));
                Ok(RowState { life, cells: cells.collect::<Result<_, _>>()? })
            }
            RowChange::Update(_) | RowChange::Delete if !self.is_live() => Err(Refused::Missing),
            RowChange::Delete => {
                Ok(RowState { life: Life { count: self.life.count + 1, stamp }, cells: BTreeMap::new() })
            }
            RowChange::Update(columns) => {
                let cells = columns.iter().map(|(id, change)| Ok((*id, self.cell_after(*id, change, stamp, members)?)));
                Ok(RowState { life: self.life, cells: cells.collect::<Result<_, _>>()? })
            }
        }
    }

    /// The part that `change` adds to the cell of `column`.
    fn cell_after(
        &self,
        column: ColumnId,
        change: &ColumnChange,
        stamp: Stamp,
        members: &[NodeId],
    ) -> Result<Cell, Refused> {
        let kind = |cell: &Cell| Refused::Kind { column, kind: cell.kind() };
        match (change, self.cells.get(&column)) {
            // A column that was added to the table since.
            (_, None) => begin(column, change, stamp, members),
            (ColumnChange::Set(value), Some(Cell::Register(_))) => {
                Ok(Cell::Register(Register { stamp, value: value.clone() }))
            }
            (ColumnChange::Add { amount, .. }, Some(Cell::Counter(counter))) => {
                let shortage = counter.shortage(stamp.origin, *amount);
                if let Some(shortage) = shortage.filter(|_| !planted(Bug::SpendWithoutShare)) {
                    return Err(Refused::Short(column, shortage));
                }
                let after = counter.tally(stamp.origin).after(*amount).filter(|_| counter.can_show(*amount));
                Ok(Cell::Counter(counter.part(stamp.origin, after.ok_or(Refused::Overflow(column))?)))
            }
            (ColumnChange::Elements { added, removed }, Some(Cell::Set(set))) => {
                elements(set, added, removed, stamp).map(Cell::Set).map_err(|e| Refused::Element(column, e))
            }
            (_, Some(cell)) => Err(kind(cell)),
        }
    }

    /// Joins what another state adds, and says which values were lost over it. Returns
    /// whether this state changed.
    pub fn join(&mut self, other: &RowState, context: JoinContext<'_>, lost: &mut Vec<Lost>) -> bool {
        if self.life.count != other.life.count {
            let theirs = match other.life.count > self.life.count {
                true => !self.begins_after(other, context.here),
                false => other.begins_after(self, context.author),
            };
            if theirs {
                lose(self, other, context.author, lost);
                *self = other.clone();
            } else {
                lose(other, self, context.here, lost);
            }
            return theirs;
        }
        let before = self.clone();
        self.life.stamp = self.life.stamp.max(other.life.stamp);
        for (column, theirs) in &other.cells {
            match self.cells.get_mut(column) {
                None => {
                    self.cells.insert(*column, theirs.clone());
                }
                Some(ours) => {
                    outdo(*column, ours, theirs, context, lost);
                    ours.join(theirs);
                }
            }
        }
        *self != before
    }

    /// Whether this row was inserted where `deleted` had been forgotten: whoever has this
    /// state, and `knew` this much, knew of the delete, and still counts no further.
    fn begins_after(&self, deleted: &RowState, knew: &VersionVector) -> bool {
        self.is_live()
            && !deleted.is_live()
            && knew.covers(deleted.life.stamp)
            // A row that is older is damage or a backup's, and stays deleted.
            && self.life.stamp > deleted.life.stamp
    }

    /// Puts what [`RowState::change`] gave over the state that it was computed from, or over
    /// what changes of the same transaction gave before. Unlike a join, the later of two
    /// changes stands although both have the transaction's stamp.
    pub fn put_over(&mut self, part: &RowState) {
        if part.life.count != self.life.count {
            *self = part.clone();
            return;
        }
        for (column, cell) in &part.cells {
            match (self.cells.get_mut(column), cell) {
                (Some(Cell::Counter(known)), Cell::Counter(more)) => known.join(more),
                (Some(Cell::Set(known)), Cell::Set(more)) => known.put_over(more),
                _ => {
                    self.cells.insert(*column, cell.clone());
                }
            }
        }
    }

    /// What gives `to` the right of `from` to change the counter of `column`, up to
    /// `amount`, and how much that is; `None` if it is nothing.
    pub fn transfer(
        &self,
        column: ColumnId,
        (from, to): (NodeId, NodeId),
        side: Side,
        amount: u64,
    ) -> Option<(RowState, u64)> {
        let counter = self.counter(column)?;
        let (tally, given) = counter.giving(from, to, side, amount)?;
        Some((self.with_tally(column, counter, from, tally), given))
    }

    /// What moves all rights of `lost` to `heir`; `None` if there are none.
    pub fn take_over(&self, lost: NodeId, heir: NodeId) -> Option<RowState> {
        let mut part = RowState { life: self.life, cells: BTreeMap::new() };
        for (column, cell) in &self.cells {
            let Cell::Counter(counter) = cell else { continue };
            let mut after = counter.clone();
            let mut any = false;
            for side in [Side::Take, Side::Add] {
                if let Some((tally, _)) = after.giving(lost, heir, side, u64::MAX) {
                    after.tallies.insert(lost, tally);
                    any = true;
                }
            }
            if any {
                part.cells.insert(*column, Cell::Counter(counter.part(lost, after.tally(lost))));
            }
        }
        (!part.cells.is_empty()).then_some(part)
    }

    /// What every replica may do to the counters with bounds.
    pub fn shares(&self) -> Vec<(ColumnId, Vec<Share>)> {
        let shares = |(column, cell): (&ColumnId, &Cell)| match cell {
            Cell::Counter(counter) if counter.bounds.any() => Some((*column, counter.shares())),
            _ => None,
        };
        self.cells.iter().filter_map(shares).collect()
    }

    /// The counter in `column` of a row that is there.
    pub fn counter(&self, column: ColumnId) -> Option<&Counter> {
        match self.cells.get(&column) {
            Some(Cell::Counter(counter)) if self.is_live() => Some(counter),
            _ => None,
        }
    }

    fn with_tally(&self, column: ColumnId, counter: &Counter, node: NodeId, tally: Tally) -> RowState {
        let cells = BTreeMap::from([(column, Cell::Counter(counter.part(node, tally)))]);
        RowState { life: self.life, cells }
    }

    /// Forgets what every replica has applied: `stable` is what all of them have, and
    /// this replica has applied whatever they did before they knew that. A deleted row
    /// becomes blank. Returns whether something was forgotten.
    pub fn collect(&mut self, stable: &VersionVector) -> bool {
        if !self.is_live() {
            let known = !self.is_blank() && stable.covers(self.life.stamp);
            if known {
                *self = RowState::default();
            }
            return known;
        }
        self.cells.values_mut().fold(false, |any, cell| cell.collect(stable) | any)
    }
}

/// The cell that a new row begins with.
fn begin(column: ColumnId, change: &ColumnChange, stamp: Stamp, members: &[NodeId]) -> Result<Cell, Refused> {
    Ok(match change {
        ColumnChange::Set(value) => Cell::Register(Register { stamp, value: value.clone() }),
        ColumnChange::Add { amount, bounds } => {
            let within = bounds.lower.is_none_or(|b| b <= *amount) && bounds.upper.is_none_or(|b| *amount <= b);
            if !within {
                return Err(Refused::OutOfBounds(column));
            }
            let mut counter = Counter::new(*bounds, stamp);
            let tally = counter.beginning(*amount).ok_or(Refused::Overflow(column))?;
            counter.tallies.insert(stamp.origin, tally);
            counter.spread(stamp.origin, members);
            Cell::Counter(counter)
        }
        // Rounded sums would depend on the order of the writes.
        ColumnChange::AddNumeric(_) => return Err(Refused::Kind { column, kind: "column whose writes merge" }),
        ColumnChange::Elements { added, removed } => {
            Cell::Set(elements(&Set::default(), added, removed, stamp).map_err(|e| Refused::Element(column, e))?)
        }
    })
}

/// What puts elements into `set` and takes elements out. One that is in both lists is
/// put in.
fn elements(set: &Set, added: &[Value], removed: &[Value], stamp: Stamp) -> Result<Set, NotAKey> {
    let mut part = Set::default();
    for value in removed {
        part.elements.extend(set.removing(value, stamp)?);
    }
    for value in added {
        let (place, element) = set.adding(value, stamp)?;
        part.elements.insert(place, element);
    }
    Ok(part)
}

/// Notes the values of a life that ends, unless whoever ended it had seen them. Counters
/// and sets have no one write, so they are noted with a row whose insert was not seen.
fn lose(loser: &RowState, winner: &RowState, seen: &VersionVector, lost: &mut Vec<Lost>) {
    let whole = !seen.covers(loser.life.stamp);
    for (column, cell) in &loser.cells {
        let lost_stamp = match cell {
            Cell::Register(register) if !seen.covers(register.stamp) => register.stamp,
            Cell::Counter(counter) if whole && counter.tallies.contains_key(&loser.life.stamp.origin) => {
                loser.life.stamp
            }
            Cell::Set(set) if whole && !set.values().is_empty() => loser.life.stamp,
            _ => continue,
        };
        let kept = winner.cells.get(column);
        let kept_stamp = match kept {
            Some(Cell::Register(kept)) => kept.stamp,
            _ => winner.life.stamp,
        };
        note(column, cell.shown(), lost_stamp, kept.map(Cell::shown), kept_stamp, lost);
    }
}

/// Notes which of two writes of a column is lost, unless the other's author had seen it.
fn outdo(column: ColumnId, ours: &Cell, theirs: &Cell, context: JoinContext<'_>, lost: &mut Vec<Lost>) {
    let (our_stamp, their_stamp) = match (ours, theirs) {
        (Cell::Register(ours), Cell::Register(theirs)) => (ours.stamp, theirs.stamp),
        (Cell::Counter(ours), Cell::Counter(theirs)) => (ours.incarnation, theirs.incarnation),
        _ => return,
    };
    let (kept, kept_stamp, gone, gone_stamp, seen) = match their_stamp.cmp(&our_stamp) {
        Ordering::Equal => return,
        Ordering::Greater => (theirs, their_stamp, ours, our_stamp, context.author),
        Ordering::Less => (ours, our_stamp, theirs, their_stamp, context.here),
    };
    // Of a counter that lost, an update's part says little; its insert's part was noted.
    let says_all = !matches!(gone, Cell::Counter(gone) if !gone.tallies.contains_key(&gone_stamp.origin));
    if says_all && !seen.covers(gone_stamp) {
        note(&column, gone.shown(), gone_stamp, Some(kept.shown()), kept_stamp, lost);
    }
}

/// Equal values are no conflict.
fn note(
    column: &ColumnId,
    gone: Value,
    lost_stamp: Stamp,
    kept: Option<Value>,
    kept_stamp: Stamp,
    lost: &mut Vec<Lost>,
) {
    if kept.as_ref() != Some(&gone) {
        lost.push(Lost { column: *column, kept, kept_stamp, lost: gone, lost_stamp });
    }
}
