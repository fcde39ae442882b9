//! How rows and index entries of a table are laid out in the store.
//!
//! ```text
//! table row      storage id, primary key columns (or the hidden number)  ->  all slots
//! index entry    storage id, indexed columns [, rest of the row's key]   ->  the row's key
//! ```
//! A *user row* has one value per live column, in the table's column order; a
//! *stored row* has one slot per column id, NULL where the column was dropped.
//! The rest of the row's key is part of an index entry unless the index is
//! unique and no indexed value is NULL: then equal entries would be one key,
//! which is how uniqueness is kept.

use bytes::Bytes;
use polity_base::key::KeyBuilder;
use polity_base::row::{self, Slots, ValueRef};
use polity_base::{ColumnId, Key, Value};

use super::model::{ForeignKey, Index, Table};
use crate::error::{Condition, Error, Result};

/// Bytes of a key before its columns: the storage id.
pub const STORAGE_BYTES: usize = 4;

/// The stored form of a user row.
pub fn store(table: &Table, row: &[Value]) -> Bytes {
    let mut out = Vec::with_capacity(64);
    store_to(table, row, &mut out);
    out.into()
}

/// Appends the stored form of a user row to `out`.
pub fn store_to(table: &Table, row: &[Value], out: &mut Vec<u8>) {
    debug_assert_eq!(row.len(), table.columns.len());
    if usize::from(table.next_column) == table.columns.len() {
        return row::encode_to(row, out);
    }
    let mut live = table.columns.iter().zip(row).peekable();
    let slots = (0..table.next_column).map(|slot| match live.next_if(|(c, _)| c.id.0 == slot) {
        Some((_, value)) => value,
        None => &Value::Null,
    });
    row::encode_to(slots, out);
}

/// The user row of a stored row.
pub fn load(table: &Table, stored: &[u8]) -> Result<Vec<Value>> {
    let damaged = |e: row::NotARow| damaged(table, e);
    let mut slots = Slots::of(stored).map_err(damaged)?;
    let mut values = Vec::with_capacity(table.columns.len());
    let mut slot = 0;
    let mut more = true;
    for column in &table.columns {
        while more && slot < column.id.0 {
            more = slots.skip().map_err(damaged)?;
            slot += 1;
        }
        let value = if more { slots.next_slot().map_err(damaged)? } else { None };
        slot += 1;
        values.push(match value {
            Some(ValueRef::Absent) => column.missing.clone(),
            Some(v) => v.to_value().map_err(damaged)?,
            None => {
                more = false;
                column.missing.clone()
            }
        });
    }
    Ok(values)
}

fn damaged(table: &Table, e: row::NotARow) -> Error {
    Error::new(Condition::DataCorrupted, format!("a row of table \"{}\" cannot be read", table.name))
        .detail(format!("The stored bytes are {e}."))
        .table(&table.name)
}

/// Where in a user row the column with this id stands.
pub fn position(table: &Table, id: ColumnId) -> Result<usize> {
    table
        .columns
        .iter()
        .position(|c| c.id == id)
        .ok_or_else(|| Error::internal(format!("table \"{}\" has no live column in slot {}", table.name, id.0)))
}

/// The key of a user row, for a table with a primary key.
pub fn row_key(table: &Table, row: &[Value]) -> Result<Key> {
    if table.has_hidden_key() {
        return Err(Error::internal(format!("table \"{}\" has no primary key to build a key from", table.name)));
    }
    let mut key = KeyBuilder::new(table.primary.storage);
    for id in &table.primary.columns {
        let value = row.get(position(table, *id)?).unwrap_or(&Value::Null);
        key.push(value).map_err(Error::internal)?;
    }
    Ok(key.finish())
}

/// The key of the row whose primary key columns have these values, in the order
/// of the primary key; fewer values give a prefix.
pub fn primary_prefix<'a>(table: &Table, values: impl IntoIterator<Item = &'a Value>) -> Result<Key> {
    let mut key = KeyBuilder::new(table.primary.storage);
    for value in values {
        key.push(value).map_err(Error::internal)?;
    }
    Ok(key.finish())
}

/// The key of the row with this hidden number, for a table without a primary key.
pub fn hidden_key(table: &Table, number: i64) -> Result<Key> {
    let mut key = KeyBuilder::new(table.primary.storage);
    key.push(&Value::Int8(number)).map_err(Error::internal)?;
    Ok(key.finish())
}

/// The key of the entry that `index` has for a user row stored at `row_key`.
pub fn index_key(table: &Table, index: &Index, row: &[Value], row_key: &[u8]) -> Result<Key> {
    let mut key = KeyBuilder::new(index.storage);
    let mut distinct = index.unique;
    for (id, direction) in &index.columns {
        let value = row.get(position(table, *id)?).unwrap_or(&Value::Null);
        distinct &= !value.is_null();
        key.push_directed(value, *direction).map_err(Error::internal)?;
    }
    if !distinct {
        key.push_raw(row_key.get(STORAGE_BYTES..).unwrap_or_default());
    }
    Ok(key.finish())
}

/// Key and value of the entry that `index` has for a user row stored at `row_key`.
pub fn index_entry(table: &Table, index: &Index, row: &[Value], row_key: &Key) -> Result<(Key, Bytes)> {
    Ok((index_key(table, index, row, row_key)?, row_key.0.clone()))
}

