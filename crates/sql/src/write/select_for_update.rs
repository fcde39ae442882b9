//! SELECT … FOR UPDATE and its weaker siblings, where [`crate::point`] does not
//! do it: the query finds rows with their keys, the keys are locked, and when
//! one is newer than the snapshot the statement starts over.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    GroupByExpr, LockClause, LockType, NonBlock, ObjectNamePart, Query, SelectItem, SetExpr, Statement,
};
use polity_base::{Type, Value};
use polity_txn::{LockMode, Wait};

use super::statement::{self, Step, Writing, conclude};
use super::{conformed, described, select, table_of, types_of};
use crate::catalog::{Table, name};
use crate::error::{Condition, Error, Result};
use crate::expr::Parameters;
use crate::query::Planned;
use crate::rights;
use crate::session::{Column, Context, Description, Outcome, Response, RowStream, Verb};

/// The locking clause has no words for the two weaker modes of each pair: they
/// arrive as the stronger one OF a name that starts with this.
pub const WEAKER: &str = "polity weaker";

/// How a query locks the rows it gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Locking {
    /// The mode
    pub mode: LockMode,
    /// Whether to wait
    pub wait: Wait,
}

impl Locking {
    /// What a query's locking clauses ask for, on the table known as
    /// `qualifier`; the strongest counts.
    pub fn of(clauses: &[LockClause], qualifier: &str) -> Result<Locking> {
        let mut all: Option<Locking> = None;
        for clause in clauses {
            let mut words = Vec::new();
            for part in clause.of.iter().flat_map(|of| &of.0) {
                match part {
                    ObjectNamePart::Identifier(word) => words.push(name::fold(word)),
                    other => {
                        return Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{other}\"")));
                    }
                }
            }
            let weaker = words.first().is_some_and(|w| w == WEAKER);
            let mode = match (clause.lock_type, weaker) {
                (LockType::Update, false) => LockMode::Exclusive,
                (LockType::Update, true) => LockMode::NoKeyExclusive,
                (LockType::Share, false) => LockMode::Share,
                (LockType::Share, true) => LockMode::KeyShare,
            };
            let of = words.get(usize::from(weaker));
            if of.is_some_and(|of| of != qualifier) {
                let of = of.map_or("", String::as_str);
                return Err(Error::new(
                    Condition::UndefinedTable,
                    format!("relation \"{of}\" in FOR {mode} clause not found in FROM clause"),
                ));
            }
            let wait = match clause.nonblock {
                None => Wait::Block,
                Some(NonBlock::Nowait) => Wait::NoWait,
                Some(NonBlock::SkipLocked) => {
                    return Err(Error::unsupported("SKIP LOCKED").hint("Wait for the locks, or use NOWAIT."));
                }
            };
            all = Some(match all {
                None => Locking { mode, wait },
                Some(other) => {
                    Locking { mode: mode.max(other.mode), wait: if wait == Wait::NoWait { wait } else { other.wait } }
                }
            });
        }
        all.ok_or_else(|| Error::internal("a query without a locking clause"))
    }

    /// The clause's words.
    pub fn words(self) -> String {
        format!("FOR {}", self.mode)
    }
}

struct Plan {
    table: Arc<Table>,
    locking: Locking,
    planned: Planned,
}

impl Plan {
    fn of(ctx: &Context<'_>, statement: &Statement, parameters: &mut Parameters) -> Result<Plan> {
        let Statement::Query(query) = statement else { return Err(Error::internal("not a query")) };
        let (table, qualifier) = one_table(ctx, query)?;
        let locking = Locking::of(&query.locks, &qualifier)?;
        rights::require(ctx.catalog, ctx.user, &table, rights::OF_LOCKING)?;
        let mut keyed = (**query).clone();
        keyed.locks = Vec::new();
        if let SetExpr::Select(select) = keyed.body.as_mut() {
            // Last, so that ORDER BY 1 means what it did.
            select.projection.push(SelectItem::UnnamedExpr(select::column(&qualifier, select::KEY_COLUMN)));
        }
        let planned = select::plan(ctx, &Statement::Query(Box::new(keyed)), Some(table.id), parameters);
        let planned = planned.map_err(|error| match error.condition() {
            // Only with aggregates does the key stand outside of GROUP BY.
            Condition::GroupingError if error.message().contains(select::KEY_COLUMN) => {
                Error::new(Condition::FeatureNotSupported, "FOR UPDATE is not allowed with aggregate functions")
            }
            _ => error,
        })?;
        Ok(Plan { table, locking, planned })
    }

