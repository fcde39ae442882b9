//! PostgreSQL's text form of every value, in and out, as PostgreSQL 15 has it
//! with `DateStyle = ISO, MDY`, `IntervalStyle = postgres`, `bytea_output = hex`
//! and the shortest floats that read back the same.
//!
//! | module       | holds                                                   |
//! |--------------|---------------------------------------------------------|
//! | [`calendar`] | dates, times and timestamps                             |
//! | [`interval`] | intervals                                               |
//! | [`json`]     | checking json, and jsonb's canonical form               |
//! | [`zone`]     | time zones                                              |
//! | `number`     | floats, integers, decimals                              |
//! | `bytes`      | bytea, uuid, boolean, lengths of strings                |
//! | `array`      | arrays                                                  |
//! | `fields`     | cutting a date or an interval into numbers and words    |
//! | `moment`     | what those mean together                                |
//! | `clock`      | times of day and distances from UTC                     |
//! | `words`      | names of months and the like                            |
//!
//! Where Polity knowingly differs from PostgreSQL:
//!
//! - `numeric` has up to 38 digits and neither NaN nor infinity;
//! - dates and timestamps have no infinity, and timestamps end in the year 294247;
//! - arrays begin at 1;
//! - hexadecimal floats, and words such as `y` and `m` inside dates, are refused.

mod array;
mod bytes;
pub mod calendar;
mod clock;
mod fields;
pub mod interval;
pub mod json;
mod moment;
mod number;
mod words;
pub mod zone;

use std::fmt::{self, Write};

use crate::types::Type;
use crate::value::Value;

pub use number::fit;
pub use zone::{Zone, zone_name};

/// What kind of fault a text has: each is one PostgreSQL condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Not a value of the type (22P02)
    Syntax,
    /// A number beyond the type's range (22003)
    OutOfRange,
    /// Not a date or time (22007)
    DatetimeSyntax,
    /// A date or time that does not exist, or out of range (22008)
    DatetimeRange,
    /// A distance from UTC that no zone has (22009)
    ZoneRange,
    /// An interval out of range (22015)
    IntervalRange,
    /// Longer than the type allows (22001)
    TooLong,
    /// An ill-formed part of the text (22023)
    Parameter,
    /// An array whose bounds contradict each other (2202E)
    Subscript,
    /// A character that text cannot hold (22P05)
    Untranslatable,
    /// More than a limit allows (54000)
    Limit,
    /// Nested too deeply (54001)
    Depth,
    /// A value PostgreSQL has and Polity does not (0A000)
    Unsupported,
}

impl Fault {
    /// The SQLSTATE of PostgreSQL's condition.
    pub fn code(self) -> &'static str {
        match self {
            Fault::Syntax => "22P02",
            Fault::OutOfRange => "22003",
            Fault::DatetimeSyntax => "22007",
            Fault::DatetimeRange => "22008",
            Fault::ZoneRange => "22009",
            Fault::IntervalRange => "22015",
            Fault::TooLong => "22001",
            Fault::Parameter => "22023",
            Fault::Subscript => "2202E",
            Fault::Untranslatable => "22P05",
            Fault::Limit => "54000",
            Fault::Depth => "54001",
            Fault::Unsupported => "0A000",
        }
    }
}

/// Why a text is not a value of a type.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct TextError {
    /// What kind of fault it is
    pub fault: Fault,
    /// In PostgreSQL's words
    pub message: String,
    /// The facts, if there are more
    pub detail: Option<String>,
}

impl TextError {
    pub(crate) fn new(fault: Fault, message: impl Into<String>) -> TextError {
        TextError { fault, message: message.into(), detail: None }
    }

    pub(crate) fn detail(mut self, detail: impl Into<String>) -> TextError {
        self.detail = Some(detail.into());
        self
    }

    pub(crate) fn syntax(type_name: impl fmt::Display, text: &str) -> TextError {
        TextError::new(Fault::Syntax, format!("invalid input syntax for type {type_name}: \"{text}\""))
    }
}

/// What reading and writing depends on besides the value.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The session's time zone
    pub zone: Zone,
    /// What `now` and `today` mean: microseconds since 1970 UTC
    pub now: i64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { zone: Zone::UTC, now: 0 }
    }
}

/// Whether C's `isspace` takes the byte for white space, as PostgreSQL does.
fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t'..=b'\r')
}

/// The text without white space around it.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii() && is_space(c as u8))
}

