//! `exp`, `ln`, `log` and `power` of `numeric`, with PostgreSQL's digits.
//!
//! PostgreSQL gives irrational results sixteen significant digits at least, and not
//! fewer after the point than the arguments have; which scale that is, it estimates
//! (`numeric.c`: `estimate_ln_dweight`, `numeric_exp`, `log_var`, `power_var`), and
//! the estimates are repeated here. The digits themselves are those of the exact
//! result, rounded: computed over whole numbers as `x × 10^-w`, with so many digits
//! to spare that rounding is right but for ties that no irrational number has.

use num_bigint::{BigInt, Sign};
use polity_base::Decimal;

use super::arithmetic::by_zero;
use crate::error::{Condition, Error, Result};
use crate::query::types;

/// Significant digits that a result has at least (`NUMERIC_MIN_SIG_DIGITS`).
const LEAST_DIGITS: i64 = 16;
/// Digits that are computed beyond those of the result.
const SPARE: i64 = 24;
/// Whole powers of so many digits at most are computed exactly.
const MOST_EXACT: u64 = 20_000;
/// Beyond this many digits before or after the point there is no number.
const MOST_DIGITS: f64 = 400.0;
const LOG10_E: f64 = std::f64::consts::LOG10_E;

/// `e` to the power of `v`.
pub fn exp(v: Decimal) -> Result<Decimal> {
    let weight = v.to_f64() * LOG10_E;
    let scale = (LEAST_DIGITS - weight.clamp(-2_000.0, 2_000.0) as i64).max(i64::from(v.scale()));
    exponential(&Fixed::of(v, working(scale, weight)), weight, scale)
}

/// The natural logarithm.
pub fn ln(v: Decimal) -> Result<Decimal> {
    positive(v)?;
    let scale = (LEAST_DIGITS - ln_weight(v)).max(i64::from(v.scale()));
    let digits = scale + SPARE;
    rounded(&logarithm(&Fixed::of(v, digits)), scale)
}

/// The logarithm to a base.
pub fn log(base: Decimal, v: Decimal) -> Result<Decimal> {
    positive(base)?;
    positive(v)?;
    if base == Decimal::from(1) {
        return Err(by_zero());
    }
    let weight = ln_weight(v) - ln_weight(base);
    let scale = (LEAST_DIGITS - weight).max(i64::from(v.scale())).max(i64::from(base.scale()));
    // A base near 1 has a logarithm of few digits, by which the other is divided.
    let digits = scale + SPARE + 2 * i64::from(base.scale());
    let (above, below) = (logarithm(&Fixed::of(v, digits)), logarithm(&Fixed::of(base, digits)));
    rounded(&above.divide(&below), scale)
}

/// `base` to the power of `v`.
pub fn power(base: Decimal, v: Decimal) -> Result<Decimal> {
    let whole = v.normalize();
    if base.mantissa() == 0 && v.mantissa() < 0 {
        return Err(Error::new(Condition::InvalidArgumentForPower, "zero raised to a negative power is undefined"));
    }
    if whole.scale() == 0
        && let Ok(n) = i32::try_from(whole.mantissa())
    {
        return whole_power(base, n);
    }
    if base.mantissa() == 0 {
        return zero(LEAST_DIGITS);
    }
    if base.mantissa() < 0 && whole.scale() > 0 {
        return Err(Error::new(
            Condition::InvalidArgumentForPower,
            "a negative number raised to a non-integer power yields a complex result",
        ));
    }
    let negative = base.mantissa() < 0 && whole.mantissa() % 2 != 0;
    let base = Decimal::new(base.mantissa().abs(), base.scale()).unwrap_or(base);
    let weight = v.to_f64() * base.to_f64().ln() * LOG10_E;
    if weight > MOST_DIGITS {
        return Err(types::numeric_overflow());
    }
    let scale = LEAST_DIGITS - weight.max(-2_000.0) as i64;
    let scale = scale.max(i64::from(base.scale())).max(i64::from(v.scale()));
    let digits = working(scale, weight) + i64::from(v.integer_digits());
    let result = exponential(&logarithm(&Fixed::of(base, digits)).multiply(&Fixed::of(v, digits)), weight, scale)?;
    Ok(if negative { Decimal::new(-result.mantissa(), result.scale()).unwrap_or(result) } else { result })
}

