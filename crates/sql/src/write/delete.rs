//! DELETE.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{Delete, FromTable, Statement, TableWithJoins};
use polity_base::Value;
use polity_txn::LockMode;

use super::returning::{Others, Returning, response};
use super::statement::{self, Step, Writing, conclude};
use super::{conformed, described, select, spelling, table_of, types_of, update};
use crate::catalog::Table;
use crate::error::{Condition, Error, Result};
use crate::expr::{Parameters, Scope};
use crate::query::{PlanInput, Planned};
use crate::rights;
use crate::session::{Context, Description, Outcome, Response, Verb};

/// A DELETE as a query: key, columns, columns of other tables.
struct Plan {
    table: Arc<Table>,
    qualifier: String,
    planned: Planned,
    others: Others,
}

impl Plan {
    fn of(ctx: &Context<'_>, delete: &Delete, parameters: &mut Parameters) -> Result<Plan> {
        let item = from_item(delete)?;
        let (written, alias) = select::written_table(item)?;
        let table = table_of(ctx.catalog, written, "DELETE")?;
        rights::require(ctx.catalog, ctx.user, &table, rights::of_delete(delete))?;
        let qualifier = alias.unwrap_or_else(|| table.name.clone());
        let (using, with) = spelling::without_carrier(delete.using.as_deref().unwrap_or_default());
        let mut items = select::key_and_columns(&table, &qualifier);
        let others = update::others(ctx, delete.returning.is_some(), using, with, &mut items)?;
        let tables: Vec<TableWithJoins> = std::iter::once(item).chain(using).cloned().collect();
        let statement = select::statement(with, items, tables, delete.selection.clone())?;
        let planned = select::plan(ctx, &statement, Some(table.id), parameters)?;
        Ok(Plan { table, qualifier, planned, others })
    }

    fn returning(&self, ctx: &Context<'_>, delete: &Delete, parameters: &mut Parameters) -> Result<Option<Returning>> {
        let Some(items) = &delete.returning else { return Ok(None) };
        let mut scope = Scope::new(ctx.catalog, parameters).with_table(&self.table, &self.qualifier);
        self.others.add_to(&mut scope);
        Returning::compile(items, &self.table, &mut scope, &PlanInput::of(ctx)).map(Some)
    }
}

/// The one table that rows are deleted from.
pub(crate) fn from_item(delete: &Delete) -> Result<&TableWithJoins> {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    match from.as_slice() {
        [one]
            if delete.tables.is_empty()
                && delete.order_by.is_empty()
                && delete.limit.is_none()
                && delete.output.is_none() =>
        {
            Ok(one)
        }
        _ => Err(Error::new(Condition::SyntaxError, "syntax error at or near \"DELETE\"")),
    }
}

/// What a DELETE needs and gives.
pub(super) fn describe(ctx: &Context<'_>, delete: &Delete, mut parameters: Parameters) -> Result<Description> {
    let plan = Plan::of(ctx, delete, &mut parameters)?;
    let returning = plan.returning(ctx, delete, &mut parameters)?;
    Ok(Description { parameters: described(&parameters)?, columns: returning.map(|r| r.columns) })
}

/// How a DELETE is run.
pub(super) fn explain(ctx: &Context<'_>, delete: &Delete) -> Result<Vec<String>> {
    let plan = Plan::of(ctx, delete, &mut Parameters::default())?;
    Ok(update::explain_rows("Delete", &plan.table, &from_item(delete)?.relation, delete.selection.as_ref()))
}

/// Runs a DELETE.
pub async fn execute(ctx: &mut Context<'_>, statement: &Statement, parameters: &[Value]) -> Result<Outcome<Response>> {
    let Statement::Delete(delete) = statement else { return Err(Error::internal("not a DELETE")) };
    statement::check_writable(ctx, "DELETE")?;
    let savepoint = ctx.txn.savepoint();
    let result = run(ctx, delete, parameters).await;
    conclude(ctx, &savepoint, result)
}

async fn run(ctx: &mut Context<'_>, delete: &Delete, parameters: &[Value]) -> Step<Response> {
    let mut types = types_of(parameters);
    let plan = Plan::of(ctx, delete, &mut types)?;
    let returning = plan.returning(ctx, delete, &mut types)?;
    let parameters = &conformed(ctx, parameters, &types)?;
    let target = Arc::new(statement::prepare(ctx, &plan.table)?);
    let mut writing = Writing::begin(ctx, &target, false).await?;
    let found = update::found_rows(ctx, &mut writing, &plan.planned, parameters, LockMode::Exclusive).await?;
    let width = plan.table.columns.len();
    let mut run = None;
    let (mut written, mut returned) = (0, Vec::new());
    for (key, row) in found {
        ctx.watch.pause().await?;
        writing.delete(ctx, &target, &key, row.get(..width).unwrap_or(&row))?;
        written += 1;
        if let Some(returning) = &returning {
            returned.push(returning.row(ctx, &row, parameters, &mut run).await?);
        }
    }
    writing.finish(ctx).await?;
    Ok(response(Verb::Delete, written, returning.as_ref().map(|r| (r, returned))))
}
