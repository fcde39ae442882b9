//! Functions that give sets: an array per column, whose elements become rows.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::Column;
use datafusion::logical_expr::Expr;
use polity_base::{Decimal, Interval, Type, Value};

use super::datetime::{shifted, shifted_in, zone_of};
use super::json;
use super::kernel::{Args, Kernel};
use super::names;
use super::pattern;
use crate::error::{Condition, Error, Result};
use crate::query::bind::Binder;
use crate::query::bind::bound::{Bound, Names};
use crate::query::bind::call::missing_function;
use crate::query::bind::coerce;
use crate::query::bind::scope::Level;
use crate::query::numeric;
use crate::query::types;

/// A column of a set.
pub struct SetColumn {
    /// Its name
    pub name: String,
    /// The type of its values
    pub element: Type,
    /// Its values, as an array
    pub array: Bound,
    /// Whether an alias of the function renames it
    pub follows_alias: bool,
}

const SETS: &[&str] = &[
    "generate_series",
    "generate_subscripts",
    "json_array_elements",
    "json_array_elements_text",
    "json_each",
    "json_each_text",
    "json_object_keys",
    "jsonb_array_elements",
    "jsonb_array_elements_text",
    "jsonb_each",
    "jsonb_each_text",
    "jsonb_object_keys",
    "pg_options_to_table",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "regexp_matches",
    "regexp_split_to_table",
    "string_to_table",
    "unnest",
];

/// The most elements a set may have.
const MOST_ELEMENTS: usize = 50_000_000;

/// Whether `name` gives a set.
pub fn is_set(name: &str) -> bool {
    SETS.binary_search(&name).is_ok()
}

impl Binder<'_> {
    /// A set in the select list: its rows multiply those of FROM.
    pub fn set_in_expression(&self, level: &Level<'_>, name: &str, args: Vec<Bound>) -> Result<Bound> {
        if !level.allowed.sets {
            return Err(Error::new(
                Condition::FeatureNotSupported,
                format!("set-returning functions are not allowed in {}", level.allowed.clause),
            ));
        }
        let mut all = columns(self, name, args)?;
        let (Some(column), true) = (all.pop(), all.is_empty()) else {
            return Err(Error::unsupported(format!("{name} in the select list")).hint("Call it in FROM."));
        };
        let mut asked = level.asked.sets.borrow_mut();
        let label = format!("set#{}", asked.len());
        asked.push((column.array.expr, label.clone()));
        let data = types::element_type(&column.element);
        Ok(Bound::with_data(Expr::Column(Column::new_unqualified(label)), column.element, data))
    }
}

