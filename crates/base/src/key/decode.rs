//! Values out of keys, for whoever has no row any more: what to call a row that was
//! deleted.
//!
//! Several types encode alike, so a type must be named. What an encoding does not keep
//! is not given back: the sign of zero, and the scale of a `numeric` that has none of its
//! own.

use super::{NULL, VALUE};
use crate::types::Type;
use crate::value::Value;
use crate::{Decimal, Key};

impl Key {
    /// The first columns of a key that sort up, if they are of these types.
    pub fn columns<'a>(&self, types: impl IntoIterator<Item = &'a Type>) -> Option<Vec<Value>> {
        let mut rest = self.get(4..)?;
        types.into_iter().map(|r#type| column(&mut rest, r#type)).collect()
    }
}

/// Takes a column of this type from the front of `bytes`.
fn column(bytes: &mut &[u8], r#type: &Type) -> Option<Value> {
    match take::<1>(bytes)? {
        [NULL] => return Some(Value::Null),
        [VALUE] => {}
        _ => return None,
    }
    Some(match r#type {
        Type::Bool => match take(bytes)? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [_] => return None,
        },
        Type::Int2 => Value::Int2(signed(bytes)?.try_into().ok()?),
        Type::Int4 => Value::Int4(signed(bytes)?.try_into().ok()?),
        Type::Int8 => Value::Int8(signed(bytes)?),
        Type::Oid | Type::Regclass => Value::Oid(signed(bytes)?.try_into().ok()?),
        Type::Date => Value::Date(signed(bytes)?.try_into().ok()?),
        Type::Time => Value::Time(signed(bytes)?),
        Type::Timestamp => Value::Timestamp(signed(bytes)?),
        Type::TimestampTz => Value::TimestampTz(signed(bytes)?),
        Type::Float4 => Value::Float4(float(bytes)? as f32),
        Type::Float8 => Value::Float8(float(bytes)?),
        Type::Numeric(of) => Value::Numeric(decimal(bytes, of.map_or(0, |(_, scale)| scale))?),
        Type::Text | Type::Varchar(_) | Type::Char(_) | Type::Name | Type::InternalChar => {
            Value::Text(String::from_utf8(escaped(bytes)?).ok()?)
        }
        Type::Bytea => Value::Bytea(escaped(bytes)?.into()),
        Type::Uuid => Value::Uuid(u128::from_be_bytes(take(bytes)?)),
        Type::Interval | Type::Json | Type::Jsonb | Type::Unknown | Type::Void | Type::Array(_) => return None,
    })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

fn signed(bytes: &mut &[u8]) -> Option<i64> {
    Some((u64::from_be_bytes(take(bytes)?) ^ 1 << 63) as i64)
}

fn float(bytes: &mut &[u8]) -> Option<f64> {
    let ordered = u64::from_be_bytes(take(bytes)?);
    Some(f64::from_bits(if ordered >> 63 == 1 { ordered ^ 1 << 63 } else { !ordered }))
}

fn escaped(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    loop {
        match take(bytes)? {
            [0] => match take(bytes)? {
                [0] => return Some(plain),
                [0xFF] => plain.push(0),
                [_] => return None,
            },
            [byte] => plain.push(byte),
        }
    }
}

/// With at least so many digits after the point.
fn decimal(bytes: &mut &[u8], scale: u8) -> Option<Decimal> {
    let sign = match take(bytes)? {
        [0x80] => return Decimal::new(0, scale),
        [0x40] => -1,
        [0xC0] => 1,
        [_] => return None,
    };
    let mut next = || take(bytes).map(|[byte]| if sign < 0 { !byte } else { byte });
    let exponent = i32::from(next()?) - 64;
    let (mut mantissa, mut digits) = (0i128, 0i32);
    loop {
        match next()? {
            0 => break,
            digit @ 1..=10 => mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(digit) - 1)?,
            _ => return None,
        }
        digits += 1;
    }
    // mantissa × 10^(exponent - digits)
    let after = (digits - exponent).max(i32::from(scale));
    let more = u32::try_from(after - (digits - exponent)).ok()?;
    let mantissa = mantissa.checked_mul(10i128.checked_pow(more)?)?;
    Decimal::new(sign * mantissa, after.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{KeyBuilder, encode};
    use super::*;
    use crate::IndexId;

    fn typed() -> impl Strategy<Value = (Type, Value)> {
        let bytes = || proptest::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..6);
        let decimal = || (-1_000_000_000_000i128..1_000_000_000_000, 0u8..12);
        prop_oneof![
            any::<bool>().prop_map(|v| (Type::Bool, Value::Bool(v))),
            any::<i16>().prop_map(|v| (Type::Int2, Value::Int2(v))),
            any::<i32>().prop_map(|v| (Type::Int4, Value::Int4(v))),
            any::<i64>().prop_map(|v| (Type::Int8, Value::Int8(v))),
            any::<u32>().prop_map(|v| (Type::Oid, Value::Oid(v))),
            any::<i32>().prop_map(|v| (Type::Date, Value::Date(v))),
            any::<i64>().prop_map(|v| (Type::Time, Value::Time(v))),
            any::<i64>().prop_map(|v| (Type::TimestampTz, Value::TimestampTz(v))),
            any::<f32>().prop_map(|v| (Type::Float4, Value::Float4(v))),
            any::<f64>().prop_map(|v| (Type::Float8, Value::Float8(v))),
            decimal().prop_map(|(m, s)| (Type::Numeric(Some((30, s))), Value::Numeric(Decimal::new(m, s).unwrap()))),
            (".{0,6}").prop_map(|v| (Type::Varchar(Some(6)), Value::Text(v))),
            bytes().prop_map(|v| (Type::Bytea, Value::Bytea(v.into()))),
            any::<u128>().prop_map(|v| (Type::Uuid, Value::Uuid(v))),
            Just((Type::Int4, Value::Null)),
        ]
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(columns in proptest::collection::vec(typed(), 1..5)) {
            let mut key = KeyBuilder::new(IndexId(7));
            columns.iter().for_each(|(_, value)| key.push(value).unwrap());
            let found = key.finish().columns(columns.iter().map(|(r#type, _)| r#type)).unwrap();
            for (found, (_, value)) in found.iter().zip(&columns) {
                let (mut a, mut b) = (Vec::new(), Vec::new());
                encode(found, &mut a).unwrap();
                encode(value, &mut b).unwrap();
                prop_assert_eq!(a, b);
                prop_assert_eq!(std::mem::discriminant(found), std::mem::discriminant(value));
                if let (Value::Numeric(found), Value::Numeric(value)) = (found, value) {
                    prop_assert_eq!(found.to_string(), value.to_string());
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..20), (r#type, _) in typed()) {
            let _ = Key::from(bytes).columns([&r#type]);
        }
    }

    #[test]
    fn what_is_no_key_of_these_types_is_refused() {
        let mut key = KeyBuilder::new(IndexId(7));
        key.push(&Value::Int8(1 << 40)).unwrap();
        let key = key.finish();
        assert_eq!(key.columns([&Type::Int8]), Some(vec![Value::Int8(1 << 40)]));
        assert_eq!(key.columns([&Type::Int4]), None, "too large");
        assert_eq!(key.columns([&Type::Int8, &Type::Int8]), None, "one column");
        assert_eq!(key.columns([&Type::Json]), None);
    }
}
