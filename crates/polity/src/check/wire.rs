//! A session of the checkers' clients over the PostgreSQL wire.

use std::time::Duration;

use polity_check::workload::{Answer, Failure, Session};
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, Config, SimpleQueryMessage};

use crate::shell::tls::Connector;

/// A statement without an answer for so long counts as lost with its connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that takes longer is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection.
pub struct Wire {
    client: Client,
    started: Instant,
    broken: bool,
}

impl Wire {
    /// Connects, and sets the isolation of lone statements.
    pub async fn connect(config: &Config, tls: &Connector, isolation: &str, started: Instant) -> Result<Wire, Failure> {
        let connecting = timeout(CONNECT_TIMEOUT, config.connect(tls.clone())).await;
        let (client, connection) = connecting
            .map_err(|_| Failure::Lost(format!("no connection within {CONNECT_TIMEOUT:?}")))?
            .map_err(|error| failure(&error))?;
        // Ends with the connection; what it says, the next statement says too.
        tokio::spawn(connection);
        let mut wire = Wire { client, started, broken: false };
        wire.execute(&format!("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {isolation}")).await?;
        Ok(wire)
    }

    /// Whether the connection is of no more use.
    pub fn is_broken(&self) -> bool {
        self.broken || self.client.is_closed()
    }
}

impl Session for Wire {
    async fn execute(&mut self, sql: &str) -> Result<Answer, Failure> {
        let answered = timeout(ANSWER_TIMEOUT, self.client.simple_query(sql)).await;
        let result = match answered {
            Ok(result) => result.map_err(|error| failure(&error)),
            Err(_) => Err(Failure::Lost(format!("no answer within {ANSWER_TIMEOUT:?}"))),
        };
        self.broken |= matches!(result, Err(Failure::Lost(_)));
        let mut answer = Answer::default();
        for message in result? {
            match message {
                SimpleQueryMessage::Row(row) => {
                    answer.rows.push((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect());
                }
                SimpleQueryMessage::CommandComplete(count) => answer.count = count,
                _ => {}
            }
        }
        Ok(answer)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

fn failure(error: &tokio_postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(db) => Failure::Refused { sqlstate: db.code().code().into(), message: db.message().into() },
        None => {
            let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
            Failure::Lost(format!("{error}{cause}"))
        }
    }
}
