//! ALTER TABLE, and what ALTER VIEW, INDEX and SEQUENCE share with it.

use datafusion::sql::sqlparser::ast::{
    AlterColumnOperation, AlterTable, AlterTableOperation, DropBehavior, Ident, ObjectName, Owner, RenameTableNameKind,
    SqlOption,
};
use polity_base::TableId;

use super::drop::Removal;
use super::lock::{self, Locks, no_relation};
use super::{column, constraint, draft, expression, no_column, no_constraint, spec, table_by_id, view};
use crate::catalog::change::{self, Change};
use crate::catalog::{Guarantee, Relation, Sequence, Table, View, name, store};
use crate::error::{Condition, Error, Result};
use crate::rights;
use crate::session::Context;

/// ALTER TABLE
pub(super) async fn execute(ctx: &mut Context<'_>, statement: &AlterTable) -> Result<String> {
    const TAG: &str = "ALTER TABLE";
    if statement.location.is_some() || statement.on_cluster.is_some() || statement.table_type.is_some() {
        return Err(Error::new(Condition::SyntaxError, "unknown options of ALTER TABLE"));
    }
    if let [AlterTableOperation::RenameTable { table_name }] = statement.operations.as_slice() {
        let (RenameTableNameKind::To(to) | RenameTableNameKind::As(to)) = table_name;
        rename(ctx, &statement.name, statement.if_exists, &name::object(to)?).await?;
        return Ok(TAG.to_owned());
    }
    if let [AlterTableOperation::OwnerTo { new_owner }] = statement.operations.as_slice() {
        set_owner(ctx, &statement.name, statement.if_exists, new_owner).await?;
        return Ok(TAG.to_owned());
    }
    let Some(id) = lock_table(ctx, &statement.name, statement.if_exists).await? else { return Ok(TAG.to_owned()) };
    for operation in &statement.operations {
        apply(ctx, id, operation).await?;
    }
    Ok(TAG.to_owned())
}

/// Locks a table to change it. `None`: it is not there, and that is all right.
pub(super) async fn lock_table(
    ctx: &mut Context<'_>,
    written: &ObjectName,
    if_exists: bool,
) -> Result<Option<TableId>> {
    loop {
        let name = name::object(written)?;
        if if_exists && !ctx.catalog.names.contains_key(&name) {
            super::notice(ctx, format!("relation \"{name}\" does not exist, skipping"));
            return Ok(None);
        }
        let table = lock::table(ctx.catalog, written)?;
        rights::require_owner(ctx.catalog, ctx.user, &Relation::Table(table.clone()))?;
        let mut locks = Locks::default();
        locks.table(table.id);
        if locks.take(ctx).await? {
            return Ok(Some(table.id));
        }
    }
}

async fn apply(ctx: &mut Context<'_>, id: TableId, operation: &AlterTableOperation) -> Result<()> {
    use AlterTableOperation as Op;
    let table = table_by_id(ctx, id)?;
    super::eventual::may_alter(&table, operation)?;
    match operation {
        Op::AddColumn { if_not_exists, column_def, column_position: None, .. } => {
            column::add(ctx, id, column_def, *if_not_exists).await
        }
        Op::DropColumn { column_names, if_exists, drop_behavior, .. } => {
            for name in column_names {
                drop_column(ctx, id, &name::fold(name), *if_exists, cascades(drop_behavior.as_ref())).await?;
            }
            Ok(())
        }
        Op::RenameColumn { old_column_name, new_column_name } => {
            rename_column(ctx, id, old_column_name, new_column_name)
        }
        Op::RenameConstraint { old_name, new_name } => rename_constraint(ctx, id, old_name, new_name).await,
        Op::AddConstraint { not_valid: true, .. } => {
            Err(Error::unsupported("NOT VALID").hint("Constraints hold for all rows: add it without NOT VALID."))
        }
        Op::AddConstraint { constraint: written, .. } => constraint::add(ctx, id, &spec::constraint(written)?).await,
        Op::DropConstraint { if_exists, name, drop_behavior } => {
            let cascade = cascades(drop_behavior.as_ref());
            constraint::drop(ctx, id, &name::fold(name), *if_exists, cascade).await
        }
        // All constraints are valid.
        Op::ValidateConstraint { name } => {
            let table = table_by_id(ctx, id)?;
            let wanted = name::fold(name);
            match draft::constraint_names(&table).any(|n| n == wanted) {
                true => Ok(()),
                false => Err(no_constraint(&table.name, &wanted)),
            }
        }
        Op::AlterColumn { column_name, op } => alter_column(ctx, id, &name::fold(column_name), op).await,
        Op::SetOptionsParens { options } => set_options(ctx, id, options),
        Op::OwnerTo { new_owner } => {
            let owner = role_named(ctx, new_owner)?;
            update(ctx, Table { owner, ..(*table_by_id(ctx, id)?).clone() })
        }
        Op::RenameTable { .. } => {
            Err(Error::new(Condition::SyntaxError, "RENAME TO cannot be combined with other changes"))
        }
        other => {
            let text = other.to_string();
            let words: Vec<&str> = text.split_whitespace().take(2).collect();
            Err(Error::unsupported(format!("ALTER TABLE … {}", words.join(" "))))
        }
    }
}