/// The columns of a function that gives a set; any other function gives one row.
pub fn columns(binder: &Binder<'_>, name: &str, args: Vec<Bound>) -> Result<Vec<SetColumn>> {
    let one = |column: &str, element: Type, expr: Expr| {
        let array = Bound::new(expr, Type::Array(Box::new(element.clone())));
        Ok(vec![SetColumn { name: column.to_owned(), element, array, follows_alias: true }])
    };
    let text_list = || types::list_of(DataType::Utf8View);
    let is_b = name.starts_with("jsonb");
    let json_type = if is_b { Type::Jsonb } else { Type::Json };
    match name {
        "generate_series" => {
            let (element, expr) = series(binder, args)?;
            one(name, element, expr)
        }
        "unnest" => unnested(binder, args),
        "generate_subscripts" => {
            let expr = Kernel::strict(
                name,
                types::list_of(DataType::Int32),
                |a, o| {
                    let n = i32::try_from(a.list(0)?.len()).unwrap_or(i32::MAX);
                    o.value(&Value::Array((1..=n).map(Value::Int4).collect()))
                },
                args.into_iter().map(|b| b.expr).collect(),
            );
            one(name, Type::Int4, expr)
        }
        // No table is a partition or has any, and nothing has options of this kind.
        "pg_partition_ancestors" => empty(binder, name, args, Type::Regclass, &[("relid", Type::Regclass)]),
        "pg_partition_tree" => {
            let columns = [
                ("relid", Type::Regclass),
                ("parentrelid", Type::Regclass),
                ("isleaf", Type::Bool),
                ("level", Type::Int4),
            ];
            empty(binder, name, args, Type::Regclass, &columns)
        }
        "pg_options_to_table" => {
            let options = Type::Array(Box::new(Type::Text));
            empty(binder, name, args, options, &[("option_name", Type::Text), ("option_value", Type::Text)])
        }
        "regexp_split_to_table" => {
            let array = binder.function("regexp_split_to_array", args)?;
            one(name, Type::Text, array.expr)
        }
        "string_to_table" => {
            let array = binder.function("string_to_array", args)?;
            one(name, Type::Text, array.expr)
        }
        "regexp_matches" => {
            let flagged = args.len() == 3;
            let args = args.into_iter().map(|a| binder.implicit(a, &Type::Text)).collect::<Result<Vec<_>>>()?;
            let element = Type::Array(Box::new(Type::Text));
            let data = types::list_of(types::data_type(&element));
            let expr = Kernel::strict(
                format!("regexp_matches {flagged}"),
                data.clone(),
                move |a, o| {
                    let flags = if flagged { a.text(2)? } else { "" };
                    o.value(&Value::Array(pattern::all_matches(a.text(0)?, a.text(1)?, flags)?))
                },
                args.into_iter().map(|b| b.expr).collect(),
            );
            let array = Bound::with_data(expr, Type::Array(Box::new(element.clone())), data);
            Ok(vec![SetColumn { name: name.to_owned(), element, array, follows_alias: true }])
        }
        "json_array_elements" | "jsonb_array_elements" | "json_array_elements_text" | "jsonb_array_elements_text" => {
            let as_text = name.ends_with("_text");
            let arg = json_argument(binder, name, args, &json_type)?;
            let expr = Kernel::strict(
                name,
                text_list(),
                move |a, o| {
                    let text = a.text(0)?;
                    if json::kind(text) != "array" {
                        let what = if json::kind(text) == "object" { "an object" } else { "a scalar" };
                        return Err(Error::new(
                            Condition::InvalidParameterValue,
                            format!("cannot extract elements from {what}"),
                        ));
                    }
                    let values = json::elements(text).into_iter().map(|e| match as_text {
                        true => json::as_text(e).map_or(Value::Null, Value::Text),
                        false => Value::Text(e.to_owned()),
                    });
                    o.value(&Value::Array(values.collect()))
                },
                vec![arg.expr],
            );
            let element = if as_text { Type::Text } else { json_type };
            let mut columns = one("value", element, expr)?;
            columns.iter_mut().for_each(|c| c.follows_alias = true);
            Ok(columns)
        }
        "json_object_keys" | "jsonb_object_keys" => {
            let arg = json_argument(binder, name, args, &json_type)?;
            let expr = Kernel::strict(
                name,
                text_list(),
                |a, o| {
                    o.value(&Value::Array(json::entries(a.text(0)?).into_iter().map(|(k, _)| Value::Text(k)).collect()))
                },
                vec![arg.expr],
            );
            one(name, Type::Text, expr)
        }
        "json_each" | "jsonb_each" | "json_each_text" | "jsonb_each_text" => {
            let as_text = name.ends_with("_text");
            let arg = json_argument(binder, name, args, &json_type)?;
            let keys = Kernel::strict(
                format!("{name} keys"),
                text_list(),
                |a, o| {
                    o.value(&Value::Array(json::entries(a.text(0)?).into_iter().map(|(k, _)| Value::Text(k)).collect()))
                },
                vec![arg.expr.clone()],
            );
            let values = Kernel::strict(
                format!("{name} values"),
                text_list(),
                move |a, o| {
                    let shown = |v: String| match as_text {
                        true => json::as_text(&v).map_or(Value::Null, Value::Text),
                        false => Value::Text(v),
                    };
                    o.value(&Value::Array(json::entries(a.text(0)?).into_iter().map(|(_, v)| shown(v)).collect()))
                },
                vec![arg.expr],
            );
            let element = if as_text { Type::Text } else { json_type };
            let column = |name: &str, element: Type, expr: Expr| SetColumn {
                name: name.to_owned(),
                array: Bound::new(expr, Type::Array(Box::new(element.clone()))),
                element,
                follows_alias: false,
            };
            Ok(vec![column("key", Type::Text, keys), column("value", element, values)])
        }
        _ => {
            // SELECT * FROM now(): one row.
            let bound = coerce::free(binder.decided(binder.function(name, args)?)?);
            let element = bound.r#type.clone();
            let data = types::list_of(bound.data.clone());
            let expr = Kernel::lenient(
                format!("one {}", crate::catalog::types::internal_name(&element)),
                data.clone(),
                |a, o| o.value(&Value::Array(vec![a.value(0)?])),
                vec![bound.expr],
            );
            let array = Bound::with_data(expr, Type::Array(Box::new(element.clone())), data);
            Ok(vec![SetColumn { name: name.to_owned(), element, array, follows_alias: true }])
        }
    }
}

