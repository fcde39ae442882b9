//! Integers, floats and decimals.
//!
//! Floats are written with the fewest digits that lie strictly between the
//! midpoints to both neighbours. Rust's shortest form may lie on such a midpoint
//! (reading rounds it back to the even neighbour); PostgreSQL does not rely on
//! that, so such a number takes more digits: `1e23` reads as
//! `9.999999999999999e+22`.

use std::fmt::{self, Write};

use super::{Fault, TextError, trim};
use crate::decimal::{Decimal, MAX_DIGITS};

/// Text of a known greatest length, kept on the stack.
struct Stack<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Stack<N> {
    fn new() -> Stack<N> {
        Stack { bytes: [0; N], used: 0 }
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.used).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or_default()
    }
}

impl<const N: usize> Write for Stack<N> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.used..self.used + s.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(s.as_bytes());
        self.used += s.len();
        Ok(())
    }
}

/// The decimal digits of `v`, at the end of `buffer`.
fn digits(mut v: u128, buffer: &mut [u8; 39]) -> &str {
    let mut at = buffer.len();
    // Most numbers fit a machine word, which divides much faster.
    while v > u128::from(u64::MAX) {
        at -= 1;
        buffer[at] = b'0' + (v % 10) as u8;
        v /= 10;
    }
    let mut narrow = v as u64;
    loop {
        at -= 1;
        buffer[at] = b'0' + (narrow % 10) as u8;
        narrow /= 10;
        if narrow == 0 {
            break;
        }
    }
    std::str::from_utf8(&buffer[at..]).unwrap_or_default()
}

/// Writes a whole number without the detour of a formatter.
pub(super) fn write_integer(v: i64, out: &mut impl Write) -> fmt::Result {
    if v < 0 {
        out.write_char('-')?;
    }
    out.write_str(digits(u128::from(v.unsigned_abs()), &mut [0; 39]))
}

/// Writes a decimal with as many digits after the point as its scale says.
pub(super) fn write_decimal(v: Decimal, out: &mut impl Write) -> fmt::Result {
    const ZEROS: &str = "00000000000000000000000000000000000000";
    let mut buffer = [0; 39];
    let digits = digits(v.mantissa().unsigned_abs(), &mut buffer);
    let scale = usize::from(v.scale());
    if v.mantissa() < 0 {
        out.write_char('-')?;
    }
    if scale == 0 {
        return out.write_str(digits);
    }
    match digits.len().checked_sub(scale) {
        Some(whole @ 1..) => {
            out.write_str(&digits[..whole])?;
            out.write_char('.')?;
            out.write_str(&digits[whole..])
        }
        _ => {
            out.write_str("0.")?;
            out.write_str(&ZEROS[..scale - digits.len()])?;
            out.write_str(digits)
        }
    }
}

/// The longest scientific form: sign, 17 digits, point, `e-324`.
type Scientific = Stack<32>;

pub(super) fn write_float4(v: f32, out: &mut impl Write) -> fmt::Result {
    if !v.is_finite() {
        return write_special(f64::from(v), out);
    }
    let mut text = Scientific::new();
    write!(text, "{v:e}")?;
    let significant = count_digits(text.as_str());
    // Up to 6 digits below 2^24 no two decimals mean the same float.
    if v != 0.0 && (significant > 6 || v.abs() >= 16_777_216.0) {
        for precision in significant..=9 {
            text = Scientific::new();
            write!(text, "{v:.*e}", precision - 1)?;
            let (mantissa, exponent) = binary32(v);
            if text.as_str().parse() == Ok(v) && !is_midpoint(text.as_str(), mantissa, exponent) {
                break;
            }
        }
    }
    write_shortest(text.as_str(), 6, out)
}

pub(super) fn write_float8(v: f64, out: &mut impl Write) -> fmt::Result {
    if !v.is_finite() {
        return write_special(v, out);
    }
    let mut text = Scientific::new();
    write!(text, "{v:e}")?;
    let significant = count_digits(text.as_str());
    // Up to 15 digits below 2^53 no two decimals mean the same float.
    if v != 0.0 && (significant > 15 || v.abs() >= 9_007_199_254_740_992.0) {
        for precision in significant..=17 {
            text = Scientific::new();
            write!(text, "{v:.*e}", precision - 1)?;
            let (mantissa, exponent) = binary64(v);
            if text.as_str().parse() == Ok(v) && !is_midpoint(text.as_str(), mantissa, exponent) {
                break;
            }
        }
    }
    write_shortest(text.as_str(), 15, out)
}

