//! Around SELECT: WITH, UNION and its kin, VALUES, ORDER BY and LIMIT.

// The builder that replaces it takes the same and more.
#![allow(deprecated)]

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::catalog::cte_worktable::CteWorkTable;
use datafusion::common::{Column, DFSchema, JoinType, NullEquality, ScalarValue, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::logical_plan::{Limit, Sort, TableScan, Union, Values};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast;
use polity_base::{Type, Value};

use super::bound::{Bound, Form, Names};
use super::coerce;
use super::expr::strip;
use super::scope::{Asked, Cte, Ctes, Level, Output, Scope, ScopeColumn};
use super::select::projection;
use super::window::sort;
use super::{Binder, BoundQuery, refused};
use crate::catalog::name::fold;
use crate::error::{Condition, Error, Result};
use crate::query::types;

/// What follows a query: its order and how many rows of it.
#[derive(Default)]
pub struct Tail<'a> {
    /// ORDER BY
    pub order_by: Option<&'a ast::OrderBy>,
    /// LIMIT or FETCH
    pub limit: Option<Expr>,
    /// OFFSET
    pub offset: Option<Expr>,
}

impl Tail<'_> {
    /// The plan with LIMIT and OFFSET.
    pub fn limited(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        if self.limit.is_none() && self.offset.is_none() {
            return Ok(plan);
        }
        Ok(LogicalPlan::Limit(Limit {
            skip: self.offset.clone().map(Box::new),
            fetch: self.limit.clone().map(Box::new),
            input: Arc::new(plan),
        }))
    }
}