    fn columns(&self) -> Arc<[Column]> {
        let n = self.planned.columns.len().saturating_sub(1);
        self.planned.columns.iter().take(n).cloned().collect()
    }
}

/// The one table of a query that locks rows, and how the query calls it.
fn one_table(ctx: &Context<'_>, query: &Query) -> Result<(Arc<Table>, String)> {
    let refused =
        |what: &str| Err(Error::new(Condition::FeatureNotSupported, format!("FOR UPDATE is not allowed with {what}")));
    if query.with.is_some() {
        return Err(Error::unsupported("FOR UPDATE of a query with WITH"));
    }
    let SetExpr::Select(select) = query.body.as_ref() else { return refused("UNION/INTERSECT/EXCEPT") };
    if select.distinct.is_some() {
        return refused("DISTINCT clause");
    }
    if !matches!(&select.group_by, GroupByExpr::Expressions(by, modifiers) if by.is_empty() && modifiers.is_empty()) {
        return refused("GROUP BY clause");
    }
    if select.having.is_some() {
        return refused("HAVING clause");
    }
    match select.from.as_slice() {
        [one] if one.joins.is_empty() => {
            let (written, alias) =
                select::written_table(one).map_err(|_| Error::unsupported("FOR UPDATE of anything but a table"))?;
            let table = table_of(ctx.catalog, written, "SELECT FOR UPDATE")?;
            let qualifier = alias.unwrap_or_else(|| table.name.clone());
            Ok((table, qualifier))
        }
        _ => Err(Error::unsupported("FOR UPDATE of more than one table")
            .hint("Lock the rows of each table by a statement of its own.")),
    }
}

/// What such a query needs and gives.
pub fn describe(ctx: &mut Context<'_>, statement: &Statement, declared: &[Option<Type>]) -> Result<Description> {
    let mut parameters = Parameters::stated(declared);
    let plan = Plan::of(ctx, statement, &mut parameters)?;
    Ok(Description { parameters: described(&parameters)?, columns: Some(plan.columns()) })
}

/// Runs such a query.
pub async fn execute(ctx: &mut Context<'_>, statement: &Statement, parameters: &[Value]) -> Result<Outcome<Response>> {
    let savepoint = ctx.txn.savepoint();
    let result = run(ctx, statement, parameters).await;
    conclude(ctx, &savepoint, result)
}

async fn run(ctx: &mut Context<'_>, statement: &Statement, parameters: &[Value]) -> Step<Response> {
    let mut types = types_of(parameters);
    let plan = Plan::of(ctx, statement, &mut types)?;
    let parameters = &conformed(ctx, parameters, &types)?;
    statement::check_writable(ctx, &format!("SELECT {}", plan.locking.words()))?;
    let target = Arc::new(statement::prepare(ctx, &plan.table)?);
    let mut writing = Writing::begin(ctx, &target, false).await?;
    let mut stream = select::run(ctx, &plan.planned, parameters).await?;
    let mut rows = Vec::new();
    loop {
        let chunk = stream.next(1_024).await?;
        if chunk.is_empty() {
            break;
        }
        for mut row in chunk {
            let key = select::key_of(row.pop().unwrap_or(Value::Null))?;
            lock(ctx, &mut writing, &key, plan.locking, &plan.table).await?;
            rows.push(row);
        }
    }
    Ok(Response::Rows(RowStream::ready(plan.columns(), Verb::Select, rows)))
}

/// Locks one row; that it is taken is said in PostgreSQL's words.
pub(crate) async fn lock(
    ctx: &mut Context<'_>,
    writing: &mut Writing,
    key: &polity_base::Key,
    locking: Locking,
    table: &Table,
) -> Step<()> {
    match writing.lock(ctx, key, locking.mode, locking.wait).await {
        Err(statement::Stop::Failed(e))
            if e.condition() == Condition::LockNotAvailable && locking.wait == Wait::NoWait =>
        {
            let error = Error::new(
                Condition::LockNotAvailable,
                format!("could not obtain lock on row in relation \"{}\"", table.name),
            );
            Err(error.table(&table.name).into())
        }
        other => other,
    }
}
