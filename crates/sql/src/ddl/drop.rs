//! DROP, and what depends on what.
//!
//! [`Removal`] starts with what is to go and grows by what cannot stay without
//! it. What belongs to something that goes (a serial column's sequence) goes
//! silently; anything else is named in an error, or with CASCADE in a notice.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::sql::sqlparser::ast::{ObjectName, ObjectType};
use polity_base::{ColumnId, TableId};

use super::draft::key_of;
use super::expression;
use super::lock::Locks;
use crate::catalog::change::Change;
use crate::catalog::{Catalog, Relation, Table, name, store};
use crate::error::{Condition, Error, Result};
use crate::rights;
use crate::session::Context;
use crate::session::context::Notice;

/// What goes.
#[derive(Clone, Default, Debug)]
pub(super) struct Removal {
    pub tables: BTreeSet<TableId>,
    pub views: BTreeSet<TableId>,
    pub sequences: BTreeSet<TableId>,
    /// Secondary indexes, with the constraints they stand behind
    pub indexes: BTreeSet<TableId>,
    /// Primary keys, by their index; the rows are the caller's business
    pub primary_keys: BTreeSet<TableId>,
    /// Foreign keys and checks
    pub constraints: BTreeSet<TableId>,
    pub columns: BTreeSet<(TableId, ColumnId)>,
    pub defaults: BTreeSet<(TableId, ColumnId)>,
}

/// Something that cannot stay, and because of what.
struct Dependent {
    what: String,
    of: String,
}

impl Removal {
    /// Adds everything that cannot stay. Without `cascade` there must be nothing
    /// that does not belong to what goes.
    pub fn complete(&mut self, ctx: &mut Context<'_>, what: &str, cascade: bool) -> Result<()> {
        let catalog = ctx.catalog.clone();
        let mut dependents = Vec::new();
        loop {
            let before = self.size();
            self.add_owned(&catalog)?;
            self.add_foreign_keys(&catalog, &mut dependents);
            self.add_views(&catalog, &mut dependents);
            self.add_defaults(&catalog, &mut dependents);
            if self.size() == before {
                break;
            }
        }
        if dependents.is_empty() {
            return Ok(());
        }
        if !cascade {
            let lines: Vec<String> = dependents.iter().map(|d| format!("{} depends on {}", d.what, d.of)).collect();
            return Err(Error::new(
                Condition::DependentObjectsStillExist,
                format!("cannot drop {what} because other objects depend on it"),
            )
            .detail(lines.join("\n"))
            .hint("Use DROP ... CASCADE to drop the dependent objects too."));
        }
        ctx.notices.push(cascades(&dependents));
        Ok(())
    }

    fn size(&self) -> usize {
        self.tables.len()
            + self.views.len()
            + self.sequences.len()
            + self.indexes.len()
            + self.primary_keys.len()
            + self.constraints.len()
            + self.columns.len()
            + self.defaults.len()
    }

    fn column_goes(&self, table: TableId, column: ColumnId) -> bool {
        self.tables.contains(&table) || self.columns.contains(&(table, column))
    }

    /// What belongs to what goes: sequences of columns, and of a column that goes
    /// its keys, checks and references.
    fn add_owned(&mut self, catalog: &Catalog) -> Result<()> {
        for sequence in catalog.sequences.values() {
            if sequence.owned_by.is_some_and(|(t, c)| self.column_goes(t, c)) {
                self.sequences.insert(sequence.id);
            }
        }
        for (id, column) in self.columns.clone() {
            let Some(table) = catalog.tables.get(&id) else { continue };
            if table.primary.columns.contains(&column) {
                self.primary_keys.extend(table.primary.id);
            }
            let uses = table.indexes.iter().filter(|i| i.columns.iter().any(|(c, _)| *c == column));
            self.indexes.extend(uses.map(|i| i.id));
            let references = table.foreign_keys.iter().filter(|f| f.columns.contains(&column));
            self.constraints.extend(references.map(|f| f.id));
            let Some(column) = table.column_by_id(column) else { continue };
            for check in &table.checks {
                if expression::columns(&expression::parse(&check.expression)?).contains(&column.name) {
                    self.constraints.insert(check.id);
                }
            }
        }
        Ok(())
    }

