//! Compact encoding of a row.
//!
//! ```text
//! row   = version (1 byte) slot*
//! slot  = tag (1 byte) payload        in the order of the table's column ids
//! ```
//! Every slot says its own type, so a row can be read without its schema. A row
//! that is shorter than its table was written before the last columns were
//! added; the catalog knows what those are then. A slot may say that it is absent,
//! which means the same for a column in the midst of others.

use bytes::Bytes;

use crate::decimal::Decimal;
use crate::value::{Interval, MAX_DEPTH, Value};

const VERSION: u8 = 1;

/// Bytes that are not a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a row: {0}")]
pub struct NotARow(pub &'static str);

const TRUNCATED: NotARow = NotARow("ends within a value");

mod tag {
    pub const NULL: u8 = 0;
    pub const FALSE: u8 = 1;
    pub const TRUE: u8 = 2;
    pub const INT2: u8 = 3;
    pub const INT4: u8 = 4;
    pub const INT8: u8 = 5;
    pub const OID: u8 = 6;
    pub const FLOAT4: u8 = 7;
    pub const FLOAT8: u8 = 8;
    pub const NUMERIC: u8 = 9;
    pub const TEXT: u8 = 10;
    pub const JSON: u8 = 11;
    pub const BYTEA: u8 = 12;
    pub const DATE: u8 = 13;
    pub const TIME: u8 = 14;
    pub const TIMESTAMP: u8 = 15;
    pub const TIMESTAMPTZ: u8 = 16;
    pub const INTERVAL: u8 = 17;
    pub const UUID: u8 = 18;
    pub const ARRAY: u8 = 19;
    pub const ABSENT: u8 = 20;
}

/// A borrowed value of an encoded row.
#[derive(Clone, Copy, PartialEq, Debug)]
#[allow(missing_docs)] // the variants are Value's
pub enum ValueRef<'a> {
    /// Nothing was ever written here: what the catalog says the column has then
    Absent,
    Null,
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Oid(u32),
    Float4(f32),
    Float8(f64),
    Numeric(Decimal),
    Text(&'a str),
    Json(&'a str),
    Bytea(&'a [u8]),
    Date(i32),
    Time(i64),
    Timestamp(i64),
    TimestampTz(i64),
    Interval(Interval),
    Uuid(u128),
    /// An array, still encoded: element count and elements
    Array(&'a [u8]),
}

impl ValueRef<'_> {
    /// A copy that owns what it holds.
    pub fn to_value(self) -> Result<Value, NotARow> {
        self.to_value_at(0)
    }

    fn to_value_at(self, depth: u8) -> Result<Value, NotARow> {
        Ok(match self {
            ValueRef::Absent | ValueRef::Null => Value::Null,
            ValueRef::Bool(v) => Value::Bool(v),
            ValueRef::Int2(v) => Value::Int2(v),
            ValueRef::Int4(v) => Value::Int4(v),
            ValueRef::Int8(v) => Value::Int8(v),
            ValueRef::Oid(v) => Value::Oid(v),
            ValueRef::Float4(v) => Value::Float4(v),
            ValueRef::Float8(v) => Value::Float8(v),
            ValueRef::Numeric(v) => Value::Numeric(v),
            ValueRef::Text(v) => Value::Text(v.to_owned()),
            ValueRef::Json(v) => Value::Json(v.to_owned()),
            ValueRef::Bytea(v) => Value::Bytea(Bytes::copy_from_slice(v)),
            ValueRef::Date(v) => Value::Date(v),
            ValueRef::Time(v) => Value::Time(v),
            ValueRef::Timestamp(v) => Value::Timestamp(v),
            ValueRef::TimestampTz(v) => Value::TimestampTz(v),
            ValueRef::Interval(v) => Value::Interval(v),
            ValueRef::Uuid(v) => Value::Uuid(v),
            ValueRef::Array(bytes) => {
                if depth >= MAX_DEPTH {
                    return Err(NotARow("array nested too deeply"));
                }
                let mut reader = Slots { rest: bytes };
                let count = reader.varint()?;
                let mut elements = Vec::new();
                for _ in 0..count {
                    elements.push(reader.value()?.to_value_at(depth + 1)?);
                }
                Value::Array(elements)
            }
        })
    }
}

/// Encodes a row whose slots are `values`, in the order of column ids.
pub fn encode<'a>(values: impl IntoIterator<Item = &'a Value>) -> Bytes {
    let mut out = Vec::with_capacity(64);
    encode_to(values, &mut out);
    out.into()
}

/// Encodes a row some of whose slots are absent.
pub fn encode_sparse<'a>(values: impl IntoIterator<Item = Option<&'a Value>>) -> Bytes {
    let mut out = Vec::with_capacity(64);
    out.push(VERSION);
    for value in values {
        match value {
            Some(value) => put(value, &mut out),
            None => out.push(tag::ABSENT),
        }
    }
    out.into()
}

/// Appends the encoded row whose slots are `values` to `out`.
pub fn encode_to<'a>(values: impl IntoIterator<Item = &'a Value>, out: &mut Vec<u8>) {
    out.push(VERSION);
    for v in values {
        put(v, out);
    }
}

