//! PostgreSQL's text form of every value, in and out, as PostgreSQL 15 has it
//! with `DateStyle = ISO`, `IntervalStyle = postgres`, `bytea_output = hex` and
//! the shortest floats that read back the same.
//!
//! | module       | holds                                        |
//! |--------------|----------------------------------------------|
//! | [`calendar`] | dates, times, timestamps and their parsing   |
//! | [`interval`] | intervals                                    |
//! | [`json`]     | checking json, and jsonb's canonical form    |
//! | [`zone`]     | time zones                                   |
//! | `number`     | floats and integers                          |
//! | `array`      | arrays                                       |

mod array;
pub mod calendar;
pub mod interval;
pub mod json;
mod number;
pub mod zone;

use std::fmt::{self, Write};

use bytes::Bytes;

use crate::decimal::{Decimal, DecimalError};
use crate::types::Type;
use crate::value::Value;

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
    /// Longer than the type allows (22001)
    TooLong,
    /// An ill-formed part of the text (22023)
    Parameter,
    /// A value PostgreSQL has and Polity does not (0A000)
    Unsupported,
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

/// Writes the text form of `value`. NULL writes nothing: it has no text form.
pub fn write(value: &Value, r#type: &Type, settings: &Settings, out: &mut impl Write) -> fmt::Result {
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
            Type::Numeric(Some((_, scale))) => write!(out, "{}", v.rescale(*scale).unwrap_or(*v)),
            _ => write!(out, "{v}"),
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
        Value::Bytea(v) => {
            out.write_str("\\x")?;
            v.iter().try_for_each(|b| write!(out, "{b:02x}"))
        }
        Value::Date(v) => calendar::write_date(*v, out),
        Value::Time(v) => calendar::write_time(*v, out),
        Value::Timestamp(v) => calendar::write_timestamp(*v, out),
        Value::TimestampTz(v) => calendar::write_timestamptz(*v, &settings.zone, out),
        Value::Interval(v) => interval::write(*v, out),
        Value::Uuid(v) => {
            let (a, b, c, d, e) =
                (v >> 96, (v >> 80) & 0xFFFF, (v >> 64) & 0xFFFF, (v >> 48) & 0xFFFF, v & 0xFFFF_FFFF_FFFF);
            write!(out, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
        }
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
        Type::Bool => Value::Bool(parse_bool(text)?),
        Type::Int2 => Value::Int2(number::parse_integer(text, "smallint")?),
        Type::Int4 => Value::Int4(number::parse_integer(text, "integer")?),
        Type::Int8 => Value::Int8(number::parse_integer(text, "bigint")?),
        Type::Oid | Type::Regclass => Value::Oid(number::parse_integer(text, "oid")?),
        Type::Float4 => Value::Float4(number::parse_float4(text)?),
        Type::Float8 => Value::Float8(number::parse_float8(text)?),
        Type::Numeric(modifier) => Value::Numeric(parse_numeric(text, *modifier)?),
        Type::Text | Type::Unknown | Type::Void | Type::Varchar(None) => Value::Text(text.to_owned()),
        Type::Name => Value::Text(text.chars().take(63).collect()),
        Type::InternalChar => Value::Text(text.chars().take(1).collect()),
        Type::Varchar(Some(n)) => Value::Text(limit(text, *n, "character varying")?.to_owned()),
        Type::Char(n) => Value::Text(limit(text, *n, "character")?.trim_end_matches(' ').to_owned()),
        Type::Bytea => Value::Bytea(parse_bytea(text)?),
        Type::Date => Value::Date(calendar::parse_date(text, settings)?),
        Type::Time => Value::Time(calendar::parse_time(text)?),
        Type::Timestamp => Value::Timestamp(calendar::parse_timestamp(text, settings)?),
        Type::TimestampTz => Value::TimestampTz(calendar::parse_timestamptz(text, settings)?),
        Type::Interval => Value::Interval(interval::parse(text)?),
        Type::Uuid => Value::Uuid(parse_uuid(text)?),
        Type::Json => {
            json::check(text)?;
            Value::Json(text.to_owned())
        }
        Type::Jsonb => Value::Json(json::canonical(text)?),
        Type::Array(element) => Value::Array(array::parse(text, element, settings)?),
    })
}

/// At most `n` characters; blanks beyond are cut, anything else is an error.
fn limit<'a>(text: &'a str, n: u32, type_name: &str) -> Result<&'a str, TextError> {
    let Some((end, _)) = text.char_indices().nth(n as usize) else { return Ok(text) };
    if text[end..].bytes().all(|b| b == b' ') {
        return Ok(&text[..end]);
    }
    Err(TextError::new(Fault::TooLong, format!("value too long for type {type_name}({n})")))
}

