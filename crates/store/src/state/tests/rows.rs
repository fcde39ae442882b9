//! Reading and writing rows.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use polity_base::key::Direction;
use polity_base::{Guarantee, IndexId, Operation, Precondition, Span, Timestamp};

use super::{GROUP, apply, batch, delete, entry, everything, key, open, options, put, rows, write};
use crate::Error;
use crate::disk::MemoryDisk;
use crate::log::testing::{CountingEntropy, keys};
use crate::state::{Answer, BatchOutcome, EntryBody, EntryOutcome, IndexStats, OrderedEntry, State, StateOptions};

fn number(n: u32) -> polity_base::Key {
    key(1, &n.to_be_bytes())
}

#[test]
fn timestamps_rise_and_follow_the_proposer() {
    let state = open(&MemoryDisk::new(1)).unwrap();
    let one = |id| batch(id, vec![], vec![put(key(1, b"a"), "x")]);
    let outcomes = state.apply(GROUP, &[entry(1, 50, vec![one(1), one(2)]), entry(2, 20, vec![one(3)])]).unwrap();
    let expected = [vec![50, 51], vec![52]]
        .map(|at| EntryOutcome::Batches(at.into_iter().map(|at| BatchOutcome::Committed(Timestamp(at))).collect()));
    assert_eq!(outcomes, expected);
    assert_eq!(*state.observe_commits(Guarantee::Strong).borrow(), Timestamp(52));
    assert_eq!(state.applied(GROUP).index, 2);
}

#[test]
fn entries_without_batches_move_the_mark_durably() {
    let disk = MemoryDisk::new(1);
    let state = open(&disk).unwrap();
    let blank = OrderedEntry { index: 1, term: 4, body: EntryBody::Blank };
    let members = OrderedEntry { index: 2, term: 5, body: EntryBody::Membership(Bytes::from_static(b"x")) };
    assert_eq!(state.apply(GROUP, &[blank, members]).unwrap(), [EntryOutcome::Nothing, EntryOutcome::Nothing]);
    state.checkpoint().unwrap();
    drop(state);
    let mark = open(&disk).unwrap().applied(GROUP);
    assert_eq!((mark.index, mark.term, mark.commit), (2, 5, Timestamp::ZERO));
}

#[test]
fn entries_out_of_order_are_refused_and_do_no_harm() {
    let state = open(&MemoryDisk::new(1)).unwrap();
    write(&state, vec![put(key(1, b"a"), "1")]);
    for index in [0, 1, 3] {
        let refused = state.apply(GROUP, &[entry(index, 0, vec![])]);
        assert!(matches!(refused, Err(Error::OutOfOrder { expected: 2, .. })), "{refused:?}");
    }
    write(&state, vec![put(key(1, b"a"), "2")]);
}

#[test]
fn a_batch_is_applied_whole_or_not_at_all() {
    let state = open(&MemoryDisk::new(1)).unwrap();
    let (a, b) = (key(1, b"a"), key(1, b"b"));
    write(&state, vec![put(a.clone(), "1")]);
    let both = vec![put(a.clone(), "2"), put(b.clone(), "2")];
    let tried = apply(&state, 0, batch(9, vec![Precondition::Absent(a.clone())], both.clone()));
    assert_eq!(tried, BatchOutcome::Exists(a.clone()));
    let tried = apply(&state, 0, batch(9, vec![Precondition::Present(b.clone())], both.clone()));
    assert_eq!(tried, BatchOutcome::Missing(b.clone()));
    assert_eq!(rows(&state, Timestamp::MAX), [(a.clone(), "1".into())]);
    // A refused batch was not applied, so it may come again.
    let preconditions = vec![Precondition::Present(a.clone()), Precondition::Absent(b.clone())];
    let at = match apply(&state, 0, batch(9, preconditions, both)) {
        BatchOutcome::Committed(at) => at,
        other => panic!("{other:?}"),
    };
    assert_eq!(apply(&state, 0, batch(9, vec![], vec![])), BatchOutcome::Duplicate(at));
    assert_eq!(state.last_write(&b).unwrap(), Some(at));
    let read = at.minus_nanos(1);
    let again = batch(10, vec![Precondition::Unchanged { span: b.point(), since: read }], vec![]);
    assert_eq!(apply(&state, 0, again), BatchOutcome::Conflict(b.point()));
    assert_eq!(state.changed_since(&b.point(), read), Answer::Changed(at));
    assert_eq!(state.changed_since(&b.point(), at), Answer::Unchanged);
}

