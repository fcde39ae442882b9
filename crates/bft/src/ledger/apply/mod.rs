//! The one function that changes a ledger's state: what comes of a block.
//!
//! In block order, for each transaction: who it acts for; whether its preconditions
//! hold; its operations one by one; and at its end what must be true of all rows it
//! touched (`settle.rs`). The first thing that is not as it should be refuses all of it,
//! and the outcome says which. Whatever is refused has changed nothing.
//!
//! What comes out depends on the block, on the state before it and on the recent past
//! ([`crate::ledger::recent`]), which are themselves functions of the blocks before: on
//! no clock, no setting and no order of threads.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | blocks and transactions |
//! | `rows.rs` | changes of rows |
//! | `settle.rs` | indexes, UNIQUE and FOREIGN KEY, once a transaction is through |
//! | `tables.rs` | tables: made, changed, dropped, and swept away |
//! | `people.rs` | users, their keys and grants; who the validators are |

mod people;
mod rows;
mod settle;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use polity_base::planted::{Bug, planted};
use polity_base::{IndexId, Key};

use super::error::Error;
use super::outcome::{Outcome, Refusal};
use super::overlay::Overlay;
use super::recent::{Answer, Recent};
use super::records::{self, Table, storage_of};
use super::rules::RowRules;
use super::storage::View;
use super::tree::Changes;
use crate::evidence::Evidence;
use crate::genesis::Parameters;
use crate::transaction::{Body, Operation, Precondition, SignedTransaction};
use crate::types::{Height, Validators};

use people::Actor;

/// What a block is applied in.
pub struct Surroundings<'a> {
    /// What the ledger agreed on at genesis
    pub parameters: &'a Parameters,
    /// What the floors above know about rows
    pub rules: &'a dyn RowRules,
    /// The recent past
    pub recent: &'a Recent,
    /// The block's height
    pub height: Height,
    /// Who decides about the block
    pub validators: &'a Validators,
    /// Who decides last, as far as is scheduled
    pub newest_validators: &'a Validators,
}

/// What comes of a block.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Executed {
    /// What changes in the tree
    pub changes: Changes,
    /// What changes besides: entries of indexes
    pub entries: Changes,
    /// What becomes of each transaction
    pub outcomes: Vec<Outcome>,
    /// All keys that change, in order
    pub written: Vec<Key>,
    /// Validators from a height on, if they change
    pub validators: Option<(Height, Validators)>,
    /// Indexes that were dropped, whose entries may go at any time
    pub dropped: Vec<IndexId>,
}

/// Why a step of a transaction went no further.
enum Stop {
    /// The transaction is refused
    Refused(Refusal),
    /// The state cannot be read
    Failed(Error),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

type Step<T = ()> = Result<T, Stop>;

/// Applies transactions and evidence to a state.
pub fn execute<V: View>(
    view: &V,
    surroundings: &Surroundings<'_>,
    transactions: &[Arc<SignedTransaction>],
    evidence: &[Evidence],
) -> Result<Executed, Error> {
    let mut work = Work::new(view, surroundings);
    let outcomes = transactions.iter().map(|transaction| work.transaction(transaction.body()));
    let outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
    for evidence in evidence {
        work.state.put(records::accusation(&evidence.key()), Some(evidence.encode().into()));
    }
    work.state.keep();
    work.sweep()?;
    Ok(work.finish(outcomes))
}

/// A block being applied.
struct Work<'a, V> {
    given: &'a Surroundings<'a>,
    state: Overlay<'a, V>,
    /// Tables as the transaction sees them
    tables: BTreeMap<IndexId, Option<Arc<Table>>>,
    /// Storages that hold rows, and are in the tree
    rows: BTreeSet<IndexId>,
    /// Validators from two heights later on, if they change
    validators: Option<Validators>,
    /// The same, as the transaction wants it
    wanted: Option<Validators>,
    /// Indexes that were dropped, and those that the transaction drops
    dropped: Vec<IndexId>,
    dropping: Vec<IndexId>,
}

