//! What a statement does to a row of a table that is not replicated as bytes: its changes
//! column by column, so that those of other replicas come together with them, or so that
//! a ledger orders what was meant.

use std::borrow::Cow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr as Ast};
use polity_base::{Bounds, ColumnChange, ColumnId, Guarantee, Key, RowChange, Type, Value};

use super::target::{Target, differs};
use crate::catalog::{Column, Merge, Table, name};
use crate::error::{Condition, Error, Result};
use crate::expr::Expr;
use crate::session::Context;

/// Writes a row, or removes it.
pub(super) fn write_row(
    ctx: &mut Context<'_>,
    target: &Target,
    key: Key,
    row: Option<&[Value]>,
    change: impl FnOnce() -> RowChange,
) -> Result<()> {
    if target.table.guarantee == Guarantee::Strong {
        match row {
            Some(row) => ctx.txn.put(key, target.store(row))?,
            None => ctx.txn.delete(key)?,
        }
        return Ok(());
    }
    ctx.txn.keep_on(target.table.replicas);
    let shown = row.map(|row| target.store(&as_merged(&target.table, row)));
    Ok(ctx.txn.change(key, change(), shown)?)
}

/// A row as it shows once it was merged: elements of sets are in order, each once.
fn as_merged<'r>(table: &Table, row: &'r [Value]) -> Cow<'r, [Value]> {
    if table.columns.iter().all(|c| c.merge != Merge::Set) {
        return Cow::Borrowed(row);
    }
    let cell = |(column, value): (&Column, &Value)| match column.merge {
        Merge::Set => {
            let mut elements = elements(value);
            elements.sort_by(|a, b| a.compare(b).unwrap_or(std::cmp::Ordering::Equal));
            elements.dedup();
            Value::Array(elements)
        }
        _ => value.clone(),
    };
    table.columns.iter().zip(row).map(cell).collect()
}

/// Refuses to give a row another key, which would be to delete it and insert another,
/// if other replicas hold shares of it: what they spend meanwhile would be forgotten.
pub(super) fn may_move(table: &Table) -> Result<()> {
    let bounded = |c: &&Column| matches!(c.merge, Merge::Counter(bounds) if bounds.any());
    match table.columns.iter().find(bounded) {
        Some(column) if table.guarantee != Guarantee::Strong => {
            let name = &column.name;
            Err(Error::new(
                Condition::FeatureNotSupported,
                format!("the primary key of a row with the bounded counter \"{name}\" cannot be changed"),
            )
            .detail("Other replicas hold shares of the row under its present key, and may be spending them.")
            .hint("Insert a row under the new key, and move over by and by what is left of the counter.")
            .table(&table.name)
            .column(name))
        }
        _ => Ok(()),
    }
}