fn put(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(tag::NULL),
        Value::Bool(v) => out.push(if *v { tag::TRUE } else { tag::FALSE }),
        Value::Int2(v) => put_signed(tag::INT2, i64::from(*v), out),
        Value::Int4(v) => put_signed(tag::INT4, i64::from(*v), out),
        Value::Int8(v) => put_signed(tag::INT8, *v, out),
        Value::Oid(v) => put_signed(tag::OID, i64::from(*v), out),
        Value::Date(v) => put_signed(tag::DATE, i64::from(*v), out),
        Value::Time(v) => put_signed(tag::TIME, *v, out),
        Value::Timestamp(v) => put_signed(tag::TIMESTAMP, *v, out),
        Value::TimestampTz(v) => put_signed(tag::TIMESTAMPTZ, *v, out),
        Value::Float4(v) => put_fixed(tag::FLOAT4, &v.to_le_bytes(), out),
        Value::Float8(v) => put_fixed(tag::FLOAT8, &v.to_le_bytes(), out),
        Value::Uuid(v) => put_fixed(tag::UUID, &v.to_be_bytes(), out),
        Value::Numeric(v) => {
            out.push(tag::NUMERIC);
            out.push(v.scale());
            let zigzag = ((v.mantissa() << 1) ^ (v.mantissa() >> 127)) as u128;
            put_varint(zigzag, out);
        }
        Value::Text(v) => put_bytes(tag::TEXT, v.as_bytes(), out),
        Value::Json(v) => put_bytes(tag::JSON, v.as_bytes(), out),
        Value::Bytea(v) => put_bytes(tag::BYTEA, v, out),
        Value::Interval(v) => {
            out.push(tag::INTERVAL);
            for part in [i64::from(v.months), i64::from(v.days), v.micros] {
                put_varint(zigzag(part), out);
            }
        }
        Value::Array(elements) => {
            let mut inner = Vec::new();
            put_varint(elements.len() as u128, &mut inner);
            elements.iter().for_each(|e| put(e, &mut inner));
            put_bytes(tag::ARRAY, &inner, out);
        }
    }
}

fn zigzag(v: i64) -> u128 {
    u128::from(((v << 1) ^ (v >> 63)) as u64)
}

fn put_signed(tag: u8, v: i64, out: &mut Vec<u8>) {
    out.push(tag);
    put_varint(zigzag(v), out);
}

fn put_fixed(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(bytes);
}

fn put_bytes(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    put_varint(bytes.len() as u128, out);
    out.extend_from_slice(bytes);
}

fn put_varint(mut v: u128, out: &mut Vec<u8>) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Reads the slots of an encoded row, one after another.
pub struct Slots<'a> {
    rest: &'a [u8],
}

