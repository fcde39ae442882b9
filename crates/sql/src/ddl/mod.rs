//! CREATE, ALTER, DROP, TRUNCATE: what changes the catalog.
//!
//! Every change happens within its statement's transaction and is undone with
//! it. A statement plans on the catalog it sees, locks what it is about to
//! change ([`lock`]), plans again if somebody was first, and puts the changed
//! rows into the transaction ([`crate::catalog::change`]). Where rows must be
//! rewritten or an index filled, that goes past the transaction into storages
//! nobody can see yet ([`build`]).
//!
//! | module                     | holds                                              |
//! |----------------------------|----------------------------------------------------|
//! | [`dialect`], [`extra`]     | grammar the parser does not have                   |
//! | [`shape`]                  | refusing texts too deep, making others shallow     |
//! | [`spec`]                   | definitions as they are written                    |
//! | [`draft`]                  | definitions matched with the catalog, names made up|
//! | [`create`], [`alter`], ... | the statements                                     |
//! | [`grant`]                  | GRANT and REVOKE                                   |
//! | [`drop`]                   | what depends on what                               |
//! | [`eventual`], [`byzantine`] | what tables of these guarantees can have           |
//! | [`build`]                  | filling storages from rows that are there          |
//! | [`sequence`]               | sequences and the numbers they give                |
//! | [`garbage`]                | clearing what nobody can reach                     |

mod alter;
pub mod build;
pub mod byzantine;
mod column;
mod comment;
mod constraint;
mod create;
pub mod dialect;
mod draft;
mod drop;
mod eventual;
pub mod expression;
mod extra;
pub mod garbage;
mod grant;
mod index;
mod lock;
mod role;
pub mod scram;
pub mod sequence;
pub mod shape;
mod spec;
#[cfg(test)]
mod tests;
mod truncate;
pub mod view;

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{self, ObjectName, ObjectType, Statement};
use polity_base::{TableId, Type, Value};

use self::extra::{Extra, RelationChange, SequenceChange};
use crate::catalog::{Privileges, Relation, Role, Table, name};
use crate::error::{Condition, Error, Result};
use crate::rights;
use crate::session::Context;
use crate::session::context::Notice;

pub use draft::key_of;

