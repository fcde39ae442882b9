//! Conversions between types, as PostgreSQL has them in `pg_cast`.
//!
//! | context    | where                                | also allowed                  |
//! |------------|--------------------------------------|-------------------------------|
//! | implicit   | anywhere                             |                               |
//! | assignment | a value is stored into a column      | narrowing, anything to text   |
//! | explicit   | `CAST(x AS t)`, `x::t`               | text to anything, bool to int |
//!
//! Storing into `varchar(3)` refuses a longer text (unless blanks alone are too
//! many) while a cast cuts it; `numeric(5,2)` rounds in both cases.

use polity_base::types::Type;
use polity_base::{Decimal, Value};

use super::Local;
use super::arithmetic::{self, out_of_range, to_f64};
use super::text::{to_local, to_utc};
use crate::error::{Condition, Error, Result};

/// Where a conversion may happen without being asked for; weakest last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Context {
    /// Anywhere
    Implicit,
    /// When a value is stored
    Assignment,
    /// By CAST only
    Explicit,
}

/// The type without its length or precision. `char(n)` keeps it: there is no
/// other way to say that a type pads.
pub fn without_modifier(r#type: &Type) -> Type {
    match r#type {
        Type::Numeric(_) => Type::Numeric(None),
        Type::Varchar(_) => Type::Varchar(None),
        other => other.clone(),
    }
}

/// In which context `from` converts to `to`; `None` when it does not.
pub fn context(from: &Type, to: &Type) -> Option<Context> {
    use Context::{Assignment, Explicit, Implicit};
    let (a, b) = (without_modifier(from), without_modifier(to));
    if a == b {
        return Some(Implicit);
    }
    Some(match (&a, &b) {
        (Type::Void, _) | (_, Type::Void | Type::Unknown) => return None,
        (Type::Unknown, _) => Implicit,
        (Type::Array(_), y) if y.is_text() => Assignment,
        (x, Type::Array(_)) if x.is_text() => Explicit,
        (Type::Array(_), _) | (_, Type::Array(_)) => return None,
        // Among texts: what forgets nothing is free.
        (Type::Text | Type::Varchar(_) | Type::Char(_), Type::Text | Type::Varchar(_) | Type::Char(_)) => Implicit,
        (Type::Text, Type::Name) | (Type::Name, Type::Text) => Implicit,
        (Type::Varchar(_) | Type::Char(_), Type::Name) => Implicit,
        (Type::Name, Type::Varchar(_) | Type::Char(_)) => Assignment,
        (Type::InternalChar, Type::Text) => Implicit,
        (Type::InternalChar, Type::Int4) | (Type::Int4, Type::InternalChar) => Explicit,
        (x, Type::InternalChar) if x.is_text() => Assignment,
        (Type::Text | Type::Varchar(_), Type::Regclass) => Implicit,
        (_, y) if y.is_text() => Assignment,
        (x, _) if x.is_text() => Explicit,
        // Whole numbers and floats.
        (Type::Int2, Type::Int4 | Type::Int8 | Type::Numeric(_) | Type::Float4 | Type::Float8 | Type::Oid) => Implicit,
        (Type::Int4, Type::Int8 | Type::Numeric(_) | Type::Float4 | Type::Float8 | Type::Oid) => Implicit,
        (Type::Int8, Type::Numeric(_) | Type::Float4 | Type::Float8 | Type::Oid) => Implicit,
        (Type::Int4 | Type::Int8, Type::Int2) | (Type::Int8, Type::Int4) => Assignment,
        (Type::Numeric(_), Type::Float4 | Type::Float8) => Implicit,
        (Type::Numeric(_), Type::Int2 | Type::Int4 | Type::Int8) => Assignment,
        (Type::Float4, Type::Float8) => Implicit,
        (Type::Float4 | Type::Float8, Type::Int2 | Type::Int4 | Type::Int8 | Type::Numeric(_)) => Assignment,
        (Type::Float8, Type::Float4) => Assignment,
        (Type::Oid | Type::Regclass, Type::Int4 | Type::Int8) => Assignment,
        (Type::Oid, Type::Regclass) | (Type::Regclass, Type::Oid) => Implicit,
        (Type::Int2 | Type::Int4 | Type::Int8, Type::Regclass) => Implicit,
        (Type::Bool, Type::Int4) | (Type::Int4, Type::Bool) => Explicit,
        // Dates and times.
        (Type::Date, Type::Timestamp | Type::TimestampTz) | (Type::Timestamp, Type::TimestampTz) => Implicit,
        (Type::Timestamp | Type::TimestampTz, Type::Date | Type::Time) => Assignment,
        (Type::TimestampTz, Type::Timestamp) => Assignment,
        (Type::Time, Type::Interval) => Implicit,
        (Type::Interval, Type::Time) => Assignment,
        // JSON.
        (Type::Json, Type::Jsonb) | (Type::Jsonb, Type::Json) => Assignment,
        (
            Type::Jsonb,
            Type::Bool | Type::Int2 | Type::Int4 | Type::Int8 | Type::Numeric(_) | Type::Float4 | Type::Float8,
        ) => Explicit,
        _ => return None,
    })
}

