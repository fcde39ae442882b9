//! TRUNCATE: the table moves to fresh, empty storages; the rows of a byzantine table are
//! deleted.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{CascadeOption, Truncate, TruncateIdentityOption, TruncateTableTarget};
use polity_base::{IndexId, TableId};

use super::lock::{self, Locks};
use super::{dialect, drop, sequence};
use crate::catalog::change::Change;
use crate::catalog::{Catalog, Guarantee, Privileges, Table, name};
use crate::error::{Condition, Error, Result};
use crate::session::{Context, Outcome};
use crate::{rights, write};

/// TRUNCATE
pub(super) async fn execute(ctx: &mut Context<'_>, statement: &Truncate) -> Result<String> {
    if statement.partitions.is_some() || statement.on_cluster.is_some() || statement.if_exists {
        return Err(Error::new(Condition::SyntaxError, "TRUNCATE takes the names of tables"));
    }
    let restart = matches!(statement.identity, Some(TruncateIdentityOption::Restart));
    let cascade = matches!(statement.cascade, Some(CascadeOption::Cascade));
    if let Some(tables) = of_ledgers(ctx, statement, cascade)? {
        return empty(ctx, &tables).await;
    }
    let tables = loop {
        let said = ctx.notices.len();
        let mut tables = BTreeSet::new();
        for target in &statement.table_names {
            tables.insert(named(ctx, target)?.id);
        }
        add_children(ctx, &mut tables, cascade)?;
        for table in tables.iter().filter_map(|id| ctx.catalog.tables.get(id)) {
            rights::require(ctx.catalog, ctx.user, table, Privileges::TRUNCATE)?;
        }
        let mut locks = Locks::default();
        tables.iter().for_each(|t| locks.table(*t));
        if restart {
            owned_sequences(ctx.catalog, &tables).for_each(|s| sequence::lock_sequence(s, &mut locks));
        }
        if locks.take(ctx).await? {
            break tables;
        }
        ctx.notices.truncate(said);
    };
    let mut emptied = Vec::new();
    for id in &tables {
        if let Some(table) = ctx.catalog.tables.get(id).cloned() {
            super::eventual::strong_only(&table, "TRUNCATE")?;
            emptied.push(on_fresh_storages(ctx, &table).await?);
        }
    }
    let mut sequences = Vec::new();
    if restart {
        let owned: Vec<_> = owned_sequences(ctx.catalog, &tables).cloned().collect();
        for old in owned {
            let storage = sequence::restarted(ctx, &old, old.start).await?;
            sequences.push(crate::catalog::Sequence { storage, ..(*old).clone() });
        }
    }
    let mut change = Change::of(ctx.catalog);
    emptied.into_iter().try_for_each(|t| change.put_table(t))?;
    sequences.into_iter().try_for_each(|s| change.put_sequence(s))?;
    change.make(ctx)?;
    Ok("TRUNCATE TABLE".to_owned())
}

/// A table that the statement names and its user may empty.
fn named(ctx: &Context<'_>, target: &TruncateTableTarget) -> Result<Arc<Table>> {
    let table = lock::table(ctx.catalog, &target.name)?;
    rights::require(ctx.catalog, ctx.user, &table, Privileges::TRUNCATE)?;
    Ok(table)
}

