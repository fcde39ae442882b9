//! What the ledger is told of a table.

use bytes::Bytes;
use polity_base::key::Direction;
use polity_base::{ColumnId, IndexId, Type};
use polity_txn::byzantine::bft::ledger::rules::{self, Definition, Reference, ValueKind};

use super::check;
use crate::catalog::{Catalog, Column, ForeignKey, Index, Table};
use crate::error::{Error, Result};

/// What the ledger is told of a table of the catalog. The same for the same table,
/// wherever it is made.
pub fn definition(catalog: &Catalog, table: &Table) -> Result<Definition> {
    let mut columns: Vec<&Column> = table.columns.iter().collect();
    columns.sort_by_key(|column| column.id);
    let mut checks = Vec::new();
    for column in &columns {
        if let Some(expression) = check::of_type(column)? {
            checks.push(rules::Check { name: format!("type of {}", column.name), expression });
        }
    }
    for written in &table.checks {
        let expression = check::encode(table, &written.expression)?;
        checks.push(rules::Check { name: written.name.clone(), expression });
    }
    let references = table.foreign_keys.iter().map(|key| reference(catalog, table, key));
    Ok(Definition {
        name: table.name.clone(),
        columns: columns.iter().map(|column| column_of(column)).collect::<Result<_>>()?,
        key: table.primary.columns.clone(),
        indexes: table.indexes.iter().map(index_of).collect(),
        references: references.collect::<Result<_>>()?,
        checks,
        extra: extra(&columns)?,
    })
}

fn column_of(column: &Column) -> Result<rules::Column> {
    let kind = kind(&column.r#type)
        .ok_or_else(|| Error::internal(format!("column \"{}\" of type {} in a ledger", column.name, column.r#type)))?;
    Ok(rules::Column {
        id: column.id,
        name: column.name.clone(),
        kind,
        not_null: column.not_null,
        missing: column.missing.clone(),
    })
}

fn index_of(index: &Index) -> rules::Index {
    rules::Index {
        name: index.name.clone(),
        storage: index.storage,
        unique: index.unique,
        columns: index.columns.clone(),
    }
}

fn reference(catalog: &Catalog, table: &Table, key: &ForeignKey) -> Result<Reference> {
    let own = (key.parent == table.id).then_some(table);
    let parent = own.or_else(|| catalog.tables.get(&key.parent).map(|parent| &**parent));
    let parent = parent.ok_or_else(|| Error::internal(format!("the parent of \"{}\" is gone", key.name)))?;
    let index = index_for(table, key)
        .ok_or_else(|| Error::internal(format!("no index shows who refers by \"{}\"", key.name)))?;
    Ok(Reference {
        name: key.name.clone(),
        columns: key.columns.clone(),
        parent: parent.primary.storage,
        parent_columns: key.parent_columns.clone(),
        index,
    })
}

/// The index by which it is seen who refers to a row: it begins with the columns of the
/// reference.
pub fn index_for(table: &Table, key: &ForeignKey) -> Option<IndexId> {
    let begins = |index: &&Index| {
        let up: Vec<Option<ColumnId>> =
            index.columns.iter().map(|(id, d)| (*d == Direction::Ascending).then_some(*id)).collect();
        up.len() >= key.columns.len() && up.iter().zip(&key.columns).all(|(has, wants)| *has == Some(*wants))
    };
    table.indexes.iter().find(begins).map(|index| index.storage)
}

/// The kind of values that a column of this type holds; none if a ledger keeps none such.
pub fn kind(r#type: &Type) -> Option<ValueKind> {
    Some(match r#type {
        Type::Bool => ValueKind::Bool,
        Type::Int2 => ValueKind::Int2,
        Type::Int4 => ValueKind::Int4,
        Type::Int8 => ValueKind::Int8,
        Type::Oid => ValueKind::Oid,
        Type::Float4 => ValueKind::Float4,
        Type::Float8 => ValueKind::Float8,
        Type::Numeric(_) => ValueKind::Numeric,
        Type::Text | Type::Varchar(_) | Type::Char(_) => ValueKind::Text,
        Type::Json | Type::Jsonb => ValueKind::Json,
        Type::Bytea => ValueKind::Bytea,
        Type::Date => ValueKind::Date,
        Type::Time => ValueKind::Time,
        Type::Timestamp => ValueKind::Timestamp,
        Type::TimestampTz => ValueKind::TimestampTz,
        Type::Interval => ValueKind::Interval,
        Type::Uuid => ValueKind::Uuid,
        Type::Array(_) => ValueKind::Array,
        Type::Name | Type::InternalChar | Type::Regclass | Type::Unknown | Type::Void => return None,
    })
}

/// The types of the columns, so that whoever reads a proof can show its row.
fn extra(columns: &[&Column]) -> Result<Bytes> {
    let types: Vec<(u16, &Type)> = columns.iter().map(|column| (column.id.0, &column.r#type)).collect();
    Ok(postcard::to_allocvec(&types).map_err(Error::internal)?.into())
}

/// The types that a definition remembers; empty if it was not made here.
pub fn types(definition: &Definition) -> Vec<(ColumnId, Type)> {
    let types: Vec<(u16, Type)> = postcard::from_bytes(&definition.extra).unwrap_or_default();
    types.into_iter().map(|(slot, r#type)| (ColumnId(slot), r#type)).collect()
}
