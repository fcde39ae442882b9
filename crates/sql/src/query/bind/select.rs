//! One SELECT, in the order PostgreSQL computes it:
//!
//! ```text
//! FROM ─▶ WHERE ─▶ GROUP BY ─▶ HAVING ─▶ windows ─▶ sets ─▶ select list
//!                                              ─▶ DISTINCT ─▶ ORDER BY ─▶ LIMIT
//! ```

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::Column;
use datafusion::logical_expr::expr::Sort as SortExpr;
use datafusion::logical_expr::logical_plan::{Filter, Projection, Sort, Window};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan, LogicalPlanBuilder, Operator, WindowFunctionDefinition};
use datafusion::sql::sqlparser::ast::{self, Spanned};
use polity_base::Type;

use super::bound::{Bound, Form, Names};
use super::coerce;
use super::expr::strip;
use super::group::{contains, is_asked};
use super::operator::binary;
use super::query::Tail;
use super::scope::{Allowed, Asked, Ctes, Level, Output, Scope};
use super::window::sort;
use super::{Binder, BoundQuery, at, refused};
use crate::catalog::name::fold;
use crate::error::{Condition, Error, Result};

/// An item of the select list.
#[derive(Clone)]
pub struct Item {
    /// Its label
    pub label: String,
    /// What it is
    pub bound: Bound,
    /// The table column it is
    pub source: Option<(u32, i16)>,
    /// It came from `*`
    pub from_star: bool,
}

/// An item of ORDER BY: an item of the select list, or an expression of its own.
enum Ordered {
    Item(usize),
    Own(Bound),
}