#[test]
fn keys_that_are_prefixes_of_each_other_keep_apart() {
    let state = open(&MemoryDisk::new(1)).unwrap();
    let names: [&[u8]; 6] = [b"", b"\0", b"\0\0\0\0\0\0\0\0\0", b"\xff", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"a"];
    for round in 0..3 {
        for name in names {
            write(&state, vec![put(key(1, name), format!("{name:?} {round}"))]);
        }
        state.checkpoint().unwrap();
    }
    let found = rows(&state, Timestamp::MAX);
    assert_eq!(found.len(), names.len());
    for name in names {
        let (row, _) = state.snapshot().unwrap().get(&key(1, name), Timestamp::MAX).unwrap().unwrap();
        assert_eq!(row, format!("{name:?} 2"));
    }
}

#[test]
fn a_reader_stays_where_it_is() {
    let state = open(&MemoryDisk::new(1)).unwrap();
    write(&state, vec![put(key(1, b"a"), "1")]);
    let reader = state.snapshot().unwrap();
    write(&state, vec![put(key(1, b"a"), "2"), put(key(1, b"b"), "2")]);
    let seen =
        |reader: &crate::state::Reader| reader.scan(&everything(), Timestamp::MAX).unwrap().next_chunk(9, 999).unwrap();
    let expected = [(key(1, b"a"), Bytes::from("1"))];
    assert_eq!(seen(&reader), expected);
    state.checkpoint().unwrap();
    write(&state, vec![put(key(1, b"a"), "3")]);
    state.checkpoint().unwrap();
    state.collect(Timestamp::MAX, usize::MAX).unwrap();
    assert_eq!(seen(&reader), expected);
    assert_eq!(reader.get(&key(1, b"b"), Timestamp::MAX).unwrap(), None);
    assert_eq!(reader.last_write(&key(1, b"a")).unwrap(), Some(Timestamp(1)));
}

#[test]
fn a_key_of_very_many_versions_is_passed_in_a_jump() {
    let state = open(&MemoryDisk::new(1)).unwrap();
    for n in 0..3 {
        write(&state, vec![put(number(n), "first")]);
    }
    for n in 0..300u32 {
        write(&state, vec![put(number(1), n.to_be_bytes().to_vec())]);
        if n.is_multiple_of(100) {
            state.checkpoint().unwrap();
        }
    }
    state.checkpoint().unwrap();
    let reader = state.snapshot().unwrap();
    // Timestamps are 1, 2, … : the versions of key 1 are at 2 and from 4 on.
    for at in [1, 2, 3, 4, 5, 50, 303, 999] {
        let expected: Vec<_> = [(0, 1, 1), (1, 2, 300), (2, 3, 1)]
            .iter()
            .filter(|(_, first, _)| *first <= at)
            .map(|(n, first, _)| match (n, at) {
                (1, at) if at >= 4 => (number(1), Bytes::from(((at.min(303) - 4) as u32).to_be_bytes().to_vec())),
                _ => (number(*n), Bytes::from(if *first > 0 { "first" } else { "" })),
            })
            .collect();
        for direction in [Direction::Ascending, Direction::Descending] {
            let mut scan = reader.scan_directed(&everything(), Timestamp(at), direction).unwrap();
            let mut found = scan.next_chunk(99, 9999).unwrap();
            if direction == Direction::Descending {
                found.reverse();
            }
            assert_eq!(found, expected, "at {at}, {direction:?}");
        }
    }
}