fn count_digits(scientific: &str) -> usize {
    scientific.bytes().take_while(|b| *b != b'e').filter(u8::is_ascii_digit).count()
}

/// Mantissa and binary exponent of a finite number's magnitude.
fn binary64(v: f64) -> (u64, i32) {
    let bits = v.to_bits();
    let (exponent, fraction) = ((bits >> 52 & 0x7FF) as i32, bits & ((1 << 52) - 1));
    if exponent == 0 { (fraction, -1074) } else { (fraction | 1 << 52, exponent - 1075) }
}

fn binary32(v: f32) -> (u64, i32) {
    let bits = v.to_bits();
    let (exponent, fraction) = ((bits >> 23 & 0xFF) as i32, u64::from(bits & ((1 << 23) - 1)));
    if exponent == 0 { (fraction, -149) } else { (fraction | 1 << 23, exponent - 150) }
}

/// Whether a decimal is exactly half way between `mantissa × 2^exponent` and a
/// neighbour: whether it equals `(2·mantissa ± 1) × 2^(exponent-1)`.
fn is_midpoint(scientific: &str, mantissa: u64, exponent: i32) -> bool {
    let Some((digits, power)) = scientific.split_once('e') else { return false };
    let fraction = digits.split_once('.').map_or(0, |(_, f)| f.len() as i32);
    let whole = digits.bytes().filter(u8::is_ascii_digit).fold(0u64, |n, d| n * 10 + u64::from(d - b'0'));
    let Ok(power) = power.parse::<i32>() else { return false };
    if whole == 0 {
        return false;
    }
    // The decimal is odd × 2^twos × 10^tens; the midpoint an odd number × a power of two.
    let (twos, tens) = (whole.trailing_zeros() as i32, power - fraction);
    let odd = u128::from(whole >> twos);
    if twos + tens != exponent - 1 {
        return false;
    }
    let Some(fives) = 5u128.checked_pow(tens.unsigned_abs()) else { return false };
    [2 * u128::from(mantissa) + 1, (2 * u128::from(mantissa)).saturating_sub(1)].into_iter().any(|midpoint| {
        let (small, large) = if tens >= 0 { (odd, midpoint) } else { (midpoint, odd) };
        small.checked_mul(fives) == Some(large)
    })
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

/// Turns a scientific form into PostgreSQL's: plain between 1e-4 and 1e`plain`,
/// scientific with at least two exponent digits elsewhere.
fn write_shortest(scientific: &str, plain: i32, out: &mut impl Write) -> fmt::Result {
    let (mantissa, exponent) = scientific.split_once('e').ok_or(fmt::Error)?;
    let exponent: i32 = exponent.parse().map_err(|_| fmt::Error)?;
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |m| ("-", m));
    let mantissa = if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
    out.write_str(sign)?;
    if exponent < -4 || exponent >= plain {
        let sign_of_exponent = if exponent < 0 { '-' } else { '+' };
        return write!(out, "{mantissa}e{sign_of_exponent}{:02}", exponent.abs());
    }
    let (first, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if exponent < 0 {
        out.write_str(&"0.000"[..(1 - exponent) as usize])?;
        out.write_str(first)?;
        return out.write_str(rest);
    }
    let whole = exponent as usize;
    out.write_str(first)?;
    if rest.len() <= whole {
        out.write_str(rest)?;
        return (rest.len()..whole).try_for_each(|_| out.write_char('0'));
    }
    out.write_str(&rest[..whole])?;
    out.write_char('.')?;
    out.write_str(&rest[whole..])
}

/// Reads a whole number of a type whose range is `T`'s.
pub(super) fn parse_integer<T: TryFrom<i64>>(text: &str, type_name: &str) -> Result<T, TextError> {
    let bytes = trim(text).as_bytes();
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, bytes),
    };
    let out_of_range =
        || TextError::new(Fault::OutOfRange, format!("value \"{text}\" is out of range for type {type_name}"));
    let mut v = 0i64;
    for (at, b) in digits.iter().enumerate() {
        if !b.is_ascii_digit() {
            // As PostgreSQL does, a number that is too large is told before what follows it.
            let fits = at > 0 && T::try_from(v).is_err();
            return Err(if fits { out_of_range() } else { TextError::syntax(type_name, text) });
        }
        let digit = i64::from(b - b'0');
        let next = v.checked_mul(10).and_then(|v| if negative { v.checked_sub(digit) } else { v.checked_add(digit) });
        v = next.ok_or_else(out_of_range)?;
    }
    if digits.is_empty() {
        return Err(TextError::syntax(type_name, text));
    }
    T::try_from(v).map_err(|_| out_of_range())
}

