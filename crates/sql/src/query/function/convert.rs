//! Conversions as kernels, and the sort keys of types whose Arrow form does not
//! compare as SQL does.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Builder, FixedSizeBinaryBuilder, StringViewBuilder,
};
use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Field, Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::Placeholder;
use polity_base::{Type, Value};

use super::kernel::Kernel;
use crate::error::{Condition, Error, Result};
use crate::expr::{Local, cast};
use crate::query::PlanInput;
use crate::query::bind::bound::{Bound, Names};
use crate::query::bind::call::NOW;
use crate::query::numeric::{self, FREE_BYTES, KEY_BYTES};
use crate::query::types;

/// The conversion of `bound` to `to`.
pub fn conversion(bound: &Bound, to: &Type, explicit: bool, zone: &str, input: &PlanInput) -> Result<Bound> {
    let from = bound.r#type.clone();
    if to.is_text() && from == Type::Regclass {
        return super::names::shown(bound, to, input);
    }
    if *to == Type::Regclass && (from.is_text() || from == Type::Unknown) {
        return super::names::found(bound, Names::Relation, input);
    }
    if to.is_text() && bound.is_vector() {
        return super::names::vector(bound, to);
    }
    let data = types::data_type(to);
    let mut args = vec![bound.expr.clone()];
    // 'today' means a day of the run's.
    let moving = (from.is_text() || from == Type::Unknown)
        && matches!(to, Type::Date | Type::Time | Type::Timestamp | Type::TimestampTz);
    if moving {
        args.push(now());
    }
    let name = format!("{}{}", if explicit { "cast_" } else { "as_" }, crate::catalog::types::internal_name(to));
    // The name tells kernels apart, so it says what it depends on.
    let name = match to {
        Type::Varchar(Some(n)) | Type::Char(n) => format!("{name}({n})"),
        Type::Numeric(Some((p, s))) => format!("{name}({p},{s})"),
        _ => name,
    };
    let name = if depends_on_zone(&from, to) { format!("{name} at {zone}") } else { name };
    let name = format!("{name} from {}", crate::catalog::types::internal_name(&from));
    let expr = match (&from, to) {
        (Type::Int2 | Type::Int4 | Type::Int8, Type::Text | Type::Varchar(None)) => {
            Kernel::batch(name, data.clone(), |args, _| integers_to_text(args), args)
        }
        (Type::Array(a), Type::Array(b)) if types::element_type(a) == types::element_type(b) => {
            return Ok(Bound { r#type: to.clone(), ..bound.clone() });
        }
        (Type::Array(_), Type::Array(element)) => {
            let (element, zone) = ((**element).clone(), zone.to_owned());
            Kernel::strict(
                name,
                data.clone(),
                move |a, out| {
                    let values = a
                        .list(0)?
                        .into_iter()
                        .map(|v| cast::convert(v, &element, explicit, Local { zone: &zone, now: 0 }));
                    out.value(&Value::Array(values.collect::<Result<_>>()?))
                },
                args,
            )
        }
        _ => {
            let (from, to, zone) = (from.clone(), to.clone(), zone.to_owned());
            let retype = matches!(from, Type::Json | Type::Jsonb);
            let array = match &from {
                Type::Array(_) => true,
                _ => to.is_text() && matches!(from, Type::Oid | Type::Float4 | Type::Char(_)),
            };
            Kernel::strict(
                name,
                data.clone(),
                move |a, out| {
                    let value = a.value(0)?;
                    let value = match value {
                        Value::Text(text) if retype => Value::Json(text),
                        other => other,
                    };
                    let local = Local { zone: &zone, now: if moving { a.int(1)? } else { 0 } };
                    if array && to.is_text() {
                        return out.text(&cast::write(&value, &from, local));
                    }
                    out.value(&cast::convert(value, &to, explicit, local)?)
                },
                args,
            )
        }
    };
    Ok(Bound::with_data(expr, to.clone(), data))
}

/// The moment of the run, for conversions that depend on it.
fn now() -> Expr {
    let field = Field::new("", types::data_type(&Type::TimestampTz), true);
    Expr::Placeholder(Placeholder::new_with_field(NOW.to_owned(), Some(Arc::new(field))))
}

fn depends_on_zone(from: &Type, to: &Type) -> bool {
    let zoned = |t: &Type| matches!(t, Type::TimestampTz);
    zoned(from) || zoned(to) || matches!(from, Type::Array(_)) || matches!(to, Type::Array(_))
}

fn integers_to_text(args: &[ArrayRef]) -> Result<ArrayRef> {
    let Some(array) = args.first() else { return Err(Error::internal("a conversion of nothing")) };
    let mut out = StringViewBuilder::with_capacity(array.len());
    let mut text = String::new();
    for i in 0..array.len() {
        if array.is_null(i) {
            out.append_null();
            continue;
        }
        let v = match array.data_type() {
            DataType::Int16 => i64::from(array.as_primitive::<Int16Type>().value(i)),
            DataType::Int32 => i64::from(array.as_primitive::<Int32Type>().value(i)),
            _ => array.as_primitive::<Int64Type>().value(i),
        };
        text.clear();
        use std::fmt::Write;
        let _ = write!(text, "{v}");
        out.append_value(&text);
    }
    Ok(Arc::new(out.finish()))
}

/// A fixed numeric as a free one.
pub fn freed(expr: Expr) -> Expr {
    Kernel::batch("free", types::free(), |args, _| map_numeric(args), vec![expr])
}

fn map_numeric(args: &[ArrayRef]) -> Result<ArrayRef> {
    let Some(array) = args.first() else { return Err(Error::internal("a conversion of nothing")) };
    let cells = types::Cells::new(array.as_ref(), &Type::Numeric(None))?;
    let mut out = FixedSizeBinaryBuilder::with_capacity(array.len(), FREE_BYTES);
    for i in 0..array.len() {
        if cells.is_null(i) {
            out.append_null();
        } else {
            out.append_value(numeric::encode(cells.numeric(i)?)).map_err(Error::internal)?;
        }
    }
    Ok(Arc::new(out.finish()))
}

/// A free numeric as a fixed one, rounded.
pub fn rescaled(expr: Expr, scale: u8) -> Expr {
    Kernel::batch(
        format!("scale_{scale}"),
        types::fixed(scale),
        move |args, _| {
            let Some(array) = args.first() else { return Err(Error::internal("a conversion of nothing")) };
            let cells = types::Cells::new(array.as_ref(), &Type::Numeric(None))?;
            let mut out = Decimal128Builder::with_capacity(array.len())
                .with_precision_and_scale(types::FIXED_DIGITS, scale as i8)
                .map_err(Error::internal)?;
            for i in 0..array.len() {
                if cells.is_null(i) {
                    out.append_null();
                } else {
                    let v = cells.numeric(i)?.rescale(scale).ok_or_else(types::numeric_overflow)?;
                    out.append_value(v.mantissa());
                }
            }
            Ok(Arc::new(out.finish()))
        },
        vec![expr],
    )
}

/// The sort key of a free numeric.
pub fn numeric_key(expr: Expr) -> Expr {
    Kernel::batch(
        "numeric_key",
        DataType::FixedSizeBinary(KEY_BYTES),
        |args, _| {
            let Some(array) = args.first() else { return Err(Error::internal("a key of nothing")) };
            let free = array.as_fixed_size_binary();
            let mut out = FixedSizeBinaryBuilder::with_capacity(array.len(), KEY_BYTES);
            for i in 0..array.len() {
                match free.value(i).get(..KEY_BYTES as usize) {
                    Some(key) if free.is_valid(i) => out.append_value(key).map_err(Error::internal)?,
                    _ => out.append_null(),
                }
            }
            Ok(Arc::new(out.finish()))
        },
        vec![expr],
    )
}

/// The sort key of an interval: a month counts 30 days, a day 24 hours.
pub fn interval_key(expr: Expr) -> Expr {
    Kernel::batch(
        "interval_key",
        types::fixed(0),
        |args, _| {
            let Some(array) = args.first() else { return Err(Error::internal("a key of nothing")) };
            let intervals = array.as_primitive::<IntervalMonthDayNanoType>();
            let keys = intervals.unary::<_, Decimal128Type>(|v| types::interval_out(v).total_micros());
            Ok(Arc::new(keys.with_precision_and_scale(types::FIXED_DIGITS, 0).map_err(Error::internal)?))
        },
        vec![expr],
    )
}

/// The error for a text that is not of a type.
pub fn invalid(r#type: &str, text: &str) -> Error {
    Error::new(Condition::InvalidTextRepresentation, format!("invalid input syntax for type {}: \"{text}\"", r#type))
}
