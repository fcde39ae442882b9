//! What is particular to byzantine tables: statements wait until this node's ledger knows
//! what the catalog says, and what a ledger's refusals mean.
//!
//! The catalog changes first and the ledger follows, on each node at its own time. Until
//! it did, an index of the catalog has no entries yet and a table no rules to write by, so
//! nothing is read or written by such a definition: what a statement sees of the ledger is
//! compared with what it sees of the catalog.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_base::{Guarantee, Key, NodeId, TableId};
use polity_txn::byzantine::LedgerError;
use polity_txn::byzantine::bft::ledger::records;
use polity_txn::byzantine::bft::ledger::{Refusal, rules::Definition};

use super::context::Notice;
use super::prepared::Prepared;
use super::run::Active;
use super::{Engine, Session};
use crate::catalog::{Catalog, Table};
use crate::error::{Condition, Error, Result};
use crate::ledger;

/// How long a statement waits for the definition of a table to be ordered and applied.
const PATIENCE: Duration = Duration::from_secs(10);

/// The key under which the ledger keeps the definition of a table.
pub(crate) fn definition_key(table: &Table) -> Key {
    records::table(table.primary.storage)
}

/// A table of which the ledger, as a statement sees it, does not know what the catalog
/// says.
pub(super) struct Late {
    table: Arc<Table>,
    wanted: Definition,
}

/// The first of the statement's tables of which the ledger does not know yet what the
/// catalog says.
pub(super) fn late(engine: &Engine, prepared: &Prepared, active: &Active) -> Result<Option<Late>> {
    if engine.database().directory().ledger().is_none() {
        return Ok(None);
    }
    let catalog = &active.catalog;
    let tables = prepared.ledger_tables(catalog.version, || tables_of(prepared, catalog));
    let view = if tables.is_empty() { return Ok(None) } else { active.txn.view().untracked() };
    for table in tables.iter() {
        let stored = view.get(&definition_key(table))?;
        if stored.as_ref().is_some_and(|stored| engine.definitions().holds(table.id, catalog.version, stored)) {
            continue;
        }
        let wanted = ledger::definition(catalog, table)?;
        match stored {
            Some(stored) if is(&stored, &wanted)? => {
                engine.definitions().keep(table.id, catalog.version, stored);
            }
            _ => return Ok(Some(Late { table: table.clone(), wanted })),
        }
    }
    Ok(None)
}

fn is(stored: &Bytes, wanted: &Definition) -> Result<bool> {
    let table = records::Table::decode(stored);
    let table = table.map_err(|e| Error::new(Condition::DataCorrupted, format!("a table of the ledger: {e}")))?;
    Ok(table.definition == *wanted)
}

/// The byzantine tables that a statement can come by.
fn tables_of(prepared: &Prepared, catalog: &Catalog) -> Arc<[Arc<Table>]> {
    let mut ids: Vec<TableId> =
        prepared.relations().iter().filter_map(|name| catalog.names.get(name)).copied().collect();
    let mut tables: Vec<Arc<Table>> = Vec::new();
    let mut at = 0;
    while let Some(id) = ids.get(at).copied() {
        at += 1;
        let mut more = catalog.views.get(&id).map_or_else(Vec::new, |view| view.reads.clone());
        if let Some(table) = catalog.tables.get(&id).filter(|table| table.guarantee == Guarantee::Byzantine) {
            tables.push(table.clone());
            more.extend(table.foreign_keys.iter().map(|key| key.parent));
            more.extend(catalog.references_to(id).map(|(child, _)| child.id));
        }
        more.retain(|id| !ids.contains(id));
        ids.extend(more);
    }
    tables.into()
}

