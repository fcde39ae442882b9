//! The conversation after login.
//!
//! ```text
//! input ──▶ frame ──▶ message ──▶ session ──▶ out ──▶ client
//! ```
//! What is answered stays in `out` until the client waits for it: at Sync, at
//! Flush, after a simple query, and then only when no further request is at hand.
//! So a pipeline costs one read and one write, however long it is.

mod extended;
mod input;
mod transfer;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use polity_base::Class;
use polity_base::text::{Settings, Zone};
use polity_sql::session::{Column, Response, RowStream, Scope, Session, TransactionStatus};
use polity_sql::{Condition, Error};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use self::extended::{Known, Portal};
use self::input::Patience;
use super::departure::Departure;
use super::frontend::{self, Message};
use super::metrics::Kind;
use super::value::Formats;
use super::{Shared, Stream, backend, value};

/// The out buffer is sent when it holds this many bytes, asked for or not.
const FULL: usize = 64 << 10;
/// Rows asked of a stream at a time.
const ROWS_AT_A_TIME: usize = 1_024;
/// The longest row: a message's length is a signed 32-bit number, and clients stop
/// at half of that.
const LONGEST_ROW: usize = 0x3FFF_FFFF;

/// Why the conversation is over.
enum End {
    /// The client left, or its connection broke
    Gone,
    /// The client is told why
    Fatal(Error),
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> End {
        End::Gone
    }
}

/// How a request went: an error of its own does not end the conversation.
type Went = Result<Result<(), Error>, End>;

/// One client's conversation.
pub(super) struct Connection {
    shared: Arc<Shared>,
    stream: Stream,
    input: BytesMut,
    /// How much room the next read is given
    room: usize,
    out: Vec<u8>,
    /// The client waits for what is in `out`
    owed: bool,
    session: Session,
    departure: Arc<Departure>,
    /// The unnamed statement, and named ones with what is known of them
    unnamed: Option<Known>,
    known: HashMap<String, Known>,
    /// The unnamed portal, and the named ones
    portal: Option<Portal>,
    portals: HashMap<String, Portal>,
    /// After an error in the extended protocol, until Sync
    skipping: bool,
    /// What the text form of values depends on
    text: Settings,
    patience: Patience,
    /// The generation of the settings that `text` and `patience` were made of
    generation: Option<u64>,
}

impl Connection {
    pub(super) fn new(
        shared: Arc<Shared>,
        stream: Stream,
        input: BytesMut,
        session: Session,
        departure: Arc<Departure>,
    ) -> Connection {
        Connection {
            shared,
            stream,
            input,
            room: input::LEAST_ROOM,
            out: Vec::new(),
            owed: false,
            session,
            departure,
            unnamed: None,
            known: HashMap::new(),
            portal: None,
            portals: HashMap::new(),
            skipping: false,
            text: Settings::default(),
            patience: Patience::default(),
            generation: None,
        }
    }

    /// Talks until either side ends it.
    pub(super) async fn run(mut self, process: i32, secret: &[u8]) {
        self.report_settings();
        backend::key_data(&mut self.out, process, secret);
        backend::ready(&mut self.out, TransactionStatus::Idle);
        self.owed = true;
        if let Err(End::Fatal(error)) = self.talk().await {
            self.shared.metrics.failed(&error);
            self.report_settings();
            backend::error(&mut self.out, &error, "FATAL");
            let _ = self.flush().await;
        }
        let _ = self.stream.shutdown().await;
    }

    async fn talk(&mut self) -> Result<(), End> {
        loop {
            let frame = self.next_frame(self.patience()).await?;
            let began = Instant::now();
            // After an error everything up to Sync is passed over, simple queries too.
            if self.skipping && !matches!(frame.kind, b'S' | b'X') {
                continue;
            }
            let message = match frontend::decode(&frame) {
                Ok(message) => message,
                Err(error) if error.is_fatal() || !matches!(frame.kind, b'Q' | b'P' | b'B' | b'D' | b'E' | b'C') => {
                    return Err(End::Fatal(backend::malformed(&error)));
                }
                Err(error) => {
                    self.refuse(&backend::malformed(&error));
                    if frame.kind == b'Q' {
                        self.ready()
                    } else {
                        self.skipping = true
                    }
                    continue;
                }
            };
            match message {
                Message::Terminate => return Ok(()),
                Message::Query { text } => {
                    self.simple(text).await?;
                    self.ready();
                    self.shared.metrics.took(Kind::Simple, began);
                }
                Message::Sync => {
                    self.skipping = false;
                    if let Err(error) = self.session.sync().await {
                        self.refuse(&error);
                    }
                    self.close_portals();
                    self.ready();
                }
                Message::Flush => self.owed = true,
                // A COPY that failed: what the client had on its way already.
                Message::CopyData(_) | Message::CopyDone | Message::CopyFail { .. } => {}
                Message::Password(_) => {
                    return Err(End::Fatal(backend::violation("invalid frontend message type 112")));
                }
                Message::FunctionCall => {
                    self.refuse(
                        &Error::unsupported("the function call protocol").hint("Use SELECT to call functions."),
                    );
                    self.ready();
                }
                message => {
                    let runs = matches!(message, Message::Execute { .. });
                    if let Err(error) = self.extended(message).await? {
                        self.refuse(&error);
                        self.skipping = true;
                    }
                    if runs {
                        self.shared.metrics.took(Kind::Extended, began);
                    }
                }
            }
            if self.out.len() >= FULL {
                self.flush().await?;
            }
        }
    }

