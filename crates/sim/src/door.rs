//! The way from clients to a node's sessions, in place of the PostgreSQL wire.
//!
//! A session runs in its node's runtime and dies with it. What a client holds is one
//! end of a channel; when the node crashes it finds the other end gone, as it would
//! a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polity_base::{NodeId, text};
use polity_check::random::Random;
use polity_check::workload::{Answer, Failure, Session};
use polity_node::admin;
use polity_sql::error::Error;
use polity_sql::session::{Engine, Response, Scope};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::trace::{Trace, Who};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The role that clients use.
const ROLE: &str = "polity";

/// A statement, and where the answer goes.
pub struct Ask {
    sql: String,
    answer: oneshot::Sender<Result<Answer, Failure>>,
}

/// Where a new session takes its statements from.
pub type Line = mpsc::UnboundedReceiver<Ask>;

/// What came of an operator's order.
pub type Removal = Result<admin::Answer, String>;

/// Who comes through a door.
pub enum Caller {
    /// A client
    Client(Line),
    /// The operator, who wants a node taken out of the cluster
    Operator {
        /// The node
        remove: NodeId,
        /// Where the answer goes
        answer: oneshot::Sender<Removal>,
    },
}

/// A node's door, held by clients.
#[derive(Clone)]
pub struct Door(mpsc::UnboundedSender<Caller>);

impl Door {
    /// A door, and who comes through it.
    pub fn new() -> (Door, mpsc::UnboundedReceiver<Caller>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Door(sender), receiver)
    }

    /// Asks the node to take another one out of the cluster. The answer may never
    /// come.
    pub fn remove(&self, node: u64) -> oneshot::Receiver<Removal> {
        let (answer, answered) = oneshot::channel();
        // If nobody is behind the door, the answer's sender is dropped.
        let _ = self.0.send(Caller::Operator { remove: NodeId(node), answer });
        answered
    }
}

/// Runs the statements of one client, until it leaves.
pub async fn serve(engine: Arc<Engine>, mut line: Line) {
    let refused = |error: &Error| Failure::Refused {
        sqlstate: error.condition().code().to_owned(),
        message: error.message().to_owned(),
    };
    let mut session = match engine.session(ROLE, &[]) {
        Ok(session) => session,
        Err(error) => {
            if let Some(ask) = line.recv().await {
                let _ = ask.answer.send(Err(refused(&error)));
            }
            return;
        }
    };
    while let Some(Ask { sql, answer }) = line.recv().await {
        let result = run(&mut session, &sql).await.map_err(|error| refused(&error));
        session.rest();
        let _ = answer.send(result);
    }
}

async fn run(session: &mut polity_sql::session::Session, sql: &str) -> Result<Answer, Error> {
    let mut answer = Answer::default();
    let invocations = session.parse_many(sql)?;
    for invocation in invocations {
        let response = session.execute(&invocation.prepared, invocation.parameters, Scope::Alone).await?;
        match response {
            Response::Rows(mut rows) => {
                let types: Vec<_> = rows.columns().iter().map(|column| column.r#type.clone()).collect();
                loop {
                    let some = match rows.next(1024).await {
                        Ok(some) => some,
                        Err(error) => {
                            session.fail();
                            return Err(error);
                        }
                    };
                    if some.is_empty() {
                        break;
                    }
                    for row in some {
                        let text = |(value, r#type): (&polity_base::Value, &polity_base::Type)| {
                            let null = matches!(value, polity_base::Value::Null);
                            (!null).then(|| text::to_text(value, r#type, &text::Settings::default()))
                        };
                        answer.rows.push(row.iter().zip(&types).map(text).collect());
                    }
                }
                answer.count = answer.rows.len() as u64;
            }
            Response::Complete(tag) => {
                let count = tag.rsplit(' ').next().and_then(|count| count.parse().ok());
                answer.count = count.unwrap_or_default();
            }
            Response::CopyIn { .. } | Response::CopyOut { .. } | Response::Empty => {}
        }
    }
    Ok(answer)
}

/// A client's connection.
pub struct Connection {
    asks: mpsc::UnboundedSender<Ask>,
    client: u64,
    started: Instant,
    /// Makes every time that is read differ from the one before.
    read: Arc<AtomicU64>,
    random: Random,
    trace: Trace,
    broken: bool,
}

/// What a connection is made with.
#[derive(Clone)]
pub struct Dialling {
    /// The client's number
    pub client: u64,
    /// Times count from here
    pub started: Instant,
    /// The last time that was read by any client
    pub read: Arc<AtomicU64>,
    /// Where statements are noted
    pub trace: Trace,
}

impl Connection {
    /// Goes through a door; fails if nobody is behind it.
    pub fn open(door: &Door, dialling: Dialling, seed: u64) -> Result<Connection, Failure> {
        let (asks, line) = mpsc::unbounded_channel();
        door.0.send(Caller::Client(line)).map_err(|_| Failure::Lost("the node is down".to_owned()))?;
        let Dialling { client, started, read, trace } = dialling;
        Ok(Connection { asks, client, started, read, random: Random::new(seed), trace, broken: false })
    }

    /// Whether it is of no more use.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The way between a client and its node takes time, too.
    async fn travel(&mut self) {
        let micros = self.random.below(3_000);
        sleep(Duration::from_micros(micros)).await;
    }

    async fn ask(&mut self, sql: &str) -> Result<Answer, Failure> {
        self.travel().await;
        let (answer, answered) = oneshot::channel();
        let lost = |why: &str| Failure::Lost(why.to_owned());
        self.asks.send(Ask { sql: sql.to_owned(), answer }).map_err(|_| lost("the node is gone"))?;
        let answer = match timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(lost("the node went away")),
            Err(_) => Err(lost("no answer in time")),
        };
        self.travel().await;
        answer
    }
}

impl Session for Connection {
    async fn execute(&mut self, sql: &str) -> Result<Answer, Failure> {
        if self.broken {
            return Err(Failure::Lost("the connection is broken".to_owned()));
        }
        let answer = self.ask(sql).await;
        self.broken |= matches!(answer, Err(Failure::Lost(_)));
        let who = Who::Client(self.client);
        match &answer {
            Ok(answer) => self.trace.note(who, format_args!("{sql} -> {} {:?}", answer.count, answer.rows)),
            Err(failure) => self.trace.note(who, format_args!("{sql} -> {failure}")),
        }
        answer
    }

    fn now(&self) -> u64 {
        // All clients live on one simulated machine, whose clock has whole milliseconds:
        // the count puts what they do within one in its order.
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX / 1_000_000);
        let now = self.read.load(Ordering::Relaxed).saturating_add(1).max(millis * 1_000_000);
        self.read.store(now, Ordering::Relaxed);
        now
    }
}
