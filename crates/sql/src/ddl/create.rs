//! CREATE TABLE, with columns, AS a query, or LIKE another table.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{CreateTable, CreateTableLikeKind, ObjectName, Query, Statement};
use polity_base::{IndexId, TableId, Type, Value};

use super::draft::Draft;
use super::eventual;
use super::lock::{self, Locks};
use super::notice_exists;
use super::spec::{self, ColumnSpec, ConstraintSpec, TableOptions};
use crate::catalog::change::{self, Change};
use crate::catalog::{Check, Column, Filler, Guarantee, Merge, Privileges, Table, name, rows};
use crate::error::{Condition, Error, Result};
use crate::query::{PlanInput, RunEnv};
use crate::rights;
use crate::session::Context;

const TAG: &str = "CREATE TABLE";

/// CREATE TABLE
pub(super) async fn create(ctx: &mut Context<'_>, statement: &CreateTable) -> Result<String> {
    refuse_unknown(statement)?;
    if let Some(CreateTableLikeKind::Parenthesized(like)) = &statement.like {
        return like_table(ctx, statement.if_not_exists, &statement.name, &like.name, &[]).await;
    }
    if let Some(query) = &statement.query {
        return create_as(ctx, statement, query).await;
    }
    let table_name = name::object(&statement.name)?;
    let options = spec::table_options(&statement.table_options)?;
    let mut columns = Vec::with_capacity(statement.columns.len());
    let mut constraints = Vec::new();
    for def in &statement.columns {
        let (column, more) = spec::column(def, &table_name)?;
        columns.push(column);
        constraints.extend(more);
    }
    for constraint in &statement.constraints {
        constraints.push(spec::constraint(constraint)?);
    }
    // Names are made up in PostgreSQL's order: the primary key's first, the
    // references last.
    constraints.sort_by_key(|c| match c {
        ConstraintSpec::Primary { .. } => 0,
        ConstraintSpec::Unique { .. } => 1,
        ConstraintSpec::Check { .. } => 2,
        ConstraintSpec::Foreign(_) => 3,
    });
    make(ctx, &table_name, statement.if_not_exists, options, &columns, &constraints).await
}

fn refuse_unknown(statement: &CreateTable) -> Result<()> {
    let refused = [
        (statement.or_replace, "CREATE OR REPLACE TABLE"),
        (statement.temporary, "a TEMPORARY table"),
        (statement.external, "an EXTERNAL table"),
        (statement.transient || statement.volatile || statement.dynamic || statement.iceberg, "this kind of table"),
        (statement.inherits.is_some(), "INHERITS"),
        (statement.partition_by.is_some() || statement.partition_of.is_some(), "a partitioned table"),
        (statement.on_commit.is_some(), "ON COMMIT"),
        (statement.clone.is_some(), "CLONE"),
        (matches!(statement.like, Some(CreateTableLikeKind::Plain(_))), "LIKE without parentheses"),
        (statement.location.is_some() || statement.file_format.is_some(), "LOCATION"),
        (statement.primary_key.is_some() || statement.order_by.is_some(), "ORDER BY in a table definition"),
        (statement.cluster_by.is_some() || statement.clustered_by.is_some(), "CLUSTER BY"),
        (statement.without_rowid || statement.strict, "this table option"),
    ];
    match refused.iter().find(|(is, _)| *is) {
        Some((_, "a TEMPORARY table")) => Err(Error::unsupported("a TEMPORARY table")
            .hint("Use an ordinary table, and drop it when it is no longer needed.")),
        Some((_, what)) => Err(Error::unsupported(what)),
        None => Ok(()),
    }
}

/// Whether the name is taken; an error, or a notice when that is all right.
fn exists(ctx: &mut Context<'_>, name: &str, if_not_exists: bool) -> Result<bool> {
    if !ctx.catalog.names.contains_key(name) {
        return Ok(false);
    }
    if !if_not_exists {
        return Err(change::relation_exists(name));
    }
    notice_exists(ctx, name);
    Ok(true)
}

async fn new_table(ctx: &Context<'_>, name: &str) -> Result<Table> {
    let ids = ctx.engine.catalogs();
    let (id, storage) = (TableId(ids.new_id().await?), IndexId(ids.new_id().await?));
    Ok(Table { owner: super::current_role(ctx)?.id, guarantee: Guarantee::Strong, ..Table::new(id, name, storage) })
}

