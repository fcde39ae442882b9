//! A table in the making: columns and constraints matched with the catalog, and
//! the names PostgreSQL would give to what has none.

use std::collections::BTreeSet;
use std::sync::Arc;

use polity_base::key::Direction;
use polity_base::{ColumnId, IndexId, TableId, Type, Value};

use super::lock::{self, Locks};
use super::spec::{ColumnSpec, ConstraintSpec, ForeignSpec};
use super::{expression, sequence};
use crate::catalog::{Catalog, Check, Column, ForeignKey, Index, Privileges, Sequence, Table, change, name, types};
use crate::error::{Condition, Error, Result};
use crate::rights;
use crate::session::Context;

/// Columns a table can have.
const MAX_COLUMNS: usize = 1_600;
/// Columns a key can have.
pub(super) const MAX_KEY_COLUMNS: usize = 32;

/// A table in the making, and what comes with it.
pub(super) struct Draft {
    pub table: Table,
    /// Sequences of new serial and identity columns
    pub sequences: Vec<Sequence>,
    /// Other tables that new foreign keys point at
    pub parents: BTreeSet<TableId>,
    /// Names that were given to relations
    names: Vec<String>,
}

/// What [`Draft::add_constraint`] added.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Added {
    /// The primary key; rows must be ordered by it
    Primary,
    /// An index
    Unique(TableId),
    /// A condition
    Check(TableId),
    /// A reference
    Foreign(TableId),
    /// Nothing: the same key is there already
    Nothing,
}

impl Draft {
    /// A draft that starts from `table`.
    pub fn of(table: Table) -> Draft {
        Draft { table, sequences: Vec::new(), parents: BTreeSet::new(), names: Vec::new() }
    }

    /// Locks what the draft changes besides the table itself.
    pub fn lock(&self, locks: &mut Locks) {
        self.names.iter().for_each(|n| locks.name(n));
        self.parents.iter().for_each(|p| locks.table(*p));
    }

    /// Puts the draft into a change.
    pub fn change(self, change: &mut change::Change) -> Result<()> {
        for sequence in self.sequences {
            change.put_sequence(sequence)?;
        }
        let own = self.table.id;
        change.put_table(self.table)?;
        for parent in self.parents.into_iter().filter(|p| *p != own) {
            // Who writes the parent now must look for references.
            change.touch_table(parent)?;
        }
        Ok(())
    }

    fn taken(&self, catalog: &Catalog, name: &str) -> bool {
        catalog.names.contains_key(name) || name == self.table.name || self.names.iter().any(|n| n == name)
    }

    /// The name of a new index: the given one, if it is free, or a made-up one.
    pub fn index_name(
        &mut self,
        catalog: &Catalog,
        given: Option<&str>,
        columns: &[String],
        label: &str,
    ) -> Result<String> {
        let name = match given {
            Some(name) if self.taken(catalog, name) => return Err(change::relation_exists(name)),
            Some(name) => name.to_owned(),
            None => {
                let joined = columns.join("_");
                let column = (label != "pkey").then_some(joined.as_str());
                name::choose(&self.table.name, column, label, |n| self.taken(catalog, n))
            }
        };
        self.names.push(name.clone());
        Ok(name)
    }

