//! Order-preserving encoding of values into keys.
//!
//! Bytes compare as the values do: `encode(a) < encode(b)` exactly when a sorts
//! before b, column by column. Every stored key starts with the [`IndexId`] it
//! belongs to, so that the rows of one table (or entries of one index) are one
//! [`Span`].
//!
//! ```text
//! key     = index id (4 bytes, big endian) column*
//! column  = 0x01 payload | 0x02                      a value, or NULL, which sorts last
//! payload = bool 1 byte | integers, dates, times 8 bytes | uuid 16 bytes
//!         | floats 8 bytes | text and bytes escaped, ended by 00 00 | numeric, see below
//! ```
//! A descending column is the same bytes inverted. `decode` reads keys back.

mod decode;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::IndexId;
use crate::value::Value;

/// A key of the store.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Key(pub Bytes);

impl Key {
    /// The smallest key that is greater than this one.
    pub fn successor(&self) -> Key {
        let mut bytes = Vec::with_capacity(self.0.len() + 1);
        bytes.extend_from_slice(&self.0);
        bytes.push(0);
        Key(bytes.into())
    }

    /// The keys that begin with this one.
    pub fn prefix_span(&self) -> Span {
        let mut end = self.0.to_vec();
        while let Some(last) = end.pop() {
            if last != 0xFF {
                end.push(last + 1);
                break;
            }
        }
        // A prefix of 0xFF bytes only has no end; no index id is that large.
        debug_assert!(!end.is_empty());
        Span { start: self.clone(), end: Key(end.into()) }
    }

    /// The span of this key alone.
    pub fn point(&self) -> Span {
        Span { start: self.clone(), end: self.successor() }
    }
}

