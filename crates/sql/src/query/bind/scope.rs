//! What names mean at some place in a statement.
//!
//! A [`Scope`] is the columns FROM provides. A [`Level`] is a SELECT that is
//! being bound: its scope, the levels around it, and what its expressions have
//! asked for (aggregates, windows, sets).

use std::cell::RefCell;
use std::rc::Rc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::Column;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast;
use polity_base::{TableId, Type};
use std::sync::Arc;

use super::bound::{Bound, Form, Names};
use crate::catalog::name::fold;
use crate::error::{Condition, Error, Result};

/// A column that FROM provides.
#[derive(Clone, Debug)]
pub struct ScopeColumn {
    /// The relation it belongs to, as the statement calls it; `None` for the
    /// merged columns of JOIN USING
    pub relation: Option<String>,
    /// Its name
    pub name: String,
    /// Its column in the plan
    pub column: Column,
    /// Its SQL type
    pub r#type: Type,
    /// Its Arrow type
    pub data: DataType,
    /// What its numbers name
    pub names: Names,
    /// The table column it is: object identifier and attribute number
    pub source: Option<(u32, i16)>,
    /// Not part of `*`
    pub hidden: bool,
    /// Stands for itself only when qualified (merged by USING)
    pub merged: bool,
}

/// A relation of FROM.
#[derive(Clone, Debug)]
pub struct ScopeRelation {
    /// What the statement calls it
    pub name: String,
    /// Its name in the plan
    pub alias: String,
    /// The table, and its primary key columns' names
    pub table: Option<(TableId, Vec<String>)>,
}

/// The columns FROM provides.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// The columns, in the order of `*`
    pub columns: Vec<ScopeColumn>,
    /// The relations
    pub relations: Vec<ScopeRelation>,
}

/// A column a query gives.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its label
    pub label: String,
    /// Its column in the plan
    pub column: Column,
    /// Its SQL type; `Unknown` for literals nothing has given a type yet
    pub r#type: Type,
    /// Its Arrow type
    pub data: DataType,
    /// What its numbers name
    pub names: Names,
    /// The table column it is
    pub source: Option<(u32, i16)>,
    /// The parameter it is, when its type is open
    pub parameter: Option<usize>,
}

/// A query of WITH.
pub struct Cte {
    /// Its name
    pub name: String,
    /// Its plan
    pub plan: LogicalPlan,
    /// Its columns
    pub outputs: Vec<Output>,
}

/// The queries of WITH that can be named, innermost first.
#[derive(Clone)]
pub struct Ctes {
    /// One
    pub cte: Rc<Cte>,
    /// The others
    pub rest: Option<Rc<Ctes>>,
}

impl Ctes {
    /// The query of this name.
    pub fn find(ctes: Option<&Ctes>, name: &str) -> Option<Rc<Cte>> {
        let mut at = ctes;
        while let Some(c) = at {
            if c.cte.name == name {
                return Some(c.cte.clone());
            }
            at = c.rest.as_deref();
        }
        None
    }
}

/// What may stand in an expression.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// The clause, for errors
    pub clause: &'static str,
    /// Aggregates
    pub aggregates: bool,
    /// Window functions
    pub windows: bool,
    /// Functions that give sets
    pub sets: bool,
}

impl Allowed {
    /// Nothing but plain expressions.
    pub const fn plain(clause: &'static str) -> Allowed {
        Allowed { clause, aggregates: false, windows: false, sets: false }
    }

    /// All there is.
    pub const fn all(clause: &'static str) -> Allowed {
        Allowed { clause, aggregates: true, windows: true, sets: true }
    }
}

/// A SELECT that is being bound.
pub struct Level<'a> {
    /// The columns of FROM
    pub scope: &'a Scope,
    /// The SELECT around it
    pub outer: Option<&'a Level<'a>>,
    /// The queries of WITH
    pub ctes: Option<&'a Ctes>,
    /// What may stand here
    pub allowed: Allowed,
    /// The windows of the WINDOW clause
    pub windows: &'a [ast::NamedWindowDefinition],
    /// What the expressions have asked for
    pub asked: &'a Asked,
}

