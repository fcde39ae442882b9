//! The extended protocol: statements and portals.
//!
//! A statement keeps what its client was told of it (parameters, columns). Should
//! its result have other columns when it runs, since a table was altered meanwhile,
//! it fails instead of sending rows that the client would misread.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use polity_base::{Type, Value};
use polity_sql::session::{Column, Description, Prepared, Response, RowStream, Scope, TransactionStatus};
use polity_sql::{Condition, Error};

use super::{Connection, End, FULL, ROWS_AT_A_TIME, Went};
use crate::pg::backend;
use crate::pg::frontend::{self, Codes, Message, Target, Values};
use crate::pg::value::{self, Formats};

/// A prepared statement, and what its client was told of it.
#[derive(Clone)]
pub(super) struct Known {
    prepared: Arc<Prepared>,
    description: Arc<Description>,
}

/// A statement bound to its parameters, and how far it has run.
pub(super) struct Portal {
    known: Known,
    parameters: Vec<Value>,
    formats: Formats,
    state: Progress,
}

enum Progress {
    New,
    /// Rows that were fetched and not sent yet, and those behind them
    Suspended(std::vec::IntoIter<Vec<Value>>, Box<RowStream>),
    /// Nothing is left; whether running it again gives no rows or is an error
    Done {
        rows: Option<&'static str>,
    },
}

impl Connection {
    /// One message of the extended protocol.
    pub(super) async fn extended(&mut self, message: Message<'_>) -> Went {
        Ok(match message {
            Message::Parse { name, text, types } => self.parse(name, text, &types).await,
            Message::Bind { portal, statement, formats, values, results } => {
                self.bind(portal, statement, formats, values, results).await
            }
            Message::Describe { target: Target::Statement, name } => self.describe_statement(name).await,
            Message::Describe { target: Target::Portal, name } => self.describe_portal(name),
            Message::Execute { portal, rows } => return self.execute(portal, rows).await,
            Message::Close { target, name } => {
                self.close(target, name);
                Ok(())
            }
            _ => Err(backend::violation("unexpected message")),
        })
    }

    /// In a failed transaction nothing but its end is taken.
    fn check_failed(&self, prepared: &Prepared) -> Result<(), Error> {
        if self.session.transaction_status() != TransactionStatus::Failed || prepared.ends_transaction() {
            return Ok(());
        }
        Err(Error::new(
            Condition::InFailedSqlTransaction,
            "current transaction is aborted, commands ignored until end of transaction block",
        ))
    }

    async fn parse(&mut self, name: &str, text: &str, types: &[u32]) -> Result<(), Error> {
        let declared = types.iter().map(|oid| declared(*oid)).collect::<Result<Vec<_>, Error>>()?;
        let prepared = self.session.prepare(text, &declared)?;
        self.check_failed(&prepared)?;
        // PostgreSQL analyses at Parse, so that its errors come here.
        let known = self.learn(prepared).await?;
        if name.is_empty() {
            self.unnamed = Some(known);
        } else {
            self.session.store_statement(name, known.prepared.clone())?;
            self.known.insert(name.to_owned(), known);
        }
        backend::bare(&mut self.out, b'1');
        Ok(())
    }

    async fn learn(&mut self, prepared: Arc<Prepared>) -> Result<Known, Error> {
        let description = if prepared.ends_transaction() {
            Description { parameters: Vec::new(), columns: None }
        } else {
            self.session.describe(&prepared).await?
        };
        Ok(Known { prepared, description: Arc::new(description) })
    }

    /// A statement by its name. SQL's PREPARE and DEALLOCATE make and drop them too.
    async fn named(&mut self, name: &str) -> Result<Known, Error> {
        if name.is_empty() {
            return self.unnamed.clone().ok_or_else(|| {
                Error::new(Condition::InvalidSqlStatementName, "unnamed prepared statement does not exist")
            });
        }
        let prepared = self.session.statement(name)?;
        if let Some(known) = self.known.get(name).filter(|known| Arc::ptr_eq(&known.prepared, &prepared)) {
            return Ok(known.clone());
        }
        let known = self.learn(prepared).await?;
        self.known.insert(name.to_owned(), known.clone());
        Ok(known)
    }