/// A set without rows.
fn empty(
    binder: &Binder<'_>,
    name: &str,
    args: Vec<Bound>,
    takes: Type,
    columns: &[(&str, Type)],
) -> Result<Vec<SetColumn>> {
    let [arg] = <[Bound; 1]>::try_from(args).map_err(|args| missing_function(name, &args))?;
    let arg = match takes {
        Type::Regclass if arg.is_open() => {
            names::found(&binder.implicit(arg, &Type::Text)?, Names::Relation, binder.input())?
        }
        Type::Regclass => binder.implicit(arg, &Type::Oid)?,
        takes => binder.implicit(arg, &takes)?,
    };
    let column = |(column, element): &(&str, Type)| {
        let data = types::list_of(types::data_type(element));
        let nothing = |_: &Args<'_>, out: &mut types::Builder| out.value(&Value::Array(Vec::new()));
        let expr = Kernel::strict(format!("{name} {column}"), data.clone(), nothing, vec![arg.expr.clone()]);
        let array = Bound::with_data(expr, Type::Array(Box::new(element.clone())), data);
        SetColumn { name: (*column).to_owned(), element: element.clone(), array, follows_alias: columns.len() == 1 }
    };
    Ok(columns.iter().map(column).collect())
}

fn json_argument(binder: &Binder<'_>, name: &str, args: Vec<Bound>, json_type: &Type) -> Result<Bound> {
    let [arg] = <[Bound; 1]>::try_from(args).map_err(|args| missing_function(name, &args))?;
    if arg.is_open() || arg.r#type == *json_type {
        return binder.implicit(arg, json_type);
    }
    Err(missing_function(name, &[arg]))
}

fn unnested(binder: &Binder<'_>, args: Vec<Bound>) -> Result<Vec<SetColumn>> {
    let mut columns = Vec::with_capacity(args.len());
    for arg in args {
        let Type::Array(element) = arg.r#type.clone() else {
            if arg.is_open() {
                return Err(Error::new(Condition::AmbiguousFunction, "function unnest(unknown) is not unique")
                    .hint("Could not choose a best candidate function. You might need to add explicit type casts."));
            }
            return Err(missing_function("unnest", &[arg]));
        };
        let _ = binder;
        columns.push(SetColumn { name: "unnest".to_owned(), element: *element, array: arg, follows_alias: true });
    }
    if columns.is_empty() {
        return Err(missing_function("unnest", &[]));
    }
    Ok(columns)
}

/// Numbers 1, 2, … as many as the longest of some arrays has elements.
pub fn ordinals(arrays: Vec<Expr>) -> Expr {
    Kernel::lenient(
        "ordinals",
        types::list_of(DataType::Int64),
        |a, o| {
            let mut longest = 0;
            for k in 0..a.len() {
                longest = longest.max(a.list(k)?.len());
            }
            let n = i64::try_from(longest).unwrap_or(i64::MAX);
            o.value(&Value::Array((1..=n).map(Value::Int8).collect()))
        },
        arrays,
    )
}

fn too_many() -> Error {
    Error::new(Condition::ProgramLimitExceeded, format!("a set has more than {MOST_ELEMENTS} elements"))
}

fn zero_step() -> Error {
    Error::new(Condition::InvalidParameterValue, "step size cannot equal zero")
}

