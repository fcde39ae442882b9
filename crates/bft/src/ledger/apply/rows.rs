//! Changes of rows, column by column: what a row is then depends on what it is now, so
//! that the changes of several authors come together.

use std::sync::Arc;

use polity_base::{Bounds, ColumnChange, ColumnId, Key, RowChange, Value, row};

use super::people::Actor;
use super::{Step, Work};
use crate::ledger::outcome::Refusal;
use crate::ledger::records::{Table, storage_of};
use crate::ledger::rules::{Definition, Slots};
use crate::ledger::storage::View;
use crate::transaction::Privileges;

impl<V: View> Work<'_, V> {
    pub(super) fn change_row(&mut self, actor: &Actor, key: &Key, change: &RowChange) -> Step {
        let storage = storage_of(key);
        let table: Arc<Table> = self.table(storage)?;
        let needed = match change {
            RowChange::Insert(_) => Privileges::INSERT,
            RowChange::Update(_) => Privileges::UPDATE,
            RowChange::Delete => Privileges::DELETE,
        };
        self.require(actor, storage, &table, needed)?;
        let definition = &table.definition;
        let stored = self.state.get(key)?;
        let row = match (change, stored) {
            (RowChange::Insert(_), Some(_)) => return Err(Refusal::Duplicate(definition.name.clone()).into()),
            (RowChange::Update(_) | RowChange::Delete, None) => return Err(Refusal::Missing(key.clone()).into()),
            (RowChange::Insert(columns), None) => {
                let mut slots = vec![Value::Null; definition.slots()];
                fill_counters(columns, &mut slots, definition);
                Some(changed(definition, slots, columns)?)
            }
            (RowChange::Update(columns), Some(stored)) => {
                Some(changed(definition, definition.read_row(&stored)?, columns)?)
            }
            (RowChange::Delete, Some(_)) => None,
        };
        self.put_row(key.clone(), row.map(|slots| row::encode(&slots)));
        Ok(())
    }
}

/// A new row's counters begin at 0.
fn fill_counters(columns: &[(ColumnId, ColumnChange)], slots: &mut Slots, definition: &Definition) {
    for (column, change) in columns {
        let kind = definition.column(*column).map(|column| column.kind);
        if let (ColumnChange::Add { .. }, Some(kind), Some(slot)) = (change, kind, slots.get_mut(usize::from(column.0)))
        {
            *slot = integer(kind, 0).unwrap_or(Value::Null);
        }
    }
}

fn changed(definition: &Definition, mut slots: Slots, columns: &[(ColumnId, ColumnChange)]) -> Result<Slots, Refusal> {
    for (id, change) in columns {
        let column = definition.column(*id);
        let column = column.ok_or_else(|| Refusal::Malformed(format!("\"{}\" has no column {id}", definition.name)))?;
        let Some(slot) = slots.get_mut(usize::from(id.0)) else {
            return Err(Refusal::Malformed(format!("\"{}\" has no slot {id}", definition.name)));
        };
        match change {
            ColumnChange::Set(value) => *slot = value.clone(),
            ColumnChange::Add { amount, bounds } => {
                // NULL stays NULL, as in SQL.
                if let Some(value) = slot.as_i64() {
                    let sum = value.checked_add(*amount).filter(|sum| is_within(*bounds, *sum));
                    let sum = sum.and_then(|sum| integer(column.kind, sum));
                    *slot = sum.ok_or_else(|| Refusal::OutOfRange(column.name.clone()))?;
                } else if !slot.is_null() {
                    return Err(Refusal::Malformed(format!("\"{}\" is no number", column.name)));
                }
            }
            ColumnChange::AddNumeric(amount) => match slot {
                Value::Null => {}
                Value::Numeric(value) => {
                    let sum = value.checked_add(*amount);
                    *value = sum.ok_or_else(|| Refusal::OutOfRange(column.name.clone()))?;
                }
                _ => return Err(Refusal::Malformed(format!("\"{}\" is no exact number", column.name))),
            },
            ColumnChange::Elements { .. } => {
                return Err(Refusal::Malformed(format!("\"{}\" is no set: there are none here", column.name)));
            }
        }
    }
    Ok(slots)
}

fn is_within(bounds: Bounds, value: i64) -> bool {
    bounds.lower.is_none_or(|lower| value >= lower) && bounds.upper.is_none_or(|upper| value <= upper)
}

/// A whole number as a value of a kind, if it is one.
fn integer(kind: crate::ledger::rules::ValueKind, value: i64) -> Option<Value> {
    use crate::ledger::rules::ValueKind;
    match kind {
        ValueKind::Int2 => i16::try_from(value).ok().map(Value::Int2),
        ValueKind::Int4 => i32::try_from(value).ok().map(Value::Int4),
        ValueKind::Int8 => Some(Value::Int8(value)),
        _ => None,
    }
}
