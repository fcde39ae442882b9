//! Arithmetic on numbers.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, Datum, PrimitiveArray};
use datafusion::arrow::compute::kernels::{arity, numeric as arrow};
use datafusion::arrow::datatypes::{
    ArrowPrimitiveType, DataType, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::logical_expr::Expr;
use polity_base::{Decimal, Type, Value};

use super::kernel::Kernel;
use crate::error::{Condition, Error, Result};
use crate::query::bind::bound::Bound;
use crate::query::bind::coerce;
use crate::query::bind::operator::Arithmetic;
use crate::query::numeric;
use crate::query::types;

/// The error of a result that its type does not hold.
pub fn out_of_range(r#type: &Type) -> Error {
    let what = match r#type {
        Type::Float4 | Type::Float8 => "value out of range: overflow".to_owned(),
        Type::Numeric(_) => return types::numeric_overflow(),
        other => format!("{other} out of range"),
    };
    Error::new(Condition::NumericValueOutOfRange, what)
}

/// Division by zero.
pub fn by_zero() -> Error {
    Error::new(Condition::DivisionByZero, "division by zero")
}

fn failed(e: ArrowError, r#type: &Type) -> Error {
    match e {
        ArrowError::DivideByZero => by_zero(),
        ArrowError::ArithmeticOverflow(_) => out_of_range(r#type),
        other => Error::internal(other),
    }
}

/// `l op r` of two numbers of one type that is not numeric.
pub fn same(l: Bound, op: Arithmetic, r: Bound) -> Result<Bound> {
    let r#type = l.r#type.clone();
    let data = types::data_type(&r#type);
    let of = r#type.clone();
    let name = format!("{} {}", crate::catalog::types::internal_name(&r#type), op.symbol());
    let args = vec![l.expr, r.expr];
    let expr = match r#type {
        Type::Float8 => Kernel::pair(name, data, move |a, b| floats::<Float64Type>(a, b, op), args),
        Type::Float4 => Kernel::pair(name, data, move |a, b| floats::<Float32Type>(a, b, op), args),
        _ => Kernel::pair(
            name,
            data,
            move |a, b| {
                let result = match op {
                    Arithmetic::Add => arrow::add(a, b),
                    Arithmetic::Subtract => arrow::sub(a, b),
                    Arithmetic::Multiply => arrow::mul(a, b),
                    Arithmetic::Divide => arrow::div(a, b),
                    Arithmetic::Modulo => return remainder(a, b, &of),
                };
                result.map_err(|e| failed(e, &of))
            },
            args,
        ),
    };
    Ok(Bound::new(expr, r#type))
}

/// The remainder; of the smallest number and -1 it is 0, not an overflow.
fn remainder(a: &dyn Datum, b: &dyn Datum, r#type: &Type) -> Result<ArrayRef> {
    fn of<T: ArrowPrimitiveType>(
        a: &dyn Datum,
        b: &dyn Datum,
        rem: impl Fn(T::Native, T::Native) -> Option<T::Native>,
    ) -> Result<ArrayRef> {
        binary::<T>(a, b, |x, y| rem(x, y).ok_or_else(by_zero))
    }
    match r#type {
        Type::Int2 => of::<Int16Type>(a, b, |x, y| (y != 0).then(|| x.wrapping_rem(y))),
        Type::Int4 => of::<Int32Type>(a, b, |x, y| (y != 0).then(|| x.wrapping_rem(y))),
        _ => of::<Int64Type>(a, b, |x, y| (y != 0).then(|| x.wrapping_rem(y))),
    }
}

/// `f` on each pair; a constant is paired with each value of the other side.
fn binary<T: ArrowPrimitiveType>(
    a: &dyn Datum,
    b: &dyn Datum,
    f: impl Fn(T::Native, T::Native) -> Result<T::Native>,
) -> Result<ArrayRef> {
    let external = |e: Error| ArrowError::ExternalError(Box::new(e));
    let ((left, a_constant), (right, b_constant)) = (a.get(), b.get());
    let side = |array: &dyn Array| -> Result<PrimitiveArray<T>> {
        array.as_any().downcast_ref::<PrimitiveArray<T>>().cloned().ok_or_else(|| Error::internal("not a number"))
    };
    let (left, right) = (side(left)?, side(right)?);
    let result: std::result::Result<PrimitiveArray<T>, ArrowError> = match (a_constant, b_constant) {
        (true, false) if left.is_null(0) => Ok(PrimitiveArray::new_null(right.len())),
        (false, true) if right.is_null(0) => Ok(PrimitiveArray::new_null(left.len())),
        (true, false) => {
            let x = left.value(0);
            right.try_unary(|y| f(x, y).map_err(external))
        }
        (false, true) => {
            let y = right.value(0);
            left.try_unary(|x| f(x, y).map_err(external))
        }
        _ => arity::try_binary(&left, &right, |x, y| f(x, y).map_err(external)),
    };
    match result {
        Ok(array) => Ok(Arc::new(array)),
        Err(ArrowError::ExternalError(e)) => match e.downcast::<Error>() {
            Ok(ours) => Err(*ours),
            Err(other) => Err(Error::internal(other)),
        },
        Err(other) => Err(Error::internal(other)),
    }
}

/// A float of one of the two widths.
trait Float: Copy + PartialEq {
    fn zero() -> Self;
    fn apply(self, op: Arithmetic, other: Self) -> Self;
    fn is_inf(self) -> bool;
}

macro_rules! float {
    ($t:ty) => {
        impl Float for $t {
            fn zero() -> $t {
                0.0
            }
            fn apply(self, op: Arithmetic, other: $t) -> $t {
                match op {
                    Arithmetic::Add => self + other,
                    Arithmetic::Subtract => self - other,
                    Arithmetic::Multiply => self * other,
                    Arithmetic::Divide => self / other,
                    Arithmetic::Modulo => self % other,
                }
            }
            fn is_inf(self) -> bool {
                self.is_infinite()
            }
        }
    };
}
float!(f32);
float!(f64);

fn floats<T: ArrowPrimitiveType>(a: &dyn Datum, b: &dyn Datum, op: Arithmetic) -> Result<ArrayRef>
where
    T::Native: Float,
{
    binary::<T>(a, b, |x, y| {
        if op == Arithmetic::Divide && y == T::Native::zero() {
            return Err(by_zero());
        }
        let result = x.apply(op, y);
        if result.is_inf() && !x.is_inf() && !y.is_inf() {
            return Err(out_of_range(&Type::Float8));
        }
        let vanishes = matches!(op, Arithmetic::Multiply | Arithmetic::Divide) && result == T::Native::zero();
        if vanishes && x != T::Native::zero() && y != T::Native::zero() && !y.is_inf() {
            return Err(Error::new(Condition::NumericValueOutOfRange, "value out of range: underflow"));
        }
        Ok(result)
    })
}

/// `l op r` of two numerics.
pub fn numerics(l: Bound, op: Arithmetic, r: Bound) -> Result<Bound> {
    let numeric = Type::Numeric(None);
    if let (Some(a), Some(b)) = (l.fixed_scale(), r.fixed_scale()) {
        let scale = match op {
            Arithmetic::Add | Arithmetic::Subtract => Some(a.max(b)),
            Arithmetic::Multiply => a.checked_add(b).filter(|s| *s <= 20),
            Arithmetic::Divide | Arithmetic::Modulo => None,
        };
        if let Some(scale) = scale {
            let data = types::fixed(scale);
            let name = format!("numeric {}", op.symbol());
            let expr = Kernel::pair(
                name,
                data.clone(),
                move |x, y| {
                    let result = match op {
                        Arithmetic::Add => arrow::add(x, y),
                        Arithmetic::Subtract => arrow::sub(x, y),
                        _ => arrow::mul(x, y),
                    };
                    result.map_err(|e| failed(e, &Type::Numeric(None)))
                },
                vec![l.expr, r.expr],
            );
            return Ok(Bound::with_data(expr, numeric, data));
        }
    }
    let (l, r) = (coerce::free(l), coerce::free(r));
    let expr = Kernel::strict(
        format!("free numeric {}", op.symbol()),
        types::free(),
        move |a, out| out.numeric(compute(a.numeric(0)?, op, a.numeric(1)?)?),
        vec![l.expr, r.expr],
    );
    Ok(Bound::with_data(expr, numeric, types::free()))
}

/// One operation on two numerics.
pub fn compute(a: Decimal, op: Arithmetic, b: Decimal) -> Result<Decimal> {
    let result = match op {
        Arithmetic::Add => numeric::add(a, b),
        Arithmetic::Subtract => Decimal::new(-b.mantissa(), b.scale()).and_then(|b| numeric::add(a, b)),
        Arithmetic::Multiply => numeric::multiply(a, b),
        Arithmetic::Divide | Arithmetic::Modulo if b.mantissa() == 0 => return Err(by_zero()),
        Arithmetic::Divide => numeric::divide(a, b),
        Arithmetic::Modulo => numeric::modulo(a, b),
    };
    result.ok_or_else(types::numeric_overflow)
}

/// A sum divided by a count; NULL when nothing was counted.
pub fn average(sum: Bound, count: Bound) -> Result<Bound> {
    let (sum, count) = (coerce::free(sum), coerce::free(count));
    let expr = Kernel::strict(
        "average of numerics",
        types::free(),
        |a, out| {
            let count = a.numeric(1)?;
            if count.mantissa() == 0 {
                out.null();
                return Ok(());
            }
            out.numeric(compute(a.numeric(0)?, Arithmetic::Divide, count)?)
        },
        vec![sum.expr, count.expr],
    );
    Ok(Bound::with_data(expr, Type::Numeric(None), types::free()))
}

/// `-x`.
pub fn negate(bound: Bound) -> Result<Bound> {
    let (r#type, data) = (bound.r#type.clone(), bound.data.clone());
    let of = r#type.clone();
    let expr = match &data {
        DataType::FixedSizeBinary(_) => Kernel::strict(
            "negate free numeric",
            data.clone(),
            |a, out| {
                let v = a.numeric(0)?;
                out.numeric(Decimal::new(-v.mantissa(), v.scale()).ok_or_else(types::numeric_overflow)?)
            },
            vec![bound.expr],
        ),
        _ => Kernel::batch(
            format!("negate {}", crate::catalog::types::internal_name(&r#type)),
            data.clone(),
            move |args, _| {
                let Some(array) = args.first() else { return Err(Error::internal("nothing to negate")) };
                arrow::neg(array).map_err(|e| failed(e, &of))
            },
            vec![bound.expr],
        ),
    };
    let r#type = if matches!(r#type, Type::Numeric(_)) { Type::Numeric(None) } else { r#type };
    Ok(Bound::with_data(expr, r#type, data))
}

fn narrow(v: i64, r#type: &Type) -> Value {
    match r#type {
        Type::Int2 => Value::Int2(v as i16),
        Type::Int4 => Value::Int4(v as i32),
        _ => Value::Int8(v),
    }
}

/// `~x`.
pub fn bit_not(bound: Bound) -> Result<Bound> {
    let of = bound.r#type.clone();
    let name = format!("{} ~", crate::catalog::types::internal_name(&of));
    let expr: Expr = Kernel::strict(
        name,
        types::data_type(&of),
        {
            let of = of.clone();
            move |a, out| out.value(&narrow(!a.int(0)?, &of))
        },
        vec![bound.expr],
    );
    Ok(Bound::new(expr, of))
}

/// `& | # << >>`.
pub fn bits(l: Bound, symbol: &'static str, r: Bound) -> Result<Bound> {
    let of = l.r#type.clone();
    let width: u32 = match of {
        Type::Int2 => 16,
        Type::Int4 => 32,
        _ => 64,
    };
    let name = format!("{} {symbol}", crate::catalog::types::internal_name(&of));
    let expr = Kernel::strict(
        name,
        types::data_type(&of),
        {
            let of = of.clone();
            move |a, out| {
                let (x, y) = (a.int(0)?, a.int(1)?);
                // The machine's shifts take the count modulo the width.
                let count = (y as u32) & (width - 1);
                let result = match symbol {
                    "&" => x & y,
                    "|" => x | y,
                    "#" => x ^ y,
                    "<<" => x << count,
                    _ => x >> count,
                };
                out.value(&narrow(result, &of))
            }
        },
        vec![l.expr, r.expr],
    );
    Ok(Bound::new(expr, of))
}
