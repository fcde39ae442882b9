//! Groups of two guarantees in one state: neither sees, hinders or hastens the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use polity_base::{Guarantee, Key, Operation, RangeId, Timestamp};

use super::{GROUP, WEIGHT, batch, entry, key, open, options, put};
use crate::disk::MemoryDisk;
use crate::error::Error;
use crate::log::testing::{CountingEntropy, keys};
use crate::state::{Answer, State, StateOptions};

/// A key of an eventual table, by a short name.
fn eventual(name: &[u8]) -> Key {
    Key::from([&[0x80, 0, 64, 1], name].concat())
}

/// Applies operations as the next entry of a group.
fn apply(state: &State, group: RangeId, proposed_at: u64, operations: Vec<Operation>) {
    let index = state.applied(group).index + 1;
    let id = u128::from(index) << 64 | u128::from(group.0);
    state.apply(group, &[entry(index, proposed_at, vec![batch(id, vec![], operations)])]).unwrap();
}

/// The value of a key at a time.
fn read(state: &State, key: &Key, at: u64) -> Result<Option<bytes::Bytes>, Error> {
    Ok(state.snapshot()?.get(key, Timestamp(at))?.map(|(value, _)| value))
}

fn kept_for(retention: Duration) -> State {
    let options = StateOptions { retention, ..options() };
    State::open(Arc::new(MemoryDisk::new(1)), &keys(), Arc::new(CountingEntropy::default()), options).unwrap()
}

#[test]
fn a_reader_sees_no_half_of_a_batch_of_either_group() {
    let state = Arc::new(open(&MemoryDisk::new(1)).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let pair = |make: &dyn Fn(&[u8]) -> Key| [make(b"a"), make(b"b")];
    let both = [(GROUP, pair(&|n| key(1, n))), (RangeId::EVENTUAL, pair(&eventual))];
    for (group, [a, b]) in &both {
        apply(&state, *group, 1, vec![put(a.clone(), "0"), put(b.clone(), "0")]);
    }
    let readers = both.clone().map(|(_, [a, b])| {
        let (state, stop) = (state.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut reads = 0;
            while !stop.load(Ordering::Relaxed) || reads < 100 {
                let reader = state.snapshot().unwrap();
                // As late as can be: what is being applied must not show.
                let [x, y] = [&a, &b].map(|key| reader.get(key, Timestamp::MAX).unwrap().unwrap());
                assert_eq!(x, y);
                reads += 1;
            }
        })
    });
    let writers = both.map(|(group, [a, b])| {
        let state = state.clone();
        std::thread::spawn(move || {
            for n in 1..3000u64 {
                // Each is by turns ahead of the other.
                let at = if (n / 10) % 2 == 0 { n * 100 } else { n * 100 + group.0 * 50 };
                apply(&state, group, at, vec![put(a.clone(), n.to_string()), put(b.clone(), n.to_string())]);
            }
        })
    });
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}

#[test]
fn what_a_group_that_stands_still_has_stays_readable_while_another_goes_on() {
    let state = kept_for(Duration::from_nanos(10));
    for n in 1..=5 {
        apply(&state, GROUP, n, vec![put(key(1, b"a"), n.to_string())]);
    }
    for n in (100..=10_000).step_by(100) {
        apply(&state, RangeId::EVENTUAL, n, vec![put(eventual(b"a"), n.to_string())]);
        // What one checkpoint wrote is collected together.
        state.checkpoint().unwrap();
    }
    let collected = state.collect(Timestamp::MAX, usize::MAX).unwrap();
    assert_eq!(collected.versions, 98, "all but what was there ten nanoseconds ago and since");
    assert_eq!(state.horizon(Guarantee::Strong), Timestamp::ZERO);
    assert_eq!(state.horizon(Guarantee::Eventual), Timestamp(9_990));
    for n in 1..=5 {
        assert_eq!(read(&state, &key(1, b"a"), n).unwrap().unwrap(), n.to_string());
    }
    assert!(matches!(read(&state, &eventual(b"a"), 5_000), Err(Error::TooOld { .. })));
    assert_eq!(*state.observe_commits(Guarantee::Strong).borrow(), Timestamp(5));
    assert_eq!(*state.observe_commits(Guarantee::Eventual).borrow(), Timestamp(10_000));
    let pin = state.pin(Guarantee::Strong, Timestamp(3)).unwrap();
    for n in 20_000..20_020 {
        apply(&state, RangeId::EVENTUAL, n, vec![put(eventual(b"a"), n.to_string())]);
        apply(&state, GROUP, n, vec![put(key(1, b"a"), n.to_string())]);
    }
    state.checkpoint().unwrap();
    state.collect(Timestamp::MAX, usize::MAX).unwrap();
    assert_eq!(state.horizon(Guarantee::Strong), pin.at(), "a pin holds its own guarantee");
    assert_eq!(state.horizon(Guarantee::Eventual), Timestamp(20_009));
}

