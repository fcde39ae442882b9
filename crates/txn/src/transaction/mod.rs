//! One transaction: a snapshot, the writes laid over it, and what must still
//! hold when they are committed.
//!
//! ```text
//! begin ─ begin_statement ─ view, lock, put ─ begin_statement ─ … ─ commit
//!              │    ▲              │
//!              │    └─ restart ────┤  the row is newer than the snapshot
//!              └────── advance ◄───┘  the same, and nothing was read yet
//! ```
//! Isolation, in full:
//!
//! - **SERIALIZABLE** reads one snapshot. All reads are recorded, and the commit
//!   is conditional on none of them having changed since, so the transaction
//!   might as well have run at its commit timestamp. The snapshot may move
//!   forward in between ([`Transaction::advance`]) when what was read so far is
//!   unchanged up to there. A transaction that wrote nothing ran at its
//!   snapshot, which is serializable as it is.
//! - **READ COMMITTED** takes a snapshot for each statement and records nothing.
//!   A row it locked (except `KEY SHARE`) must be unchanged since the snapshot
//!   that the locking statement worked on, so that a lost lock cannot lose an
//!   update.
//!
//! Byzantine tables are serializable under either: what is read of them is a condition
//! of the commit, which the ledger checks. Under READ COMMITTED each statement sees the
//! newest state that this node has applied, as of strong tables.
//!
//! Of strong tables, both see everything that was acknowledged before their snapshot was
//! taken, from any session. A commit returns when its effect can be seen.

mod commit;
mod ordered;
mod statement;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_base::{Guarantee, Key, Precondition, RowChange, Span, Timestamp};

use ordered::Ordered;
pub use statement::{Reach, StatementMark};

use crate::database::{Inner, Isolation, TransactionOptions};
use crate::error::Error;
use crate::locks::{Holds, LockMode, TransactionId, Wait};
use crate::overlay::{Overlay, Slot, UndoMark};
use crate::reads::{ReadSet, Recorder};
use crate::replica::{Change, Snapshot};
use crate::view::{Local, View};

/// A transaction in progress. Dropping it rolls it back.
pub struct Transaction {
    database: Arc<Inner>,
    id: TransactionId,
    options: TransactionOptions,
    snapshot: Option<Arc<dyn Snapshot>>,
    read_at: Timestamp,
    /// Whether the snapshot holds all that was acknowledged before it was taken, and
    /// not only what this node happened to know
    confirmed: bool,
    /// What the present statement must see of strong tables
    reach: Reach,
    /// What the eventual tables show
    local: Option<Result<Local, Error>>,
    /// What the byzantine tables show
    ledger: Option<Ordered>,
    overlay: Overlay,
    /// Changes of rows of eventual tables, in order; the overlay shows what they make
    /// of the rows
    changes: Vec<(Key, RowChange)>,
    /// What it writes, once it has written
    guarantee: Option<Guarantee>,
    /// How many replicas are to keep what it writes to eventual tables
    replicas: u32,
    /// In whose name it writes to byzantine tables
    user: String,
    /// What [`Transaction::expect_absent`] and its siblings said, in order.
    conditions: Vec<Precondition>,
    reads: Reads,
    locked: LockedKeys,
    /// Whether locks that another node keeps are asked for with the batch
    defers_locks: bool,
    /// Which are
    claimed: Vec<(Key, LockMode)>,
    statement: u64,
}

/// What a serializable transaction has read.
#[derive(Default)]
struct Reads {
    /// Through views that are gone, all valid at `settled_at`.
    settled: ReadSet,
    settled_at: Timestamp,
    /// By earlier statements, through views that may still be read.
    earlier: Vec<Arc<Recorder>>,
    /// By this statement, before the snapshot moved.
    passed: Vec<Arc<Recorder>>,
    /// By this statement, at the present snapshot.
    current: Option<Arc<Recorder>>,
}

/// What a read-committed transaction has locked, and since when each must be
/// unchanged. When a key was locked by several statements the earliest counts.
#[derive(Default)]
struct LockedKeys {
    holds: Holds,
    earlier: HashMap<Key, Timestamp>,
    current: Vec<(Key, Timestamp)>,
}

/// A lock that was obtained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Locked {
    /// When the key was last written; [`Timestamp::ZERO`] if never. If that is
    /// later than [`Transaction::read_at`], the statement works on an old
    /// version and must restart or advance.
    pub newest: Timestamp,
    /// When the transaction reads the key
    pub read_at: Timestamp,
}

impl Locked {
    /// Whether the key is newer than what the statement works on.
    pub fn is_newer(&self) -> bool {
        self.newest > self.read_at
    }
}