/// The tables to be emptied, those with references before what they refer to, if a ledger
/// keeps them.
fn of_ledgers(ctx: &mut Context<'_>, statement: &Truncate, cascade: bool) -> Result<Option<Vec<Arc<Table>>>> {
    let mut named = BTreeSet::new();
    for target in &statement.table_names {
        named.insert(self::named(ctx, target)?.id);
    }
    let is_ordered = |table: &&Arc<Table>| table.guarantee == Guarantee::Byzantine;
    if !named.iter().filter_map(|id| ctx.catalog.tables.get(id)).any(|table| is_ordered(&table)) {
        return Ok(None);
    }
    // References are between tables of the same guarantee.
    add_children(ctx, &mut named, cascade)?;
    let mut left: Vec<Arc<Table>> = named.iter().filter_map(|id| ctx.catalog.tables.get(id)).cloned().collect();
    if let Some(other) = left.iter().find(|table| !is_ordered(table)) {
        return Err(Error::new(
            Condition::MixedGuarantees,
            format!("table \"{}\" is {}, and others are byzantine", other.name, other.guarantee.name()),
        )
        .detail("One transaction writes tables of one guarantee.")
        .hint("Truncate them by statements of their own."));
    }
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let refers = |to: &Table| {
            left.iter().any(|from| from.id != to.id && from.foreign_keys.iter().any(|key| key.parent == to.id))
        };
        let next = left.iter().position(|table| !refers(table)).unwrap_or_default();
        ordered.push(left.remove(next));
    }
    Ok(Some(ordered))
}

/// Deletes all rows of tables that a ledger keeps, in one transaction for it. It orders
/// what happens to rows; a table with other storages would be another table.
async fn empty(ctx: &mut Context<'_>, tables: &[Arc<Table>]) -> Result<String> {
    for table in tables {
        rights::require(ctx.catalog, ctx.user, table, Privileges::TRUNCATE.and(Privileges::DELETE))?;
        let sql = format!("DELETE FROM public.{}", name::quote(&table.name));
        let delete = dialect::read_text(&sql, |parser| parser.parse_statement());
        let delete = delete.map_err(|e| Error::internal(e.to_string()))?;
        if let Outcome::Stale = Box::pin(write::delete::execute(ctx, &delete, &[])).await? {
            return Err(Error::internal("a row of a ledger was locked by somebody else"));
        }
    }
    Ok("TRUNCATE TABLE".to_owned())
}

/// Tables that reference those to be emptied must be emptied too.
fn add_children(ctx: &mut Context<'_>, tables: &mut BTreeSet<TableId>, cascade: bool) -> Result<()> {
    let catalog = ctx.catalog.clone();
    let name = |id: &TableId| catalog.tables.get(id).map(|t| t.name.clone()).unwrap_or_default();
    let children = drop::children(&catalog);
    loop {
        let outside = tables.iter().find_map(|parent| {
            let child = children.get(parent)?.iter().find(|child| !tables.contains(child))?;
            Some((*parent, *child))
        });
        let Some((parent, child)) = outside else { return Ok(()) };
        if !cascade {
            return Err(Error::new(
                Condition::FeatureNotSupported,
                "cannot truncate a table referenced in a foreign key constraint",
            )
            .detail(format!("Table \"{}\" references \"{}\".", name(&child), name(&parent)))
            .hint(format!("Truncate table \"{}\" at the same time, or use TRUNCATE ... CASCADE.", name(&child))));
        }
        super::notice(ctx, format!("truncate cascades to table \"{}\"", name(&child)));
        tables.insert(child);
    }
}

fn owned_sequences<'c>(
    catalog: &'c Catalog,
    tables: &'c BTreeSet<TableId>,
) -> impl Iterator<Item = &'c std::sync::Arc<crate::catalog::Sequence>> {
    catalog.sequences.values().filter(|s| s.owned_by.is_some_and(|(t, _)| tables.contains(&t)))
}

/// The table with fresh storages for its rows and all its indexes.
pub(super) async fn on_fresh_storages(ctx: &mut Context<'_>, table: &Table) -> Result<Table> {
    let mut moved = table.clone();
    moved.primary.storage = IndexId(ctx.engine.catalogs().new_id().await?);
    lock::fresh(ctx, moved.primary.storage).await?;
    for index in &mut moved.indexes {
        index.storage = IndexId(ctx.engine.catalogs().new_id().await?);
        lock::fresh(ctx, index.storage).await?;
    }
    Ok(moved)
}
