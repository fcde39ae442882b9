//! Aggregates and window functions.
//!
//! An aggregate call leaves a column behind where it stood, and itself in the
//! level's list; the node that computes it is made by [`super::group`].

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::functions_aggregate::{bit_and_or_xor, bool_and_or, correlation, count, covariance, min_max, regr};
use datafusion::functions_aggregate::{stddev, sum, variance};
use datafusion::functions_window::{cume_dist, lead_lag, nth_value, ntile, rank, row_number};
use datafusion::logical_expr::expr::{
    AggregateFunction, AggregateFunctionParams, Cast, NullTreatment, Sort, WindowFunction, WindowFunctionParams,
};
use datafusion::logical_expr::{
    AggregateUDF, Expr, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, WindowUDF,
};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments};
use polity_base::{Type, Value};
use std::sync::Arc;

use super::Binder;
use super::bound::{Bound, Form};
use super::call::missing_function;
use super::coerce::{self, shown};
use super::scope::{Allowed, Level};
use crate::catalog::name::fold;
use crate::error::{Condition, Error, Result};
use crate::query::function::fold::{Fold, Kind};
use crate::query::function::{arithmetic, kernel::Kernel};
use crate::query::types;

const AGGREGATES: &[&str] = &[
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "every",
    "json_agg",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_object_agg",
    "max",
    "min",
    "mode",
    "percentile_cont",
    "percentile_disc",
    "polity_first",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "var_pop",
    "var_samp",
    "variance",
];

const WINDOWS: &[&str] = &[
    "cume_dist",
    "dense_rank",
    "first_value",
    "lag",
    "last_value",
    "lead",
    "nth_value",
    "ntile",
    "percent_rank",
    "rank",
    "row_number",
];

/// Whether `name` is an aggregate.
pub fn is_aggregate(name: &str) -> bool {
    AGGREGATES.binary_search(&name).is_ok()
}

/// Whether `name` is a window function that is no aggregate.
pub fn is_window(name: &str) -> bool {
    WINDOWS.binary_search(&name).is_ok()
}

/// An aggregate call with everything that hangs on it.
struct Parts {
    args: Vec<Bound>,
    star: bool,
    distinct: bool,
    filter: Option<Box<Expr>>,
    order_by: Vec<Sort>,
    window: Option<Window>,
}

#[derive(Clone)]
struct Window {
    partition_by: Vec<Expr>,
    order_by: Vec<Sort>,
    frame: WindowFrame,
}