impl Binder<'_> {
    /// Binds a SELECT with the ORDER BY and LIMIT that belong to it.
    pub fn select(
        &self,
        select: &ast::Select,
        tail: &Tail<'_>,
        outer: Option<&Level<'_>>,
        ctes: Option<&Ctes>,
    ) -> Result<BoundQuery> {
        refuse(select)?;
        let (mut plan, scope) = self.from(&select.from, outer, ctes)?;
        let asked = Asked::default();
        let level = Level {
            scope: &scope,
            outer,
            ctes,
            allowed: Allowed::plain("WHERE"),
            windows: &select.named_window,
            asked: &asked,
        };
        if let Some(selection) = &select.selection {
            let condition =
                super::condition(self, self.expr(&level, selection)?, "WHERE").map_err(|e| at(e, selection.span()))?;
            plan = self.filter(plan, condition.expr)?;
        }
        let mut items = self.items(&level.with(Allowed::all("the select list")), &select.projection)?;
        let groups = self.groups(&level.with(Allowed::all("GROUP BY")), &select.group_by, &items)?;
        let mut having = match &select.having {
            None => None,
            Some(e) => {
                let allowed = Allowed { clause: "HAVING", aggregates: true, windows: false, sets: false };
                Some(super::condition(self, self.expr(&level.with(allowed), e)?, "HAVING")?.expr)
            }
        };
        let mut on = match &select.distinct {
            Some(ast::Distinct::On(exprs)) => {
                let level = level.with(Allowed::all("DISTINCT ON"));
                exprs.iter().map(|e| self.order_item(&level, e, &items)).collect::<Result<Vec<_>>>()?
            }
            _ => Vec::new(),
        };
        let mut order = self.order(&level.with(Allowed::all("ORDER BY")), tail.order_by, &items)?;
        let aggregates = asked.aggregates.take();
        let mut windows = asked.windows.take();
        let mut sets = asked.sets.take();
        if groups.present || !aggregates.is_empty() || having.is_some() {
            let mut used: Vec<&Expr> = items.iter().map(|i| &i.bound.expr).collect();
            used.extend(having.iter());
            used.extend(windows.iter().chain(&sets).map(|(e, _)| e));
            used.extend(order.iter().filter_map(|(o, _)| own(o)));
            used.extend(on.iter().filter_map(own));
            let (aggregated, above) = self.aggregation(plan, &scope, groups, aggregates, &used)?;
            plan = aggregated;
            for item in &mut items {
                item.bound.expr = above.rewrite(item.bound.expr.clone())?;
            }
            having = having.map(|e| above.rewrite(e)).transpose()?;
            for (e, _) in windows.iter_mut().chain(&mut sets) {
                *e = above.rewrite(e.clone())?;
            }
            for o in order.iter_mut().map(|(o, _)| o).chain(&mut on) {
                if let Ordered::Own(bound) = o {
                    bound.expr = above.rewrite(bound.expr.clone())?;
                }
            }
        }
        if let Some(having) = having {
            plan = self.filter(plan, having)?;
        }
        plan = windowed(plan, windows)?;
        plan = self.unnested(plan, sets)?;
        self.finish(plan, items, order, on, select.distinct.as_ref(), tail)
    }

    /// The select list, `*` written out.
    fn items(&self, level: &Level<'_>, projection: &[ast::SelectItem]) -> Result<Vec<Item>> {
        let mut items = Vec::with_capacity(projection.len());
        for item in projection {
            match item {
                ast::SelectItem::UnnamedExpr(e) => {
                    let bound = self.expr(level, e)?;
                    items.push(Item {
                        label: label(e),
                        source: source(level.scope, &bound),
                        bound: one_column(bound)?,
                        from_star: false,
                    });
                }
                ast::SelectItem::ExprWithAlias { expr, alias } => {
                    let bound = self.expr(level, expr)?;
                    items.push(Item {
                        label: fold(alias),
                        source: source(level.scope, &bound),
                        bound: one_column(bound)?,
                        from_star: false,
                    });
                }
                ast::SelectItem::Wildcard(options) => {
                    plain_star(options)?;
                    if level.scope.relations.is_empty() {
                        return Err(Error::new(
                            Condition::SyntaxError,
                            "SELECT * with no tables specified is not valid",
                        ));
                    }
                    items.extend(level.scope.columns.iter().filter(|c| !c.hidden).map(star));
                }
                ast::SelectItem::QualifiedWildcard(ast::SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
                    plain_star(options)?;
                    let relation = name.0.last().and_then(|p| p.as_ident()).map(fold).unwrap_or_default();
                    if !level.scope.relations.iter().any(|r| r.name == relation) {
                        return Err(at(
                            Error::new(
                                Condition::UndefinedTable,
                                format!("missing FROM-clause entry for table \"{relation}\""),
                            ),
                            name.span(),
                        ));
                    }
                    let columns = &level.scope.columns;
                    let of = |c: &&super::scope::ScopeColumn| {
                        c.relation.as_deref() == Some(&relation) && (!c.hidden || c.merged)
                    };
                    items.extend(columns.iter().filter(of).map(star));
                }
                other => return Err(Error::unsupported(format!("the select item {other}"))),
            }
        }
        Ok(items)
    }

    fn order(
        &self,
        level: &Level<'_>,
        order_by: Option<&ast::OrderBy>,
        items: &[Item],
    ) -> Result<Vec<(Ordered, SortOptions)>> {
        let Some(order_by) = order_by else { return Ok(Vec::new()) };
        let ast::OrderByKind::Expressions(exprs) = &order_by.kind else {
            return Err(Error::unsupported("ORDER BY ALL"));
        };
        if order_by.interpolate.is_some() || exprs.iter().any(|e| e.with_fill.is_some()) {
            return Err(Error::unsupported("ORDER BY … WITH FILL"));
        }
        exprs.iter().map(|e| Ok((self.order_item(level, &e.expr, items)?, SortOptions(e.options)))).collect()
    }

    /// What an expression of ORDER BY or DISTINCT ON means: a number, a label,
    /// or an expression over FROM.
    fn order_item(&self, level: &Level<'_>, e: &ast::Expr, items: &[Item]) -> Result<Ordered> {
        let clause = level.allowed.clause;
        match strip(e) {
            ast::Expr::Value(v) => {
                let n = match &v.value {
                    ast::Value::Number(text, _) => text.parse::<usize>().ok(),
                    ast::Value::Placeholder(_) | ast::Value::Null => {
                        return Ok(Ordered::Own(self.decided(self.expr(level, e)?)?));
                    }
                    _ => None,
                };
                let Some(n) = n else {
                    return Err(at(
                        Error::new(Condition::SyntaxError, format!("non-integer constant in {clause}")),
                        v.span,
                    ));
                };
                if n == 0 || n > items.len() {
                    return Err(at(
                        Error::new(
                            Condition::InvalidColumnReference,
                            format!("{clause} position {n} is not in select list"),
                        ),
                        v.span,
                    ));
                }
                return Ok(Ordered::Item(n - 1));
            }
            ast::Expr::Identifier(ident) => {
                let name = fold(ident);
                let mut named = items.iter().enumerate().filter(|(_, i)| i.label == name);
                if let Some((first, item)) = named.next() {
                    if named.any(|(_, other)| other.bound.expr != item.bound.expr) {
                        return Err(at(
                            Error::new(Condition::AmbiguousColumn, format!("{clause} \"{name}\" is ambiguous")),
                            ident.span,
                        ));
                    }
                    return Ok(Ordered::Item(first));
                }
            }
            _ => {}
        }
        let bound = self.decided(self.expr(level, e)?)?;
        match items.iter().position(|i| i.bound.expr == bound.expr) {
            Some(i) => Ok(Ordered::Item(i)),
            None => Ok(Ordered::Own(bound)),
        }
    }

    /// The rows for which a condition holds.
    pub fn filter(&self, plan: LogicalPlan, condition: Expr) -> Result<LogicalPlan> {
        Ok(LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan)).map_err(refused)?))
    }

    fn finish(
        &self,
        plan: LogicalPlan,
        items: Vec<Item>,
        order: Vec<(Ordered, SortOptions)>,
        on: Vec<Ordered>,
        distinct: Option<&ast::Distinct>,
        tail: &Tail<'_>,
    ) -> Result<BoundQuery> {
        let mut outputs = Vec::with_capacity(items.len());
        let mut exprs = Vec::with_capacity(items.len() + order.len());
        let mut taken = HashSet::new();
        for item in items {
            let name = unique_name(&item.label, &mut taken);
            exprs.push(item.bound.expr.clone().alias(&name));
            outputs.push(Output {
                label: item.label,
                column: Column::new_unqualified(name),
                r#type: if item.bound.is_open() { Type::Unknown } else { item.bound.r#type },
                data: item.bound.data,
                names: item.bound.names,
                source: item.source,
                parameter: match item.bound.form {
                    Form::Parameter(n) => Some(n),
                    _ => None,
                },
            });
        }
        let is_distinct = matches!(distinct, Some(ast::Distinct::Distinct));
        let item_key = |i: usize| -> Expr {
            let Some(output) = outputs.get(i) else { return Expr::default() };
            coerce::key(&Bound::with_data(
                Expr::Column(output.column.clone()),
                output.r#type.clone(),
                output.data.clone(),
            ))
        };
        let mut hidden = 0usize;
        let mut place = |o: &Ordered, exprs: &mut Vec<Expr>| -> Result<Expr> {
            match o {
                Ordered::Item(i) => Ok(item_key(*i)),
                Ordered::Own(_) if is_distinct => Err(Error::new(
                    Condition::InvalidColumnReference,
                    "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
                )),
                Ordered::Own(bound) => {
                    hidden += 1;
                    let name = format!("sort#{hidden}");
                    exprs.push(coerce::key(bound).alias(&name));
                    Ok(Expr::Column(Column::new_unqualified(name)))
                }
            }
        };
        let mut sorts = Vec::with_capacity(order.len());
        for (o, options) in &order {
            sorts.push(sort(place(o, &mut exprs)?, &options.0));
        }
        let mut keys = Vec::with_capacity(on.len());
        for o in &on {
            keys.push(place(o, &mut exprs)?);
        }
        let visible = outputs.len();
        let has_hidden = exprs.len() > visible;
        let mut plan = projection(plan, exprs)?;
        if is_distinct {
            plan = self.distinct(plan, &outputs)?;
        }
        if !keys.is_empty() {
            for (key, given) in keys.iter().zip(&sorts) {
                if !sorts.is_empty() && !keys.contains(&given.expr) {
                    let _ = key;
                    return Err(Error::new(
                        Condition::InvalidColumnReference,
                        "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
                    ));
                }
            }
            plan = first_of_each(plan, keys, sorts.clone())?;
        }
        let hides = has_hidden || plan.schema().fields().len() > visible;
        if !sorts.is_empty() {
            plan = LogicalPlan::Sort(Sort { expr: sorts, input: Arc::new(plan), fetch: None });
        }
        plan = tail.limited(plan)?;
        if hides {
            let columns = outputs.iter().map(|o| Expr::Column(o.column.clone())).collect();
            plan = projection(plan, columns)?;
        }
        Ok(BoundQuery { plan, outputs })
    }

    /// Each row once.
    pub fn distinct(&self, plan: LogicalPlan, outputs: &[Output]) -> Result<LogicalPlan> {
        for output in outputs {
            if output.r#type == Type::Json {
                return Err(Error::new(
                    Condition::UndefinedFunction,
                    "could not identify an equality operator for type json",
                ));
            }
        }
        if !outputs.iter().any(|o| coerce::has_key(&o.r#type, &o.data)) {
            return Ok(LogicalPlan::Distinct(Distinct::All(Arc::new(plan))));
        }
        // Equal values that are shown differently are one: the first is shown.
        let bound = |o: &Output| Bound::with_data(Expr::Column(o.column.clone()), o.r#type.clone(), o.data.clone());
        let groups = super::group::Groups { exprs: outputs.iter().map(bound).collect(), sets: None, present: true };
        let (plan, above) = self.aggregation(plan, &Scope::default(), groups, Vec::new(), &[])?;
        let mut exprs = Vec::with_capacity(outputs.len());
        for output in outputs {
            exprs.push(above.rewrite(Expr::Column(output.column.clone()))?.alias(&output.column.name));
        }
        projection(plan, exprs)
    }

    /// Arrays whose elements become rows.
    pub fn unnested(&self, plan: LogicalPlan, sets: Vec<(Expr, String)>) -> Result<LogicalPlan> {
        if sets.is_empty() {
            return Ok(plan);
        }
        let mut exprs: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
        let columns: Vec<Column> = sets.iter().map(|(_, name)| Column::new_unqualified(name)).collect();
        exprs.extend(sets.into_iter().map(|(e, name)| e.alias(name)));
        let plan = projection(plan, exprs)?;
        super::from::unnest(plan, columns, false)
    }
}

