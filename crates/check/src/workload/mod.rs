//! What clients do: seeded workloads that write down what they saw.
//!
//! A [`Client`] draws one operation after the other from its seed, runs it on a
//! [`Session`], and gives a line of history. Sessions are a trait of two methods,
//! so a simulation can drive the database's own sessions and `polity check` a
//! connection over the PostgreSQL wire, with the same clients.
//!
//! ```text
//! Client::next ──▶ BEGIN, SELECT …, COMMIT ──▶ Session (wire, or simulated)
//!       ▲                                          │
//!       └── one Line of history ◀── rows, SQLSTATE, or a lost connection
//! ```
//! What makes an outcome *unknown*: the connection was lost, or the server gave
//! an error that leaves it open, while COMMIT or a lone statement was under way.
//! Whatever went wrong before COMMIT was sent has surely failed.

mod append;
mod bank;
mod carts;
mod keys;
mod register;
mod schema;
mod sequence;
mod set;
mod stock;
#[cfg(test)]
mod tests;

use std::future::Future;

use crate::history::{Line, Operation, Outcome};
use crate::random::Random;

/// A row: each value as text, `None` for NULL.
pub type Row = Vec<Option<String>>;

/// What a statement answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The rows, for statements that have any.
    pub rows: Vec<Row>,
    /// How many rows were changed or read.
    pub count: u64,
}

/// Why a statement did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server refused it.
    Refused {
        /// Five characters.
        sqlstate: String,
        /// For people.
        message: String,
    },
    /// The connection is gone, or the answer did not come in time: nobody knows
    /// what the server did, and the session is of no more use.
    Lost(String),
}

impl Failure {
    /// Whether the statement may have taken effect nevertheless: connection
    /// exceptions, unknown completion, a server going down, and its inner faults.
    fn leaves_open(&self) -> bool {
        match self {
            Failure::Lost(_) => true,
            Failure::Refused { sqlstate, .. } => {
                sqlstate == "40003" || ["08", "57P", "58", "XX"].iter().any(|class| sqlstate.starts_with(class))
            }
        }
    }

    fn is(&self, state: &str) -> bool {
        matches!(self, Failure::Refused { sqlstate, .. } if sqlstate == state)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Refused { sqlstate, message } => write!(f, "{sqlstate}: {message}"),
            Failure::Lost(why) => write!(f, "connection lost: {why}"),
        }
    }
}

/// A connection to a database, one statement at a time.
pub trait Session {
    /// Runs one SQL statement.
    fn execute(&mut self, sql: &str) -> impl Future<Output = Result<Answer, Failure>> + Send;
    /// Nanoseconds since the run began, on a clock that never goes back.
    fn now(&self) -> u64;
}

/// The level at which transactions run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// READ COMMITTED.
    ReadCommitted,
    /// REPEATABLE READ.
    RepeatableRead,
    /// SERIALIZABLE.
    Serializable,
}

impl Isolation {
    /// As SQL spells it.
    pub fn sql(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "READ COMMITTED",
            Isolation::RepeatableRead => "REPEATABLE READ",
            Isolation::Serializable => "SERIALIZABLE",
        }
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// Transactions on lists.
    Append,
    /// Single registers.
    Register,
    /// Transfers between accounts.
    Bank,
    /// Numbers from sequences.
    Sequence,
    /// Sets.
    Set,
    /// Unique and foreign keys.
    Keys,
    /// Columns and indexes that come and go.
    Schema,
    /// A stock that is sold everywhere, in an eventual table.
    Stock,
    /// Carts, in an eventual table.
    Carts,
}

impl Workload {
    /// Those on strong tables.
    pub const STRONG: [Workload; 7] = [
        Workload::Append,
        Workload::Register,
        Workload::Bank,
        Workload::Sequence,
        Workload::Set,
        Workload::Keys,
        Workload::Schema,
    ];

    /// Those on eventual tables, which other databases do not have.
    pub const EVENTUAL: [Workload; 2] = [Workload::Stock, Workload::Carts];

