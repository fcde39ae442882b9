//! Running plans.
//!
//! A plan is optimised once, with its parameters and the time of day still open
//! as placeholders. A run fills these in, computes what has become constant (so
//! that key ranges can be read off filters), makes a physical plan against its
//! view, and gives rows as they are asked for.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::execution::context::ExecutionProps;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{ColumnarValue, Expr, LogicalPlan, Volatility};
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use polity_base::{Type, Value};
use tokio::sync::mpsc;

use super::RunEnv;
use super::bind::call::{NOW, SESSION};
use super::errors;
use super::scan::RunState;
use super::subplan::RunHandle;
use super::types;
use super::watched::watched;
use crate::error::{Error, Result};
use crate::expr::{Local, cast};
use crate::session::{RowSource, Watch};

/// One run of a plan: its session, its view, its parameters.
pub struct Running {
    state: SessionState,
    values: HashMap<String, (Value, Type)>,
    run: Arc<RunState>,
    watch: Watch,
}

impl Running {
    /// A run in a copy of `template`, over `state`.
    pub fn new(
        template: &SessionState,
        state: RunState,
        partitions: usize,
        values: HashMap<String, (Value, Type)>,
        subplans: bool,
    ) -> Arc<Running> {
        Arc::new_cyclic(|this| {
            let mut session = template.clone();
            let (watch, run) = (state.watch.clone(), Arc::new(state));
            let config = session.config_mut();
            config.set_extension(run.clone());
            let target = config.target_partitions();
            if target != partitions {
                config.options_mut().execution.target_partitions = partitions;
            }
            if subplans {
                config.options_mut().extensions.insert(RunHandle(this.clone()));
            }
            Running { state: session, values, run, watch }
        })
    }

    /// What it reads, and what its session remembers.
    pub fn run(&self) -> &RunState {
        &self.run
    }

    /// The plan with its placeholders filled in.
    pub fn filled(&self, plan: &LogicalPlan, more: &HashMap<String, ScalarValue>) -> Result<LogicalPlan> {
        let filled = plan.clone().transform_up_with_subqueries(|node| {
            node.map_expressions(|e| {
                let e = e.transform_up(|e| match e {
                    Expr::Placeholder(p) => self.value(&p, more).map(Transformed::yes),
                    other => Ok(Transformed::no(other)),
                })?;
                if e.transformed { e.data.transform_down(folded).map(|f| Transformed::yes(f.data)) } else { Ok(e) }
            })
        });
        filled.map(|t| t.data).map_err(errors::of)
    }

