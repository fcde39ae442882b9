//! A row's state as bytes, in two values.
//!
//! The *visible row* is an ordinary row with a slot a column, so that whoever reads
//! needs to know nothing of merging. It is absent while the row is deleted. What
//! merging must remember besides stands under a key of its own
//! ([`polity_base::guarantee::merging_key`]): the life, the stamps of registers (their
//! values are in the visible row), and counters and sets whole.
//!
//! ```text
//! trace = version (1 byte) postcard of Trace
//! ```
//! Columns that were written together share a stamp, which is there once; the stamp of
//! the insert is the life's. A row that was inserted and never changed takes some 20
//! bytes of trace.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use polity_base::row::{NotARow, Slots, ValueRef, encode_sparse};
use polity_base::{ColumnId, Value};
use serde::{Deserialize, Serialize};

use crate::cell::{Cell, Counter, Register, Set};
use crate::row::{Life, RowState};
use crate::stamp::Stamp;

const VERSION: u8 = 1;

/// What merging remembers of a row besides its visible values.
#[derive(Serialize, Deserialize)]
struct Trace {
    life: Life,
    /// Stamps besides the life's, which is number 0
    stamps: Vec<Stamp>,
    /// Registers: how many columns from which one on have the stamp of which number
    registers: Vec<(u16, u16, u32)>,
    counters: Vec<(u16, Counter)>,
    sets: Vec<(u16, Set)>,
}

/// Bytes that are not a row's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not the state of a row: {0}")]
pub struct NotAState(pub &'static str);

impl From<NotARow> for NotAState {
    fn from(error: NotARow) -> NotAState {
        NotAState(error.0)
    }
}

impl RowState {
    /// The state whose two values are stored; both absent: nothing is known of the row.
    pub fn load(visible: Option<&[u8]>, trace: Option<&[u8]>) -> Result<RowState, NotAState> {
        let Some(trace) = trace else {
            return match visible {
                None => Ok(RowState::default()),
                Some(_) => Err(NotAState("a row without a trace")),
            };
        };
        let (version, trace) = trace.split_first().ok_or(NotAState("empty"))?;
        if *version != VERSION {
            return Err(NotAState("unknown version"));
        }
        let (trace, rest) = postcard::take_from_bytes::<Trace>(trace).map_err(|_| NotAState("damaged trace"))?;
        if !rest.is_empty() {
            return Err(NotAState("bytes behind the trace"));
        }
        let mut cells = registers(&trace, visible)?;
        cells.extend(trace.counters.into_iter().map(|(column, c)| (ColumnId(column), Cell::Counter(c))));
        cells.extend(trace.sets.into_iter().map(|(column, set)| (ColumnId(column), Cell::Set(set))));
        let state = RowState { life: trace.life, cells };
        match visible {
            _ if state.is_blank() => Err(NotAState("a trace of nothing")),
            None if !state.cells.is_empty() => Err(NotAState("a trace without its row")),
            Some(_) if !state.is_live() => Err(NotAState("a row that was deleted")),
            None if state.is_live() => Err(NotAState("a trace without its row")),
            _ => Ok(state),
        }
    }

    /// The visible row; `None` if it is not there.
    pub fn visible(&self) -> Option<Bytes> {
        if !self.is_live() {
            return None;
        }
        let shown: Vec<(ColumnId, Cow<'_, Value>)> =
            self.cells.iter().map(|(column, cell)| (*column, cell.shown_here())).collect();
        let mut slots: Vec<Option<&Value>> = Vec::new();
        for (column, value) in &shown {
            slots.resize(usize::from(column.0), None);
            slots.push(Some(value));
        }
        Some(encode_sparse(slots))
    }

    /// What is to be remembered besides; `None` if nothing is known of the row.
    pub fn trace(&self) -> Option<Bytes> {
        if self.is_blank() {
            return None;
        }
        let mut trace = Trace {
            life: self.life,
            stamps: Vec::new(),
            registers: Vec::new(),
            counters: Vec::new(),
            sets: Vec::new(),
        };
        for (column, cell) in &self.cells {
            match cell {
                Cell::Register(register) => trace.note(*column, register.stamp),
                Cell::Counter(counter) => trace.counters.push((column.0, counter.clone())),
                Cell::Set(set) => trace.sets.push((column.0, set.clone())),
            }
        }
        // Maps and numbers always have bytes; a state that had none could not be kept.
        let bytes = postcard::to_extend(&trace, vec![VERSION]).unwrap_or_default();
        Some(bytes.into())
    }
}

impl Cell {
    /// The value that readers see.
    pub fn shown(&self) -> Value {
        self.shown_here().into_owned()
    }

    fn shown_here(&self) -> Cow<'_, Value> {
        match self {
            Cell::Register(register) => Cow::Borrowed(&register.value),
            Cell::Counter(counter) => Cow::Owned(Value::Int8(counter.value())),
            Cell::Set(set) => Cow::Owned(Value::Array(set.values())),
        }
    }
}

impl Trace {
    fn note(&mut self, column: ColumnId, stamp: Stamp) {
        let number = if stamp == self.life.stamp {
            0
        } else {
            let known = self.stamps.iter().position(|s| *s == stamp);
            known.unwrap_or_else(|| {
                self.stamps.push(stamp);
                self.stamps.len() - 1
            }) as u32
                + 1
        };
        match self.registers.last_mut() {
            Some((first, count, of)) if *of == number && first.checked_add(*count) == Some(column.0) => *count += 1,
            _ => self.registers.push((column.0, 1, number)),
        }
    }

    fn stamp(&self, number: u32) -> Result<Stamp, NotAState> {
        match number.checked_sub(1) {
            None => Ok(self.life.stamp),
            Some(at) => self.stamps.get(at as usize).copied().ok_or(NotAState("no such stamp")),
        }
    }
}

/// The registers: stamps from the trace, values from the visible row.
fn registers(trace: &Trace, visible: Option<&[u8]>) -> Result<BTreeMap<ColumnId, Cell>, NotAState> {
    let mut cells = BTreeMap::new();
    let Some(visible) = visible else {
        return if trace.registers.is_empty() { Ok(cells) } else { Err(NotAState("a trace without its row")) };
    };
    let mut slots = Slots::of(visible)?;
    let mut at = 0;
    for (first, count, number) in &trace.registers {
        let stamp = trace.stamp(*number)?;
        for column in (u32::from(*first)..).take(usize::from(*count)) {
            while at < column {
                slots.skip()?;
                at += 1;
            }
            if at > column {
                return Err(NotAState("columns out of order"));
            }
            let value = match slots.next_slot()? {
                Some(ValueRef::Absent) | None => return Err(NotAState("a stamp without its value")),
                Some(value) => value.to_value()?,
            };
            at += 1;
            let column = u16::try_from(column).map_err(|_| NotAState("no such column"))?;
            cells.insert(ColumnId(column), Cell::Register(Register { stamp, value }));
        }
    }
    Ok(cells)
}
