//! Rows by their names: from what people write to the keys that are proved, and from what
//! was proved to what people read.

use polity_base::key::KeyBuilder;
use polity_base::{ColumnId, IndexId, Key, Type, Value};
use polity_txn::byzantine::bft::ledger::records;

use super::definition::types;
use crate::error::{Condition, Error, Result};
use crate::expr::text::write;
use crate::expr::{Local, cast};

/// The key of a row, by the name of its table and the values of its primary key as text;
/// and the table's storage.
pub fn row_key(tables: &[(IndexId, records::Table)], table: &str, key: &[String]) -> Result<(IndexId, Key)> {
    let missing = || {
        let names: Vec<&str> = tables.iter().map(|(_, table)| table.definition.name.as_str()).collect();
        Error::new(Condition::UndefinedTable, format!("the ledger has no table \"{table}\""))
            .detail(format!("It has: {}.", names.join(", ")))
    };
    let (storage, table) = tables.iter().find(|(_, known)| known.definition.name == table).ok_or_else(missing)?;
    let definition = &table.definition;
    if key.len() != definition.key.len() {
        let names: Vec<&str> =
            definition.key.iter().filter_map(|id| definition.column(*id)).map(|c| c.name.as_str()).collect();
        let message = format!("the key of \"{}\" is ({})", definition.name, names.join(", "));
        return Err(Error::new(Condition::InvalidParameterValue, message).hint("Give as many values."));
    }
    let mut built = KeyBuilder::new(*storage);
    for (id, text) in definition.key.iter().zip(key) {
        built.push(&value(text, &type_of(table, *id))?).map_err(Error::internal)?;
    }
    Ok((*storage, built.finish()))
}

/// The type of a column; text, if the ledger was told of none.
pub fn type_of(table: &records::Table, column: ColumnId) -> Type {
    let types = types(&table.definition);
    types.into_iter().find(|(id, _)| *id == column).map_or(Type::Text, |(_, r#type)| r#type)
}

/// A value of a type, as text.
pub fn value(text: &str, r#type: &Type) -> Result<Value> {
    cast::convert(Value::Text(text.to_owned()), r#type, true, Local::UTC)
}

/// The names and values of a row's columns, by the table's record in the ledger.
pub fn shown(table: &records::Table, row: &[u8]) -> Result<Vec<(String, String)>> {
    let definition = &table.definition;
    let slots = definition.read_row(row).map_err(|e| Error::new(Condition::DataCorrupted, e.to_string()))?;
    let types = types(definition);
    let cell = |column: &polity_txn::byzantine::bft::ledger::rules::Column| {
        let value = slots.get(usize::from(column.id.0)).unwrap_or(&Value::Null);
        let r#type = types.iter().find(|(id, _)| *id == column.id).map_or(&Type::Text, |(_, r#type)| r#type);
        let text = if value.is_null() { "NULL".to_owned() } else { write(value, r#type, Local::UTC) };
        (column.name.clone(), text)
    };
    Ok(definition.columns.iter().map(cell).collect())
}
