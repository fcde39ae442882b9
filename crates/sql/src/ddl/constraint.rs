//! Adding constraints to tables that have rows, and dropping them.

use polity_base::key::Direction;
use polity_base::{Span, TableId, Value};

use super::build::{Build, Conversion, contains_null, describe_key};
use super::draft::{Added, Draft};
use super::drop::{Removal, without};
use super::lock::{self, Locks};
use super::spec::ConstraintSpec;
use super::{expression, truncate};
use crate::catalog::change::Change;
use crate::catalog::{ForeignKey, Table, rows};
use crate::error::{Condition, Error, Result};
use crate::query::RunEnv;
use crate::session::Context;

/// Rows read at a time.
const CHUNK_ROWS: usize = 1_024;

/// Adds a constraint to a locked table, once its rows keep it.
pub(super) async fn add(ctx: &mut Context<'_>, id: TableId, spec: &ConstraintSpec) -> Result<()> {
    let (draft, added, old) = loop {
        let old = super::table_by_id(ctx, id)?;
        let mut draft = Draft::of((*old).clone());
        let added = draft.add_constraint(ctx, spec).await?;
        super::byzantine::references(ctx.catalog, &draft.table, old.guarantee)?;
        let mut locks = Locks::default();
        locks.table(id);
        draft.lock(&mut locks);
        if locks.take(ctx).await? {
            break (draft, added, old);
        }
    };
    lock::advance(ctx).await?;
    let (mut draft, before) = (draft, ctx.txn.view());
    match added {
        Added::Nothing => return Ok(()),
        Added::Primary => {
            draft.table = truncate::on_fresh_storages(ctx, &draft.table).await?;
            let new = &draft.table;
            let indexes = new.indexes.iter().collect();
            Build { old: &old, new, conversion: Conversion::Keep, rows: true, indexes }.run(ctx).await?;
        }
        Added::Unique(index) => {
            let indexes: Vec<_> = draft.table.indexes.iter().filter(|i| i.id == index).collect();
            for index in &indexes {
                lock::fresh(ctx, index.storage).await?;
            }
            let new = &draft.table;
            Build { old: &old, new, conversion: Conversion::Keep, rows: false, indexes }.run(ctx).await?;
        }
        Added::Check(check) => {
            if let Some(check) = draft.table.checks.iter().find(|c| c.id == check) {
                validate_check(ctx, &old, &check.name, &check.expression).await?;
                lock::rows_stay(ctx, &before, &old).await?;
            }
        }
        Added::Foreign(key) => {
            if let Some(key) = draft.table.foreign_keys.iter().find(|f| f.id == key) {
                validate_foreign_key(ctx, &old, key).await?;
                lock::rows_stay(ctx, &before, &old).await?;
                if key.parent != old.id {
                    let parent = super::table_by_id(ctx, key.parent)?;
                    lock::rows_stay(ctx, &before, &parent).await?;
                }
            }
        }
    }
    let mut change = Change::of(ctx.catalog);
    draft.change(&mut change)?;
    change.make(ctx)
}

/// Calls `f` with the rows of a table, chunk by chunk.
pub(super) async fn for_each_chunk(
    ctx: &Context<'_>,
    table: &Table,
    mut f: impl FnMut(Vec<Vec<Value>>) -> Result<()> + Send,
) -> Result<()> {
    let view = ctx.txn.view().untracked();
    let mut scan = view.scan(Span::of_index(table.primary.storage), Direction::Ascending)?;
    loop {
        let chunk = scan.next_chunk(CHUNK_ROWS)?;
        if chunk.is_empty() {
            return Ok(());
        }
        f(chunk.iter().map(|(_, stored)| rows::load(table, stored)).collect::<Result<_>>()?)?;
        ctx.watch.rest().await?;
    }
}

/// Whether a table has no rows.
pub(super) fn is_empty(ctx: &Context<'_>, table: &Table) -> Result<bool> {
    let view = ctx.txn.view().untracked();
    let mut scan = view.scan(Span::of_index(table.primary.storage), Direction::Ascending)?;
    Ok(scan.next_chunk(1)?.is_empty())
}

async fn validate_check(ctx: &Context<'_>, table: &Table, name: &str, condition: &str) -> Result<()> {
    let scalar = expression::compile_check(ctx, table, &expression::parse(condition)?)?;
    let env = RunEnv::of(ctx);
    for_each_chunk(ctx, table, |rows| {
        // NULL is not false.
        if scalar.eval(&rows, &[], &env)?.contains(&Value::Bool(false)) {
            return Err(Error::new(
                Condition::CheckViolation,
                format!("check constraint \"{name}\" of relation \"{}\" is violated by some row", table.name),
            )
            .table(&table.name)
            .constraint(name));
        }
        Ok(())
    })
    .await
}

