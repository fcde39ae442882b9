//! Functions on numbers.

use polity_base::{Decimal, Type, Value};

use super::arithmetic::{by_zero, out_of_range};
use super::exact;
use super::kernel::Kernel;
use super::list::{Function, Ty, bind, strict, volatile};
use crate::error::{Condition, Error, Result};
use crate::query::bind::Binder;
use crate::query::bind::bound::Bound;
use crate::query::bind::coerce;
use crate::query::numeric;
use crate::query::types::{self, Builder};

use Ty::{Bool, Float4, Float8, Int2, Int4, Int8, Numeric};

/// The functions.
pub static FUNCTIONS: &[Function] = &[
    strict("abs", &[Int2], Int2, |a, o| match i16::try_from(a.int(0)?.abs()) {
        Ok(v) => o.value(&Value::Int2(v)),
        Err(_) => Err(out_of_range(&Type::Int2)),
    }),
    strict("abs", &[Int4], Int4, |a, o| match i32::try_from(a.int(0)?.abs()) {
        Ok(v) => o.value(&Value::Int4(v)),
        Err(_) => Err(out_of_range(&Type::Int4)),
    }),
    strict("abs", &[Int8], Int8, |a, o| match a.int(0)?.checked_abs() {
        Some(v) => o.value(&Value::Int8(v)),
        None => Err(out_of_range(&Type::Int8)),
    }),
    strict("abs", &[Float4], Float4, |a, o| o.value(&Value::Float4(a.float(0)?.abs() as f32))),
    strict("abs", &[Float8], Float8, |a, o| float(o, a.float(0)?.abs())),
    bind("abs", &[Numeric], Numeric, |_, args| {
        keep_scale("abs", args, |v| Decimal::new(v.mantissa().abs(), v.scale()).unwrap_or(v))
    }),
    bind("round", &[Numeric], Numeric, |_, args| to_scale("round", args, 0, |v, s| v.rescale(s))),
    bind("round", &[Numeric, Int4], Numeric, |_, args| scaled("round", args, |v, s| v.rescale(s))),
    strict("round", &[Float8], Float8, |a, o| float(o, a.float(0)?.round_ties_even())),
    bind("trunc", &[Numeric], Numeric, |_, args| to_scale("trunc", args, 0, |v, s| Some(numeric::truncate(v, s)))),
    bind("trunc", &[Numeric, Int4], Numeric, |_, args| scaled("trunc", args, |v, s| Some(numeric::truncate(v, s)))),
    strict("trunc", &[Float8], Float8, |a, o| float(o, a.float(0)?.trunc())),
    bind("ceil", &[Numeric], Numeric, |_, args| to_scale("ceil", args, 0, |v, _| up(v))),
    bind("ceiling", &[Numeric], Numeric, |_, args| to_scale("ceil", args, 0, |v, _| up(v))),
    strict("ceil", &[Float8], Float8, |a, o| float(o, a.float(0)?.ceil())),
    strict("ceiling", &[Float8], Float8, |a, o| float(o, a.float(0)?.ceil())),
    bind("floor", &[Numeric], Numeric, |_, args| to_scale("floor", args, 0, |v, _| down(v))),
    strict("floor", &[Float8], Float8, |a, o| float(o, a.float(0)?.floor())),
    strict("sign", &[Numeric], Numeric, |a, o| o.numeric(Decimal::from(a.numeric(0)?.mantissa().signum() as i64))),
    strict("sign", &[Float8], Float8, |a, o| {
        let v = a.float(0)?;
        float(
            o,
            if v > 0.0 {
                1.0
            } else if v < 0.0 {
                -1.0
            } else {
                0.0
            },
        )
    }),
    strict("sqrt", &[Float8], Float8, |a, o| {
        let v = a.float(0)?;
        if v < 0.0 {
            return Err(negative_root());
        }
        float(o, v.sqrt())
    }),
    strict("sqrt", &[Numeric], Numeric, |a, o| o.numeric(square_root(a.numeric(0)?)?)),
    strict("cbrt", &[Float8], Float8, |a, o| float(o, a.float(0)?.cbrt())),
    strict("power", &[Float8, Float8], Float8, |a, o| float(o, power(a.float(0)?, a.float(1)?)?)),
    strict("pow", &[Float8, Float8], Float8, |a, o| float(o, power(a.float(0)?, a.float(1)?)?)),
    strict("power", &[Numeric, Numeric], Numeric, |a, o| o.numeric(exact::power(a.numeric(0)?, a.numeric(1)?)?)),
    strict("pow", &[Numeric, Numeric], Numeric, |a, o| o.numeric(exact::power(a.numeric(0)?, a.numeric(1)?)?)),
    strict("exp", &[Float8], Float8, |a, o| float(o, bounded(a.float(0)?.exp(), a.float(0)?)?)),
    strict("exp", &[Numeric], Numeric, |a, o| o.numeric(exact::exp(a.numeric(0)?)?)),
    strict("ln", &[Float8], Float8, |a, o| float(o, logarithm(a.float(0)?)?.ln())),
    strict("ln", &[Numeric], Numeric, |a, o| o.numeric(exact::ln(a.numeric(0)?)?)),
    strict("log", &[Float8], Float8, |a, o| float(o, logarithm(a.float(0)?)?.log10())),
    strict("log10", &[Float8], Float8, |a, o| float(o, logarithm(a.float(0)?)?.log10())),
    strict("log", &[Numeric], Numeric, |a, o| o.numeric(exact::log(Decimal::from(10), a.numeric(0)?)?)),
    strict("log10", &[Numeric], Numeric, |a, o| o.numeric(exact::log(Decimal::from(10), a.numeric(0)?)?)),
    strict("log", &[Numeric, Numeric], Numeric, |a, o| o.numeric(exact::log(a.numeric(0)?, a.numeric(1)?)?)),
    strict("mod", &[Int2, Int2], Int2, |a, o| o.value(&Value::Int2(remainder(a.int(0)?, a.int(1)?)? as i16))),
    strict("mod", &[Int4, Int4], Int4, |a, o| o.value(&Value::Int4(remainder(a.int(0)?, a.int(1)?)? as i32))),
    strict("mod", &[Int8, Int8], Int8, |a, o| o.value(&Value::Int8(remainder(a.int(0)?, a.int(1)?)?))),
    strict("mod", &[Numeric, Numeric], Numeric, |a, o| {
        let (x, y) = (a.numeric(0)?, a.numeric(1)?);
        if y.mantissa() == 0 {
            return Err(by_zero());
        }
        o.numeric(numeric::modulo(x, y).ok_or_else(types::numeric_overflow)?)
    }),
    strict("div", &[Numeric, Numeric], Numeric, |a, o| {
        let (x, y) = (a.numeric(0)?, a.numeric(1)?);
        let quotient = numeric::divide(x, y).ok_or_else(by_zero)?;
        o.numeric(numeric::truncate(quotient, 0))
    }),
    strict("gcd", &[Int4, Int4], Int4, |a, o| match i32::try_from(gcd(a.int(0)?, a.int(1)?)) {
        Ok(v) => o.value(&Value::Int4(v)),
        Err(_) => Err(out_of_range(&Type::Int4)),
    }),
    strict("gcd", &[Int8, Int8], Int8, |a, o| o.value(&Value::Int8(gcd(a.int(0)?, a.int(1)?)))),
    strict("lcm", &[Int8, Int8], Int8, |a, o| {
        let (x, y) = (a.int(0)?, a.int(1)?);
        let g = gcd(x, y);
        let v = if g == 0 { Some(0) } else { (x / g).checked_mul(y).and_then(i64::checked_abs) };
        o.value(&Value::Int8(v.ok_or_else(|| out_of_range(&Type::Int8))?))
    }),
    strict("pi", &[], Float8, |_, o| float(o, std::f64::consts::PI)),
    strict("degrees", &[Float8], Float8, |a, o| float(o, a.float(0)?.to_degrees())),
    strict("radians", &[Float8], Float8, |a, o| float(o, a.float(0)?.to_radians())),
    strict("sin", &[Float8], Float8, |a, o| float(o, a.float(0)?.sin())),
    strict("cos", &[Float8], Float8, |a, o| float(o, a.float(0)?.cos())),
    strict("tan", &[Float8], Float8, |a, o| float(o, a.float(0)?.tan())),
    strict("cot", &[Float8], Float8, |a, o| float(o, 1.0 / a.float(0)?.tan())),
    strict("asin", &[Float8], Float8, |a, o| float(o, in_unit(a.float(0)?)?.asin())),
    strict("acos", &[Float8], Float8, |a, o| float(o, in_unit(a.float(0)?)?.acos())),
    strict("atan", &[Float8], Float8, |a, o| float(o, a.float(0)?.atan())),
    strict("atan2", &[Float8, Float8], Float8, |a, o| float(o, a.float(0)?.atan2(a.float(1)?))),
    strict("sinh", &[Float8], Float8, |a, o| float(o, a.float(0)?.sinh())),
    strict("cosh", &[Float8], Float8, |a, o| float(o, a.float(0)?.cosh())),
    strict("tanh", &[Float8], Float8, |a, o| float(o, a.float(0)?.tanh())),
    strict("scale", &[Numeric], Int4, |a, o| o.value(&Value::Int4(i32::from(a.numeric(0)?.scale())))),
    strict("min_scale", &[Numeric], Int4, |a, o| o.value(&Value::Int4(i32::from(a.numeric(0)?.normalize().scale())))),
    strict("trim_scale", &[Numeric], Numeric, |a, o| o.numeric(a.numeric(0)?.normalize())),
    strict("width_bucket", &[Float8, Float8, Float8, Int4], Int4, |a, o| {
        let (v, low, high, n) = (a.float(0)?, a.float(1)?, a.float(2)?, a.int(3)?);
        if n <= 0 {
            return Err(Error::new(Condition::InvalidParameterValue, "count must be greater than zero"));
        }
        if low == high {
            return Err(Error::new(Condition::InvalidParameterValue, "lower bound cannot equal upper bound"));
        }
        let place = (v - low) / (high - low);
        let bucket = if place < 0.0 {
            0
        } else if place >= 1.0 {
            n + 1
        } else {
            (place * n as f64) as i64 + 1
        };
        o.value(&Value::Int4(i32::try_from(bucket).unwrap_or(i32::MAX)))
    }),
    volatile("random", &[], Float8, |_, o| float(o, super::random::unit())),
    strict("isnan", &[Float8], Bool, |a, o| o.value(&Value::Bool(a.float(0)?.is_nan()))),
];