/// How values of one type are stored into a column of another.
#[derive(Clone, PartialEq, Debug)]
pub struct Assign {
    to: Type,
    /// Values need no conversion at all.
    same: bool,
}

impl Assign {
    /// Values of `from` into a column of type `to`; an error that names the
    /// column when there is no such conversion.
    pub fn new(from: &Type, to: &Type, column: &str) -> Result<Assign> {
        match context(from, to) {
            Some(Context::Implicit | Context::Assignment) => Ok(Assign { to: to.clone(), same: is_free(from, to) }),
            _ => Err(mismatch(from, to, column)),
        }
    }

    /// The value as it is stored.
    pub fn apply(&self, value: Value, local: Local<'_>) -> Result<Value> {
        if self.same { Ok(value) } else { convert(value, &self.to, false, local) }
    }
}

/// A value of type `from` as it is stored into a column, where the session's
/// time does not matter.
pub fn assign(value: Value, from: &Type, to: &Type, column: &str) -> Result<Value> {
    Assign::new(from, to, column)?.apply(value, Local::UTC)
}

/// Whether every value of `from` is a value of `to` as it is.
fn is_free(from: &Type, to: &Type) -> bool {
    match (from, to) {
        (Type::Text | Type::Varchar(_), Type::Text | Type::Varchar(None)) | (Type::Char(_), Type::Text) => true,
        (Type::Numeric(_), Type::Numeric(None)) => true,
        (Type::Varchar(Some(a)), Type::Varchar(Some(b))) => a <= b,
        // A parameter of type char(n) may be longer, and padded.
        (Type::Char(_), _) => false,
        (a, b) => a == b && *a != Type::Unknown,
    }
}

/// The error for a value that cannot be stored into a column.
pub fn mismatch(from: &Type, to: &Type, column: &str) -> Error {
    let (from, to) = (without_modifier(from), without_modifier(to));
    let shown = |t: &Type| match t {
        Type::Char(_) => "character".to_owned(),
        other => other.to_string(),
    };
    Error::new(
        Condition::DatatypeMismatch,
        format!("column \"{column}\" is of type {} but expression is of type {}", shown(&to), shown(&from)),
    )
    .hint("You will need to rewrite or cast the expression.")
    .column(column)
}