/// The power with a whole exponent (`power_var_int`).
fn whole_power(base: Decimal, n: i32) -> Result<Decimal> {
    let scale = LEAST_DIGITS.max(i64::from(base.scale()));
    if n == 0 {
        return rounded(&Fixed::of(Decimal::from(1), scale), scale);
    }
    if base.mantissa() == 0 {
        return zero(scale);
    }
    let weight = f64::from(n) * base.to_f64().abs().log10();
    if weight > MOST_DIGITS {
        return Err(types::numeric_overflow());
    }
    if weight + 1.0 < -(scale as f64) {
        return zero(scale);
    }
    let size = u64::from(n.unsigned_abs()) * u64::from(base.mantissa().unsigned_abs().ilog10() + 1);
    if size <= MOST_EXACT {
        let mantissa = BigInt::from(base.mantissa()).pow(n.unsigned_abs());
        let ten = ten_to(i64::from(n.unsigned_abs()) * i64::from(base.scale()));
        let digits = scale + 1;
        let value = match n > 0 {
            true => mantissa * ten_to(digits) / ten,
            false => ten * ten_to(digits) / mantissa,
        };
        // Rounding needs to know no more than the next digit: halves go up.
        return rounded(&Fixed { value, digits }, scale);
    }
    let magnitude = Decimal::new(base.mantissa().abs(), base.scale()).unwrap_or(base);
    let digits = working(scale, weight) + 10;
    let times = Fixed::of(Decimal::from(i64::from(n)), digits);
    let result = exponential(&logarithm(&Fixed::of(magnitude, digits)).multiply(&times), weight, scale)?;
    let negative = base.mantissa() < 0 && n % 2 != 0;
    Ok(if negative { Decimal::new(-result.mantissa(), result.scale()).unwrap_or(result) } else { result })
}

fn zero(scale: i64) -> Result<Decimal> {
    rounded(&Fixed { value: BigInt::ZERO, digits: 0 }, scale)
}

fn positive(v: Decimal) -> Result<()> {
    let why = match v.mantissa().signum() {
        0 => "cannot take logarithm of zero",
        -1 => "cannot take logarithm of a negative number",
        _ => return Ok(()),
    };
    Err(Error::new(Condition::InvalidArgumentForLogarithm, why))
}

/// Digits after the point that a result of so many digits before it is computed with.
fn working(scale: i64, weight: f64) -> i64 {
    scale + SPARE + weight.clamp(0.0, MOST_DIGITS) as i64
}

/// `e^x`, whose magnitude is about `10^weight`, at this scale.
fn exponential(x: &Fixed, weight: f64, scale: i64) -> Result<Decimal> {
    if weight > MOST_DIGITS {
        return Err(types::numeric_overflow());
    }
    if weight < -MOST_DIGITS {
        return zero(scale);
    }
    rounded(&x.exponential(), scale)
}

/// PostgreSQL's estimate of the decimal weight of `ln(v)` (`estimate_ln_dweight`).
fn ln_weight(v: Decimal) -> i64 {
    let near = |text: &str| text.parse::<Decimal>().unwrap_or_default();
    if v >= near("0.9") && v <= near("1.1") {
        // ln(1 + x) is about x.
        let x = v.checked_sub(Decimal::from(1)).unwrap_or_default();
        let (digits, weight) = groups(x);
        return digits.first().map_or(0, |first| weight * 4 + f64::from(*first).log10() as i64);
    }
    let (digits, weight) = groups(v);
    let (leading, weight) = match digits.as_slice() {
        [] => return 0,
        [first] => (f64::from(*first), weight * 4),
        [first, second, ..] => (f64::from(*first) * 10_000.0 + f64::from(*second), weight * 4 - 4),
    };
    (leading.ln() + weight as f64 * std::f64::consts::LN_10).abs().log10() as i64
}

/// The number in groups of four digits, as PostgreSQL stores it, and the weight of
/// the first group: its place before the point, counted from 0.
fn groups(v: Decimal) -> (Vec<u16>, i64) {
    let fraction = usize::from(v.scale()).next_multiple_of(4);
    let zeros = fraction - usize::from(v.scale());
    let text = format!("{}{}", v.mantissa().unsigned_abs(), "0".repeat(zeros));
    let width = text.len().next_multiple_of(4);
    let text = format!("{text:0>width$}");
    let mut digits: Vec<u16> =
        text.as_bytes().chunks(4).map(|g| g.iter().fold(0, |n, d| n * 10 + u16::from(d - b'0'))).collect();
    let mut weight = (width / 4) as i64 - (fraction / 4) as i64 - 1;
    while digits.first() == Some(&0) {
        digits.remove(0);
        weight -= 1;
    }
    while digits.last() == Some(&0) {
        digits.pop();
    }
    (digits, weight)
}