    fn value(&self, p: &Placeholder, more: &HashMap<String, ScalarValue>) -> datafusion::common::Result<Expr> {
        if let Some(scalar) = more.get(&p.id) {
            return Ok(Expr::Literal(scalar.clone(), None));
        }
        let Some((value, r#type)) = self.values.get(&p.id) else { return Ok(Expr::Placeholder(p.clone())) };
        let data = p.field.as_ref().map_or_else(|| types::data_type(r#type), |f| f.data_type().clone());
        let scalar = match types::scalar(value, &data) {
            Ok(scalar) => Ok(scalar),
            // Taken for text where its type was not decided yet.
            Err(_) => types::scalar(&Value::Text(cast::write(value, r#type, Local::UTC)), &data),
        };
        scalar.map(|s| Expr::Literal(s, None)).map_err(|e| DataFusionError::External(Box::new(e)))
    }

    /// The plan, optimised.
    pub fn optimize(&self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        self.state.optimize(plan).map_err(errors::of)
    }

    /// The physical plan.
    pub async fn physical(
        &self,
        plan: &LogicalPlan,
        more: &HashMap<String, ScalarValue>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = self.state.query_planner();
        let made = if self.values.is_empty() && more.is_empty() {
            planner.create_physical_plan(plan, &self.state).await
        } else {
            let filled = self.filled(plan, more)?;
            planner.create_physical_plan(&filled, &self.state).await
        };
        made.and_then(|plan| watched(plan, &self.watch)).map_err(errors::of)
    }

    /// All batches of a plan.
    pub async fn collect(&self, plan: &LogicalPlan, more: &HashMap<String, ScalarValue>) -> Result<Vec<RecordBatch>> {
        let physical = self.physical(plan, more).await?;
        let mut stream = self.stream(physical)?;
        let mut batches = Vec::new();
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(errors::of)?;
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
        }
        // Subqueries that are run row by row are many and short.
        tokio::task::yield_now().await;
        Ok(batches)
    }

    /// The batches of a physical plan, made by a task of its own: whoever waits for
    /// them can give up at any time, whatever the plan is busy with.
    pub fn batches(self: &Arc<Self>, physical: Arc<dyn ExecutionPlan>) -> Batches {
        let running = self.clone();
        let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
        let task = SpawnedTask::spawn(async move {
            let given = unpanicked(async {
                let mut stream = running.stream(physical)?;
                while let Some(batch) = stream.next().await {
                    if sender.send(Ok(batch.map_err(errors::of)?)).await.is_err() {
                        break;
                    }
                }
                Ok(())
            });
            if let Err(error) = given.await {
                // Nobody waits for it any more if it cannot be sent.
                let _ = sender.send(Err(error)).await;
            }
        });
        Batches { watch: self.watch.clone(), receiver, _task: task }
    }

    /// The batches of a physical plan as they are made.
    fn stream(&self, physical: Arc<dyn ExecutionPlan>) -> Result<SendableRecordBatchStream> {
        execute_stream(physical, self.state.task_ctx()).map_err(errors::of)
    }
}

/// A call without columns, computed; it stays as it is if that fails, to fail
/// where and if it is needed.
fn folded(e: Expr) -> datafusion::common::Result<Transformed<Expr>> {
    let foldable = match &e {
        Expr::ScalarFunction(_) | Expr::Cast(_) | Expr::BinaryExpr(_) | Expr::Negative(_) | Expr::Case(_) => {
            is_constant(&e)
        }
        _ => false,
    };
    if !foldable {
        return Ok(Transformed::no(e));
    }
    match evaluate(&e) {
        Some(scalar) => Ok(Transformed::new(Expr::Literal(scalar, None), true, TreeNodeRecursion::Jump)),
        None => Ok(Transformed::no(e)),
    }
}

/// Whether an expression refers to no column and is the same each time.
pub fn is_constant(e: &Expr) -> bool {
    !e.exists(|x| {
        Ok(match x {
            Expr::Column(_)
            | Expr::OuterReferenceColumn(..)
            | Expr::ScalarSubquery(_)
            | Expr::Exists(_)
            | Expr::InSubquery(_)
            | Expr::SetComparison(_)
            | Expr::AggregateFunction(_)
            | Expr::WindowFunction(_)
            | Expr::Unnest(_)
            | Expr::Placeholder(_) => true,
            Expr::ScalarFunction(f) => f.func.signature().volatility == Volatility::Volatile,
            _ => false,
        })
    })
    .unwrap_or(true)
}

/// The value of a constant expression; `None` when computing it fails.
pub fn evaluate(e: &Expr) -> Option<ScalarValue> {
    let schema = DFSchema::empty();
    let physical = create_physical_expr(e, &schema, &ExecutionProps::new(), &Default::default()).ok()?;
    let options = datafusion::arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(1));
    let batch = RecordBatch::try_new_with_options(schema.inner().clone(), Vec::new(), &options).ok()?;
    match physical.evaluate(&batch).ok()? {
        ColumnarValue::Scalar(scalar) => Some(scalar),
        ColumnarValue::Array(array) => ScalarValue::try_from_array(&array, 0).ok(),
    }
}

/// The values placeholders stand for.
pub fn values(parameters: &[Value], types: &[Type], env: &RunEnv) -> HashMap<String, (Value, Type)> {
    let mut all = HashMap::with_capacity(parameters.len() + 2);
    for (i, (value, r#type)) in parameters.iter().zip(types).enumerate() {
        all.insert(format!("${}", i + 1), (value.clone(), r#type.clone()));
    }
    all.insert(NOW.to_owned(), (Value::TimestampTz(env.transaction_time), Type::TimestampTz));
    let session = i32::try_from(env.session).unwrap_or(i32::MAX);
    all.insert(SESSION.to_owned(), (Value::Int4(session), Type::Int4));
    all
}

/// Batches that are made before they are asked for.
const BATCHES_AHEAD: usize = 1;

/// The batches of a running plan. Its task ends when this is dropped.
pub struct Batches {
    watch: Watch,
    receiver: mpsc::Receiver<Result<RecordBatch>>,
    _task: SpawnedTask<()>,
}

impl Batches {
    /// The next batch; an error when the statement should end.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let receiver = &mut self.receiver;
        self.watch.guard(async { receiver.recv().await.transpose() }).await
    }
}

/// Rows of a running plan, as they are asked for.
pub struct Rows {
    batches: Batches,
    types: Vec<Type>,
    batch: Option<(RecordBatch, usize)>,
    ended: bool,
}

impl Rows {
    /// The rows of a plan whose columns have these types.
    pub fn new(batches: Batches, types: Vec<Type>) -> Rows {
        Rows { batches, types, batch: None, ended: false }
    }

    async fn next_rows(&mut self, max: usize) -> Result<Vec<Vec<Value>>> {
        loop {
            if let Some((batch, from)) = self.batch.take() {
                let to = from.saturating_add(max).min(batch.num_rows());
                let rows = types::rows(&batch, &self.types, from, to)?;
                if to < batch.num_rows() {
                    self.batch = Some((batch, to));
                }
                if !rows.is_empty() {
                    return Ok(rows);
                }
            }
            if self.ended {
                return Ok(Vec::new());
            }
            match self.batches.next().await? {
                Some(batch) => self.batch = Some((batch, 0)),
                None => self.ended = true,
            }
        }
    }
}

impl RowSource for Rows {
    fn next(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Vec<Value>>>> {
        Box::pin(async move {
            // Turning batches into rows happens here.
            let result = unpanicked(self.next_rows(max)).await;
            if result.is_err() {
                self.ended = true;
                self.batch = None;
            }
            result
        })
    }
}

/// What DataFusion panics on becomes an error at this edge.
pub async fn unpanicked<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(panicked(panic.as_ref())),
    }
}

/// The same for work that does not wait.
pub fn unpanicked_now<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(panic) => Err(panicked(panic.as_ref())),
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Error::internal(format!("the query engine panicked: {what}"))
}
