//! Making plans and keeping what all of them share.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::source_as_provider;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::analyzer::resolve_grouping_function::ResolveGroupingFunction;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::display::DisplayableExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::sqlparser::ast;
use polity_base::{IndexId, Type, Value};
use polity_txn::View;

use super::bind::scope::Output;
use super::bind::{Binder, BoundQuery};
use super::run::{self, Rows, Running, unpanicked, unpanicked_now};
use super::scan::columns::{ColumnCache, Limits};
use super::scan::estimates::Estimates;
use super::scan::{PARALLEL_ROWS, RunState, StoredTable};
use super::sorted::KeepOrders;
use super::spill::Factory;
use super::{Explained, PlanInput, Planned, RunEnv, errors};
use crate::error::{Condition, Error, Result};
use crate::session::{Column, EngineOptions, RowStream, Verb};

/// Plans and runs what reads.
pub struct Planner {
    template: SessionState,
    estimates: Arc<Estimates>,
    columns: Arc<ColumnCache>,
    cores: usize,
}

/// This part of the memory for queries is for columns of tables they read.
const COLUMNS_SHARE: usize = 4;

/// What running a plan takes.
pub(super) struct Work {
    /// The optimised plan
    pub plan: LogicalPlan,
    /// Storages it reads
    pub reads: Vec<IndexId>,
    /// Types of its columns
    pub types: Vec<Type>,
    /// It holds placeholders
    pub open: bool,
    /// It holds subqueries that are run row by row
    pub subplans: bool,
    /// Rows must come in one sequence
    pub sequential: bool,
}

impl Planner {
    /// A planner within the engine's limits: queries share `query_memory`, spill
    /// into `spill`, and are refused (53200) when neither is enough.
    pub fn new(options: &EngineOptions) -> Result<Planner> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut config = SessionConfig::new().with_target_partitions(cores).with_information_schema(false);
        let settings = config.options_mut();
        settings.catalog.create_default_catalog_and_schema = false;
        settings.optimizer.filter_null_join_keys = false;
        settings.optimizer.max_passes = 2;
        settings.execution.planning_concurrency = 1;
        settings.execution.collect_statistics = false;
        let disk = DiskManagerBuilder::default().with_temp_file_factory(Arc::new(Factory(options.spill.clone())));
        let columns = options.query_memory / COLUMNS_SHARE;
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(options.query_memory - columns)))
            .with_disk_manager_builder(disk)
            .build_arc()
            .map_err(errors::of)?;
        let template = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_analyzer_rules(vec![Arc::new(ResolveGroupingFunction::new())])
            .with_optimizer_rule(Arc::new(KeepOrders))
            .build();
        let columns = Arc::new(ColumnCache::new(Limits::of_bytes(columns)));
        Ok(Planner { template, estimates: Arc::default(), columns, cores })
    }

    /// Row counts of stored tables.
    pub fn estimates(&self) -> &Arc<Estimates> {
        &self.estimates
    }

    /// Plans a query. `parameter_types` are the types the client has stated;
    /// others are inferred.
    pub fn plan(
        &self,
        input: &PlanInput,
        statement: &ast::Statement,
        parameter_types: &[Option<Type>],
    ) -> Result<Planned> {
        let ast::Statement::Query(query) = statement else {
            return Err(Error::internal("what is planned here is a query"));
        };
        unpanicked_now(|| {
            let (binder, plan) = self.attempt(input, query, parameter_types, false);
            match plan {
                Ok(plan) => Ok(finished(&binder, plan)),
                Err(_) if binder.correlated.get() => {
                    let (binder, plan) = self.attempt(input, query, parameter_types, true);
                    plan.map(|plan| finished(&binder, plan))
                }
                Err(e) => Err(e),
            }
        })
    }

    /// Binds and optimises a query, with its correlated subqueries as joins where they
    /// can be, or run row by row.
    fn attempt<'a>(
        &self,
        input: &'a PlanInput,
        query: &ast::Query,
        parameter_types: &[Option<Type>],
        by_row: bool,
    ) -> (Binder<'a>, Result<(LogicalPlan, Vec<Output>)>) {
        let binder = Binder::new(input, parameter_types, by_row);
        let plan = self.bound(&binder, query);
        (binder, plan)
    }

    fn bound(&self, binder: &Binder<'_>, query: &ast::Query) -> Result<(LogicalPlan, Vec<Output>)> {
        let BoundQuery { plan, mut outputs } = binder.statement(query)?;
        let plan = binder.named_output(plan, &mut outputs)?;
        let plan = self.template.optimize(&plan).map_err(errors::of)?;
        if binder.correlated.get() && is_left_over(&plan) {
            return Err(Error::unsupported("this correlated subquery"));
        }
        Ok((plan, outputs))
    }

    /// Runs a planned query against `view`.
    pub async fn run(&self, planned: &Planned, parameters: &[Value], view: &View, env: RunEnv) -> Result<RowStream> {
        let running = self.running(planned, parameters, view, &env);
        let work = &planned.work;
        let physical = unpanicked(running.physical(&work.plan, &HashMap::new())).await?;
        let rows = Rows::new(running.batches(physical), work.types.clone());
        Ok(RowStream::later(planned.columns.clone(), Verb::Select, Box::new(rows)))
    }

    fn running(&self, planned: &Planned, parameters: &[Value], view: &View, env: &RunEnv) -> Arc<Running> {
        let work = &planned.work;
        let values = match work.open {
            true => run::values(parameters, &planned.parameters, env),
            false => HashMap::new(),
        };
        let state = RunState {
            view: view.clone(),
            watch: env.watch.clone(),
            estimates: self.estimates.clone(),
            columns: self.columns.clone(),
            engine: env.engine.clone(),
            sequences: env.sequences.clone(),
            read_only: env.read_only,
        };
        let large = |storage: &IndexId| self.estimates.rows(*storage, view).is_ok_and(|rows| rows >= PARALLEL_ROWS);
        let parallel = !work.sequential && self.cores > 1 && work.reads.iter().any(large);
        let partitions = if parallel { self.cores } else { 1 };
        Running::new(&self.template, state, partitions, values, work.subplans)
    }

    /// All rows of a planned query.
    pub async fn rows(
        &self,
        planned: &Planned,
        parameters: &[Value],
        view: &View,
        env: RunEnv,
    ) -> Result<Vec<Vec<Value>>> {
        let mut stream = self.run(planned, parameters, view, env).await?;
        let mut rows = Vec::new();
        loop {
            let more = stream.next(8_192).await?;
            if more.is_empty() {
                return Ok(rows);
            }
            rows.extend(more);
        }
    }

    /// How a planned query is run. `ask`: whether to run it, and then to show each node's counts and times; whether
    /// to show all there is to know of nodes.
    pub async fn explain(
        &self,
        planned: &Planned,
        parameters: &[Value],
        view: &View,
        env: RunEnv,
        (analyze, metrics, verbose): (bool, bool, bool),
    ) -> Result<Explained> {
        if parameters.len() < planned.parameters.len() {
            return Err(Error::new(
                Condition::UndefinedParameter,
                format!("there is no parameter ${}", parameters.len() + 1),
            ));
        }
        let running = self.running(planned, parameters, view, &env);
        let begun = tokio::time::Instant::now();
        let physical = running.physical(&planned.work.plan, &HashMap::new()).await?;
        let planning = Some(begun.elapsed()).filter(|_| analyze);
        if !analyze {
            return Ok(Explained { plan: lines(&physical, false, verbose), ..Explained::default() });
        }
        let begun = tokio::time::Instant::now();
        let mut batches = running.batches(physical.clone());
        let mut count = 0;
        while let Some(batch) = batches.next().await? {
            count += batch.num_rows();
        }
        let execution = Some(begun.elapsed());
        Ok(Explained { plan: lines(&physical, metrics, verbose), rows: Some(count), planning, execution })
    }
}

