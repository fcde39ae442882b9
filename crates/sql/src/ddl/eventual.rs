//! Definitions of eventual tables: what merging can keep, and what it cannot.
//!
//! Replicas write without asking each other, so a condition can be kept only if
//! whatever they write apart keeps it together. A condition on one plain column can:
//! one of the written values stands, and each was checked. A bound of a counter can, by
//! escrow. What compares rows, or columns that are written apart, cannot.

use datafusion::sql::sqlparser::ast::{
    AlterColumnOperation, AlterTableOperation, BinaryOperator, Expr, UnaryOperator, Value as Literal,
};
use polity_base::{Bounds, ColumnId, Guarantee};

use super::draft::Draft;
use super::spec::TableOptions;
use super::{byzantine, expression};
use crate::catalog::{Column, Merge, Table, name};
use crate::error::{Condition, Error, Result};
use crate::session::Context;

/// The default of a column whose writes merge.
pub(super) fn beginning(merge: Merge) -> Option<Expr> {
    let literal = match merge {
        Merge::Register => return None,
        Merge::Counter(_) => Literal::Number("0".to_owned(), false),
        Merge::Set => Literal::SingleQuotedString("{}".to_owned()),
    };
    Some(Expr::Value(literal.into()))
}

/// The guarantee that options name, or the session's.
fn guarantee(ctx: &Context<'_>, options: TableOptions) -> Guarantee {
    let default = || match ctx.settings.guarantee() {
        "eventual" => Guarantee::Eventual,
        "byzantine" => Guarantee::Byzantine,
        _ => Guarantee::Strong,
    };
    options.guarantee.unwrap_or_else(default)
}

/// Refuses other guarantees than strong for `what`.
pub(super) fn only_strong(ctx: &Context<'_>, options: TableOptions, what: &str) -> Result<()> {
    match (guarantee(ctx, options), options.replicas) {
        (Guarantee::Strong, None) => Ok(()),
        (Guarantee::Strong, Some(_)) => Err(ack_of_strong()),
        (other, _) => Err(Error::unsupported(format!("{what} with guarantee = '{}'", other.name()))
            .hint("Create the table by its columns, then INSERT.")),
    }
}

fn ack_of_strong() -> Error {
    Error::new(Condition::InvalidParameterValue, "parameter \"ack\" is for eventual tables")
        .detail(
            "A write to a strong table is acknowledged once a majority of the voting replicas keeps it, one to a \
                 byzantine table once more than two thirds of the power have signed it.",
        )
        .hint("Leave it out, or add guarantee = 'eventual'.")
}

/// Gives a new table the guarantee it asks for, or says why it cannot have it.
pub(super) async fn settle(ctx: &mut Context<'_>, draft: &mut Draft, options: TableOptions) -> Result<()> {
    let guarantee = guarantee(ctx, options);
    if guarantee != Guarantee::Eventual && options.replicas.is_some() {
        return Err(ack_of_strong());
    }
    if guarantee == Guarantee::Byzantine {
        return byzantine::settle(ctx, draft).await;
    }
    let table = &mut draft.table;
    if guarantee == Guarantee::Strong {
        byzantine::references(ctx.catalog, table, guarantee)?;
        return match table.columns.iter().find(|c| c.merge != Merge::Register) {
            None => Ok(()),
            Some(column) => Err(needs_eventual(column)),
        };
    }
    if ctx.engine.database().directory().eventual().is_none() {
        return Err(
            Error::unsupported("an eventual table on this node").detail("It keeps no replica of eventual tables.")
        );
    }
    if !draft.sequences.is_empty() || table.columns.iter().any(|c| c.default.as_deref().is_some_and(draws)) {
        return Err(numbered());
    }
    if table.has_hidden_key() {
        return Err(cannot("a table without a primary key", "Replicas know a row by its primary key.")
            .hint("Add a PRIMARY KEY; a uuid with DEFAULT gen_random_uuid() needs no coordination."));
    }
    for id in &table.primary.columns {
        if let Some(column) = table.column_by_id(*id).filter(|c| c.merge != Merge::Register) {
            return Err(cannot(
                &format!("column \"{}\" in the primary key", column.name),
                "What merges is no name of a row.",
            ));
        }
    }
    if let Some(index) = table.indexes.iter().find(|i| i.unique) {
        return Err(unique(&index.name));
    }
    if !table.foreign_keys.is_empty() {
        return Err(foreign_key());
    }
    checks(table)?;
    table.guarantee = guarantee;
    table.replicas = options.replicas.unwrap_or(1);
    table.primary.storage = guarantee.storage(table.primary.storage.0);
    for index in &mut table.indexes {
        index.storage = guarantee.storage(index.storage.0);
    }
    Ok(())
}