    async fn flush(&mut self) -> Result<(), End> {
        self.owed = false;
        if self.out.is_empty() {
            return Ok(());
        }
        self.stream.write_all(&self.out).await?;
        self.stream.flush().await?;
        self.shared.metrics.sent(self.out.len());
        self.out.clear();
        Ok(())
    }

    /// Ends a request; it is sent when no other request is at hand.
    fn ready(&mut self) {
        self.report_settings();
        self.session.rest();
        backend::ready(&mut self.out, self.session.transaction_status());
        self.owed = true;
    }

    /// Tells the client of settings that changed, and of notices.
    fn report_settings(&mut self) {
        for notice in self.session.notices() {
            backend::notice(&mut self.out, &notice);
        }
        let generation = self.session.settings().generation();
        if self.generation == Some(generation) {
            return;
        }
        self.generation = Some(generation);
        for (name, value) in self.session.parameter_status() {
            backend::parameter_status(&mut self.out, &name, &value);
        }
        let settings = self.session.settings();
        self.text.zone = settings.show("TimeZone").and_then(Zone::parse).unwrap_or(Zone::UTC);
        self.patience = Patience::of(settings);
    }

    /// Answers a request with an error; its transaction has failed.
    fn refuse(&mut self, error: &Error) {
        self.session.fail();
        self.shared.metrics.failed(error);
        if matches!(error.class(), Class::Bug | Class::Corrupt) {
            tracing::error!(%error, "a statement failed");
        }
        self.report_settings();
        backend::error(&mut self.out, error, "ERROR");
    }

    /// A simple query: one or more statements.
    async fn simple(&mut self, text: &str) -> Result<(), End> {
        self.unnamed = None;
        self.portal = None;
        let invocations = match self.session.parse_many(text) {
            Ok(invocations) => invocations,
            Err(error) => {
                self.refuse(&error);
                return Ok(());
            }
        };
        if invocations.is_empty() {
            backend::bare(&mut self.out, b'I');
        }
        let scope = if invocations.len() == 1 { Scope::Alone } else { Scope::Block };
        for invocation in invocations {
            let result = match self.session.execute(&invocation.prepared, invocation.parameters, scope).await {
                Ok(response) => self.answer(response, scope).await?,
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.refuse(&error);
                return Ok(());
            }
        }
        if scope == Scope::Block
            && let Err(error) = self.session.sync().await
        {
            self.refuse(&error);
        }
        self.close_portals();
        Ok(())
    }

    /// Sends all that a statement of a simple query answers.
    async fn answer(&mut self, response: Response, scope: Scope) -> Went {
        self.report_settings();
        match response {
            Response::Rows(mut rows) => {
                let columns = rows.columns().clone();
                backend::row_description(&mut self.out, &columns, &Formats::Text);
                let sent = match self.all_rows(&mut rows, &columns).await? {
                    Ok(sent) => sent,
                    Err(error) => return Ok(Err(error)),
                };
                self.complete(&rows.tag(sent));
            }
            Response::Complete(tag) => self.complete(&tag),
            Response::Empty => backend::bare(&mut self.out, b'I'),
            Response::CopyIn { columns } => return self.copy_in(columns, scope).await,
            Response::CopyOut { columns, source } => return self.copy_out(columns, source).await,
        }
        Ok(Ok(()))
    }

    fn complete(&mut self, tag: &str) {
        self.report_settings();
        backend::complete(&mut self.out, tag);
    }

    async fn all_rows(&mut self, rows: &mut RowStream, columns: &[Column]) -> Result<Result<u64, Error>, End> {
        let mut sent = 0;
        loop {
            let chunk = match rows.next(ROWS_AT_A_TIME).await {
                Ok(chunk) => chunk,
                Err(error) => return Ok(Err(error)),
            };
            if chunk.is_empty() {
                return Ok(Ok(sent));
            }
            for row in &chunk {
                if let Err(error) = self.data_row(row, columns, &Formats::Text) {
                    return Ok(Err(error));
                }
                if self.out.len() >= FULL {
                    self.flush().await?;
                }
            }
            sent += chunk.len() as u64;
        }
    }

    fn data_row(&mut self, row: &[polity_base::Value], columns: &[Column], formats: &Formats) -> Result<(), Error> {
        if row.len() != columns.len() {
            return Err(Error::internal(format!("a row of {} values has {} columns", row.len(), columns.len())));
        }
        let (text, from) = (&self.text, self.out.len());
        backend::message(&mut self.out, b'D', |out| {
            out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
            for (at, (field, column)) in row.iter().zip(columns).enumerate() {
                value::write_field(field, &column.r#type, formats.is_binary(at), text, out);
            }
        });
        let length = self.out.len() - from;
        if length > LONGEST_ROW {
            self.out.truncate(from);
            return Err(Error::new(Condition::ProgramLimitExceeded, "a row is too large to be sent")
                .detail(format!("The row takes {length} bytes; a message has up to {LONGEST_ROW}."))
                .hint("Select fewer columns, or parts of large values with substr."));
        }
        Ok(())
    }
}
