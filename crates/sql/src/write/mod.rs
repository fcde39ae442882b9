//! INSERT, UPDATE, DELETE, COPY and the constraints they must keep.
//!
//! ```text
//! INSERT   rows: VALUES, a query, or COPY's data ─┐
//! UPDATE   a query that gives keys, old and new ──┼─▶ statement: locks, unique keys, checks,
//! DELETE   a query that gives keys and old rows ──┘   index entries ─▶ references ─▶ transaction
//! ```
//! What reads goes through the planner, as a SELECT that this module builds:
//! names, types and functions mean the same everywhere. What is written is
//! rows of values in the order of the table's columns.
//!
//! | module                | holds                                                    |
//! |-----------------------|----------------------------------------------------------|
//! | [`insert`]            | INSERT, with [`conflict`]: ON CONFLICT                   |
//! | [`update`], [`delete`]| UPDATE and DELETE                                        |
//! | [`select_for_update`] | SELECT … FOR UPDATE of more than one row by its key      |
//! | [`copy`]              | COPY in both directions                                  |
//! | [`statement`]         | one statement's writes, row by row                       |
//! | [`bulk`]              | many new rows at once                                    |
//! | [`references`]        | foreign keys                                             |
//! | [`target`]            | what hangs on a row of a table                           |
//! | [`rule`], [`defaults`]| expressions over rows; defaults of columns               |
//! | [`returning`]         | RETURNING lists                                          |
//! | [`select`]            | building the SELECTs                                     |
//! | [`violation`]         | the errors of constraints                                |
//! | [`spelling`]          | what the parser's tree has no place for                  |

pub mod bulk;
pub mod conflict;
pub mod copy;
pub mod defaults;
pub mod delete;
pub mod insert;
pub(crate) mod merging;
mod references;
pub mod returning;
pub mod rule;
pub mod select;
pub mod select_for_update;
pub mod spelling;
pub mod statement;
pub mod target;
pub mod update;
pub mod violation;

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, ObjectNamePart, Statement};
use polity_base::{Type, Value};

use crate::catalog::{Catalog, Relation, Table, name};
use crate::error::{Condition, Error, Result};
use crate::expr::operand::type_of;
use crate::expr::{Local, Parameters, cast};
use crate::session::{Context, Description};

/// What INSERT, UPDATE or DELETE needs and gives.
pub fn describe(ctx: &mut Context<'_>, statement: &Statement, declared: &[Option<Type>]) -> Result<Description> {
    let parameters = Parameters::stated(declared);
    match statement {
        Statement::Insert(insert) => insert::describe(ctx, insert, parameters),
        Statement::Update(update) => update::describe(ctx, update, parameters),
        Statement::Delete(delete) => delete::describe(ctx, delete, parameters),
        _ => Err(Error::internal("only INSERT, UPDATE and DELETE are described here")),
    }
}

/// How INSERT, UPDATE, DELETE or SELECT … FOR UPDATE is run.
pub fn explain(ctx: &mut Context<'_>, statement: &Statement) -> Result<Vec<String>> {
    Ok(match statement {
        Statement::Insert(insert) => insert::explain(ctx, insert)?,
        Statement::Update(update) => update::explain(ctx, update)?,
        Statement::Delete(delete) => delete::explain(ctx, delete)?,
        Statement::Query(_) => {
            vec!["Lock rows".to_owned(), "  ->  Rows found by the same query without its locking clause".to_owned()]
        }
        other => return Err(Error::unsupported(format!("EXPLAIN of {other}"))),
    })
}

/// The table that a statement writes to.
pub(crate) fn table_of(catalog: &Catalog, written: &ObjectName, verb: &str) -> Result<Arc<Table>> {
    let name = name::object(written)?;
    match catalog.relation(&name) {
        Some(Relation::Table(table)) => Ok(table),
        Some(Relation::View(_)) => {
            if verb == "COPY" {
                return Err(Error::new(Condition::WrongObjectType, format!("cannot copy to view \"{name}\"")));
            }
            let (what, hint) = match verb {
                "INSERT" => ("insert into", "insert into the table the view reads"),
                "UPDATE" => ("update", "update the table the view reads"),
                _ => ("delete from", "delete from the table the view reads"),
            };
            Err(Error::new(Condition::ObjectNotInPrerequisiteState, format!("cannot {what} view \"{name}\""))
                .detail("Views are read only.")
                .hint(format!("To change rows, {hint}.")))
        }
        Some(Relation::Sequence(_)) if verb == "COPY" => {
            Err(Error::new(Condition::WrongObjectType, format!("cannot copy to sequence \"{name}\"")))
        }
        Some(Relation::Sequence(_)) => {
            Err(Error::new(Condition::WrongObjectType, format!("cannot change sequence \"{name}\"")))
        }
        Some(Relation::Index(..)) => Err(Error::new(Condition::WrongObjectType, format!("\"{name}\" is an index"))),
        None => Err(Error::new(Condition::UndefinedTable, format!("relation \"{name}\" does not exist"))),
    }
}

/// The types that values say by themselves. Text may be of any type that is
/// written as text, so it says nothing.
pub(crate) fn types_of(parameters: &[Value]) -> Parameters {
    let types: Vec<Option<Type>> = parameters.iter().map(|v| type_of(v).filter(|t| *t != Type::Text)).collect();
    Parameters::stated(&types)
}

/// Parameters as values of the types that were found out: text may stand for
/// any.
pub(crate) fn conformed(ctx: &Context<'_>, given: &[Value], types: &Parameters) -> Result<Vec<Value>> {
    let local = Local::of(ctx);
    let convert = |(value, wanted): (&Value, Option<Type>)| match wanted {
        Some(to) if type_of(value).is_some_and(|from| from != to) => {
            cast::convert(value.clone(), &cast::without_modifier(&to), true, local)
        }
        _ => Ok(value.clone()),
    };
    let types = types.types().into_iter().chain(std::iter::repeat(None));
    given.iter().zip(types).map(convert).collect()
}

/// The one name that an assignment's target is made of.
pub(crate) fn target_column(table: &Table, written: &ObjectName) -> Result<usize> {
    match written.0.as_slice() {
        [ObjectNamePart::Identifier(word)] => column_place(table, word),
        [ObjectNamePart::Identifier(first), ..] => Err(no_column(table, &name::fold(first))),
        _ => Err(Error::new(Condition::SyntaxError, format!("syntax error at or near \"{written}\""))),
    }
}

/// The place of the column of this name.
pub(crate) fn column_place(table: &Table, word: &Ident) -> Result<usize> {
    let name = name::fold(word);
    table.columns.iter().position(|c| c.name == name).ok_or_else(|| no_column(table, &name))
}

fn no_column(table: &Table, column: &str) -> Error {
    Error::new(Condition::UndefinedColumn, format!("column \"{column}\" of relation \"{}\" does not exist", table.name))
}

/// Whether an expression is the word DEFAULT.
pub(crate) fn is_default(ast: &datafusion::sql::sqlparser::ast::Expr) -> bool {
    matches!(ast, datafusion::sql::sqlparser::ast::Expr::Identifier(word)
        if word.quote_style.is_none() && word.value.eq_ignore_ascii_case("default"))
}

/// The parameters' types for a description: what nothing decides is an error.
pub(crate) fn described(parameters: &Parameters) -> Result<Vec<Type>> {
    let types = parameters.types();
    types
        .into_iter()
        .enumerate()
        .map(|(at, t)| {
            t.ok_or_else(|| {
                Error::new(
                    Condition::IndeterminateDatatype,
                    format!("could not determine data type of parameter ${}", at + 1),
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests;