/// The value as one of `to`. Which conversions there are is [`context`]'s to
/// say; this only knows how.
pub fn convert(value: Value, to: &Type, explicit: bool, local: Local<'_>) -> Result<Value> {
    let value = match (value, to) {
        (Value::Null, _) => return Ok(Value::Null),
        (value @ Value::Bool(_), Type::Bool)
        | (value @ Value::Int2(_), Type::Int2)
        | (value @ Value::Int4(_), Type::Int4)
        | (value @ Value::Int8(_), Type::Int8)
        | (value @ Value::Float4(_), Type::Float4)
        | (value @ Value::Float8(_), Type::Float8)
        | (value @ Value::Bytea(_), Type::Bytea)
        | (value @ Value::Date(_), Type::Date)
        | (value @ Value::Time(_), Type::Time)
        | (value @ Value::Timestamp(_), Type::Timestamp)
        | (value @ Value::TimestampTz(_), Type::TimestampTz)
        | (value @ Value::Interval(_), Type::Interval)
        | (value @ Value::Uuid(_), Type::Uuid)
        | (value @ Value::Oid(_), Type::Oid | Type::Regclass)
        | (value @ Value::Json(_), Type::Json) => return Ok(value),
        (value, Type::Int2 | Type::Int4 | Type::Int8 | Type::Oid | Type::Regclass) if is_number(&value) => {
            return whole(&value, to);
        }
        (Value::Bool(b), Type::Int4) => return Ok(Value::Int4(i32::from(b))),
        (Value::Int4(v), Type::Bool) => return Ok(Value::Bool(v != 0)),
        (value, Type::Float8) if is_number(&value) => return Ok(Value::Float8(to_f64(&value))),
        (value, Type::Float4) if is_number(&value) => return float4(&value),
        (Value::Numeric(v), Type::Numeric(modifier)) => return fit_numeric(v, *modifier),
        (value, Type::Numeric(modifier)) if is_number(&value) => return fit_numeric(decimal(&value)?, *modifier),
        (Value::Text(text), to) if to.is_text() => return fit_text(text, to, explicit),
        (Value::Json(text), Type::Text | Type::Varchar(_) | Type::Char(_)) => return fit_text(text, to, explicit),
        (Value::Json(text), Type::Jsonb) => return parse(&text, &Type::Jsonb, local),
        (Value::Json(text), to) => return from_json(&text, to),
        (Value::Bool(b), to) if to.is_text() => return fit_text(b.to_string(), to, explicit),
        (value, to) if to.is_text() => {
            let from = super::operand::type_of(&value).unwrap_or(Type::Text);
            return fit_text(write(&value, &from, local), to, explicit);
        }
        (Value::Text(text), to) => return parse(&text, to, local),
        (value, _) => value,
    };
    times(value, to, local)
}

fn is_number(value: &Value) -> bool {
    matches!(
        value,
        Value::Int2(_)
            | Value::Int4(_)
            | Value::Int8(_)
            | Value::Oid(_)
            | Value::Float4(_)
            | Value::Float8(_)
            | Value::Numeric(_)
    )
}

fn whole(value: &Value, to: &Type) -> Result<Value> {
    let number = match value {
        Value::Numeric(v) => v.to_i64(),
        Value::Float4(_) | Value::Float8(_) => {
            let v = to_f64(value).round_ties_even();
            // 2^63 itself is beyond; -2^63 is not.
            (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&v).then_some(v as i64)
        }
        other => other.as_i64(),
    };
    let fitted = number.and_then(|v| match to {
        Type::Int2 => i16::try_from(v).ok().map(Value::Int2),
        Type::Int4 => i32::try_from(v).ok().map(Value::Int4),
        Type::Int8 => Some(Value::Int8(v)),
        _ => u32::try_from(v).or_else(|_| i32::try_from(v).map(|v| v as u32)).ok().map(Value::Oid),
    });
    fitted.ok_or_else(|| out_of_range(to))
}

fn float4(value: &Value) -> Result<Value> {
    let wide = to_f64(value);
    let narrow = wide as f32;
    let lost = |message: &str| Err(Error::new(Condition::NumericValueOutOfRange, message));
    if narrow.is_infinite() && !wide.is_infinite() {
        return lost("value out of range: overflow");
    }
    if narrow == 0.0 && wide != 0.0 {
        return lost("value out of range: underflow");
    }
    Ok(Value::Float4(narrow))
}

