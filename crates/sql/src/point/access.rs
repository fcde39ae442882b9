//! How the one row is found: the primary key or a unique index, all of whose
//! columns a condition sets equal to something that does not depend on the row.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr as Ast};
use polity_base::key::{Direction, KeyBuilder};
use polity_base::{IndexId, Key, Type};
use polity_txn::View;

use super::arguments::Uses;
use crate::catalog::{Catalog, Table, rows};
use crate::error::{Error, Result};
use crate::expr::operand::bare_parameter;
use crate::expr::{self, Env, Expr, Parameters, Scope, cast};

/// How the row is found.
pub struct Access {
    /// The name of the index, for people
    pub name: String,
    storage: IndexId,
    /// Entries hold the row's key instead of the row
    is_secondary: bool,
    parts: Vec<Part>,
    /// What else must hold of the row
    pub filter: Option<Expr>,
    /// The condition as it was written, for people
    pub condition: String,
}

struct Part {
    value: Expr,
    column: Type,
    direction: Direction,
}

/// Where a row may be.
pub enum Place {
    /// Nowhere: no row can equal the values
    Nowhere,
    /// At this key of the table
    Row(Key),
    /// Where this entry of a unique index says
    Entry(Key),
}

impl Access {
    /// The access that `condition` allows to rows of `table`.
    pub fn of(
        catalog: &Catalog,
        table: &Table,
        qualifier: &str,
        condition: &Ast,
        parameters: &mut Parameters,
        uses: &mut Uses,
    ) -> Option<Access> {
        let mut terms = Vec::new();
        conjuncts(condition, &mut terms);
        let primary = table.primary.columns.iter().map(|id| (*id, Direction::Ascending)).collect::<Vec<_>>();
        let name = table.primary.name.as_deref().unwrap_or_default();
        let candidates = std::iter::once((name, table.primary.storage, false, primary)).chain(
            table.indexes.iter().filter(|i| i.unique).map(|i| (i.name.as_str(), i.storage, true, i.columns.clone())),
        );
        for (name, storage, is_secondary, columns) in candidates {
            if columns.is_empty() {
                continue;
            }
            let before = parameters.clone();
            let mut used = Vec::new();
            let mut keys = Vec::new();
            let mut parts = Vec::with_capacity(columns.len());
            for (id, direction) in &columns {
                let column = rows::position(table, *id).ok()?;
                let part = terms.iter().enumerate().filter(|(at, _)| !used.contains(at)).find_map(|(at, term)| {
                    let (value, key) = equal_to(term, catalog, table, qualifier, column, parameters)?;
                    Some((at, value, key))
                });
                let Some((at, value, key)) = part else { break };
                used.push(at);
                keys.extend(key);
                parts.push(Part { value, column: table.columns[column].r#type.clone(), direction: *direction });
            }
            if parts.len() < columns.len() {
                *parameters = before;
                continue;
            }
            uses.keys.extend(keys);
            let rest: Vec<&Ast> =
                terms.iter().enumerate().filter(|(at, _)| !used.contains(at)).map(|(_, term)| *term).collect();
            let filter = match rest.as_slice() {
                [] => None,
                rest => Some(all(rest, catalog, table, qualifier, parameters)?),
            };
            return Some(Access {
                name: name.to_owned(),
                storage,
                is_secondary,
                parts,
                filter,
                condition: condition.to_string(),
            });
        }
        None
    }

    /// Whether the primary key alone says which row it is.
    pub fn is_plain(&self) -> bool {
        !self.is_secondary && self.filter.is_none()
    }

    /// Where the row is, for these parameters.
    pub fn place(&self, env: &Env<'_>) -> Result<Place> {
        let mut key = KeyBuilder::new(self.storage);
        for part in &self.parts {
            let value = match part.value.as_parameter().and_then(|at| env.parameters.get(at)) {
                Some(value) => cast::key_value(value, &part.column),
                None => cast::key_value(&part.value.eval(env)?, &part.column),
            };
            match value {
                Some(value) if !value.is_null() => {
                    key.push_directed(&value, part.direction).map_err(Error::internal)?
                }
                _ => return Ok(Place::Nowhere),
            }
        }
        let key = key.finish();
        Ok(if self.is_secondary { Place::Entry(key) } else { Place::Row(key) })
    }

    /// The key of the row, if there is a row as far as the index knows.
    pub fn key(&self, place: Place, view: &View) -> Result<Option<Key>> {
        match place {
            Place::Nowhere => Ok(None),
            Place::Row(key) => Ok(Some(key)),
            Place::Entry(entry) => Ok(view.get(&entry)?.map(Key)),
        }
    }
}

/// The terms that are joined by AND.
fn conjuncts<'a>(condition: &'a Ast, terms: &mut Vec<&'a Ast>) {
    match condition {
        Ast::BinaryOp { left, op: BinaryOperator::And, right } => {
            conjuncts(left, terms);
            conjuncts(right, terms);
        }
        Ast::Nested(inner) => conjuncts(inner, terms),
        other => terms.push(other),
    }
}

/// All of the terms as one condition.
fn all(terms: &[&Ast], catalog: &Catalog, table: &Table, qualifier: &str, parameters: &mut Parameters) -> Option<Expr> {
    let joined = terms.iter().map(|t| (*t).clone()).reduce(|a, b| Ast::BinaryOp {
        left: Box::new(a),
        op: BinaryOperator::And,
        right: Box::new(b),
    })?;
    let mut scope = Scope::new(catalog, parameters).with_table(table, qualifier);
    let expr = expr::compile(&joined, &mut scope)?;
    (expr.r#type == Type::Bool && expr.sequences.is_empty()).then_some(expr)
}

/// What `term` sets the column at `place` equal to; and the parameter, if it is
/// one whose type was not stated.
fn equal_to(
    term: &Ast,
    catalog: &Catalog,
    table: &Table,
    qualifier: &str,
    place: usize,
    parameters: &mut Parameters,
) -> Option<(Expr, Option<usize>)> {
    let Ast::BinaryOp { left, op: BinaryOperator::Eq, right } = term else { return None };
    let column = &table.columns[place];
    for (side, other) in [(left, right), (right, left)] {
        let mut unused = Parameters::default();
        let scope = Scope::new(catalog, &mut unused).with_table(table, qualifier);
        let named = match side.as_ref() {
            Ast::Identifier(word) => scope.column(std::slice::from_ref(word)),
            Ast::CompoundIdentifier(words) => scope.column(words),
            _ => None,
        };
        if named.is_none_or(|(at, _)| at != place) {
            continue;
        }
        let bare = bare_parameter(other).filter(|at| parameters.r#type(*at).is_none());
        // Without columns in scope, what depends on the row does not compile.
        let mut scope = Scope::new(catalog, parameters);
        let value = expr::compile_as(other, &column.r#type, &mut scope)?;
        let comparable =
            cast::is_key_comparable(&cast::without_modifier(&column.r#type), &cast::without_modifier(&value.r#type));
        if comparable && value.sequences.is_empty() {
            return Some((value, bare));
        }
    }
    None
}
