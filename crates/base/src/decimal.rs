//! Exact decimal numbers of up to 38 digits: `numeric`.
//!
//! A number is `mantissa × 10^-scale`. The scale is the one the number was
//! written with, since PostgreSQL prints `1.50` as it was given; comparison and
//! hashing see the number alone.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The most digits a number has, before and after the point together.
pub const MAX_DIGITS: u32 = 38;
const LIMIT: i128 = 10i128.pow(MAX_DIGITS) - 1;

/// An exact decimal number.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Decimal {
    mantissa: i128,
    scale: u8,
}

/// Why a text is not a [`Decimal`], or an operation has no result.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecimalError {
    /// Not a number at all.
    #[error("not a decimal number")]
    Syntax,
    /// More digits than [`MAX_DIGITS`].
    #[error("more than 38 digits")]
    Overflow,
    /// Division by zero.
    #[error("division by zero")]
    DivisionByZero,
}

impl Decimal {
    /// `mantissa × 10^-scale`. `None` beyond [`MAX_DIGITS`].
    pub fn new(mantissa: i128, scale: u8) -> Option<Decimal> {
        (mantissa.abs() <= LIMIT && u32::from(scale) <= MAX_DIGITS).then_some(Decimal { mantissa, scale })
    }

    /// The digits, as a whole number.
    pub fn mantissa(self) -> i128 {
        self.mantissa
    }

    /// How many of the digits stand after the point.
    pub fn scale(self) -> u8 {
        self.scale
    }

    /// The same number with `scale` digits after the point, rounded half away
    /// from zero as PostgreSQL does. `None` when the digits no longer fit.
    pub fn rescale(self, scale: u8) -> Option<Decimal> {
        match scale.cmp(&self.scale) {
            Ordering::Equal => Some(self),
            Ordering::Greater => {
                let factor = 10i128.checked_pow(u32::from(scale - self.scale))?;
                Decimal::new(self.mantissa.checked_mul(factor)?, scale)
            }
            Ordering::Less => {
                let divisor = 10i128.checked_pow(u32::from(self.scale - scale))?;
                Decimal::new(divide_rounding(self.mantissa, divisor), scale)
            }
        }
    }

    /// The same number without zeros at the end of its fraction.
    pub fn normalize(self) -> Decimal {
        let mut d = self;
        while d.scale > 0 && d.mantissa % 10 == 0 {
            d.mantissa /= 10;
            d.scale -= 1;
        }
        d
    }

    /// Digits before the point; 0 for numbers below 1.
    pub fn integer_digits(self) -> u32 {
        let whole = self.mantissa.unsigned_abs() / 10u128.pow(u32::from(self.scale));
        if whole == 0 { 0 } else { whole.ilog10() + 1 }
    }

    /// The sum, with the larger scale of the two.
    pub fn checked_add(self, other: Decimal) -> Option<Decimal> {
        let scale = self.scale.max(other.scale);
        let (a, b) = (self.rescale(scale)?, other.rescale(scale)?);
        Decimal::new(a.mantissa.checked_add(b.mantissa)?, scale)
    }

    /// The difference, with the larger scale of the two.
    pub fn checked_sub(self, other: Decimal) -> Option<Decimal> {
        self.checked_add(Decimal { mantissa: -other.mantissa, scale: other.scale })
    }

    /// The product, with both scales added.
    pub fn checked_mul(self, other: Decimal) -> Option<Decimal> {
        Decimal::new(self.mantissa.checked_mul(other.mantissa)?, self.scale.checked_add(other.scale)?)
    }

    /// The nearest whole number, halves away from zero. `None` beyond `i64`.
    pub fn to_i64(self) -> Option<i64> {
        i64::try_from(self.rescale(0)?.mantissa).ok()
    }