fn cascades(behavior: Option<&DropBehavior>) -> bool {
    matches!(behavior, Some(DropBehavior::Cascade))
}

/// Replaces a locked table's definition.
pub(super) fn update(ctx: &mut Context<'_>, table: Table) -> Result<()> {
    let mut change = Change::of(ctx.catalog);
    change.put_table(table)?;
    change.make(ctx)
}

async fn alter_column(ctx: &mut Context<'_>, id: TableId, name: &str, op: &AlterColumnOperation) -> Result<()> {
    match op {
        AlterColumnOperation::SetNotNull => column::set_not_null(ctx, id, name).await,
        AlterColumnOperation::DropNotNull => column::drop_not_null(ctx, id, name),
        AlterColumnOperation::SetDefault { value } => column::set_default(ctx, id, name, Some(value)),
        AlterColumnOperation::DropDefault => column::set_default(ctx, id, name, None),
        AlterColumnOperation::SetDataType { data_type, using, .. } => {
            column::set_type(ctx, id, name, data_type, using.as_ref()).await
        }
        // The dialect reads it before the parser does.
        AlterColumnOperation::AddGenerated { .. } => {
            Err(Error::unsupported("a change of an identity column together with other changes"))
        }
    }
}

async fn drop_column(ctx: &mut Context<'_>, id: TableId, name: &str, if_exists: bool, cascade: bool) -> Result<()> {
    let table = table_by_id(ctx, id)?;
    let Some(column) = table.column(name) else {
        if if_exists {
            let said = format!("column \"{name}\" of relation \"{}\" does not exist, skipping", table.name);
            super::notice(ctx, said);
            return Ok(());
        }
        return Err(no_column(&table.name, name));
    };
    let mut removal = Removal::default();
    removal.columns.insert((id, column.id));
    let what = format!("column {name} of table {}", table.name);
    constraint::remove(ctx, id, removal, &what, cascade).await
}

fn rename_column(ctx: &mut Context<'_>, id: TableId, old: &Ident, new: &Ident) -> Result<()> {
    let (old, new) = (name::fold(old), name::fold(new));
    let mut table = (*table_by_id(ctx, id)?).clone();
    if table.column(&old).is_none() {
        return Err(no_column(&table.name, &old));
    }
    spec::check_column_name(&new)?;
    if table.column(&new).is_some() {
        return Err(super::column_exists(&table.name, &new));
    }
    if let Some(view) = ctx.catalog.views.values().find(|v| v.reads.contains(&id) && view::mentions(&v.query, &old)) {
        return Err(Error::unsupported(format!("renaming a column that the view \"{}\" uses", view.name))
            .hint("Drop the view, rename the column, and create the view again."));
    }
    for check in &mut table.checks {
        check.expression = expression::rename_column(&check.expression, &old, &new)?;
    }
    for column in table.columns.iter_mut().filter(|c| c.name == old) {
        column.name = new.clone();
    }
    update(ctx, table)
}