fn parse_bool(text: &str) -> Result<bool, TextError> {
    let word = text.trim().to_ascii_lowercase();
    let is_prefix = |full: &str| !word.is_empty() && full.starts_with(word.as_str());
    // "o" alone could be either.
    match word.as_str() {
        "1" => Ok(true),
        "0" => Ok(false),
        "on" => Ok(true),
        "of" | "off" => Ok(false),
        _ if is_prefix("true") || is_prefix("yes") => Ok(true),
        _ if is_prefix("false") || is_prefix("no") => Ok(false),
        _ => Err(TextError::syntax("boolean", text)),
    }
}

fn parse_numeric(text: &str, modifier: Option<(u8, u8)>) -> Result<Decimal, TextError> {
    let trimmed = text.trim();
    let number: Decimal = match trimmed.parse() {
        Ok(number) => number,
        Err(DecimalError::Syntax) => {
            let word = trimmed.trim_start_matches(['+', '-']).to_ascii_lowercase();
            if matches!(word.as_str(), "nan" | "infinity" | "inf") {
                return Err(TextError::new(Fault::Unsupported, format!("numeric {word} is not supported")));
            }
            return Err(TextError::syntax("numeric", text));
        }
        Err(_) => return Err(numeric_overflow(None)),
    };
    fit(number, modifier)
}

/// Rounds `number` to `numeric(precision, scale)`; an error when its digits do
/// not fit.
pub fn fit(number: Decimal, modifier: Option<(u8, u8)>) -> Result<Decimal, TextError> {
    let Some((precision, scale)) = modifier else { return Ok(number) };
    let rounded = number.rescale(scale).ok_or_else(|| numeric_overflow(modifier))?;
    if rounded.integer_digits() > u32::from(precision.saturating_sub(scale)) {
        return Err(numeric_overflow(modifier));
    }
    Ok(rounded)
}

fn numeric_overflow(modifier: Option<(u8, u8)>) -> TextError {
    let mut error = TextError::new(Fault::OutOfRange, "numeric field overflow");
    error.detail = Some(match modifier {
        Some((p, s)) => format!(
            "A field with precision {p}, scale {s} must round to an absolute value less than {}{}.",
            if p == s { "" } else { "10^" },
            if p == s { "1".to_owned() } else { (p - s).to_string() }
        ),
        None => "A number has at most 38 digits.".to_owned(),
    });
    error
}

fn parse_uuid(text: &str) -> Result<u128, TextError> {
    let fault = || TextError::syntax("uuid", text);
    let trimmed = text.trim();
    let inner = match trimmed.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}').ok_or_else(fault)?,
        None => trimmed,
    };
    let (mut value, mut digits) = (0u128, 0);
    for b in inner.bytes() {
        if b == b'-' && digits > 0 && digits % 4 == 0 && digits < 32 {
            continue;
        }
        let digit = char::from(b).to_digit(16).filter(|_| digits < 32).ok_or_else(fault)?;
        value = value << 4 | u128::from(digit);
        digits += 1;
    }
    if digits == 32 && !inner.ends_with('-') { Ok(value) } else { Err(fault()) }
}

fn parse_bytea(text: &str) -> Result<Bytes, TextError> {
    if let Some(hex) = text.strip_prefix("\\x") {
        let mut out = Vec::with_capacity(hex.len() / 2);
        let mut high = None;
        for c in hex.chars() {
            if c.is_ascii_whitespace() && high.is_none() {
                continue;
            }
            let digit = c
                .to_digit(16)
                .ok_or_else(|| TextError::new(Fault::Parameter, format!("invalid hexadecimal digit: \"{c}\"")))?
                as u8;
            match high.take() {
                None => high = Some(digit),
                Some(h) => out.push(h << 4 | digit),
            }
        }
        if high.is_some() {
            return Err(TextError::new(Fault::Parameter, "invalid hexadecimal data: odd number of digits"));
        }
        return Ok(out.into());
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        if b != b'\\' {
            out.push(b);
            at += 1;
        } else if bytes.get(at + 1) == Some(&b'\\') {
            out.push(b'\\');
            at += 2;
        } else {
            let octal = bytes
                .get(at + 1..at + 4)
                .filter(|d| (b'0'..=b'3').contains(&d[0]) && d[1..].iter().all(|b| (b'0'..=b'7').contains(b)));
            let d = octal.ok_or_else(|| TextError::syntax("bytea", text))?;
            out.push((d[0] - b'0') << 6 | (d[1] - b'0') << 3 | (d[2] - b'0'));
            at += 4;
        }
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests;
