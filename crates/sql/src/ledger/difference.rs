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
use crate::catalog::{self, Catalog, Table};
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

/// What the ledger has of a table.
#[derive(Clone, PartialEq, Debug)]
pub struct Known {
    /// The stretch of keys of its rows
    pub storage: IndexId,
    /// Its record
    pub table: records::Table,
    /// What users may do with it besides its owner
    pub grants: BTreeMap<String, Privileges>,
}

/// What makes of the ledger's tables, as they are at a height, those of the catalog, in
/// the order in which it must be done.
pub fn difference(catalog: &Catalog, ledger: &[Known], at: Height) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    let mut wanted = BTreeSet::new();
    for table in parents_first(catalog) {
        let storage = table.primary.storage;
        wanted.insert(storage);
        let known = ledger.iter().find(|known| known.storage == storage);
        changes.extend(change(catalog, table, known, at)?);
    }
    changes.extend(removals(ledger, &wanted, at));
    Ok(changes)
}

/// What makes of a table in the ledger, if it is there, that of the catalog.
fn change(catalog: &Catalog, table: &Table, known: Option<&Known>, at: Height) -> Result<Option<Change>> {
    let storage = table.primary.storage;
    let definition = definition(catalog, table)?;
    let mut operations = Vec::new();
    if known.is_none_or(|known| known.table.definition != definition) {
        operations.push(Operation::Define { storage, definition: definition.encode().into() });
    }
    let (has, wanted) = (known.map(|known| known.grants.clone()).unwrap_or_default(), grants(catalog, table));
    let users: BTreeSet<&String> = has.keys().chain(wanted.keys()).collect();
    for user in users {
        let privileges = wanted.get(user).copied().unwrap_or_default();
        if has.get(user).copied().unwrap_or_default() != privileges {
            operations.push(Operation::Grant { storage, user: user.clone(), privileges });
        }
    }
    if operations.is_empty() {
        return Ok(None);
    }
    let owner = || catalog.role_by_id(table.owner).map(|role| role.name.clone()).unwrap_or_default();
    Ok(Some(Change {
        user: known.map_or_else(owner, |known| known.table.owner.clone()),
        table: table.name.clone(),
        preconditions: as_compared(storage, at),
        operations,
    }))
}

/// What the ledger is told of who may write to a table. Who may read it is for the node
/// to say that is asked: validators have it all.
pub fn grants(catalog: &Catalog, table: &Table) -> BTreeMap<String, Privileges> {
    const WRITES: [(catalog::Privileges, Privileges); 3] = [
        (catalog::Privileges::INSERT, Privileges::INSERT),
        (catalog::Privileges::UPDATE, Privileges::UPDATE),
        (catalog::Privileges::DELETE, Privileges::DELETE),
    ];
    let told = |grant: &catalog::Grant| {
        let user = match grant.to {
            None => String::new(),
            Some(role) => catalog.role_by_id(role)?.name.clone(),
        };
        let held = WRITES.iter().filter(|(here, _)| grant.privileges.include(*here));
        let privileges = held.fold(Privileges::default(), |all, (_, there)| all.and(*there));
        (privileges != Privileges::default()).then_some((user, privileges))
    };
    catalog.grants_on(table.id).iter().filter_map(told).collect()
}

/// Takes away what is not wanted: who refers goes before what it refers to.
fn removals(ledger: &[Known], wanted: &BTreeSet<IndexId>, at: Height) -> Vec<Change> {
    let mut gone: Vec<&Known> = ledger.iter().filter(|known| !wanted.contains(&known.storage)).collect();
    let mut changes = Vec::with_capacity(gone.len());
    while !gone.is_empty() {
        let waits = |known: &&Known| {
            let others = known.table.referrers.iter().filter(|referrer| **referrer != known.storage);
            others.into_iter().any(|referrer| gone.iter().any(|other| other.storage == *referrer))
        };
        let (later, mut now): (Vec<_>, Vec<_>) = gone.iter().copied().partition(|known| waits(known));
        if now.is_empty() {
            // A circle: the ledger will say what it thinks of it.
            now.clone_from(&later);
        }
        for known in &now {
            changes.push(Change {
                user: known.table.owner.clone(),
                table: known.table.definition.name.clone(),
                preconditions: as_compared(known.storage, at),
                operations: vec![Operation::Drop { storage: known.storage }],
            });
        }
        gone.retain(|known| !now.iter().any(|dropped| dropped.storage == known.storage));
    }
    changes
}

fn as_compared(storage: IndexId, at: Height) -> Vec<Precondition> {
    [records::table(storage).point(), records::grants(storage)].map(|span| Precondition::Unchanged(span, at)).into()
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
    fn applied(changes: &[Change]) -> Vec<Known> {
        let mut tables: Vec<Known> = Vec::new();
        for change in changes {
            let Operation::Define { storage, definition } = &change.operations[0] else { panic!("{change:?}") };
            let definition = polity_txn::byzantine::bft::ledger::rules::Definition::decode(definition).unwrap();
            for reference in &definition.references {
                let parent = tables.iter_mut().find(|known| known.storage == reference.parent);
                parent.expect("parents come first").table.referrers.push(*storage);
            }
            let table = records::Table { owner: change.user.clone(), definition, referrers: Vec::new() };
            let granted = change.operations[1..].iter().map(|operation| match operation {
                Operation::Grant { user, privileges, .. } => (user.clone(), *privileges),
                other => panic!("{other:?}"),
            });
            tables.push(Known { storage: *storage, table, grants: granted.collect() });
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
        assert!(made.iter().all(|change| change.user == "ada" && change.preconditions.len() == 2));

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
        let storage = Guarantee::Byzantine.storage(100);
        let compared = [records::table(storage).point(), records::grants(storage)];
        assert_eq!(changes[0].preconditions, compared.map(|span| Precondition::Unchanged(span, Height(5))));
    }

    #[test]
    fn the_ledger_is_told_who_may_write_and_by_which_name() {
        let granted = |name: &str, grants: &[(Option<u32>, catalog::Privileges)]| {
            let mut catalog = catalog(vec![table(100, "t", None)]);
            let role = Role { id: TableId(50), name: name.to_owned(), password: None, superuser: false, login: true };
            catalog.roles.insert(name.to_owned(), Arc::new(role));
            let grants =
                grants.iter().map(|(to, privileges)| catalog::Grant { to: to.map(TableId), privileges: *privileges });
            catalog.grants.insert(TableId(100), grants.collect::<Vec<_>>().into());
            catalog
        };
        let reads = (None, catalog::Privileges::SELECT);
        let writes = catalog::Privileges::ALL.without(catalog::Privileges::DELETE);
        let made = difference(&granted("bob", &[reads, (Some(50), writes)]), &[], Height(1)).unwrap();
        let ledger = applied(&made);
        assert_eq!(
            ledger[0].grants,
            BTreeMap::from([("bob".to_owned(), Privileges::INSERT.and(Privileges::UPDATE))]),
            "who may read is not the ledger's"
        );
        assert_eq!(difference(&granted("bob", &[reads, (Some(50), writes)]), &ledger, Height(2)).unwrap(), []);

        // A role that is renamed is another user there.
        let renamed = difference(&granted("eve", &[(Some(50), writes)]), &ledger, Height(2)).unwrap();
        let storage = Guarantee::Byzantine.storage(100);
        let grant = |user: &str, privileges| Operation::Grant { storage, user: user.to_owned(), privileges };
        let both = Privileges::INSERT.and(Privileges::UPDATE);
        assert_eq!(renamed[0].operations, [grant("bob", Privileges::default()), grant("eve", both)]);
    }
}
