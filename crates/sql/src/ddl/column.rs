//! ALTER TABLE … ADD COLUMN and ALTER COLUMN. The table is locked by the caller.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{ColumnDef, DataType, Expr, SequenceOptions};
use polity_base::{TableId, Type, Value};

use super::alter::update;
use super::build::{Build, Conversion, Replacement, contains_null};
use super::draft::Draft;
use super::extra::IdentityChange;
use super::lock::{self, Locks};
use super::{constraint, eventual, expression, no_column, sequence, spec, table_by_id, truncate, view};
use crate::catalog::change::Change;
use crate::catalog::{Column, Guarantee, Identity, Table, types};
use crate::error::{Condition, Error, Result};
use crate::expr::{Assign, cast};
use crate::query::{PlanInput, Scalar};
use crate::session::Context;

/// ADD COLUMN. Rows that are there get the default's value: from the catalog
/// when it is the same for all, otherwise by rewriting the table.
pub(super) async fn add(ctx: &mut Context<'_>, id: TableId, def: &ColumnDef, if_not_exists: bool) -> Result<()> {
    let table = table_by_id(ctx, id)?;
    let (spec, constraints) = spec::column(def, &table.name)?;
    if table.column(&spec.name).is_some() {
        if if_not_exists {
            let said = format!("column \"{}\" of relation \"{}\" already exists, skipping", spec.name, table.name);
            super::notice(ctx, said);
            return Ok(());
        }
        return Err(super::column_exists(&table.name, &spec.name));
    }
    let (mut draft, old) = loop {
        let old = table_by_id(ctx, id)?;
        let mut draft = Draft::of((*old).clone());
        draft.add_column(ctx, &spec).await?;
        let mut locks = Locks::default();
        locks.table(id);
        draft.lock(&mut locks);
        if locks.take(ctx).await? {
            break (draft, old);
        }
    };
    for sequence in &draft.sequences {
        lock::fresh(ctx, sequence.storage).await?;
    }
    lock::advance(ctx).await?;
    let Some(column) = draft.table.columns.last().cloned() else { return Ok(()) };
    eventual::added_column(&old, &column)?;
    if old.guarantee != Guarantee::Strong && !constraints.is_empty() {
        eventual::strong_only(&old, "ADD COLUMN with a constraint")?;
    }
    // Whether replicas elsewhere have rows is not known here.
    let before = ctx.txn.view();
    if old.guarantee != Guarantee::Strong || !constraint::is_empty(ctx, &old)? {
        fill_column(ctx, &mut draft, &old, column).await?;
    } else {
        lock::rows_stay(ctx, &before, &old).await?;
    }
    let mut change = Change::of(ctx.catalog);
    draft.change(&mut change)?;
    change.make(ctx)?;
    for constraint in &constraints {
        constraint::add(ctx, id, constraint).await?;
    }
    Ok(())
}

async fn fill_column(ctx: &mut Context<'_>, draft: &mut Draft, old: &Table, column: Column) -> Result<()> {
    let Some(default) = column.default.as_deref().map(expression::parse).transpose()? else {
        return match column.not_null {
            true => Err(contains_null(&draft.table, &column)),
            false => Ok(()),
        };
    };
    if expression::is_volatile(&default) {
        eventual::strong_only(old, "ADD COLUMN with a default that differs from row to row")?;
        // The new sequence must be there to draw from.
        let saved = ctx.catalog.clone();
        let mut with_sequences = (*saved).clone();
        for sequence in &draft.sequences {
            with_sequences.names.insert(sequence.name.clone(), sequence.id);
            with_sequences.sequences.insert(sequence.id, Arc::new(sequence.clone()));
        }
        *ctx.catalog = Arc::new(with_sequences);
        draft.table = truncate::on_fresh_storages(ctx, &draft.table).await?;
        return rewrite(ctx, old, &draft.table, Conversion::Append(&column, &default)).await;
    }
    let missing = expression::default_value(ctx, &column, &default).await?;
    if missing.is_null() && column.not_null {
        return Err(contains_null(&draft.table, &column));
    }
    if let Some(column) = draft.table.columns.last_mut() {
        column.missing = missing;
    }
    Ok(())
}

/// Fills the fresh storages of `new` from the rows of `old`.
async fn rewrite(ctx: &mut Context<'_>, old: &Table, new: &Table, conversion: Conversion<'_>) -> Result<()> {
    let indexes = new.indexes.iter().collect();
    Build { old, new, conversion, rows: true, indexes }.run(ctx).await
}

/// The table and the position of one of its columns.
fn find(ctx: &Context<'_>, id: TableId, name: &str) -> Result<(Table, usize)> {
    let table = (*table_by_id(ctx, id)?).clone();
    match table.columns.iter().position(|c| c.name == name) {
        Some(at) => Ok((table, at)),
        None => Err(no_column(&table.name, name)),
    }
}