    /// References to what goes.
    fn add_foreign_keys(&mut self, catalog: &Catalog, dependents: &mut Vec<Dependent>) {
        for child in catalog.tables.values().filter(|t| !self.tables.contains(&t.id)) {
            for key in &child.foreign_keys {
                let Some(parent) = catalog.tables.get(&key.parent) else { continue };
                let Some(of) = self.support_lost(parent, &key.parent_columns) else { continue };
                if self.constraints.insert(key.id) {
                    dependents.push(Dependent { what: format!("constraint {} on table {}", key.name, child.name), of });
                }
            }
        }
    }

    /// What a reference to these columns loses, if it loses its support.
    fn support_lost(&self, parent: &Table, columns: &[ColumnId]) -> Option<String> {
        if self.tables.contains(&parent.id) {
            return Some(format!("table {}", parent.name));
        }
        let gone = columns.iter().find(|c| self.columns.contains(&(parent.id, **c)));
        if let Some(column) = gone.and_then(|c| parent.column_by_id(*c)) {
            return Some(format!("column {} of table {}", column.name, parent.name));
        }
        let key = key_of(parent, columns)?;
        if !self.indexes.contains(&key) && !self.primary_keys.contains(&key) {
            return None;
        }
        let mut name = parent.primary.name.clone().filter(|_| parent.primary.id == Some(key));
        if let Some(index) = parent.indexes.iter().find(|i| i.id == key) {
            name = Some(index.name.clone());
        }
        Some(format!("index {}", name.unwrap_or_default()))
    }

    /// Views that read what goes.
    fn add_views(&mut self, catalog: &Catalog, dependents: &mut Vec<Dependent>) {
        for view in catalog.views.values().filter(|v| !self.views.contains(&v.id)) {
            let table = view.reads.iter().find(|r| self.tables.contains(r) || self.sequences.contains(r));
            let read = table.or_else(|| view.reads.iter().find(|r| self.views.contains(r)));
            let of = match read {
                Some(id) => describe(catalog, *id),
                None => match self.column_read(catalog, view) {
                    Some(of) => of,
                    None => continue,
                },
            };
            dependents.push(Dependent { what: format!("view {}", view.name), of });
        }
        let more: Vec<TableId> = catalog
            .views
            .values()
            .filter(|v| {
                v.reads.iter().any(|r| self.tables.contains(r) || self.views.contains(r) || self.sequences.contains(r))
                    || self.column_read(catalog, v).is_some()
            })
            .map(|v| v.id)
            .collect();
        self.views.extend(more);
    }

    /// A column that goes and that the view names.
    fn column_read(&self, catalog: &Catalog, view: &crate::catalog::View) -> Option<String> {
        self.columns.iter().find_map(|(table, column)| {
            let table = view.reads.contains(table).then(|| catalog.tables.get(table)).flatten()?;
            let column = table.column_by_id(*column)?;
            let named = super::view::mentions(&view.query, &column.name);
            named.then(|| format!("column {} of table {}", column.name, table.name))
        })
    }

    /// Defaults that draw from a sequence that goes.
    fn add_defaults(&mut self, catalog: &Catalog, dependents: &mut Vec<Dependent>) {
        let going: Vec<&str> =
            self.sequences.iter().filter_map(|id| catalog.sequences.get(id).map(|s| s.name.as_str())).collect();
        if going.is_empty() {
            return;
        }
        for table in catalog.tables.values().filter(|t| !self.tables.contains(&t.id)) {
            for column in table.columns.iter().filter(|c| !self.columns.contains(&(table.id, c.id))) {
                let Some(default) = &column.default else { continue };
                let Some(sequence) = going.iter().find(|s| expression::draws_from(default, s)) else { continue };
                if self.defaults.insert((table.id, column.id)) {
                    dependents.push(Dependent {
                        what: format!("default value for column {} of table {}", column.name, table.name),
                        of: format!("sequence {sequence}"),
                    });
                }
            }
        }
    }