/// A float becomes the decimal of as many digits as it surely has: 15, or 6 for
/// `real` (`float8_numeric` in PostgreSQL's numeric.c).
fn decimal(value: &Value) -> Result<Decimal> {
    let digits = match value {
        Value::Float4(_) => 6,
        Value::Float8(_) => 15,
        other => return arithmetic::to_decimal(other).ok_or_else(|| out_of_range(&Type::Numeric(None))),
    };
    let v = to_f64(value);
    if !v.is_finite() {
        return Err(Error::new(Condition::FeatureNotSupported, format!("numeric does not hold {v}")));
    }
    let text = format!("{v:.*e}", digits - 1);
    text.parse::<Decimal>().map(Decimal::normalize).or_else(|_| {
        // More digits after the point than there is room for are zero.
        if v.abs() < 1e-30 { Ok(Decimal::default()) } else { Err(out_of_range(&Type::Numeric(None))) }
    })
}

fn fit_numeric(v: Decimal, modifier: Option<(u8, u8)>) -> Result<Value> {
    let Some((precision, scale)) = modifier else { return Ok(Value::Numeric(v)) };
    let rounded = v.rescale(scale).filter(|v| v.mantissa().unsigned_abs() < 10u128.pow(u32::from(precision)));
    rounded.map(Value::Numeric).ok_or_else(|| {
        let power = precision - scale.min(precision);
        let bound = if power == 0 { "1".to_owned() } else { format!("10^{power}") };
        Error::new(Condition::NumericValueOutOfRange, "numeric field overflow").detail(format!(
            "A field with precision {precision}, scale {scale} must round to an absolute value less than {bound}."
        ))
    })
}

fn fit_text(mut text: String, to: &Type, explicit: bool) -> Result<Value> {
    let limit = match to {
        Type::Varchar(Some(n)) | Type::Char(n) => *n as usize,
        Type::Name => {
            let mut end = text.len().min(crate::catalog::name::MAX_BYTES);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            return Ok(Value::Text(text));
        }
        _ => return Ok(Value::Text(text)),
    };
    // Fewer bytes than characters there cannot be.
    if text.len() > limit
        && let Some((end, _)) = text.char_indices().nth(limit)
    {
        if !explicit && text[end..].bytes().any(|b| b != b' ') {
            let shown = match to {
                Type::Char(n) => format!("character({n})"),
                other => other.to_string(),
            };
            return Err(Error::new(Condition::StringDataRightTruncation, format!("value too long for type {shown}")));
        }
        text.truncate(end);
    }
    if matches!(to, Type::Char(_)) {
        text.truncate(text.trim_end_matches(' ').len());
    }
    Ok(Value::Text(text))
}

/// A JSON scalar as a number or truth value.
fn from_json(text: &str, to: &Type) -> Result<Value> {
    let refused =
        |what: &str| Error::new(Condition::InvalidParameterValue, format!("cannot cast jsonb {what} to type {to}"));
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(serde_json::Value::Bool(b)) if *to == Type::Bool => Ok(Value::Bool(b)),
        // Its text, since parsing may have lost digits.
        Ok(serde_json::Value::Number(_)) if *to != Type::Bool => {
            let number = text.trim().parse::<Decimal>().map_err(|_| out_of_range(to))?;
            convert(Value::Numeric(number), to, true, Local::UTC)
        }
        Ok(serde_json::Value::Null) => Err(refused("null")),
        Ok(serde_json::Value::Bool(_)) => Err(refused("boolean")),
        Ok(serde_json::Value::Number(_)) => Err(refused("numeric")),
        Ok(serde_json::Value::String(_)) => Err(refused("string")),
        Ok(serde_json::Value::Array(_)) => Err(refused("array")),
        Ok(serde_json::Value::Object(_)) => Err(refused("object")),
        Err(e) => Err(Error::internal(format!("stored JSON cannot be parsed: {e}"))),
    }
}

const DAY: i64 = 86_400_000_000;

