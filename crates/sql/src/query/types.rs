//! SQL types and values as Arrow types and arrays, and back.
//!
//! | SQL                                   | Arrow                              |
//! |---------------------------------------|------------------------------------|
//! | boolean                               | Boolean                            |
//! | smallint, integer, bigint             | Int16, Int32, Int64                |
//! | real, double precision                | Float32, Float64                   |
//! | numeric(p, s), literals and sums      | Decimal128(38, s): *fixed*         |
//! | any other numeric                     | FixedSizeBinary(18): *free*, see [`super::numeric`] |
//! | text, varchar, char, name, json, jsonb| Utf8View                           |
//! | bytea                                 | Binary                             |
//! | date, time                            | Date32, Time64(µs)                 |
//! | timestamp, timestamptz                | Timestamp(µs), Timestamp(µs, UTC)  |
//! | interval                              | Interval(MonthDayNano)             |
//! | uuid                                  | FixedSizeBinary(16)                |
//! | oid, regclass                         | UInt32                             |
//! | T[]                                   | List of T's                        |

use std::sync::Arc;

use bytes::Bytes;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Array, Decimal128Builder,
    FixedSizeBinaryBuilder, Float32Builder, Float64Builder, Int16Builder, Int32Builder, Int64Builder,
    IntervalMonthDayNanoBuilder, ListArray, NullArray, StringViewBuilder, Time64MicrosecondBuilder,
    TimestampMicrosecondBuilder, UInt32Builder,
};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, Time64MicrosecondType, TimeUnit,
    TimestampMicrosecondType, UInt32Type,
};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use polity_base::{Decimal, Interval, Type, Value};

use super::numeric::{self, FREE_BYTES};
use crate::error::{Condition, Error, Result};

/// Digits of a fixed numeric.
pub const FIXED_DIGITS: u8 = 38;

/// The zone of Arrow's timestamps with time zone.
pub const UTC: &str = "+00:00";

/// The Arrow type of a fixed numeric.
pub fn fixed(scale: u8) -> DataType {
    DataType::Decimal128(FIXED_DIGITS, scale as i8)
}

/// The Arrow type of a free numeric.
pub fn free() -> DataType {
    DataType::FixedSizeBinary(FREE_BYTES)
}

/// The Arrow type for columns of a SQL type.
pub fn data_type(r#type: &Type) -> DataType {
    match r#type {
        Type::Bool => DataType::Boolean,
        Type::Int2 => DataType::Int16,
        Type::Int4 => DataType::Int32,
        Type::Int8 => DataType::Int64,
        Type::Float4 => DataType::Float32,
        Type::Float8 => DataType::Float64,
        Type::Numeric(Some((_, scale))) => fixed(*scale),
        Type::Numeric(None) => free(),
        Type::Text
        | Type::Varchar(_)
        | Type::Char(_)
        | Type::Name
        | Type::InternalChar
        | Type::Json
        | Type::Jsonb
        | Type::Unknown
        | Type::Void => DataType::Utf8View,
        Type::Bytea => DataType::Binary,
        Type::Date => DataType::Date32,
        Type::Time => DataType::Time64(TimeUnit::Microsecond),
        Type::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TimestampTz => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        Type::Interval => DataType::Interval(IntervalUnit::MonthDayNano),
        Type::Uuid => DataType::FixedSizeBinary(16),
        Type::Oid | Type::Regclass => DataType::UInt32,
        Type::Array(element) => list_of(element_type(element)),
    }
}

/// The Arrow type of an array's elements: numerics in arrays are always free.
pub fn element_type(element: &Type) -> DataType {
    match element {
        Type::Numeric(_) => free(),
        other => data_type(other),
    }
}

/// The Arrow type of lists of `element`.
pub fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", element, true)))
}

/// Months, days and microseconds as Arrow keeps them.
pub fn interval_in(v: Interval) -> Result<IntervalMonthDayNano> {
    let nanos = v
        .micros
        .checked_mul(1_000)
        .ok_or_else(|| Error::new(Condition::DatetimeFieldOverflow, "interval out of range"))?;
    Ok(IntervalMonthDayNano::new(v.months, v.days, nanos))
}