    /// The tables that stay and change, with those that the references that go
    /// point at.
    pub fn changed_tables(&self, catalog: &Catalog) -> (BTreeSet<TableId>, BTreeSet<TableId>) {
        let mut changed = BTreeSet::new();
        let mut parents = BTreeSet::new();
        for table in catalog.tables.values() {
            let goes = self.tables.contains(&table.id);
            let keys = table.foreign_keys.iter().filter(|f| goes || self.constraints.contains(&f.id));
            parents.extend(keys.map(|f| f.parent));
            if !goes && without(table, self) != **table {
                changed.insert(table.id);
            }
        }
        parents.retain(|p| !self.tables.contains(p));
        (changed, parents)
    }

    /// Locks everything that goes or changes.
    pub fn lock(&self, catalog: &Catalog, locks: &mut Locks) {
        let (changed, parents) = self.changed_tables(catalog);
        self.tables.iter().chain(&changed).chain(&parents).for_each(|t| locks.table(*t));
        self.views.iter().for_each(|v| locks.key(store::view_key(*v)));
        // What was granted meanwhile must go with it.
        self.tables.iter().chain(&self.views).for_each(|id| locks.key(store::grants_key(*id)));
        self.sequences.iter().for_each(|s| locks.key(store::sequence_key(*s)));
        let gone: BTreeSet<&TableId> = self.tables.iter().chain(&self.views).chain(&self.sequences).collect();
        let names = catalog.names.iter().filter(|(_, id)| gone.contains(id) || self.indexes.contains(id));
        names.for_each(|(name, _)| locks.name(name));
    }

    /// Puts the removal into a change. Primary keys that go must be replaced by
    /// the caller: their rows are ordered otherwise.
    pub fn change(&self, catalog: &Catalog, change: &mut Change) -> Result<()> {
        let (changed, parents) = self.changed_tables(catalog);
        self.views.iter().for_each(|v| change.drop_view(*v));
        self.sequences.iter().for_each(|s| change.drop_sequence(*s));
        self.tables.iter().for_each(|t| change.drop_table(*t));
        for id in changed {
            if let Some(table) = catalog.tables.get(&id) {
                change.put_table(without(table, self))?;
            }
        }
        parents.into_iter().try_for_each(|p| change.touch_table(p))
    }
}

/// The table less what goes.
pub(super) fn without(table: &Table, removal: &Removal) -> Table {
    let mut left = table.clone();
    left.columns.retain(|c| !removal.columns.contains(&(table.id, c.id)));
    for column in &mut left.columns {
        if removal.defaults.contains(&(table.id, column.id)) {
            column.default = None;
        }
    }
    left.indexes.retain(|i| !removal.indexes.contains(&i.id));
    left.checks.retain(|c| !removal.constraints.contains(&c.id));
    left.foreign_keys.retain(|f| !removal.constraints.contains(&f.id));
    left
}

fn describe(catalog: &Catalog, id: TableId) -> String {
    match catalog.relation_by_id(id) {
        Some(Relation::Table(t)) => format!("table {}", t.name),
        Some(Relation::View(v)) => format!("view {}", v.name),
        Some(Relation::Sequence(s)) => format!("sequence {}", s.name),
        _ => format!("object {}", id.0),
    }
}

fn cascades(dependents: &[Dependent]) -> Notice {
    let line = |d: &Dependent| format!("drop cascades to {}", d.what);
    let (message, detail) = match dependents {
        [one] => (line(one), None),
        many => {
            let lines: Vec<String> = many.iter().map(line).collect();
            (format!("drop cascades to {} other objects", many.len()), Some(lines.join("\n")))
        }
    };
    Notice { severity: "NOTICE", code: "00000", message, detail, hint: None }
}

