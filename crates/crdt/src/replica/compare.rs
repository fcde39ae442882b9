//! Finding rows that differ although both replicas were told the same, without sending
//! the others: range-based set reconciliation (Meyer, "Range-Based Set Reconciliation",
//! SRDS 2023), with two sizes of ranges.
//!
//! ```text
//! here                                         there
//! fingerprints of pieces of 256 rows ────────▶ which pieces differ
//! of those, fingerprints of 16 rows  ────────▶ which of them differ
//! of those, the hash of each row     ◀──────── the hash of each row
//! states of rows that differ         ◀───────▶ states of rows that differ
//! ```
//! It goes through the rows stretch by stretch, each of which is looked at once on each
//! side; of what is alike only fingerprints travel, some 0.1 bytes a row.
//!
//! What every replica may forget at a time of its own choice is left out of hashes:
//! traces of deleted rows and removed elements. Rows are joined only by a replica that
//! has applied all that the other had: so nothing becomes visible by it that did not come
//! by a delta. And only if neither has forgotten what the other was not told yet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use polity_base::guarantee::merging_key;
use polity_base::{Guarantee, Key, NodeId, Span, Timestamp};
use polity_store::state::Reader;
use tokio::time::timeout;

use super::draft::Draft;
use super::peers::Traffic;
use super::recovery::vector;
use super::status::Comparison;
use super::{Replica, Shared, book};
use crate::cell::Cell;
use crate::error::Error;
use crate::replication::message::{Compare, Page, Piece, Request, Response, encode};
use crate::row::RowState;
use crate::stamp::VersionVector;

/// Rows of a large piece, and of a small one.
const LARGE: usize = 256;
const SMALL: usize = 16;
/// Rows that are looked at before anything is sent.
const STRETCH: usize = 1 << 15;
/// Hashes of rows in one answer at most.
pub(super) const HASHES: usize = 1 << 14;
/// How long a replica waits for what the other one has already.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a row is, shorter.
type Hash = u64;

impl Replica {
    /// Compares all rows with those of the replica on `node`, and mends what differs.
    pub async fn compare(&self, node: NodeId) -> Result<Comparison, Error> {
        let mut total = Comparison::default();
        let mut from = book::traces().start;
        loop {
            let (found, next) = self.inner.shared.compare(node, from, STRETCH).await?;
            total.add(&found);
            match next {
                Some(next) => from = next,
                None => return Ok(total),
            }
        }
    }
}

/// Rows and the hashes of their states, and where to go on.
pub(super) type Hashed = (Vec<(Key, Hash)>, Option<Key>);

impl Shared {
    /// Compares the next rows from `from` on, at most `most` of those that are here;
    /// where to go on.
    pub(super) async fn compare(
        self: &Arc<Shared>,
        with: NodeId,
        from: Key,
        most: usize,
    ) -> Result<(Comparison, Option<Key>), Error> {
        if self.filling.read().is_some() {
            return Err(Error::NotReady { why: "it is being filled".to_owned() });
        }
        let mut found = Comparison::default();
        let shared = self.clone();
        let start = from.clone();
        let hashes = polity_store::blocking(move || shared.hashes(&Span { start, end: book::traces().end }, most));
        let (rows, next) = hashes.await.map_err(|e| Error::Stopped { reason: e.to_string() })??;
        found.rows = rows.len() as u64;
        let end = next.clone().unwrap_or_else(|| book::traces().end);
        let mut spans = vec![Span { start: from, end }];
        for size in [LARGE, SMALL] {
            let pieces: Vec<Piece> = spans.iter().flat_map(|span| pieces(&rows, span, size)).collect();
            let request = Compare { pieces: pieces.clone() };
            let differing = match self.counted(with, &Request::Compare(request), &mut found).await? {
                Response::Compared(differing) => differing,
                _ => return Err(nonsense(with)),
            };
            spans = differing.iter().filter_map(|at| Some(pieces.get(*at as usize)?.span.clone())).collect();
            if spans.is_empty() {
                return Ok((found, next));
            }
        }
        let Response::Hashes(there) = self.counted(with, &Request::Hashes(spans.clone()), &mut found).await? else {
            return Err(nonsense(with));
        };
        // What was too much for one answer is looked at another time.
        let last = there.last().filter(|_| there.len() >= HASHES).map(|(key, _)| key.clone());
        let there: BTreeMap<Key, Hash> = there.into_iter().collect();
        let looked_at = |key: &Key| last.as_ref().is_none_or(|last| key <= last);
        let inside = |key: &Key| looked_at(key) && spans.iter().any(|span| span.contains(key));
        let here: BTreeMap<&Key, Hash> = rows.iter().filter(|(key, _)| inside(key)).map(|(k, h)| (k, *h)).collect();
        let mut differing: Vec<Key> =
            there.iter().filter(|(k, h)| here.get(k) != Some(h)).map(|(k, _)| k.clone()).collect();
        differing.extend(here.keys().filter(|key| !there.contains_key(**key)).map(|key| (*key).clone()));
        found.differing = differing.len() as u64;
        for some in differing.chunks(STRETCH / LARGE) {
            self.exchange(with, some, &mut found).await?;
        }
        Ok((found, next))
    }

