//! Why a transaction cannot go on.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use polity_base::{Class, Guarantee, Key, NodeId, Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::byzantine::LedgerError;
use crate::eventual::EventualError;
use crate::locks::{LockMode, TransactionId};

/// Why a transaction, or one of its steps, failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Something this transaction read, or locked, was changed by another one
    /// that committed first.
    #[error("could not serialize access due to a concurrent change of {0}")]
    Conflict(Contested),
    /// [`Transaction::expect_absent`](crate::Transaction::expect_absent) did not
    /// hold when the transaction's turn came.
    #[error("key {0} was written by a concurrent transaction")]
    Exists(Key),
    /// [`Transaction::expect_present`](crate::Transaction::expect_present) did
    /// not hold when the transaction's turn came.
    #[error("key {0} was deleted by a concurrent transaction")]
    Missing(Key),
    /// Waiting would never end. Each wait is for the next one's waiter; the last
    /// is for the first's. (A cycle through the memories of two nodes is not seen but
    /// assumed after a while: then only what was seen of it is here.)
    #[error("deadlock detected")]
    Deadlock(Vec<WaitsFor>),
    /// The lock is taken, and the request was not to wait for it (or not that
    /// long).
    #[error("could not obtain a lock on {key}{}", if *timed_out { " in time" } else { "" })]
    LockNotAvailable {
        /// What was to be locked
        key: Key,
        /// Who holds it, or stands before us in the queue
        blockers: Vec<TransactionId>,
        /// Whether the request waited for its whole timeout
        timed_out: bool,
    },
    /// The commit was sent off and its fate cannot be learnt: it may have taken
    /// effect, or may yet.
    #[error("it is not known whether the transaction was committed: {0}")]
    Unknown(String),
    /// The replicas cannot keep their guarantee right now.
    #[error("the range is not available: {0}")]
    Unavailable(Outage),
    /// The state that can be read here is older than was allowed, and a newer one
    /// cannot be had.
    #[error("the newest state that can be read here is {} old", shown(*age))]
    TooStale {
        /// The newest state that can be read here
        newest: Timestamp,
        /// How old it is, at most
        age: Duration,
        /// What was asked for
        wanted: Wanted,
        /// Why a newer one cannot be had
        outage: Outage,
    },
    /// The transaction writes more than one transaction may.
    #[error("the transaction is larger than {limit} bytes")]
    TooLarge {
        /// How large a transaction may be, in bytes
        limit: usize,
    },
    /// A write or a lock in a read-only transaction.
    #[error("the transaction is read-only")]
    ReadOnly,
    /// The versions that were current at this time have been collected.
    #[error("the state at {at} is no longer kept; the oldest that can be read is {oldest}")]
    TooOld {
        /// What was asked for
        at: Timestamp,
        /// The oldest state that can be read
        oldest: Timestamp,
    },
    /// A state that lies in the future.
    #[error("{0} lies in the future")]
    InTheFuture(Timestamp),
    /// Fault of the caller: a step out of order.
    #[error("out of order: {0}")]
    Misuse(&'static str),
    /// The transaction wrote tables of one guarantee, and is to write those of another.
    #[error("the transaction writes {} tables and cannot write {} ones", earlier.name(), now.name())]
    Mixed {
        /// What it wrote
        earlier: Guarantee,
        /// What it is to write
        now: Guarantee,
    },
    /// The replica of the eventual tables refused, or did not do all that was asked.
    #[error("{0}")]
    Eventual(Arc<EventualError>),
    /// The ledger of the byzantine tables does not take it.
    #[error("{0}")]
    Ledger(Arc<LedgerError>),
    /// The replica failed.
    #[error("{source}")]
    Replica {
        /// What to do about it
        class: Class,
        /// What the replica said
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

/// Why the replicas cannot keep their guarantee, as far as is known here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outage {
    /// What happened
    pub why: String,
    /// Nodes that do not answer
    pub unreachable: Vec<NodeId>,
    /// Since when they do not
    pub since: Option<Timestamp>,
}

impl Outage {
    /// An outage of which only the reason is known.
    pub fn because(why: String) -> Outage {
        Outage { why, unreachable: Vec::new(), since: None }
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// What a reader of the past asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The state of this time
    At(Timestamp),
    /// A state that is not older than this
    Within(Duration),
}

/// A duration for people: to the tenth of a second, or in whole larger units.
pub fn shown(duration: Duration) -> String {
    match duration.as_secs() {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        seconds @ 10..600 => format!("{seconds} s"),
        seconds @ 600..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// What two transactions wanted at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contested {
    /// One key
    Key(Key),
    /// Some key of a span
    Span(Span),
    /// A row that another transaction has locked
    Lock,
    /// Not known any more: the transaction is older than the replica's memory
    /// of recent writes
    Forgotten,
}

impl fmt::Display for Contested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contested::Key(key) => write!(f, "key {key}"),
            Contested::Span(span) => write!(f, "keys {} to {}", span.start, span.end),
            Contested::Lock => f.write_str("a row that is locked"),
            Contested::Forgotten => f.write_str("what it read long ago"),
        }
    }
}

impl From<Span> for Contested {
    fn from(span: Span) -> Contested {
        // A point is a key and its successor, which is the key and a zero byte.
        let (start, end) = (&span.start.0, &span.end.0);
        if end.len() == start.len() + 1 && end.last() == Some(&0) && end.starts_with(start) {
            Contested::Key(span.start)
        } else {
            Contested::Span(span)
        }
    }
}

/// One edge of the waits-for graph.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WaitsFor {
    /// Who waits
    pub waiter: TransactionId,
    /// For what
    pub key: Key,
    /// In which mode
    pub mode: LockMode,
    /// Who is in the way
    pub blocker: TransactionId,
}

impl fmt::Display for WaitsFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WaitsFor { waiter, key, mode, blocker } = self;
        write!(f, "Transaction {waiter} waits for a {mode} lock on {key}; blocked by transaction {blocker}.")
    }
}

impl Error {
    /// What the caller should do.
    pub fn class(&self) -> Class {
        match self {
            Error::Conflict(_) | Error::Exists(_) | Error::Missing(_) | Error::Deadlock(_) => Class::Conflict,
            Error::LockNotAvailable { .. } => Class::Conflict,
            Error::Unknown(_) => Class::Unknown,
            Error::Unavailable(_) | Error::TooStale { .. } => Class::Unavailable,
            Error::TooLarge { .. } => Class::Resource,
            Error::ReadOnly | Error::TooOld { .. } | Error::InTheFuture(_) | Error::Mixed { .. } => Class::Input,
            Error::Eventual(error) => error.class(),
            Error::Ledger(error) => error.class(),
            Error::Misuse(_) => Class::Bug,
            Error::Replica { class, .. } => *class,
        }
    }

    /// The facts behind the error, one sentence a line, for a DETAIL field.
    pub fn detail(&self) -> Option<String> {
        match self {
            Error::Deadlock(cycle) => Some(cycle.iter().map(WaitsFor::to_string).collect::<Vec<_>>().join("\n")),
            Error::LockNotAvailable { blockers, .. } if !blockers.is_empty() => {
                let names: Vec<String> = blockers.iter().map(TransactionId::to_string).collect();
                Some(format!("Blocked by transaction {}.", names.join(", ")))
            }
            _ => None,
        }
    }

    pub(crate) fn conflict(contested: impl Into<Contested>) -> Error {
        Error::Conflict(contested.into())
    }
}