fn float(out: &mut Builder, v: f64) -> Result<()> {
    out.value(&Value::Float8(v))
}

fn negative_root() -> Error {
    Error::new(Condition::InvalidArgumentForPower, "cannot take square root of a negative number")
}

fn logarithm(v: f64) -> Result<f64> {
    if v == 0.0 {
        return Err(Error::new(Condition::InvalidArgumentForLogarithm, "cannot take logarithm of zero"));
    }
    if v < 0.0 {
        return Err(Error::new(Condition::InvalidArgumentForLogarithm, "cannot take logarithm of a negative number"));
    }
    Ok(v)
}

fn in_unit(v: f64) -> Result<f64> {
    if (-1.0..=1.0).contains(&v) {
        return Ok(v);
    }
    Err(Error::new(Condition::NumericValueOutOfRange, "input is out of range"))
}

fn bounded(result: f64, input: f64) -> Result<f64> {
    if result.is_infinite() && input.is_finite() { Err(out_of_range(&Type::Float8)) } else { Ok(result) }
}

fn power(a: f64, b: f64) -> Result<f64> {
    if a == 0.0 && b < 0.0 {
        return Err(Error::new(Condition::InvalidArgumentForPower, "zero raised to a negative power is undefined"));
    }
    if a < 0.0 && b.fract() != 0.0 {
        return Err(Error::new(
            Condition::InvalidArgumentForPower,
            "a negative number raised to a non-integer power yields a complex result",
        ));
    }
    let result = a.powf(b);
    if result.is_infinite() && a.is_finite() && b.is_finite() { Err(out_of_range(&Type::Float8)) } else { Ok(result) }
}