    /// Gives and takes the states of rows that differ.
    async fn exchange(self: &Arc<Shared>, with: NodeId, places: &[Key], found: &mut Comparison) -> Result<(), Error> {
        let ours = self.states(places)?;
        let request = Request::Exchange { places: places.to_vec(), page: ours };
        let Response::Page(page) = self.counted(with, &request, found).await? else { return Err(nonsense(with)) };
        found.repaired += self.mend(with, page).await?;
        Ok(())
    }

    /// Joins rows of a replica that should be the same here. How many were not.
    pub(super) async fn mend(self: &Arc<Shared>, from: NodeId, page: Page) -> Result<u64, Error> {
        let mut applied = self.applied.subscribe();
        // What it has and this one lacks comes by deltas, soon.
        let _ = timeout(PATIENCE, applied.wait_for(|applied| applied.dominates(&page.vector))).await;
        let shared = self.clone();
        let (mended, _) = self.run(move |draft| shared.mend_now(draft, from, &page)).await?;
        if mended > 0 {
            tracing::warn!(%from, rows = mended, "rows differed from another replica's, and were mended");
            self.counts.repaired_rows.fetch_add(mended, Ordering::Relaxed);
        }
        Ok(mended)
    }

    fn mend_now(&self, draft: &mut Draft<'_>, from: NodeId, page: &Page) -> Result<u64, Error> {
        let comparable = draft.vector.dominates(&page.vector)
            && draft.vector.dominates(&page.collected)
            && page.vector.dominates(&self.collected.lock());
        if !comparable {
            return Ok(0);
        }
        let mut mended = 0;
        for (key, visible, trace) in &page.rows {
            let state = RowState::load(visible.as_deref(), Some(trace));
            let state = state.map_err(|e| Error::Nonsense { from, reason: format!("the row of {key}: {e}") })?;
            if draft.join(key, &state, &page.vector, state.life.stamp)? {
                draft.note_all_collectable(key, &state);
                mended += 1;
            }
        }
        Ok(mended)
    }

    /// The states of rows, by their traces' keys, as far as they are here.
    pub(super) fn states(&self, places: &[Key]) -> Result<Page, Error> {
        let reader = self.state.snapshot()?;
        let collected = self.collected.lock().clone();
        let vector = vector(&reader)?;
        let mut page = Page { ceiling: vector.clone(), vector, collected, rows: Vec::new(), next: None };
        for place in places {
            let key = book::traced(place);
            let Some((trace, _)) = reader.get(place, Timestamp::MAX)? else { continue };
            page.rows.push((key.clone(), reader.get(&key, Timestamp::MAX)?.map(|(row, _)| row), trace));
        }
        Ok(page)
    }