async fn rename_constraint(ctx: &mut Context<'_>, id: TableId, old: &Ident, new: &Ident) -> Result<()> {
    let (old, new) = (name::fold(old), name::fold(new));
    loop {
        let mut table = (*table_by_id(ctx, id)?).clone();
        if !draft::constraint_names(&table).any(|n| n == old) {
            return Err(no_constraint(&table.name, &old));
        }
        if draft::constraint_names(&table).any(|n| n == new) {
            return Err(Error::new(
                Condition::DuplicateObject,
                format!("constraint \"{new}\" for relation \"{}\" already exists", table.name),
            ));
        }
        let checks = table.checks.iter_mut().map(|c| &mut c.name);
        let plain = checks.chain(table.foreign_keys.iter_mut().map(|f| &mut f.name)).find(|n| **n == old);
        let mut locks = Locks::default();
        locks.table(id);
        if let Some(name) = plain {
            name.clone_from(&new);
        } else {
            if ctx.catalog.names.contains_key(&new) {
                return Err(change::relation_exists(&new));
            }
            locks.name(&old);
            locks.name(&new);
            rename_index_of(&mut table, &old, &new);
        }
        if locks.take(ctx).await? {
            return update(ctx, table);
        }
    }
}

fn rename_index_of(table: &mut Table, old: &str, new: &str) {
    if table.primary.name.as_deref() == Some(old) {
        table.primary.name = Some(new.to_owned());
    }
    for index in table.indexes.iter_mut().filter(|i| i.name == old) {
        index.name = new.to_owned();
    }
}

fn set_options(ctx: &mut Context<'_>, id: TableId, options: &[SqlOption]) -> Result<()> {
    let mut table = (*table_by_id(ctx, id)?).clone();
    for option in options {
        match option {
            SqlOption::KeyValue { key, value } if name::fold(key) == "fillfactor" => {
                table.fillfactor = Some(spec::fillfactor(value)?);
            }
            SqlOption::KeyValue { key, .. } if name::fold(key) == "guarantee" => {
                return Err(Error::unsupported("changing the guarantee of a table")
                    .hint("Create a table with the other guarantee, and INSERT … SELECT the rows."));
            }
            SqlOption::KeyValue { key, value } if name::fold(key) == "ack" && table.guarantee != Guarantee::Strong => {
                table.replicas = spec::replicas(value)?;
            }
            SqlOption::KeyValue { key, .. } => return Err(spec::unrecognized(&name::fold(key))),
            other => return Err(spec::unrecognized(&other.to_string())),
        }
    }
    update(ctx, table)
}

/// ALTER TABLE … RESET (options)
pub(super) fn reset_options(ctx: &mut Context<'_>, id: TableId, options: &[Ident]) -> Result<()> {
    if let Some(other) = options.iter().map(name::fold).find(|o| o != "fillfactor") {
        return Err(spec::unrecognized(&other));
    }
    update(ctx, Table { fillfactor: None, ..(*table_by_id(ctx, id)?).clone() })
}

/// The role that OWNER TO names.
pub(super) fn role_named(ctx: &Context<'_>, owner: &Owner) -> Result<TableId> {
    let name = match owner {
        Owner::Ident(ident) => name::fold(ident),
        Owner::CurrentRole | Owner::CurrentUser | Owner::SessionUser => ctx.user.to_owned(),
    };
    let role = ctx.catalog.roles.get(&name).ok_or_else(|| super::role::missing(&name))?;
    if name != ctx.user && !super::current_role(ctx)?.superuser {
        return Err(Error::new(Condition::InsufficientPrivilege, format!("must be able to SET ROLE \"{name}\""))
            .detail("Only a superuser gives what it owns to another role.")
            .hint("Ask a superuser, or GRANT what the other role needs."));
    }
    Ok(role.id)
}

/// What a change of any relation needs: the relation, under its locks. `None`:
/// it is not there, and that is all right.
pub(super) async fn lock_relation(
    ctx: &mut Context<'_>,
    written: &ObjectName,
    if_exists: bool,
    new_name: Option<&str>,
) -> Result<Option<Relation>> {
    let old = name::object(written)?;
    loop {
        let Some(relation) = ctx.catalog.relation(&old) else {
            if if_exists {
                super::notice(ctx, format!("relation \"{old}\" does not exist, skipping"));
                return Ok(None);
            }
            return Err(no_relation(&old));
        };
        rights::require_owner(ctx.catalog, ctx.user, &relation)?;
        let mut locks = Locks::default();
        match &relation {
            Relation::Table(t) | Relation::Index(t, _) => locks.table(t.id),
            Relation::View(v) => locks.key(store::view_key(v.id)),
            Relation::Sequence(s) => super::sequence::lock_sequence(s, &mut locks),
        }
        if let Some(new) = new_name {
            if ctx.catalog.names.contains_key(new) {
                return Err(change::relation_exists(new));
            }
            locks.name(&old);
            locks.name(new);
        }
        if locks.take(ctx).await? {
            return Ok(Some(relation));
        }
    }
}