/// An interval of Arrow's as it is in SQL.
pub fn interval_out(v: IntervalMonthDayNano) -> Interval {
    Interval { months: v.months, days: v.days, micros: v.nanoseconds / 1_000 }
}

/// Builds an array of one Arrow type, value by value.
pub enum Builder {
    /// boolean
    Bool(BooleanBuilder),
    /// smallint
    Int2(Int16Builder),
    /// integer
    Int4(Int32Builder),
    /// bigint
    Int8(Int64Builder),
    /// oid
    Oid(UInt32Builder),
    /// real
    Float4(Float32Builder),
    /// double precision
    Float8(Float64Builder),
    /// fixed numeric, and its scale
    Fixed(Decimal128Builder, u8),
    /// free numeric
    Free(FixedSizeBinaryBuilder),
    /// text
    Text(StringViewBuilder),
    /// bytea
    Bytes(BinaryBuilder),
    /// date
    Date(Date32Builder),
    /// time
    Time(Time64MicrosecondBuilder),
    /// timestamp
    Timestamp(TimestampMicrosecondBuilder),
    /// timestamptz
    TimestampTz(TimestampMicrosecondBuilder),
    /// interval
    Interval(IntervalMonthDayNanoBuilder),
    /// uuid
    Uuid(FixedSizeBinaryBuilder),
    /// arrays: elements so far, where each array ends, whether it is NULL
    List(Box<Builder>, Vec<i32>, Vec<bool>),
    /// nothing but NULL
    Null(usize),
}

