//! Window functions: what a window is, and the functions that have one only.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::functions_window::{cume_dist, lead_lag, nth_value, ntile, rank, row_number};
use datafusion::logical_expr::expr::{Cast, NullTreatment, Sort, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::{
    Expr, WindowFrame, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, WindowUDF,
};
use datafusion::sql::sqlparser::ast;
use polity_base::{Type, Value};
use std::sync::Arc;

use super::Binder;
use super::bound::{Bound, Form};
use super::call::missing_function;
use super::coerce::{self, shown};
use super::scope::{Allowed, Level};
use crate::catalog::name::fold;
use crate::error::{Condition, Error, Result};
use crate::query::types;

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

/// Whether `name` is a window function that is no aggregate.
pub fn is_window(name: &str) -> bool {
    WINDOWS.binary_search(&name).is_ok()
}

/// A window: which rows belong together, their order, and which of them a row sees.
#[derive(Clone)]
pub struct Window {
    partition_by: Vec<Expr>,
    order_by: Vec<Sort>,
    frame: WindowFrame,
}

impl Binder<'_> {
    /// The window of a call.
    pub fn window(&self, level: &Level<'_>, over: &ast::WindowType) -> Result<Window> {
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

    /// Notes the call in its level and gives the column it will be.
    #[allow(clippy::too_many_arguments)] // the parts of a window function are many
    pub fn ask_window(
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

    /// A call of a window function that is no aggregate.
    pub fn window_function(&self, level: &Level<'_>, name: &str, args: Vec<Bound>, window: &Window) -> Result<Bound> {
        let arity = args.len();
        let fits = match name {
            "ntile" | "first_value" | "last_value" => arity == 1,
            "nth_value" => arity == 2,
            "lag" | "lead" => (1..=3).contains(&arity),
            _ => arity == 0,
        };
        if !fits {
            return Err(missing_function(name, &args));
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
        let mut args = args.into_iter();
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
        assert!(super::WINDOWS.is_sorted());
    }
}
