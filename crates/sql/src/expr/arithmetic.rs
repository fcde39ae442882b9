//! `+ - * / %` on numbers, with PostgreSQL's rules: the wider type of the two
//! wins, whole numbers divide to whole numbers, and a result that does not fit
//! is an error.

use polity_base::{Decimal, Type, Value};

use crate::error::{Condition, Error, Result};
use crate::query::numeric;

/// An arithmetic operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`
    Multiply,
    /// `/`
    Divide,
    /// `%`
    Modulo,
}

/// The type in which numbers are computed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// `smallint`
    Int2,
    /// `integer`
    Int4,
    /// `bigint`
    Int8,
    /// `numeric`
    Numeric,
    /// `real`
    Float4,
    /// `double precision`
    Float8,
}

impl Kind {
    /// The kind of a number type; `None` for other types.
    pub fn of(r#type: &Type) -> Option<Kind> {
        Some(match r#type {
            Type::Int2 => Kind::Int2,
            Type::Int4 => Kind::Int4,
            Type::Int8 => Kind::Int8,
            Type::Numeric(_) => Kind::Numeric,
            Type::Float4 => Kind::Float4,
            Type::Float8 => Kind::Float8,
            _ => return None,
        })
    }

    /// The kind two numbers are brought to: the wider one, except that `real`
    /// meets other kinds in `double precision`.
    pub fn common(self, other: Kind) -> Kind {
        match self.max(other) {
            Kind::Float4 if self != other => Kind::Float8,
            widest => widest,
        }
    }

    /// The type of results.
    pub fn r#type(self) -> Type {
        match self {
            Kind::Int2 => Type::Int2,
            Kind::Int4 => Type::Int4,
            Kind::Int8 => Type::Int8,
            Kind::Numeric => Type::Numeric(None),
            Kind::Float4 => Type::Float4,
            Kind::Float8 => Type::Float8,
        }
    }
}

/// The error for a number that does not fit `type`.
pub fn out_of_range(r#type: &Type) -> Error {
    let message = match r#type {
        Type::Numeric(_) => "value overflows numeric format".to_owned(),
        Type::Oid => "OID out of range".to_owned(),
        other => format!("{other} out of range"),
    };
    Error::new(Condition::NumericValueOutOfRange, message)
}

fn division_by_zero() -> Error {
    Error::new(Condition::DivisionByZero, "division by zero")
}

/// The value as a double; NULL and what is no number count as NaN.
pub(crate) fn to_f64(value: &Value) -> f64 {
    match value {
        Value::Float8(v) => *v,
        Value::Float4(v) => f64::from(*v),
        Value::Numeric(v) => v.to_f64(),
        other => other.as_i64().map_or(f64::NAN, |v| v as f64),
    }
}

/// The value as a decimal; `None` when it is neither whole nor decimal.
pub(crate) fn to_decimal(value: &Value) -> Option<Decimal> {
    match value {
        Value::Numeric(v) => Some(*v),
        other => other.as_i64().map(Decimal::from),
    }
}

/// `a operator b`, computed as `kind`. Neither is NULL.
pub(crate) fn compute(operator: Operator, kind: Kind, a: &Value, b: &Value) -> Result<Value> {
    match kind {
        Kind::Int2 | Kind::Int4 | Kind::Int8 => {
            let (Some(x), Some(y)) = (a.as_i64(), b.as_i64()) else { return Err(not_numbers(a, b)) };
            narrow(whole(operator, x, y)?, kind)
        }
        Kind::Numeric => {
            let (Some(x), Some(y)) = (to_decimal(a), to_decimal(b)) else { return Err(not_numbers(a, b)) };
            decimal(operator, x, y).map(Value::Numeric)
        }
        Kind::Float4 => {
            let (x, y) = (to_f64(a) as f32, to_f64(b) as f32);
            if operator == Operator::Divide && y == 0.0 {
                return Err(division_by_zero());
            }
            let result = match operator {
                Operator::Add => x + y,
                Operator::Subtract => x - y,
                Operator::Multiply => x * y,
                Operator::Divide => x / y,
                Operator::Modulo => return Err(not_numbers(a, b)),
            };
            let vanished = underflows(operator, x == 0.0, y.is_infinite(), result == 0.0, y == 0.0);
            check_float(result.is_infinite(), x.is_infinite() || y.is_infinite(), vanished)?;
            Ok(Value::Float4(result))
        }
        Kind::Float8 => {
            let (x, y) = (to_f64(a), to_f64(b));
            if operator == Operator::Divide && y == 0.0 {
                return Err(division_by_zero());
            }
            let result = match operator {
                Operator::Add => x + y,
                Operator::Subtract => x - y,
                Operator::Multiply => x * y,
                Operator::Divide => x / y,
                Operator::Modulo => return Err(not_numbers(a, b)),
            };
            let vanished = underflows(operator, x == 0.0, y.is_infinite(), result == 0.0, y == 0.0);
            check_float(result.is_infinite(), x.is_infinite() || y.is_infinite(), vanished)?;
            Ok(Value::Float8(result))
        }
    }
}

