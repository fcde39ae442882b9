//! A second implementation of the state, as simple as can be: all versions in a
//! map, all commits in a list.

use std::collections::BTreeMap;

use bytes::Bytes;
use polity_base::{Batch, Key, Operation, Precondition, Span, Timestamp};
use proptest::prelude::*;

use super::{WEIGHT, batch, entry, key};
use crate::state::{BatchOutcome, EntryBody, EntryOutcome, OrderedEntry};

type Commit = (Timestamp, u128, Vec<Operation>);

#[derive(Clone, Default)]
pub struct Model {
    rows: BTreeMap<Key, Vec<(Timestamp, Option<Bytes>)>>,
    commits: Vec<Commit>,
    last: Timestamp,
}

impl Model {
    pub fn get(&self, key: &Key, at: Timestamp) -> Option<(Bytes, Timestamp)> {
        let (written, row) = self.rows.get(key)?.iter().rev().find(|(written, _)| *written <= at)?;
        Some((row.clone()?, *written))
    }

    pub fn scan(&self, span: &Span, at: Timestamp) -> Vec<(Key, Bytes)> {
        let keys = self.rows.keys().filter(|k| span.contains(k));
        keys.filter_map(|k| Some((k.clone(), self.get(k, at)?.0))).collect()
    }

    pub fn last(&self) -> Timestamp {
        self.last
    }

    /// The commits that are remembered, and the newest one that is not.
    fn window(&self) -> (Timestamp, &[Commit]) {
        let mut weight = 0;
        let kept = self.commits.iter().rev().take_while(|c| {
            let empty = |o: &&Operation| matches!(o, Operation::Clear { span } if span.is_empty());
            weight += (c.2.len() - c.2.iter().filter(empty).count()).max(1);
            weight <= WEIGHT
        });
        let from = self.commits.len() - kept.count();
        let floor = from.checked_sub(1).map_or(Timestamp::ZERO, |i| self.commits[i].0);
        (floor, &self.commits[from..])
    }

    fn refusal(&self, batch: &Batch) -> Option<BatchOutcome> {
        let (floor, window) = self.window();
        if let Some((at, ..)) = window.iter().find(|(_, id, _)| *id == batch.id) {
            return Some(BatchOutcome::Duplicate(*at));
        }
        batch.preconditions.iter().find_map(|precondition| match precondition {
            Precondition::Unchanged { span, .. } if span.is_empty() => None,
            Precondition::Unchanged { since, .. } if *since < floor => Some(BatchOutcome::TooOld),
            Precondition::Unchanged { span, since } => {
                let touches = |operation: &Operation| match operation {
                    Operation::Put { key, .. } | Operation::Delete { key } | Operation::Change { key, .. } => {
                        span.contains(key)
                    }
                    Operation::Clear { span: cleared } => !cleared.is_empty() && cleared.overlaps(span),
                };
                let changed = window.iter().any(|(at, _, ops)| at > since && ops.iter().any(touches));
                changed.then(|| BatchOutcome::Conflict(span.clone()))
            }
            Precondition::Present(key) => {
                self.get(key, Timestamp::MAX).is_none().then(|| BatchOutcome::Missing(key.clone()))
            }
            Precondition::Absent(key) => {
                self.get(key, Timestamp::MAX).is_some().then(|| BatchOutcome::Exists(key.clone()))
            }
        })
    }

    fn batch(&mut self, proposed_at: Timestamp, batch: &Batch) -> BatchOutcome {
        if let Some(refusal) = self.refusal(batch) {
            return refusal;
        }
        let at = proposed_at.max(self.last.next());
        self.last = at;
        for operation in &batch.operations {
            if let Operation::Clear { span } = operation {
                self.rows.retain(|key, _| !span.contains(key));
            }
        }
        for operation in &batch.operations {
            let (key, row) = match operation {
                Operation::Put { key, value } => (key, Some(value.clone())),
                Operation::Delete { key } => (key, None),
                Operation::Clear { .. } | Operation::Change { .. } => continue,
            };
            self.rows.entry(key.clone()).or_default().push((at, row));
        }
        self.commits.push((at, batch.id, batch.operations.clone()));
        BatchOutcome::Committed(at)
    }

    pub fn apply(&mut self, entry: &OrderedEntry) -> EntryOutcome {
        match &entry.body {
            EntryBody::Batches { proposed_at, batches } => {
                EntryOutcome::Batches(batches.iter().map(|b| self.batch(*proposed_at, b)).collect())
            }
            EntryBody::Blank | EntryBody::Membership(_) => EntryOutcome::Nothing,
        }
    }
}

/// Few keys, some of them prefixes of others.
pub fn any_key() -> impl Strategy<Value = Key> {
    let byte = prop_oneof![Just(0u8), Just(1), Just(255)];
    (1u8..4, proptest::collection::vec(byte, 0..4)).prop_map(|(index, name)| key(index, &name))
}

pub fn any_span() -> impl Strategy<Value = Span> {
    prop_oneof![
        3 => any_key().prop_map(|k| k.point()),
        2 => (any_key(), any_key()).prop_map(|(a, b)| Span { start: a.clone().min(b.clone()), end: a.max(b) }),
        1 => any_key().prop_map(|k| k.prefix_span()),
    ]
}

fn any_operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => (any_key(), proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(key, value)| Operation::Put { key, value: value.into() }),
        6 => any_key().prop_map(|key| Operation::Delete { key }),
        1 => any_span().prop_map(|span| Operation::Clear { span }),
    ]
}

fn any_precondition() -> impl Strategy<Value = Precondition> {
    prop_oneof![
        6 => (any_span(), 0u64..90).prop_map(|(span, since)| Precondition::Unchanged { span, since: Timestamp(since) }),
        1 => any_key().prop_map(Precondition::Present),
        2 => any_key().prop_map(Precondition::Absent),
    ]
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let operations = proptest::collection::vec(any_operation(), 0..6).prop_map(|mut operations| {
        // A batch writes a key at most once.
        let mut seen = std::collections::HashSet::new();
        operations.retain(|o| match o {
            Operation::Put { key, .. } | Operation::Delete { key } => seen.insert(key.clone()),
            Operation::Clear { .. } | Operation::Change { .. } => true,
        });
        operations
    });
    let id = prop_oneof![4 => 1000u128..u128::MAX, 1 => 0u128..8];
    (id, proptest::collection::vec(any_precondition(), 0..2), operations).prop_map(|(id, p, o)| batch(id, p, o))
}

/// A log of a group: entries from index 1 on.
pub fn any_log(len: usize) -> impl Strategy<Value = Vec<OrderedEntry>> {
    let one = prop_oneof![
        9 => (0u64..90, proptest::collection::vec(any_batch(), 0..4)).prop_map(|(at, b)| entry(0, at, b)),
        1 => Just(OrderedEntry { index: 0, term: 2, body: EntryBody::Blank }),
    ];
    proptest::collection::vec(one, 1..len).prop_map(|mut log| {
        for (i, entry) in log.iter_mut().enumerate() {
            entry.index = i as u64 + 1;
        }
        log
    })
}