    /// As it is spelt on the command line and in history files.
    pub fn name(self) -> &'static str {
        match self {
            Workload::Append => "append",
            Workload::Register => "register",
            Workload::Bank => "bank",
            Workload::Sequence => "sequence",
            Workload::Set => "set",
            Workload::Keys => "keys",
            Workload::Schema => "schema",
            Workload::Stock => "stock",
            Workload::Carts => "carts",
        }
    }

    /// Statements that make this workload's tables, whose names begin with `prefix`.
    /// Writes to eventual tables wait until `acks` replicas keep them.
    pub fn setup(self, prefix: &str, acks: u32) -> Vec<String> {
        match self {
            Workload::Append => append::setup(prefix),
            Workload::Register => register::setup(prefix),
            Workload::Bank => bank::setup(prefix),
            Workload::Sequence => sequence::setup(prefix),
            Workload::Set => set::setup(prefix),
            Workload::Keys => keys::setup(prefix),
            Workload::Schema => schema::setup(prefix),
            Workload::Stock => stock::setup(prefix, acks),
            Workload::Carts => carts::setup(prefix, acks),
        }
    }

    /// Statements that take them away again, however far setup came.
    pub fn cleanup(self, prefix: &str) -> Vec<String> {
        let table = |name: &str| format!("DROP TABLE IF EXISTS {prefix}_{name}");
        match self {
            Workload::Append => vec![table("lists")],
            Workload::Register => vec![table("registers")],
            Workload::Bank => vec![table("accounts")],
            Workload::Sequence => vec![format!("DROP SEQUENCE IF EXISTS {prefix}_numbers")],
            Workload::Set => vec![table("elements")],
            Workload::Keys => vec![table("names"), table("children"), table("parents")],
            Workload::Schema => vec![table("shape")],
            Workload::Stock => vec![table("stock")],
            Workload::Carts => vec![table("carts")],
        }
    }
}

/// One client of one workload.
pub struct Client {
    workload: Workload,
    prefix: String,
    isolation: Isolation,
    /// Under which its operations stand in the history.
    process: u64,
    random: Random,
    /// Its number among the clients, and how many operations it began: together
    /// they make its elements and values unique.
    number: u64,
    begun: u64,
    /// What all clients together have begun, about: keys move on with it.
    age: u64,
    /// A row that it inserted, surely, and the row's bucket.
    own_row: Option<(u64, u64)>,
    /// The cart that it saw last, and what was in it.
    seen_cart: Option<(u64, Vec<u64>)>,
    /// On eventual tables: whether the connection is a new one, what was to be seen on
    /// the one before, and how many sessions there were.
    moved: bool,
    token: Option<String>,
    sessions: u64,
}

/// One operation, still under way.
struct Attempt {
    outcome: Outcome,
    error: Option<String>,
}

impl Attempt {
    const OK: Attempt = Attempt { outcome: Outcome::Ok, error: None };

    /// Nothing that could have taken effect had been sent.
    fn failed(failure: &Failure) -> Attempt {
        Attempt { outcome: Outcome::Failed, error: Some(failure.to_string()) }
    }

    /// A statement failed that takes effect by itself, such as COMMIT.
    fn deciding(failure: &Failure) -> Attempt {
        let outcome = if failure.leaves_open() { Outcome::Unknown } else { Outcome::Failed };
        Attempt { outcome, error: Some(failure.to_string()) }
    }
}

/// Elements a client can make before its numbers meet the next client's.
const OPERATIONS_A_CLIENT: u64 = 1 << 32;