/// DROP TABLE, VIEW, SEQUENCE, INDEX
pub(super) async fn execute(
    ctx: &mut Context<'_>,
    kind: &ObjectType,
    names: &[ObjectName],
    if_exists: bool,
    cascade: bool,
) -> Result<String> {
    let word = match kind {
        ObjectType::Table => "table",
        ObjectType::View => "view",
        ObjectType::Sequence => "sequence",
        ObjectType::Index => "index",
        other => return Err(Error::unsupported(format!("DROP {other}"))),
    };
    loop {
        let mut removal = Removal::default();
        let mut first = None;
        // Planned again after a wait: what was said on the way is said then.
        let said = ctx.notices.len();
        for written in names {
            let name = name::object(written)?;
            let Some(relation) = ctx.catalog.relation(&name) else {
                if !if_exists {
                    let (condition, shown) = match kind {
                        ObjectType::Index => (Condition::UndefinedObject, "index"),
                        _ => (Condition::UndefinedTable, word),
                    };
                    return Err(Error::new(condition, format!("{shown} \"{name}\" does not exist")));
                }
                super::notice(ctx, format!("{word} \"{name}\" does not exist, skipping"));
                continue;
            };
            target(&mut removal, ctx.catalog, kind, relation.clone(), &name)?;
            rights::require_owner(ctx.catalog, ctx.user, &relation)?;
            first.get_or_insert(format!("{word} {name}"));
        }
        let Some(first) = first else { break };
        removal.complete(ctx, &first, cascade)?;
        let mut locks = Locks::default();
        removal.lock(ctx.catalog, &mut locks);
        if locks.take(ctx).await? {
            let mut change = Change::of(ctx.catalog);
            removal.change(ctx.catalog, &mut change)?;
            change.make(ctx)?;
            break;
        }
        ctx.notices.truncate(said);
    }
    Ok(format!("DROP {}", word.to_uppercase()))
}

fn target(removal: &mut Removal, catalog: &Catalog, kind: &ObjectType, relation: Relation, name: &str) -> Result<()> {
    match (kind, relation) {
        (ObjectType::Table, Relation::Table(t)) => {
            removal.tables.insert(t.id);
        }
        (ObjectType::View, Relation::View(v)) => {
            removal.views.insert(v.id);
        }
        (ObjectType::Sequence, Relation::Sequence(s)) => {
            if super::sequence::is_identity(catalog, &s)
                && let Some((table, column)) = s.owned_by
                && let Some(table) = catalog.tables.get(&table)
            {
                let column = table.column_by_id(column).map(|c| c.name.clone()).unwrap_or_default();
                return Err(requires(format!("sequence {name}"), format!("column {column} of table {}", table.name)));
            }
            removal.sequences.insert(s.id);
        }
        (ObjectType::Index, Relation::Index(table, id)) => {
            let constraint = table.primary.id == Some(id) || table.indexes.iter().any(|i| i.id == id && i.constraint);
            if constraint {
                return Err(requires(format!("index {name}"), format!("constraint {name} on table {}", table.name)));
            }
            removal.indexes.insert(id);
        }
        (wanted, relation) => return Err(wrong_kind(wanted, &relation, name)),
    }
    Ok(())
}

fn requires(what: String, by: String) -> Error {
    Error::new(Condition::DependentObjectsStillExist, format!("cannot drop {what} because {by} requires it"))
        .hint(format!("You can drop {by} instead."))
}

fn wrong_kind(wanted: &ObjectType, relation: &Relation, name: &str) -> Error {
    let (article, wanted) = match wanted {
        ObjectType::View => ("a", "view"),
        ObjectType::Sequence => ("a", "sequence"),
        ObjectType::Index => ("an", "index"),
        _ => ("a", "table"),
    };
    let (is_article, is) = match relation {
        Relation::Table(_) => ("a", "table"),
        Relation::View(_) => ("a", "view"),
        Relation::Sequence(_) => ("a", "sequence"),
        Relation::Index(..) => ("an", "index"),
    };
    Error::new(Condition::WrongObjectType, format!("\"{name}\" is not {article} {wanted}"))
        .hint(format!("Use DROP {} to remove {is_article} {is}.", is.to_uppercase()))
}

/// The tables that reference others, by the referenced table.
pub(super) fn children(catalog: &Catalog) -> BTreeMap<TableId, BTreeSet<TableId>> {
    let mut children: BTreeMap<TableId, BTreeSet<TableId>> = BTreeMap::new();
    for table in catalog.tables.values() {
        for key in &table.foreign_keys {
            children.entry(key.parent).or_default().insert(table.id);
        }
    }
    children
}
