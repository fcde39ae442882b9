//! Foreign keys.
//!
//! Both sides are checked when the statement has written all its rows, so rows
//! may refer to one another. First what follows from rows of a parent that went
//! or changed their key (CASCADE, SET NULL, SET DEFAULT, RESTRICT), in the order
//! in which it came up, and whatever follows from that; then NO ACTION; last the
//! rows that refer to others.
//!
//! ```text
//! child's writer     KEY SHARE lock on the parent's row, condition: it is there
//! parent's writer    EXCLUSIVE lock on its row, condition: no child appears
//! ```

use std::collections::HashSet;
use std::sync::Arc;

use polity_base::key::Direction;
use polity_base::{Key, Span, TableId, Value};
use polity_txn::{Isolation, LockMode, TransactionOptions, View, Wait};

use super::defaults::Default;
use super::statement::{MOST_LOCKS, Step, Stop, Writing};
use super::target::{self, Child, ParentAccess, Target, differs};
use super::violation;
use crate::catalog::{Action, Table, rows};
use crate::error::{Error, Result};
use crate::expr::{Assign, Local, cast};
use crate::session::{Context, Watch};

/// A row that refers to another.
pub(super) struct Referring {
    target: Arc<Target>,
    /// Its place among the target's foreign keys
    parent: usize,
    /// What must be there; `None` when no row can be
    required: Option<Key>,
    values: Vec<Value>,
    /// Where the referring row is
    row: Key,
}

/// A referenced key that is no more.
pub(super) struct Gone {
    target: Arc<Target>,
    /// Its place among the foreign keys towards the target
    child: usize,
    old: Vec<Value>,
    /// What the key has become; `None`: the row was removed
    new: Option<Vec<Value>>,
}

impl Writing {
    /// Notes what one of many new rows refers to; what another one refers to as
    /// well, only once.
    pub(super) fn refer_once(&mut self, target: &Arc<Target>, new: &[Value], row: &Key) -> Result<()> {
        let before = self.referring.len();
        self.refer(target, None, new, row)?;
        let mut added = self.referring.split_off(before);
        added.retain(|referring| match (referring.target.parents.get(referring.parent), &referring.required) {
            (Some(parent), Some(required)) => self.referred.insert((parent.key.id, required.clone())),
            _ => true,
        });
        self.referring.append(&mut added);
        Ok(())
    }

    /// Notes what a new row, or the new version of a row, refers to.
    pub(super) fn refer(
        &mut self,
        target: &Arc<Target>,
        old: Option<&[Value]>,
        new: &[Value],
        row: &Key,
    ) -> Result<()> {
        for (at, parent) in target.parents.iter().enumerate() {
            if old.is_some_and(|old| !parent.columns.iter().any(|place| differs(old, new, *place))) {
                continue;
            }
            let values: Vec<&Value> = parent.columns.iter().filter_map(|place| new.get(*place)).collect();
            let nulls = values.iter().filter(|v| v.is_null()).count();
            if nulls > 0 {
                if parent.key.match_full && nulls < values.len() {
                    return Err(violation::partly_null(&target.table, &parent.key.name));
                }
                continue;
            }
            self.referring.push(Referring {
                required: parent.required(&values)?,
                values: values.into_iter().cloned().collect(),
                target: target.clone(),
                parent: at,
                row: row.clone(),
            });
        }
        Ok(())
    }

    /// Notes what may refer to a row that is removed or changed.
    pub(super) fn note_gone(&mut self, target: &Arc<Target>, old: &[Value], new: Option<&[Value]>) {
        for (at, child) in target.children.iter().enumerate() {
            if new.is_some_and(|new| !child.referenced.iter().any(|place| differs(old, new, *place))) {
                continue;
            }
            let pick = |row: &[Value]| -> Vec<Value> {
                child.referenced.iter().map(|place| row.get(*place).cloned().unwrap_or(Value::Null)).collect()
            };
            let old = pick(old);
            if old.iter().any(Value::is_null) {
                continue;
            }
            self.gone.push(Gone { target: target.clone(), child: at, old, new: new.map(pick) });
        }
    }