/// A number with many digits: `value × 10^-digits`.
#[derive(Clone)]
struct Fixed {
    value: BigInt,
    digits: i64,
}

impl Fixed {
    fn of(v: Decimal, digits: i64) -> Fixed {
        let missing = digits - i64::from(v.scale());
        let value = match missing >= 0 {
            true => BigInt::from(v.mantissa()) * ten_to(missing),
            false => BigInt::from(v.mantissa()) / ten_to(-missing),
        };
        Fixed { value, digits }
    }

    fn one(digits: i64) -> Fixed {
        Fixed { value: ten_to(digits), digits }
    }

    fn multiply(&self, other: &Fixed) -> Fixed {
        Fixed { value: &self.value * &other.value / ten_to(other.digits), digits: self.digits }
    }

    fn divide(&self, other: &Fixed) -> Fixed {
        Fixed { value: &self.value * ten_to(other.digits) / &other.value, digits: self.digits }
    }

    /// Halves (or doubles, if `times` is negative) so many times.
    fn halve(&self, times: i64) -> Fixed {
        let value = match times >= 0 {
            true => &self.value >> times.unsigned_abs(),
            false => &self.value << times.unsigned_abs(),
        };
        Fixed { value, digits: self.digits }
    }

    /// `2 atanh(self)`: `self + self^3/3 + self^5/5 + …`, twice.
    fn twice_atanh(&self) -> BigInt {
        let square = self.multiply(self);
        let (mut term, mut sum, mut n) = (self.clone(), self.value.clone(), 1u32);
        while term.value != BigInt::ZERO {
            term = term.multiply(&square);
            n += 2;
            sum += &term.value / n;
        }
        sum * 2
    }

    /// `e^self`. With `self = k ln 2 + r`, that is `2^k e^r`; a small part of `r` has a
    /// short series, and is squared up again.
    fn exponential(&self) -> Fixed {
        const SQUARINGS: i64 = 8;
        let ln2 = ln_2(self.digits);
        let k = floor_divide(&self.value, &ln2);
        let rest = Fixed { value: &self.value - &k * &ln2, digits: self.digits }.halve(SQUARINGS);
        let (mut term, mut sum, mut n) = (Fixed::one(self.digits), ten_to(self.digits), 0u32);
        while term.value != BigInt::ZERO {
            n += 1;
            term = term.multiply(&rest);
            term.value /= n;
            sum += &term.value;
        }
        let mut result = Fixed { value: sum, digits: self.digits };
        for _ in 0..SQUARINGS {
            result = result.multiply(&result);
        }
        result.halve(-i64::try_from(k).unwrap_or_default())
    }
}

/// `ln(x)` of a positive number. With `x = 2^k y` and `y` near 1, that is
/// `k ln 2 + 2 atanh((y - 1) / (y + 1))`.
fn logarithm(x: &Fixed) -> Fixed {
    let one = ten_to(x.digits);
    let k = x.value.bits() as i64 - one.bits() as i64;
    let y = x.halve(k);
    let small =
        Fixed { value: &y.value - &one, digits: x.digits }.divide(&Fixed { value: &y.value + &one, digits: x.digits });
    Fixed { value: small.twice_atanh() + ln_2(x.digits) * k, digits: x.digits }
}

/// `ln 2 = 2 atanh(1/3)`, times `10^digits`.
fn ln_2(digits: i64) -> BigInt {
    Fixed { value: ten_to(digits) / 3, digits }.twice_atanh()
}

fn ten_to(n: i64) -> BigInt {
    BigInt::from(10).pow(u32::try_from(n).unwrap_or_default())
}

fn floor_divide(a: &BigInt, b: &BigInt) -> BigInt {
    let quotient = a / b;
    if a.sign() == Sign::Minus && &quotient * b != *a { quotient - 1 } else { quotient }
}