pub(super) async fn set_not_null(ctx: &mut Context<'_>, id: TableId, name: &str) -> Result<()> {
    let (mut table, at) = find(ctx, id, name)?;
    if table.columns[at].not_null {
        return Ok(());
    }
    lock::advance(ctx).await?;
    let before = ctx.txn.view();
    constraint::validate_not_null(ctx, &table, at).await?;
    lock::rows_stay(ctx, &before, &table).await?;
    table.columns[at].not_null = true;
    update(ctx, table)
}

pub(super) fn drop_not_null(ctx: &mut Context<'_>, id: TableId, name: &str) -> Result<()> {
    let (mut table, at) = find(ctx, id, name)?;
    if table.primary.columns.contains(&table.columns[at].id) {
        return Err(Error::new(Condition::InvalidTableDefinition, format!("column \"{name}\" is in a primary key")));
    }
    if table.columns[at].identity.is_some() {
        return Err(is_identity(&table, name));
    }
    table.columns[at].not_null = false;
    update(ctx, table)
}

fn is_identity(table: &Table, column: &str) -> Error {
    Error::new(
        Condition::SyntaxError,
        format!("column \"{column}\" of relation \"{}\" is an identity column", table.name),
    )
}

pub(super) fn set_default(ctx: &mut Context<'_>, id: TableId, name: &str, default: Option<&Expr>) -> Result<()> {
    let (mut table, at) = find(ctx, id, name)?;
    if table.columns[at].identity.is_some() {
        let error = is_identity(&table, name);
        return Err(match default {
            Some(_) => error,
            None => error.hint("Use ALTER TABLE ... ALTER COLUMN ... DROP IDENTITY instead."),
        });
    }
    let r#type = table.columns[at].r#type.clone();
    table.columns[at].default = match default {
        // DEFAULT NULL is no default.
        Some(Expr::Value(v)) if v.value == datafusion::sql::sqlparser::ast::Value::Null => None,
        Some(expr) => Some(expression::default(ctx, name, &r#type, expr)?),
        None => None,
    };
    update(ctx, table)
}

/// ALTER COLUMN TYPE
pub(super) async fn set_type(
    ctx: &mut Context<'_>,
    id: TableId,
    name: &str,
    written: &DataType,
    using: Option<&Expr>,
) -> Result<()> {
    let (old, at) = find(ctx, id, name)?;
    let to = types::stored_type(written)?;
    let from = old.columns[at].r#type.clone();
    let mut new = old.clone();
    new.columns[at].r#type = to.clone();
    let conversion = match using {
        Some(expr) => {
            let scalar = Scalar::compile(&PlanInput::of(ctx), &expression::row_columns(&old), expr, Some(&to), &[])?;
            Some(Replacement::Compute(scalar))
        }
        None if from == to => return Ok(()),
        None => {
            if !assignable(&from, &to) {
                return Err(Error::new(
                    Condition::DatatypeMismatch,
                    format!("column \"{name}\" cannot be cast automatically to type {to}"),
                )
                .hint(format!("You might need to specify \"USING {}::{to}\".", crate::catalog::name::quote(name))));
            }
            (!same_bytes(&from, &to)).then(|| Assign::new(&from, &to, name)).transpose()?.map(Replacement::Assign)
        }
    };
    check_users_of_type(ctx, &old, &mut new, at)?;
    if let Some(conversion) = conversion {
        lock::advance(ctx).await?;
        // Every row is written in full: nothing is missing any more.
        new.columns.iter_mut().for_each(|c| c.missing = Value::Null);
        new = truncate::on_fresh_storages(ctx, &new).await?;
        rewrite(ctx, &old, &new, Conversion::Replace(at, conversion)).await?;
    }
    let mut change = Change::of(ctx.catalog);
    if new.columns[at].identity.is_some()
        && let Some(sequence) = owned_sequence(ctx, id, new.columns[at].id)
    {
        change.put_sequence(sequence::with_type(&sequence, to)?)?;
    }
    change.put_table(new)?;
    change.make(ctx)
}

/// Whether a value becomes one of the other type without being asked to.
fn assignable(from: &Type, to: &Type) -> bool {
    matches!(cast::context(from, to), Some(cast::Context::Implicit | cast::Context::Assignment))
}

/// Whether every value of one type is stored as the same value of the other.
fn same_bytes(from: &Type, to: &Type) -> bool {
    use Type::*;
    match (from, to) {
        (Text | Varchar(_) | Name, Text | Varchar(None)) => true,
        (Varchar(Some(a)), Varchar(Some(b))) => a <= b,
        (Numeric(_), Numeric(None)) => true,
        (Numeric(Some((p, s))), Numeric(Some((q, t)))) => s == t && p <= q,
        _ => false,
    }
}

/// What uses the column must go on working with its new type.
fn check_users_of_type(ctx: &Context<'_>, old: &Table, new: &mut Table, at: usize) -> Result<()> {
    let column = new.columns[at].clone();
    if let Some(view) =
        ctx.catalog.views.values().find(|v| v.reads.contains(&new.id) && view::mentions(&v.query, &column.name))
    {
        return Err(Error::new(Condition::FeatureNotSupported, "cannot alter type of a column used by a view or rule")
            .detail(format!("view {} depends on column \"{}\"", view.name, column.name)));
    }
    let in_key = new.primary.columns.contains(&column.id)
        || new.indexes.iter().any(|i| i.columns.iter().any(|(c, _)| *c == column.id));
    if in_key {
        super::draft::ordered(&column)?;
    }
    let references = old.foreign_keys.iter().any(|f| f.columns.contains(&column.id));
    let mut referenced = ctx.catalog.references_to(new.id);
    if references || referenced.any(|(_, f)| f.parent_columns.contains(&column.id)) {
        return Err(Error::unsupported("changing the type of a column of a foreign key")
            .hint("Drop the foreign key, change both columns, and add the foreign key again."));
    }
    if let Some(default) = column.default.as_deref().filter(|_| column.identity.is_none()) {
        let parsed = expression::parse(default)?;
        expression::default(ctx, &column.name, &column.r#type, &parsed).map_err(|_| {
            Error::new(
                Condition::DatatypeMismatch,
                format!(
                    "default for column \"{}\" cannot be cast automatically to type {}",
                    column.name, column.r#type
                ),
            )
        })?;
    }
    for check in &new.checks {
        expression::compile_check(ctx, new, &expression::parse(&check.expression)?)?;
    }
    Ok(())
}

fn owned_sequence(
    ctx: &Context<'_>,
    table: TableId,
    column: polity_base::ColumnId,
) -> Option<Arc<crate::catalog::Sequence>> {
    ctx.catalog.sequences.values().find(|s| s.owned_by == Some((table, column))).cloned()
}

/// ADD GENERATED … AS IDENTITY
async fn add_identity(
    ctx: &mut Context<'_>,
    id: TableId,
    name: &str,
    always: bool,
    options: &[SequenceOptions],
) -> Result<()> {
    let identity = if always { Identity::Always } else { Identity::ByDefault };
    let draft = loop {
        let (table, at) = find(ctx, id, name)?;
        let column = &table.columns[at];
        let refused = |why: &str| {
            let message = format!("column \"{name}\" of relation \"{}\" {why}", table.name);
            Err(Error::new(Condition::ObjectNotInPrerequisiteState, message))
        };
        super::eventual::may_number(&table)?;
        if column.identity.is_some() {
            return refused("is already an identity column");
        }
        if column.default.is_some() {
            return refused("already has a default value");
        }
        if !column.not_null {
            return refused("must be declared NOT NULL before identity can be added");
        }
        let spec = spec::ColumnSpec {
            name: name.to_owned(),
            r#type: column.r#type.clone(),
            merge: crate::catalog::Merge::Register,
            not_null: true,
            default: None,
            serial: false,
            identity: Some((identity, Vec::new())),
        };
        let column_id = column.id;
        let mut draft = Draft::of(table);
        let sequence = draft.sequence_of(ctx, &spec, column_id, options).await?;
        draft.table.columns[at].identity = Some(identity);
        draft.table.columns[at].default = Some(expression::nextval(&sequence.name));
        draft.sequences.push(sequence);
        let mut locks = Locks::default();
        locks.table(id);
        draft.lock(&mut locks);
        if locks.take(ctx).await? {
            break draft;
        }
    };
    for sequence in &draft.sequences {
        lock::fresh(ctx, sequence.storage).await?;
    }
    let mut change = Change::of(ctx.catalog);
    draft.change(&mut change)?;
    change.make(ctx)
}

/// ADD GENERATED, DROP IDENTITY, SET GENERATED and the sequence's options
pub(super) async fn alter_identity(
    ctx: &mut Context<'_>,
    id: TableId,
    name: &str,
    wanted: &IdentityChange,
) -> Result<()> {
    if let IdentityChange::Add { always, options } = wanted {
        return add_identity(ctx, id, name, *always, options).await;
    }
    let (mut table, at) = find(ctx, id, name)?;
    let column = table.columns[at].id;
    if table.columns[at].identity.is_none() {
        let message = format!("column \"{name}\" of relation \"{}\" is not an identity column", table.name);
        if let IdentityChange::Drop { if_exists: true } = wanted {
            super::notice(ctx, format!("{message}, skipping"));
            return Ok(());
        }
        return Err(Error::new(Condition::ObjectNotInPrerequisiteState, message));
    }
    let owned = owned_sequence(ctx, id, column);
    match wanted {
        IdentityChange::Add { .. } => Ok(()),
        IdentityChange::Drop { .. } => {
            table.columns[at].identity = None;
            table.columns[at].default = None;
            let mut change = Change::of(ctx.catalog);
            if let Some(sequence) = owned {
                change.drop_sequence(sequence.id);
            }
            change.put_table(table)?;
            change.make(ctx)
        }
        IdentityChange::Set { always, options, restart } => {
            if let Some(sequence) = owned {
                let alteration = sequence::Alteration { r#type: None, options, restart: *restart, owned_by: None };
                sequence::alter(ctx, sequence.id, alteration).await?;
            }
            if let Some(always) = always {
                table.columns[at].identity = Some(if *always { Identity::Always } else { Identity::ByDefault });
            }
            update(ctx, table)
        }
    }
}