impl Binder<'_> {
    /// Binds a query within what is around it.
    pub fn query(&self, query: &ast::Query, outer: Option<&Level<'_>>, ctes: Option<&Ctes>) -> Result<BoundQuery> {
        if !query.locks.is_empty() && outer.is_some() {
            return Err(Error::unsupported("FOR UPDATE in a subquery"));
        }
        if query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty()
        {
            return Err(Error::unsupported("this form of query"));
        }
        let with = query.with.as_ref().map(|w| self.with(w, outer, ctes)).transpose()?.flatten();
        let ctes = with.as_ref().or(ctes);
        let (limit, offset) = self.limit(query, outer, ctes)?;
        let tail = Tail { order_by: query.order_by.as_ref(), limit, offset };
        self.body(&query.body, &tail, outer, ctes)
    }

    fn body(
        &self,
        body: &ast::SetExpr,
        tail: &Tail<'_>,
        outer: Option<&Level<'_>>,
        ctes: Option<&Ctes>,
    ) -> Result<BoundQuery> {
        let bound = match body {
            ast::SetExpr::Select(select) => return self.select(select, tail, outer, ctes),
            ast::SetExpr::Query(query) => self.query(query, outer, ctes)?,
            ast::SetExpr::Values(values) => self.values(values, outer, ctes)?,
            ast::SetExpr::Table(table) => {
                let name = table.table_name.clone().unwrap_or_default();
                let text = match &table.schema_name {
                    Some(schema) => format!("SELECT * FROM {schema}.{name}"),
                    None => format!("SELECT * FROM {name}"),
                };
                self.query(&super::from::parse_query(&text)?, outer, ctes)?
            }
            ast::SetExpr::SetOperation { left, op, set_quantifier, right } => {
                self.set_operation(left, *op, *set_quantifier, right, outer, ctes)?
            }
            ast::SetExpr::Insert(_) | ast::SetExpr::Update(_) | ast::SetExpr::Delete(_) | ast::SetExpr::Merge(_) => {
                return Err(Error::unsupported("a data-modifying statement in WITH"));
            }
        };
        self.ordered(bound, tail)
    }

    /// ORDER BY over columns that are named by number or label only, and LIMIT.
    fn ordered(&self, bound: BoundQuery, tail: &Tail<'_>) -> Result<BoundQuery> {
        let BoundQuery { mut plan, outputs } = bound;
        if let Some(order_by) = tail.order_by {
            let ast::OrderByKind::Expressions(items) = &order_by.kind else {
                return Err(Error::unsupported("ORDER BY ALL"));
            };
            let scope = Scope { columns: outputs.iter().map(column_of).collect(), relations: Vec::new() };
            let asked = Asked::default();
            let level = Level::bare(&scope, &asked, "ORDER BY");
            let mut sorts = Vec::with_capacity(items.len());
            for item in items {
                let bound = match strip(&item.expr) {
                    ast::Expr::Value(v) => match &v.value {
                        ast::Value::Number(text, _) => {
                            let n = text.parse::<usize>().unwrap_or(0);
                            let column = scope.columns.get(n.wrapping_sub(1)).ok_or_else(|| {
                                Error::new(
                                    Condition::InvalidColumnReference,
                                    format!("ORDER BY position {text} is not in select list"),
                                )
                            })?;
                            column.bound(false)
                        }
                        _ => return Err(Error::new(Condition::SyntaxError, "non-integer constant in ORDER BY")),
                    },
                    ast::Expr::Identifier(_) => self.expr(&level, &item.expr)?,
                    other => self.expr(&level, other).map_err(|e| match e.condition() {
                        Condition::UndefinedTable | Condition::UndefinedColumn => {
                            Error::new(Condition::FeatureNotSupported, "invalid UNION/INTERSECT/EXCEPT ORDER BY clause")
                                .detail("Only result column names can be used, not expressions or functions.")
                        }
                        _ => e,
                    })?,
                };
                sorts.push(sort(coerce::key(&bound), &item.options));
            }
            plan = LogicalPlan::Sort(Sort { expr: sorts, input: Arc::new(plan), fetch: None });
        }
        Ok(BoundQuery { plan: tail.limited(plan)?, outputs })
    }

    fn limit(
        &self,
        query: &ast::Query,
        outer: Option<&Level<'_>>,
        ctes: Option<&Ctes>,
    ) -> Result<(Option<Expr>, Option<Expr>)> {
        let (limit, offset) = match &query.limit_clause {
            None => (None, None),
            Some(ast::LimitClause::LimitOffset { limit, offset, limit_by }) => {
                if !limit_by.is_empty() {
                    return Err(Error::unsupported("LIMIT … BY"));
                }
                (limit.as_ref(), offset.as_ref().map(|o| &o.value))
            }
            Some(ast::LimitClause::OffsetCommaLimit { .. }) => {
                return Err(Error::new(Condition::SyntaxError, "LIMIT #,# syntax is not supported")
                    .hint("Use separate LIMIT and OFFSET clauses."));
            }
        };
        let one = ast::Expr::Value(ast::Value::Number("1".to_owned(), false).with_empty_span());
        let limit = match &query.fetch {
            Some(fetch) if fetch.with_ties || fetch.percent => {
                return Err(Error::unsupported("FETCH … WITH TIES or PERCENT"));
            }
            Some(fetch) => Some(fetch.quantity.as_ref().unwrap_or(&one)),
            None => limit,
        };
        let scope = Scope::default();
        let asked = Asked::default();
        let _ = outer;
        let level = Level { ctes, ..Level::bare(&scope, &asked, "LIMIT") };
        let bind = |e: &ast::Expr, what: &str, condition: Condition| -> Result<Option<Expr>> {
            let bound = self.expr(&level, e).map_err(|e| match e.condition() {
                Condition::UndefinedColumn => Error::new(
                    Condition::InvalidColumnReference,
                    format!("argument of {what} must not contain variables"),
                ),
                _ => e,
            })?;
            let bound = self.assignment(bound, &Type::Int8).map_err(|e| match e.condition() {
                Condition::CannotCoerce => {
                    Error::new(Condition::DatatypeMismatch, format!("argument of {what} must be type bigint"))
                }
                _ => e,
            })?;
            match bound.constant() {
                Some(Value::Null) => Ok(None),
                Some(Value::Int8(v)) if *v < 0 => Err(Error::new(condition, format!("{what} must not be negative"))),
                _ => Ok(Some(bound.expr)),
            }
        };
        // LIMIT ALL comes as a name or as nothing.
        let limit = match limit {
            Some(e) => bind(e, "LIMIT", Condition::InvalidRowCountInLimit)?,
            None => None,
        };
        let offset = match offset {
            Some(e) => bind(e, "OFFSET", Condition::InvalidRowCountInOffset)?,
            None => None,
        };
        Ok((limit, offset))
    }

    fn values(&self, values: &ast::Values, outer: Option<&Level<'_>>, ctes: Option<&Ctes>) -> Result<BoundQuery> {
        let scope = Scope::default();
        let asked = Asked::default();
        let level = Level { outer, ctes, ..Level::bare(&scope, &asked, "VALUES") };
        let mut rows: Vec<Vec<Bound>> = Vec::with_capacity(values.rows.len());
        for row in &values.rows {
            let row = row.content.iter().map(|e| self.expr(&level, e)).collect::<Result<Vec<_>>>()?;
            if rows.first().is_some_and(|first| first.len() != row.len()) {
                return Err(Error::new(Condition::SyntaxError, "VALUES lists must all be the same length"));
            }
            rows.push(row);
        }
        let width = rows.first().map_or(0, Vec::len);
        let mut columns: Vec<Vec<Expr>> = Vec::with_capacity(width);
        let mut fields = Vec::with_capacity(width);
        let mut outputs = Vec::with_capacity(width);
        for i in 0..width {
            let column: Vec<Bound> = rows.iter().filter_map(|r| r.get(i).cloned()).collect();
            let all_open = column.iter().all(Bound::is_open);
            let (column, common) = self.unify(column, "VALUES")?;
            let data = column.first().map_or_else(|| types::data_type(&common), |b| b.data.clone());
            let name = format!("column{}", i + 1);
            fields.push(Field::new(&name, data.clone(), true));
            outputs.push(Output {
                label: name.clone(),
                column: Column::new_unqualified(name),
                r#type: if all_open { Type::Unknown } else { common },
                data,
                names: column.first().map_or(Names::Relation, |b| b.names),
                source: None,
                parameter: None,
            });
            columns.push(column.into_iter().map(|b| b.expr).collect());
        }
        let count = rows.len();
        let mut by_row: Vec<Vec<Expr>> = (0..count).map(|_| Vec::with_capacity(width)).collect();
        for column in columns {
            for (row, e) in by_row.iter_mut().zip(column) {
                row.push(e);
            }
        }
        if by_row.iter().flatten().any(|e| super::from::has_subquery(e) || super::group::contains(e, is_outer)) {
            return self.values_as_union(by_row, outputs);
        }
        let schema = DFSchema::from_unqualified_fields(fields.into(), HashMap::new()).map_err(refused)?;
        let plan = LogicalPlan::Values(Values { schema: Arc::new(schema), values: by_row });
        Ok(BoundQuery { plan, outputs })
    }

    /// VALUES whose expressions a plan of constants cannot hold.
    fn values_as_union(&self, rows: Vec<Vec<Expr>>, outputs: Vec<Output>) -> Result<BoundQuery> {
        let mut inputs = Vec::with_capacity(rows.len());
        for row in rows {
            let exprs = row.into_iter().zip(&outputs).map(|(e, o)| e.alias(&o.column.name)).collect();
            inputs.push(Arc::new(projection(super::from::one_row(), exprs)?));
        }
        let plan = match <[Arc<LogicalPlan>; 1]>::try_from(inputs) {
            Ok([one]) => Arc::unwrap_or_clone(one),
            Err(inputs) => LogicalPlan::Union(Union::try_new(inputs).map_err(refused)?),
        };
        Ok(BoundQuery { plan, outputs })
    }

    fn set_operation(
        &self,
        left: &ast::SetExpr,
        op: ast::SetOperator,
        quantifier: ast::SetQuantifier,
        right: &ast::SetExpr,
        outer: Option<&Level<'_>>,
        ctes: Option<&Ctes>,
    ) -> Result<BoundQuery> {
        let none = Tail::default();
        let all = match quantifier {
            ast::SetQuantifier::All => true,
            ast::SetQuantifier::Distinct | ast::SetQuantifier::None => false,
            other => return Err(Error::unsupported(format!("{op} {other}"))),
        };
        let l = self.body(left, &none, outer, ctes)?;
        let r = self.body(right, &none, outer, ctes)?;
        let word = match op {
            ast::SetOperator::Union => "UNION",
            ast::SetOperator::Intersect => "INTERSECT",
            ast::SetOperator::Except => "EXCEPT",
            ast::SetOperator::Minus => {
                return Err(Error::new(Condition::SyntaxError, "syntax error at or near \"minus\""));
            }
        };
        let (l, r, outputs) = self.matched(l, r, word)?;
        let plan = match op {
            ast::SetOperator::Union => {
                let plan = LogicalPlan::Union(Union::try_new(vec![Arc::new(l), Arc::new(r)]).map_err(refused)?);
                if all { plan } else { self.distinct(plan, &outputs)? }
            }
            _ => self.kept(l, r, &outputs, op == ast::SetOperator::Intersect, all)?,
        };
        Ok(BoundQuery { plan, outputs })
    }

    /// Both sides with columns of the same types and names.
    fn matched(&self, l: BoundQuery, r: BoundQuery, word: &str) -> Result<(LogicalPlan, LogicalPlan, Vec<Output>)> {
        if l.outputs.len() != r.outputs.len() {
            return Err(Error::new(
                Condition::SyntaxError,
                format!("each {word} query must have the same number of columns"),
            ));
        }
        let mut sides = [Vec::with_capacity(l.outputs.len()), Vec::with_capacity(l.outputs.len())];
        let mut outputs = Vec::with_capacity(l.outputs.len());
        for (i, (a, b)) in l.outputs.iter().zip(&r.outputs).enumerate() {
            let both = vec![self.reopened(a, &l.plan), self.reopened(b, &r.plan)];
            let all_open = both.iter().all(Bound::is_open);
            let (both, common) = self.unify(both, word)?;
            let name = format!("c{i}");
            for (side, bound) in sides.iter_mut().zip(&both) {
                side.push(bound.expr.clone().alias(&name));
            }
            outputs.push(Output {
                label: a.label.clone(),
                column: Column::new_unqualified(name),
                r#type: if all_open { Type::Unknown } else { common },
                data: both.first().map_or_else(|| a.data.clone(), |b| b.data.clone()),
                names: a.names,
                source: None,
                parameter: None,
            });
        }
        let [left, right] = sides;
        Ok((projection(l.plan, left)?, projection(r.plan, right)?, outputs))
    }

    /// An output as an expression; a literal or parameter whose type is open is
    /// what it was.
    fn reopened(&self, output: &Output, plan: &LogicalPlan) -> Bound {
        let column = Expr::Column(output.column.clone());
        let bound =
            Bound { names: output.names, ..Bound::with_data(column, output.r#type.clone(), output.data.clone()) };
        if output.r#type != Type::Unknown {
            return bound;
        }
        if let Some(n) = output.parameter {
            return Bound { form: Form::Parameter(n), ..coerce::parameter(n, &Type::Unknown) };
        }
        let literal = match plan {
            LogicalPlan::Projection(p) => p.expr.iter().find_map(|e| match e {
                Expr::Alias(a) if a.name == output.column.name => match a.expr.as_ref() {
                    Expr::Literal(ScalarValue::Utf8View(text), _) => Some(text.clone()),
                    _ => None,
                },
                _ => None,
            }),
            _ => None,
        };
        match literal {
            Some(Some(text)) => super::literal::open_text(&text),
            Some(None) => super::literal::open_null(),
            // Text by now, converted when it runs.
            None => Bound { r#type: Type::Text, ..bound },
        }
    }

    /// INTERSECT and EXCEPT: rows numbered among their equals, and joined.
    fn kept(
        &self,
        l: LogicalPlan,
        r: LogicalPlan,
        outputs: &[Output],
        intersect: bool,
        all: bool,
    ) -> Result<LogicalPlan> {
        let (mut l, mut r) = (l, r);
        if all {
            l = self.numbered(l, outputs)?;
            r = self.numbered(r, outputs)?;
        } else {
            l = self.distinct(l, outputs)?;
        }
        let keyed = |plan: LogicalPlan, prefix: &str| -> Result<(LogicalPlan, Vec<Column>)> {
            let mut exprs: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
            let mut keys = Vec::with_capacity(outputs.len() + 1);
            for (i, o) in outputs.iter().enumerate() {
                let bound = Bound::with_data(Expr::Column(o.column.clone()), o.r#type.clone(), o.data.clone());
                let name = format!("{prefix}{i}");
                exprs.push(coerce::key(&bound).alias(&name));
                keys.push(Column::new_unqualified(name));
            }
            if all {
                let name = format!("{prefix}n");
                exprs.push(Expr::Column(Column::new_unqualified("among#")).alias(&name));
                keys.push(Column::new_unqualified(name));
            }
            Ok((projection(plan, exprs)?, keys))
        };
        let (l, left_keys) = keyed(l, "left#")?;
        let (r, right_keys) = keyed(r, "right#")?;
        let only_keys = right_keys.iter().cloned().map(Expr::Column).collect();
        let r = projection(r, only_keys)?;
        let kind = if intersect { JoinType::LeftSemi } else { JoinType::LeftAnti };
        let joined = LogicalPlanBuilder::from(l)
            .join_detailed(r, kind, (left_keys, right_keys), None, NullEquality::NullEqualsNull)
            .and_then(LogicalPlanBuilder::build)
            .map_err(refused)?;
        projection(joined, outputs.iter().map(|o| Expr::Column(o.column.clone())).collect())
    }

    fn numbered(&self, plan: LogicalPlan, outputs: &[Output]) -> Result<LogicalPlan> {
        use datafusion::logical_expr::expr::WindowFunction;
        use datafusion::logical_expr::{WindowFrame, WindowFunctionDefinition};
        let udwf = datafusion::functions_window::row_number::row_number_udwf();
        let mut fun = WindowFunction::new(WindowFunctionDefinition::WindowUDF(udwf), Vec::new());
        fun.params.partition_by = outputs
            .iter()
            .map(|o| coerce::key(&Bound::with_data(Expr::Column(o.column.clone()), o.r#type.clone(), o.data.clone())))
            .collect();
        fun.params.window_frame = WindowFrame::new(None);
        let numbered = Expr::WindowFunction(Box::new(fun)).alias("among#");
        let window = datafusion::logical_expr::logical_plan::Window::try_new(vec![numbered], Arc::new(plan));
        window.map(LogicalPlan::Window).map_err(refused)
    }

    /// A query of WITH RECURSIVE that reads itself.
    pub fn recursive(
        &self,
        cte: &ast::Cte,
        name: &str,
        outer: Option<&Level<'_>>,
        ctes: Option<&Ctes>,
    ) -> Result<BoundQuery> {
        let shape = || {
            Error::new(
                Condition::InvalidRecursion,
                format!(
                    "recursive query \"{name}\" does not have the form non-recursive-term UNION [ALL] recursive-term"
                ),
            )
        };
        let ast::SetExpr::SetOperation { left, op: ast::SetOperator::Union, set_quantifier, right } =
            cte.query.body.as_ref()
        else {
            return Err(shape());
        };
        if cte.query.order_by.is_some() || cte.query.limit_clause.is_some() {
            return Err(Error::unsupported("ORDER BY or LIMIT in a recursive query"));
        }
        let with = cte.query.with.as_ref().map(|w| self.with(w, outer, ctes)).transpose()?.flatten();
        let ctes = with.as_ref().or(ctes);
        let distinct = *set_quantifier != ast::SetQuantifier::All;
        let none = Tail::default();
        let first = self.decide_texts(self.body(left, &none, outer, ctes)?)?;
        let mut outputs = first.outputs.clone();
        super::from::relabel(&mut outputs, name, &cte.alias)?;
        let table = format!("{name}#{}", self.number());
        let fields: Vec<Field> = outputs.iter().map(|o| Field::new(&o.column.name, o.data.clone(), true)).collect();
        let work = CteWorkTable::new(&table, Arc::new(Schema::new(fields)));
        let scan = TableScan::try_new(
            TableReference::bare(table.as_str()),
            provider_as_source(Arc::new(work)),
            None,
            Vec::new(),
            None,
        )
        .map_err(refused)?;
        let own = Cte { name: name.to_owned(), plan: LogicalPlan::TableScan(scan), outputs: outputs.clone() };
        let inner = Ctes { cte: Rc::new(own), rest: ctes.cloned().map(Rc::new) };
        let second = self.body(right, &none, outer, Some(&inner))?;
        if second.outputs.len() != outputs.len() {
            return Err(Error::new(Condition::SyntaxError, "each UNION query must have the same number of columns"));
        }
        let mut exprs = Vec::with_capacity(outputs.len());
        for (i, (a, b)) in outputs.iter().zip(&second.outputs).enumerate() {
            let bound = self.reopened(b, &second.plan);
            let was = coerce::open_type(&bound);
            let same = crate::expr::cast::without_modifier(&a.r#type);
            let bound = self.implicit(bound, &same).map_err(|_| {
                Error::new(
                    Condition::DatatypeMismatch,
                    format!(
                        "recursive query \"{name}\" column {} has type {} in non-recursive term but type {} overall",
                        i + 1,
                        coerce::shown(&a.r#type),
                        coerce::shown(&was)
                    ),
                )
                .hint("Cast the output of the non-recursive term to the correct type.")
            })?;
            let bound = match &a.data {
                datafusion::arrow::datatypes::DataType::Decimal128(_, s) if bound.data != a.data => {
                    coerce::fixed(bound, u8::try_from(*s).unwrap_or(0))
                }
                _ if bound.data != a.data => coerce::free(bound),
                _ => bound,
            };
            exprs.push(bound.expr.alias(&a.column.name));
        }
        let second = projection(second.plan, exprs)?;
        let plan = LogicalPlanBuilder::from(first.plan)
            .to_recursive_query(table, second, distinct)
            .and_then(LogicalPlanBuilder::build)
            .map_err(refused)?;
        Ok(BoundQuery { plan, outputs })
    }

    /// Literals and parameters that nothing has given a type are text.
    pub fn decide_texts(&self, mut bound: BoundQuery) -> Result<BoundQuery> {
        for output in &mut bound.outputs {
            if output.r#type == Type::Unknown {
                output.r#type = Type::Text;
                output.parameter = None;
            }
        }
        Ok(bound)
    }
}

fn column_of(o: &Output) -> ScopeColumn {
    ScopeColumn {
        relation: None,
        name: o.label.clone(),
        column: o.column.clone(),
        r#type: if o.r#type == Type::Unknown { Type::Text } else { o.r#type.clone() },
        data: o.data.clone(),
        names: o.names,
        source: o.source,
        hidden: false,
        merged: false,
    }
}

fn is_outer(e: &Expr) -> bool {
    matches!(e, Expr::OuterReferenceColumn(..))
}

/// Whether a query reads a table of this name anywhere.
pub fn mentions(query: &ast::Query, name: &str) -> bool {
    let flow = ast::visit_relations(query, |relation| match relation.0.as_slice() {
        [one] if one.as_ident().is_some_and(|i| fold(i) == name) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    flow.is_break()
}