impl<'a> Slots<'a> {
    /// The slots of `row`.
    pub fn of(row: &'a [u8]) -> Result<Slots<'a>, NotARow> {
        match row.split_first() {
            Some((&VERSION, rest)) => Ok(Slots { rest }),
            Some(_) => Err(NotARow("unknown version")),
            None => Err(NotARow("empty")),
        }
    }

    /// The next slot; `None` after the last.
    pub fn next_slot(&mut self) -> Result<Option<ValueRef<'a>>, NotARow> {
        if self.rest.is_empty() { Ok(None) } else { self.value().map(Some) }
    }

    /// Passes over one slot; `false` after the last.
    pub fn skip(&mut self) -> Result<bool, NotARow> {
        if self.rest.is_empty() {
            return Ok(false);
        }
        match self.byte()? {
            tag::ABSENT | tag::NULL | tag::FALSE | tag::TRUE => {}
            tag::INT2
            | tag::INT4
            | tag::INT8
            | tag::OID
            | tag::DATE
            | tag::TIME
            | tag::TIMESTAMP
            | tag::TIMESTAMPTZ => self.skip_varint()?,
            tag::FLOAT4 => {
                self.take(4)?;
            }
            tag::FLOAT8 => {
                self.take(8)?;
            }
            tag::UUID => {
                self.take(16)?;
            }
            tag::NUMERIC => {
                self.byte()?;
                self.skip_varint()?;
            }
            tag::INTERVAL => {
                for _ in 0..3 {
                    self.skip_varint()?;
                }
            }
            tag::TEXT | tag::JSON | tag::BYTEA | tag::ARRAY => {
                self.sized()?;
            }
            _ => return Err(NotARow("unknown tag")),
        }
        Ok(true)
    }

    fn value(&mut self) -> Result<ValueRef<'a>, NotARow> {
        let out_of_range = |_| NotARow("number out of range");
        Ok(match self.byte()? {
            tag::ABSENT => ValueRef::Absent,
            tag::NULL => ValueRef::Null,
            tag::FALSE => ValueRef::Bool(false),
            tag::TRUE => ValueRef::Bool(true),
            tag::INT2 => ValueRef::Int2(self.signed()?.try_into().map_err(out_of_range)?),
            tag::INT4 => ValueRef::Int4(self.signed()?.try_into().map_err(out_of_range)?),
            tag::INT8 => ValueRef::Int8(self.signed()?),
            tag::OID => ValueRef::Oid(self.signed()?.try_into().map_err(out_of_range)?),
            tag::DATE => ValueRef::Date(self.signed()?.try_into().map_err(out_of_range)?),
            tag::TIME => ValueRef::Time(self.signed()?),
            tag::TIMESTAMP => ValueRef::Timestamp(self.signed()?),
            tag::TIMESTAMPTZ => ValueRef::TimestampTz(self.signed()?),
            tag::FLOAT4 => ValueRef::Float4(f32::from_le_bytes(self.array()?)),
            tag::FLOAT8 => ValueRef::Float8(f64::from_le_bytes(self.array()?)),
            tag::UUID => ValueRef::Uuid(u128::from_be_bytes(self.array()?)),
            tag::NUMERIC => {
                let scale = self.byte()?;
                let zigzag = self.varint()?;
                let mantissa = (zigzag >> 1) as i128 ^ -((zigzag & 1) as i128);
                ValueRef::Numeric(Decimal::new(mantissa, scale).ok_or(NotARow("number out of range"))?)
            }
            tag::TEXT => ValueRef::Text(self.text()?),
            tag::JSON => ValueRef::Json(self.text()?),
            tag::BYTEA => ValueRef::Bytea(self.sized()?),
            tag::INTERVAL => ValueRef::Interval(Interval {
                months: self.signed()?.try_into().map_err(out_of_range)?,
                days: self.signed()?.try_into().map_err(out_of_range)?,
                micros: self.signed()?,
            }),
            tag::ARRAY => ValueRef::Array(self.sized()?),
            _ => return Err(NotARow("unknown tag")),
        })
    }

    fn byte(&mut self) -> Result<u8, NotARow> {
        let (&first, rest) = self.rest.split_first().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(first)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], NotARow> {
        if n > self.rest.len() {
            return Err(TRUNCATED);
        }
        let (taken, rest) = self.rest.split_at(n);
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], NotARow> {
        self.take(N)?.try_into().map_err(|_| TRUNCATED)
    }

    fn sized(&mut self) -> Result<&'a [u8], NotARow> {
        let n = usize::try_from(self.varint()?).map_err(|_| TRUNCATED)?;
        self.take(n)
    }

    fn text(&mut self) -> Result<&'a str, NotARow> {
        std::str::from_utf8(self.sized()?).map_err(|_| NotARow("text is not UTF-8"))
    }

    fn signed(&mut self) -> Result<i64, NotARow> {
        let zigzag = u64::try_from(self.varint()?).map_err(|_| NotARow("number out of range"))?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    fn skip_varint(&mut self) -> Result<(), NotARow> {
        while self.byte()? & 0x80 != 0 {}
        Ok(())
    }

    fn varint(&mut self) -> Result<u128, NotARow> {
        // Nearly every number fits a machine word: the wide loop is for the rest.
        let mut narrow = 0u64;
        for i in 0..9 {
            let b = self.byte()?;
            narrow |= u64::from(b & 0x7F) << (7 * i);
            if b & 0x80 == 0 {
                return Ok(u128::from(narrow));
            }
        }
        let mut wide = u128::from(narrow);
        for i in 9..19 {
            let b = self.byte()?;
            if i == 18 && b > 0x03 {
                return Err(NotARow("number out of range"));
            }
            wide |= u128::from(b & 0x7F) << (7 * i);
            if b & 0x80 == 0 {
                return Ok(wide);
            }
        }
        Err(NotARow("number out of range"))
    }
}

