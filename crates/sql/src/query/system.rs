//! What queries ask of the system catalogs.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Column, DataFusionError};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType, Volatility};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use polity_base::{Type, Value};

use super::PlanInput;
use super::bind::Binder;
use super::bind::bound::{Bound, Names};
use super::bind::coerce;
use super::bind::scope::Output;
use super::function::kernel::{Args, Eval, Kernel};
use super::scan::RunState;
use super::types::{self, Builder};
use crate::error::{Error, Result};
use crate::system::history::History;
use crate::system::{
    SCALAR_FUNCTIONS, SystemFunction, SystemInput, SystemTable, activity, eventual, ledger, system_table,
};

/// What `version()` says.
pub fn version() -> String {
    format!("PostgreSQL {} (Polity {})", crate::session::settings::SERVER_VERSION, env!("CARGO_PKG_VERSION"))
}

/// What system tables and functions are computed from, for a statement planned
/// against `input`. What changes from run to run is not known yet: [`live`] adds it.
fn facts(input: &PlanInput) -> SystemInput {
    SystemInput {
        catalog: input.catalog.clone(),
        settings: input.settings.clone(),
        user: input.user.clone(),
        sessions: input.sessions.clone(),
        activity: Vec::new(),
        locks: Vec::new(),
        sequences: HashMap::new(),
        live: Vec::new(),
    }
}

/// The same with what `table` shows of the present.
fn live(table: &SystemTable, input: &SystemInput, run: &RunState) -> Result<SystemInput> {
    let mut input = input.clone();
    if table.schema == "polity" {
        input.live = match ledger::is_one(table.name) {
            true => ledger::rows_of(table.name, &run.engine)?,
            false => eventual::rows_of(table.name, &run.engine, &input.catalog, &input.user)?,
        };
    }
    match table.name {
        "pg_stat_activity" | "pg_stat_database" => input.activity = activity::sessions(&run.engine),
        "pg_locks" => input.locks = activity::locks(&run.engine, &input.catalog),
        "pg_sequences" => {
            for sequence in input.catalog.sequences.values() {
                let state = run.engine.sequences().state(sequence, &run.view)?;
                if state.is_called {
                    input.sequences.insert(sequence.id, state.last);
                }
            }
        }
        _ => {}
    }
    Ok(input)
}

/// A function about the catalog; `None` when there is none of this name that
/// takes these arguments.
pub fn call(binder: &Binder<'_>, name: &str, args: &[Bound]) -> Result<Option<Bound>> {
    let fits = |f: &&SystemFunction| {
        let each = || f.args.iter().zip(args);
        f.name == name
            && f.args.len() == args.len()
            && each().all(|(to, arg)| {
                arg.is_open() || *to == Type::Unknown || arg.r#type == *to || coerce::is_implicit(&arg.r#type, to)
            })
    };
    let exact = |f: &&SystemFunction| fits(f) && f.args.iter().zip(args).all(|(to, arg)| arg.r#type == *to);
    let Some(function) = SCALAR_FUNCTIONS.iter().find(exact).or_else(|| SCALAR_FUNCTIONS.iter().find(fits)) else {
        return Ok(None);
    };
    let mut exprs = Vec::with_capacity(args.len());
    for (to, arg) in function.args.iter().zip(args) {
        let bound = match to {
            Type::Unknown => binder.decided(arg.clone())?,
            to => binder.implicit(arg.clone(), to)?,
        };
        exprs.push(bound.expr);
    }
    let (input, eval) = (facts(binder.input()), function.eval);
    let row = move |args: &Args<'_>, out: &mut Builder| {
        let values = (0..function.args.len()).map(|k| args.value(k)).collect::<Result<Vec<_>>>()?;
        out.value(&eval(&input, &values)?)
    };
    let data = types::data_type(&function.returns);
    let volatility = if function.acts { Volatility::Volatile } else { Volatility::Stable };
    // What it says depends on the catalog, and a plan stands for one catalog.
    let name = format!("{name}/{}", binder.input().catalog.version);
    let expr = Kernel::call(name, data, volatility, Eval::Row(Arc::new(row), function.strict), exprs);
    Ok(Some(Bound::new(expr, function.returns.clone())))
}

