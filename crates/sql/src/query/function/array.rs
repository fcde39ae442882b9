//! Arrays.

use std::cmp::Ordering;

use datafusion::arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast;
use polity_base::{Type, Value};

use super::kernel::Kernel;
use super::list::{Function, Ty, bind, lenient, strict};
use crate::error::{Condition, Error, Result};
use crate::expr::Local;
use crate::expr::cast;
use crate::query::bind::Binder;
use crate::query::bind::bound::Bound;
use crate::query::bind::coerce;
use crate::query::bind::operator::no_operator;
use crate::query::types::{self, Builder};

use Ty::{AnyArray, Element, Int4, Text};

/// The functions.
pub static FUNCTIONS: &[Function] = &[
    strict("array_length", &[AnyArray, Int4], Int4, |a, o| length(o, a.list(0)?.len(), a.int(1)?)),
    strict("array_upper", &[AnyArray, Int4], Int4, |a, o| length(o, a.list(0)?.len(), a.int(1)?)),
    strict("array_lower", &[AnyArray, Int4], Int4, |a, o| length(o, usize::from(!a.list(0)?.is_empty()), a.int(1)?)),
    strict("cardinality", &[AnyArray], Int4, |a, o| {
        o.value(&Value::Int4(i32::try_from(a.list(0)?.len()).unwrap_or(i32::MAX)))
    }),
    strict("array_ndims", &[AnyArray], Int4, |a, o| length(o, usize::from(!a.list(0)?.is_empty()), 1)),
    strict("array_dims", &[AnyArray], Text, |a, o| match a.list(0)?.len() {
        0 => {
            o.null();
            Ok(())
        }
        n => o.text(&format!("[1:{n}]")),
    }),
    lenient("array_append", &[AnyArray, Element], AnyArray, |a, o| {
        let mut values = a.list(0)?;
        values.push(a.value(1)?);
        o.value(&Value::Array(values))
    }),
    lenient("array_prepend", &[Element, AnyArray], AnyArray, |a, o| {
        let mut values = vec![a.value(0)?];
        values.extend(a.list(1)?);
        o.value(&Value::Array(values))
    }),
    bind("array_cat", &[AnyArray, AnyArray], AnyArray, |b, args| {
        let [l, r] = <[Bound; 2]>::try_from(args).map_err(|_| Error::internal("two arguments are two"))?;
        concat(b, l, r)
    }),
    lenient("array_position", &[AnyArray, Element], Int4, |a, o| {
        if a.is_null(0) {
            o.null();
            return Ok(());
        }
        let wanted = a.value(1)?;
        match a.list(0)?.iter().position(|v| same(v, &wanted)) {
            Some(at) => o.value(&Value::Int4(i32::try_from(at + 1).unwrap_or(i32::MAX))),
            None => {
                o.null();
                Ok(())
            }
        }
    }),
    lenient("array_remove", &[AnyArray, Element], AnyArray, |a, o| {
        if a.is_null(0) {
            o.null();
            return Ok(());
        }
        let unwanted = a.value(1)?;
        o.value(&Value::Array(a.list(0)?.into_iter().filter(|v| !same(v, &unwanted)).collect()))
    }),
    lenient("array_replace", &[AnyArray, Element, Element], AnyArray, |a, o| {
        if a.is_null(0) {
            o.null();
            return Ok(());
        }
        let (from, to) = (a.value(1)?, a.value(2)?);
        let replaced = a.list(0)?.into_iter().map(|v| if same(&v, &from) { to.clone() } else { v });
        o.value(&Value::Array(replaced.collect()))
    }),
    bind("array_to_string", &[AnyArray, Text], Text, to_string),
    bind("array_to_string", &[AnyArray, Text, Text], Text, to_string),
    strict("trim_array", &[AnyArray, Int4], AnyArray, |a, o| {
        let mut values = a.list(0)?;
        let n = usize::try_from(a.int(1)?).ok().filter(|n| *n <= values.len()).ok_or_else(|| {
            Error::new(
                Condition::ArraySubscriptError,
                format!("number of elements to trim must be between 0 and {}", values.len()),
            )
        })?;
        values.truncate(values.len() - n);
        o.value(&Value::Array(values))
    }),
];

fn length(out: &mut Builder, n: usize, dimension: i64) -> Result<()> {
    if n == 0 || dimension != 1 {
        out.null();
        return Ok(());
    }
    out.value(&Value::Int4(i32::try_from(n).unwrap_or(i32::MAX)))
}

/// Equal, NULLs included.
fn same(a: &Value, b: &Value) -> bool {
    a.compare(b) == Some(Ordering::Equal) || (a.is_null() && b.is_null())
}

fn element_of(r#type: &Type) -> Type {
    match r#type {
        Type::Array(element) => (**element).clone(),
        other => other.clone(),
    }
}