/// Reads an object identifier; negative numbers count from 2^32 down.
pub(super) fn parse_oid(text: &str) -> Result<u32, TextError> {
    let v: i64 = parse_integer(text, "oid")?;
    if v < i64::from(i32::MIN) || v > i64::from(u32::MAX) {
        return Err(TextError::new(Fault::OutOfRange, format!("value \"{text}\" is out of range for type oid")));
    }
    Ok(v as u32)
}

pub(super) fn parse_float8(text: &str) -> Result<f64, TextError> {
    let trimmed = float_syntax(text, "double precision")?;
    let v: f64 = trimmed.parse().map_err(|_| TextError::syntax("double precision", text))?;
    check_range(trimmed, v.is_infinite(), v == 0.0, "double precision")?;
    Ok(v)
}

pub(super) fn parse_float4(text: &str) -> Result<f32, TextError> {
    let trimmed = float_syntax(text, "real")?;
    let v: f32 = trimmed.parse().map_err(|_| TextError::syntax("real", text))?;
    check_range(text, v.is_infinite(), v == 0.0, "real")?;
    Ok(v)
}

fn float_syntax<'a>(text: &'a str, type_name: &str) -> Result<&'a str, TextError> {
    let trimmed = trim(text);
    let unsigned = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    let special = ["nan", "inf", "infinity"].iter().any(|word| unsigned.eq_ignore_ascii_case(word));
    if special || unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Ok(trimmed);
    }
    Err(TextError::syntax(type_name, text))
}

/// A number that became infinity or zero only because it did not fit.
fn check_range(text: &str, infinite: bool, zero: bool, type_name: &str) -> Result<(), TextError> {
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let digits = mantissa.bytes().any(|b| (b'1'..=b'9').contains(&b));
    if (infinite || zero) && digits {
        return Err(TextError::new(Fault::OutOfRange, format!("\"{text}\" is out of range for type {type_name}")));
    }
    Ok(())
}

/// The parts of a decimal number as it is written.
struct Written<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: i64,
}

/// Exponents beyond this are refused, whatever the digits.
const MOST_EXPONENT: i64 = i32::MAX as i64 / 2;

fn written(text: &str) -> Option<Written<'_>> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (number, exponent) = match rest.split_once(['e', 'E']) {
        Some((number, exponent)) => {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            // Too long for an i64 is too large in any case.
            let far = if exponent.starts_with('-') { i64::MIN / 2 } else { i64::MAX / 2 };
            (number, exponent.parse().unwrap_or(far))
        }
        None => (rest, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut digits = whole.bytes().chain(fraction.bytes());
    let any = !whole.is_empty() || !fraction.is_empty();
    (any && digits.all(|b| b.is_ascii_digit())).then_some(Written { negative, whole, fraction, exponent })
}

/// Reads a decimal number; `numeric(p,s)` rounds half away from zero, all digits
/// counting.
pub(super) fn parse_decimal(text: &str, modifier: Option<(u8, u8)>) -> Result<Decimal, TextError> {
    let trimmed = trim(text);
    let Some(written) = written(trimmed) else {
        let word = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
        let infinite = ["infinity", "inf"].iter().any(|w| word.eq_ignore_ascii_case(w));
        if infinite || trimmed.eq_ignore_ascii_case("nan") {
            return Err(TextError::new(Fault::Unsupported, format!("numeric \"{trimmed}\" is not supported")));
        }
        return Err(TextError::syntax("numeric", text));
    };
    if written.exponent.abs() > MOST_EXPONENT {
        return Err(TextError::new(Fault::OutOfRange, "value overflows numeric format"));
    }
    // The digit `at` places after the point, which the exponent has moved.
    let scale = written.fraction.len() as i64 - written.exponent;
    let kept = match modifier {
        Some((_, wanted)) => scale.clamp(0, i64::from(wanted)),
        None => scale.max(0),
    };
    let cut = scale - kept;
    let count = (written.whole.len() + written.fraction.len()) as i64;
    let mut mantissa = 0i128;
    let digits = written.whole.bytes().chain(written.fraction.bytes()).map(|b| i128::from(b - b'0'));
    for digit in digits.clone().take((count - cut.max(0)).max(0) as usize) {
        mantissa = push_digit(mantissa, digit).ok_or_else(|| overflow(modifier))?;
    }
    if cut > 0 && cut <= count && digits.clone().nth((count - cut) as usize).is_some_and(|d| d >= 5) {
        mantissa += 1;
    }
    for _ in cut..0 {
        if mantissa == 0 {
            break;
        }
        mantissa = push_digit(mantissa, 0).ok_or_else(|| overflow(modifier))?;
    }
    let signed = if written.negative { -mantissa } else { mantissa };
    let kept = u8::try_from(kept).map_err(|_| overflow(modifier))?;
    fit(Decimal::new(signed, kept).ok_or_else(|| overflow(modifier))?, modifier)
}

