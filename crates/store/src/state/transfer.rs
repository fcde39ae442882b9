//! Giving a group's rows to another replica, for one that is new or has fallen
//! behind what the log still holds.
//!
//! ```text
//! head   0  postcard of Head: the mark, the window's floor, the spans
//! window 1  encoded commits                                     (any number)
//! rows   2  (key length u32, key, timestamp u64, row length u32, row)*     (any number)
//! end    3  SHA-256 of all chunks before
//! ```
//! What is sent is what decides about later entries and what can be read from the
//! mark on: the newest rows with their timestamps, and the window. Old versions
//! and deletions stay behind, so the receiver's horizon moves up to the mark.
//!
//! A receiver installs all of it in one transaction, or nothing.

use std::ops::ControlFlow;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use polity_base::planted::{Bug, planted};
use polity_base::{RangeId, Span, Timestamp};
use redb::WriteTransaction;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::state::layer::CHUNK;
use crate::state::reader::{Reader, View};
use crate::state::scan::Scan;
use crate::state::stats::Stats;
use crate::state::tables::{self, HISTORY, ROWS, StoredGroup, clear_rows, put_mark, put_stats};
use crate::state::version::{join, wrap};
use crate::state::window::{Commit, Window};
use crate::state::{AppliedMark, State, from_redb};

const VERSION: u32 = 1;
/// Chunks of rows are about this many bytes.
const ROWS_CHUNK: usize = 1 << 20;

const HEAD: u8 = 0;
const WINDOW: u8 = 1;
const ROW: u8 = 2;
const END: u8 = 3;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    group: RangeId,
    mark: AppliedMark,
    floor: Timestamp,
    spans: Vec<Span>,
}

/// A group's rows on their way out, chunk by chunk.
pub struct Export {
    mark: AppliedMark,
    reader: Reader,
    at: Timestamp,
    /// Chunks that are ready, last first
    ready: Vec<Bytes>,
    /// Spans still to be read, last first
    spans: Vec<Span>,
    scan: Option<Scan>,
    hash: Option<Context>,
}

impl State {
    /// The rows that `group` has in `spans`, as of now, for [`State::install`]. As
    /// long as the export lives, what it reads is kept in memory and on disk.
    pub fn export(&self, group: RangeId, spans: Vec<Span>) -> Result<Export, Error> {
        let _turn = self.writer.lock();
        self.check()?;
        let (reader, state) = (self.snapshot()?, self.group(group));
        let mark = *state.mark.lock();
        let window = state.window.read();
        // Nothing of the group lies between the two.
        let at = mark.commit.max(reader.horizon(group.guarantee()));
        let head = Head { version: VERSION, group, mark, floor: window.floor(), spans: spans.clone() };
        let mut head_bytes = vec![HEAD];
        head_bytes.extend(postcard::to_stdvec(&head).map_err(|e| Error::Internal(e.to_string()))?);
        let mut ready = vec![Bytes::from(head_bytes)];
        let mut chunk = vec![WINDOW];
        for commit in window.commits() {
            commit.encode(&mut chunk);
            if chunk.len() >= CHUNK {
                ready.push(std::mem::replace(&mut chunk, vec![WINDOW]).into());
            }
        }
        ready.push(chunk.into());
        ready.reverse();
        let spans = spans.into_iter().rev().collect();
        Ok(Export { mark, reader, at, ready, spans, scan: None, hash: Some(Context::new(&SHA256)) })
    }
}

impl Export {
    /// What was applied to the rows.
    pub fn mark(&self) -> AppliedMark {
        self.mark
    }