fn times(value: Value, to: &Type, local: Local<'_>) -> Result<Value> {
    let too_far = || Error::new(Condition::DatetimeFieldOverflow, format!("{} out of range", short(to)));
    Ok(match (value, to) {
        (Value::Date(days), Type::Timestamp) => Value::Timestamp(i64::from(days).checked_mul(DAY).ok_or_else(too_far)?),
        (Value::Date(days), Type::TimestampTz) => {
            let at = i64::from(days).checked_mul(DAY).ok_or_else(too_far)?;
            Value::TimestampTz(to_utc(at, local))
        }
        (Value::Timestamp(at), Type::TimestampTz) => Value::TimestampTz(to_utc(at, local)),
        (Value::TimestampTz(utc), Type::Timestamp) => Value::Timestamp(to_local(utc, local)),
        (Value::TimestampTz(utc), Type::Date | Type::Time) => {
            return times(Value::Timestamp(to_local(utc, local)), to, local);
        }
        (Value::Timestamp(micros), Type::Date) => {
            Value::Date(i32::try_from(micros.div_euclid(DAY)).map_err(|_| too_far())?)
        }
        (Value::Timestamp(micros), Type::Time) => Value::Time(micros.rem_euclid(DAY)),
        (Value::Time(micros), Type::Interval) => Value::Interval(polity_base::Interval { months: 0, days: 0, micros }),
        (Value::Interval(v), Type::Time) => Value::Time(v.micros.rem_euclid(DAY)),
        (value, to) => {
            let from = super::operand::type_of(&value).unwrap_or(Type::Unknown);
            return Err(Error::new(Condition::CannotCoerce, format!("cannot cast type {from} to {to}")));
        }
    })
}

fn short(r#type: &Type) -> &'static str {
    match r#type {
        Type::Date => "date",
        _ => "timestamp",
    }
}

/// The value a text stands for, its modifier not applied yet.
pub use super::text::{parse, write};

/// Whether what a literal of `type` means depends on the session or the day.
pub(super) fn is_unstable(text: &str, r#type: &Type) -> bool {
    match r#type {
        Type::TimestampTz => true,
        // 'now', 'today', 'tomorrow'
        Type::Date | Type::Time | Type::Timestamp => !text.trim_start().starts_with(|c: char| c.is_ascii_digit()),
        _ => false,
    }
}

/// A value as it would stand in a key of a column of type `column`, if any row
/// there can equal it. `None`: no value of the column does. The types must
/// compare ([`crate::expr::compile::comparison_type`]).
pub fn key_value(value: &Value, column: &Type) -> Option<Value> {
    match (column, value) {
        (Type::Int2 | Type::Int4 | Type::Int8 | Type::Oid, value) => {
            let whole = match value {
                Value::Numeric(v) => {
                    let v = v.normalize();
                    if v.scale() > 0 { None } else { i64::try_from(v.mantissa()).ok() }
                }
                other => other.as_i64(),
            }?;
            match column {
                Type::Int2 => i16::try_from(whole).ok().map(Value::Int2),
                Type::Int4 => i32::try_from(whole).ok().map(Value::Int4),
                Type::Oid => u32::try_from(whole).ok().map(Value::Oid),
                _ => Some(Value::Int8(whole)),
            }
        }
        (Type::Numeric(_), value) => arithmetic::to_decimal(value).map(Value::Numeric),
        (Type::Float8, value) => Some(Value::Float8(to_f64(value))),
        _ => Some(value.clone()),
    }
}

/// Whether [`key_value`] says all there is to say about the equality of a
/// column of type `column` with values of type `other`.
pub fn is_key_comparable(column: &Type, other: &Type) -> bool {
    match (column, other) {
        (Type::Int2 | Type::Int4 | Type::Int8 | Type::Oid, o) => o.is_integer() || matches!(o, Type::Numeric(_)),
        (Type::Numeric(_), o) => matches!(o, Type::Int2 | Type::Int4 | Type::Int8 | Type::Numeric(_)),
        (Type::Float8, o) => o.is_number() && *o != Type::Oid,
        (a, b) if a.is_text() && b.is_text() => true,
        (Type::Json | Type::Jsonb | Type::Interval | Type::Array(_) | Type::Regclass | Type::InternalChar, _) => false,
        (a, b) => a == b,
    }
}
