//! Runs statements: chooses the plan, the snapshot, and whether to run again.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::Statement;
use polity_base::{IndexId, Value};
use polity_txn::{Isolation, Transaction, TransactionOptions};

use super::context::Context;
use super::prepared::{Plan, Prepared};
use super::{Description, Outcome, Response, Scope, Session, check_parameters};
use crate::catalog::{self, Catalog};
use crate::error::{Condition, Error, Result};
use crate::point::PointPlan;
use crate::query::{PlanInput, RunEnv};
use crate::write::copy::CopyIn;
use crate::{ddl, write};

/// An open transaction.
pub(super) struct Active {
    pub txn: Transaction,
    /// What the transaction's statements see, once one has run
    pub catalog: Arc<Catalog>,
    /// Whether the transaction has changed the catalog
    pub changed_catalog: bool,
    /// Opened by BEGIN
    pub explicit: bool,
    pub failed: bool,
    /// `now()`: microseconds since 1970 UTC
    pub began: i64,
    pub savepoints: Vec<Savepoint>,
    /// Storages made in this transaction, which no one else can see
    pub fresh: HashSet<IndexId>,
    pub isolation: Isolation,
    pub read_only: bool,
    pub used: bool,
}

/// A named place to roll back to.
pub(super) struct Savepoint {
    pub name: String,
    pub point: polity_txn::Savepoint,
    pub catalog: Arc<Catalog>,
    pub changed_catalog: bool,
}

/// A statement whose rows keep changing under it is given up after so many runs.
const MOST_RESTARTS: u32 = 1_000;

impl Session {
    /// Runs a statement.
    pub async fn execute(
        &mut self,
        prepared: &Arc<Prepared>,
        parameters: Vec<Value>,
        scope: Scope,
    ) -> Result<Response> {
        let result = self.dispatch(prepared, &parameters, scope).await;
        if result.is_err() {
            self.fail();
        }
        result
    }

    /// Ends the transaction around statements that were sent together.
    pub async fn sync(&mut self) -> Result<()> {
        match &self.active {
            Some(active) if !active.explicit => self.commit_active().await.map(|_| ()),
            _ => Ok(()),
        }
    }

