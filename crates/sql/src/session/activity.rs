//! Who is connected to this node, and what each session does.
//!
//! Each session has a presence that it keeps up to date itself, at the cost of one uncontended lock per statement;
//! whoever asks (`pg_stat_activity`, `pg_cancel_backend`) goes through the list.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use polity_txn::TransactionId;

use super::Canceller;
use super::prepared::Prepared;

/// Ends a session's connection.
type Dismissal = Box<dyn Fn() + Send + Sync>;

/// The sessions of a node.
#[derive(Default)]
pub struct Sessions(Mutex<List>);

#[derive(Default)]
struct List {
    last: u32,
    present: BTreeMap<u32, Arc<Presence>>,
}

/// One session, as others see it.
pub struct Presence {
    /// Its number, which stands for PostgreSQL's process id: from 1 to 2^31 - 1
    pub number: u32,
    /// Its user
    pub user: String,
    /// When it began, in microseconds since 1970 UTC
    pub began: i64,
    /// Cancels what it runs
    pub canceller: Canceller,
    connection: Mutex<Connection>,
    doing: Mutex<Doing>,
}

#[derive(Default)]
struct Connection {
    client: Option<SocketAddr>,
    dismissal: Option<Dismissal>,
}

/// What a session does, or did last. Moments are microseconds since 1970 UTC.
#[derive(Clone, Default)]
pub struct Doing {
    /// What its client calls itself
    pub application: String,
    /// Whether it waits for its client, and how
    pub state: State,
    /// Since when
    pub state_since: i64,
    /// Its statement, or its last one
    pub statement: Option<Arc<Prepared>>,
    /// When that began
    pub statement_began: Option<i64>,
    /// Its transaction, and when that began
    pub transaction: Option<(TransactionId, i64)>,
}

/// Whether a session waits for its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Outside of transactions
    #[default]
    Idle,
    /// It does not: it runs a statement
    Active,
    /// In a transaction
    IdleInTransaction,
    /// In a transaction that has failed
    IdleInFailed,
}

impl State {
    /// As `pg_stat_activity` has it.
    pub fn name(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Active => "active",
            State::IdleInTransaction => "idle in transaction",
            State::IdleInFailed => "idle in transaction (aborted)",
        }
    }
}

impl Sessions {
    /// Lists a session under a number that no other has, until the result is dropped.
    pub(super) fn enter(self: &Arc<Self>, user: &str, began: i64, canceller: Canceller) -> Listed {
        let mut list = self.0.lock();
        let number = loop {
            list.last = if list.last >= i32::MAX.unsigned_abs() { 1 } else { list.last + 1 };
            if !list.present.contains_key(&list.last) {
                break list.last;
            }
        };
        let presence = Arc::new(Presence {
            number,
            user: user.to_owned(),
            began,
            canceller,
            connection: Mutex::default(),
            doing: Mutex::new(Doing { state_since: began, ..Doing::default() }),
        });
        list.present.insert(number, presence.clone());
        Listed { sessions: self.clone(), presence }
    }

    /// All sessions, oldest numbers first.
    pub fn all(&self) -> Vec<Arc<Presence>> {
        self.0.lock().present.values().cloned().collect()
    }

    /// The session of a number.
    pub fn find(&self, number: u32) -> Option<Arc<Presence>> {
        self.0.lock().present.get(&number).cloned()
    }
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sessions", self.0.lock().present.len())
    }
}

impl Presence {
    /// Says where the client connects from, and what ends its connection.
    pub fn connected(&self, client: SocketAddr, dismissal: impl Fn() + Send + Sync + 'static) {
        *self.connection.lock() = Connection { client: Some(client), dismissal: Some(Box::new(dismissal)) };
    }

    /// Where the client connects from.
    pub fn client(&self) -> Option<SocketAddr> {
        self.connection.lock().client
    }

    /// Cancels what the session runs and ends its connection. Whether it has one.
    pub fn dismiss(&self) -> bool {
        let connection = self.connection.lock();
        if let Some(dismissal) = &connection.dismissal {
            dismissal();
        }
        self.canceller.cancel();
        connection.dismissal.is_some()
    }

    /// What it does.
    pub fn doing(&self) -> Doing {
        self.doing.lock().clone()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Doing)) {
        change(&mut self.doing.lock());
    }
}

/// A session's place in the list, until it is dropped.
pub(super) struct Listed {
    sessions: Arc<Sessions>,
    pub presence: Arc<Presence>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.sessions.0.lock().present.remove(&self.presence.number);
    }
}
