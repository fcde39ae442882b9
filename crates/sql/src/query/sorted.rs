//! Keeps the order of a sorted subquery for an aggregate that has none of its own.
//!
//! `SELECT string_agg(name, ', ') FROM (SELECT name FROM t ORDER BY name) s` joins
//! the names in order. No standard says so, but PostgreSQL does it and its
//! documentation recommends it. DataFusion removes sorts that no operator above
//! requires; one with a limit it keeps, so these sorts get one that is never
//! reached.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::logical_plan::Sort;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// Above any number of rows one aggregate can hold.
const ALL_ROWS: usize = u32::MAX as usize;

/// The rule of this module; to be run after DataFusion's own.
#[derive(Debug)]
pub struct KeepOrders;

impl OptimizerRule for KeepOrders {
    fn name(&self) -> &str {
        "keep_orders"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _: &dyn OptimizerConfig,
    ) -> datafusion::common::Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Aggregate(mut aggregate) = plan else { return Ok(Transformed::no(plan)) };
        if !aggregate.aggr_expr.iter().any(heeds_order) {
            return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
        }
        let input = kept(aggregate.input.as_ref().clone())?;
        aggregate.input = Arc::new(input.data);
        Ok(Transformed::new_transformed(LogicalPlan::Aggregate(aggregate), input.transformed))
    }
}

fn heeds_order(e: &Expr) -> bool {
    match e {
        Expr::Alias(alias) => heeds_order(&alias.expr),
        Expr::AggregateFunction(f) => f.func.order_sensitivity() == AggregateOrderSensitivity::SoftRequirement,
        _ => false,
    }
}

/// `plan`, with the sort at its top kept.
fn kept(plan: LogicalPlan) -> datafusion::common::Result<Transformed<LogicalPlan>> {
    match plan {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
            Ok(Transformed::yes(LogicalPlan::Sort(Sort { fetch: Some(ALL_ROWS), ..sort })))
        }
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Filter(_) => plan.map_children(kept),
        other => Ok(Transformed::no(other)),
    }
}
