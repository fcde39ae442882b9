//! Calls of aggregates and window functions, and the aggregates there are.
//!
//! An aggregate call leaves a column behind where it stood, and itself in the
//! level's list; the node that computes it is made by [`super::group`].

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::functions_aggregate::{bit_and_or_xor, bool_and_or, correlation, count, covariance, min_max, regr};
use datafusion::functions_aggregate::{stddev, sum, variance};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Cast};
use datafusion::logical_expr::{AggregateUDF, Expr, WindowFunctionDefinition};
use datafusion::sql::sqlparser::ast::{self, FunctionArg, FunctionArgExpr, FunctionArguments};
use polity_base::{Type, Value};
use std::sync::Arc;

use super::Binder;
use super::bound::Bound;
use super::call::missing_function;
use super::coerce;
use super::scope::{Allowed, Level};
use super::window::{Window, is_window};
use crate::error::{Condition, Error, Result};
use crate::query::function::fold::{Fold, Kind};
use crate::query::function::ordered::Order;
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

/// Whether `name` is an aggregate.
pub fn is_aggregate(name: &str) -> bool {
    AGGREGATES.binary_search(&name).is_ok()
}

/// An aggregate call with everything that hangs on it.
#[derive(Default)]
struct Parts {
    args: Vec<Bound>,
    star: bool,
    distinct: bool,
    filter: Option<Box<Expr>>,
    order_by: Vec<SortedBy>,
    within_group: bool,
    window: Option<Window>,
}

