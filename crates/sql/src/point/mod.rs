//! Statements that touch one row by its key: the path of OLTP.
//!
//! A [`PointPlan`] is recognised once for a text and run many times with other
//! parameters. Everything that does not depend on them is decided before: where
//! the key's values come from, which slots of the row are read, how results are
//! computed. A run builds a key, reads a row, and writes it back.
//!
//! ```text
//! SELECT … FROM t WHERE pk = …  [AND …]  [FOR UPDATE]     key ─▶ row ─▶ values
//! UPDATE t SET … WHERE pk = …  [AND …]                    key ─▶ lock ─▶ row ─▶ new row
//! DELETE FROM t WHERE pk = …  [AND …]                     key ─▶ lock ─▶ row
//! INSERT INTO t VALUES (…), …                             values ─▶ keys ─▶ rows
//! ```
//! Parameters may be literals that were lifted out of a text. Those whose type
//! is not the one the plan was made for, and would mean something else, send the
//! statement the general way with the literals put back: see [`arguments`].
//!
//! | module        | holds                                                     |
//! |---------------|-----------------------------------------------------------|
//! | [`access`]    | how the row is found: which index, which values           |
//! | [`arguments`] | parameters, converted to what the plan wants              |
//! | [`fetch`]     | decoding the columns that are needed                      |
//! | [`read`]      | SELECT                                                    |
//! | [`change`]    | UPDATE and DELETE                                         |
//! | [`add`]       | INSERT                                                    |

mod access;
mod add;
mod arguments;
mod change;
mod fetch;
mod list;
mod read;

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::Statement;
use polity_base::{Type, Value};

use self::arguments::Arguments;
use crate::catalog::Catalog;
use crate::error::Result;
use crate::expr::Parameters;
use crate::query::{PlanInput, RunEnv};
use crate::rights::{self, Need};
use crate::session::{Column, Context, Outcome, Response};
use crate::write;

/// A statement that touches one row by its key (or adds a few).
pub struct PointPlan {
    statement: Statement,
    arguments: Arguments,
    columns: Option<Arc<[Column]>>,
    needs: [Need; 1],
    kind: Kind,
}

enum Kind {
    Read(Box<read::Read>),
    Change(Box<change::Change>),
    Add(Box<add::Add>),
}

impl PointPlan {
    /// The plan of `statement`, if it is of this kind. What is wrong with a
    /// statement is for the general way to say: it is `None` here.
    pub fn recognise(catalog: &Catalog, statement: &Statement, declared: &[Option<Type>]) -> Result<Option<PointPlan>> {
        let mut parameters = Parameters::stated(declared);
        let mut uses = arguments::Uses::default();
        let kind = match statement {
            Statement::Query(query) => {
                read::Read::recognise(catalog, query, &mut parameters, &mut uses).map(|r| Kind::Read(Box::new(r)))
            }
            Statement::Update(update) => change::Change::of_update(catalog, update, &mut parameters, &mut uses)
                .map(|c| Kind::Change(Box::new(c))),
            Statement::Delete(delete) => change::Change::of_delete(catalog, delete, &mut parameters, &mut uses)
                .map(|c| Kind::Change(Box::new(c))),
            Statement::Insert(insert) => {
                add::Add::recognise(catalog, insert, &mut parameters, &mut uses).map(|a| Kind::Add(Box::new(a)))
            }
            _ => None,
        };
        let Some(kind) = kind else { return Ok(None) };
        let columns = match &kind {
            Kind::Read(read) => Some(read.columns().clone()),
            Kind::Change(change) => change.columns().cloned(),
            Kind::Add(add) => add.columns().cloned(),
        };
        let Some(arguments) = Arguments::new(&parameters, declared, &uses) else { return Ok(None) };
        let table = match &kind {
            Kind::Read(read) => read.table(),
            Kind::Change(change) => change.table(),
            Kind::Add(add) => add.table(),
        };
        let needs = [Need::of(table, rights::of_statement(statement))];
        Ok(Some(PointPlan { statement: statement.clone(), arguments, columns, needs, kind }))
    }

    /// What it does with which table.
    pub fn needs(&self) -> &[Need] {
        &self.needs
    }

    /// Types of the parameters.
    pub fn parameters(&self) -> &[Type] {
        self.arguments.types()
    }

    /// The columns of the result, if there is one.
    pub fn columns(&self) -> Option<Arc<[Column]>> {
        self.columns.clone()
    }

    /// Runs it.
    pub async fn run(&self, ctx: &mut Context<'_>, parameters: &[Value]) -> Result<Outcome<Response>> {
        let Some(parameters) = self.arguments.convert(parameters, crate::expr::Local::of(ctx))? else {
            return Box::pin(self.run_generally(ctx, parameters)).await;
        };
        match &self.kind {
            Kind::Read(read) => read.run(ctx, &parameters).await,
            Kind::Change(change) => change.run(ctx, &parameters).await,
            Kind::Add(add) => add.run(ctx, &parameters).await,
        }
    }

    /// Runs the statement with its literals put back.
    async fn run_generally(&self, ctx: &mut Context<'_>, parameters: &[Value]) -> Result<Outcome<Response>> {
        let Some(statement) = arguments::put_back(&self.statement, parameters) else {
            return Err(crate::Error::internal("a parameter cannot be written as a literal"));
        };
        if let Some(plan) = PointPlan::recognise(ctx.catalog, &statement, &[])? {
            return plan.run(ctx, &[]).await;
        }
        match &statement {
            Statement::Insert(_) => write::insert::execute(ctx, &statement, &[]).await,
            Statement::Update(_) => write::update::execute(ctx, &statement, &[]).await,
            Statement::Delete(_) => write::delete::execute(ctx, &statement, &[]).await,
            Statement::Query(query) if !query.locks.is_empty() => {
                write::select_for_update::execute(ctx, &statement, &[]).await
            }
            _ => {
                let planned = ctx.engine.planner().plan(&PlanInput::of(ctx), &statement, &[])?;
                rights::check(ctx.catalog, ctx.user, &planned.needs)?;
                let rows = ctx.engine.planner().run(&planned, &[], &ctx.txn.view(), RunEnv::of(ctx)).await?;
                Ok(Outcome::Done(Response::Rows(rows)))
            }
        }
    }

    /// How it is run, in lines of text.
    pub fn explain(&self) -> Vec<String> {
        match &self.kind {
            Kind::Read(read) => read.explain(),
            Kind::Change(change) => change.explain(),
            Kind::Add(add) => add.explain(),
        }
    }
}