fn remainder(a: i64, b: i64) -> Result<i64> {
    if b == 0 { Err(by_zero()) } else { Ok(a.wrapping_rem(b)) }
}

fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    i64::try_from(a).unwrap_or(i64::MAX)
}

fn up(v: Decimal) -> Option<Decimal> {
    let whole = numeric::truncate(v, 0);
    if v > whole { whole.checked_add(Decimal::from(1)) } else { Some(whole) }
}

fn down(v: Decimal) -> Option<Decimal> {
    let whole = numeric::truncate(v, 0);
    if v < whole { whole.checked_sub(Decimal::from(1)) } else { Some(whole) }
}

/// The root at PostgreSQL's scale, exact to its last digit.
pub fn square_root(v: Decimal) -> Result<Decimal> {
    if v.mantissa() < 0 {
        return Err(negative_root());
    }
    if v.mantissa() == 0 {
        return Ok(Decimal::new(0, v.scale().max(16)).unwrap_or_default());
    }
    // sqrt_var: half the weight (in groups of four digits), sixteen digits.
    let digits = v.mantissa().ilog10() as i32 + 1;
    let top = digits - 1 - i32::from(v.scale());
    let weight = (top.div_euclid(4) + 1) * 4 / 2 - 1;
    let scale = (16 - weight).max(i32::from(v.scale())).clamp(0, 30) as u8;
    let mut guess: Decimal = format!("{:.*}", usize::from(scale).min(17), v.to_f64().sqrt())
        .parse()
        .map_err(|_| types::numeric_overflow())?;
    // Newton: two steps double the sixteen digits a float has.
    for _ in 0..3 {
        let wide = (scale + 2).min(34);
        let Some(quotient) = numeric::divide_to(v, guess, wide) else { break };
        let Some(sum) = numeric::add(guess, quotient) else { break };
        let Some(half) = numeric::divide_to(sum, Decimal::from(2), wide) else { break };
        guess = half;
    }
    guess.rescale(scale).ok_or_else(types::numeric_overflow)
}

