//! GROUP BY, and what may stand above it.
//!
//! Above an aggregation there are only its groups and its results. Expressions
//! were bound over FROM's columns before it was known that there is one; here
//! the parts of them that are grouped by become columns of the aggregation, and
//! a column that remains is PostgreSQL's "must appear in the GROUP BY clause".

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError};
use datafusion::functions_aggregate::grouping::grouping_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, Cast};
use datafusion::logical_expr::logical_plan::Aggregate;
use datafusion::logical_expr::{Expr, GroupingSet, LogicalPlan};
use datafusion::sql::sqlparser::ast;
use polity_base::Type;

use super::bound::Bound;
use super::coerce;
use super::expr::strip;
use super::scope::{Level, Scope};
use super::select::Item;
use super::{Binder, refused};
use crate::catalog::name::fold;
use crate::error::{Condition, Error, Result};

/// What a SELECT groups by.
#[derive(Default)]
pub struct Groups {
    /// The expressions, each once
    pub exprs: Vec<Bound>,
    /// The sets of expressions, by their places; `None`: all of them, once
    pub sets: Option<Vec<Vec<usize>>>,
    /// Whether there is a GROUP BY clause
    pub present: bool,
}

/// Turns expressions over FROM's columns into expressions over an aggregation's.
pub struct Above {
    groups: Vec<(Expr, Expr)>,
    known: HashMap<Column, ()>,
    names: HashMap<Column, String>,
}

/// Grouping sets beyond this are refused.
const MOST_SETS: usize = 4_096;