fn lines(plan: &Arc<dyn ExecutionPlan>, metrics: bool, verbose: bool) -> Vec<String> {
    let shown = match metrics {
        true => DisplayableExecutionPlan::with_metrics(plan.as_ref()).indent(verbose).to_string(),
        false => DisplayableExecutionPlan::new(plan.as_ref()).indent(verbose).to_string(),
    };
    shown.lines().map(str::to_owned).collect()
}

fn finished(binder: &Binder<'_>, (plan, outputs): (LogicalPlan, Vec<Output>)) -> Planned {
    let columns: Vec<Column> =
        outputs.iter().map(|o| Column { name: o.label.clone(), r#type: o.r#type.clone(), source: o.source }).collect();
    let types = outputs
        .iter()
        .map(|o| match o.r#type {
            // Shown by name.
            Type::Regclass => Type::Text,
            ref other => other.clone(),
        })
        .collect();
    let work = Work {
        reads: reads(&plan),
        open: is_open(&plan),
        types,
        subplans: binder.by_row || has_subplans(&plan),
        sequential: binder.sequential.get(),
        plan,
    };
    Planned {
        parameters: binder.parameters(),
        columns: columns.into(),
        needs: binder.needs().into(),
        work: Arc::new(work),
    }
}

/// Whether a subquery still refers to what is around it.
fn is_left_over(plan: &LogicalPlan) -> bool {
    any_expression(plan, |e| {
        matches!(e, Expr::OuterReferenceColumn(..) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_))
    }) || plan.exists(|node| Ok(matches!(node, LogicalPlan::Subquery(_)))).unwrap_or(true)
}

fn is_open(plan: &LogicalPlan) -> bool {
    any_expression(plan, |e| matches!(e, Expr::Placeholder(_))) || has_subplans(plan)
}

fn has_subplans(plan: &LogicalPlan) -> bool {
    any_expression(plan, |e| matches!(e, Expr::ScalarFunction(f) if f.func.as_async().is_some()))
}

fn any_expression(plan: &LogicalPlan, is: impl Fn(&Expr) -> bool) -> bool {
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|e| {
            if e.exists(|x| Ok(is(x)))? {
                found = true;
                return Ok(TreeNodeRecursion::Stop);
            }
            Ok(TreeNodeRecursion::Continue)
        })
    });
    walked.is_err() || found
}

fn reads(plan: &LogicalPlan) -> Vec<IndexId> {
    let mut storages = Vec::new();
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(table) = provider.downcast_ref::<StoredTable>()
        {
            storages.push(table.table().primary.storage);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    storages
}