/// ALTER … RENAME TO
pub(super) async fn rename(ctx: &mut Context<'_>, written: &ObjectName, if_exists: bool, new: &str) -> Result<()> {
    let Some(relation) = lock_relation(ctx, written, if_exists, Some(new)).await? else { return Ok(()) };
    let old = name::object(written)?;
    let mut change = Change::of(ctx.catalog);
    match &relation {
        Relation::Table(t) => {
            change.put_table(Table { name: new.to_owned(), ..(**t).clone() })?;
            rename_in_views(ctx, &mut change, t.id, &old, new)?;
        }
        Relation::View(v) => {
            change.put_view(View { name: new.to_owned(), ..(**v).clone() })?;
            rename_in_views(ctx, &mut change, v.id, &old, new)?;
        }
        Relation::Sequence(s) => {
            change.put_sequence(Sequence { name: new.to_owned(), ..(**s).clone() })?;
            rename_in_defaults(ctx, &mut change, &old, new)?;
        }
        Relation::Index(t, _) => {
            let mut table = (**t).clone();
            rename_index_of(&mut table, &old, new);
            change.put_table(table)?;
        }
    }
    change.make(ctx)
}

fn rename_in_views(ctx: &Context<'_>, change: &mut Change, id: TableId, old: &str, new: &str) -> Result<()> {
    for reader in ctx.catalog.views.values().filter(|v| v.reads.contains(&id)) {
        let query = view::rename_relation(&reader.query, old, new)?;
        change.put_view(View { query, ..(**reader).clone() })?;
    }
    Ok(())
}

fn rename_in_defaults(ctx: &Context<'_>, change: &mut Change, old: &str, new: &str) -> Result<()> {
    for table in ctx.catalog.tables.values() {
        let mut renamed = (**table).clone();
        for default in renamed.columns.iter_mut().filter_map(|c| c.default.as_mut()) {
            if expression::draws_from(default, old) {
                *default = expression::rename_sequence(default, old, new)?;
            }
        }
        if renamed != **table {
            change.put_table(renamed)?;
        }
    }
    Ok(())
}

/// ALTER … OWNER TO
pub(super) async fn set_owner(
    ctx: &mut Context<'_>,
    written: &ObjectName,
    if_exists: bool,
    owner: &Owner,
) -> Result<()> {
    let Some(relation) = lock_relation(ctx, written, if_exists, None).await? else { return Ok(()) };
    let owner = role_named(ctx, owner)?;
    let mut change = Change::of(ctx.catalog);
    match &relation {
        // An index belongs to its table's owner.
        Relation::Table(t) | Relation::Index(t, _) => change.put_table(Table { owner, ..(**t).clone() })?,
        Relation::View(v) => change.put_view(View { owner, ..(**v).clone() })?,
        Relation::Sequence(s) => change.put_sequence(Sequence { owner, ..(**s).clone() })?,
    }
    if let Relation::Table(t) = &relation {
        for sequence in ctx.catalog.sequences.values().filter(|s| s.owned_by.is_some_and(|(id, _)| id == t.id)) {
            change.put_sequence(Sequence { owner, ..(**sequence).clone() })?;
        }
    }
    change.make(ctx)
}

/// ALTER INDEX … SET (fillfactor = n), RESET (fillfactor)
pub(super) async fn set_index_fillfactor(
    ctx: &mut Context<'_>,
    written: &ObjectName,
    if_exists: bool,
    fillfactor: Option<u8>,
) -> Result<()> {
    match lock_relation(ctx, written, if_exists, None).await? {
        None => Ok(()),
        Some(Relation::Index(table, id)) => {
            let mut table = (*table).clone();
            for index in table.indexes.iter_mut().filter(|i| i.id == id) {
                index.fillfactor = fillfactor;
            }
            update(ctx, table)
        }
        Some(_) => Err(Error::new(Condition::WrongObjectType, format!("\"{written}\" is not an index"))),
    }
}
