//! Expressions in definitions: what they may hold, and how they are kept.
//!
//! They are kept as text in which columns stand bare, so that renaming the table
//! does not touch them.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Value, visit_expressions,
    visit_expressions_mut,
};
use polity_base::{Type, Value as Constant};

use super::dialect;
use crate::catalog::{Catalog, Column, Table, name};
use crate::error::{Condition, Error, Result};
use crate::query::{PlanInput, RunEnv, Scalar};
use crate::session::Context;

/// Reads an expression that is kept as text.
pub fn parse(text: &str) -> Result<Expr> {
    let parsed = dialect::read_text(text, |parser| parser.parse_expr());
    parsed.map_err(|e| Error::internal(format!("the expression {text} cannot be read: {e}")))
}

/// The names of the columns an expression uses.
pub(crate) fn columns(expr: &Expr) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let _ = visit_expressions(expr, |e| {
        match e {
            Expr::Identifier(ident) => {
                names.insert(name::fold(ident));
            }
            Expr::CompoundIdentifier(parts) => names.extend(parts.last().map(name::fold)),
            _ => {}
        }
        ControlFlow::<()>::Continue(())
    });
    names
}

/// Whether an expression holds a query.
fn has_query(expr: &Expr) -> bool {
    let found = visit_expressions(expr, |e| match e {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// The condition of a CHECK as it is kept: columns stand bare.
pub(super) fn check(ctx: &Context<'_>, table: &Table, mut expr: Expr) -> Result<String> {
    if has_query(&expr) {
        return Err(Error::new(Condition::FeatureNotSupported, "cannot use subquery in check constraint"));
    }
    let mut foreign = None;
    let _ = visit_expressions_mut(&mut expr, |e| {
        if let Expr::CompoundIdentifier(parts) = e {
            let qualifier = parts.len().checked_sub(2).and_then(|i| parts.get(i)).map(name::fold);
            match parts.last().cloned() {
                Some(last) if qualifier.as_deref() == Some(table.name.as_str()) => *e = Expr::Identifier(last),
                _ => foreign = qualifier,
            }
        }
        ControlFlow::<()>::Continue(())
    });
    if let Some(other) = foreign {
        return Err(missing_from(&other));
    }
    for column in columns(&expr) {
        if table.column(&column).is_none() {
            return Err(Error::new(Condition::UndefinedColumn, format!("column \"{column}\" does not exist")));
        }
    }
    compile_check(ctx, table, &expr)?;
    Ok(bare(&expr).to_string())
}

/// Without parentheses around the whole: where it is shown it gets some.
fn bare(mut expr: &Expr) -> &Expr {
    while let Expr::Nested(inner) = expr {
        expr = inner;
    }
    expr
}

fn missing_from(table: &str) -> Error {
    Error::new(Condition::UndefinedTable, format!("missing FROM-clause entry for table \"{table}\""))
}

/// A CHECK's condition, ready to be evaluated over user rows of `table`.
pub(super) fn compile_check(ctx: &Context<'_>, table: &Table, expr: &Expr) -> Result<Scalar> {
    Scalar::compile(&PlanInput::of(ctx), &row_columns(table), expr, Some(&Type::Bool), &[])
}

/// Names and types of a user row.
pub(super) fn row_columns(table: &Table) -> Vec<(String, Type)> {
    table.columns.iter().map(|c| (c.name.clone(), c.r#type.clone())).collect()
}

/// A DEFAULT as it is kept.
pub(super) fn default(ctx: &Context<'_>, column: &str, r#type: &Type, expr: &Expr) -> Result<String> {
    let expr = bare(expr);
    // What PostgreSQL shows of a string that is the default of a character(n).
    let expr = match (r#type, expr) {
        (Type::Char(_), Expr::Cast { expr: constant, data_type: DataType::Custom(name, _), .. })
            if name.to_string().eq_ignore_ascii_case("bpchar") && matches!(**constant, Expr::Value(_)) =>
        {
            constant
        }
        _ => expr,
    };
    if has_query(expr) {
        return Err(Error::new(Condition::FeatureNotSupported, "cannot use subquery in DEFAULT expression"));
    }
    if !columns(expr).is_empty() {
        return Err(Error::new(Condition::FeatureNotSupported, "cannot use column reference in DEFAULT expression"));
    }
    if let Some(sequence) = nextval_of(expr) {
        let sequence = sequence_named(ctx.catalog, &sequence)?;
        if !r#type.is_number() {
            return Err(Error::new(
                Condition::DatatypeMismatch,
                format!("column \"{column}\" is of type {type} but default expression is of type bigint"),
            )
            .hint("You will need to rewrite or cast the expression."));
        }
        return Ok(nextval(&sequence.name));
    }
    Scalar::compile(&PlanInput::of(ctx), &[], expr, Some(r#type), &[])?;
    Ok(expr.to_string())
}

/// Whether evaluating the expression twice in one statement may give two values.
pub(super) fn is_volatile(expr: &Expr) -> bool {
    const VOLATILE: [&str; 9] = [
        "nextval",
        "random",
        "gen_random_uuid",
        "uuid_generate_v4",
        "clock_timestamp",
        "timeofday",
        "setval",
        "uuid",
        "pg_backend_pid",
    ];
    let found = visit_expressions(expr, |e| match e {
        Expr::Function(f) if VOLATILE.contains(&function_name(f).as_str()) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// The value of a column's default, for rows that are there already.
pub(super) async fn default_value(ctx: &Context<'_>, column: &Column, expr: &Expr) -> Result<Constant> {
    let mut values = default_values(ctx, column, expr, 1).await?;
    values.pop().ok_or_else(|| Error::internal("a default gave no value"))
}

/// As many values of a column's default.
pub(super) async fn default_values(ctx: &Context<'_>, column: &Column, expr: &Expr, n: usize) -> Result<Vec<Constant>> {
    let values: Vec<Constant> = match nextval_of(expr) {
        Some(sequence) => {
            let sequence = sequence_named(ctx.catalog, &sequence)?;
            let numbers = ctx.engine.sequences().next_many(sequence, n).await?;
            let column_type = &column.r#type;
            let assign = |v| crate::expr::cast::assign(Constant::Int8(v), &Type::Int8, column_type, &column.name);
            numbers.into_iter().map(assign).collect::<Result<_>>()?
        }
        None => {
            let scalar = Scalar::compile(&PlanInput::of(ctx), &[], expr, Some(&column.r#type), &[])?;
            scalar.eval(&vec![Vec::new(); n], &[], &RunEnv::of(ctx))?
        }
    };
    Ok(values)
}

fn function_name(f: &Function) -> String {
    f.name.0.last().and_then(|p| p.as_ident()).map(name::fold).unwrap_or_default()
}

/// The text that names the sequence of `nextval('…')`, when that is all the
/// expression is (casts aside).
pub fn nextval_of(expr: &Expr) -> Option<String> {
    let Expr::Function(f) = expr else { return None };
    if function_name(f) != "nextval" {
        return None;
    }
    let FunctionArguments::List(list) = &f.args else { return None };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))] = list.args.as_slice() else { return None };
    text_of(argument)
}

fn text_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(v) => match &v.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        Expr::Cast { expr, .. } | Expr::Nested(expr) => text_of(expr),
        _ => None,
    }
}

/// The sequence that a text names, as `nextval('…')` does.
pub fn sequence_named<'c>(catalog: &'c Catalog, text: &str) -> Result<&'c std::sync::Arc<crate::catalog::Sequence>> {
    let name = name::of_text(text)?;
    let id = catalog.names.get(&name).ok_or_else(|| super::lock::no_relation(&name))?;
    catalog
        .sequences
        .get(id)
        .ok_or_else(|| Error::new(Condition::WrongObjectType, format!("\"{name}\" is not a sequence")))
}

/// The default of a column that `sequence` numbers.
pub(super) fn nextval(sequence: &str) -> String {
    format!("nextval({}::regclass)", name::literal(&name::quote(sequence)))
}

/// Whether a default draws from the sequence of this name.
pub fn draws_from(default: &str, sequence: &str) -> bool {
    mentions(default, |expr| nextval_of(expr).is_some_and(|text| name::of_text(&text).is_ok_and(|n| n == sequence)))
}

fn mentions(text: &str, wanted: impl Fn(&Expr) -> bool) -> bool {
    let Ok(expr) = parse(text) else { return false };
    let found =
        visit_expressions(&expr, |e| if wanted(e) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
    found.is_break()
}

/// A default with a sequence's new name in place of the old.
pub(super) fn rename_sequence(default: &str, old: &str, new: &str) -> Result<String> {
    let mut expr = parse(default)?;
    let _ = visit_expressions_mut(&mut expr, |e| {
        if nextval_of(e).is_some_and(|text| name::of_text(&text).is_ok_and(|n| n == old))
            && let Ok(renamed) = parse(&nextval(new))
        {
            *e = renamed;
        }
        ControlFlow::<()>::Continue(())
    });
    Ok(expr.to_string())
}

/// A condition with a column's new name in place of the old.
pub(super) fn rename_column(text: &str, old: &str, new: &str) -> Result<String> {
    let mut expr = parse(text)?;
    let _ = visit_expressions_mut(&mut expr, |e| {
        if let Expr::Identifier(ident) = e
            && name::fold(ident) == old
        {
            *ident = written(new);
        }
        ControlFlow::<()>::Continue(())
    });
    Ok(expr.to_string())
}

/// A name as an identifier that is quoted where it must be.
pub(super) fn written(name: &str) -> Ident {
    if name::quote(name) == name { Ident::new(name) } else { Ident::with_quote('"', name) }
}