impl std::ops::Deref for Key {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Key {
        Key(bytes.into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The keys from `start`, included, to `end`, excluded.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Span {
    /// The first key
    pub start: Key,
    /// The first key after the span
    pub end: Key,
}

impl Span {
    /// All rows or entries of one index.
    pub fn of_index(index: IndexId) -> Span {
        Key(Bytes::copy_from_slice(&index.0.to_be_bytes())).prefix_span()
    }

    /// Whether `key` lies in the span.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.0.as_ref() <= key && key < self.end.0.as_ref()
    }

    /// Whether the span has no keys.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Whether all keys of the other span lie in this one.
    pub fn covers(&self, other: &Span) -> bool {
        other.is_empty() || self.start <= other.start && other.end <= self.end
    }

    /// Whether some key lies in both spans.
    pub fn overlaps(&self, other: &Span) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// Whether a column sorts up or down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// Smallest first, NULLs last
    #[default]
    Ascending,
    /// Largest first, NULLs first
    Descending,
}

const VALUE: u8 = 0x01;
const NULL: u8 = 0x02;

/// A value that has no order to encode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("values of type {0} cannot be part of a key")]
pub struct NotAKey(pub &'static str);

/// Builds a key, column by column.
#[derive(Default)]
pub struct KeyBuilder {
    bytes: Vec<u8>,
}

impl KeyBuilder {
    /// A key in `index`.
    pub fn new(index: IndexId) -> KeyBuilder {
        let mut bytes = Vec::with_capacity(32);
        bytes.extend_from_slice(&index.0.to_be_bytes());
        KeyBuilder { bytes }
    }

    /// Appends a column that sorts up.
    pub fn push(&mut self, value: &Value) -> Result<(), NotAKey> {
        encode(value, &mut self.bytes)
    }

    /// Appends a column that sorts as `direction` says.
    pub fn push_directed(&mut self, value: &Value, direction: Direction) -> Result<(), NotAKey> {
        let from = self.bytes.len();
        encode(value, &mut self.bytes)?;
        if direction == Direction::Descending {
            self.bytes[from..].iter_mut().for_each(|b| *b = !*b);
        }
        Ok(())
    }

    /// Appends bytes that are an encoded key already.
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The key so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The key.
    pub fn finish(self) -> Key {
        Key(self.bytes.into())
    }
}

/// Appends `value` to `out` so that bytes compare as values do. Integers of all
/// widths encode alike, so do `-0.0` and `0.0`, and `real` as `double precision`.
pub fn encode(value: &Value, out: &mut Vec<u8>) -> Result<(), NotAKey> {
    if value.is_null() {
        out.push(NULL);
        return Ok(());
    }
    out.push(VALUE);
    match value {
        Value::Null => {}
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::Int2(v) => signed(i64::from(*v), out),
        Value::Int4(v) => signed(i64::from(*v), out),
        Value::Int8(v) => signed(*v, out),
        Value::Oid(v) => signed(i64::from(*v), out),
        Value::Date(v) => signed(i64::from(*v), out),
        Value::Time(v) | Value::Timestamp(v) | Value::TimestampTz(v) => signed(*v, out),
        Value::Float4(v) => float(f64::from(*v), out),
        Value::Float8(v) => float(*v, out),
        Value::Numeric(v) => decimal(*v, out),
        Value::Text(v) => escaped(v.as_bytes(), out),
        Value::Bytea(v) => escaped(v, out),
        Value::Uuid(v) => out.extend_from_slice(&v.to_be_bytes()),
        Value::Json(_) => return Err(NotAKey("json")),
        Value::Interval(_) => return Err(NotAKey("interval")),
        Value::Array(_) => return Err(NotAKey("array")),
    }
    Ok(())
}

fn signed(v: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(&((v as u64) ^ (1 << 63)).to_be_bytes());
}

fn float(v: f64, out: &mut Vec<u8>) {
    let v = if v == 0.0 {
        0.0
    } else if v.is_nan() {
        f64::NAN
    } else {
        v
    };
    let bits = v.to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    out.extend_from_slice(&ordered.to_be_bytes());
}

/// 00 becomes 00 FF, and 00 00 ends the text: a text sorts before its extensions.
fn escaped(bytes: &[u8], out: &mut Vec<u8>) {
    for &b in bytes {
        out.push(b);
        if b == 0 {
            out.push(0xFF);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

/// Sign, then the exponent of the first digit, then the digits (each plus one,
/// two a byte being not worth it), then 00. Negative numbers are inverted.
fn decimal(v: crate::Decimal, out: &mut Vec<u8>) {
    let v = v.normalize();
    let magnitude = v.mantissa().unsigned_abs();
    if magnitude == 0 {
        out.push(0x80);
        return;
    }
    let mut digits: Vec<u8> = magnitude.to_string().bytes().map(|b| b - b'0' + 1).collect();
    // 0.d1d2d3… × 10^exponent, exponent in -38..=38
    let exponent = digits.len() as i16 - i16::from(v.scale());
    while digits.last() == Some(&1) {
        digits.pop();
    }
    let negative = v.mantissa() < 0;
    out.push(if negative { 0x40 } else { 0xC0 });
    let from = out.len();
    out.push((exponent + 64) as u8);
    out.extend_from_slice(&digits);
    out.push(0);
    if negative {
        out[from..].iter_mut().for_each(|b| *b = !*b);
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;
    use crate::Decimal;

    fn encoded(values: &[Value]) -> Vec<u8> {
        let mut out = Vec::new();
        for v in values {
            encode(v, &mut out).unwrap();
        }
        out
    }

    fn same_type_pair() -> impl Strategy<Value = (Value, Value)> {
        let decimal = || {
            (-1_000_000_000_000i128..1_000_000_000_000, 0u8..12)
                .prop_map(|(m, s)| Value::Numeric(Decimal::new(m, s).unwrap()))
        };
        let bytes = || proptest::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..6);
        prop_oneof![
            (any::<i64>(), any::<i64>()).prop_map(|(a, b)| (Value::Int8(a), Value::Int8(b))),
            (-3i16..3, -3i16..3).prop_map(|(a, b)| (Value::Int2(a), Value::Int2(b))),
            (any::<f64>(), any::<f64>()).prop_map(|(a, b)| (Value::Float8(a), Value::Float8(b))),
            (decimal(), decimal()),
            (".{0,6}", ".{0,6}").prop_map(|(a, b)| (Value::Text(a), Value::Text(b))),
            (bytes(), bytes()).prop_map(|(a, b)| (Value::Bytea(a.into()), Value::Bytea(b.into()))),
            (any::<u128>(), any::<u128>()).prop_map(|(a, b)| (Value::Uuid(a), Value::Uuid(b))),
            (any::<bool>(), any::<bool>()).prop_map(|(a, b)| (Value::Bool(a), Value::Bool(b))),
        ]
    }

    proptest! {
        #[test]
        fn bytes_compare_as_values((a, b) in same_type_pair()) {
            let expected = a.compare(&b).unwrap();
            prop_assert_eq!(encoded(&[a]).cmp(&encoded(&[b])), expected);
        }

        #[test]
        fn the_first_column_that_differs_decides((a, b) in same_type_pair(), (c, d) in same_type_pair()) {
            let expected = a.compare(&b).unwrap().then(c.compare(&d).unwrap());
            prop_assert_eq!(encoded(&[a, c]).cmp(&encoded(&[b, d])), expected);
        }

        #[test]
        fn descending_columns_turn_the_order_round((a, b) in same_type_pair()) {
            let mut x = KeyBuilder::new(IndexId(7));
            let mut y = KeyBuilder::new(IndexId(7));
            x.push_directed(&a, Direction::Descending).unwrap();
            y.push_directed(&b, Direction::Descending).unwrap();
            prop_assert_eq!(x.finish().cmp(&y.finish()), a.compare(&b).unwrap().reverse());
        }
    }

    #[test]
    fn nulls_sort_last() {
        assert_eq!(encoded(&[Value::Int8(i64::MAX)]).cmp(&encoded(&[Value::Null])), Ordering::Less);
    }

    #[test]
    fn a_prefix_span_holds_its_extensions_only() {
        let span = Key::from(vec![1, 0xFF]).prefix_span();
        assert!(span.contains(&[1, 0xFF]));
        assert!(span.contains(&[1, 0xFF, 0xFF, 3]));
        assert!(!span.contains(&[2]));
        assert!(!span.contains(&[1, 0xFE]));
    }
}