/// Refuses a foreign key towards a table that cannot have one.
pub(super) fn not_towards(parent: &Table) -> Result<()> {
    if parent.guarantee == Guarantee::Eventual { Err(foreign_key()) } else { Ok(()) }
}

/// Refuses a sequence for a column of a table that cannot have one.
pub(super) fn may_number(table: &Table) -> Result<()> {
    if table.guarantee == Guarantee::Strong { Ok(()) } else { Err(numbered()) }
}

/// Refuses changes of a table that replicas cannot make each at its own time, while
/// others still write what the table was before.
pub(super) fn may_alter(table: &Table, operation: &AlterTableOperation) -> Result<()> {
    use AlterTableOperation as Op;
    match table.guarantee {
        Guarantee::Strong => return Ok(()),
        Guarantee::Byzantine => return byzantine::may_alter(table, operation),
        Guarantee::Eventual => {}
    }
    match operation {
        Op::DropColumn { column_names, .. } => {
            let dropped = |id: &ColumnId| {
                table.column_by_id(*id).is_some_and(|c| column_names.iter().any(|n| name::fold(n) == c.name))
            };
            match table.primary.columns.iter().any(dropped) {
                true => strong_only(table, "dropping a column of the primary key"),
                false => Ok(()),
            }
        }
        Op::AlterColumn { op: AlterColumnOperation::SetNotNull, .. } => strong_only(table, "SET NOT NULL"),
        Op::AlterColumn { op: AlterColumnOperation::SetDataType { .. }, .. } => {
            strong_only(table, "a change of a column's type")
        }
        Op::AlterColumn { op: AlterColumnOperation::SetDefault { value }, .. } if draws(&value.to_string()) => {
            Err(numbered())
        }
        Op::AlterColumn { op: AlterColumnOperation::DropNotNull, column_name } => {
            match table.column(&name::fold(column_name)) {
                Some(column) if column.merge != Merge::Register => {
                    Err(cannot(&format!("NULL in column \"{}\"", column.name), "Counters and sets begin with nothing."))
                }
                _ => Ok(()),
            }
        }
        Op::AddConstraint { .. } => strong_only(table, "ADD CONSTRAINT"),
        Op::DropConstraint { .. } => strong_only(table, "DROP CONSTRAINT"),
        _ => Ok(()),
    }
}

/// A new column of a table that is there.
pub(super) fn added_column(table: &Table, column: &Column) -> Result<()> {
    match table.guarantee {
        Guarantee::Strong | Guarantee::Byzantine if column.merge != Merge::Register => Err(needs_eventual(column)),
        Guarantee::Strong => Ok(()),
        _ if column.default.as_deref().is_some_and(draws) => Err(numbered()),
        _ => Ok(()),
    }
}

/// Refuses `what` of a table that is not strong.
pub(super) fn strong_only(table: &Table, what: &str) -> Result<()> {
    match table.guarantee {
        Guarantee::Strong => Ok(()),
        Guarantee::Byzantine => Err(byzantine::stays(table, what)),
        other => Err(Error::unsupported(format!("{what} of {} table \"{}\"", other.name(), table.name))
            .detail("Replicas that cannot be reached go on writing what the table was before.")
            .table(&table.name)),
    }
}

/// The error for a unique index.
pub(super) fn unique(name: &str) -> Error {
    cannot(
        &format!("unique constraint \"{name}\""),
        "Two replicas can write equal values without knowing of each other.",
    )
    .hint("Make the value the primary key, so that equal rows merge into one, or keep it in a strong table.")
}

fn foreign_key() -> Error {
    cannot("a FOREIGN KEY", "A replica can delete a row while another writes a reference to it.")
        .hint("Keep both tables strong, or keep the value without the constraint.")
}

fn numbered() -> Error {
    cannot("a column numbered by a sequence", "A sequence is kept where a majority is.")
        .hint("Use a uuid column with DEFAULT gen_random_uuid(), which every replica can draw alone.")
}

fn cannot(what: &str, why: &str) -> Error {
    Error::new(Condition::FeatureNotSupported, format!("an eventual table cannot have {what}")).detail(why)
}

fn needs_eventual(column: &Column) -> Error {
    let kind = if column.merge == Merge::Set { "set_of" } else { "counter" };
    Error::new(
        Condition::InvalidTableDefinition,
        format!("column \"{}\" of type {kind} in a strong table", column.name),
    )
    .detail("It says how concurrent writes merge; in a strong table there are none.")
    .hint("Use bigint or a table of elements, or create the table WITH (guarantee = 'eventual').")
    .column(&column.name)
}

fn draws(default: &str) -> bool {
    default.to_ascii_lowercase().contains("nextval(")
}