impl Client {
    /// Client `number` of a workload; clients of one run have different numbers.
    pub fn new(workload: Workload, prefix: &str, isolation: Isolation, number: u64, seed: u64) -> Client {
        let mut random = Random::new(seed ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let random = random.split();
        Client {
            workload,
            prefix: prefix.into(),
            isolation,
            process: number,
            random,
            number,
            begun: 0,
            age: 0,
            own_row: None,
            seen_cart: None,
            moved: true,
            token: None,
            sessions: 0,
        }
    }

    /// Draws an operation, runs it, and tells what was seen. `age` is how many
    /// operations all clients of the workload have begun: keys come into use and
    /// go out of use with it. `process` is this client's present number: a new one
    /// after every unknown outcome.
    pub async fn next<S: Session>(&mut self, session: &mut S, process: u64, age: u64) -> Line {
        (self.process, self.age) = (process, age);
        self.begun += 1;
        match self.workload {
            Workload::Append => Line::Append(append::next(self, session).await),
            Workload::Register => Line::Register(register::next(self, session).await),
            Workload::Bank => Line::Bank(bank::next(self, session).await),
            Workload::Sequence => Line::Sequence(sequence::next(self, session).await),
            Workload::Set => Line::Set(set::next(self, session).await),
            Workload::Keys => Line::Keys(keys::next(self, session).await),
            Workload::Schema => Line::Schema(schema::next(self, session).await),
            Workload::Stock => Line::Stock(stock::next(self, session).await),
            Workload::Carts => Line::Carts(carts::next(self, session).await),
        }
    }

    /// What one client does when all others have ended: it reads what there is, so
    /// that losses show. `age` as in [`Client::next`].
    pub async fn last<S: Session>(&mut self, session: &mut S, process: u64, age: u64) -> Vec<Line> {
        (self.process, self.age) = (process, age);
        match self.workload {
            Workload::Append => append::last(self, session).await.into_iter().map(Line::Append).collect(),
            Workload::Register | Workload::Sequence => Vec::new(),
            Workload::Bank => vec![Line::Bank(bank::read(self, session).await)],
            Workload::Set => set::last(self, session).await.into_iter().map(Line::Set).collect(),
            Workload::Keys => keys::last(self, session).await.into_iter().map(Line::Keys).collect(),
            Workload::Schema => schema::last(self, session).await.into_iter().map(Line::Schema).collect(),
            Workload::Stock => vec![Line::Stock(stock::read(self, session, true).await)],
            Workload::Carts => vec![Line::Carts(carts::last(self, session).await)],
        }
    }

    /// What the history begins with, before any client has begun.
    pub fn first(workload: Workload) -> Vec<Line> {
        match workload {
            Workload::Bank => vec![Line::Bank(bank::open())],
            Workload::Stock => vec![Line::Stock(stock::open())],
            _ => Vec::new(),
        }
    }

    /// Says that what comes next comes over another connection than what was before.
    pub fn moved(&mut self) {
        self.moved = true;
    }

    /// The number of the client's session, which no other client's has.
    fn session(&self) -> u64 {
        self.number * OPERATIONS_A_CLIENT + self.sessions
    }

    /// Goes on with the session there was, if the node has seen what it has seen; begins
    /// another one else.
    async fn resume<S: Session>(&mut self, session: &mut S) {
        if !std::mem::take(&mut self.moved) {
            return;
        }
        if let Some(token) = &self.token
            && session.execute(&format!("SET polity.causal_token = '{token}'")).await.is_ok()
        {
            return;
        }
        self.begin_session();
    }

    fn begin_session(&mut self) {
        (self.token, self.seen_cart) = (None, None);
        self.sessions += 1;
    }

    /// Asks what the session has seen by now. If that is not to be had, the next
    /// connection cannot go on with it.
    async fn take_token_along<S: Session>(&mut self, session: &mut S) {
        match session.execute("SHOW polity.causal_token").await {
            Ok(answer) => self.token = answer.rows.first().and_then(|row| row.first().cloned().flatten()),
            Err(_) => {
                self.token = None;
                self.moved = true;
            }
        }
    }

    /// A number that no other operation of the run has; `at` counts within the operation.
    fn unique(&self, at: u64) -> u64 {
        self.number * OPERATIONS_A_CLIENT + self.begun * 16 + at
    }

    fn line<A>(&self, invoked: u64, completed: u64, attempt: Attempt, action: A) -> Operation<A> {
        let Attempt { outcome, error } = attempt;
        Operation { process: self.process, invoked, completed, outcome, action, error }
    }

    fn begin(&self) -> String {
        format!("BEGIN TRANSACTION ISOLATION LEVEL {}", self.isolation.sql())
    }
}

/// Ends a transaction: commits it if all went well, or else rolls it back.
async fn end<S: Session, T>(session: &mut S, result: &Result<T, Failure>) -> Attempt {
    match result {
        Ok(_) => match session.execute("COMMIT").await {
            Ok(_) => Attempt::OK,
            Err(failure) => {
                let attempt = Attempt::deciding(&failure);
                roll_back(session, &failure).await;
                attempt
            }
        },
        Err(failure) => {
            roll_back(session, failure).await;
            Attempt::failed(failure)
        }
    }
}

async fn roll_back<S: Session>(session: &mut S, failure: &Failure) {
    if !matches!(failure, Failure::Lost(_)) {
        // If this fails, so does the next BEGIN, and the driver opens a new session.
        let _ = session.execute("ROLLBACK").await;
    }
}

/// The rows of which a column has a value, by whatever index there is, and by a scan that
/// none serves.
async fn both_ways<S: Session>(
    session: &mut S,
    table: &str,
    column: &str,
    value: u64,
) -> Result<(Vec<u64>, Vec<u64>), Failure> {
    let sql = format!(
        "SELECT id, 0 FROM {table} WHERE {column} = {value} UNION ALL SELECT id, 1 FROM {table} WHERE {column} + 0 = {value}"
    );
    let (mut indexed, mut scanned) = (Vec::new(), Vec::new());
    for row in &session.execute(&sql).await?.rows {
        let way = if number::<u64>(row, 1)? == 0 { &mut indexed } else { &mut scanned };
        way.push(number(row, 0)?);
    }
    Ok((indexed, scanned))
}

/// A value that must be a number.
fn number<T: std::str::FromStr>(row: &Row, at: usize) -> Result<T, Failure> {
    let text = row.get(at).and_then(Option::as_deref);
    let strange = || Failure::Lost(format!("the server answered {text:?} where a number was asked for"));
    text.and_then(|text| text.parse().ok()).ok_or_else(strange)
}