    /// The hashes of the first rows in `span` that are there, by their traces' keys; at most
    /// so many, and where to go on.
    pub(super) fn hashes(&self, span: &Span, most: usize) -> Result<Hashed, Error> {
        let reader = self.state.snapshot()?;
        let mut scan = reader.scan(span, reader.applied(Guarantee::Eventual))?;
        let mut hashes = Vec::new();
        while hashes.len() < most {
            let traces = scan.next_chunk((most - hashes.len()).min(LARGE), usize::MAX)?;
            if traces.is_empty() {
                return Ok((hashes, None));
            }
            for (place, trace) in traces {
                if let Some(hash) = hash(&reader, &place, &trace)? {
                    hashes.push((place, hash));
                }
            }
        }
        let next = hashes.last().map(|(place, _)| place.successor());
        Ok((hashes, next))
    }

    /// Which of the pieces are not the same here.
    pub(super) fn differing(&self, compare: &Compare) -> Result<Vec<u32>, Error> {
        let mut differing = Vec::new();
        for (number, piece) in compare.pieces.iter().enumerate() {
            let (rows, _) = self.hashes(&piece.span, usize::MAX)?;
            if fingerprint(&rows) != piece.fingerprint {
                differing.push(number as u32);
            }
        }
        Ok(differing)
    }

    async fn counted(&self, with: NodeId, request: &Request, found: &mut Comparison) -> Result<Response, Error> {
        let bytes = encode(request)?;
        found.sent_bytes += bytes.len() as u64;
        let (response, received) = self.call_counted(with, Traffic::Bulk, bytes).await?;
        found.received_bytes += received;
        Ok(response)
    }
}

impl Comparison {
    fn add(&mut self, other: &Comparison) {
        self.rows += other.rows;
        self.differing += other.differing;
        self.repaired += other.repaired;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
    }
}

/// Cuts `span` into pieces of `size` rows, of those in `rows`; together they are the
/// span.
fn pieces(rows: &[(Key, Hash)], span: &Span, size: usize) -> Vec<Piece> {
    let from = rows.partition_point(|(key, _)| *key < span.start);
    let to = rows.partition_point(|(key, _)| *key < span.end);
    let mut start = span.start.clone();
    let mut pieces = Vec::new();
    let chunks: Vec<&[(Key, Hash)]> = rows[from..to.max(from)].chunks(size).collect();
    for (number, chunk) in chunks.iter().enumerate() {
        let end = match chunks.get(number + 1).and_then(|next| next.first()) {
            Some((key, _)) => key.clone(),
            None => span.end.clone(),
        };
        let span = Span { start: std::mem::replace(&mut start, end.clone()), end };
        pieces.push(Piece { span, fingerprint: fingerprint(chunk) });
    }
    if pieces.is_empty() {
        pieces.push(Piece { span: span.clone(), fingerprint: fingerprint(&[]) });
    }
    pieces
}

fn fingerprint(rows: &[(Key, Hash)]) -> u64 {
    let hashes: Vec<u8> = rows.iter().flat_map(|(_, hash)| hash.to_le_bytes()).collect();
    short(&hashes)
}

/// What a row is, without what may be forgotten; `None` if nothing is left.
fn hash(reader: &Reader, place: &Key, trace: &Bytes) -> Result<Option<Hash>, Error> {
    let key = book::traced(place);
    let visible = reader.get(&key, Timestamp::MAX)?.map(|(row, _)| row);
    let state = RowState::load(visible.as_deref(), Some(trace));
    let mut state = state.map_err(|e| Error::Damaged { key: key.clone(), reason: e.to_string() })?;
    if !state.is_live() {
        return Ok(None);
    }
    let mut everything = VersionVector::new();
    for cell in state.cells.values() {
        if let Cell::Set(set) = cell {
            let removals = set.elements.values().flat_map(|(_, marks)| marks.removed.values());
            removals.for_each(|removal| everything.advance(removal.by.origin, Timestamp::MAX));
        }
    }
    let trimmed;
    let trace = if state.collect(&everything) {
        trimmed = state.trace().unwrap_or_default();
        &trimmed
    } else {
        trace
    };
    let parts: [&[u8]; 3] = [&merging_key(&key), &visible.unwrap_or_default(), trace];
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
        bytes.extend_from_slice(part);
    }
    Ok(Some(short(&bytes)))
}

fn short(bytes: &[u8]) -> u64 {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn nonsense(from: NodeId) -> Error {
    Error::Nonsense { from, reason: "another answer than to a comparison".to_owned() }
}
