//! Subqueries in expressions.
//!
//! DataFusion turns most subqueries into joins: EXISTS and IN in WHERE, scalar
//! ones that aggregate. What stands elsewhere is brought into such a form, and
//! what still does not fit is run row by row ([`crate::query::subplan`]).

use std::sync::Arc;

use datafusion::common::{Column, Spans};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Exists, InSubquery};
use datafusion::logical_expr::logical_plan::Aggregate;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator, Subquery};
use datafusion::sql::sqlparser::ast;
use polity_base::{Type, Value};

use super::bound::{Bound, Form};
use super::coerce;
use super::joinable::{for_existence, is_joinable, is_semi_joinable, refers_far};
use super::scope::{Level, Output};
use super::select::projection;
use super::{Binder, BoundQuery, refused};
use crate::error::{Condition, Error, Result};
use crate::query::function::fold::{Fold, Kind};
use crate::query::subplan::{self, Wanted};
use crate::query::types;

/// Subqueries of expressions within one another. The time to plan one doubles
/// with each around it, in a computation that nothing interrupts.
const MOST_SUBQUERIES: usize = 12;

impl Binder<'_> {
    fn subquery(&self, level: &Level<'_>, query: &ast::Query) -> Result<BoundQuery> {
        let around = self.subqueries.get();
        if around >= MOST_SUBQUERIES {
            return Err(Error::new(Condition::StatementTooComplex, "subqueries in expressions are nested too deeply")
                .detail(format!("They may stand in one another {MOST_SUBQUERIES} deep."))
                .hint("Name the inner ones in WITH, or join them in FROM: these may nest deeper."));
        }
        self.subqueries.set(around + 1);
        let bound = self.query(query, Some(level), level.ctes);
        self.subqueries.set(around);
        let bound = bound?;
        if bound.plan.contains_outer_reference() || !bound.plan.all_out_ref_exprs().is_empty() {
            self.correlated.set(true);
        }
        self.near(&bound.plan)?;
        Ok(bound)
    }

    /// Refuses what only subqueries that are run row by row can do: to refer over more
    /// than one level.
    pub(super) fn near(&self, plan: &LogicalPlan) -> Result<()> {
        if self.by_row || !refers_far(plan) {
            return Ok(());
        }
        self.correlated.set(true);
        Err(Error::unsupported("a reference over several levels of subqueries"))
    }

    /// `(SELECT …)` as a value.
    pub fn scalar_subquery(&self, level: &Level<'_>, query: &ast::Query) -> Result<Bound> {
        let bound = self.decide_texts(self.subquery(level, query)?)?;
        let output = single(&bound)?.clone();
        let refs = bound.plan.all_out_ref_exprs();
        let expr = if refs.is_empty() {
            Expr::ScalarSubquery(subquery(bound.plan, refs))
        } else if self.by_row || !is_joinable(&bound.plan) {
            let arg = subplan::arguments(level, refs);
            subplan::call(bound.plan, arg, Wanted::Scalar, output.data.clone())
        } else if gives_one_row(&bound.plan) {
            Expr::ScalarSubquery(subquery(bound.plan, refs))
        } else {
            let plan = self.one_value(bound.plan, &output)?;
            let refs = plan.all_out_ref_exprs();
            Expr::ScalarSubquery(subquery(plan, refs))
        };
        Ok(Bound { names: output.names, ..Bound::with_data(expr, output.r#type, output.data) })
    }

    /// The one value a plan gives; two are an error.
    fn one_value(&self, plan: LogicalPlan, output: &Output) -> Result<LogicalPlan> {
        let udaf = Fold::udaf(
            "single_value",
            Kind::Single,
            vec![output.r#type.clone()],
            Vec::new(),
            false,
            output.data.clone(),
            self.zone(),
        );
        let params = AggregateFunctionParams {
            args: vec![Expr::Column(output.column.clone())],
            distinct: false,
            filter: None,
            order_by: Vec::new(),
            null_treatment: None,
        };
        let name = format!("single#{}", self.number());
        let value = Expr::AggregateFunction(AggregateFunction { func: udaf, params }).alias(&name);
        let plan = Aggregate::try_new(Arc::new(plan), Vec::new(), vec![value]).map_err(refused)?;
        projection(LogicalPlan::Aggregate(plan), vec![Expr::Column(Column::new_unqualified(name))])
    }

    /// `[NOT] EXISTS (SELECT …)`.
    pub fn exists(&self, level: &Level<'_>, query: &ast::Query, negated: bool) -> Result<Bound> {
        let plan = for_existence(self.subquery(level, query)?.plan);
        let refs = plan.all_out_ref_exprs();
        let is_filter = level.allowed.clause == "WHERE";
        if !self.by_row && is_filter && is_semi_joinable(&plan) {
            let expr = Expr::Exists(Exists::new(subquery(plan, refs), negated));
            return Ok(Bound::new(expr, Type::Bool));
        }
        let args = subplan::arguments(level, refs);
        let call = subplan::call(plan, args, Wanted::Exists, types::data_type(&Type::Bool));
        Ok(Bound::new(if negated { Expr::Not(Box::new(call)) } else { call }, Type::Bool))
    }

    /// `e [NOT] IN (SELECT …)`.
    pub fn in_subquery(&self, level: &Level<'_>, e: &ast::Expr, query: &ast::Query, negated: bool) -> Result<Bound> {
        let left = self.expr(level, e)?;
        let found = self.any_subquery(level, left, Operator::Eq, query, negated)?;
        Ok(found)
    }

    /// `left op ANY (SELECT …)` or ALL.
    pub fn quantified_subquery(
        &self,
        level: &Level<'_>,
        left: &ast::Expr,
        op: &ast::BinaryOperator,
        query: &ast::Query,
        all: bool,
    ) -> Result<Bound> {
        use ast::BinaryOperator as B;
        let left = self.expr(level, left)?;
        let operator = match op {
            B::Eq => Operator::Eq,
            B::NotEq => Operator::NotEq,
            B::Lt => Operator::Lt,
            B::LtEq => Operator::LtEq,
            B::Gt => Operator::Gt,
            B::GtEq => Operator::GtEq,
            other => return Err(Error::unsupported(format!("{other} ANY or ALL with a subquery"))),
        };
        if all {
            // x op ALL (q) is NOT (x negated-op ANY (q)).
            let opposite = operator.negate().ok_or_else(|| Error::unsupported(format!("{op} ALL")))?;
            return self.any_subquery(level, left, opposite, query, true);
        }
        self.any_subquery(level, left, operator, query, false)
    }

    fn any_subquery(
        &self,
        level: &Level<'_>,
        left: Bound,
        op: Operator,
        query: &ast::Query,
        negated: bool,
    ) -> Result<Bound> {
        let bound = self.decide_texts(self.subquery(level, query)?)?;
        let lefts = match &left.form {
            Form::Row(items) => items.clone(),
            _ => vec![left],
        };
        if lefts.len() != bound.outputs.len() {
            let few = if bound.outputs.len() > lefts.len() { "many" } else { "few" };
            return Err(Error::new(Condition::SyntaxError, format!("subquery has too {few} columns")));
        }
        let mut pairs = Vec::with_capacity(lefts.len());
        for (l, output) in lefts.into_iter().zip(&bound.outputs) {
            let right = Bound {
                names: output.names,
                ..Bound::with_data(Expr::Column(output.column.clone()), output.r#type.clone(), output.data.clone())
            };
            pairs.push(self.comparable(l, "=", right)?);
        }
        let names: Vec<String> = (0..pairs.len()).map(|i| format!("any#{i}")).collect();
        let rights = pairs.iter().zip(&names).map(|((_, r), n)| r.clone().alias(n)).collect();
        let plan = projection(bound.plan, rights)?;
        let refs = plan.all_out_ref_exprs();
        let is_filter = level.allowed.clause == "WHERE";
        let one = pairs.len() == 1;
        if is_filter && !self.by_row && op == Operator::Eq && one && is_semi_joinable(&plan) {
            let left = pairs.pop().map(|(l, _)| l).unwrap_or_default();
            let expr = Expr::InSubquery(InSubquery::new(Box::new(left), subquery(plan, refs), negated));
            return Ok(Bound::new(expr, Type::Bool));
        }
        let mut args = subplan::arguments(level, refs);
        let lefts: Vec<Expr> = pairs.into_iter().map(|(l, _)| l).collect();
        args.lefts = lefts;
        let call = subplan::call(plan, args, Wanted::Any(op), types::data_type(&Type::Bool));
        Ok(Bound::new(if negated { Expr::Not(Box::new(call)) } else { call }, Type::Bool))
    }

    /// `ARRAY(SELECT …)`.
    pub fn array_subquery(&self, level: &Level<'_>, query: &ast::Query) -> Result<Bound> {
        let bound = self.decide_texts(self.subquery(level, query)?)?;
        let output = single(&bound)?.clone();
        let element = output.r#type.clone();
        let data = types::list_of(types::element_type(&element));
        let free = coerce::free(Bound::with_data(
            Expr::Column(output.column.clone()),
            output.r#type.clone(),
            output.data.clone(),
        ));
        let plan = projection(bound.plan, vec![free.expr.alias("element#")])?;
        let refs = plan.all_out_ref_exprs();
        let args = subplan::arguments(level, refs);
        let call = subplan::call(plan, args, Wanted::Array, data.clone());
        Ok(Bound::with_data(call, Type::Array(Box::new(element)), data))
    }
}

/// A constant that is never looked at.
pub fn nothing() -> Result<Bound> {
    coerce::literal(&Value::Null, &Type::Text)
}

fn single(bound: &BoundQuery) -> Result<&Output> {
    match bound.outputs.as_slice() {
        [one] => Ok(one),
        _ => Err(Error::new(Condition::SyntaxError, "subquery must return only one column")),
    }
}

fn subquery(plan: LogicalPlan, refs: Vec<Expr>) -> Subquery {
    Subquery { subquery: Arc::new(plan), outer_ref_columns: refs, spans: Spans::new() }
}

/// Whether a plan gives one row, whatever it reads: an aggregation without
/// groups.
fn gives_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(a) => a.group_expr.is_empty(),
        LogicalPlan::Projection(p) => gives_one_row(&p.input),
        LogicalPlan::SubqueryAlias(a) => gives_one_row(&a.input),
        _ => false,
    }
}