impl<'a, V: View> Work<'a, V> {
    fn new(view: &'a V, given: &'a Surroundings<'a>) -> Work<'a, V> {
        Work {
            given,
            state: Overlay::new(view),
            tables: BTreeMap::new(),
            rows: BTreeSet::new(),
            validators: None,
            wanted: None,
            dropped: Vec::new(),
            dropping: Vec::new(),
        }
    }

    fn transaction(&mut self, body: &Body) -> Result<Outcome, Error> {
        self.wanted = self.validators.clone();
        self.dropping.clear();
        match self.attempt(body) {
            Ok(()) => {
                self.state.keep();
                self.validators = self.wanted.take();
                self.dropped.append(&mut self.dropping);
                Ok(Outcome::Applied)
            }
            Err(Stop::Refused(refusal)) => {
                self.state.take_back();
                self.tables.clear();
                Ok(Outcome::Refused(refusal))
            }
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn attempt(&mut self, body: &Body) -> Step {
        let actor = self.actor(body)?;
        for precondition in &body.preconditions {
            self.precondition(precondition)?;
        }
        for operation in &body.operations {
            self.operation(&actor, operation)?;
        }
        self.settle()
    }

    fn precondition(&self, precondition: &Precondition) -> Step {
        if planted(Bug::SkipLedgerPrecondition) {
            return Ok(());
        }
        match precondition {
            Precondition::Unchanged(span, since) => {
                let next = self.given.height;
                match self.given.recent.changed_since(span, *since, next) {
                    Answer::TooOld => return Err(Refusal::TooOld.into()),
                    Answer::Changed(key) => return Err(Refusal::Conflict(key).into()),
                    Answer::Unchanged => {}
                }
                match self.state.written_before(span) {
                    Some(key) => Err(Refusal::Conflict(key).into()),
                    None => Ok(()),
                }
            }
            Precondition::Present(key) if self.state.get(key)?.is_none() => Err(Refusal::Missing(key.clone()).into()),
            Precondition::Absent(key) if self.state.get(key)?.is_some() => Err(Refusal::Exists(key.clone()).into()),
            Precondition::Present(_) | Precondition::Absent(_) => Ok(()),
        }
    }

    fn operation(&mut self, actor: &Actor, operation: &Operation) -> Step {
        match operation {
            Operation::Row { key, change } => self.change_row(actor, key, change),
            Operation::Define { storage, definition } => self.define(actor, *storage, definition),
            Operation::Drop { storage } => self.drop_table(actor, *storage),
            Operation::Grant { storage, user, privileges } => self.grant(actor, *storage, user, *privileges),
            Operation::Register { user, key, exclusive } => self.register(actor, user, key, *exclusive),
            Operation::Revoke { key } => self.revoke(actor, key),
            Operation::Approve(change) => self.approve(actor, change),
        }
    }

    /// The table whose rows are in a storage.
    fn table(&mut self, storage: IndexId) -> Step<Arc<Table>> {
        if let Some(known) = self.tables.get(&storage) {
            return known.clone().ok_or(Refusal::NoTable(storage).into());
        }
        let found = match self.state.get(&records::table(storage))? {
            None => None,
            Some(bytes) => {
                let table = Table::decode(&bytes).map_err(|e| Error::damaged("a table", &e))?;
                Some(Arc::new(table))
            }
        };
        self.tables.insert(storage, found.clone());
        found.ok_or(Refusal::NoTable(storage).into())
    }

    /// Writes a record, and what is known because of it.
    fn put_table(&mut self, storage: IndexId, table: Option<Table>) {
        self.state.put(records::table(storage), table.as_ref().map(Table::encode));
        self.tables.insert(storage, table.map(Arc::new));
    }

    fn put_row(&mut self, key: Key, row: Option<Bytes>) {
        self.rows.insert(storage_of(&key));
        self.state.put(key, row);
    }

    fn finish(self, outcomes: Vec<Outcome>) -> Executed {
        let from = Height(self.given.height.0 + 2);
        let validators = self.validators.map(|validators| (from, validators));
        let all = self.state.into_changes();
        let written = all.keys().cloned().collect();
        let in_tree = |key: &Key| {
            let storage = storage_of(key);
            storage == records::records() || self.rows.contains(&storage)
        };
        let (changes, entries) = all.into_iter().partition(|(key, _)| in_tree(key));
        Executed { changes, entries, outcomes, written, validators, dropped: self.dropped }
    }
}