/// A point within a transaction to roll back to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Savepoint {
    undo: UndoMark,
    conditions: usize,
    changes: usize,
    guarantee: Option<Guarantee>,
    statement: u64,
    locked: usize,
}

impl Transaction {
    pub(crate) fn new(database: Arc<Inner>, id: TransactionId, options: TransactionOptions) -> Transaction {
        let read_only = options.read_only || options.freshness.is_fixed();
        Transaction {
            database,
            id,
            options: TransactionOptions { read_only, ..options },
            snapshot: None,
            read_at: Timestamp::ZERO,
            confirmed: false,
            reach: Reach::Everywhere,
            local: None,
            ledger: None,
            user: String::new(),
            overlay: Overlay::default(),
            changes: Vec::new(),
            guarantee: None,
            replicas: 1,
            conditions: Vec::new(),
            reads: Reads::default(),
            locked: LockedKeys::default(),
            defers_locks: false,
            claimed: Vec::new(),
            statement: 0,
        }
    }

    /// Its name in messages about locks.
    pub fn id(&self) -> TransactionId {
        self.id
    }

    /// How it is kept apart from others.
    pub fn isolation(&self) -> Isolation {
        self.options.isolation
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    /// The timestamp of its snapshot; [`Timestamp::ZERO`] before the first
    /// statement.
    pub fn read_at(&self) -> Timestamp {
        self.read_at
    }

    /// Bytes written so far.
    pub fn size(&self) -> usize {
        self.overlay.size()
    }

    /// What the transaction sees now. Later writes do not show in it.
    pub fn view(&self) -> View {
        View {
            snapshot: self.snapshot.clone(),
            read_at: self.read_at,
            local: self.local.clone(),
            ledger: self.ledger.as_ref().map(|ledger| ledger.view.clone()),
            own: self.overlay.freeze(),
            reads: self.reads.current.clone(),
        }
    }

    /// Gives `key` a value.
    pub fn put(&mut self, key: Key, value: Bytes) -> Result<(), Error> {
        self.write(key, Slot::Value(value))
    }

    /// Takes its value from `key`.
    pub fn delete(&mut self, key: Key) -> Result<(), Error> {
        self.write(key, Slot::Deleted)
    }

    /// After a refusal the commit fails too, unless the statement or savepoint
    /// is rolled back.
    fn write(&mut self, key: Key, slot: Slot) -> Result<(), Error> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        self.writes(Guarantee::of_key(&key))?;
        let limit = self.database.options.max_transaction_bytes;
        if self.overlay.write(key, slot, limit) { Ok(()) } else { Err(Error::TooLarge { limit }) }
    }

    /// Says in whose name it writes to byzantine tables.
    pub fn speak_for(&mut self, user: &str) {
        user.clone_into(&mut self.user);
    }

    /// Changes a row of an eventual or byzantine table: `shown` is what this transaction's
    /// own reads are to see of it from now on. What [`Transaction::put`] and its like say
    /// of other keys of such tables (entries of indexes) is seen by this transaction alone.
    pub fn change(&mut self, key: Key, change: RowChange, shown: Option<Bytes>) -> Result<(), Error> {
        if Guarantee::of_key(&key) == Guarantee::Strong {
            return Err(Error::Misuse("a change of a row that is replicated as bytes"));
        }
        self.write(key.clone(), shown.map_or(Slot::Deleted, Slot::Value))?;
        self.changes.push((key, change));
        Ok(())
    }

    /// Notes that the transaction writes tables of this guarantee: it cannot write
    /// others then.
    pub fn writes(&mut self, guarantee: Guarantee) -> Result<(), Error> {
        match self.guarantee {
            Some(earlier) if earlier != guarantee => Err(Error::Mixed { earlier, now: guarantee }),
            _ => {
                self.guarantee = Some(guarantee);
                Ok(())
            }
        }
    }

    /// The guarantee of the tables that it wrote.
    pub fn guarantee(&self) -> Option<Guarantee> {
        self.guarantee
    }

    /// Asks for at least so many replicas to keep what is written to eventual tables
    /// before the commit returns.
    pub fn keep_on(&mut self, replicas: u32) {
        self.replicas = self.replicas.max(replicas);
    }

    /// Makes the commit conditional on `key` having no value. Says nothing if
    /// this transaction wrote the key itself.
    pub fn expect_absent(&mut self, key: Key) {
        if Guarantee::of_key(&key) != Guarantee::Eventual && self.overlay.current(&key) == Slot::Untouched {
            self.conditions.push(Precondition::Absent(key));
        }
    }

    /// Makes the commit conditional on `key` having a value. Says nothing if
    /// this transaction wrote the key itself.
    pub fn expect_present(&mut self, key: Key) {
        if Guarantee::of_key(&key) != Guarantee::Eventual && self.overlay.current(&key) == Slot::Untouched {
            self.conditions.push(Precondition::Present(key));
        }
    }