fn push_digit(mantissa: i128, digit: i128) -> Option<i128> {
    const MOST: i128 = 10i128.pow(MAX_DIGITS) - 1;
    mantissa.checked_mul(10)?.checked_add(digit).filter(|m| *m <= MOST)
}

/// Rounds `number` to `numeric(precision, scale)`; an error when its digits do
/// not fit.
pub fn fit(number: Decimal, modifier: Option<(u8, u8)>) -> Result<Decimal, TextError> {
    let Some((precision, scale)) = modifier else { return Ok(number) };
    let rounded = number.rescale(scale).ok_or_else(|| overflow(modifier))?;
    if rounded.mantissa() != 0 && rounded.integer_digits() > u32::from(precision.saturating_sub(scale)) {
        return Err(overflow(modifier));
    }
    Ok(rounded)
}

fn overflow(modifier: Option<(u8, u8)>) -> TextError {
    let Some((p, s)) = modifier else {
        return TextError::new(Fault::OutOfRange, "value overflows numeric format")
            .detail(format!("A number has at most {MAX_DIGITS} digits, before and after the point together."));
    };
    let power = p.saturating_sub(s);
    let limit = if power == 0 { "1".to_owned() } else { format!("10^{power}") };
    TextError::new(Fault::OutOfRange, "numeric field overflow")
        .detail(format!("A field with precision {p}, scale {s} must round to an absolute value less than {limit}."))
}

/// A JSON number without its exponent, as jsonb shows it. `None` when it has more
/// digits than PostgreSQL's numeric.
pub(super) fn plain(number: &str) -> Option<String> {
    const MOST_WHOLE: i64 = 131_072;
    const MOST_FRACTION: i64 = 16_383;
    let written = written(number)?;
    let all = [written.whole, written.fraction].concat();
    // Where the point stands among all digits; outside of them zeros are added.
    let point = written.whole.len() as i64 + written.exponent.clamp(-MOST_EXPONENT, MOST_EXPONENT);
    let fraction = (all.len() as i64 - point).max(0);
    let zero = all.bytes().all(|b| b == b'0');
    if (!zero && point > MOST_WHOLE) || fraction > MOST_FRACTION {
        return None;
    }
    let mut out = String::with_capacity(all.len() + 2);
    if written.negative && !zero {
        out.push('-');
    }
    let (whole, rest) = all.split_at(point.clamp(0, all.len() as i64) as usize);
    let whole = whole.trim_start_matches('0');
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if !zero {
        (all.len() as i64..point).for_each(|_| out.push('0'));
    }
    if fraction > 0 {
        out.push('.');
        (point..0).for_each(|_| out.push('0'));
        out.push_str(rest);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn midpoints_are_told_apart() {
        let (mantissa, exponent) = binary64(1e23);
        assert!(is_midpoint("1e23", mantissa, exponent));
        assert!(!is_midpoint("9.999999999999999e22", mantissa, exponent));
    }

    #[test]
    fn json_numbers_lose_their_exponent() {
        for (given, expected) in
            [("1e5", "100000"), ("1.5E-3", "0.0015"), ("-0", "0"), ("-0.00", "0.00"), ("12e-1", "1.2"), ("0e5", "0")]
        {
            assert_eq!(plain(given).as_deref(), Some(expected));
        }
        assert_eq!(plain("1e200000"), None);
        assert!(plain("1e-99999").is_none());
    }
}