#[test]
fn horizons_and_work_lists_survive_a_restart() {
    let disk = MemoryDisk::new(1);
    let state = open(&disk).unwrap();
    for n in 1..=9 {
        apply(&state, RangeId::EVENTUAL, n, vec![put(eventual(b"a"), n.to_string())]);
        apply(&state, GROUP, n + 50, vec![put(key(1, b"a"), n.to_string())]);
        state.checkpoint().unwrap();
    }
    state.collect(Timestamp(4), usize::MAX).unwrap();
    drop(state);
    let state = open(&disk).unwrap();
    assert_eq!(state.horizon(Guarantee::Eventual), Timestamp(4));
    assert_eq!(state.horizon(Guarantee::Strong), Timestamp(4));
    assert_eq!(state.collect(Timestamp::MAX, usize::MAX).unwrap().versions, 5 + 8);
    assert_eq!(read(&state, &eventual(b"a"), 9).unwrap().unwrap(), "9");
    assert_eq!(read(&state, &key(1, b"a"), 59).unwrap().unwrap(), "9");
}

#[test]
fn rows_taken_over_for_one_group_leave_the_other_alone() {
    let sender = open(&MemoryDisk::new(1)).unwrap();
    apply(&sender, GROUP, 1_000, vec![put(key(1, b"a"), "sent")]);
    apply(&sender, RangeId::EVENTUAL, 2_000, vec![put(eventual(b"a"), "not sent")]);
    let mut export = sender.export(GROUP, vec![Guarantee::Strong.span()]).unwrap();
    let chunks: Vec<_> = std::iter::from_fn(|| export.next_chunk().unwrap()).map(Ok).collect();

    let receiver = open(&MemoryDisk::new(2)).unwrap();
    apply(&receiver, GROUP, 10, vec![put(key(1, b"b"), "to be replaced")]);
    apply(&receiver, RangeId::EVENTUAL, 20, vec![put(eventual(b"a"), "old")]);
    apply(&receiver, RangeId::EVENTUAL, 30, vec![put(eventual(b"a"), "kept"), put(eventual(b"c"), "kept")]);
    let before = receiver.applied(RangeId::EVENTUAL);
    receiver.install(chunks).unwrap();
    assert_eq!(receiver.applied(RangeId::EVENTUAL), before);
    assert_eq!(receiver.horizon(Guarantee::Eventual), Timestamp::ZERO);
    assert_eq!(receiver.snapshot().unwrap().applied(Guarantee::Eventual), Timestamp(30));
    assert_eq!(read(&receiver, &eventual(b"a"), 25).unwrap().unwrap(), "old");
    assert_eq!(read(&receiver, &eventual(b"a"), 30).unwrap().unwrap(), "kept");
    assert_eq!(read(&receiver, &eventual(b"c"), 2_000).unwrap().unwrap(), "kept");
    assert_eq!(read(&receiver, &key(1, b"a"), 1_000).unwrap().unwrap(), "sent");
    assert_eq!(read(&receiver, &key(1, b"b"), 1_000).unwrap(), None);
}

#[test]
fn what_is_forgotten_of_one_group_is_no_reason_to_doubt_the_other() {
    let state = open(&MemoryDisk::new(1)).unwrap();
    apply(&state, GROUP, 1, vec![put(key(1, b"a"), "1")]);
    for n in 10..10 + WEIGHT as u64 * 2 {
        apply(&state, RangeId::EVENTUAL, n, vec![put(eventual(&[n as u8]), "x")]);
    }
    assert_eq!(state.changed_since(&key(1, b"a").point(), Timestamp(0)), Answer::Changed(Timestamp(1)));
    assert_eq!(state.changed_since(&key(1, b"a").point(), Timestamp(1)), Answer::Unchanged);
    assert_eq!(state.changed_since(&eventual(b"a").point(), Timestamp(1)), Answer::TooOld);
    assert_eq!(state.written_since(&key(1, b"").prefix_span(), Timestamp(0), 9), Some(vec![key(1, b"a")]));
}
