//! What a statement has at hand while it runs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use polity_base::{IndexId, TableId};
use polity_txn::Transaction;

use crate::catalog::Catalog;
use crate::session::settings::Settings;
use crate::session::{Engine, Watch};

/// What a statement has at hand while it runs: the transaction it is part of,
/// the catalog it sees, and its session's settings.
pub struct Context<'a> {
    /// The node's SQL engine
    pub engine: &'a Arc<Engine>,
    /// The transaction
    pub txn: &'a mut Transaction,
    /// The catalog at the transaction's snapshot, with the changes the
    /// transaction itself has made; DDL replaces it
    pub catalog: &'a mut Arc<Catalog>,
    /// The session's settings
    pub settings: &'a Settings,
    /// What the session keeps about sequences: `currval`, `lastval`
    pub sequences: &'a SequenceMemory,
    /// The user of the session
    pub user: &'a str,
    /// The number of the session
    pub session: u32,
    /// When the transaction began (`now()`), in microseconds since 1970 UTC
    pub transaction_time: i64,
    /// Notices to send to the client
    pub notices: &'a mut Vec<Notice>,
    /// Storages made in this transaction: no one else can see their rows yet,
    /// so these may be written directly
    pub fresh: &'a mut HashSet<IndexId>,
    /// Whether plans made for this catalog may be kept: not within a transaction
    /// that has changed it
    pub cacheable: bool,
    /// Whether the statement is a transaction of its own: nothing else of it is seen, or
    /// depends on it
    pub alone: bool,
    /// Tells whether the statement should end
    pub watch: &'a Watch,
}

/// What `currval` and `lastval` remember within one session. Clones share it: a
/// query that draws numbers runs beside its session.
#[derive(Clone, Default, Debug)]
pub struct SequenceMemory(Arc<Mutex<Remembered>>);

#[derive(Default, Debug)]
struct Remembered {
    /// The last value per sequence
    values: HashMap<TableId, i64>,
    /// The sequence that gave the last value
    last: Option<TableId>,
}

impl SequenceMemory {
    /// Notes that a sequence gave a value.
    pub fn note(&self, sequence: TableId, value: i64) {
        let mut remembered = self.0.lock();
        remembered.values.insert(sequence, value);
        remembered.last = Some(sequence);
    }

    /// The last value of a sequence.
    pub fn value(&self, sequence: TableId) -> Option<i64> {
        self.0.lock().values.get(&sequence).copied()
    }

    /// The sequence that gave the last value.
    pub fn last(&self) -> Option<TableId> {
        self.0.lock().last
    }
}

/// A message that is not an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// NOTICE, WARNING, INFO
    pub severity: &'static str,
    /// Five characters
    pub code: &'static str,
    /// What is noticed
    pub message: String,
    /// More about it
    pub detail: Option<String>,
    /// What to do about it
    pub hint: Option<String>,
}