impl Builder {
    /// A builder of `data_type` with room for `capacity` values.
    pub fn new(data_type: &DataType, capacity: usize) -> Result<Builder> {
        Ok(match data_type {
            DataType::Boolean => Builder::Bool(BooleanBuilder::with_capacity(capacity)),
            DataType::Int16 => Builder::Int2(Int16Builder::with_capacity(capacity)),
            DataType::Int32 => Builder::Int4(Int32Builder::with_capacity(capacity)),
            DataType::Int64 => Builder::Int8(Int64Builder::with_capacity(capacity)),
            DataType::UInt32 => Builder::Oid(UInt32Builder::with_capacity(capacity)),
            DataType::Float32 => Builder::Float4(Float32Builder::with_capacity(capacity)),
            DataType::Float64 => Builder::Float8(Float64Builder::with_capacity(capacity)),
            DataType::Decimal128(p, s) => Builder::Fixed(
                Decimal128Builder::with_capacity(capacity).with_precision_and_scale(*p, *s).map_err(Error::internal)?,
                u8::try_from(*s).map_err(Error::internal)?,
            ),
            DataType::FixedSizeBinary(16) => Builder::Uuid(FixedSizeBinaryBuilder::with_capacity(capacity, 16)),
            DataType::FixedSizeBinary(n) => Builder::Free(FixedSizeBinaryBuilder::with_capacity(capacity, *n)),
            DataType::Utf8View => Builder::Text(StringViewBuilder::with_capacity(capacity)),
            DataType::Binary => Builder::Bytes(BinaryBuilder::with_capacity(capacity, capacity * 8)),
            DataType::Date32 => Builder::Date(Date32Builder::with_capacity(capacity)),
            DataType::Time64(TimeUnit::Microsecond) => Builder::Time(Time64MicrosecondBuilder::with_capacity(capacity)),
            DataType::Timestamp(TimeUnit::Microsecond, None) => {
                Builder::Timestamp(TimestampMicrosecondBuilder::with_capacity(capacity))
            }
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => {
                Builder::TimestampTz(TimestampMicrosecondBuilder::with_capacity(capacity).with_timezone(zone.clone()))
            }
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                Builder::Interval(IntervalMonthDayNanoBuilder::with_capacity(capacity))
            }
            DataType::List(field) => {
                Builder::List(Box::new(Builder::new(field.data_type(), capacity)?), Vec::new(), Vec::new())
            }
            DataType::Null => Builder::Null(0),
            other => return Err(Error::internal(format!("no values of Arrow type {other}"))),
        })
    }

    /// Appends NULL.
    pub fn null(&mut self) {
        match self {
            Builder::Bool(b) => b.append_null(),
            Builder::Int2(b) => b.append_null(),
            Builder::Int4(b) => b.append_null(),
            Builder::Int8(b) => b.append_null(),
            Builder::Oid(b) => b.append_null(),
            Builder::Float4(b) => b.append_null(),
            Builder::Float8(b) => b.append_null(),
            Builder::Fixed(b, _) => b.append_null(),
            Builder::Free(b) | Builder::Uuid(b) => b.append_null(),
            Builder::Text(b) => b.append_null(),
            Builder::Bytes(b) => b.append_null(),
            Builder::Date(b) => b.append_null(),
            Builder::Time(b) => b.append_null(),
            Builder::Timestamp(b) | Builder::TimestampTz(b) => b.append_null(),
            Builder::Interval(b) => b.append_null(),
            Builder::List(elements, ends, valid) => {
                ends.push(elements.len() as i32);
                valid.push(false);
            }
            Builder::Null(n) => *n += 1,
        }
    }

    /// How many values there are so far.
    pub fn len(&self) -> usize {
        use datafusion::arrow::array::ArrayBuilder;
        match self {
            Builder::Bool(b) => b.len(),
            Builder::Int2(b) => b.len(),
            Builder::Int4(b) => b.len(),
            Builder::Int8(b) => b.len(),
            Builder::Oid(b) => b.len(),
            Builder::Float4(b) => b.len(),
            Builder::Float8(b) => b.len(),
            Builder::Fixed(b, _) => b.len(),
            Builder::Free(b) | Builder::Uuid(b) => b.len(),
            Builder::Text(b) => b.len(),
            Builder::Bytes(b) => b.len(),
            Builder::Date(b) => b.len(),
            Builder::Time(b) => b.len(),
            Builder::Timestamp(b) | Builder::TimestampTz(b) => b.len(),
            Builder::Interval(b) => b.len(),
            Builder::List(_, ends, _) => ends.len(),
            Builder::Null(n) => *n,
        }
    }

    /// Whether there is no value yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends text.
    pub fn text(&mut self, v: &str) -> Result<()> {
        match self {
            Builder::Text(b) => b.append_value(v),
            _ => return Err(mismatch()),
        }
        Ok(())
    }

    /// Appends a number at the scale the array has.
    pub fn numeric(&mut self, v: Decimal) -> Result<()> {
        match self {
            Builder::Fixed(b, scale) => {
                let v = if v.scale() == *scale { Some(v) } else { v.rescale(*scale) };
                b.append_value(v.ok_or_else(numeric_overflow)?.mantissa());
            }
            Builder::Free(b) => b.append_value(numeric::encode(v)).map_err(Error::internal)?,
            _ => return Err(mismatch()),
        }
        Ok(())
    }

    /// Appends a value, which is of the array's type or NULL. Whole numbers fit
    /// wider types.
    pub fn value(&mut self, value: &Value) -> Result<()> {
        match (self, value) {
            (b, Value::Null) => b.null(),
            (Builder::Bool(b), Value::Bool(v)) => b.append_value(*v),
            (Builder::Int2(b), Value::Int2(v)) => b.append_value(*v),
            (Builder::Int4(b), Value::Int4(v)) => b.append_value(*v),
            (Builder::Int4(b), Value::Int2(v)) => b.append_value(i32::from(*v)),
            (Builder::Int8(b), v) => b.append_value(v.as_i64().ok_or_else(mismatch)?),
            (Builder::Oid(b), Value::Oid(v)) => b.append_value(*v),
            (Builder::Oid(b), v) => {
                b.append_value(v.as_i64().and_then(|v| u32::try_from(v).ok()).ok_or_else(mismatch)?);
            }
            (Builder::Float4(b), Value::Float4(v)) => b.append_value(*v),
            (Builder::Float8(b), Value::Float8(v)) => b.append_value(*v),
            (Builder::Float8(b), Value::Float4(v)) => b.append_value(f64::from(*v)),
            (b @ (Builder::Fixed(..) | Builder::Free(_)), Value::Numeric(v)) => b.numeric(*v)?,
            (b @ (Builder::Fixed(..) | Builder::Free(_)), v) => {
                b.numeric(Decimal::from(v.as_i64().ok_or_else(mismatch)?))?;
            }
            (Builder::Text(b), Value::Text(v) | Value::Json(v)) => b.append_value(v),
            (Builder::Bytes(b), Value::Bytea(v)) => b.append_value(v),
            (Builder::Date(b), Value::Date(v)) => b.append_value(*v),
            (Builder::Time(b), Value::Time(v)) => b.append_value(*v),
            (Builder::Timestamp(b), Value::Timestamp(v)) => b.append_value(*v),
            (Builder::TimestampTz(b), Value::TimestampTz(v)) => b.append_value(*v),
            (Builder::Interval(b), Value::Interval(v)) => b.append_value(interval_in(*v)?),
            (Builder::Uuid(b), Value::Uuid(v)) => b.append_value(v.to_be_bytes()).map_err(Error::internal)?,
            (Builder::List(elements, ends, valid), Value::Array(v)) => {
                v.iter().try_for_each(|e| elements.value(e))?;
                ends.push(elements.len() as i32);
                valid.push(true);
            }
            _ => return Err(mismatch()),
        }
        Ok(())
    }

    /// The array.
    pub fn finish(self) -> Result<ArrayRef> {
        Ok(match self {
            Builder::Bool(mut b) => Arc::new(b.finish()),
            Builder::Int2(mut b) => Arc::new(b.finish()),
            Builder::Int4(mut b) => Arc::new(b.finish()),
            Builder::Int8(mut b) => Arc::new(b.finish()),
            Builder::Oid(mut b) => Arc::new(b.finish()),
            Builder::Float4(mut b) => Arc::new(b.finish()),
            Builder::Float8(mut b) => Arc::new(b.finish()),
            Builder::Fixed(mut b, _) => Arc::new(b.finish()),
            Builder::Free(mut b) | Builder::Uuid(mut b) => Arc::new(b.finish()),
            Builder::Text(mut b) => Arc::new(b.finish()),
            Builder::Bytes(mut b) => Arc::new(b.finish()),
            Builder::Date(mut b) => Arc::new(b.finish()),
            Builder::Time(mut b) => Arc::new(b.finish()),
            Builder::Timestamp(mut b) | Builder::TimestampTz(mut b) => Arc::new(b.finish()),
            Builder::Interval(mut b) => Arc::new(b.finish()),
            Builder::List(elements, ends, valid) => {
                let elements = elements.finish()?;
                let field = Arc::new(Field::new("item", elements.data_type().clone(), true));
                let offsets = OffsetBuffer::new(std::iter::once(0).chain(ends).collect::<Vec<i32>>().into());
                let nulls = NullBuffer::from(valid);
                Arc::new(ListArray::try_new(field, offsets, elements, Some(nulls)).map_err(Error::internal)?)
            }
            Builder::Null(n) => Arc::new(NullArray::new(n)),
        })
    }
}

