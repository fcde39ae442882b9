//! Definitions of byzantine tables: what a ledger can keep, and what it cannot.
//!
//! A ledger keeps more than replicas that merge: it orders transactions, so keys, UNIQUE,
//! FOREIGN KEY and CHECK hold as in a strong table. What it cannot have is what is decided
//! elsewhere (a sequence, a reference to a table of another guarantee), and what not every
//! validator computes alike. What is there stays as strict as it is: rows that others
//! write meanwhile would have to be judged by rules they did not know.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{AlterColumnOperation, AlterTableOperation};
use polity_base::key::Direction;
use polity_base::{ColumnId, Guarantee, Span};
use polity_txn::byzantine::bft::ledger::records;

use super::draft::{Draft, new_index};
use crate::catalog::{Catalog, Column, Merge, Table, name};
use crate::error::{Condition, Error, Result};
use crate::ledger::definition::{index_for, kind};
use crate::ledger::{definition, difference, step};
use crate::session::Context;

/// So many rows are fetched at once to count them.
const COUNTED_AT_ONCE: usize = 4096;

/// Gives a new table the guarantee, or says why it cannot have it. The ledger is made if
/// there is none yet.
pub(super) async fn settle(ctx: &mut Context<'_>, draft: &mut Draft) -> Result<()> {
    refuse(ctx.catalog, draft)?;
    show_referrers(ctx, draft).await?;
    let table = &mut draft.table;
    table.guarantee = Guarantee::Byzantine;
    table.primary.storage = table.guarantee.storage(table.primary.storage.0);
    for index in &mut table.indexes {
        index.storage = table.guarantee.storage(index.storage.0);
    }
    // Whatever else the ledger would not take.
    definition(ctx.catalog, table).map_err(|error| error.table(&table.name))?;
    step::ensure(ctx.engine, ctx.user).await
}

