//! What brings the ledger in step with the catalog.
//!
//! The catalog is where a table is made; the ledger follows. Whoever changed the catalog
//! sees to that, and the node that leads the catalog does so again later, should the first
//! have crashed in between. So it may happen twice, and by an older catalog after a newer
//! one: each change is on the condition that the ledger's own record of the table is still
//! the one that was compared.

use std::collections::{BTreeMap, BTreeSet};

use polity_base::{Guarantee, IndexId};
use polity_txn::byzantine::bft::ledger::records;
use polity_txn::byzantine::bft::transaction::{Operation, Precondition, Privileges};
use polity_txn::byzantine::bft::types::Height;

use super::definition::definition;
use crate::catalog::{Catalog, Table};
use crate::error::Result;

/// One transaction for the ledger.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// In whose name
    pub user: String,
    /// The table, for messages
    pub table: String,
    /// What must hold
    pub preconditions: Vec<Precondition>,
    /// What is done
    pub operations: Vec<Operation>,
}

/// What makes of the ledger's tables, as they are at a height, those of the catalog, in
/// the order in which it must be done.
pub fn difference(catalog: &Catalog, ledger: &[(IndexId, records::Table)], at: Height) -> Result<Vec<Change>> {
    let known: BTreeMap<IndexId, &records::Table> = ledger.iter().map(|(storage, table)| (*storage, table)).collect();
    let mut wanted = BTreeSet::new();
    let mut changes = Vec::new();
    for table in parents_first(catalog) {
        let storage = table.primary.storage;
        wanted.insert(storage);
        let definition = definition(catalog, table)?;
        let before = known.get(&storage);
        if before.is_some_and(|before| before.definition == definition) {
            continue;
        }
        let mut operations = vec![Operation::Define { storage, definition: definition.encode().into() }];
        if before.is_none() {
            // Every role may use every table.
            operations.push(Operation::Grant { storage, user: String::new(), privileges: Privileges::ALL });
        }
        let owner = || catalog.role_by_id(table.owner).map(|role| role.name.clone()).unwrap_or_default();
        changes.push(Change {
            user: before.map_or_else(owner, |before| before.owner.clone()),
            table: table.name.clone(),
            preconditions: vec![as_compared(storage, at)],
            operations,
        });
    }
    // Who refers goes before what it refers to.
    let mut gone: Vec<&(IndexId, records::Table)> =
        ledger.iter().filter(|(storage, _)| !wanted.contains(storage)).collect();
    let names: BTreeSet<IndexId> = gone.iter().map(|(storage, _)| *storage).collect();
    while !gone.is_empty() {
        let waits = |(storage, table): &&(IndexId, records::Table)| {
            table.referrers.iter().any(|r| r != storage && names.contains(r) && gone.iter().any(|(s, _)| s == r))
        };
        let (later, mut now): (Vec<_>, Vec<_>) = gone.iter().copied().partition(|gone| waits(gone));
        if now.is_empty() {
            // A circle: the ledger will say what it thinks of it.
            now.clone_from(&later);
        }
        for (storage, table) in &now {
            changes.push(Change {
                user: table.owner.clone(),
                table: table.definition.name.clone(),
                preconditions: vec![as_compared(*storage, at)],
                operations: vec![Operation::Drop { storage: *storage }],
            });
        }
        gone.retain(|(storage, _)| !now.iter().any(|(dropped, _)| dropped == storage));
    }
    Ok(changes)
}

fn as_compared(storage: IndexId, at: Height) -> Precondition {
    Precondition::Unchanged(records::table(storage).point(), at)
}