/// A function that keeps the scale of its argument.
fn keep_scale(name: &str, args: Vec<Bound>, f: fn(Decimal) -> Decimal) -> Result<Bound> {
    let Some(arg) = args.into_iter().next() else { return Err(Error::internal("a function without arguments")) };
    let data = arg.data.clone();
    let expr = Kernel::strict(
        format!("numeric {name}"),
        data.clone(),
        move |a, o| o.numeric(f(a.numeric(0)?)),
        vec![arg.expr],
    );
    Ok(Bound::with_data(expr, Type::Numeric(None), data))
}

/// A function whose result has a known scale.
fn to_scale(name: &str, args: Vec<Bound>, scale: u8, f: fn(Decimal, u8) -> Option<Decimal>) -> Result<Bound> {
    let Some(arg) = args.into_iter().next() else { return Err(Error::internal("a function without arguments")) };
    let data = types::fixed(scale);
    let expr = Kernel::strict(
        format!("numeric {name} to {scale}"),
        data.clone(),
        move |a, o| o.numeric(f(a.numeric(0)?, scale).ok_or_else(types::numeric_overflow)?),
        vec![arg.expr],
    );
    Ok(Bound::with_data(expr, Type::Numeric(None), data))
}

/// `round(x, n)` and its kin; a constant n fixes the scale.
fn scaled(name: &'static str, args: Vec<Bound>, f: fn(Decimal, u8) -> Option<Decimal>) -> Result<Bound> {
    let [value, digits] = <[Bound; 2]>::try_from(args).map_err(|_| Error::internal("two arguments are two"))?;
    if let Some(Value::Int4(n)) = digits.constant()
        && let Ok(scale @ 0..=37) = u8::try_from(*n)
    {
        return to_scale(name, vec![value], scale, f);
    }
    let value = coerce::free(value);
    let expr = Kernel::strict(
        format!("numeric {name}"),
        types::free(),
        move |a, o| {
            let (v, n) = (a.numeric(0)?, a.int(1)?);
            if let Ok(scale) = u8::try_from(n) {
                return o.numeric(f(v, scale.min(37)).ok_or_else(types::numeric_overflow)?);
            }
            // Before the point: 1234 to -2 is 1200.
            let places = u32::try_from(n.unsigned_abs()).unwrap_or(u32::MAX).min(38);
            let unit = numeric::power_of_ten(places) as i128;
            let shifted = Decimal::new(v.mantissa(), v.scale())
                .and_then(|v| numeric::divide_to(v, Decimal::new(unit, 0)?, 30))
                .and_then(|v| f(v, 0))
                .and_then(|v| numeric::multiply(v, Decimal::new(unit, 0)?));
            o.numeric(shifted.unwrap_or_default())
        },
        vec![value.expr, digits.expr],
    );
    Ok(Bound::with_data(expr, Type::Numeric(None), types::free()))
}

/// For those who bind by name.
pub fn binder_of<'a>(binder: &'a Binder<'a>) -> &'a Binder<'a> {
    binder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_and_powers_are_postgresqls() {
        let d = |t: &str| t.parse::<Decimal>().unwrap();
        assert_eq!(square_root(d("2")).unwrap().to_string(), "1.414213562373095");
        assert_eq!(square_root(d("16")).unwrap().to_string(), "4.000000000000000");
        assert_eq!(up(d("-1.5")).unwrap().to_string(), "-1");
        assert_eq!(down(d("-1.5")).unwrap().to_string(), "-2");
    }
}