impl Binder<'_> {
    /// The GROUP BY clause.
    pub fn groups(&self, level: &Level<'_>, clause: &ast::GroupByExpr, items: &[Item]) -> Result<Groups> {
        let ast::GroupByExpr::Expressions(exprs, modifiers) = clause else {
            return Err(Error::unsupported("GROUP BY ALL"));
        };
        if let Some(modifier) = modifiers.first() {
            return Err(Error::unsupported(format!("GROUP BY {modifier}")));
        }
        let mut groups = Groups { present: !exprs.is_empty(), ..Groups::default() };
        let mut sets: Vec<Vec<usize>> = vec![Vec::new()];
        let mut plain = true;
        for e in exprs {
            let alternatives = self.grouping_element(level, e, items, &mut groups.exprs)?;
            plain &= alternatives.len() == 1;
            if sets.len() * alternatives.len() > MOST_SETS {
                return Err(Error::new(Condition::StatementTooComplex, "too many grouping sets present")
                    .detail(format!("There can be {MOST_SETS}.")));
            }
            let mut product = Vec::with_capacity(sets.len() * alternatives.len());
            for set in &sets {
                for more in &alternatives {
                    let mut both = set.clone();
                    both.extend(more.iter().filter(|i| !set.contains(i)));
                    product.push(both);
                }
            }
            sets = product;
        }
        if !plain {
            groups.sets = Some(sets);
        }
        Ok(groups)
    }

    /// The sets one element of GROUP BY stands for.
    fn grouping_element(
        &self,
        level: &Level<'_>,
        e: &ast::Expr,
        items: &[Item],
        exprs: &mut Vec<Bound>,
    ) -> Result<Vec<Vec<usize>>> {
        let mut place = |e: &ast::Expr| self.group_item(level, e, items, exprs);
        let mut places = |list: &[ast::Expr]| list.iter().map(&mut place).collect::<Result<Vec<usize>>>();
        match e {
            ast::Expr::Rollup(lists) => {
                let lists = lists.iter().map(|l| places(l)).collect::<Result<Vec<_>>>()?;
                Ok((0..=lists.len()).rev().map(|n| lists.iter().take(n).flatten().copied().collect()).collect())
            }
            ast::Expr::Cube(lists) => {
                if lists.len() > 12 {
                    return Err(Error::new(Condition::StatementTooComplex, "CUBE is limited to 12 elements"));
                }
                let lists = lists.iter().map(|l| places(l)).collect::<Result<Vec<_>>>()?;
                let all = 1usize << lists.len();
                Ok((0..all)
                    .map(|mask| {
                        let kept = lists.iter().enumerate().filter(|(i, _)| mask & (1 << (lists.len() - 1 - i)) == 0);
                        kept.flat_map(|(_, l)| l.iter().copied()).collect()
                    })
                    .collect())
            }
            ast::Expr::GroupingSets(lists) => {
                let mut sets = Vec::new();
                for list in lists {
                    match list.as_slice() {
                        [one @ (ast::Expr::Rollup(_) | ast::Expr::Cube(_) | ast::Expr::GroupingSets(_))] => {
                            sets.extend(self.grouping_element(level, one, items, exprs)?);
                        }
                        many => {
                            let set = many.iter().map(|e| self.group_item(level, e, items, exprs));
                            sets.push(set.collect::<Result<_>>()?);
                        }
                    }
                }
                Ok(sets)
            }
            ast::Expr::Tuple(list) => Ok(vec![places(list)?]),
            other => Ok(vec![vec![place(other)?]]),
        }
    }

    /// One expression of GROUP BY: by number, by a column of FROM, by a label,
    /// or as it is.
    fn group_item(&self, level: &Level<'_>, e: &ast::Expr, items: &[Item], exprs: &mut Vec<Bound>) -> Result<usize> {
        let bound = match strip(e) {
            ast::Expr::Value(v) => match &v.value {
                ast::Value::Number(text, _) => match text.parse::<usize>() {
                    Ok(n) => items.get(n.wrapping_sub(1)).map(|i| i.bound.clone()).ok_or_else(|| {
                        super::at(
                            Error::new(
                                Condition::InvalidColumnReference,
                                format!("GROUP BY position {n} is not in select list"),
                            ),
                            v.span,
                        )
                    })?,
                    Err(_) => return Err(Error::new(Condition::SyntaxError, "non-integer constant in GROUP BY")),
                },
                _ => return Err(Error::new(Condition::SyntaxError, "non-integer constant in GROUP BY")),
            },
            ast::Expr::Identifier(ident) => {
                let name = fold(ident);
                match level.scope.find(None, &name)? {
                    Some(column) => column.bound(false),
                    None => match items.iter().find(|i| i.label == name && !i.from_star) {
                        Some(item) => item.bound.clone(),
                        None => self.expr(level, e)?,
                    },
                }
            }
            _ => self.expr(level, e)?,
        };
        if contains(&bound.expr, |e| is_asked(e, "agg#")) {
            return Err(Error::new(Condition::GroupingError, "aggregate functions are not allowed in GROUP BY"));
        }
        if contains(&bound.expr, |e| is_asked(e, "win#")) {
            return Err(Error::new(Condition::WindowingError, "window functions are not allowed in GROUP BY"));
        }
        let bound = self.decided(bound)?;
        Ok(match exprs.iter().position(|b| b.expr == bound.expr) {
            Some(at) => at,
            None => {
                exprs.push(bound);
                exprs.len() - 1
            }
        })
    }

    /// The aggregation, and what turns expressions into ones above it.
    pub fn aggregation(
        &self,
        plan: LogicalPlan,
        scope: &Scope,
        mut groups: Groups,
        aggregates: Vec<(Expr, String)>,
        used: &[&Expr],
    ) -> Result<(LogicalPlan, Above)> {
        if groups.sets.is_none() {
            add_dependent(scope, &mut groups, used);
        }
        let mut above = Above { groups: Vec::new(), known: HashMap::new(), names: HashMap::new() };
        for column in &scope.columns {
            let name = match &column.relation {
                Some(relation) => format!("{relation}.{}", column.name),
                None => column.name.clone(),
            };
            above.names.insert(column.column.clone(), name);
        }
        let mut group_exprs = Vec::with_capacity(groups.exprs.len());
        let mut aggregate_exprs = Vec::with_capacity(aggregates.len());
        for (i, bound) in groups.exprs.iter().enumerate() {
            let has_key = coerce::has_key(&bound.r#type, &bound.data);
            let (grouped, output) = match &bound.expr {
                Expr::Column(c) if !has_key => (bound.expr.clone(), c.clone()),
                other => {
                    let name = format!("group#{}", self.number());
                    let grouped = if has_key { coerce::key(bound) } else { other.clone() };
                    (grouped.alias(&name), Column::new_unqualified(name))
                }
            };
            // Shown is the first of the values that are equal.
            let shown = if has_key {
                let name = format!("group#{}", self.number());
                let first = crate::query::function::fold::Fold::udaf(
                    "polity_first",
                    crate::query::function::fold::Kind::First,
                    vec![bound.r#type.clone()],
                    Vec::new(),
                    false,
                    bound.data.clone(),
                    self.zone(),
                );
                let params = AggregateFunctionParams {
                    args: vec![bound.expr.clone()],
                    distinct: false,
                    filter: None,
                    order_by: Vec::new(),
                    null_treatment: None,
                };
                aggregate_exprs.push(Expr::AggregateFunction(AggregateFunction { func: first, params }).alias(&name));
                Column::new_unqualified(name)
            } else {
                output
            };
            above.known.insert(shown.clone(), ());
            above.groups.push((bound.expr.clone(), Expr::Column(shown)));
            debug_assert_eq!(i, above.groups.len() - 1);
            group_exprs.push(grouped);
        }
        for (expr, name) in aggregates {
            above.known.insert(Column::new_unqualified(&name), ());
            aggregate_exprs.push(expr.alias(name));
        }
        let group_exprs = match groups.sets {
            None => group_exprs,
            Some(sets) => {
                let pick = |set: Vec<usize>| set.into_iter().filter_map(|i| group_exprs.get(i).cloned()).collect();
                vec![Expr::GroupingSet(GroupingSet::GroupingSets(sets.into_iter().map(pick).collect()))]
            }
        };
        let aggregate = Aggregate::try_new(Arc::new(plan), group_exprs, aggregate_exprs).map_err(refused)?;
        Ok((LogicalPlan::Aggregate(aggregate), above))
    }
}

/// Grouping by a table's primary key fixes all its columns: those that are used
/// join the groups.
fn add_dependent(scope: &Scope, groups: &mut Groups, used: &[&Expr]) {
    for relation in &scope.relations {
        let Some((_, key)) = &relation.table else { continue };
        let of_relation = |c: &Column| c.relation.as_ref().is_some_and(|r| r.table() == relation.alias);
        let grouped = |name: &String| {
            groups.exprs.iter().any(|b| match &b.expr {
                Expr::Column(c) => of_relation(c) && c.name == *name,
                _ => false,
            })
        };
        if key.is_empty() || !key.iter().all(grouped) {
            continue;
        }
        for column in scope.columns.iter().filter(|c| of_relation(&c.column)) {
            let wanted = Expr::Column(column.column.clone());
            let is_used = used.iter().any(|e| contains(e, |x| *x == wanted));
            if is_used && !groups.exprs.iter().any(|b| b.expr == wanted) {
                groups.exprs.push(column.bound(false));
            }
        }
    }
}

impl Above {
    /// The expression above the aggregation.
    pub fn rewrite(&self, expr: Expr) -> Result<Expr> {
        let result = expr.transform_down(|e| {
            if let Some((_, output)) = self.groups.iter().find(|(g, _)| *g == e) {
                return Ok(Transformed::new(output.clone(), true, TreeNodeRecursion::Jump));
            }
            if let Expr::Column(c) = &e
                && !self.known.contains_key(c)
                && !is_asked(&e, "win#")
                && !is_asked(&e, "set#")
            {
                return Err(DataFusionError::External(Box::new(self.ungrouped(c))));
            }
            Ok(Transformed::no(e))
        });
        result.map(|t| t.data).map_err(refused)
    }

    fn ungrouped(&self, column: &Column) -> Error {
        let name = self.names.get(column).cloned().unwrap_or_else(|| column.name.clone());
        Error::new(
            Condition::GroupingError,
            format!("column \"{name}\" must appear in the GROUP BY clause or be used in an aggregate function"),
        )
    }
}

/// Whether some part of `expr` is what `is` says.
pub fn contains(expr: &Expr, is: impl Fn(&Expr) -> bool) -> bool {
    expr.exists(|e| Ok(is(e))).unwrap_or(false)
}

/// Whether `e` is a column that stands for an aggregate (`agg#`), a window
/// function (`win#`) or a set (`set#`).
pub fn is_asked(e: &Expr, prefix: &str) -> bool {
    matches!(e, Expr::Column(c) if c.relation.is_none() && c.name.starts_with(prefix))
}

/// `GROUPING(a, b, …)`.
pub fn grouping(level: &Level<'_>, args: Vec<Bound>) -> Result<Bound> {
    if !level.allowed.aggregates {
        return Err(Error::new(
            Condition::GroupingError,
            format!("grouping operations are not allowed in {}", level.allowed.clause),
        ));
    }
    let exprs: Vec<Expr> = args.into_iter().map(|b| b.expr).collect();
    let params = AggregateFunctionParams {
        args: exprs,
        distinct: false,
        filter: None,
        order_by: Vec::new(),
        null_treatment: None,
    };
    let expr = Expr::AggregateFunction(AggregateFunction { func: grouping_udaf(), params });
    let mut asked = level.asked.aggregates.borrow_mut();
    let name = format!("agg#grouping{}", asked.len());
    asked.push((expr, name.clone()));
    let column = Expr::Column(Column::new_unqualified(name));
    Ok(Bound::new(Expr::Cast(Cast::new(Box::new(column), DataType::Int32)), Type::Int4))
}
