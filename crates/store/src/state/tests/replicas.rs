//! Replicas that apply the same log hold the same rows and say the same of each
//! batch, whatever else happens to them in between.

use polity_base::key::Direction;
use polity_base::{Guarantee, Key, Operation, Precondition, RangeId, Span, Timestamp};
use proptest::prelude::*;

use super::model::{Model, any_key, any_log, any_span};
use super::{GROUP, everything, open, rows};
use crate::disk::{Crash, MemoryDisk};
use crate::state::{EntryBody, OrderedEntry, Reader, State};

/// What happens between entries.
#[derive(Clone, Debug)]
enum Event {
    /// So many entries are applied together.
    Apply(usize),
    Checkpoint,
    /// A checkpoint begins, and ends with the next event that is not an `Apply` or
    /// a `Compare`.
    Freeze,
    /// Old versions go, those of the last so many timestamps stay.
    Collect {
        keep: u64,
        budget: usize,
    },
    /// The machine stops; the log is replayed from the last checkpoint.
    Restart(Crash),
    Compare {
        span: Span,
        at: u64,
        key: Key,
    },
}

fn any_event() -> impl Strategy<Value = Event> {
    let crash = prop_oneof![Just(Crash::Lost), Just(Crash::Kept), Just(Crash::Torn)];
    prop_oneof![
        8 => (1usize..4).prop_map(Event::Apply),
        2 => Just(Event::Checkpoint),
        2 => Just(Event::Freeze),
        2 => (0u64..30, prop_oneof![Just(1usize), Just(1000)]).prop_map(|(keep, budget)| Event::Collect { keep, budget }),
        1 => crash.prop_map(Event::Restart),
        3 => (any_span(), 0u64..200, any_key()).prop_map(|(span, at, key)| Event::Compare { span, at, key }),
    ]
}

fn compare(state: &State, model: &Model, span: &Span, at: u64, key: &Key) {
    let reader = state.snapshot().unwrap();
    let at = Timestamp(at).max(reader.horizon(Guarantee::Strong));
    assert_eq!(reader.get(key, at).unwrap(), model.get(key, at), "{key} at {at:?}");
    let expected = model.scan(span, at);
    for chunk in [1, 3, 100] {
        assert_eq!(walk(&reader, span, at, Direction::Ascending, chunk), expected, "{span:?} at {at:?}");
        let mut down = walk(&reader, span, at, Direction::Descending, chunk);
        down.reverse();
        assert_eq!(down, expected, "{span:?} at {at:?}, downwards");
    }
}

fn walk(reader: &Reader, span: &Span, at: Timestamp, direction: Direction, chunk: usize) -> Vec<(Key, bytes::Bytes)> {
    let mut scan = reader.scan_directed(span, at, direction).unwrap();
    let mut rows = Vec::new();
    loop {
        let more = scan.next_chunk(chunk, usize::MAX).unwrap();
        if more.is_empty() {
            return rows;
        }
        rows.extend(more);
    }
}

