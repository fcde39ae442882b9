//! Which correlated subqueries may be left to DataFusion to make joins of.
//!
//! It takes the conditions that refer to the outside out of the subquery and makes
//! them the join's. That is right where a condition may as well hold later: above
//! filters, projections, inner joins, and one aggregation, which it groups by the
//! columns of the conditions. It is also done, and wrong, below windows (which then
//! number the rows of all outer rows), limits, conditions on aggregates, and the
//! sides of outer joins that are filled up with NULLs. So what is right is listed
//! here, and the rest is run row by row.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType};
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};

/// Whether a join gives what this subquery would.
pub fn is_joinable(plan: &LogicalPlan) -> bool {
    if !refers(plan) {
        return true;
    }
    let own = own_references(plan);
    match plan {
        LogicalPlan::Projection(p) => own.is_simple && is_joinable(&p.input),
        LogicalPlan::Filter(f) => own.is_simple && !(refers(&f.input) && aggregates(&f.input)) && is_joinable(&f.input),
        LogicalPlan::SubqueryAlias(a) => is_joinable(&a.input),
        LogicalPlan::Sort(s) => own.none && s.fetch.is_none() && is_joinable(&s.input),
        LogicalPlan::Distinct(Distinct::All(input)) => is_joinable(input),
        LogicalPlan::Aggregate(a) => own.none && !aggregates(&a.input) && is_joinable(&a.input),
        LogicalPlan::Join(join) => {
            let sides = is_joinable(&join.left) && is_joinable(&join.right);
            sides
                && own.is_simple
                && !aggregates(plan)
                && match join.join_type {
                    JoinType::Inner => true,
                    JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => own.none && !refers(&join.right),
                    JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => own.none && !refers(&join.left),
                    _ => false,
                }
        }
        _ => false,
    }
}

/// The same for a subquery of which only matters which rows it has, as in EXISTS and
/// IN: an aggregation without groups has a row where there are none.
pub fn is_semi_joinable(plan: &LogicalPlan) -> bool {
    let one_row = |node: &LogicalPlan| matches!(node, LogicalPlan::Aggregate(a) if a.group_expr.is_empty());
    let found = plan.exists(|node| Ok(one_row(node) && refers(node)));
    is_joinable(plan) && !found.unwrap_or(true)
}

/// Whether a subquery within refers past the plan, which nothing above it would see.
pub fn refers_far(plan: &LogicalPlan) -> bool {
    let found = plan.exists(|node| {
        let mut far = false;
        let inputs = node.inputs();
        let is_known = |column: &Column| inputs.iter().any(|input| input.schema().has_column(column));
        node.apply_expressions(|e| {
            far |= e.exists(|x| {
                let subquery = match x {
                    Expr::Exists(e) => &e.subquery,
                    Expr::InSubquery(e) => &e.subquery,
                    Expr::ScalarSubquery(subquery) => subquery,
                    _ => return Ok(false),
                };
                let is_far = |e: &Expr| matches!(e, Expr::OuterReferenceColumn(_, c) if !is_known(c));
                Ok(subquery.outer_ref_columns.iter().any(is_far))
            })?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(far)
    });
    found.unwrap_or(true)
}

/// The plan without what does not matter to whether it has rows.
pub fn for_existence(plan: LogicalPlan) -> LogicalPlan {
    let has_room = |e: &Option<Box<Expr>>, is: fn(i64) -> bool| match e.as_deref() {
        None => true,
        Some(Expr::Literal(n, _)) => i64::try_from(n.clone()).is_ok_and(is),
        Some(_) => false,
    };
    match plan {
        LogicalPlan::Projection(p) => for_existence((*p.input).clone()),
        LogicalPlan::Sort(s) if s.fetch.is_none() => for_existence((*s.input).clone()),
        LogicalPlan::Limit(l) if has_room(&l.skip, |n| n == 0) && has_room(&l.fetch, |n| n > 0) => {
            for_existence((*l.input).clone())
        }
        other => other,
    }
}

/// Whether a plan refers to what is around it.
fn refers(plan: &LogicalPlan) -> bool {
    !plan.all_out_ref_exprs().is_empty()
}

/// Whether an aggregation below refers to what is around it.
fn aggregates(plan: &LogicalPlan) -> bool {
    let found = plan.exists(|node| Ok(matches!(node, LogicalPlan::Aggregate(_)) && refers(node)));
    found.unwrap_or(true)
}

/// What the expressions of a node refer to.
struct References {
    /// Nothing around it
    none: bool,
    /// Columns around it at most: no subquery within refers out of it
    is_simple: bool,
}

fn own_references(plan: &LogicalPlan) -> References {
    let mut own = References { none: true, is_simple: true };
    let walked = plan.apply_expressions(|e| {
        let outward = e.exists(|x| Ok(matches!(x, Expr::OuterReferenceColumn(..))))?;
        // What is run row by row takes outer columns as its arguments.
        let run = e.exists(|x| Ok(matches!(x, Expr::ScalarFunction(f) if f.func.as_async().is_some())))?;
        own.none &= !outward;
        own.is_simple &= !(outward && run);
        Ok(TreeNodeRecursion::Continue)
    });
    if walked.is_err() {
        own = References { none: false, is_simple: false };
    }
    own
}