    /// Makes the commit conditional on no key of `span` being written after the
    /// present snapshot: what a READ COMMITTED transaction says about a read on
    /// which its correctness rests.
    pub fn expect_unchanged(&mut self, span: Span) {
        match (Guarantee::of_key(&span.start), &self.ledger) {
            (Guarantee::Strong, _) => self.conditions.push(Precondition::Unchanged { span, since: self.read_at }),
            (Guarantee::Byzantine, Some(ledger)) => ledger.note(span),
            _ => {}
        }
    }

    /// Whether a key of `span`, of strong tables, was written since `since`, up to the
    /// present snapshot at least.
    pub fn changed_since(&self, span: &Span, since: Timestamp) -> Change {
        self.replica().changed_since(span, since)
    }

    /// From now on asks for locks that another node keeps with the batch, and not before:
    /// for a transaction of one statement, which holds them for hardly longer than that.
    /// Its commit fails with [`Contested::Lock`](crate::Contested::Lock) where it would
    /// have waited; then it is to be run again without this. Whether there is another node
    /// to ask.
    pub fn defer_locks(&mut self) -> bool {
        self.defers_locks = self.database.locks.are_elsewhere(self.replica().as_ref());
        self.defers_locks
    }

    /// Locks `key` until the transaction ends. Savepoints do not give locks back
    /// (PostgreSQL's do): a key that was fought over once is likely needed again. A key of
    /// a byzantine table is not locked but noted as read, so that the commit fails if
    /// somebody wrote it meanwhile.
    ///
    /// Fails with [`Error::Deadlock`] when waiting would never end.
    pub async fn lock(&mut self, key: &Key, mode: LockMode, wait: Wait) -> Result<Locked, Error> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        if Guarantee::of_key(key) == Guarantee::Byzantine {
            let Some(ledger) = &self.ledger else { return Err(Error::Misuse("a lock where there is no ledger")) };
            ledger.note(key.point());
            let read_at = ledger.view.local.at;
            return Ok(Locked { newest: read_at, read_at });
        }
        let (_, replica) = self.database.directory.of_key(key);
        let defers = self.defers_locks && wait == Wait::Block && Guarantee::of_key(key) == Guarantee::Strong;
        if defers && self.database.locks.are_elsewhere(replica.as_ref()) {
            let newest = replica.last_write(key)?.unwrap_or(Timestamp::ZERO);
            self.claimed.push((key.clone(), mode));
            return Ok(self.locked_strongly(key, mode, newest));
        }
        let owner = (self.id, &mut self.locked.holds);
        let newest = self.database.locks.lock(replica, owner, key, mode, wait, self.options.lock_timeout).await?;
        if Guarantee::of_key(key) == Guarantee::Eventual {
            let read_at = match &self.local {
                Some(local) => local.as_ref().map_err(Error::clone)?.at,
                None => self.read_at,
            };
            return Ok(Locked { newest, read_at });
        }
        Ok(self.locked_strongly(key, mode, newest))
    }

    fn locked_strongly(&mut self, key: &Key, mode: LockMode, newest: Timestamp) -> Locked {
        if self.options.isolation == Isolation::ReadCommitted && mode != LockMode::KeyShare {
            self.locked.current.push((key.clone(), self.read_at));
        }
        Locked { newest, read_at: self.read_at }
    }

    /// A point to roll back to. Costs nothing and need not be released.
    pub fn savepoint(&mut self) -> Savepoint {
        Savepoint {
            undo: self.overlay.mark(),
            conditions: self.conditions.len(),
            changes: self.changes.len(),
            guarantee: self.guarantee,
            statement: self.statement,
            locked: self.locked.current.len(),
        }
    }

    /// Takes back what was written since `savepoint`, which can be rolled back
    /// to again. What was read in between stays read: its reader may have acted
    /// on it.
    pub fn rollback_to(&mut self, savepoint: &Savepoint) {
        self.overlay.rollback_to(savepoint.undo);
        self.conditions.truncate(savepoint.conditions);
        self.changes.truncate(savepoint.changes);
        self.guarantee = savepoint.guarantee;
        // What the abandoned statement locked it may have found stale.
        let before = if savepoint.statement == self.statement { savepoint.locked } else { 0 };
        self.locked.current.truncate(before);
    }

    /// How long the next locks are waited for; `None` for as long as it takes.
    pub fn set_lock_timeout(&mut self, timeout: Option<Duration>) {
        self.options.lock_timeout = timeout;
    }

    /// Ends the transaction without effect.
    pub async fn rollback(self) {
        drop(self);
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.database.locks.release_all(self.id, &self.locked.holds);
    }
}
