//! Stored rows straight into columns.
//!
//! A stored row says the type of every slot, and slots come in the order of
//! column ids. The decoder passes over the slots nobody asked for, and stops
//! after the last one that somebody did.

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use polity_base::row::{NotARow, Slots, ValueRef};
use polity_base::{Interval, Value};

use crate::catalog::model::Table;
use crate::error::{Condition, Error, Result};
use crate::query::types::{self, Builder};

/// The column that shows a row's key.
pub const KEY_COLUMN: &str = "__polity_key";

/// The Arrow schema of a table, with the key column at its end if asked for.
pub fn schema(table: &Table, with_key: bool) -> SchemaRef {
    let mut fields: Vec<Field> =
        table.columns.iter().map(|c| Field::new(&c.name, types::data_type(&c.r#type), !c.not_null)).collect();
    if with_key {
        fields.push(Field::new(KEY_COLUMN, DataType::Binary, false));
    }
    Arc::new(Schema::new(fields))
}

/// Which slots go where.
#[derive(Debug)]
pub struct Decoder {
    table: Arc<Table>,
    schema: SchemaRef,
    /// Slots asked for, in their order: slot, output column, value when missing
    wanted: Vec<(u16, usize, Value)>,
    /// The output column for the key
    key: Option<usize>,
}

impl Decoder {
    /// A decoder for the columns `projection` of [`schema`].
    pub fn new(table: &Arc<Table>, full: &SchemaRef, projection: &[usize]) -> Result<Decoder> {
        let mut wanted = Vec::with_capacity(projection.len());
        let mut key = None;
        for (output, &column) in projection.iter().enumerate() {
            match table.columns.get(column) {
                Some(c) => wanted.push((c.id.0, output, c.missing.clone())),
                None => key = Some(output),
            }
        }
        wanted.sort_by_key(|(slot, _, _)| *slot);
        let schema = Arc::new(full.project(projection).map_err(Error::internal)?);
        Ok(Decoder { table: table.clone(), schema, wanted, key })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Empty columns with room for `rows` rows.
    pub fn begin(&self, rows: usize) -> Result<Columns> {
        let builders = self.schema.fields().iter().map(|f| Builder::new(f.data_type(), rows)).collect::<Result<_>>()?;
        Ok(Columns { builders, rows: 0 })
    }

    /// Appends one stored row.
    pub fn append(&self, columns: &mut Columns, key: &[u8], row: &[u8]) -> Result<()> {
        columns.rows += 1;
        if let Some(output) = self.key
            && let Some(Builder::Bytes(b)) = columns.builders.get_mut(output)
        {
            b.append_value(key);
        }
        let mut slots = Slots::of(row).map_err(|e| self.damaged(e))?;
        let mut at = 0;
        let mut more = true;
        for (slot, output, missing) in &self.wanted {
            while more && at < *slot {
                more = slots.skip().map_err(|e| self.damaged(e))?;
                at += 1;
            }
            let Some(builder) = columns.builders.get_mut(*output) else { continue };
            let value = if more { slots.next_slot().map_err(|e| self.damaged(e))? } else { None };
            at += 1;
            match value {
                Some(ValueRef::Absent) => builder.value(missing)?,
                Some(value) => push(builder, value)?,
                None => {
                    more = false;
                    builder.value(missing)?;
                }
            }
        }
        Ok(())
    }

    /// The batch of what was appended.
    pub fn finish(&self, columns: Columns) -> Result<RecordBatch> {
        let arrays = columns.builders.into_iter().map(Builder::finish).collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(columns.rows));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(|e| {
            Error::new(Condition::DataCorrupted, format!("rows of table \"{}\" cannot be read", self.table.name))
                .detail(format!("{e}."))
        })
    }

    fn damaged(&self, e: NotARow) -> Error {
        Error::new(Condition::DataCorrupted, format!("a row of table \"{}\" cannot be read", self.table.name))
            .detail(format!("The stored bytes are {e}."))
            .table(&self.table.name)
    }
}

/// Columns that are being filled.
pub struct Columns {
    builders: Vec<Builder>,
    rows: usize,
}

impl Columns {
    /// Rows so far.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Appends a stored value. The hot loop of every scan.
#[inline]
fn push(builder: &mut Builder, value: ValueRef<'_>) -> Result<()> {
    match (builder, value) {
        (Builder::Int4(b), ValueRef::Int4(v)) => b.append_value(v),
        (Builder::Text(b), ValueRef::Text(v) | ValueRef::Json(v)) => b.append_value(v),
        (Builder::Fixed(b, scale), ValueRef::Numeric(v)) if v.scale() == *scale => b.append_value(v.mantissa()),
        (Builder::Date(b), ValueRef::Date(v)) => b.append_value(v),
        (Builder::Int8(b), ValueRef::Int8(v)) => b.append_value(v),
        (Builder::Int2(b), ValueRef::Int2(v)) => b.append_value(v),
        (Builder::Float4(b), ValueRef::Float4(v)) => b.append_value(v),
        (Builder::Float8(b), ValueRef::Float8(v)) => b.append_value(v),
        (b, ValueRef::Absent | ValueRef::Null) => b.null(),
        (Builder::Bool(b), ValueRef::Bool(v)) => b.append_value(v),
        (Builder::Timestamp(b), ValueRef::Timestamp(v)) => b.append_value(v),
        (Builder::TimestampTz(b), ValueRef::TimestampTz(v)) => b.append_value(v),
        (Builder::Time(b), ValueRef::Time(v)) => b.append_value(v),
        (Builder::Oid(b), ValueRef::Oid(v)) => b.append_value(v),
        (Builder::Bytes(b), ValueRef::Bytea(v)) => b.append_value(v),
        (Builder::Interval(b), ValueRef::Interval(Interval { months, days, micros })) => {
            b.append_value(types::interval_in(Interval { months, days, micros })?);
        }
        (b, ValueRef::Numeric(v)) => b.numeric(v)?,
        (b, other) => b.value(&other.to_value().map_err(Error::internal)?)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use polity_base::{ColumnId, IndexId, TableId, Type};

    use super::*;
    use crate::catalog::model::Column;

    fn column(id: u16, r#type: Type, missing: Value) -> Column {
        Column {
            id: ColumnId(id),
            name: format!("c{id}"),
            r#type,
            not_null: false,
            default: None,
            identity: None,
            merge: Default::default(),
            missing,
            comment: None,
        }
    }

    #[test]
    fn only_wanted_slots_are_decoded_and_missing_ones_filled_in() {
        let mut table = Table::new(TableId(1), "t", IndexId(20_000));
        table.columns = vec![
            column(0, Type::Int4, Value::Null),
            column(2, Type::Text, Value::Null),
            column(3, Type::Numeric(Some((5, 2))), Value::Null),
            column(5, Type::Int8, Value::Int8(7)),
        ];
        table.next_column = 6;
        let table = Arc::new(table);
        let full = schema(&table, true);
        let decoder = Decoder::new(&table, &full, &[4, 3, 1, 2]).unwrap();
        let row = polity_base::row::encode(&[
            Value::Int4(1),
            Value::Null,
            Value::Text("x".into()),
            Value::Numeric("1.50".parse().unwrap()),
        ]);
        let mut columns = decoder.begin(1).unwrap();
        decoder.append(&mut columns, b"key", &row).unwrap();
        let batch = decoder.finish(columns).unwrap();
        let types = [Type::Bytea, Type::Int8, Type::Text, Type::Numeric(Some((5, 2)))];
        assert_eq!(
            types::rows(&batch, &types, 0, 1).unwrap(),
            [vec![
                Value::Bytea(bytes::Bytes::from_static(b"key")),
                Value::Int8(7),
                Value::Text("x".into()),
                Value::Numeric("1.50".parse().unwrap())
            ]]
        );
    }
}