    /// Ends the statement: references hold afterwards.
    pub async fn finish(&mut self, ctx: &mut Context<'_>) -> Step<()> {
        let mut unanswered = Vec::new();
        let mut cascaded = false;
        while !self.gone.is_empty() {
            for gone in std::mem::take(&mut self.gone) {
                ctx.watch.pause().await?;
                let Some(child) = gone.target.children.get(gone.child) else { continue };
                match child.action(gone.new.is_none()) {
                    Action::NoAction => unanswered.push(gone),
                    Action::Restrict => refuse_if_referenced(ctx, &gone, child).await?,
                    action => {
                        cascaded = true;
                        self.pass_on(ctx, &gone, child).await?;
                        if action == Action::SetDefault {
                            // The default may be the very key that went.
                            unanswered.push(gone);
                        }
                    }
                }
            }
        }
        for gone in &unanswered {
            ctx.watch.pause().await?;
            let Some(child) = gone.target.children.get(gone.child) else { continue };
            if !is_back(ctx, gone, child)? {
                refuse_if_referenced(ctx, gone, child).await?;
            }
        }
        let mut seen: HashSet<(TableId, Key)> = HashSet::new();
        for referring in std::mem::take(&mut self.referring) {
            ctx.watch.pause().await?;
            let Some(parent) = referring.target.parents.get(referring.parent) else { continue };
            if let Some(required) = &referring.required
                && !seen.insert((parent.key.id, required.clone()))
            {
                continue;
            }
            if cascaded && !still_refers(ctx, &referring)? {
                continue;
            }
            self.check_parent(ctx, &referring).await?;
        }
        Ok(())
    }

    /// Does to the referring rows what the constraint says.
    async fn pass_on(&mut self, ctx: &mut Context<'_>, gone: &Gone, child: &Child) -> Step<()> {
        let target = self.target(ctx, &child.table).await?;
        let places =
            child.key.columns.iter().map(|id| rows::position(&child.table, *id)).collect::<Result<Vec<_>>>()?;
        let replacement = self.replacement(ctx, gone, child, &places).await?;
        for (key, old) in referring_rows(ctx, child, &gone.old, usize::MAX).await? {
            ctx.watch.pause().await?;
            let mode = match &replacement {
                Some(_) if !target.is_key_change(&places) => LockMode::NoKeyExclusive,
                _ => LockMode::Exclusive,
            };
            // The rows were found without a lock on them.
            let unread = std::mem::replace(&mut self.unread, false);
            let locked = self.lock(ctx, &key, mode, Wait::Block).await;
            self.unread = unread;
            locked?;
            match &replacement {
                None => self.delete(ctx, &target, &key, &old)?,
                Some(values) => {
                    let mut new = old.clone();
                    for (place, value) in places.iter().zip(values) {
                        if let Some(slot) = new.get_mut(*place) {
                            *slot = value.clone();
                        }
                    }
                    self.update(ctx, &target, &key, &old, &new).await?;
                }
            }
        }
        Ok(())
    }

