//! How many rows there are, about.
//!
//! Join sides and parallelism are chosen by row counts. A full scan counts as it
//! goes and the count is kept; until there is one, the first rows and the ends
//! of the key space say how far apart keys are, which for numbered rows is the
//! answer and for others a guess.

use std::collections::HashMap;

use parking_lot::RwLock;
use polity_base::key::Direction;
use polity_base::{IndexId, Key, Span};
use polity_txn::View;

use crate::error::Result;

/// Rows read to guess by.
const SAMPLE: usize = 128;
/// Bytes of a key that are read as a number.
const WIDTH: usize = 16;

/// Row counts by storage.
#[derive(Default)]
pub struct Estimates {
    known: RwLock<HashMap<IndexId, u64>>,
}

impl std::fmt::Debug for Estimates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Estimates")
    }
}

impl Estimates {
    /// Notes the count of a storage's rows.
    pub fn note(&self, storage: IndexId, rows: u64) {
        self.known.write().insert(storage, rows);
    }

    /// Forgets what was noted, as after a bulk load.
    pub fn forget(&self, storage: IndexId) {
        self.known.write().remove(&storage);
    }

    /// About how many rows `storage` has.
    pub fn rows(&self, storage: IndexId, view: &View) -> Result<u64> {
        if let Some(rows) = self.known.read().get(&storage) {
            return Ok(*rows);
        }
        let rows = guess(view, &Span::of_index(storage))?;
        // A small table is counted exactly and cheaply each time; it may grow.
        if rows >= SAMPLE as u64 {
            self.note(storage, rows);
        }
        Ok(rows)
    }
}

fn guess(view: &View, span: &Span) -> Result<u64> {
    let view = view.untracked();
    let first = view.scan(span.clone(), Direction::Ascending)?.next_chunk(SAMPLE)?;
    let (Some((low, _)), Some((sampled, _))) = (first.first(), first.last()) else { return Ok(0) };
    if first.len() < SAMPLE {
        return Ok(first.len() as u64);
    }
    let Some((high, _)) = view.scan(span.clone(), Direction::Descending)?.next_chunk(1)?.into_iter().next() else {
        return Ok(first.len() as u64);
    };
    let shared = shared_prefix(low, &high);
    let (low, sampled, high) = (number(low, shared), number(sampled, shared), number(&high, shared));
    let near = sampled.saturating_sub(low).max(1) as f64;
    let far = high.saturating_sub(low) as f64;
    Ok(((far / near) * SAMPLE as f64).clamp(SAMPLE as f64, 1e10) as u64)
}

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

/// The bytes of a key after the first `skip`, as a number.
fn number(key: &[u8], skip: usize) -> u128 {
    let mut bytes = [0u8; WIDTH];
    let rest = key.get(skip..).unwrap_or_default();
    for (to, from) in bytes.iter_mut().zip(rest) {
        *to = *from;
    }
    u128::from_be_bytes(bytes)
}

/// Cuts a span into about `pieces` by interpolating between its first and last
/// key. The pieces cover the span.
pub fn split(view: &View, span: &Span, pieces: usize) -> Result<Vec<Span>> {
    let view = view.untracked();
    let low = view.scan(span.clone(), Direction::Ascending)?.next_chunk(1)?.into_iter().next();
    let high = view.scan(span.clone(), Direction::Descending)?.next_chunk(1)?.into_iter().next();
    let (Some((low, _)), Some((high, _))) = (low, high) else { return Ok(vec![span.clone()]) };
    let shared = shared_prefix(&low, &high);
    let (from, to) = (number(&low, shared), number(&high, shared));
    let step = to.saturating_sub(from) / pieces.max(1) as u128;
    if step == 0 {
        return Ok(vec![span.clone()]);
    }
    let mut spans = Vec::with_capacity(pieces);
    let mut start = span.start.clone();
    for i in 1..pieces as u128 {
        let mut cut = low.get(..shared).unwrap_or_default().to_vec();
        cut.extend_from_slice(&(from + step * i).to_be_bytes());
        let cut = Key::from(cut);
        if cut > start && cut < span.end {
            spans.push(Span { start: std::mem::replace(&mut start, cut.clone()), end: cut });
        }
    }
    spans.push(Span { start, end: span.end.clone() });
    Ok(spans)
}