#[test]
fn rows_of_all_places_come_in_one_order() {
    let state = open(&MemoryDisk::new(1)).unwrap();
    // Thirds of the keys end in redb and in the layer, one third is in both.
    let everyone: Vec<u32> = (0..3000).collect();
    let values = |from: &str, keep: u32| {
        let keys = everyone.iter().filter(move |n| *n % 3 != keep);
        keys.map(|n| put(number(*n), format!("{from} {n}"))).collect::<Vec<_>>()
    };
    write(&state, values("old", 1));
    state.checkpoint().unwrap();
    write(&state, values("new", 0));
    let expected: Vec<_> = everyone
        .iter()
        .map(|n| (number(*n), Bytes::from(format!("{} {n}", if n % 3 == 0 { "old" } else { "new" }))))
        .collect();
    let reader = state.snapshot().unwrap();
    for size in [1, 255, 256, 257, 5000] {
        for direction in [Direction::Ascending, Direction::Descending] {
            let mut scan = reader.scan_directed(&everything(), Timestamp::MAX, direction).unwrap();
            let mut found = Vec::new();
            loop {
                let chunk = scan.next_chunk(size, usize::MAX).unwrap();
                if chunk.is_empty() {
                    break;
                }
                assert!(chunk.len() <= size);
                found.extend(chunk);
            }
            if direction == Direction::Descending {
                found.reverse();
            }
            assert!(found == expected, "{size} at a time, {direction:?}");
        }
    }
    let mut seen = 0;
    reader
        .for_each(&everything(), Timestamp::MAX, |key, row| {
            assert_eq!((key, row), (&*expected[seen].0, &*expected[seen].1));
            seen += 1;
            if seen == 700 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(seen, 700);
}

#[test]
fn collection_keeps_what_the_horizon_the_pins_and_the_retention_protect() {
    let disk = MemoryDisk::new(1);
    let retention = Duration::from_nanos(3);
    let options = StateOptions { retention, ..options() };
    let state = State::open(Arc::new(disk), &keys(), Arc::new(CountingEntropy::default()), options).unwrap();
    for n in 0..20u32 {
        write(&state, vec![put(key(1, b"a"), n.to_string()), delete(key(1, b"b"))]);
        // What one checkpoint wrote is collected together.
        state.checkpoint().unwrap();
    }
    let pin = state.pin(Guarantee::Strong, Timestamp(7)).unwrap();
    state.collect(Timestamp::MAX, usize::MAX).unwrap();
    assert_eq!(state.horizon(Guarantee::Strong), Timestamp(7));
    let read = |at| state.snapshot().unwrap().get(&key(1, b"a"), Timestamp(at));
    assert_eq!(read(7).unwrap().unwrap().0, "6");
    assert!(matches!(read(6), Err(Error::TooOld { .. })));
    assert!(matches!(state.pin(Guarantee::Strong, Timestamp(6)), Err(Error::TooOld { .. })));
    assert_eq!(pin.at(), Timestamp(7));
    drop(pin);
    let collected = state.collect(Timestamp(11), usize::MAX).unwrap();
    // Rows written at 7 to 10, and deletions at 8 to 11.
    assert_eq!((state.horizon(Guarantee::Strong), collected.versions, collected.more), (Timestamp(11), 8, false));
    state.collect(Timestamp::MAX, usize::MAX).unwrap();
    assert_eq!(state.horizon(Guarantee::Strong), Timestamp(17), "three nanoseconds are kept");
    assert_eq!(state.last_write(&key(1, b"b")).unwrap(), Some(Timestamp(20)));
}

#[test]
fn a_deleted_key_leaves_nothing_behind() {
    let disk = MemoryDisk::new(1);
    let state = open(&disk).unwrap();
    write(&state, vec![put(key(1, b"a"), "1")]);
    state.checkpoint().unwrap();
    write(&state, vec![delete(key(1, b"a"))]);
    state.checkpoint().unwrap();
    assert_eq!(state.last_write(&key(1, b"a")).unwrap(), Some(Timestamp(2)));
    assert_eq!(state.collect(Timestamp::MAX, usize::MAX).unwrap().versions, 2);
    assert_eq!(state.last_write(&key(1, b"a")).unwrap(), None);
    drop(state);
    let state = open(&disk).unwrap();
    assert_eq!(state.horizon(Guarantee::Strong), Timestamp(2));
    assert_eq!(state.last_write(&key(1, b"a")).unwrap(), None);
}

#[test]
fn a_cleared_span_is_gone_at_once_and_for_good() {
    let disk = MemoryDisk::new(1);
    let state = open(&disk).unwrap();
    write(&state, (0..500).map(|n| put(number(n), "x")).collect());
    state.checkpoint().unwrap();
    write(&state, vec![put(number(7), "y"), put(key(2, b"other"), "z")]);
    let clear = Operation::Clear { span: key(1, b"").prefix_span() };
    let cleared = write(&state, vec![clear, put(number(8), "after")]);
    let left = [(number(8), Bytes::from("after")), (key(2, b"other"), Bytes::from("z"))];
    assert_eq!(rows(&state, Timestamp::MAX), left);
    assert_eq!(state.snapshot().unwrap().get(&number(7), Timestamp::MAX).unwrap(), None);
    assert_eq!(state.changed_since(&number(300).point(), Timestamp(1)), Answer::Changed(cleared));
    state.checkpoint().unwrap();
    assert_eq!(rows(&state, Timestamp::MAX), left);
    let (one, two) = (IndexId(0x4001), IndexId(0x4002));
    assert_eq!((state.stats(one).rows, state.stats(two)), (1, IndexStats { rows: 1, bytes: 10 }));
    drop(state);
    assert_eq!(rows(&open(&disk).unwrap(), Timestamp::MAX), left);
}

#[test]
fn a_span_that_is_cleared_again_and_again_is_remembered_once() {
    let disk = MemoryDisk::new(1);
    let state = open(&disk).unwrap();
    for round in 1..=50 {
        write(&state, vec![put(number(round), "x"), put(number(1), "again"), put(number(1000 + round), "y")]);
        if round % 7 == 0 {
            state.checkpoint().unwrap();
        }
        let span = Span { start: number(0), end: number(round).successor() };
        write(&state, vec![Operation::Clear { span }]);
        assert_eq!(state.view.read().clears.len(), 1, "round {round}");
        assert_eq!(rows(&state, Timestamp::MAX).len(), round as usize, "round {round}");
    }
    let left = rows(&state, Timestamp::MAX);
    assert!(left.iter().all(|(key, _)| *key > number(1000)));
    state.checkpoint().unwrap();
    assert_eq!(state.stats(IndexId(0x4001)).rows, 50);
    drop(state);
    assert_eq!(rows(&open(&disk).unwrap(), Timestamp::MAX), left);
}

#[test]
fn rows_are_counted_exactly() {
    let state = open(&MemoryDisk::new(1)).unwrap();
    let index = IndexId(0x4001);
    write(&state, (0..100).map(|n| put(number(n), "12345")).collect());
    assert_eq!(state.stats(index), IndexStats::default());
    state.checkpoint().unwrap();
    assert_eq!(state.stats(index), IndexStats { rows: 100, bytes: 1300 });
    write(&state, vec![put(number(1), "123456"), delete(number(2)), delete(number(1000))]);
    write(&state, vec![delete(number(3)), put(number(2), "1")]);
    state.checkpoint().unwrap();
    assert_eq!(state.stats(index), IndexStats { rows: 99, bytes: 1300 + 1 - 4 - 13 });
}

#[test]
fn a_batch_of_very_many_rows_is_one_batch() {
    let disk = MemoryDisk::new(1);
    let state = open(&disk).unwrap();
    let all = 20_000;
    let before = write(&state, vec![put(key(9, b"x"), "x")]);
    let at = write(&state, (0..all).map(|n| put(number(n), n.to_be_bytes().to_vec())).collect());
    assert_eq!(state.changed_since(&number(5).point(), before), Answer::Changed(at));
    assert_eq!(state.changed_since(&key(9, b"x").point(), before), Answer::Unchanged);
    state.checkpoint().unwrap();
    drop(state);
    let state = open(&disk).unwrap();
    assert_eq!(state.changed_since(&number(5).point(), before), Answer::Changed(at));
    assert_eq!(rows(&state, at).len(), all as usize + 1);
    assert_eq!(rows(&state, before).len(), 1);
}

#[test]
fn applying_takes_a_checkpoint_when_memory_is_full() {
    let disk = MemoryDisk::new(1);
    let options = StateOptions { layer_bytes: 10_000, ..options() };
    let state = State::open(Arc::new(disk), &keys(), Arc::new(CountingEntropy::default()), options).unwrap();
    for n in 0..200 {
        write(&state, vec![put(number(n), vec![0; 500])]);
        assert!(state.layer_bytes() < 12_000);
    }
    assert_eq!(rows(&state, Timestamp::MAX).len(), 200);
}

#[test]
fn a_real_folder_keeps_rows() {
    let folder = tempfile::tempdir().unwrap();
    let start = || {
        let disk = Arc::new(crate::disk::RealDisk::open(folder.path()).unwrap());
        State::open(disk, &keys(), Arc::new(CountingEntropy::default()), options()).unwrap()
    };
    let state = start();
    for n in 0..5 {
        write(&state, (0..200).map(|i| put(number(i * 5 + n), vec![n as u8; 200])).collect());
        state.checkpoint().unwrap();
    }
    let before = rows(&state, Timestamp::MAX);
    assert_eq!(before.len(), 1000);
    drop(state);
    let state = start();
    assert_eq!(rows(&state, Timestamp::MAX), before);
    assert_eq!(state.applied(GROUP).index, 5);
}

/// Two keys are always written together; no reader ever sees them differ, while
/// checkpoints and collections go on.
#[test]
fn readers_see_whole_batches_while_everything_moves() {
    let state = Arc::new(open(&MemoryDisk::new(1)).unwrap());
    let (a, b) = (key(1, b"a"), key(2, b"b"));
    let both = |n: u32| vec![put(a.clone(), n.to_be_bytes().to_vec()), put(b.clone(), n.to_be_bytes().to_vec())];
    write(&state, both(0));
    let stop = Arc::new(AtomicBool::new(false));
    let keeper = std::thread::spawn({
        let (state, stop) = (state.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                state.checkpoint().unwrap();
                let newest = *state.observe_commits(Guarantee::Strong).borrow();
                state.collect(newest.minus_nanos(5), 100).unwrap();
            }
        }
    });
    let reader = std::thread::spawn({
        let (state, stop, a, b) = (state.clone(), stop.clone(), a.clone(), b.clone());
        move || {
            let (mut reads, mut last) = (0, Timestamp::ZERO);
            while !stop.load(Ordering::Relaxed) || reads < 100 {
                let reader = state.snapshot().unwrap();
                let at = reader.applied(Guarantee::Strong);
                assert!(at >= last);
                last = at;
                let (x, y) = (reader.get(&a, at).unwrap().unwrap(), reader.get(&b, at).unwrap().unwrap());
                assert_eq!((&x, x.1), (&y, at));
                let rows = reader.scan(&everything(), at).unwrap().next_chunk(9, 99).unwrap();
                assert_eq!(rows, [(a.clone(), x.0), (b.clone(), y.0)]);
                reads += 1;
            }
        }
    });
    for n in 1..2000 {
        write(&state, both(n));
    }
    stop.store(true, Ordering::Relaxed);
    keeper.join().unwrap();
    reader.join().unwrap();
}