/// A system table as DataFusion sees it.
pub struct SystemProvider {
    table: &'static SystemTable,
    columns: Vec<(String, Type)>,
    schema: SchemaRef,
    /// Rows are made when they are read: sessions and locks change while a plan is kept.
    input: SystemInput,
}

/// The column that says which catalog a row is of. `*` does not include it.
const TABLE_OID: &str = "tableoid";

/// The system table of this name.
pub fn table(schema: Option<&str>, name: &str, input: &PlanInput) -> Option<SystemProvider> {
    let table = system_table(schema.unwrap_or("pg_catalog"), name)?;
    // `"char"` compares with text and arrays of text, as its values are text here.
    let as_text = |t: &Type| if *t == Type::InternalChar { Type::Text } else { t.clone() };
    let mut columns: Vec<(String, Type)> = table.columns.iter().map(|(n, t)| (n.clone(), as_text(t))).collect();
    columns.push((TABLE_OID.to_owned(), Type::Oid));
    let fields: Vec<Field> =
        columns.iter().map(|(name, r#type)| Field::new(name, types::data_type(r#type), true)).collect();
    Some(SystemProvider { table, columns, schema: Arc::new(Schema::new(fields)), input: facts(input) })
}

impl SystemProvider {
    /// What its columns are; the last one is hidden.
    pub fn outputs(&self) -> Vec<Output> {
        let output = |(name, r#type): &(String, Type)| Output {
            label: name.clone(),
            column: Column::new_unqualified(name),
            r#type: r#type.clone(),
            data: types::data_type(r#type),
            names: if self.table.is_vector(name) { Names::Vector } else { Names::Relation },
            source: None,
            parameter: None,
        };
        self.columns.iter().map(output).collect()
    }
}

impl fmt::Debug for SystemProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "system table {}.{}", self.table.schema, self.table.name)
    }
}

#[async_trait]
impl TableProvider for SystemProvider {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> datafusion::common::Result<Arc<dyn ExecutionPlan>> {
        let external = |e: Error| DataFusionError::External(Box::new(e));
        let run = session.config().get_extension::<RunState>();
        let run = run.ok_or_else(|| external(Error::internal("a plan is run without its state")))?;
        if (self.table.schema, self.table.name) == ("polity", "history") {
            let history = History::of(&run.engine, &self.input.catalog, &self.input.user);
            let past = Past { schema: self.schema.clone(), oid: self.table.oid, history };
            let exec =
                StreamingTableExec::try_new(self.schema.clone(), vec![Arc::new(past)], projection, [], false, None)?;
            return Ok(Arc::new(exec));
        }
        let mut rows = self.table.rows(&live(self.table, &self.input, &run).map_err(external)?);
        rows.iter_mut().for_each(|row| row.push(Value::Oid(self.table.oid)));
        let batch = types::batch(&rows, &self.schema).map_err(external)?;
        let exec = MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema.clone(), projection.cloned())?;
        Ok(exec)
    }
}

/// The history of byzantine tables, read as it is asked for.
struct Past {
    schema: SchemaRef,
    oid: u32,
    history: Option<History>,
}

impl fmt::Debug for Past {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the history of byzantine tables")
    }
}

impl PartitionStream for Past {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (schema, oid) = (self.schema.clone(), self.oid);
        let batches = futures::stream::try_unfold(self.history.clone(), move |history| {
            let schema = schema.clone();
            async move {
                let Some(mut history) = history else { return Ok(None) };
                let external = |e: Error| DataFusionError::External(Box::new(e));
                let mut rows = history.next_rows().map_err(external)?;
                if rows.is_empty() {
                    return Ok(None);
                }
                rows.iter_mut().for_each(|row| row.push(Value::Oid(oid)));
                let batch = types::batch(&rows, &schema).map_err(external)?;
                Ok(Some((batch, Some(history))))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}
