//! `bytea` and `uuid`.

use std::fmt::{self, Write};

use bytes::Bytes;

use super::{Fault, TextError, is_space};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Writes `\x` and two hexadecimal digits a byte.
pub(super) fn write_bytea(bytes: &[u8], out: &mut impl Write) -> fmt::Result {
    out.write_str("\\x")?;
    write_hex(bytes, out)
}

fn write_hex(bytes: &[u8], out: &mut impl Write) -> fmt::Result {
    for chunk in bytes.chunks(32) {
        let mut digits = [0; 64];
        for (pair, b) in digits.chunks_exact_mut(2).zip(chunk) {
            pair[0] = HEX[usize::from(b >> 4)];
            pair[1] = HEX[usize::from(b & 15)];
        }
        out.write_str(std::str::from_utf8(&digits[..chunk.len() * 2]).map_err(|_| fmt::Error)?)?;
    }
    Ok(())
}

/// Reads both forms of bytea: hexadecimal (`\xDEAD`) and escapes (`a\\b\001`).
pub(super) fn parse_bytea(text: &str) -> Result<Bytes, TextError> {
    match text.strip_prefix("\\x") {
        Some(hex) => parse_hex(hex),
        None => parse_escapes(text).ok_or_else(|| TextError::new(Fault::Syntax, "invalid input syntax for type bytea")),
    }
}

fn parse_hex(hex: &str) -> Result<Bytes, TextError> {
    let mut out = Vec::with_capacity(hex.len() / 2);
    let mut high = None;
    for c in hex.chars() {
        // Blanks may stand between bytes, not within one.
        if high.is_none() && matches!(c, ' ' | '\n' | '\t' | '\r') {
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
    match high {
        None => Ok(out.into()),
        Some(_) => Err(TextError::new(Fault::Parameter, "invalid hexadecimal data: odd number of digits")),
    }
}

fn parse_escapes(text: &str) -> Option<Bytes> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return Some(out.into()),
            [b'\\', b'\\', after @ ..] => {
                out.push(b'\\');
                after
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                after
            }
            [b'\\', ..] => return None,
            [b, after @ ..] => {
                out.push(*b);
                after
            }
        };
    }
}

/// Writes 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12.
pub(super) fn write_uuid(v: u128, out: &mut impl Write) -> fmt::Result {
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (i, b) in v.to_be_bytes().iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(b >> 4)];
        text[at + 1] = HEX[usize::from(b & 15)];
        at += 2;
    }
    out.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

/// Reads 32 hexadecimal digits, a hyphen allowed after each four, braces allowed
/// around them.
pub(super) fn parse_uuid(text: &str) -> Result<u128, TextError> {
    read_uuid(text).ok_or_else(|| TextError::syntax("uuid", text))
}

fn read_uuid(text: &str) -> Option<u128> {
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let (mut value, mut digits, mut after_hyphen) = (0u128, 0, true);
    for b in inner.bytes() {
        if b == b'-' {
            if after_hyphen || digits % 4 != 0 || digits == 32 {
                return None;
            }
            after_hyphen = true;
            continue;
        }
        if digits == 32 {
            return None;
        }
        value = value << 4 | u128::from(char::from(b).to_digit(16)?);
        digits += 1;
        after_hyphen = false;
    }
    (digits == 32).then_some(value)
}

/// At most `n` characters; blanks beyond are cut, anything else is an error.
pub(super) fn limit<'a>(text: &'a str, n: u32, type_name: &str) -> Result<&'a str, TextError> {
    if text.len() <= n as usize {
        return Ok(text);
    }
    let Some((end, _)) = text.char_indices().nth(n as usize) else { return Ok(text) };
    if text[end..].bytes().all(|b| b == b' ') {
        return Ok(&text[..end]);
    }
    Err(TextError::new(Fault::TooLong, format!("value too long for type {type_name}({n})")))
}

/// The longest start of `text` that has at most `most` bytes and ends between
/// characters.
pub(super) fn clip(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Reads a truth value: a prefix of true, false, yes or no, or on, off, 1, 0.
pub(super) fn parse_bool(text: &str) -> Result<bool, TextError> {
    let word = text.trim_matches(|c: char| c.is_ascii() && is_space(c as u8));
    let is_prefix = |full: &str| {
        !word.is_empty()
            && full.len() >= word.len()
            && full.as_bytes()[..word.len()].eq_ignore_ascii_case(word.as_bytes())
    };
    // "o" alone could be either.
    let of = word.len() > 1 && is_prefix("off");
    if is_prefix("true") || is_prefix("yes") || word.eq_ignore_ascii_case("on") || word == "1" {
        Ok(true)
    } else if is_prefix("false") || is_prefix("no") || of || word == "0" {
        Ok(false)
    } else {
        Err(TextError::syntax("boolean", text))
    }
}