impl Binder<'_> {
    /// A call of an aggregate or window function.
    pub fn aggregate_call(&self, level: &Level<'_>, name: &str, call: &ast::Function) -> Result<Bound> {
        let over = call.over.as_ref();
        if over.is_none() && !level.allowed.aggregates {
            return Err(Error::new(
                Condition::GroupingError,
                match level.allowed.clause {
                    "an aggregate" => "aggregate function calls cannot be nested".to_owned(),
                    clause => format!("aggregate functions are not allowed in {clause}"),
                },
            ));
        }
        if over.is_some() && !level.allowed.windows {
            return Err(Error::new(
                Condition::WindowingError,
                match level.allowed.clause {
                    "an aggregate" => "aggregate function calls cannot contain window function calls".to_owned(),
                    "a window" => "window function calls cannot be nested".to_owned(),
                    clause => format!("window functions are not allowed in {clause}"),
                },
            ));
        }
        let mut parts = self.parts(level, call)?;
        if parts.star && name != "count" {
            return Err(Error::new(
                Condition::WrongObjectType,
                format!("{name}(*) specified, but {name} is not a parameterless aggregate"),
            ));
        }
        if parts.args.is_empty() && !parts.star && name == "count" {
            return Err(Error::new(
                Condition::WrongObjectType,
                "count(*) must be used to call a parameterless aggregate function",
            ));
        }
        if let (Some(spec), _) = (over, ()) {
            if parts.distinct {
                return Err(Error::unsupported("DISTINCT for window functions"));
            }
            if !parts.order_by.is_empty() {
                return Err(Error::unsupported("ORDER BY within the arguments of a window function"));
            }
            parts.window = Some(self.window(level, spec)?);
        }
        if is_window(name) {
            return self.window_function(level, name, parts);
        }
        self.aggregate(level, name, parts)
    }

    fn parts(&self, level: &Level<'_>, call: &ast::Function) -> Result<Parts> {
        let windowed = call.over.is_some();
        // The arguments of a window function may hold aggregates, those of an
        // aggregate may not.
        let inner = if windowed {
            Allowed { clause: "a window", windows: false, sets: false, ..level.allowed }
        } else {
            Allowed::plain("an aggregate")
        };
        let inner = level.with(inner);
        let mut parts =
            Parts { args: Vec::new(), star: false, distinct: false, filter: None, order_by: Vec::new(), window: None };
        let FunctionArguments::List(list) = &call.args else {
            return Err(Error::new(Condition::SyntaxError, format!("syntax error in the call of {}", call.name)));
        };
        for arg in &list.args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => parts.star = true,
                other => parts.args.push(self.argument(&inner, other)?),
            }
        }
        parts.distinct = list.duplicate_treatment == Some(ast::DuplicateTreatment::Distinct);
        for clause in &list.clauses {
            match clause {
                ast::FunctionArgumentClause::OrderBy(items) => {
                    for item in items {
                        parts.order_by.push(self.sort_item(&inner, item)?);
                    }
                }
                other => return Err(Error::unsupported(format!("the clause {other} in a call of {}", call.name))),
            }
        }
        for item in &call.within_group {
            let value = self.expr(&inner, &item.expr)?;
            let value = self.decided(value)?;
            parts.order_by.push(sort(coerce::key(&value), &item.options));
            parts.args.push(value);
        }
        // What does not depend on the order may have one; the others' order is not kept yet, and a wrong answer is
        // worse than none.
        let ordered =
            ["string_agg", "array_agg", "json_agg", "jsonb_agg", "mode", "percentile_cont", "percentile_disc"];
        let name = call.name.to_string().to_ascii_lowercase();
        if !parts.order_by.is_empty() && ordered.iter().any(|o| name.ends_with(o)) {
            return Err(Error::unsupported(format!("ORDER BY within {name}"))
                .hint("Order the rows in a subquery and gather them in the client."));
        }
        if let Some(filter) = &call.filter {
            let filter = super::condition(self, self.expr(&inner, filter)?, "FILTER")?;
            parts.filter = Some(Box::new(filter.expr));
        }
        if call.null_treatment == Some(ast::NullTreatment::IgnoreNulls) {
            return Err(Error::unsupported("IGNORE NULLS"));
        }
        Ok(parts)
    }

    /// An item of ORDER BY within a call or a window.
    fn sort_item(&self, level: &Level<'_>, item: &ast::OrderByExpr) -> Result<Sort> {
        let bound = self.decided(self.expr(level, &item.expr)?)?;
        Ok(sort(coerce::key(&bound), &item.options))
    }

    fn window(&self, level: &Level<'_>, over: &ast::WindowType) -> Result<Window> {
        match over {
            ast::WindowType::NamedWindow(name) => {
                let spec = self.named_window(level, &fold(name))?;
                self.window_spec(level, &spec)
            }
            ast::WindowType::WindowSpec(spec) => {
                let Some(base) = &spec.window_name else { return self.window_spec(level, spec) };
                let mut merged = self.named_window(level, &fold(base))?;
                if !spec.partition_by.is_empty() {
                    return Err(Error::new(
                        Condition::WindowingError,
                        format!("cannot override PARTITION BY clause of window \"{}\"", fold(base)),
                    ));
                }
                if !spec.order_by.is_empty() {
                    if !merged.order_by.is_empty() {
                        return Err(Error::new(
                            Condition::WindowingError,
                            format!("cannot override ORDER BY clause of window \"{}\"", fold(base)),
                        ));
                    }
                    merged.order_by = spec.order_by.clone();
                }
                if merged.window_frame.is_some() {
                    return Err(Error::new(
                        Condition::WindowingError,
                        format!("cannot copy window \"{}\" because it has a frame clause", fold(base)),
                    ));
                }
                merged.window_frame = spec.window_frame.clone();
                self.window_spec(level, &merged)
            }
        }
    }

    fn named_window(&self, level: &Level<'_>, name: &str) -> Result<ast::WindowSpec> {
        let found = level.windows.iter().find(|w| fold(&w.0) == name);
        match found.map(|w| &w.1) {
            Some(ast::NamedWindowExpr::WindowSpec(spec)) => match &spec.window_name {
                None => Ok(spec.clone()),
                Some(base) => {
                    let mut merged = self.named_window(level, &fold(base))?;
                    if !spec.order_by.is_empty() {
                        merged.order_by = spec.order_by.clone();
                    }
                    merged.window_frame = spec.window_frame.clone();
                    Ok(merged)
                }
            },
            Some(ast::NamedWindowExpr::NamedWindow(other)) => self.named_window(level, &fold(other)),
            None => Err(Error::new(Condition::UndefinedObject, format!("window \"{name}\" does not exist"))),
        }
    }

    fn window_spec(&self, level: &Level<'_>, spec: &ast::WindowSpec) -> Result<Window> {
        let inner = level.with(Allowed { clause: "a window", windows: false, sets: false, ..level.allowed });
        let mut partition_by = Vec::with_capacity(spec.partition_by.len());
        for e in &spec.partition_by {
            let bound = self.decided(self.expr(&inner, e)?)?;
            partition_by.push(coerce::key(&bound));
        }
        let mut order_by = Vec::with_capacity(spec.order_by.len());
        let mut order_type = None;
        for item in &spec.order_by {
            let bound = self.decided(self.expr(&inner, &item.expr)?)?;
            order_type = Some(bound.r#type.clone());
            order_by.push(sort(coerce::key(&bound), &item.options));
        }
        let frame = match &spec.window_frame {
            None if order_by.is_empty() => WindowFrame::new(None),
            None => WindowFrame::new(Some(false)),
            Some(frame) => self.frame(&inner, frame, order_type.as_ref())?,
        };
        frame.regularize_order_bys(&mut order_by).map_err(|_| {
            Error::new(
                Condition::WindowingError,
                match frame.units {
                    WindowFrameUnits::Groups => "GROUPS mode requires an ORDER BY clause",
                    _ => "RANGE with offset PRECEDING/FOLLOWING requires exactly one ORDER BY column",
                },
            )
        })?;
        Ok(Window { partition_by, order_by, frame })
    }

    fn frame(&self, level: &Level<'_>, frame: &ast::WindowFrame, order: Option<&Type>) -> Result<WindowFrame> {
        let units = match frame.units {
            ast::WindowFrameUnits::Rows => WindowFrameUnits::Rows,
            ast::WindowFrameUnits::Range => WindowFrameUnits::Range,
            ast::WindowFrameUnits::Groups => WindowFrameUnits::Groups,
        };
        let offset = |e: &ast::Expr| -> Result<ScalarValue> {
            let bound = self.expr(level, e)?;
            let range = units == WindowFrameUnits::Range;
            let to = match (range, order) {
                (true, Some(Type::Date | Type::Timestamp | Type::TimestampTz | Type::Time | Type::Interval)) => {
                    Type::Interval
                }
                (true, Some(t)) => crate::expr::cast::without_modifier(t),
                _ => Type::Int8,
            };
            let bound = self.explicit(bound, &to)?;
            match bound.constant() {
                Some(Value::Int8(v)) if !range => {
                    u64::try_from(*v).map(|v| ScalarValue::UInt64(Some(v))).map_err(|_| {
                        Error::new(Condition::InvalidParameterValue, "frame starting offset must not be negative")
                    })
                }
                Some(value) => types::scalar(value, &bound.data),
                None => Err(Error::unsupported("a frame offset that is not a constant")),
            }
        };
        let bound = |b: &ast::WindowFrameBound| -> Result<WindowFrameBound> {
            Ok(match b {
                ast::WindowFrameBound::CurrentRow => WindowFrameBound::CurrentRow,
                ast::WindowFrameBound::Preceding(None) => WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
                ast::WindowFrameBound::Following(None) => WindowFrameBound::Following(ScalarValue::UInt64(None)),
                ast::WindowFrameBound::Preceding(Some(e)) => WindowFrameBound::Preceding(offset(e)?),
                ast::WindowFrameBound::Following(Some(e)) => WindowFrameBound::Following(offset(e)?),
            })
        };
        let start = bound(&frame.start_bound)?;
        let end = frame.end_bound.as_ref().map_or(Ok(WindowFrameBound::CurrentRow), bound)?;
        Ok(WindowFrame::new_bounds(units, start, end))
    }

    /// An aggregate, as a column of the node that computes it.
    fn aggregate(&self, level: &Level<'_>, name: &str, mut parts: Parts) -> Result<Bound> {
        let missing = |parts: &Parts| missing_function(name, &parts.args);
        if name == "count" && parts.star {
            let one = Expr::Literal(ScalarValue::Int64(Some(1)), None);
            return Ok(self.ask(level, count::count_udaf(), vec![one], &parts, Type::Int8, DataType::Int64));
        }
        let wanted = match name {
            "string_agg" | "corr" | "covar_pop" | "covar_samp" | "json_object_agg" | "jsonb_object_agg" => 2,
            "percentile_cont" | "percentile_disc" => 2,
            n if n.starts_with("regr_") => 2,
            _ => 1,
        };
        if parts.args.len() != wanted {
            return Err(missing(&parts));
        }
        let args = std::mem::take(&mut parts.args);
        let [first, rest @ ..] = args.as_slice() else { return Err(missing(&parts)) };
        let first = first.clone();
        match name {
            "count" => {
                let first = self.decided(first)?;
                let arg = if parts.distinct { coerce::key(&first) } else { first.expr };
                Ok(self.ask(level, count::count_udaf(), vec![arg], &parts, Type::Int8, DataType::Int64))
            }
            "sum" => self.sum(level, first, &parts),
            "avg" => self.average(level, first, &parts),
            "min" | "max" => self.min_max(level, name, first, &parts),
            "bool_and" | "every" | "bool_or" => {
                let arg = self.implicit(first.clone(), &Type::Bool).map_err(|_| missing_function(name, &[first]))?;
                let udaf = if name == "bool_or" { bool_and_or::bool_or_udaf() } else { bool_and_or::bool_and_udaf() };
                Ok(self.ask(level, udaf, vec![arg.expr], &parts, Type::Bool, DataType::Boolean))
            }
            "bit_and" | "bit_or" => {
                if !matches!(first.r#type, Type::Int2 | Type::Int4 | Type::Int8) {
                    return Err(missing_function(name, &args));
                }
                let udaf =
                    if name == "bit_or" { bit_and_or_xor::bit_or_udaf() } else { bit_and_or_xor::bit_and_udaf() };
                Ok(self.ask(level, udaf, vec![first.expr], &parts, first.r#type, first.data))
            }
            "string_agg" => {
                let is_bytes = first.r#type == Type::Bytea;
                let t = if is_bytes { Type::Bytea } else { Type::Text };
                let second = rest.first().cloned().unwrap_or_else(super::literal::open_null);
                let checked = |b: Bound| self.implicit(b, &t).map_err(|_| missing_function(name, &args));
                let (a, b) = (checked(first.clone())?, checked(second)?);
                self.fold(level, name, Kind::Join, vec![a, b], t, &parts)
            }
            "array_agg" => {
                let first = coerce::free(self.decided(first)?);
                let returns = match &first.r#type {
                    Type::Array(_) => return Err(Error::unsupported("an array of arrays")),
                    t => Type::Array(Box::new(crate::expr::cast::without_modifier(t))),
                };
                self.fold(level, name, Kind::List, vec![first], returns, &parts)
            }
            "json_agg" | "jsonb_agg" => {
                let first = coerce::free(self.decided(first)?);
                let returns = if name == "json_agg" { Type::Json } else { Type::Jsonb };
                self.fold(level, name, Kind::Json, vec![first], returns, &parts)
            }
            "json_object_agg" | "jsonb_object_agg" => {
                let mut both = Vec::with_capacity(2);
                for arg in args {
                    both.push(coerce::free(self.decided(arg)?));
                }
                let returns = if name == "json_object_agg" { Type::Json } else { Type::Jsonb };
                self.fold(level, name, Kind::JsonObject, both, returns, &parts)
            }
            "polity_first" => {
                let (returns, data) = (first.r#type.clone(), first.data.clone());
                let udaf =
                    Fold::udaf(name, Kind::First, vec![returns.clone()], returns.clone(), data.clone(), self.zone());
                Ok(self.ask(level, udaf, vec![first.expr], &parts, returns, data))
            }
            "stddev" | "stddev_samp" | "stddev_pop" | "variance" | "var_samp" | "var_pop" => {
                self.spread(level, name, first, &parts)
            }
            "mode" => {
                let returns = first.r#type.clone();
                self.fold(level, name, Kind::Mode, vec![first], returns, &parts)
            }
            "percentile_cont" | "percentile_disc" => {
                if parts.order_by.is_empty() {
                    return Err(Error::new(
                        Condition::WrongObjectType,
                        format!("WITHIN GROUP is required for ordered-set aggregate {name}"),
                    ));
                }
                let fraction = self.implicit(first, &Type::Float8)?;
                let value = rest.first().cloned().unwrap_or_else(super::literal::open_null);
                let (kind, value) = match name {
                    "percentile_cont" => (Kind::Continuous, self.implicit(value, &Type::Float8)?),
                    _ => (Kind::Discrete, value),
                };
                let returns = value.r#type.clone();
                self.fold(level, name, kind, vec![value, fraction], returns, &parts)
            }
            _ => self.statistics(level, name, args.clone(), &parts),
        }
    }

    fn sum(&self, level: &Level<'_>, first: Bound, parts: &Parts) -> Result<Bound> {
        let first = if first.is_open() {
            return Err(Error::new(Condition::AmbiguousFunction, "function sum(unknown) is not unique")
                .hint("Could not choose a best candidate function. You might need to add explicit type casts."));
        } else {
            first
        };
        match first.r#type {
            Type::Int2 | Type::Int4 => {
                let arg = self.implicit(first, &Type::Int8)?;
                Ok(self.ask(level, sum::sum_udaf(), vec![arg.expr], parts, Type::Int8, DataType::Int64))
            }
            Type::Int8 => {
                let arg = self.implicit(first, &Type::Numeric(None))?;
                let data = arg.data.clone();
                Ok(self.ask(level, sum::sum_udaf(), vec![arg.expr], parts, Type::Numeric(None), data))
            }
            Type::Numeric(_) if first.fixed_scale().is_some() => {
                let data = first.data.clone();
                Ok(self.ask(level, sum::sum_udaf(), vec![first.expr], parts, Type::Numeric(None), data))
            }
            Type::Float4 | Type::Float8 | Type::Interval => {
                let t = first.r#type.clone();
                self.fold(level, "sum", Kind::Sum, vec![first], t, parts)
            }
            Type::Numeric(_) => self.fold(level, "sum", Kind::Sum, vec![first], Type::Numeric(None), parts),
            _ => Err(missing_function("sum", &[first])),
        }
    }

    /// The average is a sum and a count, divided as PostgreSQL divides.
    fn average(&self, level: &Level<'_>, first: Bound, parts: &Parts) -> Result<Bound> {
        let first = match first.r#type {
            Type::Int2 | Type::Int4 | Type::Int8 | Type::Numeric(_) | Type::Float8 | Type::Interval => first,
            Type::Float4 => self.implicit(first, &Type::Float8)?,
            _ => return Err(missing_function("avg", &[first])),
        };
        let counted = vec![if parts.distinct { coerce::key(&first) } else { first.expr.clone() }];
        let count = self.ask(level, count::count_udaf(), counted, parts, Type::Int8, DataType::Int64);
        let sum = self.sum(level, first, parts)?;
        match sum.r#type {
            Type::Float8 => {
                let count = self.implicit(count, &Type::Float8)?;
                Ok(Bound::new(
                    Kernel::strict(
                        "average",
                        DataType::Float64,
                        |a, out| out.value(&Value::Float8(a.float(0)? / a.float(1)?)),
                        vec![sum.expr, count.expr],
                    ),
                    Type::Float8,
                ))
            }
            Type::Interval => {
                crate::query::function::datetime::divide_interval(sum, self.implicit(count, &Type::Float8)?)
            }
            _ => {
                let sum = self.implicit(sum, &Type::Numeric(None))?;
                let count = self.implicit(count, &Type::Numeric(None))?;
                arithmetic::average(sum, count)
            }
        }
    }

    fn min_max(&self, level: &Level<'_>, name: &str, first: Bound, parts: &Parts) -> Result<Bound> {
        let first = self.decided(first)?;
        let greatest = name == "max";
        let (r#type, data) = (first.r#type.clone(), first.data.clone());
        match &r#type {
            Type::Bool | Type::Uuid | Type::Json | Type::Jsonb | Type::Bytea | Type::Void => {
                Err(missing_function(name, &[first]))
            }
            Type::Interval | Type::Array(_) => {
                self.fold(level, name, Kind::Extreme(greatest), vec![first], r#type, parts)
            }
            Type::Numeric(_) if first.fixed_scale().is_none() => {
                self.fold(level, name, Kind::Extreme(greatest), vec![first], Type::Numeric(None), parts)
            }
            _ => {
                let udaf = if greatest { min_max::max_udaf() } else { min_max::min_udaf() };
                let returns = match r#type {
                    Type::Varchar(_) | Type::Name => Type::Text,
                    Type::Numeric(_) => Type::Numeric(None),
                    other => other,
                };
                Ok(self.ask(level, udaf, vec![first.expr], parts, returns, data))
            }
        }
    }

    fn spread(&self, level: &Level<'_>, name: &str, first: Bound, parts: &Parts) -> Result<Bound> {
        let deviation = name.starts_with("stddev");
        let population = name.ends_with("_pop");
        match first.r#type {
            Type::Float4 | Type::Float8 => {
                let arg = self.implicit(first, &Type::Float8)?;
                let udaf = match (deviation, population) {
                    (true, true) => stddev::stddev_pop_udaf(),
                    (true, false) => stddev::stddev_udaf(),
                    (false, true) => variance::var_pop_udaf(),
                    (false, false) => variance::var_samp_udaf(),
                };
                Ok(self.ask(level, udaf, vec![arg.expr], parts, Type::Float8, DataType::Float64))
            }
            Type::Int2 | Type::Int4 | Type::Int8 | Type::Numeric(_) => {
                let arg = coerce::free(self.implicit(first, &Type::Numeric(None))?);
                let kind = Kind::Variance { deviation, population };
                self.fold(level, name, kind, vec![arg], Type::Numeric(None), parts)
            }
            _ => Err(missing_function(name, &[first])),
        }
    }

    fn statistics(&self, level: &Level<'_>, name: &str, args: Vec<Bound>, parts: &Parts) -> Result<Bound> {
        let udaf = match name {
            "corr" => correlation::corr_udaf(),
            "covar_pop" => covariance::covar_pop_udaf(),
            "covar_samp" => covariance::covar_samp_udaf(),
            "regr_avgx" => regr::regr_avgx_udaf(),
            "regr_avgy" => regr::regr_avgy_udaf(),
            "regr_count" => regr::regr_count_udaf(),
            "regr_intercept" => regr::regr_intercept_udaf(),
            "regr_r2" => regr::regr_r2_udaf(),
            "regr_slope" => regr::regr_slope_udaf(),
            "regr_sxx" => regr::regr_sxx_udaf(),
            "regr_sxy" => regr::regr_sxy_udaf(),
            "regr_syy" => regr::regr_syy_udaf(),
            _ => return Err(missing_function(name, &args)),
        };
        let mut exprs = Vec::with_capacity(args.len());
        for arg in &args {
            let arg = self.implicit(arg.clone(), &Type::Float8).map_err(|_| missing_function(name, &args))?;
            exprs.push(arg.expr);
        }
        if name == "regr_count" {
            let counted = self.ask(level, udaf, exprs, parts, Type::Int8, DataType::UInt64);
            let expr = Expr::Cast(Cast::new(Box::new(counted.expr), DataType::Int64));
            return Ok(Bound::new(expr, Type::Int8));
        }
        Ok(self.ask(level, udaf, exprs, parts, Type::Float8, DataType::Float64))
    }

    fn fold(
        &self,
        level: &Level<'_>,
        name: &str,
        kind: Kind,
        args: Vec<Bound>,
        returns: Type,
        parts: &Parts,
    ) -> Result<Bound> {
        let data = match returns {
            Type::Numeric(_) => args.first().map_or_else(types::free, |a| a.data.clone()),
            _ => types::data_type(&returns),
        };
        if !matches!(kind, Kind::Sum | Kind::Extreme(_) | Kind::Variance { .. }) {
            self.sequential.set(true);
        }
        let of = args.iter().map(|a| a.r#type.clone()).collect();
        let udaf = Fold::udaf(name, kind, of, returns.clone(), data.clone(), self.zone());
        let exprs = args.into_iter().map(|a| a.expr).collect();
        Ok(self.ask(level, udaf, exprs, parts, returns, data))
    }

    /// Notes the aggregate in its level and gives the column it will be.
    fn ask(
        &self,
        level: &Level<'_>,
        udaf: Arc<AggregateUDF>,
        args: Vec<Expr>,
        parts: &Parts,
        returns: Type,
        data: DataType,
    ) -> Bound {
        if let Some(window) = &parts.window {
            let fun = WindowFunctionDefinition::AggregateUDF(udaf);
            return self.ask_window(level, fun, args, window.clone(), parts.filter.clone(), returns, data);
        }
        let params = AggregateFunctionParams {
            args,
            distinct: parts.distinct,
            filter: parts.filter.clone(),
            order_by: parts.order_by.clone(),
            null_treatment: None,
        };
        let expr = Expr::AggregateFunction(AggregateFunction { func: udaf, params });
        let mut asked = level.asked.aggregates.borrow_mut();
        let name = match asked.iter().find(|(e, _)| *e == expr) {
            Some((_, name)) => name.clone(),
            None => {
                let name = format!("agg#{}", self.number());
                asked.push((expr, name.clone()));
                name
            }
        };
        Bound::with_data(Expr::Column(Column::new_unqualified(name)), returns, data)
    }

    #[allow(clippy::too_many_arguments)] // the parts of a window function are many
    fn ask_window(
        &self,
        level: &Level<'_>,
        fun: WindowFunctionDefinition,
        args: Vec<Expr>,
        window: Window,
        filter: Option<Box<Expr>>,
        returns: Type,
        data: DataType,
    ) -> Bound {
        let params = WindowFunctionParams {
            args,
            partition_by: window.partition_by,
            order_by: window.order_by,
            window_frame: window.frame,
            filter,
            null_treatment: Some(NullTreatment::RespectNulls),
            distinct: false,
        };
        let expr = Expr::WindowFunction(Box::new(WindowFunction { fun, params }));
        let mut asked = level.asked.windows.borrow_mut();
        let name = match asked.iter().find(|(e, _)| *e == expr) {
            Some((_, name)) => name.clone(),
            None => {
                let name = format!("win#{}", self.number());
                asked.push((expr, name.clone()));
                name
            }
        };
        Bound::with_data(Expr::Column(Column::new_unqualified(name)), returns, data)
    }

    fn window_function(&self, level: &Level<'_>, name: &str, parts: Parts) -> Result<Bound> {
        let Some(window) = parts.window.clone() else { return Err(missing_function(name, &parts.args)) };
        let arity = parts.args.len();
        let fits = match name {
            "ntile" | "first_value" | "last_value" => arity == 1,
            "nth_value" => arity == 2,
            "lag" | "lead" => (1..=3).contains(&arity),
            _ => arity == 0,
        };
        if !fits {
            return Err(missing_function(name, &parts.args));
        }
        let ask = |udwf: Arc<WindowUDF>, args: Vec<Expr>, returns: Type, data: DataType| {
            let fun = WindowFunctionDefinition::WindowUDF(udwf);
            self.ask_window(level, fun, args, window.clone(), None, returns, data)
        };
        let counted = |udwf: Arc<WindowUDF>, args: Vec<Expr>, returns: Type| {
            let bound = ask(udwf, args, returns.clone(), DataType::UInt64);
            let expr = Expr::Cast(Cast::new(Box::new(bound.expr), types::data_type(&returns)));
            Ok(Bound::new(expr, returns))
        };
        let mut args = parts.args.into_iter();
        match name {
            "row_number" => counted(row_number::row_number_udwf(), Vec::new(), Type::Int8),
            "rank" => counted(rank::rank_udwf(), Vec::new(), Type::Int8),
            "dense_rank" => counted(rank::dense_rank_udwf(), Vec::new(), Type::Int8),
            "percent_rank" => Ok(ask(rank::percent_rank_udwf(), Vec::new(), Type::Float8, DataType::Float64)),
            "cume_dist" => Ok(ask(cume_dist::cume_dist_udwf(), Vec::new(), Type::Float8, DataType::Float64)),
            "ntile" => {
                let n = self.constant_offset(args.next(), "ntile")?;
                if n <= 0 {
                    return Err(Error::new(
                        Condition::InvalidArgumentForNtile,
                        "argument of ntile must be greater than zero",
                    ));
                }
                let n = Expr::Literal(ScalarValue::UInt64(Some(n.unsigned_abs())), None);
                counted(ntile::ntile_udwf(), vec![n], Type::Int4)
            }
            "lag" | "lead" => {
                let value = self.decided(args.next().unwrap_or_else(super::literal::open_null))?;
                let offset = match args.next() {
                    Some(offset) => self.constant_offset(Some(offset), name)?,
                    None => 1,
                };
                let mut exprs = vec![value.expr.clone(), Expr::Literal(ScalarValue::Int64(Some(offset)), None)];
                let mut value = value;
                if let Some(default) = args.next() {
                    let (mut both, common) = self.unify(vec![value, default], name)?;
                    let (default, first) = (both.pop(), both.pop());
                    let (Some(default), Some(first)) = (default, first) else {
                        return Err(Error::internal("two operands became fewer"));
                    };
                    if !matches!(default.expr, Expr::Literal(..)) {
                        return Err(Error::unsupported(format!("a default of {name} that is not a constant")));
                    }
                    if let Some(slot) = exprs.first_mut() {
                        *slot = first.expr.clone();
                    }
                    exprs.push(default.expr);
                    value = Bound { r#type: common, ..first };
                } else {
                    exprs.push(Expr::Literal(ScalarValue::try_from(&value.data).map_err(Error::internal)?, None));
                }
                let udwf = if name == "lag" { lead_lag::lag_udwf() } else { lead_lag::lead_udwf() };
                Ok(ask(udwf, exprs, value.r#type, value.data))
            }
            "first_value" | "last_value" => {
                let value = self.decided(args.next().unwrap_or_else(super::literal::open_null))?;
                let udwf =
                    if name == "first_value" { nth_value::first_value_udwf() } else { nth_value::last_value_udwf() };
                Ok(ask(udwf, vec![value.expr], value.r#type, value.data))
            }
            "nth_value" => {
                let value = self.decided(args.next().unwrap_or_else(super::literal::open_null))?;
                let n = self.constant_offset(args.next(), name)?;
                if n <= 0 {
                    return Err(Error::new(
                        Condition::InvalidParameterValue,
                        "argument of nth_value must be greater than zero",
                    ));
                }
                let n = Expr::Literal(ScalarValue::Int64(Some(n)), None);
                Ok(ask(nth_value::nth_value_udwf(), vec![value.expr, n], value.r#type, value.data))
            }
            _ => Err(missing_function(name, &args.collect::<Vec<_>>())),
        }
    }

    fn constant_offset(&self, bound: Option<Bound>, name: &str) -> Result<i64> {
        let Some(bound) = bound else { return Ok(1) };
        let shown_type = shown(&bound.r#type);
        let bound = self.implicit(bound, &Type::Int4).map_err(|_| {
            Error::new(Condition::UndefinedFunction, format!("function {name}({shown_type}) does not exist"))
        })?;
        match (&bound.form, bound.constant().and_then(Value::as_i64)) {
            (Form::Constant(_), Some(v)) => Ok(v),
            _ => Err(Error::unsupported(format!("an offset of {name} that is not a constant"))),
        }
    }
}

/// A sort by an expression; NULLs are the largest values, unless told otherwise.
pub fn sort(expr: Expr, options: &ast::OrderByOptions) -> Sort {
    let ascending = options.asc.unwrap_or(true);
    Sort::new(expr, ascending, options.nulls_first.unwrap_or(!ascending))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_sorted_so_that_they_are_found() {
        assert!(super::AGGREGATES.is_sorted());
        assert!(super::WINDOWS.is_sorted());
    }
}