/// Whether an assignment adds to an exact number something that does not depend on the
/// row: then a ledger can do it whatever the number has become. Floating point numbers do
/// not add up alike in any order, and what a sum is rounded to depends on the sum.
pub(crate) fn adds(column: &Column, place: usize, value: &Ast, compiled: &Expr) -> bool {
    let is_exact = |t: &Type| matches!(t, Type::Int2 | Type::Int4 | Type::Int8 | Type::Numeric(_));
    let is_numeric = |t: &Type| matches!(t, Type::Numeric(_));
    let mut read = Vec::new();
    compiled.columns(&mut |at| read.push(at));
    is_exact(&column.r#type)
        && is_exact(&compiled.r#type)
        && (is_numeric(&column.r#type) || !is_numeric(&compiled.r#type))
        && read == [place]
        && is_relative(value, &column.name)
}

/// A row to whose columns at `places` was added what makes `new` of `old`; none if that
/// cannot be said by additions.
pub(crate) fn added(table: &Table, old: &[Value], new: &[Value], places: &[usize]) -> Option<RowChange> {
    let change = |place: &usize| {
        let (column, old, new) = (table.columns.get(*place)?, old.get(*place)?, new.get(*place)?);
        let change = match (old, new) {
            (Value::Numeric(old), Value::Numeric(new)) => ColumnChange::AddNumeric(new.checked_sub(*old)?),
            _ => ColumnChange::Add { amount: new.as_i64()?.wrapping_sub(old.as_i64()?), bounds: Bounds::default() },
        };
        Some((column.id, change))
    };
    places.iter().map(change).collect::<Option<_>>().map(RowChange::Update)
}

/// A new row.
pub(super) fn inserted(table: &Table, row: &[Value]) -> RowChange {
    let change = |(column, value): (&Column, &Value)| (column.id, begun(column, value));
    RowChange::Insert(table.columns.iter().zip(row).map(change).collect())
}

/// A row of which the columns at `assigned` were assigned, also if they are what they
/// were; without any, those that differ.
pub(super) fn updated(table: &Table, old: &[Value], new: &[Value], assigned: &[usize]) -> RowChange {
    let places = (0..table.columns.len()).filter(|place| match assigned {
        [] => differs(old, new, *place),
        assigned => assigned.contains(place),
    });
    let change = |place: usize| {
        let (column, old, new) = (table.columns.get(place)?, old.get(place)?, new.get(place)?);
        Some((column.id, changed(column, old, new)))
    };
    RowChange::Update(places.filter_map(change).collect::<Vec<(ColumnId, ColumnChange)>>())
}

fn begun(column: &Column, value: &Value) -> ColumnChange {
    match column.merge {
        Merge::Register => ColumnChange::Set(value.clone()),
        Merge::Counter(bounds) => ColumnChange::Add { amount: value.as_i64().unwrap_or(0), bounds },
        Merge::Set => ColumnChange::Elements { added: elements(value), removed: Vec::new() },
    }
}

fn changed(column: &Column, old: &Value, new: &Value) -> ColumnChange {
    match column.merge {
        Merge::Register => ColumnChange::Set(new.clone()),
        Merge::Counter(bounds) => {
            let (old, new) = (old.as_i64().unwrap_or(0), new.as_i64().unwrap_or(0));
            // The new value was computed from the old one, and both fit.
            ColumnChange::Add { amount: new.wrapping_sub(old), bounds }
        }
        Merge::Set => {
            let (old, new) = (elements(old), elements(new));
            let lacks = |set: &[Value], value: &Value| !set.iter().any(|v| v.compare(value).is_some_and(|o| o.is_eq()));
            let added = new.iter().filter(|value| lacks(&old, value)).cloned().collect();
            let removed = old.iter().filter(|value| lacks(&new, value)).cloned().collect();
            ColumnChange::Elements { added, removed }
        }
    }
}

/// The elements of a set: NULL is none.
fn elements(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(elements) => elements.iter().filter(|v| !v.is_null()).cloned().collect(),
        _ => Vec::new(),
    }
}

/// Refuses an assignment that does not say by how much a counter changes. `None` is
/// DEFAULT.
pub(super) fn check_assignment(column: &Column, value: Option<&Ast>) -> Result<()> {
    if !matches!(column.merge, Merge::Counter(_)) || value.is_some_and(|v| is_relative(v, &column.name)) {
        return Ok(());
    }
    let name = name::quote(&column.name);
    Err(Error::new(Condition::FeatureNotSupported, format!("counter \"{}\" cannot be assigned a value", column.name))
        .detail("Other replicas may be changing it too; what a counter is told is by how much it changes.")
        .hint(format!("Write SET {name} = {name} + n, or SET {name} = {name} - n."))
        .column(&column.name))
}

fn is_relative(value: &Ast, column: &str) -> bool {
    let is_column = |e: &Ast| match unnested(e) {
        Ast::Identifier(word) => name::fold(word) == column,
        Ast::CompoundIdentifier(words) => {
            let folded: Vec<String> = words.iter().map(name::fold).collect();
            matches!(folded.as_slice(), [of, last] if last == column && of != "excluded")
        }
        _ => false,
    };
    match unnested(value) {
        Ast::BinaryOp { left, op: BinaryOperator::Plus, right } => is_column(left) || is_column(right),
        Ast::BinaryOp { left, op: BinaryOperator::Minus, .. } => is_column(left),
        _ => false,
    }
}

fn unnested(expr: &Ast) -> &Ast {
    match expr {
        Ast::Nested(inner) => unnested(inner),
        other => other,
    }
}

/// The error for a transaction that wrote tables of another guarantee.
pub(super) fn check_guarantee(ctx: &Context<'_>, table: &Table) -> Result<()> {
    let Some(earlier) = ctx.txn.guarantee().filter(|earlier| *earlier != table.guarantee) else { return Ok(()) };
    let now = table.guarantee.name();
    let has_defined = !ctx.cacheable;
    let wrote =
        if has_defined { "changed definitions".to_owned() } else { format!("written {} tables", earlier.name()) };
    let error = Error::new(
        Condition::MixedGuarantees,
        format!("table \"{}\" is {now}, and the transaction has {wrote}", table.name),
    )
    .table(&table.name);
    Err(match has_defined {
        true => error
            .detail("Definitions are kept where strong tables are, and one transaction writes one guarantee.")
            .hint(format!("Commit before writing \"{}\".", table.name)),
        false => error
            .detail("One transaction writes tables of one guarantee: what is agreed in two ways cannot be atomic.")
            .hint(format!(
                "Commit before writing \"{}\". If the two writes belong together, write the strong one first, and \
                 the other once it is committed, so that it can be repeated.",
                table.name
            )),
    })
}
