//! What a restarted replica finds.

use std::collections::{BTreeMap, BTreeSet};

use polity_base::time::HybridClock;
use polity_base::{Guarantee, IndexId, Key, NodeId, RangeId, Timestamp};
use polity_store::Log;
use polity_store::state::{Reader, State};
use serde::de::DeserializeOwned;

use super::book::{self, Book};
use super::entry::Entry;
use super::fill::Filling;
use crate::error::Error;
use crate::stamp::VersionVector;

/// Entries that are read from the log at a time.
const STEP: u64 = 256;

/// What a restarted replica finds.
pub(super) struct Found {
    pub vector: VersionVector,
    /// Up to where no single deltas are kept
    pub floor: VersionVector,
    pub departed: BTreeMap<NodeId, Timestamp>,
    pub built: BTreeSet<IndexId>,
    pub filling: Option<Filling>,
    pub collected: VersionVector,
    /// The index of the last entry
    pub index: u64,
}

/// Applies the entries that the last checkpoint does not hold, and reads the books.
pub(super) fn recover(node: NodeId, log: &Log, state: &State, clock: &HybridClock) -> Result<Found, Error> {
    let applied = state.applied(RangeId::EVENTUAL).index;
    let last = log.last(RangeId::EVENTUAL).map_or(0, |(index, _)| index);
    let first = log.first(RangeId::EVENTUAL).unwrap_or(applied + 1);
    if last > applied && first > applied + 1 {
        let reason = format!("the log begins with entry {first}, but the rows end with {applied}");
        return Err(Error::Stopped { reason });
    }
    let mut next = applied + 1;
    while next <= last {
        let entries = log.read(RangeId::EVENTUAL, next..(next + STEP).min(last + 1))?;
        let entries: Result<Vec<_>, Error> =
            entries.iter().map(|(index, _, payload)| Ok(Entry::read(*index, payload)?.ordered(node))).collect();
        let entries = entries?;
        if entries.is_empty() {
            return Err(Error::Stopped { reason: format!("entry {next} of the log is missing") });
        }
        state.apply(RangeId::EVENTUAL, &entries)?;
        next += entries.len() as u64;
    }
    let reader = state.snapshot()?;
    let vector = vector(&reader)?;
    // No stamp of this replica is given twice.
    clock.observe(vector.iter().map(|(_, at)| at).max().unwrap_or_default());
    clock.observe(state.applied(RangeId::EVENTUAL).commit);
    Ok(Found {
        floor: floor(&reader, &vector)?,
        departed: departed(&reader)?,
        built: built(&reader)?,
        filling: note(&reader, book::filling())?,
        collected: note(&reader, book::collected())?.unwrap_or_default(),
        index: applied.max(last),
        vector,
    })
}

pub(super) fn vector(reader: &Reader) -> Result<VersionVector, Error> {
    vector_at(reader, Timestamp::MAX)
}

/// Which writes the rows of `at` are made of.
pub(super) fn vector_at(reader: &Reader, at: Timestamp) -> Result<VersionVector, Error> {
    Ok(note_at(reader, book::vector(), at)?.unwrap_or_default())
}

fn note<T: DeserializeOwned>(reader: &Reader, key: Key) -> Result<Option<T>, Error> {
    note_at(reader, key, Timestamp::MAX)
}

fn note_at<T: DeserializeOwned>(reader: &Reader, key: Key, at: Timestamp) -> Result<Option<T>, Error> {
    let Some((bytes, _)) = reader.get(&key, at)? else { return Ok(None) };
    postcard::from_bytes(&bytes).map(Some).map_err(|e| Error::Damaged { key, reason: e.to_string() })
}

/// Everything before the first delta that is kept of each origin.
fn floor(reader: &Reader, vector: &VersionVector) -> Result<VersionVector, Error> {
    let mut floor = VersionVector::new();
    for (origin, at) in vector.iter() {
        let span = book::deltas(origin, Timestamp::ZERO, at);
        let first = reader.scan(&span, reader.applied(Guarantee::Eventual))?.next()?;
        let Some((key, bytes)) = first else {
            floor.advance(origin, at);
            continue;
        };
        let delta = crate::Delta::decode(&bytes).map_err(|e| Error::Damaged { key, reason: e.to_string() })?;
        floor.advance(origin, delta.previous);
    }
    Ok(floor)
}

fn departed(reader: &Reader) -> Result<BTreeMap<NodeId, Timestamp>, Error> {
    let parse = |(key, value): (Key, bytes::Bytes)| book::parse_departed(&key, &value);
    Ok(all(reader, Book::Departed)?.into_iter().filter_map(parse).collect())
}

fn built(reader: &Reader) -> Result<BTreeSet<IndexId>, Error> {
    Ok(all(reader, Book::Built)?.iter().filter_map(|(key, _)| book::parse_built(key)).collect())
}

fn all(reader: &Reader, book: Book) -> Result<Vec<(Key, bytes::Bytes)>, Error> {
    let mut scan = reader.scan(&book.span(), reader.applied(Guarantee::Eventual))?;
    Ok(scan.next_chunk(usize::MAX, usize::MAX)?)
}