/// Byzantine tables, each after those that it refers to.
fn parents_first(catalog: &Catalog) -> Vec<&Table> {
    let mut left: Vec<&Table> =
        catalog.tables.values().map(|table| &**table).filter(|t| t.guarantee == Guarantee::Byzantine).collect();
    let mut ordered: Vec<&Table> = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waits = |table: &&Table| {
            let other =
                |key: &crate::catalog::ForeignKey| key.parent != table.id && left.iter().any(|t| t.id == key.parent);
            table.foreign_keys.iter().any(other)
        };
        let (later, now): (Vec<&Table>, Vec<&Table>) = left.iter().partition(|table| waits(table));
        if now.is_empty() {
            ordered.extend(later);
            return ordered;
        }
        ordered.extend(now);
        left = later;
    }
    ordered
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use polity_base::{ColumnId, TableId, Type, Value};
    use polity_txn::byzantine::bft::transaction::Operation;

    use super::*;
    use crate::catalog::{Action, Column, ForeignKey, Index, Role};

    fn column(slot: u16, name: &str) -> Column {
        Column {
            id: ColumnId(slot),
            name: name.to_owned(),
            r#type: Type::Int8,
            not_null: slot == 0,
            default: None,
            identity: None,
            merge: Default::default(),
            missing: Value::Null,
            comment: None,
        }
    }

    fn table(id: u32, name: &str, parent: Option<u32>) -> Table {
        let storage = Guarantee::Byzantine.storage(id);
        let mut table = Table::new(TableId(id), name, storage);
        table.guarantee = Guarantee::Byzantine;
        table.columns = vec![column(0, "id"), column(1, "of")];
        table.primary.columns = vec![ColumnId(0)];
        if let Some(parent) = parent {
            let columns = vec![(ColumnId(1), polity_base::key::Direction::Ascending)];
            let storage = Guarantee::Byzantine.storage(id + 1);
            table.indexes = vec![Index { columns, ..Index::new(TableId(id + 1), format!("{name}_of"), storage) }];
            table.foreign_keys = vec![ForeignKey {
                id: TableId(id + 2),
                name: format!("{name}_fk"),
                columns: vec![ColumnId(1)],
                parent: TableId(parent),
                parent_columns: vec![ColumnId(0)],
                on_delete: Action::NoAction,
                on_update: Action::NoAction,
                match_full: false,
            }];
        }
        table
    }

    fn catalog(tables: Vec<Table>) -> Catalog {
        let mut catalog = Catalog::default();
        for table in tables {
            catalog.names.insert(table.name.clone(), table.id);
            catalog.tables.insert(table.id, Arc::new(table));
        }
        let owner = catalog.tables.values().next().map_or(TableId(10), |table| table.owner);
        let role = Role { id: owner, name: "ada".to_owned(), password: None, superuser: true, login: true };
        catalog.roles.insert("ada".to_owned(), Arc::new(role));
        catalog
    }

    /// What the ledger has once it was brought in step.
    fn applied(changes: &[Change]) -> Vec<(IndexId, records::Table)> {
        let mut tables: Vec<(IndexId, records::Table)> = Vec::new();
        for change in changes {
            let Operation::Define { storage, definition } = &change.operations[0] else { panic!("{change:?}") };
            let definition = polity_txn::byzantine::bft::ledger::rules::Definition::decode(definition).unwrap();
            for reference in &definition.references {
                let parent = tables.iter_mut().find(|(s, _)| *s == reference.parent).expect("parents come first");
                parent.1.referrers.push(*storage);
            }
            tables.push((*storage, records::Table { owner: change.user.clone(), definition, referrers: Vec::new() }));
        }
        tables
    }

    #[test]
    fn tables_are_made_once_parents_first_and_dropped_the_other_way_round() {
        let full =
            catalog(vec![table(100, "lines", Some(200)), table(200, "orders", Some(300)), table(300, "people", None)]);
        let made = difference(&full, &[], Height(7)).unwrap();
        let names: Vec<&str> = made.iter().map(|change| change.table.as_str()).collect();
        assert_eq!(names, ["people", "orders", "lines"]);
        assert!(made.iter().all(|change| change.user == "ada" && change.preconditions.len() == 1));

        let ledger = applied(&made);
        assert_eq!(difference(&full, &ledger, Height(9)).unwrap(), []);

        let dropped = difference(&catalog(Vec::new()), &ledger, Height(9)).unwrap();
        let names: Vec<&str> = dropped.iter().map(|change| change.table.as_str()).collect();
        assert_eq!(names, ["lines", "orders", "people"]);
        assert!(dropped.iter().all(|change| matches!(change.operations[..], [Operation::Drop { .. }])));
    }

    #[test]
    fn a_table_that_changed_is_defined_again_in_its_owners_name() {
        let ledger = applied(&difference(&catalog(vec![table(100, "t", None)]), &[], Height(1)).unwrap());
        let mut other = table(100, "renamed", None);
        other.columns.push(column(2, "more"));
        let changes = difference(&catalog(vec![other]), &ledger, Height(5)).unwrap();
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].user, "ada");
        assert!(matches!(changes[0].operations[..], [Operation::Define { .. }]), "grants stay as they are");
        let key = records::table(Guarantee::Byzantine.storage(100));
        assert_eq!(changes[0].preconditions, [Precondition::Unchanged(key.point(), Height(5))]);
    }
}