    /// What the referencing columns become; `None`: the rows are removed.
    async fn replacement(
        &mut self,
        ctx: &mut Context<'_>,
        gone: &Gone,
        child: &Child,
        places: &[usize],
    ) -> Step<Option<Vec<Value>>> {
        let column = |place: &usize| child.table.columns.get(*place).ok_or_else(|| Error::internal("a column is gone"));
        Ok(match (child.action(gone.new.is_none()), &gone.new) {
            (Action::SetNull, _) => Some(vec![Value::Null; places.len()]),
            (Action::SetDefault, _) => {
                let defaults = Default::all(ctx, &child.table)?;
                let mut run = None;
                let mut values = Vec::with_capacity(places.len());
                for place in places {
                    let default = defaults.get(*place).ok_or_else(|| Error::internal("a column is gone"))?;
                    values.push(default.value(ctx, &mut run).await?);
                }
                Some(values)
            }
            (_, None) => None,
            (_, Some(new)) => {
                let mut values = Vec::with_capacity(places.len());
                for ((place, value), at) in places.iter().zip(new).zip(&child.referenced) {
                    let to = column(place)?;
                    let from =
                        &gone.target.table.columns.get(*at).ok_or_else(|| Error::internal("a column is gone"))?.r#type;
                    values.push(Assign::new(from, &to.r#type, &to.name)?.apply(value.clone(), Local::of(ctx))?);
                }
                Some(values)
            }
        })
    }

    /// The row that is referred to must be there, and stay.
    async fn check_parent(&mut self, ctx: &mut Context<'_>, referring: &Referring) -> Step<()> {
        let Some(parent) = referring.target.parents.get(referring.parent) else { return Ok(()) };
        let Some(required) = &referring.required else { return Err(absent(ctx, referring).into()) };
        for _ in 0..2 {
            let found = ctx.txn.view().untracked().get(required)?;
            let row = match (&found, &parent.access) {
                (Some(row), ParentAccess::Index(..)) => Key(row.clone()),
                _ => required.clone(),
            };
            if self.locks < MOST_LOCKS {
                self.locks += 1;
                let newest = ctx.txn.lock(&row, LockMode::KeyShare, Wait::Block).await?.newest;
                if newest > ctx.txn.read_at() {
                    match (ctx.txn.isolation(), found.is_some()) {
                        // That it is still there is a condition of the commit.
                        (Isolation::Serializable, true) => {}
                        (Isolation::Serializable, false) if self.unread => {
                            ctx.txn.advance().await?;
                            continue;
                        }
                        (Isolation::Serializable, false) => return Err(Stop::Stale),
                        (Isolation::ReadCommitted, _) => {
                            if now(ctx).await?.get(required)?.is_none() {
                                return Err(absent(ctx, referring).into());
                            }
                            ctx.txn.expect_present(required.clone());
                            return Ok(());
                        }
                    }
                }
            }
            if found.is_none() {
                return Err(absent(ctx, referring).into());
            }
            ctx.txn.expect_present(required.clone());
            return Ok(());
        }
        Err(absent(ctx, referring).into())
    }
}

fn absent(ctx: &Context<'_>, referring: &Referring) -> Error {
    let Some(parent) = referring.target.parents.get(referring.parent) else {
        return Error::internal("a foreign key is gone");
    };
    let table = &referring.target.table;
    let columns = parent.columns.iter().zip(&referring.values).filter_map(|(place, value)| {
        let column = table.columns.get(*place)?;
        Some((column.name.as_str(), &column.r#type, value))
    });
    let key = violation::key_text(columns, Local::of(ctx));
    violation::no_parent(table, &parent.key.name, &parent.table.name, &key)
}

/// What is committed now, whatever the transaction's snapshot.
async fn now(ctx: &Context<'_>) -> Result<View> {
    let options =
        TransactionOptions { isolation: Isolation::ReadCommitted, read_only: true, ..TransactionOptions::default() };
    let mut txn = ctx.engine.database().begin(options).await?;
    txn.begin_statement().await?;
    Ok(txn.view())
}

/// Whether the row still is there and refers to the same.
fn still_refers(ctx: &Context<'_>, referring: &Referring) -> Result<bool> {
    let Some(parent) = referring.target.parents.get(referring.parent) else { return Ok(false) };
    let Some(stored) = ctx.txn.view().untracked().get(&referring.row)? else { return Ok(false) };
    let row = rows::load(&referring.target.table, &stored)?;
    Ok(parent.columns.iter().zip(&referring.values).all(|(place, value)| row.get(*place) == Some(value)))
}

/// Whether another row has the referenced key now.
fn is_back(ctx: &Context<'_>, gone: &Gone, child: &Child) -> Result<bool> {
    let parent = target::parent(ctx.catalog, &child.table, &child.key)?;
    let values: Vec<&Value> = gone.old.iter().collect();
    match parent.required(&values)? {
        Some(key) => Ok(ctx.txn.view().get(&key)?.is_some()),
        None => Ok(false),
    }
}

async fn refuse_if_referenced(ctx: &mut Context<'_>, gone: &Gone, child: &Child) -> Step<()> {
    if referring_rows(ctx, child, &gone.old, 1).await?.is_empty() {
        return Ok(());
    }
    let parent = &gone.target.table;
    let columns = child.referenced.iter().zip(&gone.old).filter_map(|(place, value)| {
        let column = parent.columns.get(*place)?;
        Some((column.name.as_str(), &column.r#type, value))
    });
    let key = violation::key_text(columns, Local::of(ctx));
    Err(violation::still_referenced(&parent.name, &child.key.name, &child.table, &key).into())
}

/// How the rows that refer to a key are found.
enum Access {
    /// The rows themselves lie together
    Rows(Span),
    /// The entries of an index do
    Entries(Span),
    /// One must look at all
    All(Span),
}

fn access(child: &Child, values: &[Value]) -> Result<Option<Access>> {
    let table = &child.table;
    let mut wanted = Vec::with_capacity(values.len());
    for (id, value) in child.key.columns.iter().zip(values) {
        let column = table.column_by_id(*id).ok_or_else(|| Error::internal("a column is gone"))?;
        match cast::key_value(value, &column.r#type) {
            Some(v) => wanted.push((*id, v)),
            None => return Ok(None),
        }
    }
    // The values in the order of an index's first columns, if those are ours.
    let leading = |columns: &mut dyn Iterator<Item = polity_base::ColumnId>| -> Option<Vec<&Value>> {
        let first: Vec<_> = columns.take(wanted.len()).collect();
        let values: Option<Vec<&Value>> =
            first.iter().map(|id| wanted.iter().find(|(w, _)| w == id).map(|(_, v)| v)).collect();
        let distinct: HashSet<_> = first.iter().collect();
        values.filter(|v| v.len() == wanted.len() && distinct.len() == wanted.len())
    };
    if let Some(values) = leading(&mut table.primary.columns.iter().copied()) {
        return Ok(Some(Access::Rows(rows::primary_prefix(table, values)?.prefix_span())));
    }
    for index in &table.indexes {
        if let Some(values) = leading(&mut index.columns.iter().map(|(id, _)| *id)) {
            return Ok(Some(Access::Entries(rows::index_prefix(index, values)?.prefix_span())));
        }
    }
    Ok(Some(Access::All(Span::of_index(table.primary.storage))))
}

/// The rows that refer to a key, at most `most`. The commit depends on there
/// being no others.
async fn referring_rows(
    ctx: &mut Context<'_>,
    child: &Child,
    values: &[Value],
    most: usize,
) -> Step<Vec<(Key, Vec<Value>)>> {
    let Some(access) = access(child, values)? else { return Ok(Vec::new()) };
    let (Access::Rows(span) | Access::Entries(span) | Access::All(span)) = &access;
    let read_committed = ctx.txn.isolation() == Isolation::ReadCommitted;
    if read_committed {
        ctx.txn.expect_unchanged(span.clone());
    }
    let found = scan(ctx.watch, &ctx.txn.view(), child, &access, values, most).await?;
    // A child that was committed before its writer let go of the parent's lock
    // is not in the snapshot: look again on a newer one.
    if read_committed && !matches!(access, Access::All(_)) && found.len() < most {
        let now = scan(ctx.watch, &now(ctx).await?, child, &access, values, most).await?;
        for (key, _) in now {
            // Those we removed or changed ourselves are not newer.
            if ctx.txn.view().get(&key)?.is_none()
                && ctx.txn.lock(&key, LockMode::KeyShare, Wait::Block).await?.newest > ctx.txn.read_at()
            {
                return Err(Stop::Stale);
            }
        }
    }
    Ok(found)
}

async fn scan(
    watch: &Watch,
    view: &View,
    child: &Child,
    access: &Access,
    values: &[Value],
    most: usize,
) -> Result<Vec<(Key, Vec<Value>)>> {
    let table: &Table = &child.table;
    let places = child.key.columns.iter().map(|id| rows::position(table, *id)).collect::<Result<Vec<_>>>()?;
    let refers = |row: &[Value]| {
        places
            .iter()
            .zip(values)
            .all(|(place, value)| row.get(*place).is_some_and(|v| v.compare(value).is_some_and(|o| o.is_eq())))
    };
    let (Access::Rows(span) | Access::Entries(span) | Access::All(span)) = access;
    let mut found = Vec::new();
    let mut entries = view.scan(span.clone(), Direction::Ascending)?;
    loop {
        let chunk = entries.next_chunk(if most == 1 { 16 } else { 512 })?;
        if chunk.is_empty() {
            return Ok(found);
        }
        watch.rest().await?;
        for (key, value) in chunk {
            let (key, stored) = match access {
                Access::Entries(_) => {
                    let key = Key(value);
                    let Some(stored) = view.get(&key)? else { continue };
                    (key, stored)
                }
                _ => (key, value),
            };
            let row = rows::load(table, &stored)?;
            if refers(&row) {
                found.push((key, row));
                if found.len() >= most {
                    return Ok(found);
                }
            }
        }
    }
}
