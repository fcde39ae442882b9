//! What is promised about the state, tested.

mod crash;
mod damage;
mod lanes;
mod model;
mod replicas;
mod rows;
mod transfer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_base::{Batch, Key, NodeId, Operation, Precondition, RangeId, Span, Timestamp};

use crate::disk::MemoryDisk;
use crate::error::Error;
use crate::log::testing::{CountingEntropy, keys};
use crate::state::{BatchOutcome, EntryBody, EntryOutcome, OrderedEntry, State, StateOptions};

pub const GROUP: RangeId = RangeId(7);

/// Few enough keys that windows move on in tests.
pub const WEIGHT: usize = 24;

pub fn options() -> StateOptions {
    StateOptions { cache_bytes: 1 << 20, layer_bytes: 1 << 20, retention: Duration::ZERO }
}

pub fn open(disk: &MemoryDisk) -> Result<State, Error> {
    State::open_with(Arc::new(disk.clone()), &keys(), Arc::new(CountingEntropy::default()), options(), WEIGHT)
}

/// A key of an index, by a short name.
pub fn key(index: u8, name: &[u8]) -> Key {
    let mut bytes = vec![0, 0, 64, index];
    bytes.extend_from_slice(name);
    Key::from(bytes)
}

pub fn put(key: Key, value: impl Into<Bytes>) -> Operation {
    Operation::Put { key, value: value.into() }
}

pub fn delete(key: Key) -> Operation {
    Operation::Delete { key }
}

/// All keys of the tests.
pub fn everything() -> Span {
    Span { start: Key::from(vec![0, 0, 0, 1]), end: Key::from(vec![255]) }
}

pub fn batch(id: u128, preconditions: Vec<Precondition>, operations: Vec<Operation>) -> Batch {
    Batch { id, author: NodeId(1), preconditions, operations }
}

pub fn entry(index: u64, proposed_at: u64, batches: Vec<Batch>) -> OrderedEntry {
    OrderedEntry { index, term: 1, body: EntryBody::Batches { proposed_at: Timestamp(proposed_at), batches } }
}

/// Applies one batch as the next entry.
pub fn apply(state: &State, proposed_at: u64, batch: Batch) -> BatchOutcome {
    let index = state.applied(GROUP).index + 1;
    match state.apply(GROUP, &[entry(index, proposed_at, vec![batch])]).unwrap().remove(0) {
        EntryOutcome::Batches(mut outcomes) => outcomes.remove(0),
        EntryOutcome::Nothing => panic!("a batch has an outcome"),
    }
}

/// Applies operations without preconditions, and gives their timestamp.
pub fn write(state: &State, operations: Vec<Operation>) -> Timestamp {
    let id = u128::from(state.applied(GROUP).index) + (1 << 64);
    match apply(state, 0, batch(id, vec![], operations)) {
        BatchOutcome::Committed(at) => at,
        other => panic!("{other:?}"),
    }
}

/// All rows at a timestamp.
pub fn rows(state: &State, at: Timestamp) -> Vec<(Key, Bytes)> {
    let mut scan = state.snapshot().unwrap().scan(&everything(), at).unwrap();
    let mut rows = Vec::new();
    while let Some(row) = scan.next().unwrap() {
        rows.push(row);
    }
    rows
}