/// SET NOT NULL: whether the rows keep it.
pub(super) async fn validate_not_null(ctx: &Context<'_>, table: &Table, at: usize) -> Result<()> {
    let Some(column) = table.columns.get(at) else { return Ok(()) };
    for_each_chunk(ctx, table, |rows| match rows.iter().any(|row| row.get(at).is_none_or(Value::is_null)) {
        true => Err(contains_null(table, column)),
        false => Ok(()),
    })
    .await
}

async fn validate_foreign_key(ctx: &Context<'_>, table: &Table, key: &ForeignKey) -> Result<()> {
    let parent = match key.parent == table.id {
        true => std::sync::Arc::new(table.clone()),
        false => super::table_by_id(ctx, key.parent)?,
    };
    let positions: Vec<usize> = key.columns.iter().map(|c| rows::position(table, *c)).collect::<Result<_>>()?;
    let view = ctx.txn.view().untracked();
    let violated = |detail: String| {
        Error::new(
            Condition::ForeignKeyViolation,
            format!("insert or update on table \"{}\" violates foreign key constraint \"{}\"", table.name, key.name),
        )
        .detail(detail)
        .table(&table.name)
        .constraint(&key.name)
    };
    for_each_chunk(ctx, table, |chunk| {
        for row in chunk {
            let values = positions.iter().map(|p| row.get(*p).unwrap_or(&Value::Null));
            let Some(wanted) = rows::reference_key(&parent, key, values.clone())? else {
                if key.match_full && values.clone().any(|v| !v.is_null()) {
                    return Err(violated(
                        "MATCH FULL does not allow mixing of null and nonnull key values.".to_owned(),
                    ));
                }
                continue;
            };
            if view.get(&wanted)?.is_none() {
                let shown = describe_key(table, &key.columns, &row);
                return Err(violated(format!("Key {shown} is not present in table \"{}\".", parent.name)));
            }
        }
        Ok(())
    })
    .await
}

/// DROP CONSTRAINT on a locked table.
pub(super) async fn drop(ctx: &mut Context<'_>, id: TableId, name: &str, if_exists: bool, cascade: bool) -> Result<()> {
    let table = super::table_by_id(ctx, id)?;
    let mut removal = Removal::default();
    if table.primary.name.as_deref() == Some(name) {
        removal.primary_keys.extend(table.primary.id);
    } else if let Some(index) = table.indexes.iter().find(|i| i.constraint && i.name == name) {
        removal.indexes.insert(index.id);
    } else if let Some(check) = table.checks.iter().find(|c| c.name == name) {
        removal.constraints.insert(check.id);
    } else if let Some(key) = table.foreign_keys.iter().find(|f| f.name == name) {
        removal.constraints.insert(key.id);
    } else if if_exists {
        let said = format!("constraint \"{name}\" of relation \"{}\" does not exist, skipping", table.name);
        super::notice(ctx, said);
        return Ok(());
    } else {
        return Err(super::no_constraint(&table.name, name));
    }
    let what = format!("constraint {name} on table {}", table.name);
    remove(ctx, id, removal, &what, cascade).await
}

/// Removes something from a locked table, and with CASCADE what depends on it.
/// A table that loses its primary key gets its rows numbered.
pub(super) async fn remove(
    ctx: &mut Context<'_>,
    id: TableId,
    mut removal: Removal,
    what: &str,
    cascade: bool,
) -> Result<()> {
    let start = removal.clone();
    loop {
        let said = ctx.notices.len();
        removal.complete(ctx, what, cascade)?;
        let mut locks = Locks::default();
        locks.table(id);
        removal.lock(ctx.catalog, &mut locks);
        if locks.take(ctx).await? {
            break;
        }
        ctx.notices.truncate(said);
        removal = start.clone();
    }
    let old = super::table_by_id(ctx, id)?;
    let loses_key = old.primary.id.is_some_and(|key| removal.primary_keys.contains(&key));
    let mut change = if loses_key {
        lock::advance(ctx).await?;
        // The old columns are still in the rows that are copied.
        let mut keyless = (*old).clone();
        keyless.primary.columns.clear();
        (keyless.primary.id, keyless.primary.name) = (None, None);
        keyless.indexes.retain(|i| !removal.indexes.contains(&i.id));
        let new = truncate::on_fresh_storages(ctx, &keyless).await?;
        let indexes = new.indexes.iter().collect();
        Build { old: &old, new: &new, conversion: Conversion::Keep, rows: true, indexes }.run(ctx).await?;
        let mut change = Change::of(ctx.catalog);
        removal.change(ctx.catalog, &mut change)?;
        change.put_table(without(&new, &removal))?;
        change
    } else {
        let mut change = Change::of(ctx.catalog);
        removal.change(ctx.catalog, &mut change)?;
        change
    };
    // Even when nothing but the rows' order changed, users of the table look again.
    change.touch_table(id)?;
    change.make(ctx)
}