/// What the entries of `index` begin with whose first columns have these
/// values, in the order of the index; with a value for every column of a unique
/// index, and none NULL, the one entry's key.
pub fn index_prefix<'a>(index: &Index, values: impl IntoIterator<Item = &'a Value>) -> Result<Key> {
    let mut key = KeyBuilder::new(index.storage);
    for ((_, direction), value) in index.columns.iter().zip(values) {
        key.push_directed(value, *direction).map_err(Error::internal)?;
    }
    Ok(key.finish())
}

/// Where the row of `parent` is found that a reference with these values (in the
/// order of the reference's columns) points at: the key of the row itself, or of
/// its entry in a unique index. `None` when a value is NULL.
pub fn reference_key<'a>(
    parent: &Table,
    reference: &ForeignKey,
    values: impl IntoIterator<Item = &'a Value>,
) -> Result<Option<Key>> {
    let values: Vec<(ColumnId, &Value)> = reference.parent_columns.iter().copied().zip(values).collect();
    if values.iter().any(|(_, v)| v.is_null()) {
        return Ok(None);
    }
    let value_of = |id: &ColumnId| values.iter().find(|(c, _)| c == id).map(|(_, v)| *v);
    let covers = |columns: &[ColumnId]| columns.len() == values.len() && columns.iter().all(|c| value_of(c).is_some());
    if !parent.has_hidden_key() && covers(&parent.primary.columns) {
        return primary_prefix(parent, parent.primary.columns.iter().filter_map(value_of)).map(Some);
    }
    for index in parent.indexes.iter().filter(|i| i.unique) {
        let columns: Vec<ColumnId> = index.columns.iter().map(|(c, _)| *c).collect();
        if covers(&columns) {
            return index_prefix(index, columns.iter().filter_map(value_of)).map(Some);
        }
    }
    Err(Error::internal(format!("nothing keeps what \"{}\" references unique", reference.name)))
}

#[cfg(test)]
mod tests {
    use polity_base::key::Direction;
    use polity_base::{IndexId, TableId, Type};

    use super::*;
    use crate::catalog::model::{Column, Primary};

    fn column(id: u16, missing: Value) -> Column {
        Column {
            id: ColumnId(id),
            name: format!("c{id}"),
            r#type: Type::Int4,
            not_null: false,
            default: None,
            identity: None,
            merge: Default::default(),
            missing,
            comment: None,
        }
    }

    fn table(columns: Vec<Column>, next_column: u16, key: &[u16]) -> Table {
        Table {
            columns,
            next_column,
            primary: Primary {
                storage: IndexId(20_000),
                id: None,
                name: None,
                columns: key.iter().map(|c| ColumnId(*c)).collect(),
            },
            ..Table::new(TableId(20_000), "t", IndexId(20_000))
        }
    }

    #[test]
    fn a_row_comes_back_as_it_went() {
        let t = table(vec![column(0, Value::Null), column(1, Value::Null)], 2, &[0]);
        let row = vec![Value::Int4(1), Value::Text("a".into())];
        assert_eq!(load(&t, &store(&t, &row)).unwrap(), row);
    }

    #[test]
    fn dropped_columns_leave_a_hole_and_added_ones_have_their_missing_value() {
        let old = table(vec![column(0, Value::Null), column(1, Value::Null)], 2, &[0]);
        let bytes = store(&old, &[Value::Int4(1), Value::Int4(2)]);
        let new = table(vec![column(0, Value::Null), column(2, Value::Int4(7)), column(3, Value::Null)], 4, &[0]);
        assert_eq!(load(&new, &bytes).unwrap(), [Value::Int4(1), Value::Int4(7), Value::Null]);
        let row = [Value::Int4(1), Value::Int4(8), Value::Int4(9)];
        let bytes = store(&new, &row);
        assert_eq!(row::decode(&bytes).unwrap(), [Value::Int4(1), Value::Null, Value::Int4(8), Value::Int4(9)]);
        assert_eq!(load(&new, &bytes).unwrap(), row);
    }

    #[test]
    fn unique_entries_collide_unless_one_is_null() {
        let t = table(vec![column(0, Value::Null), column(1, Value::Null)], 2, &[0]);
        let index = Index {
            columns: vec![(ColumnId(1), Direction::Ascending)],
            unique: true,
            ..Index::new(TableId(20_001), "i", IndexId(20_001))
        };
        let key = |row: [Value; 2]| index_key(&t, &index, &row, &row_key(&t, &row).unwrap()).unwrap();
        assert_eq!(key([Value::Int4(1), Value::Int4(5)]), key([Value::Int4(2), Value::Int4(5)]));
        assert_ne!(key([Value::Int4(1), Value::Null]), key([Value::Int4(2), Value::Null]));
        assert_eq!(key([Value::Int4(1), Value::Int4(5)]), index_prefix(&index, [&Value::Int4(5)]).unwrap());
    }

    #[test]
    fn damage_is_an_error() {
        let t = table(vec![column(0, Value::Null)], 1, &[0]);
        assert_eq!(load(&t, &[9, 9]).unwrap_err().condition(), Condition::DataCorrupted);
    }
}
