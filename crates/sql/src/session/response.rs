//! What a statement answers.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use polity_base::{Type, Value};

use super::cancel::Watch;
use crate::error::Result;

/// A column of a result.
#[derive(Clone, PartialEq, Debug)]
pub struct Column {
    /// Its name
    pub name: String,
    /// Its type
    pub r#type: Type,
    /// The table column it is, when it is one: object identifier and attribute
    /// number
    pub source: Option<(u32, i16)>,
}

/// What a statement needs and gives, known without running it.
#[derive(Clone, Debug)]
pub struct Description {
    /// Types of the parameters `$1`, `$2`, …
    pub parameters: Vec<Type>,
    /// The columns of the result; `None` when there is none
    pub columns: Option<Arc<[Column]>>,
}

/// Gives rows bit by bit. It owns what it needs and does not borrow the session.
pub trait RowSource: Send {
    /// At most about `max` more rows (at least one, unless it is at its end:
    /// then none).
    fn next(&mut self, max: usize) -> BoxFuture<'_, Result<Vec<Vec<Value>>>>;
}

/// The rows of a result.
pub struct RowStream {
    columns: Arc<[Column]>,
    verb: Verb,
    source: Source,
    watch: Option<Watch>,
}

enum Source {
    Ready(std::vec::IntoIter<Vec<Value>>),
    Later(Box<dyn RowSource>),
}

/// What the command tag of a statement that gives rows begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // each is the statement's first word
pub enum Verb {
    Select,
    Insert,
    Update,
    Delete,
    Explain,
    Show,
    Fetch,
}

impl RowStream {
    /// Rows that are at hand already.
    pub fn ready(columns: Arc<[Column]>, verb: Verb, rows: Vec<Vec<Value>>) -> RowStream {
        RowStream { columns, verb, source: Source::Ready(rows.into_iter()), watch: None }
    }

    /// Rows that are made as they are asked for.
    pub fn later(columns: Arc<[Column]>, verb: Verb, source: Box<dyn RowSource>) -> RowStream {
        RowStream { columns, verb, source: Source::Later(source), watch: None }
    }

    /// The same rows, as long as `watch` does not end the statement.
    pub(crate) fn guarded(mut self, watch: Watch) -> RowStream {
        self.watch = Some(watch);
        self
    }

    /// What the rows consist of.
    pub fn columns(&self) -> &Arc<[Column]> {
        &self.columns
    }

    /// At most about `max` more rows; none when it is at its end.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Vec<Value>>> {
        match &mut self.source {
            Source::Ready(rows) => Ok(rows.take(max.max(1)).collect()),
            Source::Later(source) => match &self.watch {
                Some(watch) => watch.guard(source.next(max.max(1))).await,
                None => source.next(max.max(1)).await,
            },
        }
    }

    /// The command tag after `rows` rows.
    pub fn tag(&self, rows: u64) -> String {
        match self.verb {
            Verb::Select => format!("SELECT {rows}"),
            Verb::Insert => format!("INSERT 0 {rows}"),
            Verb::Update => format!("UPDATE {rows}"),
            Verb::Delete => format!("DELETE {rows}"),
            Verb::Fetch => format!("FETCH {rows}"),
            Verb::Explain => "EXPLAIN".to_owned(),
            Verb::Show => "SHOW".to_owned(),
        }
    }
}

/// The text of a COPY TO, bit by bit.
pub trait CopySource: Send {
    /// The next piece, of whole rows; `None` at the end.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Bytes>>>;
    /// Where each row of the last piece ends: a client gets a message for each.
    fn ends(&self) -> &[usize];
    /// Rows given so far.
    fn rows(&self) -> u64;
}

/// What a statement answers.
pub enum Response {
    /// Rows
    Rows(RowStream),
    /// Done; the command tag
    Complete(String),
    /// COPY FROM STDIN: the session now expects data
    CopyIn {
        /// How many columns a row has
        columns: usize,
    },
    /// COPY TO STDOUT
    CopyOut {
        /// How many columns a row has
        columns: usize,
        /// The data
        source: Box<dyn CopySource>,
    },
    /// The statement was empty
    Empty,
}