/// Writes the text form of `value`. NULL writes nothing: it has no text form.
pub fn write<W: Write>(value: &Value, r#type: &Type, settings: &Settings, out: &mut W) -> fmt::Result {
    match value {
        Value::Null => Ok(()),
        Value::Bool(v) => out.write_str(if *v { "t" } else { "f" }),
        Value::Int2(v) => number::write_integer(i64::from(*v), out),
        Value::Int4(v) => number::write_integer(i64::from(*v), out),
        Value::Int8(v) => number::write_integer(*v, out),
        Value::Oid(v) => number::write_integer(i64::from(*v), out),
        Value::Float4(v) => number::write_float4(*v, out),
        Value::Float8(v) => number::write_float8(*v, out),
        Value::Numeric(v) => match r#type {
            Type::Numeric(Some((_, scale))) => number::write_decimal(v.rescale(*scale).unwrap_or(*v), out),
            _ => number::write_decimal(*v, out),
        },
        Value::Text(v) => {
            out.write_str(v)?;
            if let Type::Char(n) = r#type {
                for _ in v.chars().count()..*n as usize {
                    out.write_char(' ')?;
                }
            }
            Ok(())
        }
        Value::Json(v) => out.write_str(v),
        Value::Bytea(v) => bytes::write_bytea(v, out),
        Value::Date(v) => calendar::write_date(*v, out),
        Value::Time(v) => calendar::write_time(*v, out),
        Value::Timestamp(v) => calendar::write_timestamp(*v, out),
        Value::TimestampTz(v) => calendar::write_timestamptz(*v, &settings.zone, out),
        Value::Interval(v) => interval::write(*v, out),
        Value::Uuid(v) => bytes::write_uuid(*v, out),
        Value::Array(elements) => {
            let element = match r#type {
                Type::Array(element) => element,
                _ => &Type::Text,
            };
            array::write(elements, element, settings, out)
        }
    }
}

/// The text form of `value`, as a string of its own.
pub fn to_text(value: &Value, r#type: &Type, settings: &Settings) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(value, r#type, settings, &mut text);
    text
}

/// Reads a value of `r#type` as PostgreSQL's input functions do, modifiers
/// included: `varchar(n)` refuses longer texts (unless only blanks are lost),
/// `numeric(p,s)` rounds.
pub fn parse(text: &str, r#type: &Type, settings: &Settings) -> Result<Value, TextError> {
    Ok(match r#type {
        Type::Bool => Value::Bool(bytes::parse_bool(text)?),
        Type::Int2 => Value::Int2(number::parse_integer(text, "smallint")?),
        Type::Int4 => Value::Int4(number::parse_integer(text, "integer")?),
        Type::Int8 => Value::Int8(number::parse_integer(text, "bigint")?),
        Type::Oid | Type::Regclass => Value::Oid(number::parse_oid(text)?),
        Type::Float4 => Value::Float4(number::parse_float4(text)?),
        Type::Float8 => Value::Float8(number::parse_float8(text)?),
        Type::Numeric(modifier) => Value::Numeric(number::parse_decimal(text, *modifier)?),
        Type::Text | Type::Unknown | Type::Void | Type::Varchar(None) => Value::Text(text.to_owned()),
        Type::Name => Value::Text(bytes::clip(text, 63).to_owned()),
        Type::InternalChar => Value::Text(text.chars().take(1).collect()),
        Type::Varchar(Some(n)) => Value::Text(bytes::limit(text, *n, "character varying")?.to_owned()),
        Type::Char(n) => Value::Text(bytes::limit(text, *n, "character")?.trim_end_matches(' ').to_owned()),
        Type::Bytea => Value::Bytea(bytes::parse_bytea(text)?),
        Type::Date => Value::Date(calendar::parse_date(text, settings)?),
        Type::Time => Value::Time(calendar::parse_time(text, settings)?),
        Type::Timestamp => Value::Timestamp(calendar::parse_timestamp(text, settings)?),
        Type::TimestampTz => Value::TimestampTz(calendar::parse_timestamptz(text, settings)?),
        Type::Interval => Value::Interval(interval::parse(text)?),
        Type::Uuid => Value::Uuid(bytes::parse_uuid(text)?),
        Type::Json => {
            json::check(text)?;
            Value::Json(text.to_owned())
        }
        Type::Jsonb => Value::Json(json::canonical(text)?),
        Type::Array(element) => Value::Array(array::parse(text, element, settings)?),
    })
}

#[cfg(test)]
mod tests;
