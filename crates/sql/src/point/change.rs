//! UPDATE and DELETE of one row.
//!
//! The row is locked before it is read, so that writers of a hot row queue up
//! and each finds what the one before has left.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{Delete, Update};
use polity_base::{Guarantee, Key, Value};
use polity_txn::{LockMode, Wait};

use super::access::Access;
use super::arguments::Uses;
use super::list::{List, draw};
use super::read::{explain_access, table_of};
use crate::catalog::{Catalog, Table, name, rows};
use crate::error::Result;
use crate::expr::{self, Assign, Env, Expr, Parameters, Scope};
use crate::session::{Column, Context, Outcome, Response, RowStream, Verb};
use crate::write::defaults::Default;
use crate::write::delete::from_item;
use crate::write::merging;
use crate::write::statement::{self, Step, Stop, Writing, conclude};
use crate::write::target::Target;
use crate::write::update::Assignments;

/// An UPDATE or DELETE of one row.
pub struct Change {
    target: Arc<Target>,
    access: Access,
    /// `None`: the row is removed
    set: Option<Vec<(usize, Expr, Assign)>>,
    /// Whether keys, index entries and references stay as they are
    is_plain: bool,
    /// Whether it only adds to exact numbers of a row that a ledger keeps: then what they
    /// were does not matter, and those who do it at once do not conflict
    only_adds: bool,
    mode: LockMode,
    returning: Option<List>,
}