    /// The next chunk, at most a few MiB unless a single row is larger; `None`
    /// after the last one.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = match self.ready.pop() {
            Some(chunk) => Some(chunk),
            None => self.next_rows()?,
        };
        let Some(chunk) = chunk else {
            let Some(hash) = self.hash.take() else { return Ok(None) };
            let end = [&[END], hash.finish().as_ref()].concat();
            return Ok(Some(end.into()));
        };
        if let Some(hash) = &mut self.hash {
            hash.update(&chunk);
        }
        Ok(Some(chunk))
    }

    fn next_rows(&mut self) -> Result<Option<Bytes>, Error> {
        let mut chunk = vec![ROW];
        while chunk.len() < ROWS_CHUNK {
            let Some(scan) = &mut self.scan else {
                let Some(span) = self.spans.pop() else { break };
                self.scan = Some(self.reader.scan(&span, self.at)?);
                continue;
            };
            let (before, mut skipped) = (chunk.len(), !planted(Bug::TransferSkipsARow));
            scan.drive(|key, written, row| {
                if !std::mem::replace(&mut skipped, true) {
                    return ControlFlow::Continue(());
                }
                chunk.extend_from_slice(&(key.len() as u32).to_le_bytes());
                chunk.extend_from_slice(key);
                chunk.extend_from_slice(&written.0.to_le_bytes());
                chunk.extend_from_slice(&(row.len() as u32).to_le_bytes());
                chunk.extend_from_slice(row);
                if chunk.len() < ROWS_CHUNK { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if chunk.len() == before || chunk.len() < ROWS_CHUNK {
                self.scan = None;
            }
        }
        Ok((chunk.len() > 1).then(|| chunk.into()))
    }
}

impl State {
    /// Replaces what this state has of a group by what [`State::export`] gave
    /// elsewhere; durable when this returns. Nothing of the group may be applied
    /// meanwhile. The horizon of the group's guarantee moves up to the new mark.
    ///
    /// # Errors
    /// If the chunks are not whole, or are behind what is applied here, nothing is
    /// changed. After an error of the disk the state must be opened again.
    pub fn install(&self, chunks: impl IntoIterator<Item = Result<Bytes, Error>>) -> Result<AppliedMark, Error> {
        // What the layers have of the group must not come after what is installed.
        self.checkpoint()?;
        let mut durable = self.flusher.lock();
        let mut chunks = Incoming::new(chunks.into_iter());
        let head = chunks.head()?;
        let applied = self.applied(head.group);
        if head.mark.index < applied.index {
            return Err(Error::OutOfOrder { group: head.group, expected: applied.index, given: head.mark.index });
        }
        let mut stats = self.stats.read().clone();
        let mut window = Window::new(self.window_weight, head.floor);
        let transaction = tables::begin(&self.db, &self.failure)?;
        // An error up to here, or in the chunks, leaves the transaction without
        // effect.
        self.receive(&transaction, &head, &mut chunks, &mut window, &mut stats)?;
        let done = transaction.commit().map_err(|e| from_redb(e, &self.failure));
        done.map_err(|e| self.poison(e))?;

        let horizons = self.pins.lock().raise(head.group.guarantee(), head.mark.commit);
        let base = tables::base(&self.db, &self.failure, horizons).map_err(|e| self.poison(e))?;
        let _turn = self.writer.lock();
        let group = self.group(head.group);
        *group.window.write() = window;
        *group.mark.lock() = head.mark;
        durable.marks.insert(head.group, head.mark);
        *self.stats.write() = stats;
        let mut view = self.view.write();
        *view = Arc::new(View {
            base: Arc::new(base),
            frozen: view.frozen.clone(),
            active: view.active.clone(),
            clears: view.clears.clone(),
        });
        drop(view);
        self.show(head.group, head.mark);
        Ok(head.mark)
    }

    fn receive<I: Iterator<Item = Result<Bytes, Error>>>(
        &self,
        transaction: &WriteTransaction,
        head: &Head,
        chunks: &mut Incoming<I>,
        window: &mut Window,
        stats: &mut Stats,
    ) -> Result<(), Error> {
        let fail = |e: redb::StorageError| from_redb(e, &self.failure);
        let mut rows = transaction.open_table(ROWS).map_err(|e| from_redb(e, &self.failure))?;
        let mut history = transaction.open_table(HISTORY).map_err(|e| from_redb(e, &self.failure))?;
        for span in &head.spans {
            clear_rows(&mut rows, span, stats, &self.failure)?;
        }
        let group = head.group.0;
        history.retain_in((group, 0)..=(group, u64::MAX), |_, _| false).map_err(fail)?;
        let (mut key_bytes, mut row_bytes) = (Vec::new(), Vec::new());
        while let Some((kind, body)) = chunks.next()? {
            let mut rest = &body[..];
            let mut last = None;
            while !rest.is_empty() {
                if kind == WINDOW {
                    let commit = Commit::decode(&mut rest).ok_or_else(|| chunks.damaged("a commit"))?;
                    last = Some(commit.at);
                    window.record(commit);
                    continue;
                }
                let (key, written, row) = take_row(&mut rest).ok_or_else(|| chunks.damaged("a row"))?;
                if !head.spans.iter().any(|s| s.contains(key)) {
                    return Err(chunks.damaged("a row outside of its spans"));
                }
                rows.insert(join(key, written, &mut key_bytes), wrap(Some(row), &mut row_bytes)).map_err(fail)?;
                stats.change(key, None, Some(row.len()));
            }
            if let Some(last) = last {
                history.insert((group, last.0), &body[..]).map_err(fail)?;
            }
        }
        drop((rows, history));
        put_mark(transaction, &self.failure, head.group, &StoredGroup { mark: head.mark, floor: head.floor })?;
        let mut horizons = self.pins.lock().horizons();
        let guarantee = head.group.guarantee();
        horizons[guarantee] = head.mark.commit.max(horizons[guarantee]);
        put_stats(transaction, &self.failure, stats, horizons)
    }
}

fn take_row<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], Timestamp, &'a [u8])> {
    let (len, tail) = rest.split_first_chunk()?;
    let (key, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    let (written, tail) = tail.split_first_chunk()?;
    let (len, tail) = tail.split_first_chunk()?;
    let (row, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    *rest = tail;
    Some((key, Timestamp(u64::from_le_bytes(*written)), row))
}

/// Chunks coming in, checked on the way.
struct Incoming<I> {
    chunks: I,
    hash: Option<Context>,
    count: u64,
}

impl<I: Iterator<Item = Result<Bytes, Error>>> Incoming<I> {
    fn new(chunks: I) -> Incoming<I> {
        Incoming { chunks, hash: Some(Context::new(&SHA256)), count: 0 }
    }

    fn damaged(&self, what: &str) -> Error {
        Error::corrupt(
            "received rows",
            self.count,
            format!("chunk {} holds {what} that does not belong there", self.count),
        )
    }

    fn take(&mut self) -> Result<Bytes, Error> {
        self.count += 1;
        self.chunks.next().unwrap_or_else(|| Err(Error::corrupt("received rows", self.count, "they end too early")))
    }

    fn head(&mut self) -> Result<Head, Error> {
        let chunk = self.take()?;
        if let Some(hash) = &mut self.hash {
            hash.update(&chunk);
        }
        let body = chunk.split_first().filter(|(kind, _)| **kind == HEAD).map(|(_, body)| body);
        let head: Option<Head> = body.and_then(|body| postcard::from_bytes(body).ok());
        let head = head.ok_or_else(|| self.damaged("a head"))?;
        if head.version != VERSION {
            return Err(self.damaged("a version"));
        }
        Ok(head)
    }

    /// The next chunk of commits or rows; nothing after the end, which then has
    /// proved the rest.
    fn next(&mut self) -> Result<Option<(u8, Bytes)>, Error> {
        let Some(mut hash) = self.hash.take() else { return Ok(None) };
        let chunk = self.take()?;
        match chunk.first() {
            Some(&END) => match hash.finish().as_ref() == &chunk[1..] {
                true => Ok(None),
                false => Err(self.damaged("a checksum")),
            },
            Some(&kind @ (WINDOW | ROW)) => {
                hash.update(&chunk);
                self.hash = Some(hash);
                Ok(Some((kind, chunk.slice(1..))))
            }
            _ => Err(self.damaged("something")),
        }
    }
}