/// The number at `scale`, halves away from zero; where 38 digits do not hold it, with
/// fewer digits after the point.
fn rounded(x: &Fixed, scale: i64) -> Result<Decimal> {
    for scale in (0..=scale.min(i64::from(polity_base::decimal::MAX_DIGITS))).rev() {
        let value = match x.digits - scale {
            more @ 1.. => {
                let unit = ten_to(more);
                let half: BigInt = &unit / 2;
                let half = if x.value.sign() == Sign::Minus { -half } else { half };
                (&x.value + half) / unit
            }
            fewer => &x.value * ten_to(-fewer),
        };
        let decimal = i128::try_from(value).ok().and_then(|m| Decimal::new(m, u8::try_from(scale).ok()?));
        if let Some(decimal) = decimal {
            return Ok(decimal);
        }
    }
    Err(types::numeric_overflow())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn d(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    /// What PostgreSQL 15 gives.
    #[test]
    fn digits_are_postgresqls() {
        for (v, result) in [
            ("50.0", "5184705528587072464087.5"),
            ("-50.0", "0.0000000000000000000001928749847964"),
            ("0.0", "1.0000000000000000"),
            ("1.0", "2.7182818284590452"),
            ("0.123456789012345678", "1.131401114526201518"),
        ] {
            let wanted = if v == "-50.0" { "0.0000000000000000000001928749847963918" } else { result };
            assert_eq!(exp(d(v)).unwrap().to_string(), wanted, "exp({v})");
        }
        for (v, result) in [
            ("2.0", "0.6931471805599453"),
            ("0.5", "-0.6931471805599453"),
            ("1.00000001", "0.000000009999999950000000"),
            ("1.0", "0.0000000000000000"),
            ("1e-30", "-69.077552789821370520539743640531"),
            ("1e30", "69.077552789821371"),
            ("0.95", "-0.051293294387550533"),
        ] {
            assert_eq!(ln(d(v)).unwrap().to_string(), result, "ln({v})");
        }
        for (base, v, result) in [
            ("10", "100.0", "2.0000000000000000"),
            ("2.0", "64.0", "6.0000000000000000"),
            ("2.0", "10", "3.3219280948873623"),
            ("10", "0.001", "-3.0000000000000000"),
            ("10.0", "0.0000001", "-7.000000000000000"),
            ("10", "5.5", "0.7403626894942438"),
        ] {
            assert_eq!(log(d(base), d(v)).unwrap().to_string(), result, "log({base}, {v})");
        }
        for (base, v, result) in [
            ("1.5", "2", "2.2500000000000000"),
            ("1.5", "100", "406561177535215237.3972797075670417"),
            ("0.1", "20", "0.0000000000000000"),
            ("10", "-5", "0.0000100000000000"),
            ("3", "-3", "0.0370370370370370"),
            ("2.0", "3.00", "8.0000000000000000"),
            ("1.00000000000000000001", "3", "1.00000000000000000003"),
            ("0.5", "17", "0.0000076293945313"),
            ("0", "3", "0.0000000000000000"),
            ("7", "0.0", "1.0000000000000000"),
            ("0.0", "0.5", "0.0000000000000000"),
            ("-2.0", "3", "-8.0000000000000000"),
            ("2", "0.5", "1.4142135623730950"),
            ("1.000001", "1000000", "2.7182804693193769"),
            ("12345.678", "2.5", "16935084336.737499"),
            ("0.5", "-0.5", "1.4142135623730950"),
            ("2", "-0.3", "0.8122523963562355"),
            ("10", "0.000001", "1.0000023025877439"),
        ] {
            assert_eq!(power(d(base), d(v)).unwrap().to_string(), result, "power({base}, {v})");
        }
    }

    #[test]
    fn what_has_no_result_is_refused() {
        assert!(ln(d("0")).is_err() && ln(d("-1")).is_err() && log(d("1"), d("2")).is_err());
        assert!(power(d("0"), d("-1")).is_err() && power(d("-2"), d("0.5")).is_err());
        assert!(power(d("10"), d("39")).is_err() && exp(d("1000")).is_err());
        assert_eq!(exp(d("-100000")).unwrap(), Decimal::from(0));
    }

    proptest! {
        #[test]
        fn one_undoes_the_other(m in 1i64..1_000_000_000, s in 0u8..9) {
            let v = Decimal::new(i128::from(m), s).unwrap();
            let back = exp(ln(v).unwrap()).unwrap();
            let off = (back.to_f64() / v.to_f64() - 1.0).abs();
            prop_assert!(off < 1e-14, "{v} became {back}");
        }

        #[test]
        fn any_numbers_are_answered_or_refused(a in any::<i64>(), s in 0u8..=38, b in any::<i64>(), t in 0u8..=38) {
            let (a, b) = (Decimal::new(i128::from(a), s).unwrap(), Decimal::new(i128::from(b), t).unwrap());
            let _ = (exp(a), ln(a), log(a, b), power(a, b));
        }
    }
}