    async fn bind(
        &mut self,
        portal: &str,
        statement: &str,
        formats: Codes<'_>,
        values: Values<'_>,
        results: Codes<'_>,
    ) -> Result<(), Error> {
        let known = self.named(statement).await?;
        self.check_failed(&known.prepared)?;
        let (formats, given) = (Formats::of(formats)?, values.len());
        if let Some(count) = formats.len().filter(|count| *count != given) {
            return Err(backend::violation(format_args!(
                "bind message has {count} parameter formats but {given} parameters"
            )));
        }
        let types = &known.description.parameters;
        if types.len() != given {
            return Err(backend::violation(format_args!(
                "bind message supplies {given} parameters, but prepared statement \"{statement}\" requires {}",
                types.len()
            )));
        }
        let results = Formats::of(results)?;
        let columns = known.description.columns.as_ref().map_or(0, |c| c.len());
        if let Some(count) = results.len().filter(|count| *count != columns) {
            return Err(backend::violation(format_args!(
                "bind message has {count} result formats but query has {columns} columns"
            )));
        }
        let parameters = self.parameters(types, &formats, values)?;
        let bound = Portal { known, parameters, formats: results, state: Progress::New };
        if portal.is_empty() {
            self.portal = Some(bound);
        } else {
            match self.portals.entry(portal.to_owned()) {
                Entry::Occupied(_) => {
                    return Err(Error::new(Condition::DuplicateCursor, format!("cursor \"{portal}\" already exists")));
                }
                Entry::Vacant(place) => place.insert(bound),
            };
        }
        backend::bare(&mut self.out, b'2');
        Ok(())
    }