fn refuse(catalog: &Catalog, draft: &Draft) -> Result<()> {
    let table = &draft.table;
    if let Some(column) = table.columns.iter().find(|c| c.merge != Merge::Register) {
        let hint = match column.merge {
            Merge::Set => "Use an array, or a table of elements.",
            _ => {
                "Use bigint with a CHECK: SET n = n + 1 of a byzantine table does not conflict with others of its like."
            }
        };
        return Err(cannot(
            &format!("column \"{}\", whose writes merge", column.name),
            "A ledger orders writes: there is nothing to merge.",
        )
        .hint(hint)
        .column(&column.name));
    }
    let drawn = |column: &Column| column.default.as_deref().is_some_and(draws);
    if !draft.sequences.is_empty() || table.columns.iter().any(drawn) {
        return Err(numbered());
    }
    if table.has_hidden_key() {
        return Err(cannot("a table without a primary key", "A row is proved by its primary key.")
            .hint("Add a PRIMARY KEY; a uuid with DEFAULT gen_random_uuid() needs no coordination."));
    }
    if let Some(column) = table.columns.iter().find(|column| kind(&column.r#type).is_none()) {
        return Err(cannot(
            &format!("column \"{}\" of type {}", column.name, column.r#type),
            "Validators do not know values of that type.",
        )
        .column(&column.name));
    }
    for key in &table.foreign_keys {
        if key.match_full && key.columns.len() > 1 {
            return Err(cannot(
                &format!("constraint \"{}\" with MATCH FULL", key.name),
                "Validators check references whose columns all have values.",
            )
            .hint("Leave MATCH FULL out, and make the columns NOT NULL."));
        }
    }
    references(catalog, table, Guarantee::Byzantine)
}

/// Refuses references between tables of different guarantees.
pub(super) fn references(catalog: &Catalog, table: &Table, guarantee: Guarantee) -> Result<()> {
    for key in table.foreign_keys.iter().filter(|key| key.parent != table.id) {
        let Some(parent) = catalog.tables.get(&key.parent) else { continue };
        if parent.guarantee != guarantee {
            let (own, other) = (guarantee.name(), parent.guarantee.name());
            return Err(Error::new(
                Condition::FeatureNotSupported,
                format!(
                    "constraint \"{}\" of {own} table \"{}\" towards {other} table \"{}\"",
                    key.name, table.name, parent.name
                ),
            )
            .detail("Who keeps one of the two does not see when rows of the other come and go.")
            .hint("Give both tables the same guarantee, or keep the value without the constraint.")
            .table(&table.name)
            .constraint(&key.name));
        }
    }
    Ok(())
}

/// Adds the indexes by which the ledger sees who refers to a row, where there are none.
async fn show_referrers(ctx: &mut Context<'_>, draft: &mut Draft) -> Result<()> {
    for key in draft.table.foreign_keys.clone() {
        if index_for(&draft.table, &key).is_some() {
            continue;
        }
        let name_of = |id: &ColumnId| draft.table.column_by_id(*id).map(|column| column.name.clone());
        let columns: Vec<String> = key.columns.iter().filter_map(name_of).collect();
        let name = draft.index_name(ctx.catalog, None, &columns, "idx")?;
        super::notice(ctx, format!("index \"{name}\" is made for constraint \"{}\"", key.name));
        let directed = key.columns.iter().map(|id| (*id, Direction::Ascending)).collect();
        let index = new_index(ctx, name, directed, false, false).await?;
        draft.table.indexes.push(index);
    }
    Ok(())
}

/// Refuses changes of a table that its ledger does not take.
pub(super) fn may_alter(table: &Table, operation: &AlterTableOperation) -> Result<()> {
    use AlterTableOperation as Op;
    match operation {
        Op::DropColumn { column_names, .. } => {
            let dropped = |id: &ColumnId| {
                table.column_by_id(*id).is_some_and(|c| column_names.iter().any(|n| name::fold(n) == c.name))
            };
            match table.primary.columns.iter().any(dropped) {
                true => Err(stays(table, "dropping a column of the primary key")),
                false => Ok(()),
            }
        }
        Op::AlterColumn { op: AlterColumnOperation::SetDataType { .. }, .. } => {
            Err(stays(table, "a change of a column's type"))
        }
        Op::AlterColumn { op: AlterColumnOperation::SetNotNull, .. } => Err(stays(table, "SET NOT NULL")),
        Op::AlterColumn { op: AlterColumnOperation::AddGenerated { .. }, .. } => Err(numbered()),
        Op::AlterColumn { op: AlterColumnOperation::SetDefault { value }, .. } if draws(&value.to_string()) => {
            Err(numbered())
        }
        Op::AddConstraint { .. } => Err(stays(table, "ADD CONSTRAINT")),
        Op::DropConstraint { name, .. } if table.primary.name.as_ref() == Some(&name::fold(name)) => {
            Err(stays(table, "dropping the primary key"))
        }
        Op::OwnerTo { .. } => Err(stays(table, "OWNER TO")
            .detail("The ledger knows whom a table belongs to, and orders no other owner for it.")),
        _ => Ok(()),
    }
}

/// Refuses what a table may not become, however it was to.
pub fn may_become(catalog: &Catalog, before: Option<&Table>, table: &Table) -> Result<()> {
    if table.guarantee != Guarantee::Byzantine {
        return Ok(());
    }
    let after = definition(catalog, table).map_err(|error| error.table(&table.name))?;
    let Some(before) = before else { return Ok(()) };
    let strict = |t: &Table| t.columns.iter().filter(|c| c.not_null).map(|c| c.id).collect::<Vec<_>>();
    let had = strict(before);
    let is_new = |id: &ColumnId| before.column_by_id(*id).is_none();
    let stricter = strict(table).iter().any(|id| !had.contains(id) && !is_new(id))
        || table.foreign_keys.iter().any(|key| before.foreign_keys.iter().all(|old| old.id != key.id))
        || table.checks.iter().any(|check| before.checks.iter().all(|old| old.id != check.id))
        || table.indexes.iter().any(|i| i.unique && before.indexes.iter().all(|old| old.id != i.id))
        || before.primary != table.primary;
    if stricter || after.key != before.primary.columns {
        return Err(stays(table, "rules that its rows were not written by"));
    }
    Ok(())
}

/// Refuses what a ledger could never be told: it takes a table's definition and grants from
/// the owner, and no node may speak for an owner who signs with an own key alone.
pub fn may_tell(ctx: &Context<'_>, before: &Catalog, after: &Catalog) -> Result<()> {
    let is_ordered = |table: &&Arc<Table>| table.guarantee == Guarantee::Byzantine;
    let all = before.tables.values().chain(after.tables.values().filter(|t| !before.tables.contains_key(&t.id)));
    for table in all.filter(is_ordered) {
        let is_same = match (before.tables.get(&table.id), after.tables.get(&table.id)) {
            (Some(old), Some(new)) => {
                let defined_alike = Arc::ptr_eq(old, new) || definition(before, old)? == definition(after, new)?;
                defined_alike && difference::grants(before, old) == difference::grants(after, new)
            }
            _ => false,
        };
        let Some(owner) = after.role_by_id(table.owner).filter(|_| !is_same) else { continue };
        let record = ctx.txn.view().untracked().get(&records::user(&owner.name))?;
        if record.is_some_and(|record| record.first() == Some(&1)) {
            return Err(Error::unsupported(format!(
                "a change of byzantine table \"{}\", whose owner signs with an own key alone",
                table.name
            ))
            .detail(format!(
                "The ledger takes it from \"{}\", and no node may speak for that user any more.",
                owner.name
            ))
            .hint("Let another role own tables that are to be changed or granted to others.")
            .table(&table.name));
        }
    }
    Ok(())
}

/// Refuses an index over more rows than validators go through for one transaction: the
/// ledger would refuse it when the catalog has it already.
pub(super) fn may_index(ctx: &Context<'_>, table: &Table) -> Result<()> {
    let reader = ctx.engine.database().directory().ledger().and_then(|ledger| ledger.reader());
    let Some(reader) = reader else { return Ok(()) };
    let most = reader.genesis().parameters.most_rows;
    let mut rows = ctx.txn.view().untracked().scan(Span::of_index(table.primary.storage), Direction::Ascending)?;
    let mut count = 0;
    loop {
        let chunk = rows.next_chunk(COUNTED_AT_ONCE)?;
        if chunk.is_empty() {
            return Ok(());
        }
        count += chunk.len() as u64;
        if count > most {
            return Err(Error::new(
                Condition::ProgramLimitExceeded,
                format!("byzantine table \"{}\" has too many rows for a new index", table.name),
            )
            .detail(format!("Validators go through {most} rows for one transaction, and it has more."))
            .hint("Create a table with the index, and write the rows over.")
            .table(&table.name));
        }
    }
}

/// Refuses `what`, which would make of rules what rows were not written by.
pub(super) fn stays(table: &Table, what: &str) -> Error {
    Error::unsupported(format!("{what} of byzantine table \"{}\"", table.name))
        .detail("Rows are written and proved by the rules that the table was made with; those that it has can only be dropped.")
        .hint("Create a table as it should be, and write the rows over.")
        .table(&table.name)
}

fn numbered() -> Error {
    cannot(
        "a column numbered by a sequence",
        "A sequence is kept where a majority is, which a ledger does not rely on.",
    )
    .hint("Use a uuid column with DEFAULT gen_random_uuid(), or give the number explicitly.")
}

fn cannot(what: &str, why: &str) -> Error {
    Error::new(Condition::FeatureNotSupported, format!("a byzantine table cannot have {what}")).detail(why)
}

fn draws(default: &str) -> bool {
    default.to_ascii_lowercase().contains("nextval(")
}