    /// The nearest double.
    pub fn to_f64(self) -> f64 {
        // Parsing rounds correctly where dividing two rounded doubles would not.
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    /// The shortest decimal that reads back as `v`. `None` for infinities, NaN
    /// and numbers that do not fit.
    pub fn from_f64(v: f64) -> Option<Decimal> {
        if !v.is_finite() {
            return None;
        }
        format!("{v}").parse().ok()
    }
}

fn divide_rounding(a: i128, divisor: i128) -> i128 {
    let (quotient, rest) = (a / divisor, a % divisor);
    if rest.unsigned_abs() * 2 >= divisor.unsigned_abs() { quotient + a.signum() } else { quotient }
}

impl From<i64> for Decimal {
    fn from(v: i64) -> Decimal {
        Decimal { mantissa: i128::from(v), scale: 0 }
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Decimal) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        let signs = self.mantissa.signum().cmp(&other.mantissa.signum());
        if signs != Ordering::Equal {
            return signs;
        }
        let scale = self.scale.max(other.scale);
        match (self.rescale(scale), other.rescale(scale)) {
            (Some(a), Some(b)) => a.mantissa.cmp(&b.mantissa),
            // Only the one with fewer fraction digits is scaled up, so only it
            // can overflow, and then it is the larger in magnitude.
            (None, _) => {
                if self.mantissa > 0 {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (_, None) => {
                if other.mantissa > 0 {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        }
    }
}

impl Hash for Decimal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let d = self.normalize();
        d.mantissa.hash(state);
        d.scale.hash(state);
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.mantissa.unsigned_abs().to_string();
        let scale = usize::from(self.scale);
        if self.mantissa < 0 {
            f.write_str("-")?;
        }
        if scale == 0 {
            return f.write_str(&digits);
        }
        if digits.len() > scale {
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            write!(f, "{whole}.{fraction}")
        } else {
            write!(f, "0.{digits:0>scale$}")
        }
    }
}

impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Decimal, DecimalError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (number, exponent) = match rest.find(['e', 'E']) {
            Some(at) => (&rest[..at], rest[at + 1..].parse::<i32>().map_err(|_| DecimalError::Syntax)?),
            None => (rest, 0),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        if digits().next().is_none() || !digits().all(|b| b.is_ascii_digit()) {
            return Err(DecimalError::Syntax);
        }
        let mut mantissa: i128 = 0;
        for b in digits() {
            mantissa = mantissa
                .checked_mul(10)
                .and_then(|m| m.checked_add(i128::from(b - b'0')))
                .filter(|m| *m <= LIMIT)
                .ok_or(DecimalError::Overflow)?;
        }
        let mut scale =
            i32::try_from(fraction.len()).map_err(|_| DecimalError::Overflow)? - exponent.clamp(-100_000, 100_000);
        while scale < 0 {
            if mantissa == 0 {
                scale = 0;
                break;
            }
            mantissa = mantissa.checked_mul(10).filter(|m| *m <= LIMIT).ok_or(DecimalError::Overflow)?;
            scale += 1;
        }
        let scale = u8::try_from(scale).map_err(|_| DecimalError::Overflow)?;
        Decimal::new(if negative { -mantissa } else { mantissa }, scale).ok_or(DecimalError::Overflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn prints_as_written() {
        for text in ["0", "1.50", "-0.05", "123456789012345678901234567890.12345678", "0.00"] {
            assert_eq!(d(text).to_string(), text);
        }
        assert_eq!(d("1.5e3").to_string(), "1500");
        assert_eq!(d("15e-3").to_string(), "0.015");
        assert_eq!("1.2.3".parse::<Decimal>(), Err(DecimalError::Syntax));
        assert_eq!("1e100".parse::<Decimal>(), Err(DecimalError::Overflow));
        assert_eq!("".parse::<Decimal>(), Err(DecimalError::Syntax));
    }

    #[test]
    fn compares_as_numbers() {
        assert_eq!(d("1.50"), d("1.5"));
        assert!(d("-2") < d("1"));
        assert!(d("99999999999999999999999999999999999999") > d("0.00000000000000000000000000000000000001"));
        assert!(d("-99999999999999999999999999999999999999") < d("-0.00000000000000000000000000000000000001"));
    }

    #[test]
    fn rounds_half_away_from_zero() {
        assert_eq!(d("2.5").rescale(0).unwrap().to_string(), "3");
        assert_eq!(d("-2.5").rescale(0).unwrap().to_string(), "-3");
        assert_eq!(d("2.449").rescale(1).unwrap().to_string(), "2.4");
    }
}