    /// Adds a column and its sequence, if it has one.
    pub async fn add_column(&mut self, ctx: &Context<'_>, spec: &ColumnSpec) -> Result<ColumnId> {
        if self.table.column(&spec.name).is_some() {
            return Err(Error::new(
                Condition::DuplicateColumn,
                format!("column \"{}\" specified more than once", spec.name),
            ));
        }
        if self.table.columns.len() >= MAX_COLUMNS || usize::from(self.table.next_column) >= 4 * MAX_COLUMNS {
            return Err(Error::new(
                Condition::TooManyColumns,
                format!("tables can have at most {MAX_COLUMNS} columns"),
            ));
        }
        let id = ColumnId(self.table.next_column);
        self.table.next_column += 1;
        let mut column = Column {
            id,
            name: spec.name.clone(),
            r#type: spec.r#type.clone(),
            not_null: spec.not_null,
            default: None,
            identity: spec.identity.as_ref().map(|(identity, _)| *identity),
            merge: spec.merge,
            missing: Value::Null,
            comment: None,
        };
        if spec.serial || spec.identity.is_some() {
            let options = spec.identity.as_ref().map_or(&[][..], |(_, options)| options);
            let sequence = self.sequence_of(ctx, spec, id, options).await?;
            column.default = Some(expression::nextval(&sequence.name));
            self.sequences.push(sequence);
        } else if let Some(default) = &spec.default {
            column.default = Some(expression::default(ctx, &spec.name, &spec.r#type, default)?);
        }
        self.table.columns.push(column);
        Ok(id)
    }

    /// The sequence that numbers a column.
    pub async fn sequence_of(
        &mut self,
        ctx: &Context<'_>,
        spec: &ColumnSpec,
        column: ColumnId,
        options: &[datafusion::sql::sqlparser::ast::SequenceOptions],
    ) -> Result<Sequence> {
        if spec.identity.is_some() && !matches!(spec.r#type, Type::Int2 | Type::Int4 | Type::Int8) {
            return Err(Error::new(
                Condition::InvalidParameterValue,
                "identity column type must be smallint, integer, or bigint",
            ));
        }
        let sequence_name = match sequence::named(options)? {
            Some(name) if self.taken(ctx.catalog, &name) => return Err(change::relation_exists(&name)),
            Some(name) => name,
            None => name::choose(&self.table.name, Some(&spec.name), "seq", |n| self.taken(ctx.catalog, n)),
        };
        self.names.push(sequence_name.clone());
        let ids = ctx.engine.catalogs();
        let (id, storage) = (TableId(ids.new_id().await?), IndexId(ids.new_id().await?));
        let mut made = sequence::with_options(id, storage, sequence_name, Some(spec.r#type.clone()), options)?;
        made.owner = self.table.owner;
        made.owned_by = Some((self.table.id, column));
        Ok(made)
    }

    /// Adds a constraint.
    pub async fn add_constraint(&mut self, ctx: &Context<'_>, spec: &ConstraintSpec) -> Result<Added> {
        match spec {
            ConstraintSpec::Primary { name, columns } => self.add_primary(ctx, name.as_deref(), columns).await,
            ConstraintSpec::Unique { name, columns } => self.add_unique(ctx, name.as_deref(), columns).await,
            ConstraintSpec::Check { name, column, condition } => {
                let expression = expression::check(ctx, &self.table, condition.clone())?;
                let used = expression::columns(condition);
                let only = if used.len() == 1 { used.first().cloned() } else { None };
                let column = column.clone().and(only.clone()).or(only);
                let label = "check";
                let name = self.constraint_name(name.as_deref(), column.as_deref(), label)?;
                let id = TableId(ctx.engine.catalogs().new_id().await?);
                self.table.checks.push(Check { id, name, expression });
                Ok(Added::Check(id))
            }
            ConstraintSpec::Foreign(spec) => self.add_foreign(ctx, spec).await,
        }
    }

    async fn add_primary(&mut self, ctx: &Context<'_>, given: Option<&str>, columns: &[String]) -> Result<Added> {
        if !self.table.has_hidden_key() {
            return Err(Error::new(
                Condition::InvalidTableDefinition,
                format!("multiple primary keys for table \"{}\" are not allowed", self.table.name),
            ));
        }
        let ids = self.key_columns(columns, "primary key")?;
        let name = self.index_name(ctx.catalog, given, columns, "pkey")?;
        for column in &mut self.table.columns {
            column.not_null |= ids.contains(&column.id);
        }
        self.table.primary.columns = ids;
        self.table.primary.id = Some(TableId(ctx.engine.catalogs().new_id().await?));
        self.table.primary.name = Some(name);
        Ok(Added::Primary)
    }

    async fn add_unique(&mut self, ctx: &Context<'_>, given: Option<&str>, columns: &[String]) -> Result<Added> {
        let ids = self.key_columns(columns, "unique")?;
        let same = |index: &Index| index.constraint && index.columns.iter().map(|(c, _)| *c).eq(ids.iter().copied());
        if given.is_none() && (self.table.primary.columns == ids || self.table.indexes.iter().any(same)) {
            return Ok(Added::Nothing);
        }
        let name = self.index_name(ctx.catalog, given, columns, "key")?;
        let directed = ids.into_iter().map(|c| (c, Direction::Ascending)).collect();
        let index = new_index(ctx, name, directed, true, true).await?;
        let id = index.id;
        self.table.indexes.push(index);
        Ok(Added::Unique(id))
    }

    /// The columns of a key.
    pub fn key_columns(&self, columns: &[String], what: &str) -> Result<Vec<ColumnId>> {
        if columns.len() > MAX_KEY_COLUMNS {
            return Err(Error::new(
                Condition::TooManyColumns,
                format!("cannot use more than {MAX_KEY_COLUMNS} columns in an index"),
            ));
        }
        let mut ids = Vec::with_capacity(columns.len());
        for name in columns {
            let column = self.table.column(name).ok_or_else(|| {
                Error::new(Condition::UndefinedColumn, format!("column \"{name}\" named in key does not exist"))
            })?;
            ordered(column)?;
            if ids.contains(&column.id) {
                return Err(Error::new(
                    Condition::DuplicateColumn,
                    format!("column \"{name}\" appears twice in {what} constraint"),
                ));
            }
            ids.push(column.id);
        }
        Ok(ids)
    }

    fn constraint_name(&self, given: Option<&str>, column: Option<&str>, label: &str) -> Result<String> {
        let taken = |name: &str| constraint_names(&self.table).any(|n| n == name);
        match given {
            Some(name) if taken(name) => Err(Error::new(
                Condition::DuplicateObject,
                format!("constraint \"{name}\" for relation \"{}\" already exists", self.table.name),
            )),
            Some(name) => Ok(name.to_owned()),
            None => Ok(name::choose(&self.table.name, column, label, taken)),
        }
    }

    async fn add_foreign(&mut self, ctx: &Context<'_>, spec: &ForeignSpec) -> Result<Added> {
        let mut columns = Vec::with_capacity(spec.columns.len());
        for name in &spec.columns {
            let column = self.table.column(name).ok_or_else(|| foreign_column_missing(name))?;
            columns.push((column.id, column.name.clone(), column.r#type.clone()));
        }
        let own = name::object(&spec.parent)? == self.table.name;
        let parent = if own { Arc::new(self.table.clone()) } else { lock::table(ctx.catalog, &spec.parent)? };
        if !own {
            rights::require(ctx.catalog, ctx.user, &parent, Privileges::REFERENCES)?;
        }
        super::eventual::not_towards(&parent)?;
        let parent_columns = parent_columns(&parent, &spec.parent_columns)?;
        if parent_columns.len() != columns.len() {
            return Err(Error::new(
                Condition::InvalidForeignKey,
                "number of referencing and referenced columns for foreign key disagree",
            ));
        }
        let joined = spec.columns.join("_");
        let name = self.constraint_name(spec.name.as_deref(), Some(&joined), "fkey")?;
        for ((_, column, from), parent_column) in columns.iter().zip(&parent_columns) {
            let to = parent.column_by_id(*parent_column).ok_or_else(|| Error::internal("a key without its column"))?;
            comparable(&name, (column, from), (&to.name, &to.r#type))?;
        }
        let id = TableId(ctx.engine.catalogs().new_id().await?);
        if !own {
            self.parents.insert(parent.id);
        }
        self.table.foreign_keys.push(ForeignKey {
            id,
            name,
            columns: columns.into_iter().map(|(c, ..)| c).collect(),
            parent: parent.id,
            parent_columns,
            on_delete: spec.on_delete,
            on_update: spec.on_update,
            match_full: spec.match_full,
        });
        Ok(Added::Foreign(id))
    }
}

/// A new index with its own storage.
pub(super) async fn new_index(
    ctx: &Context<'_>,
    name: String,
    columns: Vec<(ColumnId, Direction)>,
    unique: bool,
    constraint: bool,
) -> Result<Index> {
    let ids = ctx.engine.catalogs();
    let (id, storage) = (TableId(ids.new_id().await?), IndexId(ids.new_id().await?));
    Ok(Index { columns, unique, constraint, ..Index::new(id, name, storage) })
}

/// Refuses columns whose values have no order.
pub(super) fn ordered(column: &Column) -> Result<()> {
    if types::is_ordered(&column.r#type) {
        return Ok(());
    }
    if column.r#type == Type::Json {
        return Err(Error::new(
            Condition::UndefinedObject,
            "data type json has no default operator class for access method \"btree\"",
        ));
    }
    Err(Error::unsupported(format!("a key of type {}", column.r#type)).column(&column.name))
}

/// The names of all constraints of a table.
pub(super) fn constraint_names(table: &Table) -> impl Iterator<Item = &str> {
    let primary = table.primary.name.as_deref().into_iter();
    let unique = table.indexes.iter().filter(|i| i.constraint).map(|i| i.name.as_str());
    let checks = table.checks.iter().map(|c| c.name.as_str());
    primary.chain(unique).chain(checks).chain(table.foreign_keys.iter().map(|f| f.name.as_str()))
}

fn foreign_column_missing(name: &str) -> Error {
    Error::new(
        Condition::UndefinedColumn,
        format!("column \"{name}\" referenced in foreign key constraint does not exist"),
    )
}

/// The referenced columns, which must be a key of the parent.
fn parent_columns(parent: &Table, names: &[String]) -> Result<Vec<ColumnId>> {
    if names.is_empty() {
        return match parent.has_hidden_key() {
            false => Ok(parent.primary.columns.clone()),
            true => Err(Error::new(
                Condition::UndefinedObject,
                format!("there is no primary key for referenced table \"{}\"", parent.name),
            )),
        };
    }
    let mut columns = Vec::with_capacity(names.len());
    for name in names {
        columns.push(parent.column(name).ok_or_else(|| foreign_column_missing(name))?.id);
    }
    if key_of(parent, &columns).is_none() {
        return Err(Error::new(
            Condition::InvalidForeignKey,
            format!("there is no unique constraint matching given keys for referenced table \"{}\"", parent.name),
        ));
    }
    Ok(columns)
}

/// The identifier of the index that keeps exactly these columns unique, in any
/// order: the primary key's if it does.
pub fn key_of(table: &Table, columns: &[ColumnId]) -> Option<TableId> {
    let wanted: BTreeSet<ColumnId> = columns.iter().copied().collect();
    let same = |key: BTreeSet<ColumnId>| key == wanted && wanted.len() == columns.len();
    if !table.has_hidden_key() && same(table.primary.columns.iter().copied().collect()) {
        return table.primary.id;
    }
    let unique = |i: &&Index| i.unique && same(i.columns.iter().map(|(c, _)| *c).collect());
    // A constraint's index stays as long as the constraint: it is the better support.
    let constraint = table.indexes.iter().filter(|i| i.constraint).find(unique);
    constraint.or_else(|| table.indexes.iter().find(unique)).map(|i| i.id)
}

/// Referencing and referenced values must be encoded alike to be found.
fn comparable(constraint: &str, from: (&str, &Type), to: (&str, &Type)) -> Result<()> {
    if kind(from.1) == kind(to.1) {
        return Ok(());
    }
    Err(Error::new(
        Condition::DatatypeMismatch,
        format!("foreign key constraint \"{constraint}\" cannot be implemented"),
    )
    .detail(format!("Key columns \"{}\" and \"{}\" are of incompatible types: {} and {}.", from.0, to.0, from.1, to.1)))
}

/// Types of one kind have one encoding in keys.
fn kind(r#type: &Type) -> u32 {
    match r#type {
        Type::Int2 | Type::Int4 | Type::Int8 | Type::Oid => Type::Int8.oid(),
        Type::Float4 | Type::Float8 => Type::Float8.oid(),
        Type::Text | Type::Varchar(_) | Type::Char(_) | Type::Name => Type::Text.oid(),
        other => other.oid(),
    }
}
