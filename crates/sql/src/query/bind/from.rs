//! FROM: tables, joins, functions.

// The builder that replaces it takes the same and more.
#![allow(deprecated)]

use std::rc::Rc;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, JoinConstraint, JoinType, NullEquality, TableReference, UnnestOptions};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::expr::Case;
use datafusion::logical_expr::logical_plan::{EmptyRelation, Join, SubqueryAlias, TableScan, Unnest};
use datafusion::logical_expr::{Expr, LogicalPlan, Operator};
use datafusion::sql::sqlparser::ast::{self, Spanned};
use polity_base::{TableId, Type};

use super::bound::{Bound, Names};
use super::lateral::{Rows, is_lateral, lateral_level};
use super::scope::{Allowed, Asked, Cte, Ctes, Level, Output, Scope, ScopeColumn, ScopeRelation};
use super::select::projection;
use super::{Binder, BoundQuery, at, refused};
use crate::catalog::Relation;
use crate::catalog::model::{Sequence, Table, View};
use crate::catalog::name::{self, fold};
use crate::error::{Condition, Error, Result};
use crate::query::function::set;
use crate::query::scan::StoredTable;
use crate::query::scan::decode::KEY_COLUMN;
use crate::query::sequence::{COLUMNS, SequenceTable};
use crate::query::types;

/// An item of FROM that is bound.
pub(super) struct Source {
    pub plan: LogicalPlan,
    pub scope: Scope,
    /// The plan already holds what stood before it (a function of its columns)
    pub lateral: bool,
    /// The rows of a LATERAL subquery that are not made rows yet
    pub rows: Option<Rows>,
}

/// One row without columns.
pub fn one_row() -> LogicalPlan {
    LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: true,
        schema: Arc::new(datafusion::common::DFSchema::empty()),
    })
}

/// Makes rows of the elements of arrays; with `outer`, one row of NULLs where
/// there is no element.
pub fn unnest(plan: LogicalPlan, columns: Vec<Column>, outer: bool) -> Result<LogicalPlan> {
    let options = UnnestOptions::new().with_preserve_nulls(outer);
    Ok(LogicalPlan::Unnest(Unnest::try_new(Arc::new(plan), columns, options).map_err(refused)?))
}

