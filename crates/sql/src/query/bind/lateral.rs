//! Subqueries in FROM, LATERAL among them.
//!
//! ```text
//! a CROSS JOIN LATERAL (SELECT … FROM b WHERE b.x = a.x)            becomes a join, or
//! a CROSS JOIN LATERAL (SELECT … WHERE b.x = a.x ORDER BY … LIMIT 2)
//!
//!     rows of a ─▶ with the subquery's rows beside each, as an array ─▶ a row for each element
//! ```
//! DataFusion makes joins of simple ones. Others are run for each row before them
//! ([`crate::query::subplan`]), with the condition of an outer join within.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::{Expr, LogicalPlan, Subquery};
use datafusion::sql::sqlparser::ast;

use super::from::{Source, one_row, parse_query, rename_columns, unnest};
use super::joinable::is_joinable;
use super::scope::{Allowed, Asked, Ctes, Level, Scope, ScopeColumn, ScopeRelation};
use super::select::projection;
use super::{Binder, BoundQuery};
use crate::catalog::name::fold;
use crate::error::{Error, Result};
use crate::query::subplan::{self, Wanted};

/// The rows of a LATERAL subquery that is run for each row before it, as an array
/// in a column.
pub(super) struct Rows {
    /// The column that holds them
    column: String,
    /// The columns they become
    columns: Vec<Column>,
}

impl Source {
    /// The plan with the rows as rows; with `outer`, one of NULLs where there is none.
    pub fn opened(self, outer: bool) -> Result<LogicalPlan> {
        let Some(Rows { column, columns }) = self.rows else { return Ok(self.plan) };
        let held = Column::new_unqualified(column);
        let before: Vec<Column> = self.plan.schema().columns().into_iter().filter(|c| *c != held).collect();
        let plan = unnest(self.plan, vec![held.clone()], outer)?;
        let mut exprs: Vec<Expr> = before.into_iter().map(Expr::Column).collect();
        for (i, column) in columns.into_iter().enumerate() {
            let field = get_field(Expr::Column(held.clone()), format!("c{i}"));
            exprs.push(field.alias(column.name));
        }
        projection(plan, exprs)
    }
}

impl Binder<'_> {
    /// A subquery in FROM.
    pub(super) fn derived(
        &self,
        lateral: bool,
        query: &ast::Query,
        alias: &ast::TableAlias,
        (before, visible): (Option<&(LogicalPlan, Scope)>, &Scope),
        outer: Option<&Level<'_>>,
        ctes: Option<&Ctes>,
    ) -> Result<Source> {
        let shown = fold(&alias.name);
        if !lateral {
            let bound = self.decide_texts(self.query(query, outer, ctes)?)?;
            return self.aliased(bound.plan, bound.outputs, &shown, Some(alias), None);
        }
        let asked = Asked::default();
        let level = lateral_level(visible, outer, ctes, &asked);
        let bound = self.decide_texts(self.query(query, Some(&level), ctes)?)?;
        self.near(&bound.plan)?;
        let refs = bound.plan.all_out_ref_exprs();
        if refs.is_empty() {
            return self.aliased(bound.plan, bound.outputs, &shown, Some(alias), None);
        }
        self.correlated.set(true);
        if self.by_row || !is_joinable(&bound.plan) {
            return self.run_by_row(bound, subplan::arguments(&level, refs), &shown, alias, before);
        }
        let subquery = Subquery {
            subquery: Arc::new(bound.plan),
            outer_ref_columns: refs,
            spans: datafusion::common::Spans::new(),
        };
        self.aliased(LogicalPlan::Subquery(subquery), bound.outputs, &shown, Some(alias), None)
    }

    /// A LATERAL subquery that is run for each row before it.
    fn run_by_row(
        &self,
        bound: BoundQuery,
        arguments: subplan::Arguments,
        shown: &str,
        alias: &ast::TableAlias,
        before: Option<&(LogicalPlan, Scope)>,
    ) -> Result<Source> {
        let (base, known) = match before {
            Some((plan, scope)) => (plan.clone(), scope.columns.as_slice()),
            None => (one_row(), [].as_slice()),
        };
        if !arguments.are_among(known) {
            return Err(Error::unsupported("a LATERAL subquery that refers past the join it stands in"));
        }
        let relation = self.unique(shown);
        let columns = bound.outputs.iter().enumerate().map(|(i, output)| ScopeColumn {
            relation: Some(shown.to_owned()),
            name: output.label.clone(),
            column: Column::new_unqualified(format!("{relation}.{i}")),
            r#type: output.r#type.clone(),
            data: output.data.clone(),
            names: output.names,
            source: output.source,
            hidden: false,
            merged: false,
        });
        let mut columns: Vec<ScopeColumn> = columns.collect();
        rename_columns(&mut columns, shown, Some(alias))?;
        let rows = subplan::rows_of(columns.iter().map(|c| c.data.clone()));
        let call = subplan::call(bound.plan, arguments, Wanted::Rows, rows);
        let mut exprs: Vec<Expr> = base.schema().columns().into_iter().map(Expr::Column).collect();
        exprs.push(call.alias(&relation));
        let rows = Rows { column: relation.clone(), columns: columns.iter().map(|c| c.column.clone()).collect() };
        let relations = vec![ScopeRelation { name: shown.to_owned(), alias: relation, table: None }];
        let (plan, scope) = (projection(base, exprs)?, Scope { columns, relations });
        Ok(Source { plan, scope, lateral: true, rows: Some(rows) })
    }

    /// The LATERAL subquery of an outer join with the condition within, for subqueries
    /// that are run for each row: rows that the condition refuses are none.
    pub(super) fn condition_within(&self, join: &ast::Join) -> Result<Option<ast::TableFactor>> {
        use ast::JoinOperator as J;
        let ast::TableFactor::Derived { lateral: true, subquery, alias: Some(alias), sample: None } = &join.relation
        else {
            return Ok(None);
        };
        let (J::Left(ast::JoinConstraint::On(e)) | J::LeftOuter(ast::JoinConstraint::On(e))) = &join.join_operator
        else {
            return Ok(None);
        };
        let query = parse_query(&format!("SELECT * FROM ({subquery}) AS {alias} WHERE {e}"))?;
        Ok(Some(ast::TableFactor::Derived {
            lateral: true,
            subquery: Box::new(query),
            alias: Some(alias.clone()),
            sample: None,
        }))
    }
}

/// What the items before one in FROM are for it.
pub(super) fn lateral_level<'a>(
    visible: &'a Scope,
    outer: Option<&'a Level<'a>>,
    ctes: Option<&'a Ctes>,
    asked: &'a Asked,
) -> Level<'a> {
    Level { scope: visible, outer, ctes, allowed: Allowed::plain("functions in FROM"), windows: &[], asked }
}

/// Whether an item of FROM is a LATERAL subquery whose rows may be added to what
/// stands before it, whatever that is.
pub(super) fn is_lateral(join: &ast::Join) -> bool {
    use ast::JoinOperator as J;
    let grows = matches!(
        join.join_operator,
        J::Join(_) | J::Inner(_) | J::Left(_) | J::LeftOuter(_) | J::CrossJoin(ast::JoinConstraint::None)
    );
    grows && matches!(join.relation, ast::TableFactor::Derived { lateral: true, .. })
}
