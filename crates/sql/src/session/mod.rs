//! One client's conversation: transactions, settings, prepared plans.
//!
//! A session runs one statement at a time, inside a transaction that is either
//! the client's own (BEGIN … COMMIT), or the one around a group of statements
//! sent together (a simple query of several statements, a pipeline up to its
//! Sync), or the statement's alone. A statement alone that meets a conflict is
//! run again from its start: nobody has seen its result yet.
//!
//! ```text
//! execute ──▶ control      BEGIN, COMMIT, ROLLBACK, SAVEPOINT
//!        ├──▶ variables    SET, SHOW, RESET, DISCARD
//!        └──▶ run          everything else: a plan, a snapshot, the floor below
//! ```

pub mod activity;
mod as_of;
pub(crate) mod byzantine;
pub mod cancel;
pub mod context;
mod control;
pub mod engine;
mod errors;
pub(crate) mod eventual;
mod explain;
pub mod lift;
#[cfg(test)]
mod noise;
pub mod prepared;
pub mod response;
mod run;
mod sequences;
pub mod settings;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::HashMap;
use std::sync::Arc;

use polity_base::{Type, Value};

pub use self::cancel::{Canceller, Watch};
pub use self::context::{Context, Notice, SequenceMemory};
pub use self::engine::{Engine, EngineOptions};
pub use self::prepared::{Invocation, Prepared};
pub use self::response::{Column, CopySource, Description, Response, RowSource, RowStream, Verb};
pub use self::settings::Settings;

use self::activity::{Listed, Presence, State};
use self::prepared::Parsed;
use self::run::{Active, Copying};
use crate::error::{Condition, Error, Result};
use crate::point::PointPlan;

/// What running a statement against one snapshot came to.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It is done.
    Done(T),
    /// A row it must write is newer than its snapshot, and now locked: run it
    /// again on a newer one.
    Stale,
}

/// Whether a transaction is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionStatus {
    /// None
    Idle,
    /// One is open
    Active,
    /// One is open and has failed: it can only be rolled back
    Failed,
}

/// Whether a statement stands alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// It is a transaction of its own, unless the client opened one.
    Alone,
    /// It shares a transaction with the statements up to the next [`Session::sync`].
    Block,
}

/// One client's conversation.
pub struct Session {
    engine: Arc<Engine>,
    user: String,
    settings: Settings,
    /// The open transaction, if any
    active: Option<Box<Active>>,
    sequences: SequenceMemory,
    notices: Vec<Notice>,
    statements: HashMap<String, Arc<Prepared>>,
    copy: Option<Copying>,
    canceller: Canceller,
    listed: Listed,
    /// The generation of the settings that others see
    shown: u64,
    /// How many more statements ask for their locks beforehand
    wary: u8,
}

impl Session {
    pub(crate) fn new(engine: Arc<Engine>, user: &str, startup: &[(String, String)]) -> Result<Session> {
        let mut settings = Settings::new(user);
        for (name, value) in startup {
            settings.set(name, Some(value), false)?;
        }
        settings.keep();
        let canceller = Canceller::default();
        let began = engine.clock().reading().midpoint().unix_micros();
        let listed = engine.sessions().enter(user, began, canceller.clone());
        let mut session = Session {
            engine,
            user: user.to_owned(),
            settings,
            active: None,
            sequences: SequenceMemory::default(),
            notices: Vec::new(),
            statements: HashMap::new(),
            copy: None,
            canceller,
            listed,
            shown: 0,
            wary: 0,
        };
        session.rest();
        Ok(session)
    }