impl Binder<'_> {
    /// The FROM clause.
    pub fn from(
        &self,
        from: &[ast::TableWithJoins],
        outer: Option<&Level<'_>>,
        ctes: Option<&Ctes>,
    ) -> Result<(LogicalPlan, Scope)> {
        let mut whole: Option<(LogicalPlan, Scope)> = None;
        for item in from {
            let (plan, scope) = self.table_with_joins(item, whole.take(), outer, ctes)?;
            whole = Some((plan, scope));
        }
        Ok(whole.unwrap_or_else(|| (one_row(), Scope::default())))
    }

    /// An item of FROM with its joins, beside what stands before it.
    fn table_with_joins(
        &self,
        item: &ast::TableWithJoins,
        before: Option<(LogicalPlan, Scope)>,
        outer: Option<&Level<'_>>,
        ctes: Option<&Ctes>,
    ) -> Result<(LogicalPlan, Scope)> {
        // `a, b JOIN c` is a beside (b JOIN c), but b may refer to a.
        let before_scope = before.as_ref().map(|(_, s)| s.clone()).unwrap_or_default();
        let first = self.factor(&item.relation, before.as_ref(), &before_scope, outer, ctes)?;
        let mut joined = if first.lateral || before.is_none() {
            let scope = first.scope.clone();
            let scope = if first.lateral { before_scope.clone().beside(scope)? } else { scope };
            (first.opened(false)?, scope)
        } else if item.joins.is_empty() || self.is_correlated(&first.plan) || item.joins.iter().all(is_lateral) {
            let (plan, scope) = before.ok_or_else(|| Error::internal("nothing stands before"))?;
            let plan = self.join_plans(plan, first.plan, JoinType::Inner, None)?;
            let mut joined = (plan, scope.beside(first.scope)?);
            for join in &item.joins {
                joined = self.join(joined, join, &Scope::default(), outer, ctes)?;
            }
            return Ok(joined);
        } else {
            let mut own = (first.plan, first.scope);
            for join in &item.joins {
                own = self.join(own, join, &before_scope, outer, ctes)?;
            }
            let (plan, scope) = before.ok_or_else(|| Error::internal("nothing stands before"))?;
            return Ok((self.join_plans(plan, own.0, JoinType::Inner, None)?, scope.beside(own.1)?));
        };
        for join in &item.joins {
            joined = self.join(joined, join, &Scope::default(), outer, ctes)?;
        }
        Ok(joined)
    }

    fn is_correlated(&self, plan: &LogicalPlan) -> bool {
        matches!(plan, LogicalPlan::Subquery(_)) || plan.contains_outer_reference()
    }

    fn join(
        &self,
        left: (LogicalPlan, Scope),
        join: &ast::Join,
        around: &Scope,
        outer: Option<&Level<'_>>,
        ctes: Option<&Ctes>,
    ) -> Result<(LogicalPlan, Scope)> {
        use ast::JoinOperator as J;
        if join.global {
            return Err(Error::unsupported("GLOBAL JOIN"));
        }
        let (kind, constraint) = match &join.join_operator {
            J::Join(c) | J::Inner(c) => (JoinType::Inner, Some(c)),
            J::Left(c) | J::LeftOuter(c) => (JoinType::Left, Some(c)),
            J::Right(c) | J::RightOuter(c) => (JoinType::Right, Some(c)),
            J::FullOuter(c) => (JoinType::Full, Some(c)),
            J::CrossJoin(ast::JoinConstraint::None) => (JoinType::Inner, None),
            other => return Err(Error::unsupported(format!("the join {other:?}"))),
        };
        let visible = around.clone().beside(left.1.clone())?;
        let (mut right, mut constraint) =
            (self.factor(&join.relation, Some(&left), &visible, outer, ctes)?, constraint);
        if right.rows.is_some()
            && kind == JoinType::Left
            && let Some(within) = self.condition_within(join)?
        {
            (right, constraint) = (self.factor(&within, Some(&left), &visible, outer, ctes)?, None);
        }
        let (left_plan, left_scope) = left;
        if right.lateral {
            let trivial = match constraint {
                None | Some(ast::JoinConstraint::None) => true,
                Some(ast::JoinConstraint::On(e)) => {
                    matches!(super::expr::strip(e), ast::Expr::Value(v) if v.value == ast::Value::Boolean(true))
                }
                Some(_) => false,
            };
            let scope = left_scope.beside(right.scope.clone())?;
            if trivial && (kind == JoinType::Inner || kind == JoinType::Left && right.rows.is_some()) {
                return Ok((right.opened(kind == JoinType::Left)?, scope));
            }
            if let (Some(ast::JoinConstraint::On(e)), JoinType::Inner) = (constraint, kind) {
                let on = self.on(&scope, e, outer, ctes)?;
                return Ok((self.filter(right.opened(false)?, on.expr)?, scope));
            }
            return Err(Error::unsupported("an outer join with a function of the columns before it"));
        }
        match constraint {
            None | Some(ast::JoinConstraint::None) => {
                if kind != JoinType::Inner {
                    return Err(Error::new(Condition::SyntaxError, "syntax error: a join condition is missing"));
                }
                let scope = left_scope.beside(right.scope)?;
                Ok((self.join_plans(left_plan, right.plan, kind, None)?, scope))
            }
            Some(ast::JoinConstraint::On(e)) => {
                let scope = left_scope.beside(right.scope)?;
                let on = self.on(&scope, e, outer, ctes)?;
                if kind == JoinType::Inner && has_subquery(&on.expr) {
                    let plan = self.join_plans(left_plan, right.plan, kind, None)?;
                    return Ok((self.filter(plan, on.expr)?, scope));
                }
                Ok((self.join_plans(left_plan, right.plan, kind, Some(on.expr))?, scope))
            }
            Some(ast::JoinConstraint::Using(names)) => {
                let names = names.iter().map(name::object).collect::<Result<Vec<_>>>()?;
                self.join_using((left_plan, left_scope), (right.plan, right.scope), kind, &names)
            }
            Some(ast::JoinConstraint::Natural) => {
                let visible = |s: &Scope| -> Vec<String> {
                    s.columns.iter().filter(|c| !c.merged && !c.hidden).map(|c| c.name.clone()).collect()
                };
                let (l, r) = (visible(&left_scope), visible(&right.scope));
                let names: Vec<String> = l.into_iter().filter(|n| r.contains(n)).collect();
                self.join_using((left_plan, left_scope), (right.plan, right.scope), kind, &names)
            }
        }
    }

    fn on(&self, scope: &Scope, e: &ast::Expr, outer: Option<&Level<'_>>, ctes: Option<&Ctes>) -> Result<Bound> {
        let asked = Asked::default();
        let level =
            Level { scope, outer, ctes, allowed: Allowed::plain("JOIN conditions"), windows: &[], asked: &asked };
        super::condition(self, self.expr(&level, e)?, "JOIN/ON").map_err(|x| at(x, e.span()))
    }

    fn join_plans(
        &self,
        left: LogicalPlan,
        right: LogicalPlan,
        kind: JoinType,
        filter: Option<Expr>,
    ) -> Result<LogicalPlan> {
        let join = Join::try_new(
            Arc::new(left),
            Arc::new(right),
            Vec::new(),
            filter,
            kind,
            JoinConstraint::On,
            NullEquality::NullEqualsNothing,
            false,
        );
        join.map(LogicalPlan::Join).map_err(refused)
    }

    fn join_using(
        &self,
        (left_plan, left): (LogicalPlan, Scope),
        (right_plan, right): (LogicalPlan, Scope),
        kind: JoinType,
        names: &[String],
    ) -> Result<(LogicalPlan, Scope)> {
        let mut on: Option<Expr> = None;
        let mut merged = Vec::with_capacity(names.len());
        for name in names {
            let side = |s: &Scope, which: &str| -> Result<ScopeColumn> {
                s.find(None, name)
                    .map_err(|_| {
                        Error::new(
                            Condition::AmbiguousColumn,
                            format!("common column name \"{name}\" appears more than once in {which} table"),
                        )
                    })?
                    .cloned()
                    .ok_or_else(|| {
                        Error::new(
                            Condition::UndefinedColumn,
                            format!("column \"{name}\" specified in USING clause does not exist in {which} table"),
                        )
                    })
            };
            let (l, r) = (side(&left, "left")?, side(&right, "right")?);
            let equal = self.compare(l.bound(false), Operator::Eq, r.bound(false)).map_err(|_| {
                Error::new(
                    Condition::DatatypeMismatch,
                    format!(
                        "JOIN/USING types {} and {} cannot be matched",
                        super::coerce::shown(&l.r#type),
                        super::coerce::shown(&r.r#type)
                    ),
                )
            })?;
            on = Some(match on {
                None => equal.expr,
                Some(before) => before.and(equal.expr),
            });
            merged.push((name, l, r));
        }
        let mut plan = self.join_plans(left_plan, right_plan, kind, on)?;
        let mut columns = Vec::new();
        let mut computed = Vec::new();
        for (name, l, r) in &merged {
            let column = match kind {
                JoinType::Right => ScopeColumn { relation: None, merged: false, hidden: false, ..r.clone() },
                JoinType::Full => {
                    let (both, common) = self.unify(vec![l.bound(false), r.bound(false)], "JOIN/USING")?;
                    let [a, b] = both.try_into().map_err(|_| Error::internal("two columns became fewer"))?;
                    let label = format!("using#{}", self.number());
                    let test = Box::new(Expr::IsNotNull(Box::new(a.expr.clone())));
                    let case = Case::new(None, vec![(test, Box::new(a.expr))], Some(Box::new(b.expr)));
                    computed.push(Expr::Case(case).alias(&label));
                    ScopeColumn {
                        relation: None,
                        name: (*name).clone(),
                        column: Column::new_unqualified(label),
                        r#type: common,
                        data: a.data,
                        names: l.names,
                        source: None,
                        hidden: false,
                        merged: false,
                    }
                }
                _ => ScopeColumn { relation: None, merged: false, hidden: false, ..l.clone() },
            };
            columns.push(column);
        }
        if !computed.is_empty() {
            let mut exprs: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
            exprs.extend(computed);
            plan = projection(plan, exprs)?;
        }
        let mut scope = left.beside(right)?;
        for column in &mut scope.columns {
            let is_merged = |c: &ScopeColumn| {
                merged.iter().any(|(_, l, r)| {
                    l.column == c.column && l.relation == c.relation || r.column == c.column && r.relation == c.relation
                })
            };
            if is_merged(column) {
                column.merged = true;
                column.hidden = true;
            }
        }
        // What an earlier USING merged and this one merges again is gone.
        scope.columns.retain(|c| !(c.merged && c.relation.is_none()));
        columns.append(&mut scope.columns);
        scope.columns = columns;
        Ok((plan, scope))
    }

    fn factor(
        &self,
        factor: &ast::TableFactor,
        before: Option<&(LogicalPlan, Scope)>,
        visible: &Scope,
        outer: Option<&Level<'_>>,
        ctes: Option<&Ctes>,
    ) -> Result<Source> {
        use ast::TableFactor as F;
        match factor {
            F::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample,
                index_hints,
            } => {
                if sample.is_some() {
                    return Err(Error::unsupported("TABLESAMPLE"));
                }
                if !with_hints.is_empty() || !partitions.is_empty() || !index_hints.is_empty() {
                    return Err(Error::unsupported("a table hint"));
                }
                self.named(name, alias.as_ref(), ctes).map_err(|e| at(e, name.span()))
            }
            F::Table { name, alias, args: Some(args), with_ordinality, .. } => {
                let level_asked = Asked::default();
                let level = lateral_level(visible, outer, ctes, &level_asked);
                let args = args.args.iter().map(|a| self.argument(&level, a)).collect::<Result<Vec<_>>>()?;
                let (_, function) = name::parts(name)?;
                self.table_function(&function, args, *with_ordinality, alias.as_ref(), before)
                    .map_err(|e| at(e, name.span()))
            }
            F::Function { name, args, alias, with_ordinality, .. } => {
                let asked = Asked::default();
                let level = lateral_level(visible, outer, ctes, &asked);
                let args = args.iter().map(|a| self.argument(&level, a)).collect::<Result<Vec<_>>>()?;
                let (_, function) = name::parts(name)?;
                self.table_function(&function, args, *with_ordinality, alias.as_ref(), before)
                    .map_err(|e| at(e, name.span()))
            }
            F::UNNEST { alias, array_exprs, with_offset: false, with_ordinality, .. } => {
                let asked = Asked::default();
                let level = lateral_level(visible, outer, ctes, &asked);
                let args = array_exprs.iter().map(|e| self.expr(&level, e)).collect::<Result<Vec<_>>>()?;
                self.table_function("unnest", args, *with_ordinality, alias.as_ref(), before)
            }
            F::Derived { lateral, subquery, alias, sample: None } => {
                let Some(alias) = alias else {
                    return Err(Error::new(Condition::SyntaxError, "subquery in FROM must have an alias")
                        .hint("For example, FROM (SELECT ...) [AS] foo."));
                };
                self.derived(*lateral, subquery, alias, (before, visible), outer, ctes)
            }
            F::NestedJoin { table_with_joins, alias } => {
                let (plan, scope) = self.table_with_joins(table_with_joins, None, outer, ctes)?;
                let Some(alias) = alias else { return Ok(Source { plan, scope, lateral: false, rows: None }) };
                // The alias hides what is within.
                let outputs = outputs_of(&scope);
                let name = fold(&alias.name);
                let plan = projected(plan, &outputs)?;
                self.aliased(plan, renamed(&outputs), &name, Some(alias), None)
            }
            other => Err(Error::unsupported(format!("{other} in FROM"))),
        }
    }

    fn named(&self, written: &ast::ObjectName, alias: Option<&ast::TableAlias>, ctes: Option<&Ctes>) -> Result<Source> {
        let (schema, name) = name::parts(written)?;
        let shown = alias.map_or_else(|| name.clone(), |a| fold(&a.name));
        if schema.is_none()
            && let Some(cte) = Ctes::find(ctes, &name)
        {
            return self.aliased(cte.plan.clone(), cte.outputs.clone(), &shown, alias, None);
        }
        let catalog = &self.input().catalog;
        let in_public = matches!(schema.as_deref(), None | Some(name::PUBLIC));
        // System catalogs come first in the search path.
        if schema.as_deref() != Some(name::PUBLIC)
            && let Some(provider) = crate::query::system::table(schema.as_deref(), &name, self.input())
        {
            let outputs = provider.outputs();
            let alias_name = self.unique(&shown);
            let source = provider_as_source(Arc::new(provider));
            let scan = TableScan::try_new(TableReference::bare(alias_name.as_str()), source, None, Vec::new(), None)
                .map_err(refused)?;
            let mut bound = self.scoped(LogicalPlan::TableScan(scan), outputs, &shown, alias_name, alias, None)?;
            if let Some(tableoid) = bound.scope.columns.last_mut() {
                tableoid.hidden = true;
            }
            return Ok(bound);
        }
        if in_public {
            match catalog.relation(&name) {
                Some(Relation::Table(table)) => return self.table(&table, &shown, alias),
                Some(Relation::View(view)) => return self.view(&view, &shown, alias),
                Some(Relation::Sequence(sequence)) => return self.sequence(sequence, &shown, alias),
                Some(Relation::Index(..)) => {
                    return Err(Error::new(Condition::WrongObjectType, format!("\"{name}\" is an index")));
                }
                None => {}
            }
        }
        let shown = match &schema {
            Some(schema) => format!("{schema}.{name}"),
            None => name,
        };
        Err(Error::new(Condition::UndefinedTable, format!("relation \"{shown}\" does not exist")))
    }

    fn table(&self, table: &Arc<Table>, shown: &str, alias: Option<&ast::TableAlias>) -> Result<Source> {
        let with_key = self.input().expose_key == Some(table.id);
        if !with_key {
            // What else is written with its key, its writer answers for.
            self.reads(table.id);
        }
        let provider = StoredTable::new(table.clone(), with_key);
        let name = self.unique(shown);
        let source = provider_as_source(Arc::new(provider));
        let scan =
            TableScan::try_new(TableReference::bare(name.as_str()), source, None, Vec::new(), None).map_err(refused)?;
        let mut outputs: Vec<Output> = table
            .columns
            .iter()
            .map(|c| Output {
                label: c.name.clone(),
                column: Column::new_unqualified(&c.name),
                r#type: c.r#type.clone(),
                data: types::data_type(&c.r#type),
                names: Names::Relation,
                source: Some((table.id.0, i16::try_from(c.id.0 + 1).unwrap_or(i16::MAX))),
                parameter: None,
            })
            .collect();
        if with_key {
            outputs.push(Output {
                label: KEY_COLUMN.to_owned(),
                column: Column::new_unqualified(KEY_COLUMN),
                r#type: Type::Bytea,
                data: DataType::Binary,
                names: Names::Relation,
                source: None,
                parameter: None,
            });
        }
        let key: Vec<String> =
            table.primary.columns.iter().filter_map(|id| table.column_by_id(*id)).map(|c| c.name.clone()).collect();
        let plan = LogicalPlan::TableScan(scan);
        self.scoped(plan, outputs, shown, name, alias, Some((table.id, key)))
    }

    fn sequence(&self, sequence: Arc<Sequence>, shown: &str, alias: Option<&ast::TableAlias>) -> Result<Source> {
        let name = self.unique(shown);
        let output = |(label, r#type): &(&str, Type)| Output {
            label: (*label).to_owned(),
            column: Column::new_unqualified(*label),
            r#type: r#type.clone(),
            data: types::data_type(r#type),
            names: Names::Relation,
            source: None,
            parameter: None,
        };
        let outputs = COLUMNS.iter().map(output).collect();
        let source = provider_as_source(Arc::new(SequenceTable(sequence)));
        let scan =
            TableScan::try_new(TableReference::bare(name.as_str()), source, None, Vec::new(), None).map_err(refused)?;
        self.scoped(LogicalPlan::TableScan(scan), outputs, shown, name, alias, None)
    }

    fn view(&self, view: &View, shown: &str, alias: Option<&ast::TableAlias>) -> Result<Source> {
        self.enter_view(view)?;
        let query = parse_query(&view.query)?;
        let bound = self.query(&query, None, None);
        self.leave_view();
        let bound = self.decide_texts(bound?)?;
        // The view keeps the names and types it was made with.
        let mut outputs = bound.outputs;
        for (output, (name, r#type)) in outputs.iter_mut().zip(&view.columns) {
            output.label.clone_from(name);
            output.r#type = r#type.clone();
            output.source = None;
        }
        for (i, output) in outputs.iter_mut().enumerate() {
            output.source = Some((view.id.0, i16::try_from(i + 1).unwrap_or(i16::MAX)));
        }
        self.aliased(bound.plan, outputs, shown, alias, None)
    }

    /// A function in FROM.
    fn table_function(
        &self,
        function: &str,
        args: Vec<Bound>,
        ordinality: bool,
        alias: Option<&ast::TableAlias>,
        before: Option<&(LogicalPlan, Scope)>,
    ) -> Result<Source> {
        let columns = set::columns(self, function, args)?;
        let refers = columns.iter().any(|c| c.array.expr.any_column_refs());
        let base = match before {
            Some((plan, _)) if refers => plan.clone(),
            _ => one_row(),
        };
        let shown = alias.map_or_else(|| function.to_owned(), |a| fold(&a.name));
        let relation = self.unique(&shown);
        let mut exprs: Vec<Expr> = base.schema().columns().into_iter().map(Expr::Column).collect();
        let mut unnested = Vec::with_capacity(columns.len() + 1);
        let mut scope = Scope::default();
        let single = columns.len() == 1;
        let ordinals = ordinality.then(|| set::ordinals(columns.iter().map(|c| c.array.expr.clone()).collect()));
        for (i, column) in columns.into_iter().enumerate() {
            let name = format!("{relation}.{i}");
            exprs.push(column.array.expr.alias(&name));
            unnested.push(Column::new_unqualified(&name));
            // A function of one column gives it the alias' name.
            let label = if single && column.follows_alias { shown.clone() } else { column.name };
            scope.columns.push(ScopeColumn {
                relation: Some(shown.clone()),
                name: label,
                column: Column::new_unqualified(name),
                data: types::element_type(&column.element),
                r#type: column.element,
                names: Names::Relation,
                source: None,
                hidden: false,
                merged: false,
            });
        }
        if let Some(ordinals) = ordinals {
            let name = format!("{relation}.ordinality");
            exprs.push(ordinals.alias(&name));
            unnested.push(Column::new_unqualified(&name));
            scope.columns.push(ScopeColumn {
                relation: Some(shown.clone()),
                name: "ordinality".to_owned(),
                column: Column::new_unqualified(name),
                r#type: Type::Int8,
                data: DataType::Int64,
                names: Names::Relation,
                source: None,
                hidden: false,
                merged: false,
            });
        }
        rename_columns(&mut scope.columns, &shown, alias)?;
        scope.relations.push(ScopeRelation { name: shown, alias: relation, table: None });
        let plan = unnest(projection(base, exprs)?, unnested, false)?;
        Ok(Source { plan, scope, lateral: refers && before.is_some(), rows: None })
    }

    /// A plan under a name of its own.
    pub(super) fn aliased(
        &self,
        plan: LogicalPlan,
        outputs: Vec<Output>,
        shown: &str,
        alias: Option<&ast::TableAlias>,
        table: Option<(TableId, Vec<String>)>,
    ) -> Result<Source> {
        let name = self.unique(shown);
        let plan = SubqueryAlias::try_new(Arc::new(plan), TableReference::bare(name.as_str())).map_err(refused)?;
        self.scoped(LogicalPlan::SubqueryAlias(plan), outputs, shown, name, alias, table)
    }

    fn scoped(
        &self,
        plan: LogicalPlan,
        outputs: Vec<Output>,
        shown: &str,
        name: String,
        alias: Option<&ast::TableAlias>,
        table: Option<(TableId, Vec<String>)>,
    ) -> Result<Source> {
        let qualifier = TableReference::bare(name.as_str());
        let mut columns: Vec<ScopeColumn> = outputs
            .into_iter()
            .map(|o| ScopeColumn {
                relation: Some(shown.to_owned()),
                hidden: o.label == KEY_COLUMN,
                name: o.label,
                column: Column::new(Some(qualifier.clone()), o.column.name),
                r#type: o.r#type,
                data: o.data,
                names: o.names,
                source: o.source,
                merged: false,
            })
            .collect();
        rename_columns(&mut columns, shown, alias)?;
        let relation = ScopeRelation { name: shown.to_owned(), alias: name, table };
        Ok(Source { plan, scope: Scope { columns, relations: vec![relation] }, lateral: false, rows: None })
    }

    /// The queries of WITH, added to those around.
    pub fn with(&self, with: &ast::With, outer: Option<&Level<'_>>, ctes: Option<&Ctes>) -> Result<Option<Ctes>> {
        let mut all = ctes.cloned();
        for cte in &with.cte_tables {
            let name = fold(&cte.alias.name);
            if cte.from.is_some() {
                return Err(Error::unsupported("WITH … FROM"));
            }
            let mut bound = if with.recursive && super::query::mentions(&cte.query, &name) {
                self.recursive(cte, &name, outer, all.as_ref())?
            } else {
                self.decide_texts(self.query(&cte.query, outer, all.as_ref())?)?
            };
            relabel(&mut bound.outputs, &name, &cte.alias)?;
            let cte = Rc::new(Cte { name, plan: bound.plan, outputs: bound.outputs });
            all = Some(Ctes { cte, rest: all.map(Rc::new) });
        }
        Ok(all)
    }
}

/// Column names of an alias, given to the first columns.
pub(super) fn rename_columns(columns: &mut [ScopeColumn], shown: &str, alias: Option<&ast::TableAlias>) -> Result<()> {
    let Some(alias) = alias else { return Ok(()) };
    let visible = columns.iter().filter(|c| c.name != KEY_COLUMN).count();
    check_alias(alias, shown, visible)?;
    for (column, given) in columns.iter_mut().zip(&alias.columns) {
        column.name = fold(&given.name);
    }
    Ok(())
}

/// The same for the columns of a query.
pub fn relabel(outputs: &mut [Output], shown: &str, alias: &ast::TableAlias) -> Result<()> {
    check_alias(alias, shown, outputs.len())?;
    for (output, given) in outputs.iter_mut().zip(&alias.columns) {
        output.label = fold(&given.name);
    }
    Ok(())
}

fn check_alias(alias: &ast::TableAlias, shown: &str, columns: usize) -> Result<()> {
    if let Some(typed) = alias.columns.iter().find(|c| c.data_type.is_some()) {
        return Err(Error::unsupported(format!("the column definition {typed} in FROM")));
    }
    if alias.columns.len() > columns {
        return Err(Error::new(
            Condition::InvalidColumnReference,
            format!("table \"{shown}\" has {columns} columns available but {} columns specified", alias.columns.len()),
        ));
    }
    Ok(())
}

/// The visible columns of a scope as outputs.
fn outputs_of(scope: &Scope) -> Vec<Output> {
    scope
        .columns
        .iter()
        .filter(|c| !c.hidden)
        .map(|c| Output {
            label: c.name.clone(),
            column: c.column.clone(),
            r#type: c.r#type.clone(),
            data: c.data.clone(),
            names: c.names,
            source: c.source,
            parameter: None,
        })
        .collect()
}

fn projected(plan: LogicalPlan, outputs: &[Output]) -> Result<LogicalPlan> {
    let exprs = outputs.iter().enumerate().map(|(i, o)| Expr::Column(o.column.clone()).alias(format!("c{i}")));
    projection(plan, exprs.collect())
}

fn renamed(outputs: &[Output]) -> Vec<Output> {
    let numbered = |(i, o): (usize, &Output)| Output { column: Column::new_unqualified(format!("c{i}")), ..o.clone() };
    outputs.iter().enumerate().map(numbered).collect()
}

/// The query of a view's text.
pub fn parse_query(text: &str) -> Result<ast::Query> {
    let parsed = crate::ddl::dialect::read_text(text, |parser| parser.parse_query());
    parsed.map(|q| *q).map_err(|e| Error::internal(format!("a stored query cannot be parsed: {e}")))
}

/// Whether an expression holds a subquery.
pub fn has_subquery(e: &Expr) -> bool {
    super::group::contains(e, |x| {
        matches!(x, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_))
    })
}

/// A field of any type.
pub fn field(name: &str, data: &DataType) -> Field {
    Field::new(name, data.clone(), true)
}

/// The result of a query, for what needs its parts.
pub fn parts(bound: BoundQuery) -> (LogicalPlan, Vec<Output>) {
    (bound.plan, bound.outputs)
}
