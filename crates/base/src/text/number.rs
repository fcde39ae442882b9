//! Integers and floats.

use std::fmt::{self, Write};

use super::{Fault, TextError};

/// Writes a whole number without the detour of a formatter.
pub(super) fn write_integer(v: i64, out: &mut impl Write) -> fmt::Result {
    let mut buffer = [0u8; 20];
    let mut at = buffer.len();
    let mut rest = v.unsigned_abs();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if v < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    out.write_str(std::str::from_utf8(&buffer[at..]).map_err(|_| fmt::Error)?)
}

pub(super) fn write_float4(v: f32, out: &mut impl Write) -> fmt::Result {
    if v.is_finite() { write_shortest(&format!("{v:e}"), 6, out) } else { write_special(f64::from(v), out) }
}

pub(super) fn write_float8(v: f64, out: &mut impl Write) -> fmt::Result {
    if v.is_finite() { write_shortest(&format!("{v:e}"), 15, out) } else { write_special(v, out) }
}

fn write_special(v: f64, out: &mut impl Write) -> fmt::Result {
    out.write_str(if v.is_nan() {
        "NaN"
    } else if v > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    })
}

/// Turns Rust's shortest scientific form into PostgreSQL's: plain between 1e-4
/// and 1e`plain`, scientific with at least two exponent digits elsewhere.
fn write_shortest(scientific: &str, plain: i32, out: &mut impl Write) -> fmt::Result {
    let (mantissa, exponent) = scientific.split_once('e').ok_or(fmt::Error)?;
    let exponent: i32 = exponent.parse().map_err(|_| fmt::Error)?;
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    if exponent < -4 || exponent >= plain {
        let sign_of_exponent = if exponent < 0 { '-' } else { '+' };
        return write!(out, "{sign}{mantissa}e{sign_of_exponent}{:02}", exponent.abs());
    }
    let digits: String = mantissa.chars().filter(|c| *c != '.').collect();
    out.write_str(sign)?;
    if exponent < 0 {
        return write!(out, "0.{}{digits}", "0".repeat((-exponent - 1) as usize));
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        write!(out, "{digits}{}", "0".repeat(whole - digits.len()))
    } else {
        write!(out, "{}.{}", &digits[..whole], &digits[whole..])
    }
}

/// Reads a whole number of a type whose range is `T`'s.
pub(super) fn parse_integer<T: TryFrom<i64>>(text: &str, type_name: &str) -> Result<T, TextError> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(TextError::syntax(type_name, text));
    }
    let out_of_range =
        || TextError::new(Fault::OutOfRange, format!("value \"{text}\" is out of range for type {type_name}"));
    let wide: i64 = trimmed.parse().map_err(|_| out_of_range())?;
    T::try_from(wide).map_err(|_| out_of_range())
}

pub(super) fn parse_float8(text: &str) -> Result<f64, TextError> {
    let trimmed = float_syntax(text, "double precision")?;
    let v: f64 = trimmed.parse().map_err(|_| TextError::syntax("double precision", text))?;
    check_range(text, trimmed, v.is_infinite(), v == 0.0, "double precision")?;
    Ok(v)
}

pub(super) fn parse_float4(text: &str) -> Result<f32, TextError> {
    let trimmed = float_syntax(text, "real")?;
    let v: f32 = trimmed.parse().map_err(|_| TextError::syntax("real", text))?;
    check_range(text, trimmed, v.is_infinite(), v == 0.0, "real")?;
    Ok(v)
}

fn float_syntax<'a>(text: &'a str, type_name: &str) -> Result<&'a str, TextError> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let word = trimmed.trim_start_matches(['+', '-']).to_ascii_lowercase();
    let special = matches!(word.as_str(), "nan" | "inf" | "infinity");
    if special || trimmed.bytes().any(|b| b.is_ascii_digit()) {
        return Ok(trimmed);
    }
    Err(TextError::syntax(type_name, text))
}

/// A number that became infinity or zero only because it did not fit.
fn check_range(text: &str, trimmed: &str, infinite: bool, zero: bool, type_name: &str) -> Result<(), TextError> {
    let mantissa = trimmed.split(['e', 'E']).next().unwrap_or(trimmed);
    let digits = mantissa.bytes().any(|b| (b'1'..=b'9').contains(&b));
    if (infinite || zero) && digits {
        return Err(TextError::new(Fault::OutOfRange, format!("\"{text}\" is out of range for type {type_name}")));
    }
    Ok(())
}
