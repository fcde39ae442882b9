//! Which system tables there are, and their columns.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use polity_base::{Type, Value};

use super::{Rows, SystemInput, activity, cluster, eventual, information, ledger, relations};
use crate::catalog::types;

/// Tables and columns: `name oid kind: column type, …`, grouped by schema.
const COLUMNS: &str = include_str!("columns.txt");

/// A table of `pg_catalog`, `information_schema` or `polity`.
pub struct SystemTable {
    /// Its schema
    pub schema: &'static str,
    /// Its name
    pub name: &'static str,
    /// Its object identifier, as in PostgreSQL
    pub oid: u32,
    /// Whether PostgreSQL has it as a view
    pub is_view: bool,
    /// Names and types of its columns
    pub columns: Vec<(String, Type)>,
    positions: HashMap<String, usize>,
    /// Columns whose arrays are written `1 2`
    vectors: HashSet<String>,
    fill: Option<Fill>,
}

/// Adds a table's rows.
pub(super) type Fill = fn(&SystemInput, &mut Rows<'_>);

impl SystemTable {
    /// The rows of the table.
    pub fn rows(&self, input: &SystemInput) -> Vec<Vec<Value>> {
        let mut rows = Rows::of(self);
        if let Some(fill) = self.fill {
            fill(input, &mut rows);
        }
        rows.rows
    }

    /// Whether PostgreSQL has this column as `int2vector` or `oidvector`.
    pub fn is_vector(&self, column: &str) -> bool {
        self.vectors.contains(column)
    }

    pub(super) fn position(&self, column: &str) -> Option<usize> {
        self.positions.get(column).copied()
    }
}

static TABLES: LazyLock<Vec<SystemTable>> = LazyLock::new(|| {
    let mut tables: Vec<SystemTable> = Vec::new();
    let mut schema = "";
    for line in COLUMNS.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            schema = name;
        } else if let Some((head, columns)) = line.split_once(": ") {
            let mut words = head.split(' ');
            let name = words.next().unwrap_or_default();
            let oid = words.next().and_then(|w| w.parse().ok()).unwrap_or_default();
            let is_view = words.next() == Some("v");
            let fill = fill_of(schema, name);
            let (none, positions, vectors) = (Vec::new(), HashMap::new(), HashSet::new());
            let mut table = SystemTable { schema, name, oid, is_view, columns: none, positions, vectors, fill };
            add_columns(&mut table, columns);
            tables.push(table);
        } else if let Some(table) = tables.last_mut() {
            add_columns(table, line);
        }
    }
    tables
});

fn add_columns(table: &mut SystemTable, text: &str) {
    for column in text.split(',').map(str::trim).filter(|c| !c.is_empty()) {
        let (name, r#type) = column.split_once(' ').unwrap_or((column, "text"));
        let vector = r#type.strip_suffix("vector");
        let r#type = match r#type.strip_prefix('_').or(vector) {
            Some(element) => Type::Array(Box::new(scalar(element))),
            None => scalar(r#type),
        };
        table.vectors.extend(vector.map(|_| name.to_owned()));
        table.positions.insert(name.to_owned(), table.columns.len());
        table.columns.push((name.to_owned(), r#type));
    }
}

fn scalar(name: &str) -> Type {
    if name == "char" { Type::InternalChar } else { types::by_name(name).unwrap_or(Type::Text) }
}

static BY_NAME: LazyLock<HashMap<(&'static str, &'static str), &'static SystemTable>> =
    LazyLock::new(|| TABLES.iter().map(|t| ((t.schema, t.name), t)).collect());

/// The system table of this name.
pub fn system_table(schema: &str, name: &str) -> Option<&'static SystemTable> {
    BY_NAME.get(&(schema, name)).copied()
}

/// All system tables.
pub(super) fn all() -> &'static [SystemTable] {
    &TABLES
}

fn fill_of(schema: &str, name: &str) -> Option<Fill> {
    match schema {
        "pg_catalog" => relations::fill_of(name).or_else(|| cluster::fill_of(name)).or_else(|| activity::fill_of(name)),
        "polity" => eventual::fill_of(name).or_else(|| ledger::fill_of(name)),
        _ => information::fill_of(name),
    }
}