/// The options of an ORDER BY item.
struct SortOptions(ast::OrderByOptions);

fn own(o: &Ordered) -> Option<&Expr> {
    match o {
        Ordered::Own(bound) => Some(&bound.expr),
        Ordered::Item(_) => None,
    }
}

fn star(column: &super::scope::ScopeColumn) -> Item {
    Item { label: column.name.clone(), bound: column.bound(false), source: column.source, from_star: true }
}

fn source(scope: &Scope, bound: &Bound) -> Option<(u32, i16)> {
    let Expr::Column(c) = &bound.expr else { return None };
    scope.columns.iter().find(|s| s.column == *c).and_then(|s| s.source)
}

/// What PostgreSQL calls a column without a name.
pub fn label(e: &ast::Expr) -> String {
    match strip(e) {
        ast::Expr::Subquery(query) => {
            let mut body = query.body.as_ref();
            while let ast::SetExpr::Query(inner) = body {
                body = inner.body.as_ref();
            }
            match body {
                ast::SetExpr::Select(select) => match select.projection.first() {
                    Some(ast::SelectItem::UnnamedExpr(e)) => label(e),
                    Some(ast::SelectItem::ExprWithAlias { alias, .. }) => fold(alias),
                    _ => "?column?".to_owned(),
                },
                _ => "?column?".to_owned(),
            }
        }
        other => crate::expr::label::label(other),
    }
}