async fn make(
    ctx: &mut Context<'_>,
    name: &str,
    if_not_exists: bool,
    options: TableOptions,
    columns: &[ColumnSpec],
    constraints: &[ConstraintSpec],
) -> Result<String> {
    loop {
        if exists(ctx, name, if_not_exists)? {
            return Ok(TAG.to_owned());
        }
        let fillfactor = options.fillfactor;
        let mut draft = Draft::of(Table { fillfactor, ..new_table(ctx, name).await? });
        for column in columns {
            draft.add_column(ctx, column).await?;
        }
        for constraint in constraints {
            draft.add_constraint(ctx, constraint).await?;
        }
        eventual::settle(ctx, &mut draft, options).await?;
        let mut locks = Locks::default();
        locks.name(name);
        draft.lock(&mut locks);
        if locks.take(ctx).await? {
            commit(ctx, draft).await?;
            return Ok(TAG.to_owned());
        }
    }
}

/// Puts a new table into the catalog; nobody else sees its storages yet.
async fn commit(ctx: &mut Context<'_>, draft: Draft) -> Result<()> {
    if draft.table.guarantee != Guarantee::Strong {
        // Rows of others may be there before the definition is.
        let mut change = Change::of(ctx.catalog);
        draft.change(&mut change)?;
        return change.make(ctx);
    }
    lock::fresh(ctx, draft.table.primary.storage).await?;
    for index in &draft.table.indexes {
        lock::fresh(ctx, index.storage).await?;
    }
    for sequence in &draft.sequences {
        lock::fresh(ctx, sequence.storage).await?;
    }
    let mut change = Change::of(ctx.catalog);
    draft.change(&mut change)?;
    change.make(ctx)
}

/// CREATE TABLE … AS query
async fn create_as(ctx: &mut Context<'_>, statement: &CreateTable, query: &Query) -> Result<String> {
    let table_name = name::object(&statement.name)?;
    let options = spec::table_options(&statement.table_options)?;
    eventual::only_strong(ctx, options, "CREATE TABLE AS")?;
    let fillfactor = options.fillfactor;
    if !statement.columns.is_empty() || !statement.constraints.is_empty() {
        return Err(Error::unsupported("CREATE TABLE with columns AS a query")
            .hint("Name the columns in the query, or use CREATE TABLE and INSERT."));
    }
    loop {
        if exists(ctx, &table_name, statement.if_not_exists)? {
            return Ok("CREATE TABLE AS".to_owned());
        }
        let mut locks = Locks::default();
        locks.name(&table_name);
        if locks.take(ctx).await? {
            break;
        }
    }
    let statement = Statement::Query(Box::new(query.clone()));
    let planned = ctx.engine.planner().plan(&PlanInput::of(ctx), &statement, &[])?;
    rights::check(ctx.catalog, ctx.user, &planned.needs)?;
    let mut draft = Draft::of(Table { fillfactor, ..new_table(ctx, &table_name).await? });
    for column in planned.columns.iter() {
        draft.add_column(ctx, &column_of_query(&column.name, &column.r#type)?).await?;
    }
    let view = ctx.txn.view();
    let mut stream = ctx.engine.planner().run(&planned, &[], &view, RunEnv::of(ctx)).await?;
    let table = draft.table.clone();
    commit(ctx, draft).await?;
    let mut filler = Filler::new(ctx.engine.database().clone());
    let mut count = 0u64;
    loop {
        let rows = stream.next(4_096).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let key = rows::hidden_key(&table, ctx.engine.next_row_id())?;
            filler.put(key, rows::store(&table, &row)).await?;
            count += 1;
        }
    }
    filler.finish(ctx).await?;
    Ok(format!("SELECT {count}"))
}

fn column_of_query(name: &str, r#type: &Type) -> Result<ColumnSpec> {
    spec::check_column_name(name)?;
    let r#type = match r#type {
        Type::Unknown | Type::Name => Type::Text,
        Type::Regclass => Type::Oid,
        Type::Array(_) | Type::Void | Type::InternalChar => {
            return Err(Error::unsupported(format!("a column of type {type}")).column(name));
        }
        t => t.clone(),
    };
    let merge = Merge::Register;
    Ok(ColumnSpec {
        name: name.to_owned(),
        r#type,
        merge,
        not_null: false,
        default: None,
        serial: false,
        identity: None,
    })
}