/// Waits until this node's ledger has the definition.
pub(super) async fn wait_until_defined(engine: &Engine, late: &Late, own_change: bool) -> Result<()> {
    if own_change {
        return Err(Error::new(
            Condition::ObjectNotInPrerequisiteState,
            format!("byzantine table \"{}\" is being changed by this transaction", late.table.name),
        )
        .detail("Its ledger learns of the change when the transaction commits.")
        .hint("Commit first.")
        .table(&late.table.name));
    }
    let changes = engine.database().directory().ledger().and_then(|ledger| ledger.condition());
    let Some(mut changes) = changes else { return Err(unknown_here(late)) };
    let defined = async {
        loop {
            changes.mark_unchanged();
            let reader = engine.database().directory().ledger().and_then(|ledger| ledger.reader());
            let Some(reader) = reader else { return Err(unknown_here(late)) };
            let known = reader.table(late.table.primary.storage).map_err(ledger::step::of_ledger)?;
            if known.is_some_and(|known| known.definition == late.wanted) {
                return Ok(());
            }
            if changes.changed().await.is_err() {
                return Err(unknown_here(late));
            }
        }
    };
    tokio::time::timeout(PATIENCE, defined).await.unwrap_or_else(|_| Err(unknown_here(late)))
}

fn unknown_here(late: &Late) -> Error {
    let name = &late.table.name;
    Error::new(
        Condition::NoQuorum,
        format!("the ledger on this node does not know yet what table \"{name}\" has become"),
    )
    .detail("The catalog has its new definition; the ledger has not ordered it, or this node has not applied it.")
    .hint("Retry in a moment. SELECT * FROM polity.blocks shows how far this node is.")
    .table(name)
}

impl Session {
    /// Tells the ledger what has changed. That it cannot be told now undoes nothing: it
    /// is told again.
    pub(super) async fn bring_in_step(&mut self) {
        let engine = self.engine.clone();
        if let Err(error) = ledger::step::in_step(&engine).await {
            let message = "the definition is committed, and the ledger does not know it yet".to_owned();
            let detail = Some(format!("{}. It is told again until it does.", error.message()));
            let hint = Some("Statements about the table wait until then.".to_owned());
            self.notices.push(Notice { severity: "WARNING", code: "01000", message, detail, hint });
        }
    }
}

/// A refusal of the ledger in the words of SQL. What it is about is said once the catalog
/// is at hand: see [`naming`].
pub(super) fn of_ledger(error: &LedgerError) -> Error {
    match error {
        LedgerError::TooFewNodes { nodes } => {
            Error::unsupported(format!("a byzantine table in a cluster of {nodes} nodes"))
                .detail("A ledger needs four nodes at least: of three, one that lies could make the others disagree.")
                .hint("Add nodes with polity start --join; or keep the table strong, which crashes cannot harm.")
        }
        LedgerError::NoQuorum { present, needed, total, silent } => no_quorum(*present, *needed, *total, silent),
        LedgerError::TooLarge { limit } => Error::new(Condition::ProgramLimitExceeded, "the transaction is too large")
            .detail(format!("A transaction may change up to {limit} bytes of byzantine tables."))
            .hint("Split it into smaller transactions."),
        LedgerError::Refused(refusal) => of_refusal(refusal),
    }
}

fn no_quorum(present: u64, needed: u64, total: u64, silent: &[NodeId]) -> Error {
    let names: Vec<String> = silent.iter().map(|NodeId(node)| node.to_string()).collect();
    let silent = if names.is_empty() { String::new() } else { format!(" Not heard: node {}.", names.join(", ")) };
    Error::new(Condition::NoQuorum, "too few validators are heard for the ledger to decide")
        .detail(format!(
            "Validators with a power of {present} of {total} are heard from here, and deciding takes {needed}: {} are \
             missing.{silent} Nothing was changed.",
            needed.saturating_sub(present)
        ))
        .hint(
            "What this node has applied can be read. Writing goes on by itself once enough power is heard: start the \
             silent nodes, or heal the network; polity ledger status shows who hears whom.",
        )
}

