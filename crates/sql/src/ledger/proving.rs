//! Rows by their names: from what people write to the keys that are proved, and from what
//! was proved to what people read.

use polity_base::key::KeyBuilder;
use polity_base::{Guarantee, Key, Type, Value};
use polity_txn::byzantine::bft::ledger::records;

use super::definition::types;
use crate::error::{Condition, Error, Result};
use crate::expr::text::write;
use crate::expr::{Local, cast};
use crate::session::Engine;

/// The key of a row of a byzantine table, by the values of its primary key as text.
pub async fn row_key(engine: &Engine, table: &str, key: &[String]) -> Result<Key> {
    let catalog = engine.current_catalog().await?;
    let missing = || Error::new(Condition::UndefinedTable, format!("relation \"{table}\" does not exist"));
    let table = catalog.table(table).ok_or_else(missing)?;
    if table.guarantee != Guarantee::Byzantine {
        return Err(Error::new(
            Condition::WrongObjectType,
            format!("table \"{}\" is {}", table.name, table.guarantee.name()),
        )
        .detail("Rows of byzantine tables can be proved.")
        .table(&table.name));
    }
    if key.len() != table.primary.columns.len() {
        let names: Vec<&str> =
            table.primary.columns.iter().filter_map(|id| table.column_by_id(*id)).map(|c| c.name.as_str()).collect();
        return Err(Error::new(
            Condition::InvalidParameterValue,
            format!("the key of \"{}\" is ({})", table.name, names.join(", ")),
        )
        .hint("Give as many values.")
        .table(&table.name));
    }
    let mut built = KeyBuilder::new(table.primary.storage);
    for (id, text) in table.primary.columns.iter().zip(key) {
        let column = table.column_by_id(*id).ok_or_else(|| Error::internal("a key without its column"))?;
        built.push(&value(text, &column.r#type)?).map_err(Error::internal)?;
    }
    Ok(built.finish())
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