fn one_column(bound: Bound) -> Result<Bound> {
    match bound.form {
        Form::Row(_) => Err(Error::unsupported("a row as a value").hint("Select its columns one by one.")),
        _ if bound.r#type == Type::Regclass || bound.is_vector() => Ok(bound),
        _ => Ok(Bound { names: Names::Relation, ..bound }),
    }
}

fn unique_name(label: &str, taken: &mut HashSet<String>) -> String {
    let base = if label.is_empty() { "column" } else { label };
    let mut name = base.to_owned();
    let mut n = 1;
    while !taken.insert(name.clone()) {
        n += 1;
        name = format!("{base}#{n}");
    }
    name
}

/// A projection.
pub fn projection(plan: LogicalPlan, exprs: Vec<Expr>) -> Result<LogicalPlan> {
    Ok(LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan)).map_err(refused)?))
}

fn plain_star(options: &ast::WildcardAdditionalOptions) -> Result<()> {
    let plain = options.opt_ilike.is_none()
        && options.opt_exclude.is_none()
        && options.opt_except.is_none()
        && options.opt_replace.is_none()
        && options.opt_rename.is_none();
    if plain {
        Ok(())
    } else {
        Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{options}\"")))
    }
}

/// The first row of each group of equal keys, in the order given.
fn first_of_each(plan: LogicalPlan, keys: Vec<Expr>, sorts: Vec<SortExpr>) -> Result<LogicalPlan> {
    use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
    let mut fun = WindowFunction::new(
        WindowFunctionDefinition::WindowUDF(datafusion::functions_window::row_number::row_number_udwf()),
        Vec::new(),
    );
    fun.params = WindowFunctionParams {
        partition_by: keys,
        window_frame: datafusion::logical_expr::WindowFrame::new(Some(false)),
        order_by: sorts,
        ..fun.params
    };
    fun.params.window_frame.regularize_order_bys(&mut fun.params.order_by).map_err(refused)?;
    let numbered = Expr::WindowFunction(Box::new(fun)).alias("place#");
    let plan = LogicalPlan::Window(Window::try_new(vec![numbered], Arc::new(plan)).map_err(refused)?);
    let first = Expr::Literal(datafusion::common::ScalarValue::UInt64(Some(1)), None);
    let is_first = binary(Expr::Column(Column::new_unqualified("place#")), Operator::Eq, first);
    LogicalPlanBuilder::from(plan).filter(is_first.expr).and_then(LogicalPlanBuilder::build).map_err(refused)
}

