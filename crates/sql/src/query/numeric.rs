//! `numeric` values that carry their own scale, in columns.
//!
//! PostgreSQL prints `1.50` as it was written and divides to a scale that
//! depends on the values. Arrow's decimals have one scale per column. So there
//! are two forms of `numeric` in a batch:
//!
//! - *fixed*: `Decimal128(38, s)`, where the scale is known when planning:
//!   columns `numeric(p, s)`, literals, and sums, differences and products of
//!   those. Arrow's kernels compute on it;
//! - *free*: eighteen bytes a value, written here, for everything else.
//!
//! ```text
//! class and exponent (1) | digits, 38 of them, as a number (16) | scale (1)
//! ```
//! The first seventeen bytes order numbers and are the same for equal numbers
//! (`1.5`, `1.50`): they are the *sort key*, which comparisons, grouping and
//! sorting use.

use polity_base::Decimal;

/// Bytes of a free numeric.
pub const FREE_BYTES: i32 = 18;
/// Bytes of its sort key.
pub const KEY_BYTES: i32 = 17;

/// Numbers are 0.ddd × 10^exponent with an exponent of -37 to 38.
const BIAS: i16 = 38;
const ZERO: u8 = 128;
const DIGITS: u32 = 38;

const POWERS: [u128; 39] = {
    let mut powers = [1u128; 39];
    let mut i = 1;
    while i < 39 {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// 10 to the power of `n`, up to 38.
pub fn power_of_ten(n: u32) -> u128 {
    POWERS.get(n as usize).copied().unwrap_or(u128::MAX)
}

/// The bytes of a free numeric.
pub fn encode(v: Decimal) -> [u8; 18] {
    let mut out = [0u8; 18];
    out[17] = v.scale();
    let magnitude = v.mantissa().unsigned_abs();
    if magnitude == 0 {
        out[0] = ZERO;
        return out;
    }
    let digits = magnitude.ilog10() + 1;
    let exponent = digits as i16 - i16::from(v.scale());
    let mut tail = (magnitude * power_of_ten(DIGITS.saturating_sub(digits))).to_be_bytes();
    let class = (exponent + BIAS) as u8;
    if v.mantissa() < 0 {
        out[0] = ZERO - 1 - class;
        tail.iter_mut().for_each(|b| *b = !*b);
    } else {
        out[0] = ZERO + 1 + class;
    }
    out[1..17].copy_from_slice(&tail);
    out
}

/// The number of the bytes of a free numeric.
pub fn decode(bytes: &[u8]) -> Decimal {
    let Ok(bytes) = <&[u8; 18]>::try_from(bytes) else { return Decimal::default() };
    let scale = bytes[17];
    if bytes[0] == ZERO {
        return Decimal::new(0, scale).unwrap_or_default();
    }
    let negative = bytes[0] < ZERO;
    let class = if negative { ZERO - 1 - bytes[0] } else { bytes[0] - ZERO - 1 };
    let mut tail = [0u8; 16];
    tail.copy_from_slice(&bytes[1..17]);
    if negative {
        tail.iter_mut().for_each(|b| *b = !*b);
    }
    let digits = (i16::from(class) - BIAS + i16::from(scale)).clamp(0, DIGITS as i16) as u32;
    let magnitude = (u128::from_be_bytes(tail) / power_of_ten(DIGITS - digits)) as i128;
    Decimal::new(if negative { -magnitude } else { magnitude }, scale).unwrap_or_default()
}

/// PostgreSQL's `NUMERIC_MIN_SIG_DIGITS`: significant digits of a quotient.
const MIN_SIGNIFICANT: i32 = 16;

/// The scale of the quotient `a / b` (`select_div_scale` in PostgreSQL's
/// numeric.c, which counts in groups of four digits).
pub fn division_scale(a: Decimal, b: Decimal) -> u8 {
    let (weight_a, first_a) = leading_group(a);
    let (weight_b, first_b) = leading_group(b);
    let mut weight = weight_a - weight_b;
    if first_a <= first_b {
        weight -= 1;
    }
    let scale = (MIN_SIGNIFICANT - weight * 4).max(i32::from(a.scale())).max(i32::from(b.scale())).max(0);
    scale.min(DIGITS as i32) as u8
}

/// Weight and value of the first group of four digits that is not zero.
fn leading_group(v: Decimal) -> (i32, u32) {
    let magnitude = v.mantissa().unsigned_abs();
    if magnitude == 0 {
        return (0, 0);
    }
    let digits = magnitude.ilog10() as i32 + 1;
    // The position of the first digit: 0 for units, 1 for tens, -1 for tenths.
    let top = digits - 1 - i32::from(v.scale());
    let weight = top.div_euclid(4);
    let in_group = top.rem_euclid(4) + 1;
    let group = if digits >= in_group {
        (magnitude / power_of_ten((digits - in_group) as u32)) as u32
    } else {
        magnitude as u32 * 10u32.pow((in_group - digits) as u32)
    };
    (weight, group)
}

/// The quotient at PostgreSQL's scale, rounded half away from zero. The scale
/// is cut where 38 digits would not hold the result. `None`: division by zero.
pub fn divide(a: Decimal, b: Decimal) -> Option<Decimal> {
    if b.mantissa() == 0 {
        return None;
    }
    let wanted = division_scale(a, b);
    let quotient = divide_to(a, b, wanted);
    Some(quotient.unwrap_or_else(|| {
        // As many digits as fit.
        (0..wanted).rev().find_map(|scale| divide_to(a, b, scale)).unwrap_or_default()
    }))
}

/// `a / b` with `scale` digits after the point; `None` beyond 38 digits.
pub fn divide_to(a: Decimal, b: Decimal, scale: u8) -> Option<Decimal> {
    // |a| × 10^shift / |b|, digit by digit beyond what a machine word holds.
    let shift = i32::from(scale) + i32::from(b.scale()) - i32::from(a.scale());
    let divisor = b.mantissa().unsigned_abs();
    if divisor == 0 {
        return None;
    }
    let mut quotient;
    let mut rest;
    let mut divisor_scaled = divisor;
    let numerator = a.mantissa().unsigned_abs();
    if shift >= 0 {
        quotient = numerator / divisor;
        rest = numerator % divisor;
        for _ in 0..shift {
            // rest < divisor < 10^38, so rest × 10 may pass u128: divide in halves.
            let (digit, next) = times_ten_divide(rest, divisor);
            quotient = quotient.checked_mul(10)?.checked_add(digit)?;
            if quotient >= power_of_ten(DIGITS) {
                return None;
            }
            rest = next;
        }
    } else {
        divisor_scaled = divisor.checked_mul(power_of_ten((-shift) as u32))?;
        quotient = numerator / divisor_scaled;
        rest = numerator % divisor_scaled;
    }
    if rest >= divisor_scaled - rest {
        quotient += 1;
    }
    let negative = (a.mantissa() < 0) != (b.mantissa() < 0);
    let quotient = i128::try_from(quotient).ok()?;
    Decimal::new(if negative { -quotient } else { quotient }, scale)
}

fn times_ten_divide(rest: u128, divisor: u128) -> (u128, u128) {
    if let Some(product) = rest.checked_mul(10) {
        return (product / divisor, product % divisor);
    }
    let (mut digit, mut sum) = (0u128, 0u128);
    for _ in 0..10 {
        // sum + rest without overflow: both are below the divisor.
        if sum >= divisor - rest {
            sum -= divisor - rest;
            digit += 1;
        } else {
            sum += rest;
        }
    }
    (digit, sum)
}

/// The remainder of `a / b` truncated, with the sign of `a`. `None`: division
/// by zero or too many digits.
pub fn modulo(a: Decimal, b: Decimal) -> Option<Decimal> {
    let scale = a.scale().max(b.scale());
    let (x, y) = (a.rescale(scale)?, b.rescale(scale)?);
    if y.mantissa() == 0 {
        return None;
    }
    Decimal::new(x.mantissa() % y.mantissa(), scale)
}

/// The product. PostgreSQL keeps all digits; where 38 do not hold them, the
/// fraction is rounded.
pub fn multiply(a: Decimal, b: Decimal) -> Option<Decimal> {
    if let Some(product) = a.checked_mul(b) {
        return Some(product);
    }
    let (mut a, mut b) = (a, b);
    while a.scale() > 0 || b.scale() > 0 {
        if a.scale() >= b.scale() {
            a = a.rescale(a.scale() - 1)?;
        } else {
            b = b.rescale(b.scale() - 1)?;
        }
        if let Some(product) = a.checked_mul(b) {
            return Some(product);
        }
    }
    None
}

/// The sum. Where 38 digits do not hold it, the fraction is rounded.
pub fn add(a: Decimal, b: Decimal) -> Option<Decimal> {
    if let Some(sum) = a.checked_add(b) {
        return Some(sum);
    }
    (0..a.scale().max(b.scale()))
        .rev()
        .find_map(|scale| a.rescale(scale.min(a.scale()))?.checked_add(b.rescale(scale.min(b.scale()))?))
}

/// `v` without the digits after `scale`; a negative scale is not supported.
pub fn truncate(v: Decimal, scale: u8) -> Decimal {
    if v.scale() <= scale {
        return v.rescale(scale).unwrap_or(v);
    }
    let divisor = power_of_ten(u32::from(v.scale() - scale)) as i128;
    Decimal::new(v.mantissa() / divisor, scale).unwrap_or(v)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn d(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(m in any::<i128>(), s in 0u8..=38) {
            let v = Decimal::new(m % 10i128.pow(38), s).unwrap();
            let back = decode(&encode(v));
            prop_assert_eq!((back.mantissa(), back.scale()), (v.mantissa(), v.scale()));
        }

        #[test]
        fn keys_order_as_numbers(a in -100_000i128..100_000, b in -100_000i128..100_000, s in 0u8..6, t in 0u8..6) {
            let (a, b) = (Decimal::new(a, s).unwrap(), Decimal::new(b, t).unwrap());
            prop_assert_eq!(encode(a)[..17].cmp(&encode(b)[..17]), a.cmp(&b));
        }
    }

    #[test]
    fn quotients_have_postgresqls_scale() {
        for (a, b, quotient) in [
            ("1", "3", "0.33333333333333333333"),
            ("10", "4", "2.5000000000000000"),
            ("100", "7", "14.2857142857142857"),
            ("51317", "2155", "23.8129930394431555"),
            ("-1", "3", "-0.33333333333333333333"),
            ("12345678", "1", "12345678.000000000000"),
            ("1.50", "2", "0.75000000000000000000"),
            ("0", "5", "0.00000000000000000000"),
            ("5", "1", "5.0000000000000000"),
            ("0.0001", "3", "0.000033333333333333333333"),
        ] {
            assert_eq!(divide(d(a), d(b)).unwrap().to_string(), quotient, "{a} / {b}");
        }
        assert_eq!(divide(d("1"), d("0")), None);
    }

    #[test]
    fn remainders_and_products() {
        assert_eq!(modulo(d("-7.5"), d("2")).unwrap().to_string(), "-1.5");
        assert_eq!(multiply(d("1.50"), d("2.0")).unwrap().to_string(), "3.000");
        assert!(multiply(d("0.3333333333333333333333333333"), d("123456789012.1234567890123456")).is_some());
    }
}