fn mismatch() -> Error {
    Error::internal("a value is not of its column's type")
}

/// A number with more digits than there is room for.
pub fn numeric_overflow() -> Error {
    Error::new(Condition::NumericValueOutOfRange, "numeric field overflow").detail("Numbers have at most 38 digits.")
}

/// One value as a constant of `data_type`.
pub fn scalar(value: &Value, data_type: &DataType) -> Result<ScalarValue> {
    let mut builder = Builder::new(data_type, 1)?;
    builder.value(value)?;
    ScalarValue::try_from_array(&builder.finish()?, 0).map_err(Error::internal)
}

/// Rows as a batch of `schema`, column by column.
pub fn batch(rows: &[Vec<Value>], schema: &datafusion::arrow::datatypes::SchemaRef) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (i, field) in schema.fields().iter().enumerate() {
        let mut builder = Builder::new(field.data_type(), rows.len())?;
        for row in rows {
            builder.value(row.get(i).unwrap_or(&Value::Null))?;
        }
        columns.push(builder.finish()?);
    }
    let options = datafusion::arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options).map_err(Error::internal)
}

/// Reads values out of an array.
pub struct Cells<'a> {
    array: &'a dyn Array,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Bool(&'a datafusion::arrow::array::BooleanArray),
    Int2(&'a [i16]),
    Int4(&'a [i32]),
    Int8(&'a [i64]),
    Oid(&'a [u32]),
    Float4(&'a [f32]),
    Float8(&'a [f64]),
    Fixed(&'a Decimal128Array, u8),
    Free(&'a datafusion::arrow::array::FixedSizeBinaryArray),
    Uuid(&'a datafusion::arrow::array::FixedSizeBinaryArray),
    Text(&'a datafusion::arrow::array::StringViewArray),
    Utf8(&'a datafusion::arrow::array::StringArray),
    Json(&'a datafusion::arrow::array::StringViewArray),
    Bytes(&'a datafusion::arrow::array::BinaryArray),
    Date(&'a [i32]),
    Time(&'a [i64]),
    Timestamp(&'a [i64]),
    TimestampTz(&'a [i64]),
    Interval(&'a [IntervalMonthDayNano]),
    List(&'a ListArray, Type),
    Null,
}

impl<'a> Cells<'a> {
    /// Reads `array`, whose values are of type `r#type`.
    pub fn new(array: &'a dyn Array, r#type: &Type) -> Result<Cells<'a>> {
        let is_json = matches!(r#type, Type::Json | Type::Jsonb);
        let kind = match array.data_type() {
            DataType::Boolean => Kind::Bool(array.as_boolean()),
            DataType::Int16 => Kind::Int2(array.as_primitive::<Int16Type>().values()),
            DataType::Int32 => Kind::Int4(array.as_primitive::<Int32Type>().values()),
            DataType::Int64 => Kind::Int8(array.as_primitive::<Int64Type>().values()),
            DataType::UInt32 => Kind::Oid(array.as_primitive::<UInt32Type>().values()),
            DataType::Float32 => Kind::Float4(array.as_primitive::<Float32Type>().values()),
            DataType::Float64 => Kind::Float8(array.as_primitive::<Float64Type>().values()),
            DataType::Decimal128(_, s) => {
                Kind::Fixed(array.as_primitive::<Decimal128Type>(), u8::try_from(*s).map_err(Error::internal)?)
            }
            DataType::FixedSizeBinary(16) => Kind::Uuid(array.as_fixed_size_binary()),
            DataType::FixedSizeBinary(_) => Kind::Free(array.as_fixed_size_binary()),
            DataType::Utf8View if is_json => Kind::Json(array.as_string_view()),
            DataType::Utf8View => Kind::Text(array.as_string_view()),
            DataType::Utf8 => Kind::Utf8(array.as_string()),
            DataType::Binary => Kind::Bytes(array.as_binary()),
            DataType::Date32 => Kind::Date(array.as_primitive::<Date32Type>().values()),
            DataType::Time64(_) => Kind::Time(array.as_primitive::<Time64MicrosecondType>().values()),
            DataType::Timestamp(_, None) => Kind::Timestamp(array.as_primitive::<TimestampMicrosecondType>().values()),
            DataType::Timestamp(_, _) => Kind::TimestampTz(array.as_primitive::<TimestampMicrosecondType>().values()),
            DataType::Interval(IntervalUnit::MonthDayNano) => {
                Kind::Interval(array.as_primitive::<IntervalMonthDayNanoType>().values())
            }
            DataType::List(_) => {
                let element = match r#type {
                    Type::Array(element) => (**element).clone(),
                    _ => Type::Text,
                };
                Kind::List(array.as_list(), element)
            }
            DataType::Null => Kind::Null,
            other => return Err(Error::internal(format!("no SQL values in Arrow type {other}"))),
        };
        Ok(Cells { array, kind })
    }

    /// Whether row `i` is NULL.
    pub fn is_null(&self, i: usize) -> bool {
        matches!(self.kind, Kind::Null) || self.array.is_null(i)
    }

    /// The array itself.
    pub fn array(&self) -> &'a dyn Array {
        self.array
    }

    /// The text in row `i`.
    pub fn text(&self, i: usize) -> Result<&'a str> {
        match &self.kind {
            Kind::Text(a) | Kind::Json(a) => Ok(a.value(i)),
            Kind::Utf8(a) => Ok(a.value(i)),
            _ => Err(mismatch()),
        }
    }

    /// The bytes in row `i`.
    pub fn bytes(&self, i: usize) -> Result<&'a [u8]> {
        match &self.kind {
            Kind::Bytes(a) => Ok(a.value(i)),
            Kind::Uuid(a) | Kind::Free(a) => Ok(a.value(i)),
            Kind::Text(a) | Kind::Json(a) => Ok(a.value(i).as_bytes()),
            _ => Err(mismatch()),
        }
    }

    /// The truth value in row `i`.
    pub fn bool(&self, i: usize) -> Result<bool> {
        match &self.kind {
            Kind::Bool(a) => Ok(a.value(i)),
            _ => Err(mismatch()),
        }
    }

    /// The whole number, date (days) or time (microseconds) in row `i`.
    pub fn int(&self, i: usize) -> Result<i64> {
        Ok(match &self.kind {
            Kind::Int2(a) => i64::from(a[i]),
            Kind::Int4(a) | Kind::Date(a) => i64::from(a[i]),
            Kind::Int8(a) | Kind::Time(a) | Kind::Timestamp(a) | Kind::TimestampTz(a) => a[i],
            Kind::Oid(a) => i64::from(a[i]),
            _ => return Err(mismatch()),
        })
    }

    /// The float or whole number in row `i`.
    pub fn float(&self, i: usize) -> Result<f64> {
        Ok(match &self.kind {
            Kind::Float4(a) => f64::from(a[i]),
            Kind::Float8(a) => a[i],
            Kind::Fixed(..) | Kind::Free(_) => self.numeric(i)?.to_f64(),
            _ => self.int(i)? as f64,
        })
    }

    /// The number in row `i`, which is not a float.
    pub fn numeric(&self, i: usize) -> Result<Decimal> {
        Ok(match &self.kind {
            Kind::Fixed(a, scale) => Decimal::new(a.value(i), *scale).ok_or_else(numeric_overflow)?,
            Kind::Free(a) => numeric::decode(a.value(i)),
            _ => Decimal::from(self.int(i)?),
        })
    }

    /// The interval in row `i`.
    pub fn interval(&self, i: usize) -> Result<Interval> {
        match &self.kind {
            Kind::Interval(a) => Ok(interval_out(a[i])),
            _ => Err(mismatch()),
        }
    }

    /// The elements of the array in row `i`.
    pub fn list(&self, i: usize) -> Result<Vec<Value>> {
        match self.value(i)? {
            Value::Array(elements) => Ok(elements),
            Value::Null => Ok(Vec::new()),
            _ => Err(mismatch()),
        }
    }

    /// The value in row `i`.
    pub fn value(&self, i: usize) -> Result<Value> {
        if self.array.is_null(i) {
            return Ok(Value::Null);
        }
        Ok(match &self.kind {
            Kind::Bool(a) => Value::Bool(a.value(i)),
            Kind::Int2(a) => Value::Int2(a[i]),
            Kind::Int4(a) => Value::Int4(a[i]),
            Kind::Int8(a) => Value::Int8(a[i]),
            Kind::Oid(a) => Value::Oid(a[i]),
            Kind::Float4(a) => Value::Float4(a[i]),
            Kind::Float8(a) => Value::Float8(a[i]),
            Kind::Fixed(a, scale) => Value::Numeric(Decimal::new(a.value(i), *scale).ok_or_else(numeric_overflow)?),
            Kind::Free(a) => Value::Numeric(numeric::decode(a.value(i))),
            Kind::Uuid(a) => Value::Uuid(u128::from_be_bytes(a.value(i).try_into().map_err(|_| mismatch())?)),
            Kind::Text(a) => Value::Text(a.value(i).to_owned()),
            Kind::Utf8(a) => Value::Text(a.value(i).to_owned()),
            Kind::Json(a) => Value::Json(a.value(i).to_owned()),
            Kind::Bytes(a) => Value::Bytea(Bytes::copy_from_slice(a.value(i))),
            Kind::Date(a) => Value::Date(a[i]),
            Kind::Time(a) => Value::Time(a[i]),
            Kind::Timestamp(a) => Value::Timestamp(a[i]),
            Kind::TimestampTz(a) => Value::TimestampTz(a[i]),
            Kind::Interval(a) => Value::Interval(interval_out(a[i])),
            Kind::List(a, element) => {
                let inner = a.value(i);
                let cells = Cells::new(inner.as_ref(), element)?;
                Value::Array((0..inner.len()).map(|j| cells.value(j)).collect::<Result<_>>()?)
            }
            Kind::Null => Value::Null,
        })
    }
}

/// Rows `from..to` of a batch whose columns have these types.
pub fn rows(batch: &RecordBatch, types: &[Type], from: usize, to: usize) -> Result<Vec<Vec<Value>>> {
    let cells = batch
        .columns()
        .iter()
        .zip(types)
        .map(|(array, r#type)| Cells::new(array.as_ref(), r#type))
        .collect::<Result<Vec<_>>>()?;
    let mut rows = Vec::with_capacity(to.saturating_sub(from));
    for i in from..to.min(batch.num_rows()) {
        rows.push(cells.iter().map(|c| c.value(i)).collect::<Result<Vec<_>>>()?);
    }
    Ok(rows)
}

/// The value of a constant of type `r#type`.
pub fn value_of(scalar: &ScalarValue, r#type: &Type) -> Result<Value> {
    let array = scalar.to_array_of_size(1).map_err(Error::internal)?;
    Cells::new(array.as_ref(), r#type)?.value(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        let numeric = |t: &str| Value::Numeric(t.parse().unwrap());
        for (t, values) in [
            (Type::Bool, vec![Value::Bool(true), Value::Null]),
            (Type::Numeric(Some((10, 2))), vec![numeric("1.50"), Value::Null]),
            (Type::Numeric(None), vec![numeric("1.500"), numeric("-7"), Value::Null]),
            (Type::Varchar(Some(3)), vec![Value::Text("a long text beyond inlining".into()), Value::Null]),
            (Type::Jsonb, vec![Value::Json("{}".into())]),
            (Type::Bytea, vec![Value::Bytea(Bytes::from_static(b"\x00\x01")), Value::Null]),
            (Type::TimestampTz, vec![Value::TimestampTz(-1)]),
            (Type::Interval, vec![Value::Interval(Interval { months: 1, days: -2, micros: 3 })]),
            (Type::Uuid, vec![Value::Uuid(7), Value::Null]),
            (Type::Oid, vec![Value::Oid(16_384)]),
            (
                Type::Array(Box::new(Type::Numeric(None))),
                vec![Value::Array(vec![numeric("1.0"), Value::Null]), Value::Null, Value::Array(vec![])],
            ),
        ] {
            let mut builder = Builder::new(&data_type(&t), 2).unwrap();
            values.iter().for_each(|v| builder.value(v).unwrap());
            let array = builder.finish().unwrap();
            let cells = Cells::new(array.as_ref(), &t).unwrap();
            let back: Vec<Value> = (0..array.len()).map(|i| cells.value(i).unwrap()).collect();
            assert_eq!(format!("{back:?}"), format!("{values:?}"));
        }
    }
}