fn name_of(r#type: &Type) -> String {
    crate::catalog::types::internal_name(r#type)
}

fn to_string(binder: &Binder<'_>, args: Vec<Bound>) -> Result<Bound> {
    let zone = binder.zone().to_owned();
    let element = element_of(&args.first().map_or(Type::Text, |b| b.r#type.clone()));
    let expr = Kernel::lenient(
        format!("array_to_string of {} at {zone}", name_of(&element)),
        types::data_type(&Type::Text),
        move |a, o| {
            if a.is_null(0) || a.is_null(1) {
                o.null();
                return Ok(());
            }
            let null = if a.len() > 2 && !a.is_null(2) { Some(a.text(2)?) } else { None };
            let mut parts = Vec::new();
            for value in a.list(0)? {
                match (value.is_null(), null) {
                    (true, None) => {}
                    (true, Some(text)) => parts.push(text.to_owned()),
                    (false, _) => parts.push(cast::write(&value, &element, Local { zone: &zone, now: 0 })),
                }
            }
            o.text(&parts.join(a.text(1)?))
        },
        args.into_iter().map(|b| b.expr).collect(),
    );
    Ok(Bound::new(expr, Type::Text))
}

/// `ARRAY[…]`.
pub fn constructor(binder: &Binder<'_>, elements: Vec<Bound>) -> Result<Bound> {
    let (elements, common) = binder.unify(elements, "ARRAY")?;
    let element = element_of(&common);
    let nested = matches!(common, Type::Array(_));
    if nested {
        return Err(Error::unsupported("an array of arrays"));
    }
    let constants: Option<Vec<Value>> = elements.iter().map(|b| b.constant().cloned()).collect();
    let returns = Type::Array(Box::new(cast::without_modifier(&element)));
    if let Some(values) = constants {
        return coerce::literal(&Value::Array(values), &returns);
    }
    let elements: Vec<Bound> = elements.into_iter().map(coerce::free).collect();
    let data = types::data_type(&returns);
    let expr = Kernel::lenient(
        format!("array of {}", name_of(&element)),
        data.clone(),
        |a, o| {
            let values = (0..a.len()).map(|k| a.value(k)).collect::<Result<Vec<_>>>()?;
            o.value(&Value::Array(values))
        },
        elements.into_iter().map(|b| b.expr).collect(),
    );
    Ok(Bound::with_data(expr, returns, data))
}

/// `array[index]`.
pub fn element(binder: &Binder<'_>, array: Bound, index: Bound) -> Result<Bound> {
    if matches!(array.r#type, Type::Jsonb) {
        return super::json::access(binder, array, "->", index);
    }
    if matches!(array.r#type, Type::Name) {
        // A name is an array of characters, counted from 0.
        let expr = Kernel::strict(
            "character of a name",
            DataType::Utf8View,
            |a, o| {
                let at = usize::try_from(a.int(1)?).ok();
                let character = at.and_then(|at| a.text(0).ok()?.chars().nth(at));
                o.value(&Value::Text(character.map(String::from).unwrap_or_default()))
            },
            vec![array.expr, binder.implicit(index, &Type::Int4)?.expr],
        );
        return Ok(Bound::new(expr, Type::Text));
    }
    let Type::Array(element) = array.r#type.clone() else {
        return Err(Error::new(
            Condition::DatatypeMismatch,
            format!("cannot subscript type {} because it does not support subscripting", coerce::shown(&array.r#type)),
        ));
    };
    let index = binder.implicit(index, &Type::Int4)?;
    let data = types::element_type(&element);
    let expr = Kernel::strict(
        format!("element of {}", name_of(&element)),
        data.clone(),
        |a, o| {
            let values = a.list(0)?;
            let at = usize::try_from(a.int(1)?).ok().and_then(|i| i.checked_sub(1));
            match at.and_then(|i| values.get(i)) {
                Some(value) => o.value(value),
                None => {
                    o.null();
                    Ok(())
                }
            }
        },
        vec![array.expr, index.expr],
    );
    Ok(Bound::with_data(expr, *element, data))
}

/// `array[from:to]`.
pub fn slice(binder: &Binder<'_>, array: Bound, from: Option<Bound>, to: Option<Bound>) -> Result<Bound> {
    if !matches!(array.r#type, Type::Array(_)) {
        return Err(Error::new(
            Condition::DatatypeMismatch,
            format!("cannot subscript type {} because it does not support subscripting", coerce::shown(&array.r#type)),
        ));
    }
    let (has_from, has_to) = (from.is_some(), to.is_some());
    let mut args = vec![array.expr];
    for edge in [from, to].into_iter().flatten() {
        args.push(binder.implicit(edge, &Type::Int4)?.expr);
    }
    let expr = Kernel::strict(
        format!("slice {has_from} {has_to} of {}", name_of(&array.r#type)),
        array.data.clone(),
        move |a, o| {
            let values = a.list(0)?;
            let from = if has_from { a.int(1)?.max(1) } else { 1 };
            let to = if has_to { a.int(if has_from { 2 } else { 1 })? } else { i64::MAX };
            let skip = usize::try_from(from - 1).unwrap_or(usize::MAX);
            let keep = usize::try_from(to.saturating_sub(from).saturating_add(1)).unwrap_or(0);
            o.value(&Value::Array(values.into_iter().skip(skip).take(keep).collect()))
        },
        args,
    );
    Ok(Bound::with_data(expr, array.r#type, array.data))
}

/// `a || b` where one is an array.
pub fn concat(binder: &Binder<'_>, l: Bound, r: Bound) -> Result<Bound> {
    let array_type = match (&l.r#type, &r.r#type) {
        (t @ Type::Array(_), _) | (_, t @ Type::Array(_)) => t.clone(),
        _ => return Err(no_operator(Some(&l), "||", &r)),
    };
    let element = element_of(&array_type);
    let side = |b: Bound| -> Result<(Bound, bool)> {
        if b.is_open() {
            return Ok((binder.implicit(b, &array_type)?, true));
        }
        match b.r#type {
            Type::Array(_) => Ok((binder.implicit(b, &array_type)?, true)),
            _ => Ok((coerce::free(binder.implicit(b, &element)?), false)),
        }
    };
    let error = no_operator(Some(&l), "||", &r);
    let ((l, l_array), (r, r_array)) = match (side(l), side(r)) {
        (Ok(l), Ok(r)) => (l, r),
        _ => return Err(error),
    };
    let data = types::data_type(&array_type);
    let expr = Kernel::lenient(
        format!("array concat {l_array} {r_array} of {}", name_of(&element)),
        data.clone(),
        move |a, o| {
            if l_array && r_array && a.is_null(0) && a.is_null(1) {
                o.null();
                return Ok(());
            }
            let mut values = if l_array { a.list(0)? } else { vec![a.value(0)?] };
            match r_array {
                true => values.extend(a.list(1)?),
                false => values.push(a.value(1)?),
            }
            o.value(&Value::Array(values))
        },
        vec![l.expr, r.expr],
    );
    Ok(Bound::with_data(expr, array_type, data))
}

/// `a @> b`.
pub fn contains(l: Bound, r: Bound) -> Result<Bound> {
    let expr = Kernel::strict(
        format!("array contains of {}", name_of(&l.r#type)),
        types::data_type(&Type::Bool),
        |a, o| {
            let (all, wanted) = (a.list(0)?, a.list(1)?);
            let has = |w: &Value| all.iter().any(|v| v.compare(w) == Some(Ordering::Equal));
            o.value(&Value::Bool(wanted.iter().all(has)))
        },
        vec![l.expr, r.expr],
    );
    Ok(Bound::new(expr, Type::Bool))
}

/// `a && b`.
pub fn overlap(l: Bound, r: Bound) -> Result<Bound> {
    let expr = Kernel::strict(
        format!("array overlap of {}", name_of(&l.r#type)),
        types::data_type(&Type::Bool),
        |a, o| {
            let (left, right) = (a.list(0)?, a.list(1)?);
            let has = |w: &Value| left.iter().any(|v| v.compare(w) == Some(Ordering::Equal));
            o.value(&Value::Bool(right.iter().any(has)))
        },
        vec![l.expr, r.expr],
    );
    Ok(Bound::new(expr, Type::Bool))
}

/// `l op ANY (array)` and ALL, over an array that is not a constant.
pub fn any_all(
    binder: &Binder<'_>,
    l: Bound,
    op: &ast::BinaryOperator,
    array: Bound,
    element: &Type,
    all: bool,
) -> Result<Bound> {
    use ast::BinaryOperator as B;
    let holds: fn(Ordering) -> bool = match op {
        B::Eq => Ordering::is_eq,
        B::NotEq => Ordering::is_ne,
        B::Lt => Ordering::is_lt,
        B::LtEq => Ordering::is_le,
        B::Gt => Ordering::is_gt,
        B::GtEq => Ordering::is_ge,
        other => return Err(Error::unsupported(format!("{other} ANY or ALL with an array that is not a constant"))),
    };
    let common = binder.common_type(&[coerce::open_type(&l), element.clone()], "ANY")?;
    let l = coerce::free(binder.implicit(l, &common)?);
    let array = binder.implicit(array, &Type::Array(Box::new(common.clone())))?;
    let expr = Kernel::lenient(
        format!("{op} {} of {}", if all { "all" } else { "any" }, name_of(&common)),
        types::data_type(&Type::Bool),
        move |a, o| {
            if a.is_null(1) {
                o.null();
                return Ok(());
            }
            let values = a.list(1)?;
            let left = a.value(0)?;
            let mut unknown = false;
            for value in &values {
                match left.compare(value) {
                    None => unknown = true,
                    Some(order) if holds(order) != all => return o.value(&Value::Bool(!all)),
                    Some(_) => {}
                }
            }
            if unknown && !values.is_empty() {
                o.null();
                return Ok(());
            }
            o.value(&Value::Bool(all))
        },
        vec![l.expr, array.expr],
    );
    Ok(Bound::new(expr, Type::Bool))
}