/// An item of ORDER BY within a call.
enum SortedBy {
    /// An argument
    Argument(Order),
    /// Something else
    Other(Box<Bound>, Order),
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
        let mut parts = self.parts(level, name, call)?;
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
        if let Some(spec) = over {
            if parts.distinct {
                return Err(Error::unsupported("DISTINCT for window functions"));
            }
            if !parts.order_by.is_empty() {
                return Err(Error::unsupported("ORDER BY within the arguments of a window function")
                    .hint("State the order in the window: OVER (ORDER BY …)."));
            }
            parts.window = Some(self.window(level, spec)?);
        }
        let ordered_set = ["mode", "percentile_cont", "percentile_disc"].contains(&name);
        if ordered_set != parts.within_group {
            return Err(Error::new(
                Condition::WrongObjectType,
                match ordered_set {
                    true => format!("WITHIN GROUP is required for ordered-set aggregate {name}"),
                    false => format!("{name} is not an ordered-set aggregate, so it cannot have WITHIN GROUP"),
                },
            ));
        }
        if is_window(name) {
            let Some(window) = parts.window else { return Err(missing_function(name, &parts.args)) };
            return self.window_function(level, name, parts.args, &window);
        }
        self.aggregate(level, name, parts)
    }

    fn parts(&self, level: &Level<'_>, name: &str, call: &ast::Function) -> Result<Parts> {
        let windowed = call.over.is_some();
        // The arguments of a window function may hold aggregates, those of an
        // aggregate may not.
        let inner = if windowed {
            Allowed { clause: "a window", windows: false, sets: false, ..level.allowed }
        } else {
            Allowed::plain("an aggregate")
        };
        let inner = level.with(inner);
        let mut parts = Parts { within_group: !call.within_group.is_empty(), ..Parts::default() };
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
                        self.sorted_by(&inner, item, &mut parts)?;
                    }
                }
                other => return Err(Error::unsupported(format!("the clause {other} in a call of {}", call.name))),
            }
        }
        if parts.within_group {
            let [item] = call.within_group.as_slice() else { return Err(missing_function(name, &parts.args)) };
            if parts.distinct || !parts.order_by.is_empty() {
                let (what, code) = (if parts.distinct { "DISTINCT" } else { "ORDER BY" }, Condition::SyntaxError);
                return Err(Error::new(code, format!("cannot use {what} with WITHIN GROUP")));
            }
            if parts.args.iter().any(|a| a.expr.any_column_refs()) {
                return Err(Error::unsupported(format!("a direct argument of {name} that is not a constant")));
            }
            // The value comes first: what is aggregated before what is only given.
            parts.args.insert(0, self.decided(self.expr(&inner, &item.expr)?)?);
            parts.order_by.push(SortedBy::Argument(order(0, &item.options)));
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

    /// An item of ORDER BY within a call.
    fn sorted_by(&self, level: &Level<'_>, item: &ast::OrderByExpr, parts: &mut Parts) -> Result<()> {
        let bound = self.decided(self.expr(level, &item.expr)?)?;
        if bound.r#type == Type::Json {
            return Err(Error::new(
                Condition::UndefinedFunction,
                "could not identify an ordering operator for type json",
            )
            .hint("Use an explicit ordering operator or modify the query."));
        }
        parts.order_by.push(match parts.args.iter().position(|a| a.expr == bound.expr) {
            Some(argument) => SortedBy::Argument(order(argument, &item.options)),
            None if parts.distinct => {
                return Err(Error::new(
                    Condition::InvalidColumnReference,
                    "in an aggregate with DISTINCT, ORDER BY expressions must appear in argument list",
                ));
            }
            None => SortedBy::Other(Box::new(coerce::free(bound)), order(0, &item.options)),
        });
        Ok(())
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
            "stddev" | "stddev_samp" | "stddev_pop" | "variance" | "var_samp" | "var_pop" => {
                self.spread(level, name, first, &parts)
            }
            "mode" => {
                let (first, returns) = (first.clone(), first.r#type);
                self.fold(level, name, Kind::Mode, vec![first], returns, &parts)
            }
            "percentile_cont" | "percentile_disc" => self.percentile(level, name, args, &parts),
            _ => self.statistics(level, name, args.clone(), &parts),
        }
    }

    /// A percentile of its first argument, or an array of percentiles if the second
    /// is one of fractions.
    fn percentile(&self, level: &Level<'_>, name: &str, args: Vec<Bound>, parts: &Parts) -> Result<Bound> {
        let missing = || {
            // As it was written: the fraction, then the value.
            let written: Vec<Bound> = args.iter().rev().cloned().collect();
            missing_function(name, &written)
        };
        let [value, fraction] = args.as_slice() else { return Err(missing()) };
        let many = matches!(fraction.r#type, Type::Array(_));
        let fractions = if many { Type::Array(Box::new(Type::Float8)) } else { Type::Float8 };
        let fraction = match &fraction.r#type {
            Type::Array(of) if of.is_number() => self.explicit(fraction.clone(), &fractions),
            _ => self.implicit(fraction.clone(), &fractions),
        };
        let fraction = fraction.map_err(|_| missing())?;
        let (kind, value) = match name {
            "percentile_cont" if value.r#type == Type::Interval => (Kind::Continuous, value.clone()),
            "percentile_cont" => {
                (Kind::Continuous, self.implicit(value.clone(), &Type::Float8).map_err(|_| missing())?)
            }
            _ => (Kind::Discrete, coerce::free(value.clone())),
        };
        let one = crate::expr::cast::without_modifier(&value.r#type);
        let returns = if many { Type::Array(Box::new(one)) } else { one };
        self.fold(level, name, kind, vec![value, fraction], returns, parts)
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
        let heeds_order = match kind {
            Kind::Sum => matches!(returns, Type::Float4 | Type::Float8),
            Kind::Extreme(_) | Kind::Variance { .. } => false,
            _ => true,
        };
        let mut args = args;
        let mut orders = Vec::new();
        if heeds_order {
            for item in &parts.order_by {
                orders.push(match item {
                    SortedBy::Argument(order) => order.clone(),
                    SortedBy::Other(bound, order) => {
                        args.push(bound.as_ref().clone());
                        Order { argument: args.len() - 1, ..order.clone() }
                    }
                });
            }
        }
        // The least of some is the least of them without duplicates.
        let distinct = parts.distinct && !matches!(kind, Kind::Extreme(_));
        if distinct {
            orders.extend((0..args.len()).map(Order::ascending));
        }
        if heeds_order && orders.is_empty() && kind != Kind::Sum {
            self.sequential.set(true);
        }
        let of = args.iter().map(|a| a.r#type.clone()).collect();
        let udaf = Fold::udaf(name, kind, of, orders, distinct, data.clone(), self.zone());
        let exprs = args.into_iter().map(|a| a.expr).collect();
        let parts = Parts { filter: parts.filter.clone(), window: parts.window.clone(), ..Parts::default() };
        Ok(self.ask(level, udaf, exprs, &parts, returns, data))
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
            // Where it matters, it is among the arguments.
            order_by: Vec::new(),
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
}

/// The order an item of ORDER BY asks for.
fn order(argument: usize, options: &ast::OrderByOptions) -> Order {
    let descending = !options.asc.unwrap_or(true);
    Order { argument, descending, nulls_first: options.nulls_first.unwrap_or(descending) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_are_sorted_so_that_they_are_found() {
        assert!(super::AGGREGATES.is_sorted());
    }
}
