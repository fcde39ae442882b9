//! `pg_catalog` and `information_schema`, computed from the catalog.
//!
//! The system tables have the columns that PostgreSQL 15's have
//! (`columns.txt`), so that clients written for it find their way. A table
//! without a row function here is always empty: Polity has nothing of its kind.
//!
//! | module          | holds                                                     |
//! |-----------------|-----------------------------------------------------------|
//! | [`shape`]       | which tables there are and their columns                  |
//! | [`relations`]   | tables, columns, indexes, constraints, views, sequences   |
//! | [`activity`]    | sessions and locks                                        |
//! | [`eventual`]    | what the replica of eventual tables knows: schema `polity` |
//! | [`ledger`]      | what the ledger of byzantine tables knows: schema `polity` |
//! | [`history`]     | what rows of byzantine tables were before                 |
//! | [`cluster`]     | types, roles, settings, and what is always there          |
//! | `merging`       | `counter` and `set_of`, as types                          |
//! | [`information`] | the SQL standard's view of the same                       |
//! | `privileges`    | who may do what                                           |
//! | [`definition`]  | objects as the SQL that would make them                   |
//! | [`functions`]   | functions over the catalog                                |

pub(crate) mod activity;
mod cluster;
pub mod definition;
pub(crate) mod eventual;
pub mod functions;
pub(crate) mod history;
mod information;
pub(crate) mod ledger;
mod merging;
mod privileges;
mod relations;
mod shape;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use polity_base::{TableId, Type, Value};

use crate::catalog::Catalog;
use crate::session::Settings;
use crate::session::activity::Sessions;

pub use activity::{Activity, Lock};
pub use functions::{SCALAR_FUNCTIONS, SystemFunction};
pub use shape::{SystemTable, system_table};

/// `pg_namespace`'s identifiers.
pub mod namespace {
    /// `pg_catalog`
    pub const PG_CATALOG: u32 = 11;
    /// `public`
    pub const PUBLIC: u32 = 2200;
    /// `information_schema`
    pub const INFORMATION_SCHEMA: u32 = 13_000;
    /// `polity`
    pub const POLITY: u32 = 13_600;
}

/// The identifier of the one database, as PostgreSQL gives its first.
pub const DATABASE_ID: u32 = 5;

/// What system tables and functions are computed from.
#[derive(Clone)]
pub struct SystemInput {
    /// The catalog the statement sees
    pub catalog: Arc<Catalog>,
    /// The session's settings
    pub settings: Settings,
    /// Who asks
    pub user: String,
    /// Who is there, to be acted on
    pub sessions: Arc<Sessions>,
    /// The sessions of this node, where a table is about them
    pub activity: Vec<Activity>,
    /// The locks kept here, where a table is about them
    pub locks: Vec<Lock>,
    /// The last number each sequence gave, where a table is about them
    pub sequences: HashMap<TableId, i64>,
    /// The rows themselves, where a table is of the schema `polity`
    pub live: Vec<Vec<Value>>,
}

impl SystemInput {
    /// What names of relations begin with where they are shown: nothing if they are found
    /// without.
    fn schema(&self) -> &'static str {
        if self.settings.looks_in_public() { "" } else { "public." }
    }
}

/// Rows in the making: cells are set by the names of their columns, all others
/// have what PostgreSQL has where there is nothing to say.
struct Rows<'t> {
    table: &'t SystemTable,
    rows: Vec<Vec<Value>>,
}

impl<'t> Rows<'t> {
    fn of(table: &'t SystemTable) -> Rows<'t> {
        Rows { table, rows: Vec::new() }
    }

    fn add<const N: usize>(&mut self, cells: [(&str, Value); N]) {
        self.rows.push(self.table.columns.iter().map(|(_, t)| self.nothing(t)).collect());
        self.set(self.rows.len() - 1, cells);
    }

    /// Adds a row in which other cells are NULL; gives its place.
    fn add_partly<const N: usize>(&mut self, cells: [(&str, Value); N]) -> usize {
        self.rows.push(vec![Value::Null; self.table.columns.len()]);
        let row = self.rows.len() - 1;
        self.set(row, cells);
        row
    }

    /// Sets cells of a row.
    fn set<const N: usize>(&mut self, row: usize, cells: [(&str, Value); N]) {
        for (name, value) in cells {
            match self.table.position(name) {
                Some(at) => self.rows[row][at] = value,
                None => debug_assert!(false, "{} has no column {name}", self.table.name),
            }
        }
    }

    /// What a cell holds that was not set.
    fn nothing(&self, r#type: &Type) -> Value {
        if self.table.schema == "information_schema" {
            return Value::Null;
        }
        match r#type {
            Type::Bool => Value::Bool(false),
            Type::Int2 => Value::Int2(0),
            Type::Int4 => Value::Int4(0),
            Type::Oid => Value::Oid(0),
            Type::InternalChar => Value::Text(String::new()),
            _ => Value::Null,
        }
    }
}

fn text(s: impl Into<String>) -> Value {
    Value::Text(s.into())
}

fn maybe(s: Option<impl Into<String>>) -> Value {
    s.map_or(Value::Null, |s| Value::Text(s.into()))
}

fn oid(id: polity_base::TableId) -> Value {
    Value::Oid(id.0)
}

fn bool(b: bool) -> Value {
    Value::Bool(b)
}

/// A column's number as `attnum` has it.
fn attnum(id: polity_base::ColumnId) -> Value {
    Value::Int2(i16::try_from(id.0).unwrap_or(i16::MAX).saturating_add(1))
}

fn count(n: usize) -> i16 {
    i16::try_from(n).unwrap_or(i16::MAX)
}