/// Parts of expressions that are computed by nodes of their own; in the
/// expression stands a column.
#[derive(Default)]
pub struct Asked {
    /// Aggregates, with the names of their columns
    pub aggregates: RefCell<Vec<(Expr, String)>>,
    /// Window functions, likewise
    pub windows: RefCell<Vec<(Expr, String)>>,
    /// Arrays whose elements become rows, likewise
    pub sets: RefCell<Vec<(Expr, String)>>,
    /// Columns used outside aggregates, for the error that names one
    pub plain: RefCell<Vec<(String, Column)>>,
}

impl<'a> Level<'a> {
    /// A level without FROM.
    pub fn bare(scope: &'a Scope, asked: &'a Asked, clause: &'static str) -> Level<'a> {
        Level { scope, outer: None, ctes: None, allowed: Allowed::plain(clause), windows: &[], asked }
    }

    /// The same level where something else is allowed.
    pub fn with(&self, allowed: Allowed) -> Level<'a> {
        Level { allowed, ..*self }
    }

    /// The column of this name, here or around.
    pub fn column(&self, relation: Option<&str>, name: &str) -> Result<Bound> {
        let mut at = Some(self);
        let mut depth = 0;
        while let Some(level) = at {
            if let Some(found) = level.scope.find(relation, name)? {
                return Ok(found.bound(depth > 0));
            }
            depth += 1;
            at = level.outer;
        }
        Err(self.missing(relation, name))
    }

    fn missing(&self, relation: Option<&str>, name: &str) -> Error {
        let Some(relation) = relation else {
            return Error::new(Condition::UndefinedColumn, format!("column \"{name}\" does not exist"));
        };
        let mut at = Some(self);
        while let Some(level) = at {
            if level.scope.relations.iter().any(|r| r.name == relation) {
                return Error::new(Condition::UndefinedColumn, format!("column {relation}.{name} does not exist"));
            }
            at = level.outer;
        }
        Error::new(Condition::UndefinedTable, format!("missing FROM-clause entry for table \"{relation}\""))
    }

    /// Whether a relation of this name is here or around.
    pub fn knows(&self, relation: &str) -> bool {
        let mut at = Some(self);
        while let Some(level) = at {
            if level.scope.relations.iter().any(|r| r.name == relation) {
                return true;
            }
            at = level.outer;
        }
        false
    }
}

impl Scope {
    /// The column of this name; an error when there are two.
    pub fn find(&self, relation: Option<&str>, name: &str) -> Result<Option<&ScopeColumn>> {
        let mut found: Option<&ScopeColumn> = None;
        for column in &self.columns {
            let fits = match relation {
                Some(relation) => column.relation.as_deref() == Some(relation),
                None => !column.merged,
            };
            if !fits || column.name != name {
                continue;
            }
            if found.is_some() {
                return Err(Error::new(
                    Condition::AmbiguousColumn,
                    format!("column reference \"{name}\" is ambiguous"),
                ));
            }
            found = Some(column);
        }
        Ok(found)
    }

    /// Both scopes, side by side.
    pub fn beside(mut self, other: Scope) -> Result<Scope> {
        for relation in &other.relations {
            if self.relations.iter().any(|r| r.name == relation.name) {
                return Err(Error::new(
                    Condition::DuplicateAlias,
                    format!("table name \"{}\" specified more than once", relation.name),
                ));
            }
        }
        self.columns.extend(other.columns);
        self.relations.extend(other.relations);
        Ok(self)
    }
}

impl ScopeColumn {
    /// A reference to it, from its own SELECT or from one within.
    pub fn bound(&self, from_within: bool) -> Bound {
        let expr = if from_within {
            let field = Arc::new(Field::new(&self.column.name, self.data.clone(), true));
            Expr::OuterReferenceColumn(field, self.column.clone())
        } else {
            Expr::Column(self.column.clone())
        };
        Bound { expr, r#type: self.r#type.clone(), data: self.data.clone(), form: Form::Plain, names: self.names }
    }
}

/// Relation and name of a column, as written; a schema before the relation is
/// looked at by its last part.
pub fn column_name(parts: &[ast::Ident]) -> (Option<String>, String) {
    match parts {
        [.., relation, name] => (Some(fold(relation)), fold(name)),
        [name] => (None, fold(name)),
        [] => (None, String::new()),
    }
}
