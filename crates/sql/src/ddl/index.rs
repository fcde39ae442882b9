//! CREATE INDEX.

use datafusion::sql::sqlparser::ast::{BinaryOperator, CreateIndex, Expr, IndexColumn, IndexOption, IndexType};
use polity_base::ColumnId;
use polity_base::key::Direction;
use polity_base::planted::{Bug, planted};

use super::build::{Build, Conversion};
use super::draft::{Draft, MAX_KEY_COLUMNS, new_index, ordered};
use super::lock::{self, Locks};
use super::{notice_exists, spec};
use crate::catalog::change::{self, Change};
use crate::catalog::{Guarantee, Index, Relation, Table, name};
use crate::error::{Condition, Error, Result};
use crate::rights;
use crate::session::Context;

const TAG: &str = "CREATE INDEX";

/// CREATE INDEX. CONCURRENTLY builds the index like any other, while writers of
/// the table wait.
pub(super) async fn create(ctx: &mut Context<'_>, statement: &CreateIndex) -> Result<String> {
    let fillfactor = options(statement)?;
    let given = statement.name.as_ref().map(name::object).transpose()?;
    if statement.if_not_exists && given.is_none() {
        return Err(Error::new(Condition::SyntaxError, "CREATE INDEX IF NOT EXISTS needs the index's name"));
    }
    let (table, index) = loop {
        let table = lock::table(ctx.catalog, &statement.table_name)?;
        rights::require_owner(ctx.catalog, ctx.user, &Relation::Table(table.clone()))?;
        if let Some(taken) = given.as_ref().filter(|n| ctx.catalog.names.contains_key(*n)) {
            if statement.if_not_exists {
                notice_exists(ctx, taken);
                return Ok(TAG.to_owned());
            }
            return Err(change::relation_exists(taken));
        }
        let columns = key_columns(&table, &statement.columns)?;
        let column_names: Vec<String> =
            columns.iter().filter_map(|(c, _)| table.column_by_id(*c).map(|c| c.name.clone())).collect();
        let mut draft = Draft::of((*table).clone());
        let name = draft.index_name(ctx.catalog, given.as_deref(), &column_names, "idx")?;
        let mut locks = Locks::default();
        if !planted(Bug::IndexWithoutLock) {
            locks.table(table.id);
        }
        draft.lock(&mut locks);
        if locks.take(ctx).await? {
            match table.guarantee {
                Guarantee::Eventual if statement.unique => return Err(super::eventual::unique(&name)),
                Guarantee::Byzantine if statement.unique => {
                    return Err(super::byzantine::stays(&table, "a UNIQUE INDEX"));
                }
                _ => {}
            }
            let mut index = new_index(ctx, name, columns, statement.unique, false).await?;
            index.fillfactor = fillfactor;
            break (table, index);
        }
    };
    if table.guarantee == Guarantee::Byzantine {
        super::byzantine::may_index(ctx, &table)?;
    }
    if table.guarantee != Guarantee::Strong {
        // Every replica builds it from its own rows, every validator when the ledger orders it.
        let storage = table.guarantee.storage(index.storage.0);
        let mut new = (*table).clone();
        new.indexes.push(Index { storage, ..index });
        let mut change = Change::of(ctx.catalog);
        change.put_table(new)?;
        change.make(ctx)?;
        return Ok(TAG.to_owned());
    }
    lock::fresh(ctx, index.storage).await?;
    lock::advance(ctx).await?;
    let mut new = (*table).clone();
    new.indexes.push(index.clone());
    let build = Build { old: &table, new: &new, conversion: Conversion::Keep, rows: false, indexes: vec![&index] };
    build.run(ctx).await?;
    let mut change = Change::of(ctx.catalog);
    change.put_table(new)?;
    change.make(ctx)?;
    Ok(TAG.to_owned())
}