fn series(binder: &Binder<'_>, args: Vec<Bound>) -> Result<(Type, Expr)> {
    if !(2..=3).contains(&args.len()) {
        return Err(missing_function("generate_series", &args));
    }
    let dated = |t: &Type| matches!(t, Type::Date | Type::Timestamp | Type::TimestampTz);
    let has_dates = args.iter().any(|b| dated(&b.r#type));
    if has_dates {
        return moments(binder, args);
    }
    let known: Vec<Type> = args.iter().map(coerce::open_type).collect();
    let rank = |t: &Type| match t {
        Type::Unknown | Type::Int2 | Type::Int4 => Some(0),
        Type::Int8 => Some(1),
        Type::Numeric(_) => Some(2),
        _ => None,
    };
    let ranks: Option<Vec<i32>> = known.iter().map(rank).collect();
    let element = match ranks.and_then(|r| r.into_iter().max()) {
        Some(0) => Type::Int4,
        Some(1) => Type::Int8,
        Some(_) => Type::Numeric(None),
        None => return Err(missing_function("generate_series", &args)),
    };
    let args = args
        .into_iter()
        .map(|a| binder.implicit(a, &element).map(coerce::free).map(|b| b.expr))
        .collect::<Result<Vec<_>>>()?;
    let stepped = args.len() == 3;
    let data = types::list_of(types::element_type(&element));
    let name = format!("generate_series {}", crate::catalog::types::internal_name(&element));
    let expr = match element {
        Type::Numeric(_) => Kernel::strict(
            name,
            data,
            move |a, o| {
                let (mut at, to) = (a.numeric(0)?, a.numeric(1)?);
                let step = if stepped { a.numeric(2)? } else { Decimal::from(1) };
                if step.mantissa() == 0 {
                    return Err(zero_step());
                }
                let mut values = Vec::new();
                while if step.mantissa() > 0 { at <= to } else { at >= to } {
                    if values.len() >= MOST_ELEMENTS {
                        return Err(too_many());
                    }
                    values.push(Value::Numeric(at));
                    at = numeric::add(at, step).ok_or_else(types::numeric_overflow)?;
                }
                o.value(&Value::Array(values))
            },
            args,
        ),
        _ => {
            let narrow = element == Type::Int4;
            Kernel::strict(
                name,
                data,
                move |a, o| {
                    let (from, to) = (a.int(0)?, a.int(1)?);
                    let step = if stepped { a.int(2)? } else { 1 };
                    if step == 0 {
                        return Err(zero_step());
                    }
                    if (i128::from(to) - i128::from(from)) / i128::from(step) >= MOST_ELEMENTS as i128 {
                        return Err(too_many());
                    }
                    let mut values = Vec::new();
                    let mut at = from;
                    while if step > 0 { at <= to } else { at >= to } {
                        values.push(if narrow { Value::Int4(at as i32) } else { Value::Int8(at) });
                        match at.checked_add(step) {
                            Some(next) => at = next,
                            None => break,
                        }
                    }
                    o.value(&Value::Array(values))
                },
                args,
            )
        }
    };
    Ok((element, expr))
}

fn moments(binder: &Binder<'_>, args: Vec<Bound>) -> Result<(Type, Expr)> {
    let plain = args.iter().take(2).all(|b| b.is_open() || b.r#type == Type::Timestamp);
    let element = if plain { Type::Timestamp } else { Type::TimestampTz };
    let [from, to, step] = <[Bound; 3]>::try_from(args).map_err(|args| missing_function("generate_series", &args))?;
    let args = vec![
        binder.implicit(from, &element)?.expr,
        binder.implicit(to, &element)?.expr,
        binder.implicit(step, &Type::Interval)?.expr,
    ];
    let zone = zone_of(binder.zone())?;
    let zoned = element == Type::TimestampTz;
    let expr = Kernel::strict(
        format!("generate_series of moments {zoned} at {}", binder.zone()),
        types::list_of(types::data_type(&element)),
        move |a, o| {
            let (mut at, to, step) = (a.int(0)?, a.int(1)?, a.interval(2)?);
            let sign = step.total_micros().signum();
            if sign == 0 {
                return Err(zero_step());
            }
            let mut values = Vec::new();
            while if sign > 0 { at <= to } else { at >= to } {
                if values.len() >= MOST_ELEMENTS {
                    return Err(too_many());
                }
                values.push(if zoned { Value::TimestampTz(at) } else { Value::Timestamp(at) });
                at = later(at, step, zoned.then_some(&zone))?;
            }
            o.value(&Value::Array(values))
        },
        args,
    );
    Ok((element, expr))
}

fn later(at: i64, step: Interval, zone: Option<&polity_base::text::Zone>) -> Result<i64> {
    match zone {
        Some(zone) => shifted_in(at, step, zone),
        None => shifted(at, step),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_sorted_so_that_they_are_found() {
        assert!(super::SETS.is_sorted());
    }
}
