//! One SQL value.

use std::cell::Cell;
use std::cmp::Ordering;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::decimal::Decimal;

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL's binary dates start.
pub const DAYS_TO_2000: i32 = 10_957;
/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's binary
/// timestamps start.
pub const MICROS_TO_2000: i64 = DAYS_TO_2000 as i64 * 86_400_000_000;

/// One SQL value. Its [`crate::Type`] is known from where it stands; the
/// variants are as many as there are representations.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Value {
    /// SQL's NULL, of any type
    Null,
    /// `boolean`
    Bool(bool),
    /// `smallint`
    Int2(i16),
    /// `integer`
    Int4(i32),
    /// `bigint`
    Int8(i64),
    /// `oid` and `regclass`
    Oid(u32),
    /// `real`
    Float4(f32),
    /// `double precision`
    Float8(f64),
    /// `numeric`
    Numeric(Decimal),
    /// `text`, `varchar`, `char(n)` (without the padding blanks), `name`
    Text(String),
    /// `json` and `jsonb`, as text
    Json(String),
    /// `bytea`
    Bytea(Bytes),
    /// `date`: days since 1970-01-01
    Date(i32),
    /// `time`: microseconds since midnight
    Time(i64),
    /// `timestamp`: microseconds since 1970-01-01 00:00, in no time zone
    Timestamp(i64),
    /// `timestamptz`: microseconds since 1970-01-01 00:00 UTC
    TimestampTz(i64),
    /// `interval`
    Interval(Interval),
    /// `uuid`
    Uuid(u128),
    /// An array; elements all of one type or NULL
    Array(#[serde(deserialize_with = "shallow")] Vec<Value>),
}

/// Arrays nest at most this deep.
pub(crate) const MAX_DEPTH: u8 = 8;

/// Elements that nest no deeper than arrays may: bytes from elsewhere could say any depth,
/// and reading them must not take any stack.
fn shallow<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Value>, D::Error> {
    thread_local!(static DEPTH: Cell<u8> = const { Cell::new(0) });
    let depth = DEPTH.get();
    if depth >= MAX_DEPTH {
        return Err(serde::de::Error::custom("array nested too deeply"));
    }
    DEPTH.set(depth + 1);
    let elements = Vec::deserialize(deserializer);
    DEPTH.set(depth);
    elements
}

/// An interval as PostgreSQL keeps it: three counts that do not convert into
/// one another until a date is at hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub struct Interval {
    /// Months, which differ in length
    pub months: i32,
    /// Days, which differ in length where clocks change
    pub days: i32,
    /// Microseconds
    pub micros: i64,
}

impl Interval {
    /// PostgreSQL's order of intervals: months count 30 days, days 24 hours.
    pub fn total_micros(self) -> i128 {
        (i128::from(self.months) * 30 + i128::from(self.days)) * 86_400_000_000 + i128::from(self.micros)
    }
}

impl Value {
    /// Whether this is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Roughly how many bytes the value takes.
    pub fn size(&self) -> usize {
        match self {
            Value::Null | Value::Bool(_) => 1,
            Value::Text(text) | Value::Json(text) => text.len() + 4,
            Value::Bytea(bytes) => bytes.len() + 4,
            Value::Array(elements) => elements.iter().map(Value::size).sum::<usize>() + 4,
            Value::Numeric(_) | Value::Interval(_) | Value::Uuid(_) => 18,
            _ => 9,
        }
    }

    /// The value as a whole number, when it is of an integer type.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int2(v) => Some(i64::from(*v)),
            Value::Int4(v) => Some(i64::from(*v)),
            Value::Int8(v) => Some(*v),
            Value::Oid(v) => Some(i64::from(*v)),
            _ => None,
        }
    }

    /// The value's text, when it is of a text type.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Text(s) | Value::Json(s) => Some(s),
            _ => None,
        }
    }

    /// PostgreSQL's order within one type (text by code point, NaN above all
    /// numbers). `None` when either is NULL or the two are not comparable.
    pub fn compare(&self, other: &Value) -> Option<Ordering> {
        use Value::*;
        if let (Some(a), Some(b)) = (self.as_i64(), other.as_i64()) {
            return Some(a.cmp(&b));
        }
        Some(match (self, other) {
            (Bool(a), Bool(b)) => a.cmp(b),
            (Float4(a), Float4(b)) => compare_floats(f64::from(*a), f64::from(*b)),
            (Float8(a), Float8(b)) => compare_floats(*a, *b),
            (Float4(a), Float8(b)) => compare_floats(f64::from(*a), *b),
            (Float8(a), Float4(b)) => compare_floats(*a, f64::from(*b)),
            (Float8(a), b) if b.as_i64().is_some() => compare_floats(*a, b.as_i64()? as f64),
            (a, Float8(b)) if a.as_i64().is_some() => compare_floats(a.as_i64()? as f64, *b),
            (Numeric(a), Numeric(b)) => a.cmp(b),
            (Numeric(a), b) if b.as_i64().is_some() => a.cmp(&Decimal::from(b.as_i64()?)),
            (a, Numeric(b)) if a.as_i64().is_some() => Decimal::from(a.as_i64()?).cmp(b),
            (Text(a), Text(b)) | (Json(a), Json(b)) => a.cmp(b),
            (Bytea(a), Bytea(b)) => a.cmp(b),
            (Date(a), Date(b)) => a.cmp(b),
            (Time(a), Time(b)) | (Timestamp(a), Timestamp(b)) | (TimestampTz(a), TimestampTz(b)) => a.cmp(b),
            (Interval(a), Interval(b)) => a.total_micros().cmp(&b.total_micros()),
            (Uuid(a), Uuid(b)) => a.cmp(b),
            (Array(a), Array(b)) => {
                for (x, y) in a.iter().zip(b) {
                    match x.compare(y)? {
                        Ordering::Equal => {}
                        unequal => return Some(unequal),
                    }
                }
                a.len().cmp(&b.len())
            }
            _ => return None,
        })
    }
}

/// PostgreSQL's order of floats: -0 equals 0, NaN equals NaN and is the greatest.
fn compare_floats(a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
    }
}