    /// The session as others of its node see it.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.listed.presence
    }

    /// The session waits for its client from now on, and others see that.
    pub fn rest(&mut self) {
        let state = match self.transaction_status() {
            TransactionStatus::Idle => State::Idle,
            TransactionStatus::Active => State::IdleInTransaction,
            TransactionStatus::Failed => State::IdleInFailed,
        };
        let transaction = self.active.as_ref().map(|a| (a.txn.id(), a.began));
        let now = self.engine.clock().reading().midpoint().unix_micros();
        let renamed = (self.shown != self.settings.generation())
            .then(|| self.settings.show("application_name").unwrap_or_default().to_owned());
        self.shown = self.settings.generation();
        self.listed.presence.change(|doing| {
            doing.state = state;
            doing.state_since = now;
            doing.transaction = transaction;
            if let Some(application) = renamed {
                doing.application = application;
            }
        });
    }

    /// Whether a transaction is open.
    pub fn transaction_status(&self) -> TransactionStatus {
        match &self.active {
            Some(active) if active.explicit && active.failed => TransactionStatus::Failed,
            Some(active) if active.explicit => TransactionStatus::Active,
            _ => TransactionStatus::Idle,
        }
    }

    /// Cancels what this session runs.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// The session's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Names and values of settings the client has not been told yet.
    pub fn parameter_status(&mut self) -> Vec<(String, String)> {
        self.settings.take_reports()
    }

    /// Notices since the last call.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Splits a simple query into its statements.
    pub fn parse_many(&mut self, sql: &str) -> Result<Vec<Invocation>> {
        if let Some(invocation) = self.lifted(sql) {
            return Ok(vec![invocation]);
        }
        let parsed = self.engine.parse_cached(sql)?;
        Ok(parsed.into_iter().map(|prepared| Invocation { prepared, parameters: Vec::new() }).collect())
    }

    /// The statement with its literals lifted out, if the point path can run it
    /// so: lifting helps those statements and only those.
    fn lifted(&self, sql: &str) -> Option<Invocation> {
        if self.active.as_ref().is_some_and(|a| a.changed_catalog) {
            return None;
        }
        let lifted = lift::lift(sql)?;
        let catalog = self.engine.catalogs().newest()?;
        let template = self.engine.template(&lifted, &catalog, |text| {
            let mut statements = prepared::parse(text).ok()?;
            let parsed = statements.pop().filter(|_| statements.is_empty())?;
            PointPlan::recognise(&catalog, &parsed.statement, &[]).ok()??;
            Some(Prepared::of(text.to_owned(), Some(parsed), Vec::new()))
        })?;
        Some(Invocation { prepared: template, parameters: lifted.literals })
    }

    /// Parses one statement of the extended protocol.
    pub fn prepare(&mut self, sql: &str, declared: &[Option<Type>]) -> Result<Arc<Prepared>> {
        let one = engine::single(self.engine.parse_cached(sql)?)?;
        let parsed = one.as_ref().and_then(|p| {
            let (statement, as_of) = (p.statement()?.clone(), p.as_of().cloned());
            Some(Parsed { statement, as_of })
        });
        if parsed.is_some() && declared.iter().all(Option::is_none) {
            // Shares its plan with all who prepare the same text.
            return one.ok_or_else(|| Error::internal("a statement without itself"));
        }
        Ok(Arc::new(Prepared::of(sql.to_owned(), parsed, declared.to_vec())))
    }

    /// Keeps a named statement (`name` is not empty).
    pub fn store_statement(&mut self, name: &str, prepared: Arc<Prepared>) -> Result<()> {
        if self.statements.contains_key(name) {
            return Err(Error::new(
                Condition::DuplicatePreparedStatement,
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        self.statements.insert(name.to_owned(), prepared);
        Ok(())
    }

    /// A named statement.
    pub fn statement(&self, name: &str) -> Result<Arc<Prepared>> {
        self.statements.get(name).cloned().ok_or_else(|| no_statement(name))
    }

    /// Forgets a named statement; whether there was one.
    pub fn drop_statement(&mut self, name: &str) -> bool {
        self.statements.remove(name).is_some()
    }

    /// Whether COPY data is expected.
    pub fn is_copying(&self) -> bool {
        self.copy.is_some()
    }

    /// The statement that ran has failed after it answered (while its rows were
    /// sent): its transaction has failed with it.
    pub fn fail(&mut self) {
        self.copy = None;
        match &mut self.active {
            Some(active) if active.explicit => active.failed = true,
            Some(_) => self.abandon(),
            None => self.settings.end_transaction(false),
        }
    }
}

fn no_statement(name: &str) -> Error {
    Error::new(Condition::InvalidSqlStatementName, format!("prepared statement \"{name}\" does not exist"))
}

/// The values of parameters, checked for their number.
fn check_parameters(wanted: usize, given: &[Value]) -> Result<()> {
    if wanted == given.len() {
        return Ok(());
    }
    Err(Error::new(
        Condition::ProtocolViolation,
        format!("bind message supplies {} parameters, but prepared statement requires {wanted}", given.len()),
    ))
}