/// Refuses what an index cannot be; gives its fillfactor.
fn options(statement: &CreateIndex) -> Result<Option<u8>> {
    let in_options = statement.index_options.iter().map(|o| match o {
        IndexOption::Using(kind) => Ok(kind),
        IndexOption::Comment(_) => Err(Error::unsupported("COMMENT in CREATE INDEX")),
    });
    for kind in statement.using.iter().map(Ok).chain(in_options) {
        match kind? {
            IndexType::BTree => {}
            IndexType::Custom(name) if name::fold(name) == "btree" => {}
            other => {
                return Err(Error::unsupported(format!("an index USING {}", other.to_string().to_lowercase()))
                    .hint("Indexes are ordered: use btree."));
            }
        }
    }
    if statement.predicate.is_some() {
        return Err(Error::unsupported("a partial index (WHERE)"));
    }
    if !statement.include.is_empty() {
        return Err(Error::unsupported("INCLUDE in an index").hint("Add the columns to the key, or leave them out."));
    }
    if statement.nulls_distinct == Some(false) {
        return Err(Error::unsupported("NULLS NOT DISTINCT"));
    }
    if !statement.alter_options.is_empty() {
        return Err(Error::new(Condition::SyntaxError, "unknown options of CREATE INDEX"));
    }
    let mut fillfactor = None;
    for option in &statement.with {
        match option {
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right }
                if left.to_string().eq_ignore_ascii_case("fillfactor") =>
            {
                fillfactor = Some(spec::fillfactor(right)?);
            }
            Expr::BinaryOp { left, .. } => return Err(spec::unrecognized(&left.to_string())),
            other => return Err(spec::unrecognized(&other.to_string())),
        }
    }
    Ok(fillfactor)
}

fn key_columns(table: &Table, written: &[IndexColumn]) -> Result<Vec<(ColumnId, Direction)>> {
    if written.len() > MAX_KEY_COLUMNS {
        return Err(Error::new(
            Condition::TooManyColumns,
            format!("cannot use more than {MAX_KEY_COLUMNS} columns in an index"),
        ));
    }
    let mut columns = Vec::with_capacity(written.len());
    for column in written {
        if let Some(class) = &column.operator_class {
            operator_class(&name::parts(class)?.1)?;
        }
        let id = key_column(table, &column.column.expr)?;
        let options = &column.column.options;
        columns.push((id, direction(options.asc, options.nulls_first)?));
    }
    Ok(columns)
}

fn key_column(table: &Table, expr: &Expr) -> Result<ColumnId> {
    match expr {
        Expr::Identifier(ident) => {
            let name = name::fold(ident);
            let column = table
                .column(&name)
                .ok_or_else(|| Error::new(Condition::UndefinedColumn, format!("column \"{name}\" does not exist")))?;
            ordered(column)?;
            Ok(column.id)
        }
        Expr::Nested(inner) if matches!(**inner, Expr::Identifier(_)) => key_column(table, inner),
        Expr::Collate { expr, collation } => {
            spec::check_collation(collation)?;
            key_column(table, expr)
        }
        other => Err(Error::unsupported(format!("an index on the expression {other}"))
            .hint("Keep the value in a column of its own and index that.")),
    }
}

/// Keys sort by their bytes, so the pattern classes mean what the plain ones do.
fn operator_class(class: &str) -> Result<()> {
    let kind = class.strip_suffix("_pattern_ops").or_else(|| class.strip_suffix("_ops")).unwrap_or_default();
    match kind {
        "int2" | "int4" | "int8" | "text" | "varchar" | "bpchar" | "name" | "numeric" | "date" | "timestamp"
        | "timestamptz" | "time" | "uuid" | "bool" | "bytea" | "float4" | "float8" | "oid" => Ok(()),
        _ => Err(Error::unsupported(format!("the operator class \"{class}\""))),
    }
}

fn direction(asc: Option<bool>, nulls_first: Option<bool>) -> Result<Direction> {
    match (asc.unwrap_or(true), nulls_first) {
        (true, None | Some(false)) => Ok(Direction::Ascending),
        (false, None | Some(true)) => Ok(Direction::Descending),
        (true, Some(true)) => Err(Error::unsupported("ASC NULLS FIRST in an index")
            .hint("NULLs are last in ascending and first in descending keys.")),
        (false, Some(false)) => Err(Error::unsupported("DESC NULLS LAST in an index")
            .hint("NULLs are last in ascending and first in descending keys.")),
    }
}
