//! `SELECT nextval('s')` and its kin, alone.
//!
//! Clients ask for keys this way, one at a time, so a SELECT of nothing but such
//! calls on constants (and constants) is answered here without a plan. In larger
//! queries they are functions ([`crate::query::function::sequence`]).

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Query, SelectItem, SetExpr,
};
use polity_base::{TableId, Type, Value};

use super::context::Context;
use super::response::{Column, Response, RowStream, Verb};
use super::variables::{dotted, literal};
use crate::catalog::name;
use crate::ddl::sequence::{self, Calls};
use crate::error::{Condition, Error, Result};
use crate::system::functions::regclass;

/// Functions that are about sequences.
pub(super) const CALLS: [&str; 4] = ["nextval", "currval", "setval", "lastval"];

/// The items of a SELECT of calls on sequences and constants, with their labels;
/// `None` when it is anything else.
fn items(query: &Query) -> Option<Vec<(String, &Expr)>> {
    let SetExpr::Select(select) = &*query.body else { return None };
    if !select.from.is_empty() || select.selection.is_some() || query.with.is_some() {
        return None;
    }
    let mut any = false;
    let mut found = Vec::new();
    for item in &select.projection {
        let (expr, alias) = match item {
            SelectItem::UnnamedExpr(expr) => (expr, None),
            SelectItem::ExprWithAlias { expr, alias } => (expr, Some(name::fold(alias))),
            _ => return None,
        };
        let label = match expr {
            Expr::Function(call) => {
                any = true;
                arguments(call)?;
                called(call)?
            }
            other => literal(other).map(|_| "?column?")?,
        };
        found.push((alias.unwrap_or_else(|| label.to_owned()), expr));
    }
    any.then_some(found)
}

fn called(call: &Function) -> Option<&'static str> {
    let written = dotted(&call.name).to_ascii_lowercase();
    let plain = written.strip_prefix("pg_catalog.").unwrap_or(&written);
    CALLS.into_iter().find(|c| *c == plain)
}

/// The columns of such a SELECT; `None` when it is none.
pub(super) fn columns(query: &Query) -> Option<Arc<[Column]>> {
    let column = |(name, expr): (String, &Expr)| {
        let r#type = match expr {
            Expr::Function(_) => Type::Int8,
            other => match literal(other) {
                Some(Value::Int4(_)) => Type::Int4,
                Some(Value::Int8(_)) => Type::Int8,
                Some(Value::Numeric(_)) => Type::Numeric(None),
                Some(Value::Bool(_)) => Type::Bool,
                _ => Type::Text,
            },
        };
        Column { name, r#type, source: None }
    };
    Some(items(query)?.into_iter().map(column).collect())
}

/// Runs such a SELECT; `None` when it is none.
pub(super) async fn execute(context: &mut Context<'_>, query: &Query) -> Result<Option<Response>> {
    let (Some(columns), Some(items)) = (columns(query), items(query)) else { return Ok(None) };
    let mut row = Vec::with_capacity(items.len());
    for (_, expr) in items {
        row.push(match expr {
            Expr::Function(call) => Value::Int8(run(context, call).await?),
            other => literal(other).unwrap_or(Value::Null),
        });
    }
    Ok(Some(Response::Rows(RowStream::ready(columns, Verb::Select, vec![row]))))
}

async fn run(context: &mut Context<'_>, call: &Function) -> Result<i64> {
    let arguments = arguments(call).unwrap_or_default();
    if let (Some(writes @ ("nextval" | "setval")), true) = (called(call), context.txn.is_read_only()) {
        return Err(sequence::read_only(writes));
    }
    let calls = Calls::of(context);
    let id = |value: &Value| match value {
        Value::Text(text) => regclass(calls.catalog, text).map(TableId),
        _ => Err(Error::new(Condition::UndefinedFunction, "a sequence is named by text")),
    };
    match (called(call), arguments.as_slice()) {
        (Some("nextval"), [which]) => calls.next(id(which)?).await,
        (Some("currval"), [which]) => calls.current(id(which)?),
        (Some("lastval"), []) => calls.last(),
        (Some("setval"), [which, value, rest @ ..]) => {
            let (Some(value), called) = (value.as_i64(), !matches!(rest, [Value::Bool(false)])) else {
                return Err(Error::new(Condition::DatatypeMismatch, "setval takes a whole number"));
            };
            calls.set(id(which)?, value, called).await
        }
        _ => Err(Error::new(Condition::UndefinedFunction, format!("function {call} does not exist"))),
    }
}

/// The arguments, if they are constants, a cast to regclass aside.
fn arguments(call: &Function) -> Option<Vec<Value>> {
    let list = match &call.args {
        FunctionArguments::List(list) => list.args.as_slice(),
        _ => &[],
    };
    let constant = |arg: &FunctionArg| {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg else { return None };
        match expr {
            Expr::Cast { expr, .. } => literal(expr),
            expr => literal(expr),
        }
    };
    let values: Option<Vec<Value>> = list.iter().map(constant).collect();
    values.filter(|values| !values.iter().any(Value::is_null))
}
