//! Where transactions begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use polity_base::seams::{ClockSource, Seams, unique_id};
use polity_base::{Batch, Key, NodeId, Operation, Precondition, Span, Timestamp};

use crate::directory::Directory;
use crate::error::{Contested, Error, WaitsFor};
use crate::freshness::{Freshness, close_while_idle};
use crate::locks::{Listed, LockKeeper, LockNetwork, TransactionId};
use crate::replica::Outcome;
use crate::transaction::Transaction;

/// How the effects of concurrent transactions are kept apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Isolation {
    /// As if transactions ran one at a time, in an order that agrees with real
    /// time. A transaction that cannot be placed so fails with
    /// [`Error::Conflict`].
    #[default]
    Serializable,
    /// Each statement sees what was committed when it began. No serialization
    /// errors as long as locks are not lost; no protection from what others
    /// change between statements.
    ReadCommitted,
}

/// How a transaction is to run.
#[derive(Clone, Debug, Default)]
pub struct TransactionOptions {
    /// How it is kept apart from others.
    pub isolation: Isolation,
    /// Whether writes and locks are refused. What is read then need not be
    /// recorded.
    pub read_only: bool,
    /// How old a state is read; anything but the latest implies `read_only`.
    pub freshness: Freshness,
    /// How long to wait for one lock; `None` waits as long as it takes.
    pub lock_timeout: Option<Duration>,
}

/// What a database is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node, which signs the batches.
    pub node: NodeId,
    /// How much one transaction may write, in bytes.
    pub max_transaction_bytes: usize,
    /// For how long a node's locks are kept for it at another that hears nothing
    /// of it. The same on all nodes.
    pub lock_lease: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options { node: NodeId(1), max_transaction_bytes: 256 << 20, lock_lease: Duration::from_secs(5) }
    }
}

/// The rows of all ranges, changed by transactions. Clones are the same database.
#[derive(Clone)]
pub struct Database {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub directory: Directory,
    pub locks: LockKeeper,
    pub options: Options,
    pub clock: Arc<dyn ClockSource>,
    /// Upper half of batch ids: no other run of any node draws the same.
    run: u64,
    transactions: AtomicU64,
    batches: AtomicU64,
}

impl Inner {
    /// The node that keeps the lock of `key`, as far as is known here.
    pub fn leader(&self, key: &[u8]) -> Option<NodeId> {
        self.directory.of_key(key).1.leader()
    }

    pub fn batch(&self, preconditions: Vec<Precondition>, operations: Vec<Operation>) -> Batch {
        let number = self.batches.fetch_add(1, Ordering::Relaxed);
        let id = u128::from(self.run) << 64 | u128::from(number);
        Batch { id, author: self.options.node, preconditions, operations }
    }
}

impl Database {
    /// The database that the replicas of `directory` hold, on a node that is
    /// alone: all locks are kept here.
    pub fn open(directory: Directory, seams: &Seams, options: Options) -> Database {
        let run = unique_id(seams.entropy.as_ref()) as u64;
        Database::new(directory, seams, LockKeeper::alone(options.node), options, run)
    }

    /// The database that the replicas of `directory` hold, on a node among others:
    /// locks are kept by whoever leads, which is asked through `network`. The node
    /// must answer the others with a [`LockServer`](crate::LockServer). Must be
    /// called in a runtime.
    pub fn open_among_others(
        directory: Directory,
        seams: &Seams,
        options: Options,
        network: Arc<dyn LockNetwork>,
    ) -> Database {
        let run = unique_id(seams.entropy.as_ref()) as u64;
        let locks = LockKeeper::among_others(options.node, network, run, options.lock_lease);
        let database = Database::new(directory, seams, locks, options, run);
        tokio::spawn(close_while_idle(Arc::downgrade(&database.inner)));
        database
    }

    fn new(directory: Directory, seams: &Seams, locks: LockKeeper, options: Options, run: u64) -> Database {
        let inner = Inner {
            directory,
            locks,
            options,
            clock: seams.clock.clone(),
            run,
            transactions: AtomicU64::new(1),
            batches: AtomicU64::new(0),
        };
        Database { inner: Arc::new(inner) }
    }

    /// Begins a transaction. Its snapshot is taken by its first statement, or now
    /// if it does not read the latest state.
    pub async fn begin(&self, options: TransactionOptions) -> Result<Transaction, Error> {
        let number = self.inner.transactions.fetch_add(1, Ordering::Relaxed);
        let id = TransactionId { node: self.inner.options.node, number };
        let read_at = self.inner.read_at(options.freshness).await?;
        let mut transaction = Transaction::new(self.inner.clone(), id, options);
        if let Some(at) = read_at {
            transaction.take_snapshot_at(at)?;
        }
        Ok(transaction)
    }

    /// Writes without reading: for keys that no transaction can reach yet, or
    /// any more. Returns the commit timestamp.
    pub async fn write_direct(&self, operations: Vec<Operation>) -> Result<Timestamp, Error> {
        let batch = self.inner.batch(Vec::new(), operations);
        if batch.size() > self.inner.options.max_transaction_bytes {
            return Err(Error::TooLarge { limit: self.inner.options.max_transaction_bytes });
        }
        let (_, replica) = self.inner.directory.of_key(&[]);
        committed(replica.commit(batch).await?)
    }

    /// Writes without reading, unless some key of `guard` was written after
    /// `since`. Whether it was written.
    pub async fn write_unless_changed(
        &self,
        guard: Span,
        since: Timestamp,
        operations: Vec<Operation>,
    ) -> Result<bool, Error> {
        let batch = self.inner.batch(vec![Precondition::Unchanged { span: guard, since }], operations);
        let (_, replica) = self.inner.directory.of_key(&[]);
        match committed(replica.commit(batch).await?) {
            Ok(_) => Ok(true),
            Err(Error::Conflict(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives `key` a value without reading, unless it has one. Whether it was written.
    pub async fn write_if_absent(&self, key: Key, value: Bytes) -> Result<bool, Error> {
        let absent = vec![Precondition::Absent(key.clone())];
        let (_, replica) = self.inner.directory.of_key(&key);
        let batch = self.inner.batch(absent, vec![Operation::Put { key: key.clone(), value }]);
        match committed(replica.commit(batch).await?) {
            Ok(_) => Ok(true),
            Err(Error::Exists(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The node this is.
    pub fn node(&self) -> NodeId {
        self.inner.options.node
    }

    /// Where the rows live.
    pub fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    /// Who waits for whom now, and for which lock, among the locks kept here.
    pub fn lock_waits(&self) -> Vec<WaitsFor> {
        self.inner.locks.table().waits()
    }

    /// All locks kept here that are held or waited for.
    pub fn locks(&self) -> Vec<Listed> {
        self.inner.locks.table().all()
    }
}

/// The commit timestamp, or why there is none.
pub(crate) fn committed(outcome: Outcome) -> Result<Timestamp, Error> {
    match outcome {
        Outcome::Committed(at) => Ok(at),
        Outcome::Conflict(span) => Err(Error::conflict(span)),
        Outcome::Exists(key) => Err(Error::Exists(key)),
        Outcome::Missing(key) => Err(Error::Missing(key)),
        Outcome::TooOld => Err(Error::Conflict(Contested::Forgotten)),
    }
}