/// Applies entries up to `until`, and checks what becomes of them.
fn apply(state: &State, log: &[OrderedEntry], until: usize, expected: &[crate::state::EntryOutcome]) {
    let from = state.applied(GROUP).index as usize;
    if from < until {
        let outcomes = state.apply(GROUP, &log[from..until]).unwrap();
        assert_eq!(outcomes, expected[from..until], "entries {from} to {until}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn outcomes_and_rows_do_not_depend_on_what_happens_between_entries(
        log in any_log(40),
        events in proptest::collection::vec(any_event(), 1..60),
    ) {
        let mut model = Model::default();
        let mut models = vec![model.clone()];
        let outcomes: Vec<_> = log.iter().map(|entry| {
            let outcome = model.apply(entry);
            models.push(model.clone());
            outcome
        }).collect();

        let mut disk = MemoryDisk::new(1);
        let mut state = open(&disk).unwrap();
        let (mut done, mut durable) = (0, 0);
        let mut frozen = None;
        for event in events.iter().chain([&Event::Apply(log.len())]) {
            let goes_on = matches!(event, Event::Apply(_) | Event::Compare { .. } | Event::Restart(_));
            if let Some((begun, at)) = frozen.take_if(|_| !goes_on) {
                state.flush(&mut state.flusher.lock(), &begun).unwrap();
                durable = at;
            }
            match event {
                Event::Apply(n) => {
                    done = log.len().min(done + n);
                    apply(&state, &log, done, &outcomes);
                }
                Event::Checkpoint => {
                    let mark = state.applied(GROUP);
                    let marks = state.checkpoint().unwrap().marks;
                    prop_assert!(mark.index == 0 || marks.get(&GROUP) == Some(&mark));
                    durable = mark.index;
                }
                Event::Freeze => {
                    let begun = state.freeze(&state.flusher.lock()).unwrap();
                    frozen = begun.map(|begun| (begun, state.applied(GROUP).index));
                }
                Event::Collect { keep, budget } => {
                    let newest = state.applied(GROUP).commit;
                    let horizon = state.horizon(Guarantee::Strong);
                    while state.collect(newest.minus_nanos(*keep), *budget).unwrap().more {}
                    prop_assert!(state.horizon(Guarantee::Strong) >= horizon);
                }
                Event::Restart(crash) => {
                    frozen = None;
                    disk = disk.restart(*crash);
                    drop(state);
                    state = open(&disk).unwrap();
                    prop_assert_eq!(state.applied(GROUP).index, durable);
                    apply(&state, &log, done, &outcomes);
                }
                Event::Compare { span, at, key } => compare(&state, &models[done], span, *at, key),
            }
        }
        let last = models[log.len()].last();
        prop_assert_eq!(state.applied(GROUP).commit, last);
        prop_assert_eq!(rows(&state, last), models[log.len()].scan(&everything(), last));
        let plain = open(&MemoryDisk::new(2)).unwrap();
        plain.apply(GROUP, &log).unwrap();
        let digest = plain.digest(GROUP, &everything()).unwrap();
        prop_assert_eq!(state.digest(GROUP, &everything()).unwrap(), digest);
    }
}

/// The same log with keys in another place.
fn elsewhere(log: &[OrderedEntry]) -> Vec<OrderedEntry> {
    let key = |key: &mut Key| {
        let mut bytes = key.to_vec();
        bytes[2] += 1;
        *key = Key::from(bytes);
    };
    let span = |span: &mut Span| {
        key(&mut span.start);
        key(&mut span.end);
    };
    let mut log = log.to_vec();
    for entry in &mut log {
        let EntryBody::Batches { batches, .. } = &mut entry.body else { continue };
        for batch in batches {
            for precondition in &mut batch.preconditions {
                match precondition {
                    Precondition::Unchanged { span: s, .. } => span(s),
                    Precondition::Present(k) | Precondition::Absent(k) => key(k),
                }
            }
            for operation in &mut batch.operations {
                match operation {
                    Operation::Put { key: k, .. } | Operation::Delete { key: k } | Operation::Change { key: k, .. } => {
                        key(k)
                    }
                    Operation::Clear { span: s } => span(s),
                }
            }
        }
    }
    log
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn groups_do_not_disturb_each_other(
        here in any_log(20),
        there in any_log(20),
        turns in proptest::collection::vec((any::<bool>(), any::<bool>()), 40),
    ) {
        let there = elsewhere(&there);
        let expected = [&here, &there].map(|log| {
            let mut model = Model::default();
            log.iter().map(|entry| model.apply(entry)).collect::<Vec<_>>()
        });
        let groups = [(RangeId(1), &here), (RangeId(2), &there)];
        let disk = MemoryDisk::new(1);
        let state = open(&disk).unwrap();
        let finish = turns.iter().copied().chain((0..40).map(|n| (n % 2 == 0, false)));
        for (first, checkpoint) in finish {
            let which = usize::from(!first);
            let (group, log) = groups[which];
            let next = state.applied(group).index as usize;
            if let Some(entry) = log.get(next) {
                let outcome = state.apply(group, std::slice::from_ref(entry)).unwrap();
                prop_assert_eq!(&outcome[0], &expected[which][next]);
            }
            if checkpoint {
                state.checkpoint().unwrap();
            }
        }
    }
}
