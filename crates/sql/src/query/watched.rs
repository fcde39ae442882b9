//! Plans that can be ended while they run, and that let others run.
//!
//! Most operators of DataFusion pass batches on and are done with one soon. Those
//! between a slow consumer and a generous producer never return to the scheduler:
//! an aggregate over a cross join takes batch after batch in one poll. So every
//! operator of a plan is wrapped: before it gives a batch it asks whether the
//! statement should end, and uses up a unit of its task's budget, which makes the
//! task yield now and then.
//!
//! A join whose condition rejects nearly everything gives no batch for long; its
//! condition is wrapped too. It cannot yield, so a task whose budget is used up
//! computes it as a thread of its own, and the scheduler goes on without it.
//!
//! A wrapper shows itself nowhere: not in EXPLAIN, not to whoever looks for the
//! operator inside.

use std::any::Any;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, Statistics};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, NestedLoopJoinExecBuilder};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::Stream;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::coop;

use crate::session::Watch;

/// The plan with each of its operators, and the conditions of its joins, watched.
pub fn watched(plan: Arc<dyn ExecutionPlan>, watch: &Watch) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let inner = with_watched_condition(node, watch)?;
        Ok(Transformed::yes(Watched { inner, watch: watch.clone() }.shared()))
    })
    .data()
}

fn with_watched_condition(node: Arc<dyn ExecutionPlan>, watch: &Watch) -> Result<Arc<dyn ExecutionPlan>> {
    let wrapped = |filter: &JoinFilter| {
        let expression = Condition { inner: filter.expression().clone(), watch: watch.clone() };
        JoinFilter::new(Arc::new(expression), filter.column_indices().to_vec(), filter.schema().clone())
    };
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
        && let Some(filter) = join.filter()
    {
        let join = NestedLoopJoinExecBuilder::from(join).with_filter(Some(wrapped(filter))).build()?;
        return Ok(Arc::new(join));
    }
    if let Some(join) = node.downcast_ref::<HashJoinExec>()
        && let Some(filter) = join.filter()
    {
        return join.builder().with_filter(Some(wrapped(filter))).build_exec();
    }
    Ok(node)
}

/// One operator, watched.
struct Watched {
    inner: Arc<dyn ExecutionPlan>,
    watch: Watch,
}

impl Watched {
    fn shared(self) -> Arc<dyn ExecutionPlan> {
        Arc::new(self)
    }

    fn around(&self, inner: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Watched { inner, watch: self.watch.clone() }.shared()
    }
}

impl ExecutionPlan for Watched {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.inner.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.inner.maintains_input_order()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inner.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.inner.clone().replace_children(children, options).map(|inner| self.around(inner))
    }

    #[allow(deprecated)]
    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.inner.clone().with_new_children(children).map(|inner| self.around(inner))
    }

    /// A recursive query runs its inner side again and again.
    fn reset_state(self: Arc<Self>) -> Result<Arc<dyn ExecutionPlan>> {
        self.inner.clone().reset_state().map(|inner| self.around(inner))
    }

    /// How a recursive query hands its rows to its inner side.
    fn with_new_state(&self, state: Arc<dyn Any + Send + Sync>) -> Option<Arc<dyn ExecutionPlan>> {
        self.inner.with_new_state(state).map(|inner| self.around(inner))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let inner = self.inner.execute(partition, context)?;
        Ok(Box::pin(WatchedStream { inner, watch: self.watch.clone() }))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        self.inner.child_stats_requests(partition)
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        self.inner.statistics_from_inputs(inputs, args)
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl DisplayAs for Watched {
    fn fmt_as(&self, form: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(form, f)
    }
}

/// The batches of a watched operator.
struct WatchedStream {
    inner: SendableRecordBatchStream,
    watch: Watch,
}

impl Stream for WatchedStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Err(error) = self.watch.check() {
            return Poll::Ready(Some(Err(DataFusionError::External(Box::new(error)))));
        }
        let turn = std::task::ready!(coop::poll_proceed(context));
        let next = self.inner.as_mut().poll_next(context);
        if let Poll::Ready(batch) = &next {
            turn.made_progress();
            if let Some(Ok(batch)) = batch {
                use_up(batch.num_rows() / ROWS_A_UNIT);
            }
        }
        next
    }
}

/// A batch of 8,192 rows takes a sixteenth of what a task may do in one turn
/// (128 units): a turn takes milliseconds.
const ROWS_A_UNIT: usize = 1_024;

/// Uses up units of the task's budget; whether there were so many.
fn use_up(units: usize) -> bool {
    (0..units).all(|_| match coop::poll_proceed(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(turn) => {
            turn.made_progress();
            true
        }
        Poll::Pending => false,
    })
}

impl RecordBatchStream for WatchedStream {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }
}

/// The condition of a join, watched.
struct Condition {
    inner: Arc<dyn PhysicalExpr>,
    watch: Watch,
}

impl PhysicalExpr for Condition {
    fn data_type(&self, input: &Schema) -> Result<DataType> {
        self.inner.data_type(input)
    }

    fn nullable(&self, input: &Schema) -> Result<bool> {
        self.inner.nullable(input)
    }

    fn return_field(&self, input: &Schema) -> Result<FieldRef> {
        self.inner.return_field(input)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.watch.check().map_err(|error| DataFusionError::External(Box::new(error)))?;
        if use_up(1 + batch.num_rows() / ROWS_A_UNIT) || !may_block() {
            self.inner.evaluate(batch)
        } else {
            tokio::task::block_in_place(|| self.inner.evaluate(batch))
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let inner = children.pop().unwrap_or_else(|| self.inner.clone());
        Ok(Arc::new(Condition { inner, watch: self.watch.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

/// Whether the scheduler has threads to go on with.
fn may_block() -> bool {
    Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread)
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.inner, f)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Condition) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Condition {}

impl Hash for Condition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}
