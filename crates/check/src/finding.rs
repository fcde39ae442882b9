//! What a checker found: anomalies with names, and the level that forbids each.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

/// What a database promises of its transactions, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Adya's PL-2: nothing uncommitted is seen, writes are not interleaved.
    ReadCommitted,
    /// Snapshot isolation, which PostgreSQL calls REPEATABLE READ: no read skew
    /// and no lost update, but write skew.
    Snapshot,
    /// PL-3: as if one at a time, in some order.
    Serializable,
    /// As if one at a time, in an order that agrees with real time; for single
    /// keys, linearizable.
    StrictSerializable,
}

impl Level {
    /// As it is spelt on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Level::ReadCommitted => "read-committed",
            Level::Snapshot => "snapshot",
            Level::Serializable => "serializable",
            Level::StrictSerializable => "strict-serializable",
        }
    }
}

/// A cycle's class by the dependencies in it (Adya 1999, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phenomenon {
    /// Writes only.
    G0,
    /// Writes and reads of what was written.
    G1c,
    /// One read of what was then overwritten.
    GSingle,
    /// Several such.
    G2Item,
}

/// What else than data put two transactions of a cycle in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Order {
    /// Nothing else.
    Data,
    /// One process did both, one after the other.
    Process,
    /// One had ended before the other began.
    Realtime,
}

/// The name of what went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Anomaly {
    /// Transactions that each must have come before the other.
    Cycle(Phenomenon, Order),
    /// G1a: an element was read whose transaction was rolled back.
    AbortedRead,
    /// G1b: a list was read between two appends of one transaction.
    IntermediateRead,
    /// An element of a transaction that was rolled back lies under one that was committed.
    DirtyUpdate,
    /// A transaction did not see its own writes.
    Internal,
    /// Two reads of one list, neither of which is the beginning of the other.
    IncompatibleOrder,
    /// What was added once is there twice.
    Duplicate,
    /// Something is there that nobody put there.
    Garbage,
    /// What was acknowledged is gone.
    Lost,
    /// A read did not see what had been acknowledged before it began.
    StaleRead,
    /// No order of the operations on a register explains what was read.
    NotLinearizable,
    /// The balances of a bank do not add up to what it opened with.
    WrongTotal,
    /// A balance below zero.
    NegativeBalance,
    /// A sequence gave one number twice.
    NumberReused,
    /// Two rows with one unique key.
    DuplicateKey,
    /// A row refers to one that is not there.
    Orphan,
    /// One statement found other rows by an index than by a scan.
    IndexDisagrees,
    /// One statement saw a table in two shapes, or what a dropped column had held.
    MixedSchema,
    /// More was sold than there was.
    Oversold,
    /// Replicas that had come together show different rows.
    Diverged,
    /// A session did not see what it had seen or written before.
    SessionBroken,
    /// What was taken out or overwritten is there again.
    Resurrected,
}

impl Anomaly {
    /// The weakest level that forbids it.
    pub fn forbidden_from(self) -> Level {
        match self {
            Anomaly::Cycle(_, Order::Process | Order::Realtime) => Level::StrictSerializable,
            Anomaly::Cycle(Phenomenon::G0 | Phenomenon::G1c, Order::Data) => Level::ReadCommitted,
            Anomaly::Cycle(Phenomenon::GSingle, Order::Data) => Level::Snapshot,
            Anomaly::Cycle(Phenomenon::G2Item, Order::Data) => Level::Serializable,
            Anomaly::StaleRead | Anomaly::NotLinearizable => Level::StrictSerializable,
            Anomaly::AbortedRead
            | Anomaly::IntermediateRead
            | Anomaly::DirtyUpdate
            | Anomaly::Internal
            | Anomaly::IncompatibleOrder
            | Anomaly::Duplicate
            | Anomaly::Garbage
            | Anomaly::Lost
            | Anomaly::WrongTotal
            | Anomaly::NegativeBalance
            | Anomaly::NumberReused
            | Anomaly::DuplicateKey
            | Anomaly::Orphan
            | Anomaly::IndexDisagrees
            | Anomaly::MixedSchema
            | Anomaly::Oversold
            | Anomaly::Diverged
            | Anomaly::SessionBroken
            | Anomaly::Resurrected => Level::ReadCommitted,
        }
    }

    /// Whether a database that promises `level` must not show it.
    pub fn is_forbidden_at(self, level: Level) -> bool {
        self.forbidden_from() <= level
    }

