//! SELECT of one row.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    Expr as Ast, GroupByExpr, LimitClause, LockClause, Query, Select, SelectFlavor, SetExpr, TableFactor,
};
use polity_base::{Type, Value};
use polity_txn::{LockMode, Wait};

use super::access::{Access, Place};
use super::arguments::Uses;
use super::fetch::Fetch;
use super::list::List;
use crate::catalog::{Catalog, Table, name};
use crate::error::{Condition, Error, Result};
use crate::expr::{self, Env, Expr, Parameters, Scope};
use crate::session::{Column, Context, Outcome, Response, RowStream, Verb};
use crate::write::select_for_update::Locking;
use crate::write::statement;

/// A SELECT of one row.
pub struct Read {
    table: Arc<Table>,
    access: Access,
    fetch: Fetch,
    list: List,
    limit: Option<Expr>,
    locking: Option<Locking>,
}

impl Read {
    pub(super) fn recognise(
        catalog: &Catalog,
        query: &Query,
        parameters: &mut Parameters,
        uses: &mut Uses,
    ) -> Option<Read> {
        let Query {
            with: None,
            body,
            order_by: None,
            limit_clause,
            fetch: None,
            locks,
            for_clause: None,
            settings: None,
            format_clause: None,
            pipe_operators,
        } = query
        else {
            return None;
        };
        let SetExpr::Select(select) = body.as_ref() else { return None };
        if !pipe_operators.is_empty() || !is_simple(select) {
            return None;
        }
        let [from] = select.from.as_slice() else { return None };
        if !from.joins.is_empty() {
            return None;
        }
        let (table, qualifier) = table_of(catalog, &from.relation)?;
        let condition = select.selection.as_ref()?;
        let mut access = Access::of(catalog, &table, &qualifier, condition, parameters, uses)?;
        let mut list = List::compile(&select.projection, catalog, &table, &qualifier, parameters)?;
        if list.draws() {
            return None;
        }
        let limit = limit(catalog, limit_clause.as_ref(), parameters)?;
        let mut places = list.places();
        if let Some(filter) = &access.filter {
            filter.columns(&mut |at| places.push(at));
        }
        let fetch = Fetch::new(&table, &mut places.into_iter());
        list.over_fetched(&|at| fetch.at(at), fetch.len());
        if let Some(filter) = &mut access.filter {
            filter.move_columns(&|at| fetch.at(at));
        }
        let locking = locking(locks, &qualifier)?;
        Some(Read { table, access, fetch, list, limit, locking })
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn columns(&self) -> &Arc<[Column]> {
        &self.list.columns
    }

    pub(super) async fn run(&self, ctx: &mut Context<'_>, parameters: &[Value]) -> Result<Outcome<Response>> {
        let rows = match self.locking {
            None => {
                let env = Env::of(ctx, parameters);
                match self.access.place(&env)? {
                    Place::Nowhere => Vec::new(),
                    place => self.row(ctx, place, &env)?.into_iter().collect(),
                }
            }
            Some(locking) => {
                statement::check_writable(ctx, &format!("SELECT {}", locking.words()))?;
                match statement::guard(ctx, &self.table).await {
                    Ok(()) => {}
                    Err(statement::Stop::Stale) => return Ok(Outcome::Stale),
                    Err(statement::Stop::Failed(error)) => return Err(error),
                }
                self.locked(ctx, parameters, locking).await?.into_iter().collect()
            }
        };
        let rows = if rows.is_empty() { rows } else { self.limited(rows, &Env::of(ctx, parameters))? };
        Ok(Outcome::Done(Response::Rows(RowStream::ready(self.list.columns.clone(), Verb::Select, rows))))
    }

    fn row(&self, ctx: &Context<'_>, place: Place, env: &Env<'_>) -> Result<Option<Vec<Value>>> {
        let view = ctx.txn.view();
        let Some(key) = self.access.key(place, &view)? else { return Ok(None) };
        let Some(stored) = view.get(&key)? else { return Ok(None) };
        let row = self.fetch.decode(&self.table, &stored)?;
        if let Some(filter) = &self.access.filter
            && !filter.is_true(&env.row(&row))?
        {
            return Ok(None);
        }
        self.list.of_row(row, env).map(Some)
    }

    async fn locked(
        &self,
        ctx: &mut Context<'_>,
        parameters: &[Value],
        locking: Locking,
    ) -> Result<Option<Vec<Value>>> {
        let place = self.access.place(&Env::of(ctx, parameters))?;
        // Which row an entry points to may change until the row is locked.
        let Some(key) = self.access.key(place, &ctx.txn.view().untracked())? else { return Ok(None) };
        lock(ctx, &key, locking.mode, locking.wait, &self.table).await?;
        let env = Env::of(ctx, parameters);
        let place = self.access.place(&env)?;
        self.row(ctx, place, &env)
    }

    fn limited(&self, rows: Vec<Vec<Value>>, env: &Env<'_>) -> Result<Vec<Vec<Value>>> {
        let Some(limit) = &self.limit else { return Ok(rows) };
        match limit.eval(env)?.as_i64() {
            Some(0) => Ok(Vec::new()),
            Some(n) if n < 0 => Err(Error::new(Condition::InvalidRowCountInLimit, "LIMIT must not be negative")),
            _ => Ok(rows),
        }
    }

    pub(super) fn explain(&self) -> Vec<String> {
        let mut lines = explain_access(&self.table, &self.access);
        if let Some(locking) = self.locking {
            lines.insert(0, format!("Lock rows {}", locking.words().to_lowercase()));
            lines.iter_mut().skip(1).for_each(|l| *l = format!("  {l}"));
        }
        lines
    }
}

/// `Point lookup on t using t_pkey`
pub(super) fn explain_access(table: &Table, access: &Access) -> Vec<String> {
    vec![
        format!("Point lookup on {} using {}", name::quote(&table.name), name::quote(&access.name)),
        format!("  Condition: {}", access.condition),
    ]
}

/// Locks a row that nothing was read of yet, and moves the snapshot when the
/// row is newer.
pub(super) async fn lock(
    ctx: &mut Context<'_>,
    key: &polity_base::Key,
    mode: LockMode,
    wait: Wait,
    table: &Table,
) -> Result<()> {
    let locked = match ctx.txn.lock(key, mode, wait).await {
        Err(polity_txn::Error::LockNotAvailable { timed_out: false, .. }) => {
            return Err(Error::new(
                Condition::LockNotAvailable,
                format!("could not obtain lock on row in relation \"{}\"", table.name),
            )
            .table(&table.name));
        }
        other => other?,
    };
    if locked.is_newer() {
        ctx.txn.advance().await?;
    }
    Ok(())
}

fn is_simple(select: &Select) -> bool {
    matches!(&select.group_by, GroupByExpr::Expressions(by, modifiers) if by.is_empty() && modifiers.is_empty())
        && select.distinct.is_none()
        && select.select_modifiers.is_none()
        && select.top.is_none()
        && select.exclude.is_none()
        && select.into.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.connect_by.is_empty()
        && select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.having.is_none()
        && select.named_window.is_empty()
        && select.qualify.is_none()
        && select.value_table_mode.is_none()
        && select.flavor == SelectFlavor::Standard
}

/// The table of schema `public` that a FROM item is, and how it is called.
pub(super) fn table_of(catalog: &Catalog, factor: &TableFactor) -> Option<(Arc<Table>, String)> {
    let TableFactor::Table {
        name: written,
        alias,
        args: None,
        with_hints,
        version: None,
        with_ordinality: false,
        partitions,
        json_path: None,
        sample: None,
        index_hints,
    } = factor
    else {
        return None;
    };
    if !with_hints.is_empty() || !partitions.is_empty() || !index_hints.is_empty() {
        return None;
    }
    let table = catalog.table(&name::object(written).ok()?)?.clone();
    let qualifier = match alias {
        Some(alias) if alias.columns.is_empty() && alias.at.is_none() => name::fold(&alias.name),
        Some(_) => return None,
        None => table.name.clone(),
    };
    Some((table, qualifier))
}

/// LIMIT as an expression; the outer `None`: there is more to it.
#[allow(clippy::option_option)]
fn limit(catalog: &Catalog, clause: Option<&LimitClause>, parameters: &mut Parameters) -> Option<Option<Expr>> {
    let ast: &Ast = match clause {
        None => return Some(None),
        Some(LimitClause::LimitOffset { limit: Some(limit), offset: None, limit_by }) if limit_by.is_empty() => limit,
        Some(_) => return None,
    };
    let mut scope = Scope::new(catalog, parameters);
    let expr = expr::compile_as(ast, &Type::Int8, &mut scope)?;
    (expr.r#type.is_integer() && expr.sequences.is_empty()).then_some(Some(expr))
}

#[allow(clippy::option_option)]
fn locking(locks: &[LockClause], qualifier: &str) -> Option<Option<Locking>> {
    match locks {
        [] => Some(None),
        // What is wrong with it, the general way says.
        some => Locking::of(some, qualifier).ok().map(Some),
    }
}