/// Runs a statement that changes the catalog, and refuses by name all that no
/// part of Polity knows; gives the command tag.
pub async fn execute(ctx: &mut Context<'_>, statement: &Statement) -> Result<String> {
    if let Some(extra) = dialect::carried(statement) {
        let extra = extra.map_err(Error::internal)?;
        return execute_extra(ctx, extra).await;
    }
    match statement {
        Statement::CreateTable(create) => create::create(ctx, create).await,
        Statement::AlterTable(alter) => alter::execute(ctx, alter).await,
        Statement::CreateIndex(create) => index::create(ctx, create).await,
        Statement::CreateView(create) => view::create(ctx, create).await,
        Statement::CreateSequence { temporary: false, if_not_exists, name, data_type, sequence_options, owned_by } => {
            let r#type = data_type.as_ref();
            sequence::create(ctx, *if_not_exists, name, r#type, sequence_options, owned_by.as_ref()).await
        }
        Statement::Drop { object_type: ObjectType::Role | ObjectType::User, names, if_exists, .. } => {
            role::drop(ctx, names, *if_exists).await
        }
        Statement::Drop { object_type, names, if_exists, cascade, temporary: false, table: None, .. } => {
            drop::execute(ctx, object_type, names, *if_exists, *cascade).await
        }
        Statement::Truncate(truncate) => truncate::execute(ctx, truncate).await,
        Statement::Comment { object_type, object_name, comment, if_exists } => {
            comment::execute(ctx, object_type, object_name, comment.as_deref(), *if_exists).await
        }
        Statement::Lock(lock) => lock_tables(ctx, lock),
        Statement::Grant(grant) => grant::give(ctx, grant).await,
        Statement::Revoke(revoke) => grant::take(ctx, revoke).await,
        other => Err(refused(other)),
    }
}

/// LOCK TABLE … IN ACCESS SHARE MODE, which says that the tables must stay readable as they are. A snapshot is that;
/// there are no locks of whole tables that could give more.
fn lock_tables(ctx: &Context<'_>, statement: &ast::Lock) -> Result<String> {
    if statement.lock_mode != Some(ast::LockTableMode::AccessShare) {
        return Err(Error::unsupported("LOCK TABLE in a mode other than ACCESS SHARE")
            .hint("Lock rows with SELECT ... FOR UPDATE; SERIALIZABLE transactions need no locks."));
    }
    for written in &statement.tables {
        let table = lock::table(ctx.catalog, &written.name)?;
        rights::require(ctx.catalog, ctx.user, &table, Privileges::SELECT)?;
    }
    Ok("LOCK TABLE".to_owned())
}

/// The error for a statement that Polity does not have.
fn refused(statement: &Statement) -> Error {
    let hint = match statement {
        Statement::CreateSchema { .. } => Some("All tables live in schema public."),
        Statement::CreateDatabase { .. } => Some("A cluster holds one database."),
        Statement::CreateFunction(_) | Statement::CreateTrigger(_) | Statement::CreateProcedure { .. } => {
            Some("Keep the logic in the application.")
        }
        Statement::CreateType { .. } => Some("Use text with a CHECK constraint in place of an enum."),
        _ => None,
    };
    // Leading words in capitals name the statement.
    let text = statement.to_string();
    let is_word = |w: &&str| w.len() > 1 && w.bytes().all(|b| b.is_ascii_uppercase());
    let words: Vec<&str> = text.split_whitespace().take_while(is_word).take(3).collect();
    let error = Error::unsupported(if words.is_empty() { text } else { words.join(" ") });
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

async fn execute_extra(ctx: &mut Context<'_>, extra: Extra) -> Result<String> {
    match extra {
        Extra::AlterSequence { if_exists, name, change } => alter_sequence(ctx, if_exists, &name, change).await,
        Extra::AlterView { if_exists, name, change } => {
            expect_kind(ctx, &name, "view", |r| matches!(r, Relation::View(_)))?;
            alter_relation(ctx, if_exists, &name, change).await.map(|()| "ALTER VIEW".to_owned())
        }
        Extra::AlterIndex { if_exists, name, change } => {
            expect_kind(ctx, &name, "index", |r| matches!(r, Relation::Index(..)))?;
            alter_relation(ctx, if_exists, &name, change).await.map(|()| "ALTER INDEX".to_owned())
        }
        Extra::AlterIdentity { if_exists, table, column, change } => {
            if let Some(id) = alter::lock_table(ctx, &table, if_exists).await? {
                column::alter_identity(ctx, id, &name::fold(&column), &change).await?;
            }
            Ok("ALTER TABLE".to_owned())
        }
        Extra::ResetTable { if_exists, table, options } => {
            if let Some(id) = alter::lock_table(ctx, &table, if_exists).await? {
                alter::reset_options(ctx, id, &options)?;
            }
            Ok("ALTER TABLE".to_owned())
        }
        Extra::CreateTableLike { if_not_exists, name, source, including } => {
            create::like_table(ctx, if_not_exists, &name, &source, &including).await
        }
        Extra::CreateRole { name, user, options } => role::create(ctx, &name, user, &options).await,
        Extra::AlterRole { name, options } => role::alter(ctx, name.as_ref(), &options).await,
        Extra::RenameRole { name, to } => role::rename(ctx, &name, &to).await,
        Extra::Vacuum { tables } => maintain(ctx, &tables, "VACUUM"),
        Extra::Analyze { tables } => maintain(ctx, &tables, "ANALYZE"),
        Extra::Unsupported(what) => Err(Error::unsupported(what)),
    }
}

/// VACUUM and ANALYZE have nothing to do: old versions are collected all the
/// time, and plans use no statistics that would have to be gathered.
fn maintain(ctx: &Context<'_>, tables: &[ObjectName], tag: &str) -> Result<String> {
    tables.iter().try_for_each(|t| lock::table(ctx.catalog, t).map(|_| ()))?;
    Ok(tag.to_owned())
}

async fn alter_sequence(
    ctx: &mut Context<'_>,
    if_exists: bool,
    written: &ObjectName,
    change: SequenceChange,
) -> Result<String> {
    const TAG: &str = "ALTER SEQUENCE";
    expect_kind(ctx, written, "sequence", |r| matches!(r, Relation::Sequence(_)))?;
    let (r#type, options, restart, owned_by) = match change {
        SequenceChange::Relation(change) => {
            return alter_relation(ctx, if_exists, written, change).await.map(|()| TAG.to_owned());
        }
        SequenceChange::Options { r#type, options, restart, owned_by } => (r#type, options, restart, owned_by),
    };
    if let Some(Relation::Sequence(sequence)) = alter::lock_relation(ctx, written, if_exists, None).await? {
        let owned_by = owned_by.as_ref().map(Option::as_ref);
        let alteration = sequence::Alteration { r#type: r#type.as_ref(), options: &options, restart, owned_by };
        sequence::alter(ctx, sequence.id, alteration).await?;
    }
    Ok(TAG.to_owned())
}

fn expect_kind(ctx: &Context<'_>, written: &ObjectName, kind: &str, is: impl Fn(&Relation) -> bool) -> Result<()> {
    let name = name::object(written)?;
    match ctx.catalog.relation(&name) {
        Some(relation) if !is(&relation) => {
            let article = if kind == "index" { "an" } else { "a" };
            Err(Error::new(Condition::WrongObjectType, format!("\"{name}\" is not {article} {kind}")))
        }
        _ => Ok(()),
    }
}

async fn alter_relation(
    ctx: &mut Context<'_>,
    if_exists: bool,
    written: &ObjectName,
    change: RelationChange,
) -> Result<()> {
    match change {
        RelationChange::Rename(to) => alter::rename(ctx, written, if_exists, &name::fold(&to)).await,
        RelationChange::Owner(owner) => alter::set_owner(ctx, written, if_exists, &owner).await,
        RelationChange::Fillfactor(value) => {
            let value = value.map(spec::fillfactor_of).transpose()?;
            alter::set_index_fillfactor(ctx, written, if_exists, value).await
        }
    }
}

/// The role of the session.
fn current_role(ctx: &Context<'_>) -> Result<Arc<Role>> {
    ctx.catalog.roles.get(ctx.user).cloned().ok_or_else(|| role::missing(ctx.user))
}

fn table_by_id(ctx: &Context<'_>, id: TableId) -> Result<Arc<Table>> {
    ctx.catalog
        .tables
        .get(&id)
        .cloned()
        .ok_or_else(|| Error::internal(format!("table {} vanished under its lock", id.0)))
}

fn notice(ctx: &mut Context<'_>, message: String) {
    ctx.notices.push(Notice { severity: "NOTICE", code: "00000", message, detail: None, hint: None });
}

fn notice_exists(ctx: &mut Context<'_>, name: &str) {
    let message = format!("relation \"{name}\" already exists, skipping");
    ctx.notices.push(Notice { severity: "NOTICE", code: "42P07", message, detail: None, hint: None });
}

fn no_column(table: &str, column: &str) -> Error {
    Error::new(Condition::UndefinedColumn, format!("column \"{column}\" of relation \"{table}\" does not exist"))
}

fn column_exists(table: &str, column: &str) -> Error {
    Error::new(Condition::DuplicateColumn, format!("column \"{column}\" of relation \"{table}\" already exists"))
}

fn no_constraint(table: &str, constraint: &str) -> Error {
    Error::new(
        Condition::UndefinedObject,
        format!("constraint \"{constraint}\" of relation \"{table}\" does not exist"),
    )
}

/// A value as an error shows it.
fn shown(value: &Value, r#type: &Type) -> String {
    polity_base::text::to_text(value, r#type, &polity_base::text::Settings::default())
}