    fn parameters(&mut self, types: &[Type], formats: &Formats, values: Values<'_>) -> Result<Vec<Value>, Error> {
        if types.iter().any(is_moment) {
            // What "now" and "today" mean.
            self.text.now = self.shared.engine.clock().reading().midpoint().unix_micros();
        }
        let mut parameters = Vec::with_capacity(types.len());
        for (at, (given, r#type)) in values.iter().zip(types).enumerate() {
            parameters.push(match given {
                None => Value::Null,
                Some(bytes) => value::read(bytes, r#type, formats.is_binary(at), &self.text)?,
            });
        }
        Ok(parameters)
    }

    async fn describe_statement(&mut self, name: &str) -> Result<(), Error> {
        let known = self.named(name).await?;
        self.check_failed(&known.prepared)?;
        let description = &known.description;
        backend::parameter_description(&mut self.out, description.parameters.iter().map(Type::oid));
        self.describe_columns(description.columns.as_deref(), &Formats::Text);
        Ok(())
    }

    fn describe_portal(&mut self, name: &str) -> Result<(), Error> {
        let portal = if name.is_empty() { self.portal.as_ref() } else { self.portals.get(name) };
        let portal = portal.ok_or_else(|| no_portal(name))?;
        self.check_failed(&portal.known.prepared)?;
        let (description, formats) = (portal.known.description.clone(), portal.formats.clone());
        self.describe_columns(description.columns.as_deref(), &formats);
        Ok(())
    }

    fn describe_columns(&mut self, columns: Option<&[Column]>, formats: &Formats) {
        match columns {
            Some(columns) => backend::row_description(&mut self.out, columns, formats),
            None => backend::bare(&mut self.out, b'n'),
        }
    }

    fn close(&mut self, target: Target, name: &str) {
        match (target, name.is_empty()) {
            (Target::Statement, true) => self.unnamed = None,
            (Target::Statement, false) => {
                self.session.drop_statement(name);
                self.known.remove(name);
            }
            (Target::Portal, true) => self.portal = None,
            (Target::Portal, false) => {
                self.portals.remove(name);
            }
        }
        backend::bare(&mut self.out, b'3');
    }

    /// Portals last as long as their transaction.
    pub(super) fn close_portals(&mut self) {
        if self.session.transaction_status() == TransactionStatus::Idle {
            self.portal = None;
            self.portals.clear();
        }
    }

    async fn execute(&mut self, name: &str, most: usize) -> Went {
        let portal = if name.is_empty() { self.portal.take() } else { self.portals.remove(name) };
        let Some(mut portal) = portal else { return Ok(Err(no_portal(name))) };
        let before = self.session.transaction_status();
        let result = self.advance(&mut portal, most).await;
        if before != TransactionStatus::Idle {
            // COMMIT and ROLLBACK end the other portals of their transaction.
            self.close_portals();
        }
        if name.is_empty() {
            self.portal = Some(portal);
        } else {
            self.portals.insert(name.to_owned(), portal);
        }
        result
    }

    /// Runs a portal, or runs it on.
    async fn advance(&mut self, portal: &mut Portal, most: usize) -> Went {
        if let Err(error) = self.check_failed(&portal.known.prepared) {
            return Ok(Err(error));
        }
        let (mut fetched, mut rows) = match std::mem::replace(&mut portal.state, Progress::Done { rows: None }) {
            Progress::Done { rows: Some(verb) } => {
                portal.state = Progress::Done { rows: Some(verb) };
                self.complete(&format!("{verb} 0"));
                return Ok(Ok(()));
            }
            Progress::Done { rows: None } => {
                return Ok(Err(Error::new(Condition::ObjectNotInPrerequisiteState, "portal cannot be run")));
            }
            Progress::Suspended(fetched, rows) => (fetched, rows),
            Progress::New => {
                let alone = most == usize::MAX && frontend::sync_follows(&self.input);
                let scope = if alone { Scope::Alone } else { Scope::Block };
                let parameters = std::mem::take(&mut portal.parameters);
                match self.session.execute(&portal.known.prepared, parameters, scope).await {
                    Ok(Response::Rows(rows)) => (Vec::new().into_iter(), Box::new(rows)),
                    // Only a result of rows goes on in pieces; the rest is told at once.
                    Ok(other) => return self.answer(other, scope).await,
                    Err(error) => return Ok(Err(error)),
                }
            }
        };
        if let Err(error) = unchanged(&portal.known.description, rows.columns()) {
            return Ok(Err(error));
        }
        match self.some_rows(&mut fetched, &mut rows, &portal.formats, most).await? {
            Ok(Sent::All(sent)) => {
                // Each Execute counts its own rows only.
                let tag = rows.tag(sent);
                self.complete(&tag);
                portal.state = Progress::Done { rows: again(&tag) };
            }
            Ok(Sent::Part) => {
                self.report_settings();
                backend::bare(&mut self.out, b's');
                portal.state = Progress::Suspended(fetched, rows);
            }
            Err(error) => return Ok(Err(error)),
        }
        Ok(Ok(()))
    }

    async fn some_rows(
        &mut self,
        fetched: &mut std::vec::IntoIter<Vec<Value>>,
        rows: &mut RowStream,
        formats: &Formats,
        most: usize,
    ) -> Result<Result<Sent, Error>, End> {
        let columns = rows.columns().clone();
        let mut sent = 0;
        while sent < most {
            let Some(row) = fetched.next() else {
                match rows.next(ROWS_AT_A_TIME.min(most - sent)).await {
                    Ok(chunk) if chunk.is_empty() => return Ok(Ok(Sent::All(sent as u64))),
                    Ok(chunk) => *fetched = chunk.into_iter(),
                    Err(error) => return Ok(Err(error)),
                }
                continue;
            };
            if let Err(error) = self.data_row(&row, &columns, formats) {
                return Ok(Err(error));
            }
            sent += 1;
            if self.out.len() >= FULL {
                self.flush().await?;
            }
        }
        Ok(Ok(Sent::Part))
    }
}

/// How much of a result was sent.
enum Sent {
    /// So many rows, which are all that were left
    All(u64),
    /// As many as were asked for
    Part,
}

/// What the tag of a result that is at its end begins with, if asking for more
/// gives no rows rather than an error.
fn again(tag: &str) -> Option<&'static str> {
    ["SELECT", "FETCH"].into_iter().find(|verb| tag.starts_with(verb))
}

/// The type that a client has stated for a parameter, if it has.
fn declared(oid: u32) -> Result<Option<Type>, Error> {
    match oid {
        0 | 705 => Ok(None),
        oid => Type::from_oid(oid)
            .map(Some)
            .ok_or_else(|| Error::new(Condition::UndefinedObject, format!("type with OID {oid} does not exist"))),
    }
}

fn is_moment(r#type: &Type) -> bool {
    match r#type {
        Type::Date | Type::Time | Type::Timestamp | Type::TimestampTz => true,
        Type::Array(element) => is_moment(element),
        _ => false,
    }
}

/// Whether a result has the columns its client was told of.
fn unchanged(description: &Description, columns: &Arc<[Column]>) -> Result<(), Error> {
    let same = description.columns.as_ref().is_some_and(|told| {
        Arc::ptr_eq(told, columns)
            || (told.len() == columns.len() && told.iter().zip(columns.iter()).all(|(a, b)| a.r#type == b.r#type))
    });
    if same {
        return Ok(());
    }
    Err(Error::new(Condition::FeatureNotSupported, "cached plan must not change result type")
        .hint("Prepare the statement again."))
}

fn no_portal(name: &str) -> Error {
    Error::new(Condition::InvalidCursorName, format!("portal \"{name}\" does not exist"))
}
