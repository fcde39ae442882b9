//! A replica that received another's rows goes on as if it had applied its log.

use bytes::Bytes;
use polity_base::{Guarantee, Timestamp};
use proptest::prelude::*;

use super::model::{Model, any_log};
use super::{GROUP, WEIGHT, everything, key, open, put, rows, write};
use crate::Error;
use crate::disk::{Crash, MemoryDisk};
use crate::state::{Answer, State};

fn export(state: &State) -> Vec<Bytes> {
    let mut export = state.export(GROUP, vec![everything()]).unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = export.next_chunk().unwrap() {
        chunks.push(chunk);
    }
    chunks
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]
    #[test]
    fn a_receiver_decides_like_the_sender(
        log in any_log(40),
        (sent, had) in (0usize..40, 0usize..40),
        (checkpoint, collect, crash) in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let sent = sent.min(log.len());
        let had = had.min(sent);
        let mut model = Model::default();
        let outcomes: Vec<_> = log.iter().map(|entry| model.apply(entry)).collect();

        let sender = open(&MemoryDisk::new(1)).unwrap();
        sender.apply(GROUP, &log[..sent]).unwrap();
        if checkpoint {
            sender.checkpoint().unwrap();
        }
        if collect {
            sender.collect(Timestamp::MAX, usize::MAX).unwrap();
        }
        let mut disk = MemoryDisk::new(2);
        let mut receiver = open(&disk).unwrap();
        receiver.apply(GROUP, &log[..had]).unwrap();
        let mark = receiver.install(export(&sender).into_iter().map(Ok)).unwrap();
        prop_assert_eq!(mark, sender.applied(GROUP));
        if crash {
            disk = disk.restart(Crash::Lost);
            receiver = open(&disk).unwrap();
        }
        prop_assert_eq!(receiver.applied(GROUP), mark);
        prop_assert_eq!(rows(&receiver, Timestamp::MAX), rows(&sender, Timestamp::MAX));
        for state in [&sender, &receiver] {
            prop_assert_eq!(&state.apply(GROUP, &log[sent..]).unwrap(), &outcomes[sent..]);
            state.checkpoint().unwrap();
        }
        let digest = sender.digest(GROUP, &everything()).unwrap();
        prop_assert_eq!(receiver.digest(GROUP, &everything()).unwrap(), digest);
    }
}

#[test]
fn what_is_not_whole_changes_nothing() {
    let sender = open(&MemoryDisk::new(1)).unwrap();
    for n in 0..50u8 {
        write(&sender, vec![put(key(1, &[n]), vec![n; 100])]);
    }
    let chunks = export(&sender);
    assert!(chunks.len() >= 4);
    let disk = MemoryDisk::new(2);
    let receiver = open(&disk).unwrap();
    write(&receiver, vec![put(key(1, b"mine"), "kept")]);
    let kept = [(key(1, b"mine"), Bytes::from("kept"))];
    for damaged in 0..chunks.len() {
        let flipped = |bit: usize| {
            let mut chunks = chunks.clone();
            let mut bytes = chunks[damaged].to_vec();
            let at = bit % bytes.len();
            bytes[at] ^= 1;
            chunks[damaged] = bytes.into();
            chunks
        };
        for bit in [0, 1, 9, 77, 1001] {
            let refused = receiver.install(flipped(bit).into_iter().map(Ok));
            assert!(matches!(refused, Err(Error::Corrupt { .. })), "chunk {damaged}, byte {bit}: {refused:?}");
        }
        let refused = receiver.install(chunks[..damaged].iter().cloned().map(Ok));
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
        let lost = chunks[..damaged].iter().cloned().map(Ok).chain([Err(Error::Closed)]);
        assert!(matches!(receiver.install(lost), Err(Error::Closed)));
        assert_eq!(rows(&receiver, Timestamp::MAX), kept);
    }
    receiver.checkpoint().unwrap();
    assert_eq!(receiver.install(chunks.into_iter().map(Ok)).unwrap().index, 50);
    assert_eq!(rows(&receiver, Timestamp::MAX), rows(&sender, Timestamp::MAX));
    assert_eq!(receiver.stats(polity_base::IndexId(0x4001)).rows, 50);
}

#[test]
fn what_was_read_before_the_mark_is_known_to_be_too_old() {
    let sender = open(&MemoryDisk::new(1)).unwrap();
    for n in 0..WEIGHT as u8 + 6 {
        write(&sender, vec![put(key(1, &[n]), "x")]);
    }
    let receiver = open(&MemoryDisk::new(2)).unwrap();
    let mark = receiver.install(export(&sender).into_iter().map(Ok)).unwrap();
    assert_eq!(receiver.horizon(Guarantee::Strong), mark.commit);
    let read = receiver.snapshot().unwrap().get(&key(1, &[1]), mark.commit.minus_nanos(1));
    assert!(matches!(read, Err(Error::TooOld { .. })));
    for since in 0..mark.commit.0 {
        let span = key(1, &[20]).point();
        let answer = receiver.changed_since(&span, Timestamp(since));
        assert_eq!(answer, sender.changed_since(&span, Timestamp(since)));
        assert_eq!(answer == Answer::TooOld, since < 6);
    }
    let behind = open(&MemoryDisk::new(3)).unwrap();
    let refused = receiver.install(export(&behind).into_iter().map(Ok));
    assert!(matches!(refused, Err(Error::OutOfOrder { .. })), "{refused:?}");
}