/// What LIKE takes along besides names, types and NOT NULL.
#[derive(Default)]
struct Including {
    defaults: bool,
    constraints: bool,
    indexes: bool,
    comments: bool,
}

impl Including {
    fn of(words: &[(bool, String)]) -> Result<Including> {
        let mut including = Including::default();
        for (wanted, word) in words {
            match word.as_str() {
                "ALL" => {
                    including =
                        Including { defaults: *wanted, constraints: *wanted, indexes: *wanted, comments: *wanted };
                }
                "DEFAULTS" => including.defaults = *wanted,
                "CONSTRAINTS" => including.constraints = *wanted,
                "INDEXES" => including.indexes = *wanted,
                "COMMENTS" => including.comments = *wanted,
                // There is nothing of these to take along.
                "GENERATED" | "STATISTICS" | "STORAGE" | "COMPRESSION" => {}
                "IDENTITY" if !wanted => {}
                "IDENTITY" => return Err(Error::unsupported("LIKE … INCLUDING IDENTITY")),
                other => {
                    return Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{other}\"")));
                }
            }
        }
        Ok(including)
    }
}

/// CREATE TABLE … (LIKE source)
pub(super) async fn like_table(
    ctx: &mut Context<'_>,
    if_not_exists: bool,
    written: &ObjectName,
    source: &ObjectName,
    including: &[(bool, String)],
) -> Result<String> {
    let table_name = name::object(written)?;
    let including = Including::of(including)?;
    loop {
        if exists(ctx, &table_name, if_not_exists)? {
            return Ok(TAG.to_owned());
        }
        let source = lock::table(ctx.catalog, source)?;
        rights::require(ctx.catalog, ctx.user, &source, Privileges::SELECT)?;
        if source.guarantee != Guarantee::Strong {
            return Err(Error::unsupported("LIKE of a table that is not strong"));
        }
        eventual::only_strong(ctx, TableOptions::default(), "CREATE TABLE … (LIKE …)")?;
        let mut draft = Draft::of(new_table(ctx, &table_name).await?);
        copy_columns(&mut draft.table, &source, &including);
        if including.constraints {
            for check in &source.checks {
                let id = TableId(ctx.engine.catalogs().new_id().await?);
                draft.table.checks.push(Check { id, ..check.clone() });
            }
        }
        if including.indexes {
            copy_keys(ctx, &mut draft, &source).await?;
        }
        let mut locks = Locks::default();
        locks.name(&table_name);
        locks.table(source.id);
        draft.lock(&mut locks);
        if locks.take(ctx).await? {
            commit(ctx, draft).await?;
            return Ok(TAG.to_owned());
        }
    }
}

fn copy_columns(table: &mut Table, source: &Arc<Table>, including: &Including) {
    for (slot, column) in (0u16..).zip(&source.columns) {
        let default = column.default.clone().filter(|_| including.defaults && column.identity.is_none());
        table.columns.push(Column {
            id: polity_base::ColumnId(slot),
            default,
            identity: None,
            missing: Value::Null,
            comment: column.comment.clone().filter(|_| including.comments),
            ..column.clone()
        });
        table.next_column = slot + 1;
    }
}

async fn copy_keys(ctx: &Context<'_>, draft: &mut Draft, source: &Table) -> Result<()> {
    let name_of = |id: &polity_base::ColumnId| source.column_by_id(*id).map(|c| c.name.clone()).unwrap_or_default();
    if !source.has_hidden_key() {
        let columns = source.primary.columns.iter().map(name_of).collect();
        draft.add_constraint(ctx, &ConstraintSpec::Primary { name: None, columns }).await?;
    }
    for index in &source.indexes {
        let columns: Vec<String> = index.columns.iter().map(|(c, _)| name_of(c)).collect();
        if index.constraint {
            draft.add_constraint(ctx, &ConstraintSpec::Unique { name: None, columns }).await?;
            continue;
        }
        let name = draft.index_name(ctx.catalog, None, &columns, "idx")?;
        let ids = draft.key_columns(&columns, "index")?;
        let directed = ids.into_iter().zip(index.columns.iter().map(|(_, d)| *d)).collect();
        let copy = super::draft::new_index(ctx, name, directed, index.unique, false).await?;
        draft.table.indexes.push(copy);
    }
    Ok(())
}
