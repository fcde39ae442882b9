//! Runs statements: chooses the plan, the snapshot, and whether to run again.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::Statement;
use polity_base::{IndexId, Value};
use polity_txn::{Freshness, Isolation, Reach, Transaction, TransactionOptions};

use super::activity::State;
use super::as_of::AsOf;
use super::context::Context;
use super::prepared::{Plan, Prepared};
use super::{Description, Outcome, Response, Scope, Session, Watch, check_parameters};
use super::{byzantine, eventual};
use crate::catalog::{self, Catalog};
use crate::error::{Condition, Error, Result};
use crate::point::PointPlan;
use crate::query::{PlanInput, RunEnv};
use crate::write::copy::CopyIn;
use crate::{ddl, rights, write};

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
    pub freshness: Freshness,
    pub used: bool,
    /// Whether one statement is all of it
    pub alone: bool,
}

/// A named place to roll back to.
pub(super) struct Savepoint {
    pub name: String,
    pub point: polity_txn::Savepoint,
    pub catalog: Arc<Catalog>,
    pub changed_catalog: bool,
}

/// A COPY FROM STDIN in progress: one statement, in however many pieces it comes.
pub(super) struct Copying {
    input: Box<CopyIn>,
    watch: Watch,
}

/// For so many statements after one that found its rows locked or changed, locks are
/// asked for beforehand.
const WARY: u8 = 64;
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
        result.map_err(|error| super::errors::naming_tables(error, prepared))
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
        if let Some(response) = self.control(statement, prepared.as_of()).await? {
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
        self.ensure_active(false, prepared.as_of()).await?;
        self.run_in_active(prepared, parameters).await
    }

    /// Runs a statement as a transaction of its own, again when another one was
    /// first.
    async fn run_alone(&mut self, prepared: &Arc<Prepared>, parameters: &[Value]) -> Result<Response> {
        let retries = self.settings.fast.retries;
        let mut tries = 0;
        let writes =
            matches!(prepared.statement(), Some(Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_)));
        let mut hopeful = writes && self.wary == 0;
        self.wary = self.wary.saturating_sub(u8::from(writes));
        loop {
            self.ensure_active(false, prepared.as_of()).await?;
            let active = self.open()?;
            active.alone = true;
            hopeful = hopeful && active.txn.defer_locks();
            let result = match self.run_in_active(prepared, parameters).await {
                Ok(response) => self.commit_active().await.map(|_| response),
                Err(error) => Err(error),
            };
            match result {
                Err(error) if error.condition() == Condition::SerializationFailure && (hopeful || tries < retries) => {
                    self.abandon();
                    // That it did without locks does not count: it would have waited.
                    tries += u32::from(!hopeful);
                    self.wary = if hopeful { WARY } else { self.wary };
                    hopeful = false;
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

    /// Opens a transaction unless one is open. One that is to read an earlier
    /// state does so from its beginning.
    pub(super) async fn ensure_active(&mut self, explicit: bool, as_of: Option<&AsOf>) -> Result<()> {
        if let Some(active) = &mut self.active {
            if as_of.is_some() {
                return Err(Error::new(Condition::ActiveSqlTransaction, "AS OF SYSTEM TIME within a transaction")
                    .detail("A transaction reads one state, which is chosen when it begins.")
                    .hint("Begin the transaction with BEGIN AS OF SYSTEM TIME."));
            }
            active.explicit |= explicit;
            return Ok(());
        }
        let fast = &self.settings.fast;
        let isolation = if fast.default_read_committed { Isolation::ReadCommitted } else { Isolation::Serializable };
        let read_only = fast.default_read_only;
        let freshness = self.freshness(as_of)?;
        self.active = Some(Box::new(self.new_active(isolation, read_only, explicit, freshness).await?));
        Ok(())
    }

    /// Which state the next transaction reads.
    pub(super) fn freshness(&self, as_of: Option<&AsOf>) -> Result<Freshness> {
        match as_of {
            Some(as_of) => as_of.freshness(self.engine.clock().reading().midpoint(), &self.settings),
            None => Ok(self.settings.fast.staleness.map_or(Freshness::Latest, Freshness::Within)),
        }
    }

    pub(super) async fn new_active(
        &self,
        isolation: Isolation,
        read_only: bool,
        explicit: bool,
        freshness: Freshness,
    ) -> Result<Active> {
        let read_only = read_only || freshness != Freshness::Latest;
        let options =
            TransactionOptions { isolation, read_only, freshness, lock_timeout: self.settings.fast.lock_timeout };
        let mut txn = self.engine.database().begin(options).await?;
        txn.speak_for(&self.user);
        Ok(Active {
            txn,
            catalog: Arc::default(),
            changed_catalog: false,
            explicit,
            failed: false,
            began: self.engine.clock().reading().midpoint().unix_micros(),
            savepoints: Vec::new(),
            fresh: HashSet::new(),
            isolation,
            read_only,
            freshness,
            used: false,
            alone: false,
        })
    }

    /// Commits the open transaction. Whether it took effect is known afterwards,
    /// or the error says that it is not.
    pub(super) async fn commit_active(&mut self) -> Result<()> {
        let Some(active) = self.active.take() else { return Ok(()) };
        let result = active.txn.commit().await;
        let result = result.map_err(|error| match error {
            polity_txn::Error::Eventual(error) => eventual::naming(&error, &active.catalog),
            polity_txn::Error::Ledger(error) => byzantine::naming(&error, &active.catalog),
            error => error.into(),
        });
        self.settings.end_transaction(result.is_ok());
        result?;
        if active.changed_catalog {
            self.bring_in_step().await;
        }
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
        self.show_running(prepared);
        let watch = self.canceller.watch(self.settings.fast.statement_timeout);
        let env_watch = watch.clone();
        watch.guard(self.run_restarting(prepared, parameters, env_watch)).await
    }

    /// Others see what runs now.
    fn show_running(&self, prepared: &Arc<Prepared>) {
        let Some(active) = self.active.as_deref() else { return };
        // A transaction's first statement begins with it.
        let now = if active.used { self.engine.clock().reading().midpoint().unix_micros() } else { active.began };
        self.listed.presence.change(|doing| {
            doing.state = State::Active;
            doing.state_since = now;
            doing.statement = Some(prepared.clone());
            doing.statement_began = Some(now);
            doing.transaction = Some((active.txn.id(), active.began));
        });
    }

    /// Runs a statement, on newer snapshots as long as it finds its rows locked
    /// and changed.
    async fn run_restarting(
        &mut self,
        prepared: &Arc<Prepared>,
        parameters: &[Value],
        watch: Watch,
    ) -> Result<Response> {
        let mut reach = self.likely_reach(prepared).await?;
        let active = self.open()?;
        active.used = true;
        let mut mark = active.txn.begin_statement_with(reach).await?;
        for _ in 0..MOST_RESTARTS {
            let Session { engine, active: Some(active), .. } = self else { return Err(no_transaction()) };
            active.catalog = if active.changed_catalog {
                // What others committed, with what this transaction has changed.
                Arc::new(catalog::store::load(&active.txn.view())?)
            } else {
                engine.catalogs().at(&active.txn.view())?
            };
            if reach == Reach::Here && eventual::reach(prepared, &active.catalog) == Reach::Everywhere {
                // It is about other tables than it seemed.
                reach = Reach::Everywhere;
                mark = active.txn.begin_statement_with(reach).await?;
                continue;
            }
            if let Some(late) = byzantine::late(engine, prepared, active)? {
                byzantine::wait_until_defined(engine, &late, active.changed_catalog).await?;
                active.txn.restart_statement(&mark).await?;
                continue;
            }
            let before = active.catalog.clone();
            let mut copy = None;
            let outcome = run_once(&mut self.context(&watch)?, prepared, parameters, &mut copy).await?;
            self.copy = copy.map(|input| Copying { input, watch: watch.clone() });
            let active = self.open()?;
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

    fn open(&mut self) -> Result<&mut Active> {
        self.active.as_deref_mut().ok_or_else(no_transaction)
    }

    /// What a statement of the open transaction has at hand.
    fn context<'a>(&'a mut self, watch: &'a Watch) -> Result<Context<'a>> {
        let Session { engine, settings, active, sequences, notices, user, listed, .. } = self;
        let active = active.as_deref_mut().ok_or_else(no_transaction)?;
        Ok(Context {
            engine,
            txn: &mut active.txn,
            catalog: &mut active.catalog,
            settings,
            sequences,
            user,
            session: listed.presence.number,
            transaction_time: active.began,
            notices,
            fresh: &mut active.fresh,
            cacheable: !active.changed_catalog,
            alone: active.alone,
            watch,
        })
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
        self.ensure_active(false, prepared.as_of()).await?;
        let result = self.describe_in_active(prepared, statement).await;
        if alone {
            self.abandon();
        }
        result
    }

    async fn describe_in_active(&mut self, prepared: &Arc<Prepared>, statement: &Statement) -> Result<Description> {
        let watch = self.canceller.watch(self.settings.fast.statement_timeout);
        let reach = self.likely_reach(prepared).await?;
        self.open()?.txn.begin_statement_with(reach).await?;
        let Session { engine, active: Some(active), .. } = self else { return Err(no_transaction()) };
        if !active.changed_catalog {
            active.catalog = engine.catalogs().at(&active.txn.view())?;
        }
        let mut context = self.context(&watch)?;
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
                Statement::Explain { .. } => super::explain::describe(statement, prepared.declared()),
                _ => Ok(Description { parameters: Vec::new(), columns: None }),
            },
        }
    }

    /// More data of a COPY FROM STDIN.
    pub async fn copy_data(&mut self, bytes: &[u8]) -> Result<()> {
        let mut copying = self.copy.take().ok_or_else(no_copy)?;
        let Copying { input, watch } = &mut copying;
        let result = match self.context(watch) {
            Ok(mut context) => watch.guard(input.push(&mut context, bytes)).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => self.copy = Some(copying),
            Err(_) => self.fail(),
        }
        result
    }

    /// The end of the data of a COPY FROM STDIN; gives the command tag.
    pub async fn copy_done(&mut self, scope: Scope) -> Result<String> {
        let Copying { input, watch } = self.copy.take().ok_or_else(no_copy)?;
        let result = match self.context(&watch) {
            Ok(mut context) => watch.guard(input.finish(&mut context)).await,
            Err(error) => Err(error),
        };
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

    /// Tells whether the COPY FROM STDIN in progress should end.
    pub fn copy_watch(&self) -> Option<Watch> {
        self.copy.as_ref().map(|copying| copying.watch.clone())
    }

    /// The client gave up a COPY FROM STDIN.
    pub fn copy_fail(&mut self, reason: &str) -> Error {
        self.fail();
        Error::new(Condition::QueryCanceled, format!("COPY from stdin failed: {reason}"))
    }
}

fn no_transaction() -> Error {
    Error::internal("no transaction is open")
}

fn no_copy() -> Error {
    Error::new(Condition::ProtocolViolation, "no COPY is in progress")
}

/// The plan of a statement that has one to keep: by key, or by DataFusion.
pub(super) fn plan(context: &mut Context<'_>, prepared: &Prepared, statement: &Statement) -> Result<Option<Plan>> {
    let (version, generation) = (context.catalog.version, context.settings.generation());
    if context.cacheable
        && let Some(plan) = prepared.plan(version, generation)
    {
        rights::check(context.catalog, context.user, plan.needs())?;
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
    rights::check(context.catalog, context.user, plan.needs())?;
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