    /// In a few words, for someone who does not know the name.
    pub fn meaning(self) -> &'static str {
        match self {
            Anomaly::Cycle(Phenomenon::G0, Order::Data) => "writes of transactions are interleaved",
            Anomaly::Cycle(Phenomenon::G1c, Order::Data) => "transactions saw each other's writes in a circle",
            Anomaly::Cycle(Phenomenon::GSingle, Order::Data) => {
                "read skew or lost update: a transaction saw a state that another one's commit had changed underneath it"
            }
            Anomaly::Cycle(Phenomenon::G2Item, Order::Data) => {
                "write skew: each transaction read what the next one overwrote"
            }
            Anomaly::Cycle(_, Order::Process) => "a client's own transactions are out of order",
            Anomaly::Cycle(_, Order::Realtime) => "the only possible order contradicts real time",
            Anomaly::AbortedRead => "read what was rolled back",
            Anomaly::IntermediateRead => "read the middle of a transaction",
            Anomaly::DirtyUpdate => "built upon what was rolled back",
            Anomaly::Internal => "a transaction did not see its own writes",
            Anomaly::IncompatibleOrder => "two reads disagree about the order of writes",
            Anomaly::Duplicate => "what was added once is there twice",
            Anomaly::Garbage => "something is there that nobody put there",
            Anomaly::Lost => "what was acknowledged is gone",
            Anomaly::StaleRead => "a read did not see what had been acknowledged before it began",
            Anomaly::NotLinearizable => "no order of the operations explains the answers",
            Anomaly::WrongTotal => "money appeared or vanished",
            Anomaly::NegativeBalance => "a balance went below zero",
            Anomaly::NumberReused => "a sequence gave one number twice",
            Anomaly::DuplicateKey => "two rows with one unique key",
            Anomaly::Orphan => "a row refers to one that is not there",
            Anomaly::IndexDisagrees => "an index and a scan give different rows",
            Anomaly::MixedSchema => "a table was seen in two shapes at once",
            Anomaly::Oversold => "more was sold than there was",
            Anomaly::Diverged => "replicas that had come together show different rows",
            Anomaly::SessionBroken => "a session did not see what it had seen or written before",
            Anomaly::Resurrected => "what was taken out or overwritten is there again",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Anomaly::Cycle(phenomenon, order) => {
                let phenomenon = match phenomenon {
                    Phenomenon::G0 => "G0",
                    Phenomenon::G1c => "G1c",
                    Phenomenon::GSingle => "G-single",
                    Phenomenon::G2Item => "G2-item",
                };
                let order = match order {
                    Order::Data => "",
                    Order::Process => "-process",
                    Order::Realtime => "-realtime",
                };
                return write!(f, "{phenomenon}{order}");
            }
            Anomaly::AbortedRead => "G1a",
            Anomaly::IntermediateRead => "G1b",
            Anomaly::DirtyUpdate => "dirty-update",
            Anomaly::Internal => "internal",
            Anomaly::IncompatibleOrder => "incompatible-order",
            Anomaly::Duplicate => "duplicate",
            Anomaly::Garbage => "garbage",
            Anomaly::Lost => "lost",
            Anomaly::StaleRead => "stale-read",
            Anomaly::NotLinearizable => "not-linearizable",
            Anomaly::WrongTotal => "wrong-total",
            Anomaly::NegativeBalance => "negative-balance",
            Anomaly::NumberReused => "number-reused",
            Anomaly::DuplicateKey => "duplicate-key",
            Anomaly::Orphan => "orphan",
            Anomaly::IndexDisagrees => "index-disagrees",
            Anomaly::MixedSchema => "mixed-schema",
            Anomaly::Oversold => "oversold",
            Anomaly::Diverged => "diverged",
            Anomaly::SessionBroken => "session-broken",
            Anomaly::Resurrected => "resurrected",
        };
        f.write_str(name)
    }
}

impl Serialize for Anomaly {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One anomaly that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name.
    pub anomaly: Anomaly,
    /// What happened, one line each.
    pub story: Vec<String>,
}

/// Stories kept of each anomaly; the rest is counted.
const STORIES: usize = 8;

/// All that a checker found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    counts: BTreeMap<Anomaly, usize>,
    stories: Vec<Finding>,
    /// What could not be decided, one line each.
    pub undecided: Vec<String>,
}

impl Findings {
    /// Adds one. The story is made only while there are few.
    pub fn add(&mut self, anomaly: Anomaly, story: impl FnOnce() -> Vec<String>) {
        let count = self.counts.entry(anomaly).or_default();
        *count += 1;
        if *count <= STORIES {
            self.stories.push(Finding { anomaly, story: story() });
        }
    }

    /// Takes over what another checker found.
    pub fn merge(&mut self, other: Findings) {
        for (anomaly, count) in other.counts {
            *self.counts.entry(anomaly).or_default() += count;
        }
        self.stories.extend(other.stories);
        self.undecided.extend(other.undecided);
    }

    /// How often each was found. Of cycles, at least so often: they are not
    /// enumerated.
    pub fn counts(&self) -> &BTreeMap<Anomaly, usize> {
        &self.counts
    }

    /// The first few of each.
    pub fn stories(&self) -> &[Finding] {
        &self.stories
    }

    /// Whether any was found that `level` forbids.
    pub fn breaks(&self, level: Level) -> bool {
        self.counts.keys().any(|anomaly| anomaly.is_forbidden_at(level))
    }

    /// Whether none was found.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    /// Whether this one was found.
    pub fn has(&self, anomaly: Anomaly) -> bool {
        self.counts.contains_key(&anomaly)
    }
}