fn underflows(operator: Operator, x_zero: bool, y_infinite: bool, result_zero: bool, y_zero: bool) -> bool {
    match operator {
        Operator::Multiply => result_zero && !x_zero && !y_zero,
        Operator::Divide => result_zero && !x_zero && !y_infinite,
        _ => false,
    }
}

fn check_float(infinite: bool, was_infinite: bool, vanished: bool) -> Result<()> {
    if infinite && !was_infinite {
        return Err(Error::new(Condition::NumericValueOutOfRange, "value out of range: overflow"));
    }
    if vanished {
        return Err(Error::new(Condition::NumericValueOutOfRange, "value out of range: underflow"));
    }
    Ok(())
}

/// In 128 bits no two 64-bit numbers overflow.
fn whole(operator: Operator, x: i64, y: i64) -> Result<i128> {
    let (x, y) = (i128::from(x), i128::from(y));
    Ok(match operator {
        Operator::Add => x + y,
        Operator::Subtract => x - y,
        Operator::Multiply => x * y,
        Operator::Divide | Operator::Modulo if y == 0 => return Err(division_by_zero()),
        Operator::Divide => x / y,
        Operator::Modulo => x % y,
    })
}

fn narrow(v: i128, kind: Kind) -> Result<Value> {
    let value = match kind {
        Kind::Int2 => i16::try_from(v).ok().map(Value::Int2),
        Kind::Int4 => i32::try_from(v).ok().map(Value::Int4),
        _ => i64::try_from(v).ok().map(Value::Int8),
    };
    value.ok_or_else(|| out_of_range(&kind.r#type()))
}

fn decimal(operator: Operator, x: Decimal, y: Decimal) -> Result<Decimal> {
    let result = match operator {
        Operator::Add => numeric::add(x, y),
        Operator::Subtract => Decimal::new(-y.mantissa(), y.scale()).and_then(|y| numeric::add(x, y)),
        Operator::Multiply => numeric::multiply(x, y),
        Operator::Divide | Operator::Modulo if y.mantissa() == 0 => return Err(division_by_zero()),
        Operator::Divide => numeric::divide(x, y),
        Operator::Modulo => numeric::modulo(x, y),
    };
    result.ok_or_else(|| out_of_range(&Type::Numeric(None)))
}

/// `-v`. `v` is not NULL.
pub(crate) fn negate(kind: Kind, v: &Value) -> Result<Value> {
    match v {
        Value::Float4(v) => Ok(Value::Float4(-v)),
        Value::Float8(v) => Ok(Value::Float8(-v)),
        Value::Numeric(v) => {
            Decimal::new(-v.mantissa(), v.scale()).map(Value::Numeric).ok_or_else(|| out_of_range(&kind.r#type()))
        }
        other => narrow(-i128::from(other.as_i64().ok_or_else(|| not_numbers(v, v))?), kind),
    }
}

/// The absolute value of `v`, which is not NULL.
pub(crate) fn abs(kind: Kind, v: &Value) -> Result<Value> {
    let negative = match v {
        Value::Float4(v) => v.is_sign_negative(),
        Value::Float8(v) => v.is_sign_negative(),
        Value::Numeric(v) => v.mantissa() < 0,
        other => other.as_i64().is_some_and(|v| v < 0),
    };
    if negative { negate(kind, v) } else { Ok(v.clone()) }
}

/// Compilation lets only numbers get here.
fn not_numbers(a: &Value, b: &Value) -> Error {
    Error::internal(format!("arithmetic on {a:?} and {b:?}"))
}
