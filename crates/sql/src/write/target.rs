//! What must be kept in step when a row of a table is written.
//!
//! A [`Target`] is a table of the catalog, prepared: where in a row the key
//! columns stand, which entries each index has, which constraints to check and
//! which other tables point here.

use std::sync::Arc;

use bytes::Bytes;
use polity_base::key::{Direction, KeyBuilder};
use polity_base::{IndexId, Key, Value};

use super::rule::{self, Rule};
use crate::catalog::rows::{self, STORAGE_BYTES};
use crate::catalog::{Action, Catalog, ForeignKey, Table};
use crate::error::{Error, Result};
use crate::expr::{Parameters, Scope, cast};
use crate::query::PlanInput;

/// A table that is written to.
pub struct Target {
    /// The table
    pub table: Arc<Table>,
    /// Where in a row the primary key's columns stand; empty when rows are
    /// ordered by a hidden number
    pub key: Vec<usize>,
    /// The secondary indexes
    pub indexes: Vec<IndexTarget>,
    /// Places of columns that refuse NULL
    pub not_null: Vec<usize>,
    /// CHECK constraints in the order of their names, as PostgreSQL checks them
    pub checks: Vec<(String, Rule)>,
    /// What this table refers to
    pub parents: Vec<Parent>,
    /// What refers to this table
    pub children: Vec<Child>,
}

/// A secondary index.
pub struct IndexTarget {
    /// Its name
    pub name: String,
    /// Where its entries are
    pub storage: IndexId,
    /// Places in a row, and how each sorts
    pub columns: Vec<(usize, Direction)>,
    /// Whether equal entries are refused
    pub unique: bool,
}

/// A foreign key of this table.
pub struct Parent {
    /// The constraint
    pub key: ForeignKey,
    /// Places of the referencing columns, in the constraint's order
    pub columns: Vec<usize>,
    /// The table referred to
    pub table: Arc<Table>,
    /// What finds the row referred to
    pub access: ParentAccess,
}

/// The unique index that finds the row a foreign key refers to.
pub enum ParentAccess {
    /// The primary key; for each of its columns, which of the constraint's
    /// columns gives the value
    Primary(Vec<usize>),
    /// A unique index: its place among the parent's indexes, and the same
    Index(usize, Vec<usize>),
}

/// A foreign key of another table (or this one) towards this table.
pub struct Child {
    /// The table it belongs to
    pub table: Arc<Table>,
    /// The constraint
    pub key: ForeignKey,
    /// Places of the referenced columns in a row of this table
    pub referenced: Vec<usize>,
}

impl Target {
    /// `table`, prepared. Constraints that the small evaluator does not cover
    /// need `input`; without it such a table gives `None`.
    pub fn of(catalog: &Catalog, table: &Arc<Table>, input: Option<&PlanInput>) -> Result<Option<Target>> {
        let place = |id| rows::position(table, id);
        let indexes = table.indexes.iter().map(|index| {
            let columns = index.columns.iter().map(|(id, d)| Ok((place(*id)?, *d))).collect::<Result<_>>()?;
            Ok(IndexTarget { name: index.name.clone(), storage: index.storage, columns, unique: index.unique })
        });
        let mut parents = Vec::new();
        for key in &table.foreign_keys {
            parents.push(parent(catalog, table, key)?);
        }
        let mut children = Vec::new();
        for (child, key) in catalog.references_to(table.id) {
            let referenced = key.parent_columns.iter().map(|id| place(*id)).collect::<Result<_>>()?;
            children.push(Child { table: child.clone(), key: key.clone(), referenced });
        }
        let Some(checks) = checks(catalog, table, input)? else { return Ok(None) };
        Ok(Some(Target {
            key: table.primary.columns.iter().map(|id| place(*id)).collect::<Result<_>>()?,
            indexes: indexes.collect::<Result<_>>()?,
            not_null: (0..table.columns.len()).filter(|i| table.columns[*i].not_null).collect(),
            checks,
            parents,
            children,
            table: table.clone(),
        }))
    }

    /// The key of a row, for a table with a primary key.
    pub fn row_key(&self, row: &[Value]) -> Result<Key> {
        self.build_row_key(row).map(KeyBuilder::finish)
    }

    /// The key of a row, unfinished.
    pub fn build_row_key(&self, row: &[Value]) -> Result<KeyBuilder> {
        let mut key = KeyBuilder::new(self.table.primary.storage);
        for place in &self.key {
            key.push(row.get(*place).unwrap_or(&Value::Null)).map_err(Error::internal)?;
        }
        Ok(key)
    }

    /// The stored form of a row.
    pub fn store(&self, row: &[Value]) -> Bytes {
        rows::store(&self.table, row)
    }