/// Decodes all slots of a row.
pub fn decode(row: &[u8]) -> Result<Vec<Value>, NotARow> {
    let mut slots = Slots::of(row)?;
    let mut values = Vec::new();
    while let Some(v) = slots.next_slot()? {
        values.push(v.to_value()?);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let scalar =
            prop_oneof![
                Just(Value::Null),
                any::<bool>().prop_map(Value::Bool),
                any::<i16>().prop_map(Value::Int2),
                any::<i32>().prop_map(Value::Int4),
                any::<i64>().prop_map(Value::Int8),
                any::<u32>().prop_map(Value::Oid),
                any::<f32>().prop_filter("NaN is not equal to itself", |v| !v.is_nan()).prop_map(Value::Float4),
                any::<f64>().prop_filter("NaN is not equal to itself", |v| !v.is_nan()).prop_map(Value::Float8),
                (any::<i128>(), 0u8..=38)
                    .prop_map(|(m, s)| Value::Numeric(Decimal::new(m % 10i128.pow(38), s).unwrap())),
                ".{0,20}".prop_map(Value::Text),
                proptest::collection::vec(any::<u8>(), 0..20).prop_map(|b| Value::Bytea(b.into())),
                any::<i32>().prop_map(Value::Date),
                any::<i64>().prop_map(Value::TimestampTz),
                (any::<i32>(), any::<i32>(), any::<i64>())
                    .prop_map(|(months, days, micros)| Value::Interval(Interval { months, days, micros })),
                any::<u128>().prop_map(Value::Uuid),
            ];
        scalar.prop_recursive(3, 16, 4, |inner| proptest::collection::vec(inner, 0..4).prop_map(Value::Array))
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(values in proptest::collection::vec(any_value(), 0..8)) {
            let row = encode(&values);
            prop_assert_eq!(decode(&row).unwrap(), values.clone());
            let mut slots = Slots::of(&row).unwrap();
            for _ in &values {
                prop_assert!(slots.skip().unwrap());
            }
            prop_assert!(!slots.skip().unwrap());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }
    }
}