/// The window functions, those of one window together, the longest order first.
fn windowed(plan: LogicalPlan, windows: Vec<(Expr, String)>) -> Result<LogicalPlan> {
    let mut groups: Vec<(Vec<Expr>, Vec<SortExpr>, Vec<Expr>)> = Vec::new();
    for (expr, name) in windows {
        let Expr::WindowFunction(fun) = &expr else { continue };
        let (partition, order) = (fun.params.partition_by.clone(), fun.params.order_by.clone());
        let aliased = expr.clone().alias(name);
        match groups.iter_mut().find(|(p, o, _)| *p == partition && *o == order) {
            Some((_, _, members)) => members.push(aliased),
            None => groups.push((partition, order, vec![aliased])),
        }
    }
    groups.sort_by_key(|(p, o, _)| std::cmp::Reverse(p.len() + o.len()));
    let mut plan = plan;
    for (_, _, exprs) in groups {
        plan = LogicalPlan::Window(Window::try_new(exprs, Arc::new(plan)).map_err(refused)?);
    }
    Ok(plan)
}

fn refuse(select: &ast::Select) -> Result<()> {
    let refused = [
        (select.top.is_some(), "TOP"),
        (select.into.is_some(), "SELECT INTO"),
        (!select.lateral_views.is_empty(), "LATERAL VIEW"),
        (select.prewhere.is_some(), "PREWHERE"),
        (!select.connect_by.is_empty(), "CONNECT BY"),
        (!select.cluster_by.is_empty(), "CLUSTER BY"),
        (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
        (!select.sort_by.is_empty(), "SORT BY"),
        (select.qualify.is_some(), "QUALIFY"),
        (select.value_table_mode.is_some(), "AS STRUCT or AS VALUE"),
        (select.exclude.is_some(), "EXCLUDE"),
    ];
    match refused.iter().find(|(is, _)| *is) {
        Some((_, what)) => Err(Error::unsupported(what)),
        None => Ok(()),
    }
}

/// Whether an expression holds an aggregate's column.
pub fn has_aggregate(e: &Expr) -> bool {
    contains(e, |x| is_asked(x, "agg#"))
}