    /// Whether any of the primary key's columns differ between two rows.
    pub fn key_differs(&self, a: &[Value], b: &[Value]) -> bool {
        self.key.iter().any(|place| differs(a, b, *place))
    }

    /// Whether a change of the columns at `places` changes a key that others
    /// can refer to.
    pub fn is_key_change(&self, places: &[usize]) -> bool {
        let unique = self.indexes.iter().filter(|i| i.unique).flat_map(|i| i.columns.iter().map(|(p, _)| p));
        self.key.iter().chain(unique).any(|p| places.contains(p))
    }
}

/// Whether two rows have different values at `place` (NULL equals NULL).
pub fn differs(a: &[Value], b: &[Value], place: usize) -> bool {
    match (a.get(place), b.get(place)) {
        (Some(x), Some(y)) => x != y && x.compare(y).is_none_or(|o| o.is_ne()),
        _ => true,
    }
}

impl IndexTarget {
    /// The key of the entry of a row stored at `row_key`, and whether it is
    /// refused when there is an equal one.
    pub fn entry(&self, row: &[Value], row_key: &[u8]) -> Result<(Key, bool)> {
        let mut key = KeyBuilder::new(self.storage);
        let mut distinct = self.unique;
        for (place, direction) in &self.columns {
            let value = row.get(*place).unwrap_or(&Value::Null);
            distinct &= !value.is_null();
            key.push_directed(value, *direction).map_err(Error::internal)?;
        }
        if !distinct {
            key.push_raw(row_key.get(STORAGE_BYTES..).unwrap_or_default());
        }
        Ok((key.finish(), distinct))
    }
}

fn checks(catalog: &Catalog, table: &Arc<Table>, input: Option<&PlanInput>) -> Result<Option<Vec<(String, Rule)>>> {
    let mut checks = Vec::new();
    for check in &table.checks {
        let ast = rule::stored(&check.expression)?;
        let mut parameters = Parameters::default();
        let mut scope = Scope::new(catalog, &mut parameters).with_table(table, &table.name);
        let Some(rule) = Rule::compile(&ast, Some(&polity_base::Type::Bool), &mut scope, input)? else {
            return Ok(None);
        };
        checks.push((check.name.clone(), rule));
    }
    checks.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Some(checks))
}

pub(super) fn parent(catalog: &Catalog, table: &Table, key: &ForeignKey) -> Result<Parent> {
    let missing = || Error::internal(format!("constraint \"{}\" refers to a table that is not there", key.name));
    let parent = catalog.tables.get(&key.parent).ok_or_else(missing)?;
    let order = |columns: &mut dyn Iterator<Item = polity_base::ColumnId>| -> Option<Vec<usize>> {
        let order: Option<Vec<usize>> = columns.map(|id| key.parent_columns.iter().position(|c| *c == id)).collect();
        order.filter(|o| o.len() == key.parent_columns.len())
    };
    let access = match order(&mut parent.primary.columns.iter().copied()) {
        Some(order) if !order.is_empty() => ParentAccess::Primary(order),
        _ => parent
            .indexes
            .iter()
            .enumerate()
            .filter(|(_, index)| index.unique)
            .find_map(|(at, index)| {
                order(&mut index.columns.iter().map(|(id, _)| *id)).map(|order| ParentAccess::Index(at, order))
            })
            .ok_or_else(missing)?,
    };
    Ok(Parent {
        columns: key.columns.iter().map(|id| rows::position(table, *id)).collect::<Result<_>>()?,
        key: key.clone(),
        table: parent.clone(),
        access,
    })
}

impl Parent {
    /// The key of the entry (or row) that must be there when the referencing
    /// columns have these values, none of them NULL. `None`: no row can have them.
    pub fn required(&self, values: &[&Value]) -> Result<Option<Key>> {
        let mut converted = Vec::with_capacity(values.len());
        for (value, id) in values.iter().zip(&self.key.parent_columns) {
            let column = self.table.column_by_id(*id).ok_or_else(|| Error::internal("a referenced column is gone"))?;
            match cast::key_value(value, &column.r#type) {
                Some(v) => converted.push(v),
                None => return Ok(None),
            }
        }
        let value = |at: &usize| converted.get(*at).unwrap_or(&Value::Null);
        match &self.access {
            ParentAccess::Primary(order) => rows::primary_prefix(&self.table, order.iter().map(value)).map(Some),
            ParentAccess::Index(at, order) => {
                let index = self.table.indexes.get(*at).ok_or_else(|| Error::internal("an index is gone"))?;
                rows::index_prefix(index, order.iter().map(value)).map(Some)
            }
        }
    }
}

impl Child {
    /// Whether a change or removal is refused rather than passed on, when it is
    /// a removal (`gone`) or a change.
    pub fn action(&self, gone: bool) -> Action {
        if gone { self.key.on_delete } else { self.key.on_update }
    }
}
