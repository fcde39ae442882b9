//! The strong guarantee: a Raft group that orders batches, and the versioned
//! rows they are applied to.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::key::Direction;
use polity_base::{Batch, Class, Guarantee, Key, NodeId, Span, Timestamp};
use polity_raft::Group;
use polity_store::state::{Answer, BatchOutcome, Reader, Scan, State};

use crate::error::{Contested, Error, Outage};
use crate::locks::Claim;
use crate::replica::{Change, Outcome, Replica, Rows, Snapshot};

/// Bytes of one chunk at most, whatever the number of its rows.
const CHUNK_BYTES: usize = 1 << 20;

/// This node's replica of a strong range.
///
/// A snapshot is the store's [`Reader`], which keeps what it can see for as long
/// as it lives: collection, and spans that are cleared because later snapshots
/// cannot reach them, leave it alone. So it needs no pin.
pub struct StrongReplica {
    group: Group,
    state: Arc<State>,
}

impl StrongReplica {
    /// The replica that `group` keeps in `state`.
    pub fn new(group: Group, state: Arc<State>) -> StrongReplica {
        StrongReplica { group, state }
    }
}

#[async_trait]
impl Replica for StrongReplica {
    async fn read_timestamp(&self) -> Result<Timestamp, Error> {
        self.group.read_barrier().await.map_err(Error::from)
    }

    fn leader(&self) -> Option<NodeId> {
        self.group.leader()
    }

    fn has_peers(&self) -> bool {
        self.group.status().members.len() > 1
    }

    fn applied(&self) -> Timestamp {
        self.group.applied()
    }

    fn oldest(&self) -> Timestamp {
        // The horizon moves only now and then; what lies before the retention period
        // may be cleared all the same.
        let retention = u64::try_from(self.state.retention().as_nanos()).unwrap_or(u64::MAX);
        self.state.horizon(Guarantee::Strong).max(self.applied().minus_nanos(retention))
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, Error> {
        Ok(Arc::new(Seen::of(&self.state)?))
    }

    async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        Ok(outcome(self.group.propose(batch).await?))
    }

    async fn commit_if_free(&self, batch: Batch, claim: Claim) -> Result<Outcome, Error> {
        Ok(outcome(self.group.propose_if_free(batch, claim.encode()?).await?))
    }

    fn changed_since(&self, span: &Span, since: Timestamp) -> Change {
        change(self.state.changed_since(span, since))
    }

    fn last_write(&self, key: &[u8]) -> Result<Option<Timestamp>, Error> {
        Ok(self.state.last_write(key)?)
    }
}

pub(crate) fn outcome(outcome: BatchOutcome) -> Outcome {
    match outcome {
        // Ordered twice, applied once.
        BatchOutcome::Committed(at) | BatchOutcome::Duplicate(at) => Outcome::Committed(at),
        BatchOutcome::Conflict(span) => Outcome::Conflict(span),
        BatchOutcome::Missing(key) => Outcome::Missing(key),
        BatchOutcome::Exists(key) => Outcome::Exists(key),
        BatchOutcome::TooOld => Outcome::TooOld,
    }
}

pub(crate) fn change(answer: Answer) -> Change {
    match answer {
        Answer::Unchanged => Change::Unchanged,
        Answer::Changed(at) => Change::Changed(at),
        Answer::TooOld => Change::Forgotten,
    }
}

/// A snapshot of the store's rows.
pub(crate) struct Seen {
    reader: Reader,
    /// Asked for what changed. A snapshot that outlives the node does not keep its
    /// files open.
    state: Weak<State>,
}

impl Seen {
    /// The rows of `state` as they are now.
    pub fn of(state: &Arc<State>) -> Result<Seen, Error> {
        Ok(Seen { reader: state.snapshot()?, state: Arc::downgrade(state) })
    }
}

impl Snapshot for Seen {
    fn get(&self, key: &[u8], at: Timestamp) -> Result<Option<Bytes>, Error> {
        Ok(self.reader.get(key, at)?.map(|(value, _)| value))
    }

    fn scan(&self, span: &Span, at: Timestamp, direction: Direction) -> Result<Box<dyn Rows>, Error> {
        Ok(Box::new(self.reader.scan_directed(span, at, direction)?))
    }

    fn written_since(&self, span: &Span, since: Timestamp, most: usize) -> Option<Vec<Key>> {
        self.state.upgrade()?.written_since(span, since, most)
    }
}

impl Rows for Scan {
    fn next_chunk(&mut self, max_rows: usize) -> Result<Vec<(Key, Bytes)>, Error> {
        Ok(Scan::next_chunk(self, max_rows, CHUNK_BYTES)?)
    }
}

impl From<polity_raft::Error> for Error {
    fn from(error: polity_raft::Error) -> Error {
        if let polity_raft::Error::NoQuorum { unreachable, since, .. } = &error {
            let (why, unreachable, since) = (error.to_string(), unreachable.clone(), *since);
            return Error::Unavailable(Outage { why, unreachable, since });
        }
        match error.class() {
            Class::Unknown => Error::Unknown(error.to_string()),
            Class::Unavailable | Class::Retry => Error::Unavailable(Outage::because(error.to_string())),
            class => match error {
                polity_raft::Error::Taken { .. } => Error::Conflict(Contested::Lock),
                polity_raft::Error::TooLarge { limit, .. } => Error::TooLarge { limit },
                error => Error::Replica { class, source: Arc::new(error) },
            },
        }
    }
}

impl From<polity_store::Error> for Error {
    fn from(error: polity_store::Error) -> Error {
        match error {
            polity_store::Error::TooOld { at, horizon } => Error::TooOld { at, oldest: horizon },
            error => Error::Replica { class: error.class(), source: Arc::new(error) },
        }
    }
}