    async fn dispatch(&mut self, prepared: &Arc<Prepared>, parameters: &[Value], scope: Scope) -> Result<Response> {
        let Some(statement) = prepared.statement() else { return Ok(Response::Empty) };
        if self.active.as_ref().is_some_and(|a| a.failed) && !prepared.ends_transaction() {
            return Err(Error::new(
                Condition::InFailedSqlTransaction,
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        if let Some(response) = self.control(statement).await? {
            return Ok(response);
        }
        if let Some(response) = self.variables(statement).await? {
            if self.active.is_none() {
                self.settings.keep();
            }
            return Ok(response);
        }
        if let Statement::Execute { .. } = statement {
            let (inner, values) = self.named_execution(statement).await?;
            return Box::pin(self.dispatch(&inner, &values, scope)).await;
        }
        if self.active.is_none() && scope == Scope::Alone && !matches!(statement, Statement::Copy { .. }) {
            return self.run_alone(prepared, parameters).await;
        }
        self.ensure_active(false).await?;
        self.run_in_active(prepared, parameters).await
    }

    /// Runs a statement as a transaction of its own, again when another one was
    /// first.
    async fn run_alone(&mut self, prepared: &Arc<Prepared>, parameters: &[Value]) -> Result<Response> {
        let retries = self.settings.fast.retries;
        let mut tries = 0;
        loop {
            self.ensure_active(false).await?;
            let result = match self.run_in_active(prepared, parameters).await {
                Ok(response) => self.commit_active().await.map(|_| response),
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.condition() == Condition::SerializationFailure && tries < retries => {
                    self.abandon();
                    tries += 1;
                    tokio::task::yield_now().await;
                }
                Err(error) => {
                    self.abandon();
                    return Err(error);
                }
                Ok(response) => return Ok(response),
            }
        }
    }

    /// Opens a transaction unless one is open.
    pub(super) async fn ensure_active(&mut self, explicit: bool) -> Result<()> {
        if let Some(active) = &mut self.active {
            active.explicit |= explicit;
            return Ok(());
        }
        let fast = &self.settings.fast;
        let isolation = if fast.default_read_committed { Isolation::ReadCommitted } else { Isolation::Serializable };
        let read_only = fast.default_read_only;
        self.active = Some(Box::new(self.new_active(isolation, read_only, explicit).await?));
        Ok(())
    }

    pub(super) async fn new_active(&self, isolation: Isolation, read_only: bool, explicit: bool) -> Result<Active> {
        let options = TransactionOptions {
            isolation,
            read_only,
            lock_timeout: self.settings.fast.lock_timeout,
            ..Default::default()
        };
        Ok(Active {
            txn: self.engine.database().begin(options).await?,
            catalog: Arc::default(),
            changed_catalog: false,
            explicit,
            failed: false,
            began: self.engine.clock().reading().midpoint().unix_micros(),
            savepoints: Vec::new(),
            fresh: HashSet::new(),
            isolation,
            read_only,
            used: false,
        })
    }

    /// Commits the open transaction. Whether it took effect is known afterwards,
    /// or the error says that it is not.
    pub(super) async fn commit_active(&mut self) -> Result<()> {
        let Some(active) = self.active.take() else { return Ok(()) };
        let result = active.txn.commit().await;
        self.settings.end_transaction(result.is_ok());
        result?;
        Ok(())
    }

    /// Rolls the open transaction back.
    pub(super) fn abandon(&mut self) {
        // Dropping a transaction releases its locks; nothing else is left of it.
        self.active = None;
        self.copy = None;
        self.settings.end_transaction(false);
    }

    async fn run_in_active(&mut self, prepared: &Arc<Prepared>, parameters: &[Value]) -> Result<Response> {
        let watch = self.canceller.watch(self.settings.fast.statement_timeout);
        let env_watch = watch.clone();
        watch.guard(self.run_restarting(prepared, parameters, env_watch)).await
    }

    /// Runs a statement, on newer snapshots as long as it finds its rows locked
    /// and changed.
    async fn run_restarting(
        &mut self,
        prepared: &Arc<Prepared>,
        parameters: &[Value],
        watch: super::Watch,
    ) -> Result<Response> {
        let Session { engine, settings, active, sequences, notices, user, copy, .. } = self;
        let Some(active) = active.as_deref_mut() else { return Err(Error::internal("no transaction is open")) };
        active.used = true;
        let mark = active.txn.begin_statement().await?;
        for _ in 0..MOST_RESTARTS {
            active.catalog = if active.changed_catalog {
                // What others committed, with what this transaction has changed.
                Arc::new(catalog::store::load(&active.txn.view())?)
            } else {
                engine.catalogs().at(&active.txn.view())?
            };
            let before = active.catalog.clone();
            let mut context = Context {
                engine,
                txn: &mut active.txn,
                catalog: &mut active.catalog,
                settings,
                sequences,
                user,
                transaction_time: active.began,
                notices,
                fresh: &mut active.fresh,
                cacheable: !active.changed_catalog,
                watch: &watch,
            };
            let outcome = run_once(&mut context, prepared, parameters, copy).await?;
            active.changed_catalog |= !Arc::ptr_eq(&before, &active.catalog);
            match outcome {
                Outcome::Done(response) => return Ok(response),
                Outcome::Stale => active.txn.restart_statement(&mark).await?,
            }
        }
        Err(Error::new(Condition::SerializationFailure, "could not serialize access due to concurrent update")
            .detail(format!("The rows of the statement changed {MOST_RESTARTS} times while it ran."))
            .hint("Retry the transaction."))
    }

    /// What a statement needs and gives.
    pub async fn describe(&mut self, prepared: &Arc<Prepared>) -> Result<Description> {
        let declared = || prepared.declared().iter().map(|t| t.clone().unwrap_or(polity_base::Type::Text)).collect();
        let Some(statement) = prepared.statement() else {
            return Ok(Description { parameters: declared(), columns: None });
        };
        if let Some(columns) = self.describe_variables(statement) {
            return Ok(Description { parameters: declared(), columns });
        }
        if let Statement::Execute { .. } = statement {
            let (inner, _) = self.named_execution(statement).await?;
            return Box::pin(self.describe(&inner)).await;
        }
        let alone = self.active.is_none();
        self.ensure_active(false).await?;
        let result = self.describe_in_active(prepared, statement).await;
        if alone {
            self.abandon();
        }
        result
    }

    async fn describe_in_active(&mut self, prepared: &Arc<Prepared>, statement: &Statement) -> Result<Description> {
        let watch = self.canceller.watch(self.settings.fast.statement_timeout);
        let Session { engine, settings, active, sequences, notices, user, .. } = self;
        let Some(active) = active.as_deref_mut() else { return Err(Error::internal("no transaction is open")) };
        active.txn.begin_statement().await?;
        if !active.changed_catalog {
            active.catalog = engine.catalogs().at(&active.txn.view())?;
        }
        let mut context = Context {
            engine,
            txn: &mut active.txn,
            catalog: &mut active.catalog,
            settings,
            sequences,
            user,
            transaction_time: active.began,
            notices,
            fresh: &mut active.fresh,
            cacheable: !active.changed_catalog,
            watch: &watch,
        };
        match plan(&mut context, prepared, statement)? {
            Some(Plan::Point(point)) => {
                Ok(Description { parameters: point.parameters().to_vec(), columns: point.columns() })
            }
            Some(Plan::Query(planned)) => {
                Ok(Description { parameters: planned.parameters.clone(), columns: Some(planned.columns.clone()) })
            }
            None => match statement {
                Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
                    write::describe(&mut context, statement, prepared.declared())
                }
                Statement::Query(_) => write::select_for_update::describe(&mut context, statement, prepared.declared()),
                Statement::Explain { .. } => super::explain::describe(prepared.declared()),
                _ => Ok(Description { parameters: Vec::new(), columns: None }),
            },
        }
    }

    /// More data of a COPY FROM STDIN.
    pub async fn copy_data(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(mut copy) = self.copy.take() else {
            return Err(Error::new(Condition::ProtocolViolation, "no COPY is in progress"));
        };
        let result = self.with_context(async |context| copy.push(context, bytes).await).await;
        match result {
            Ok(()) => self.copy = Some(copy),
            Err(_) => self.fail(),
        }
        result
    }

    /// The end of the data of a COPY FROM STDIN; gives the command tag.
    pub async fn copy_done(&mut self, scope: Scope) -> Result<String> {
        let Some(copy) = self.copy.take() else {
            return Err(Error::new(Condition::ProtocolViolation, "no COPY is in progress"));
        };
        let result = self.with_context(async |context| copy.finish(context).await).await;
        let result = match result {
            Ok(rows) if scope == Scope::Alone && self.active.as_ref().is_some_and(|a| !a.explicit) => {
                self.commit_active().await.map(|()| rows)
            }
            other => other,
        };
        if result.is_err() {
            self.fail();
        }
        Ok(format!("COPY {}", result?))
    }

    /// The client gave up a COPY FROM STDIN.
    pub fn copy_fail(&mut self, reason: &str) -> Error {
        self.fail();
        Error::new(Condition::QueryCanceled, format!("COPY from stdin failed: {reason}"))
    }

    async fn with_context<T>(&mut self, work: impl AsyncFnOnce(&mut Context<'_>) -> Result<T>) -> Result<T> {
        let watch = self.canceller.watch(self.settings.fast.statement_timeout);
        let Session { engine, settings, active, sequences, notices, user, .. } = self;
        let Some(active) = active.as_deref_mut() else { return Err(Error::internal("no transaction is open")) };
        let mut context = Context {
            engine,
            txn: &mut active.txn,
            catalog: &mut active.catalog,
            settings,
            sequences,
            user,
            transaction_time: active.began,
            notices,
            fresh: &mut active.fresh,
            cacheable: !active.changed_catalog,
            watch: &watch,
        };
        watch.guard(work(&mut context)).await
    }
}

/// The plan of a statement that has one to keep: by key, or by DataFusion.
pub(super) fn plan(context: &mut Context<'_>, prepared: &Prepared, statement: &Statement) -> Result<Option<Plan>> {
    let (version, generation) = (context.catalog.version, context.settings.generation());
    if context.cacheable
        && let Some(plan) = prepared.plan(version, generation)
    {
        return Ok(Some(plan));
    }
    let plan = match statement {
        Statement::Query(_) | Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
            match PointPlan::recognise(context.catalog, statement, prepared.declared())? {
                Some(point) => Plan::Point(Arc::new(point)),
                None => match statement {
                    Statement::Query(query) if query.locks.is_empty() => {
                        let input = PlanInput::of(context);
                        Plan::Query(Arc::new(context.engine.planner().plan(&input, statement, prepared.declared())?))
                    }
                    _ => return Ok(None),
                },
            }
        }
        _ => return Ok(None),
    };
    if context.cacheable {
        prepared.keep_plan(version, generation, plan.clone());
    }
    Ok(Some(plan))
}

/// Runs a statement against the snapshot its transaction now has.
async fn run_once(
    context: &mut Context<'_>,
    prepared: &Prepared,
    parameters: &[Value],
    copy: &mut Option<Box<CopyIn>>,
) -> Result<Outcome<Response>> {
    let Some(statement) = prepared.statement() else { return Ok(Outcome::Done(Response::Empty)) };
    if let Statement::Query(query) = statement
        && let Some(response) = super::sequences::execute(context, query).await?
    {
        return Ok(Outcome::Done(response));
    }
    match plan(context, prepared, statement)? {
        Some(Plan::Point(point)) => {
            check_parameters(point.parameters().len(), parameters)?;
            return point.run(context, parameters).await;
        }
        Some(Plan::Query(planned)) => {
            check_parameters(planned.parameters.len(), parameters)?;
            let env = RunEnv::of(context);
            let rows = context.engine.planner().run(&planned, parameters, &context.txn.view(), env).await?;
            return Ok(Outcome::Done(Response::Rows(rows.guarded(context.watch.clone()))));
        }
        None => {}
    }
    match statement {
        Statement::Insert(_) => write::insert::execute(context, statement, parameters).await,
        Statement::Update(_) => write::update::execute(context, statement, parameters).await,
        Statement::Delete(_) => write::delete::execute(context, statement, parameters).await,
        Statement::Query(_) => write::select_for_update::execute(context, statement, parameters).await,
        Statement::Copy { to: true, .. } => write::copy::copy_out(context, statement).await.map(Outcome::Done),
        Statement::Copy { .. } => {
            let started = CopyIn::start(context, statement).await?;
            let columns = started.columns();
            *copy = Some(Box::new(started));
            Ok(Outcome::Done(Response::CopyIn { columns }))
        }
        Statement::Explain { .. } => super::explain::execute(context, statement, parameters).await,
        _ => ddl::execute(context, statement).await.map(|tag| Outcome::Done(Response::Complete(tag))),
    }
}