/// Takes the bounds of counters from the conditions on them, and refuses conditions
/// that merging could break.
fn checks(table: &mut Table) -> Result<()> {
    let mut bounds: Vec<(ColumnId, Bounds)> = Vec::new();
    for check in &table.checks {
        let condition = expression::parse(&check.expression)?;
        let used = expression::columns(&condition);
        let used: Vec<String> = used.into_iter().collect();
        let [column] = used.as_slice() else {
            return Err(cannot(
                &format!("constraint \"{}\" over several columns", check.name),
                "Replicas can write them apart, so that what merges does not satisfy it.",
            )
            .hint("A CHECK of an eventual table is about one column."));
        };
        let Some(column) = table.column(column) else { continue };
        match column.merge {
            Merge::Register => {}
            Merge::Set => {
                return Err(cannot(
                    &format!("constraint \"{}\" on a set", check.name),
                    "Replicas put elements in and take them out apart.",
                ));
            }
            Merge::Counter(_) => {
                let found = bounds_of(&condition, &column.name).ok_or_else(|| {
                    cannot(
                        &format!("constraint \"{}\" on a counter", check.name),
                        "Bounds are what replicas can keep without asking each other.",
                    )
                    .hint(format!("Write \"{0}\" >= n, \"{0}\" <= n, or \"{0}\" BETWEEN n AND m.", column.name))
                })?;
                bounds.push((column.id, found));
            }
        }
    }
    for (id, found) in bounds {
        let Some(column) = table.columns.iter_mut().find(|c| c.id == id) else { continue };
        if let Merge::Counter(known) = &mut column.merge {
            *known = both(*known, found);
            if let Bounds { lower: Some(lower), upper: Some(upper) } = *known
                && lower > upper
            {
                return Err(Error::new(
                    Condition::InvalidTableDefinition,
                    format!("no number satisfies the bounds of counter \"{}\"", column.name),
                ));
            }
        }
    }
    Ok(())
}

fn both(a: Bounds, b: Bounds) -> Bounds {
    let upper = match (a.upper, b.upper) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Bounds { lower: a.lower.max(b.lower), upper }
}

/// The bounds that a condition on `column` says, if it says nothing else.
fn bounds_of(condition: &Expr, column: &str) -> Option<Bounds> {
    let is_column = |e: &Expr| matches!(unnested(e), Expr::Identifier(word) if name::fold(word) == column);
    let at_least = |n: Option<i64>| n.map(|n| Bounds { lower: Some(n), upper: None });
    let at_most = |n: Option<i64>| n.map(|n| Bounds { lower: None, upper: Some(n) });
    match unnested(condition) {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            Some(both(bounds_of(left, column)?, bounds_of(right, column)?))
        }
        Expr::Between { expr, negated: false, low, high } if is_column(expr) => {
            Some(Bounds { lower: Some(whole(low)?), upper: Some(whole(high)?) })
        }
        Expr::BinaryOp { left, op, right } => {
            let (number, op) = match (is_column(left), is_column(right)) {
                (true, false) => (whole(right)?, op.clone()),
                (false, true) => (whole(left)?, turned(op)?),
                _ => return None,
            };
            match op {
                BinaryOperator::GtEq => at_least(Some(number)),
                BinaryOperator::Gt => at_least(number.checked_add(1)),
                BinaryOperator::LtEq => at_most(Some(number)),
                BinaryOperator::Lt => at_most(number.checked_sub(1)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The operator with its sides exchanged.
fn turned(op: &BinaryOperator) -> Option<BinaryOperator> {
    Some(match op {
        BinaryOperator::GtEq => BinaryOperator::LtEq,
        BinaryOperator::Gt => BinaryOperator::Lt,
        BinaryOperator::LtEq => BinaryOperator::GtEq,
        BinaryOperator::Lt => BinaryOperator::Gt,
        _ => return None,
    })
}

fn whole(expr: &Expr) -> Option<i64> {
    match unnested(expr) {
        Expr::Value(value) => match &value.value {
            Literal::Number(text, _) => text.parse().ok(),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => whole(expr)?.checked_neg(),
        _ => None,
    }
}

fn unnested(expr: &Expr) -> &Expr {
    match expr {
        Expr::Nested(inner) => unnested(inner),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_on_counters_are_bounds() {
        let bounds = |text: &str| bounds_of(&expression::parse(text).unwrap(), "stock");
        let of = |lower, upper| Some(Bounds { lower, upper });
        assert_eq!(bounds("stock >= 0"), of(Some(0), None));
        assert_eq!(bounds("(stock > -3)"), of(Some(-2), None));
        assert_eq!(bounds("0 <= stock and stock < 10"), of(Some(0), Some(9)));
        assert_eq!(bounds("stock between 1 and 5"), of(Some(1), Some(5)));
        assert_eq!(bounds("stock not between 1 and 5"), None);
        assert_eq!(bounds("stock = 1"), None);
        assert_eq!(bounds("stock >= 0 or true"), None);
        assert_eq!(bounds("stock + 1 >= 0"), None);
        assert_eq!(bounds("stock >= 1.5"), None);
    }
}