impl Change {
    pub(super) fn of_update(
        catalog: &Catalog,
        update: &Update,
        parameters: &mut Parameters,
        uses: &mut Uses,
    ) -> Option<Change> {
        let Update {
            update_token: _,
            optimizer_hints: _,
            table,
            assignments,
            from: None,
            selection: Some(condition),
            returning,
            output: None,
            or: None,
            order_by,
            limit: None,
        } = update
        else {
            return None;
        };
        if !order_by.is_empty() || !table.joins.is_empty() {
            return None;
        }
        let (table, qualifier) = table_of(catalog, &table.relation)?;
        let assignments = Assignments::of(&table, assignments).ok()?;
        let mut set = Vec::new();
        let mut adds = table.guarantee == Guarantee::Byzantine;
        for (place, ast) in assignments.iter() {
            let column = &table.columns[place];
            let (expr, assign) = match ast {
                None => {
                    adds = false;
                    Default::of(catalog, column, None).ok()??.into_small(&column.r#type)?
                }
                Some(ast) => {
                    uses.assigns(ast, parameters);
                    let mut scope = Scope::new(catalog, parameters).with_table(&table, &qualifier);
                    let expr = expr::compile_as(ast, &column.r#type, &mut scope)?;
                    let assign = Assign::new(&expr.r#type, &column.r#type, &column.name).ok()?;
                    adds &= merging::adds(column, place, ast, &expr);
                    (expr, assign)
                }
            };
            set.push((place, expr, assign));
        }
        let access = Access::of(catalog, &table, &qualifier, condition, parameters, uses)?;
        let returning = returning_list(returning.as_deref(), catalog, &table, &qualifier, parameters)?;
        let target = Target::of(catalog, &table, None).ok()??;
        let places = assignments.places();
        let touches = |columns: &[usize]| columns.iter().any(|c| places.contains(c));
        let is_plain = !touches(&target.key)
            && target.indexes.iter().all(|i| i.columns.iter().all(|(p, _)| !places.contains(p)))
            && target.parents.iter().all(|p| !touches(&p.columns))
            && target.children.iter().all(|c| !touches(&c.referenced));
        let mode = if target.is_key_change(&places) { LockMode::Exclusive } else { LockMode::NoKeyExclusive };
        let only_adds = adds && is_plain && access.is_plain() && returning.is_none();
        Some(Change { target: Arc::new(target), access, set: Some(set), is_plain, only_adds, mode, returning })
    }

    pub(super) fn of_delete(
        catalog: &Catalog,
        delete: &Delete,
        parameters: &mut Parameters,
        uses: &mut Uses,
    ) -> Option<Change> {
        let from = from_item(delete).ok()?;
        if delete.using.is_some() || !from.joins.is_empty() {
            return None;
        }
        let (table, qualifier) = table_of(catalog, &from.relation)?;
        let access = Access::of(catalog, &table, &qualifier, delete.selection.as_ref()?, parameters, uses)?;
        let returning = returning_list(delete.returning.as_deref(), catalog, &table, &qualifier, parameters)?;
        let target = Target::of(catalog, &table, None).ok()??;
        let mode = LockMode::Exclusive;
        let target = Arc::new(target);
        Some(Change { target, access, set: None, is_plain: false, only_adds: false, mode, returning })
    }

    pub(super) fn table(&self) -> &Table {
        &self.target.table
    }

    pub(super) fn columns(&self) -> Option<&Arc<[Column]>> {
        self.returning.as_ref().map(|r| &r.columns)
    }

    fn verb(&self) -> (Verb, &'static str) {
        match self.set {
            Some(_) => (Verb::Update, "UPDATE"),
            None => (Verb::Delete, "DELETE"),
        }
    }

    pub(super) async fn run(&self, ctx: &mut Context<'_>, parameters: &[Value]) -> Result<Outcome<Response>> {
        let (verb, word) = self.verb();
        statement::check_writable(ctx, word)?;
        let savepoint = ctx.txn.savepoint();
        let result = self.change(ctx, parameters).await;
        let written = match conclude(ctx, &savepoint, result)? {
            Outcome::Done(written) => written,
            Outcome::Stale => return Ok(Outcome::Stale),
        };
        Ok(Outcome::Done(match &self.returning {
            None => Response::Complete(format!("{word} {}", u8::from(written.is_some()))),
            Some(list) => {
                let mut rows = Vec::new();
                if let Some(row) = written {
                    rows.push(list.of_row(row, &Env::of(ctx, parameters))?);
                }
                Response::Rows(RowStream::ready(list.columns.clone(), verb, rows))
            }
        }))
    }

    /// Does it. Gives the new row, or the one that was removed.
    async fn change(&self, ctx: &mut Context<'_>, parameters: &[Value]) -> Step<Option<Vec<Value>>> {
        let target = &self.target;
        // What is read is locked, so the snapshot may move forward at will.
        let mut writing = Writing::begin(ctx, target, true).await?;
        let unseen = self.only_adds && ctx.alone;
        let Some((key, row)) = self.locked_row(ctx, &mut writing, parameters, unseen).await? else { return Ok(None) };
        let Some(set) = &self.set else {
            writing.delete(ctx, target, &key, &row)?;
            writing.finish(ctx).await?;
            return Ok(Some(row));
        };
        writing.assigned = set.iter().map(|(place, ..)| *place).collect();
        let mut values = Vec::with_capacity(set.len());
        let mut rounds = false;
        for (_, expr, assign) in set {
            let drawn = match expr.sequences.is_empty() {
                true => Vec::new(),
                false => draw(ctx, &expr.sequences).await?,
            };
            let env = Env::of(ctx, parameters).row(&row).drawn(&drawn);
            let value = expr.eval(&env)?;
            let stored = assign.apply(value.clone(), env.local)?;
            rounds |= unseen && value.compare(&stored).is_some_and(|order| order.is_ne());
            values.push(stored);
        }
        let mut new = row;
        if self.is_plain {
            let old = if target.table.guarantee == Guarantee::Strong { Vec::new() } else { new.clone() };
            put_into(&mut new, set, values);
            let additions = match unseen && !rounds {
                true => merging::added(&target.table, &old, &new, &writing.assigned),
                false => None,
            };
            match additions {
                Some(additions) => writing.add(ctx, target, key, &new, additions)?,
                None => {
                    if unseen {
                        // That it is NULL, or what its sum is rounded to, decides what
                        // becomes of it.
                        ctx.txn.view().get(&key)?;
                    }
                    writing.replace(ctx, target, key, &old, &new)?;
                }
            }
            return Ok(Some(new));
        }
        let old = new.clone();
        put_into(&mut new, set, values);
        writing.update(ctx, target, &key, &old, &new).await?;
        writing.finish(ctx).await?;
        Ok(Some(new))
    }

    /// The row and its key, locked; `None`: there is none. `unseen`: what the row is does
    /// not matter to what becomes of it.
    async fn locked_row(
        &self,
        ctx: &mut Context<'_>,
        writing: &mut Writing,
        parameters: &[Value],
        unseen: bool,
    ) -> Step<Option<(Key, Vec<Value>)>> {
        let place = self.access.place(&Env::of(ctx, parameters))?;
        let found = self.access.key(place, &ctx.txn.view().untracked())?;
        // A lock on what a ledger keeps would say that the row is read.
        if let Some(key) = found.as_ref().filter(|_| !unseen) {
            writing.lock(ctx, key, self.mode, Wait::Block).await?;
        }
        let view = ctx.txn.view();
        let view = if unseen { view.untracked() } else { view };
        let env = Env::of(ctx, parameters);
        // An entry of a unique index may point elsewhere by now.
        let key = self.access.key(self.access.place(&env)?, &view)?;
        if key != found {
            return Err(Stop::Stale);
        }
        let Some(key) = key else { return Ok(None) };
        let Some(stored) = view.get(&key)? else { return Ok(None) };
        let row = rows::load(&self.target.table, &stored)?;
        if let Some(filter) = &self.access.filter
            && !filter.is_true(&env.row(&row))?
        {
            return Ok(None);
        }
        Ok(Some((key, row)))
    }

    pub(super) fn explain(&self) -> Vec<String> {
        let (_, word) = self.verb();
        let verb = if word == "UPDATE" { "Update" } else { "Delete" };
        let mut lines = vec![format!("{verb} on {}", name::quote(&self.target.table.name))];
        let access = explain_access(&self.target.table, &self.access);
        lines.extend(
            access
                .into_iter()
                .enumerate()
                .map(|(n, l)| if n == 0 { format!("  ->  {l}") } else { format!("      {l}") }),
        );
        lines
    }
}

fn put_into(row: &mut [Value], set: &[(usize, Expr, Assign)], values: Vec<Value>) {
    for ((place, ..), value) in set.iter().zip(values) {
        if let Some(slot) = row.get_mut(*place) {
            *slot = value;
        }
    }
}

/// RETURNING; the outer `None`: it is not of this kind.
#[allow(clippy::option_option)]
pub(super) fn returning_list(
    items: Option<&[datafusion::sql::sqlparser::ast::SelectItem]>,
    catalog: &Catalog,
    table: &Table,
    qualifier: &str,
    parameters: &mut Parameters,
) -> Option<Option<List>> {
    let Some(items) = items else { return Some(None) };
    let mut list = List::compile(items, catalog, table, qualifier, parameters)?;
    list.over_fetched(&|at| at, table.columns.len());
    (!list.draws()).then_some(Some(list))
}