fn of_refusal(refusal: &Refusal) -> Error {
    let ordered = "It is what the row had become when the transaction's turn came.";
    let (condition, message) = match refusal {
        Refusal::Conflict(_) | Refusal::TooOld | Refusal::Missing(_) | Refusal::Exists(_) => {
            return Error::new(Condition::SerializationFailure, "could not serialize access due to concurrent update")
                .detail(format!("When the transaction's turn came: {refusal}."))
                .hint("The transaction might succeed if retried.");
        }
        Refusal::Denied(why) => {
            return Error::new(Condition::InsufficientPrivilege, "the ledger does not allow it")
                .detail(format!("The validators say: {why}."))
                .hint(
                    "The owner of the table can GRANT what is missing; superusers of the cluster need it too, but for \
                     the one who made the ledger. A user who signs with an own key writes by polity ledger submit.",
                );
        }
        Refusal::NoTable(storage) => {
            return Error::new(Condition::SerializationFailure, "the table is not in the ledger")
                .detail(format!("No table has its rows in {storage}: it was dropped, or is not defined yet."))
                .hint("The transaction might succeed if retried.");
        }
        Refusal::TooMuch(_) => (Condition::ProgramLimitExceeded, refusal.to_string()),
        Refusal::NotNull(column) => {
            return Error::new(
                Condition::NotNullViolation,
                format!("null value in column \"{column}\" violates not-null constraint"),
            )
            .detail(ordered)
            .column(column);
        }
        Refusal::Check(name) => {
            return Error::new(Condition::CheckViolation, format!("new row violates check constraint \"{name}\""))
                .detail(ordered)
                .constraint(name);
        }
        Refusal::Duplicate(name) => {
            return Error::new(
                Condition::UniqueViolation,
                format!("duplicate key value violates unique constraint \"{name}\""),
            )
            .detail("Another transaction with the same value was ordered before.")
            .constraint(name);
        }
        Refusal::Reference(name) => {
            return Error::new(
                Condition::ForeignKeyViolation,
                format!("row violates foreign key constraint \"{name}\""),
            )
            .detail("The row that is referred to was not there any more, or is still referred to.")
            .constraint(name);
        }
        Refusal::OutOfRange(column) => {
            return Error::new(Condition::NumericValueOutOfRange, format!("column \"{column}\" is out of range"))
                .detail(ordered)
                .column(column);
        }
        Refusal::Unchanged => {
            return Error::new(Condition::InternalError, "the ledger does not take the transaction")
                .detail(format!("The validators say: {refusal}."));
        }
        Refusal::Malformed(what) => {
            return Error::new(Condition::InternalError, "the ledger does not take the transaction")
                .detail(format!("The validators say: {what}."));
        }
    };
    Error::new(condition, message)
}

/// Says which table a refusal is about.
pub(super) fn naming(error: &LedgerError, catalog: &Catalog) -> Error {
    let said = of_ledger(error);
    let LedgerError::Refused(Refusal::Check(name) | Refusal::Duplicate(name) | Refusal::Reference(name)) = error else {
        return said;
    };
    let ledgers = || catalog.tables.values().filter(|t| t.guarantee == Guarantee::Byzantine);
    let has = |table: &&Arc<Table>| {
        table.name == *name
            || table.checks.iter().any(|check| check.name == *name)
            || table.indexes.iter().any(|index| index.name == *name)
            || table.foreign_keys.iter().any(|key| key.name == *name)
    };
    let mut found = ledgers().filter(has);
    match (found.next(), found.next()) {
        (Some(table), None) if table.name == *name => {
            // The ledger names the table where the row's own key is there twice.
            let constraint = table.primary.name.as_deref().unwrap_or(name);
            let message = format!("duplicate key value violates unique constraint \"{constraint}\"");
            said.with_message(message).table(&table.name).constraint(constraint)
        }
        (Some(table), None) => said.table(&table.name),
        _ => said,
    }
}

/// The definitions that were found to be the catalog's: what the ledger has, and by which
/// version of the catalog.
#[derive(Default)]
pub struct Definitions(parking_lot::RwLock<std::collections::HashMap<TableId, (u64, Bytes)>>);

impl Definitions {
    fn holds(&self, table: TableId, catalog: u64, stored: &Bytes) -> bool {
        self.0.read().get(&table).is_some_and(|(version, known)| *version == catalog && known == stored)
    }

    fn keep(&self, table: TableId, catalog: u64, stored: Bytes) {
        self.0.write().insert(table, (catalog, stored));
    }
}
