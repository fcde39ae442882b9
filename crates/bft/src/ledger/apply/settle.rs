//! What must be true once a transaction is through: every row it touched is as its
//! table's definition says, indexes have the entries that follow from rows, no entry is
//! there twice, and no reference leads nowhere.
//!
//! All of it is judged by what the rows were before the transaction and are after it, so
//! the order of its operations does not matter: two rows may swap values that are unique.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use polity_base::{ColumnId, IndexId, Key, Value};

use super::{Step, Work};
use crate::ledger::outcome::Refusal;
use crate::ledger::records::{Table, storage_of};
use crate::ledger::rules::{Reference, Slots};
use crate::ledger::storage::View;

/// A row that a transaction touched.
struct Touched {
    storage: IndexId,
    key: Key,
    table: Arc<Table>,
    old: Option<Slots>,
    new: Option<Slots>,
}

impl<V: View> Work<'_, V> {
    pub(super) fn settle(&mut self) -> Step {
        let touched = self.touched_rows()?;
        for row in &touched {
            if let Some(new) = &row.new {
                row.table.definition.judge(self.given.rules, row.storage, &row.key, new)?;
            }
        }
        self.index(&touched)?;
        for row in &touched {
            self.refer(row)?;
            self.be_referred_to(row)?;
        }
        Ok(())
    }

    /// The rows that are not what they were.
    fn touched_rows(&mut self) -> Step<Vec<Touched>> {
        let keys: Vec<Key> = self.state.touched().filter(|key| self.rows.contains(&storage_of(key))).cloned().collect();
        let mut touched = Vec::with_capacity(keys.len());
        for key in keys {
            let (old, new) = (self.state.get_before(&key)?, self.state.get(&key)?);
            if old == new {
                continue;
            }
            let storage = storage_of(&key);
            let table = self.table(storage)?;
            let read = |row: Option<Bytes>| row.map(|row| table.definition.read_row(&row)).transpose();
            let (old, new) = (read(old)?, read(new)?);
            touched.push(Touched { storage, key, table, old, new });
        }
        Ok(touched)
    }

    /// Puts entries in and takes entries out; those that are there twice refuse it.
    fn index(&mut self, touched: &[Touched]) -> Step {
        let mut added: Vec<(Key, Bytes, String)> = Vec::new();
        for row in touched {
            let definition = &row.table.definition;
            let entries = |slots: &Option<Slots>| match slots {
                Some(slots) => definition.entries(&row.key, slots),
                None => Ok(Vec::new()),
            };
            let mut old: BTreeMap<Key, ()> = entries(&row.old)?.into_iter().map(|(key, ..)| (key, ())).collect();
            for (key, value, index) in entries(&row.new)? {
                if old.remove(&key).is_none() {
                    added.push((key, value, index.name.clone()));
                }
            }
            old.into_keys().for_each(|key| self.state.put(key, None));
        }
        for (key, value, index) in added {
            if self.state.get(&key)?.is_some() {
                return Err(Refusal::Duplicate(index).into());
            }
            self.state.put(key, Some(value));
        }
        Ok(())
    }

    /// What a row refers to must be there.
    fn refer(&mut self, row: &Touched) -> Step {
        let Some(new) = &row.new else { return Ok(()) };
        for reference in &row.table.definition.references {
            let Some(values) = reference.values(new) else { continue };
            if row.old.as_ref().and_then(|old| reference.values(old)).as_ref() == Some(&values) {
                continue;
            }
            if !self.is_there(reference, &values)? {
                return Err(Refusal::Reference(reference.name.clone()).into());
            }
        }
        Ok(())
    }

    /// Nobody may refer to what a row was and is not any more.
    fn be_referred_to(&mut self, row: &Touched) -> Step {
        let Some(old) = &row.old else { return Ok(()) };
        for referrer in &row.table.referrers {
            let child = self.table(*referrer)?;
            for reference in child.definition.references.iter().filter(|r| r.parent == row.storage) {
                let was = columns_of(old, &reference.parent_columns);
                if row.new.as_ref().map(|new| columns_of(new, &reference.parent_columns)).as_ref() == Some(&was) {
                    continue;
                }
                let Some(prefix) = reference.entries_of(old) else { continue };
                // Another row may have taken its place.
                if self.state.any(&prefix.prefix_span())? && !self.is_there(reference, &was)? {
                    return Err(Refusal::Reference(reference.name.clone()).into());
                }
            }
        }
        Ok(())
    }

    /// Whether the row is there that a reference with these values leads to.
    pub(super) fn is_there(&mut self, reference: &Reference, values: &[&Value]) -> Step<bool> {
        let parent = self.table(reference.parent)?;
        let key = parent.definition.referred_key(reference.parent, &reference.parent_columns, values);
        let key = key.ok_or_else(|| Refusal::Reference(reference.name.clone()))?;
        Ok(self.state.get(&key)?.is_some())
    }
}

fn columns_of<'a>(row: &'a Slots, columns: &[ColumnId]) -> Vec<&'a Value> {
    columns.iter().map(|column| row.get(usize::from(column.0)).unwrap_or(&Value::Null)).collect()
}
