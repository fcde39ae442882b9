//! What the log promises while nothing fails, and when a disk says no.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use polity_base::RangeId;

use super::Model;
use crate::Disk;
use crate::disk::{Crash, Fault, MemoryDisk};
use crate::error::Error;
use crate::log::testing::{entry, keys, open, purge, state, truncate};
use crate::log::{LogOptions, segment};

const SMALL: LogOptions = LogOptions { segment_bytes: 2000, cache_bytes: 1 << 20 };

fn segments(disk: &MemoryDisk) -> usize {
    disk.list().unwrap().iter().filter(|name| segment::id_of(name).is_some()).count()
}

#[tokio::test]
async fn entries_can_be_read_before_they_are_durable_and_after_a_restart() {
    let disk = MemoryDisk::new(1);
    let (log, recovered) = open(&disk, LogOptions::default()).await.unwrap();
    assert!(recovered.is_empty());
    let group = RangeId(7);
    log.append(vec![entry(7, 0, 1, "zero"), entry(7, 1, 1, "one"), state(7, "vote", "v1")], |_| {});
    assert_eq!(log.read(group, 1..9).unwrap(), [(1, 1, Bytes::from("one"))]);
    assert_eq!(log.last(group), Some((1, 1)));
    assert_eq!(log.term(group, 0), Some(1));
    assert_eq!(log.term(group, 2), None);
    log.append_wait(vec![entry(7, 2, 3, "two"), state(7, "vote", "v2")]).await.unwrap();
    log.close().await;

    let (log, recovered) = open(&disk, LogOptions::default()).await.unwrap();
    assert_eq!(recovered.len(), 1);
    assert_eq!((recovered[0].first, recovered[0].last), (Some(0), Some((2, 3))));
    assert_eq!(log.state(group, "vote"), Some(Bytes::from("v2")));
    assert_eq!(log.state(group, "other"), None);
    assert_eq!(log.read(group, 0..3).unwrap().len(), 3);
    assert_eq!(log.read(RangeId(8), 0..3).unwrap(), []);
}

#[tokio::test]
async fn entries_out_of_order_are_refused_whole() {
    let (log, _) = open(&MemoryDisk::new(1), LogOptions::default()).await.unwrap();
    log.append_wait(vec![entry(1, 5, 1, "a")]).await.unwrap();
    let gap = log.append_wait(vec![state(1, "vote", "x"), entry(1, 7, 1, "b")]).await;
    assert!(matches!(gap, Err(Error::OutOfOrder { expected: 6, given: 7, .. })), "{gap:?}");
    assert_eq!(log.state(RangeId(1), "vote"), None);
    assert!(log.append_wait(vec![entry(1, 5, 2, "again")]).await.is_err());
    log.append_wait(vec![truncate(1, 5), entry(1, 5, 2, "again"), purge(1, 9), entry(1, 10, 2, "c")]).await.unwrap();
    assert_eq!(log.read(RangeId(1), 0..99).unwrap(), [(10, 2, Bytes::from("c"))]);
    assert_eq!(log.purged(RangeId(1)), Some(9));
}

#[tokio::test]
async fn appends_that_wait_share_a_sync_and_are_answered_in_order() {
    let disk = MemoryDisk::new(1);
    let (log, _) = open(&disk, LogOptions::default()).await.unwrap();
    let answered = Arc::new(Mutex::new(Vec::new()));
    for index in 0..100 {
        let answered = answered.clone();
        log.append(vec![entry(index % 3, index / 3, 1, "x")], move |outcome| {
            outcome.unwrap();
            answered.lock().push(index);
        });
    }
    let before = disk.operations();
    log.append_wait(vec![]).await.unwrap();
    assert_eq!(*answered.lock(), (0..100).collect::<Vec<_>>());
    assert_eq!(log.stats().appends, 101);
    assert_eq!(log.stats().flushes, 1);
    assert_eq!(disk.operations() - before, 2, "one write and one sync");
}

#[tokio::test]
async fn old_entries_leave_memory_and_are_read_from_their_segments() {
    let disk = MemoryDisk::new(1);
    let options = LogOptions { segment_bytes: 50_000, cache_bytes: 10_000 };
    let (log, _) = open(&disk, options).await.unwrap();
    let payload = |index: u64| Bytes::from(vec![index as u8; 50 + index as usize]);
    for index in 0..600 {
        log.append(vec![entry(1, index, 1, payload(index))], |_| {});
        if index % 7 == 0 {
            log.append_wait(vec![]).await.unwrap();
        }
    }
    log.append_wait(vec![]).await.unwrap();
    assert!(log.handle.shared.inner.lock().index.cached_bytes() <= 10_000);
    let check = |log: &crate::Log| {
        let read = log.read(RangeId(1), 0..600).unwrap();
        assert_eq!(read.len(), 600);
        assert!(read.iter().all(|(index, _, found)| *found == payload(*index)));
    };
    check(&log);
    log.close().await;
    let (log, _) = open(&disk, options).await.unwrap();
    assert!(log.handle.shared.inner.lock().index.cached_bytes() <= 10_000);
    check(&log);
}

#[tokio::test]
async fn segments_go_when_their_entries_are_purged_and_values_stay() {
    let disk = MemoryDisk::new(1);
    let (log, _) = open(&disk, SMALL).await.unwrap();
    log.append_wait(vec![state(1, "vote", "for me"), state(2, "vote", "for you"), entry(2, 3, 1, "old")])
        .await
        .unwrap();
    for index in 0..100 {
        log.append_wait(vec![entry(1, index, 1, vec![1; 100])]).await.unwrap();
    }
    let many = segments(&disk);
    assert!(many > 5);
    log.append_wait(vec![purge(1, 97)]).await.unwrap();
    assert_eq!(segments(&disk), many, "another group's entry is in the oldest segment");
    log.append_wait(vec![purge(2, 3)]).await.unwrap();
    log.append_wait(vec![]).await.unwrap();
    assert!(segments(&disk) <= 3, "{} segments", segments(&disk));

    let before = Model::of(&log, [RangeId(1), RangeId(2)]);
    for crash in [Crash::Lost, Crash::Kept] {
        let after = disk.copy().restart(crash);
        let (log, recovered) = open(&after, SMALL).await.unwrap();
        assert_eq!(Model::of_recovered(&log, &recovered), before);
        assert_eq!(log.state(RangeId(2), "vote"), Some(Bytes::from("for you")));
        log.append_wait(vec![entry(2, 4, 1, "new"), entry(1, 100, 1, "new")]).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_on_the_disk_in_the_clear() {
    let disk = MemoryDisk::new(1);
    let (log, _) = open(&disk, SMALL).await.unwrap();
    let secret = b"Rosebud was the sledge";
    for index in 0..40 {
        log.append_wait(vec![entry(1, index, 1, secret.repeat(10)), state(1, "vote", secret.to_vec())]).await.unwrap();
    }
    log.close().await;
    for name in disk.list().unwrap() {
        let contents = disk.contents(&name);
        assert!(!contents.windows(6).any(|w| w == &secret[..6] || w == b"vote\x01\x16"), "{name}");
    }
}

#[tokio::test]
async fn another_key_opens_nothing() {
    let disk = MemoryDisk::new(1);
    let (log, _) = open(&disk, SMALL).await.unwrap();
    log.append_wait(vec![entry(1, 0, 1, "x")]).await.unwrap();
    log.close().await;
    let entropy = crate::log::testing::CountingEntropy::default();
    let master = crate::MasterKey::from_hex(&"5".repeat(64), "test").unwrap();
    let other = crate::Keyring::open(&MemoryDisk::new(0), &master, &entropy).unwrap();
    let refused = crate::Log::open(Arc::new(disk.clone()), &other, Arc::new(entropy), SMALL).await.map(|_| ());
    // Entropy repeats itself here: the data keys differ by the order of draws only.
    assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
    assert_eq!(keys().number(), 1);
}

#[tokio::test]
async fn a_large_entry_is_split_and_put_together() {
    let disk = MemoryDisk::new(1);
    let (log, _) = open(&disk, LogOptions::default()).await.unwrap();
    let large: Bytes = (0..9_000_000u32).map(|n| (n.wrapping_mul(7919) >> 8) as u8).collect();
    let full = Bytes::from(vec![9; segment::FRAME_PLAIN]);
    log.append(vec![entry(1, 0, 1, "before"), entry(1, 1, 1, large.clone())], |outcome| outcome.unwrap());
    log.append_wait(vec![entry(1, 2, 1, full.clone()), entry(1, 3, 1, "after"), entry(1, 4, 1, "")]).await.unwrap();
    log.close().await;
    let (log, _) = open(&disk, LogOptions { cache_bytes: 0, ..LogOptions::default() }).await.unwrap();
    let read: Vec<Bytes> = log.read(RangeId(1), 0..9).unwrap().into_iter().map(|(_, _, payload)| payload).collect();
    assert_eq!(read.len(), 5);
    assert!(read[1] == large && read[2] == full);
    assert_eq!((&read[0][..], &read[3][..], &read[4][..]), (&b"before"[..], &b"after"[..], &b""[..]));
}

#[tokio::test]
async fn a_closed_log_has_kept_what_it_took_and_takes_no_more() {
    let disk = MemoryDisk::new(1);
    let (log, _) = open(&disk, SMALL).await.unwrap();
    let waiting = log.append_wait(vec![entry(1, 0, 1, "x")]);
    let (waited, ()) = tokio::join!(waiting, log.close());
    waited.unwrap();
    assert!(matches!(log.append_wait(vec![entry(1, 1, 1, "y")]).await, Err(Error::Closed)));
    let (log, _) = open(&disk.restart(Crash::Lost), SMALL).await.unwrap();
    assert_eq!(log.last(RangeId(1)), Some((0, 1)));
}

#[tokio::test]
async fn after_a_failure_nothing_is_written_until_a_restart() {
    for fault in [Fault::Error, Fault::Full] {
        // The write, then the sync; then the same while a segment is begun.
        for operations in 0..6 {
            let disk = MemoryDisk::new(operations);
            let options = if operations < 2 { LogOptions::default() } else { LogOptions { segment_bytes: 1, ..SMALL } };
            let (log, _) = open(&disk, options).await.unwrap();
            log.append_wait(vec![entry(1, 0, 1, "kept")]).await.unwrap();
            disk.fail_after(operations, fault);
            let failed = log.append_wait(vec![entry(1, 1, 1, vec![1; 3000])]).await;
            match fault {
                Fault::Full => assert!(matches!(failed, Err(Error::Full { .. })), "{failed:?}"),
                Fault::Error => assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}"),
            }
            let written = disk.operations();
            let refused = log.append_wait(vec![entry(1, 2, 1, "later")]).await;
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "{refused:?}");
            log.close().await;
            assert_eq!(disk.operations(), written);

            let (log, _) = open(&disk.restart(Crash::Torn), options).await.unwrap();
            let found = log.read(RangeId(1), 0..9).unwrap();
            assert_eq!(found[0], (0, 1, Bytes::from("kept")));
            assert!(found.len() == 1 || found[1..] == [(1, 1, Bytes::from(vec![1; 3000]))]);
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_named() {
    let disk = MemoryDisk::new(1);
    let (log, _) = open(&disk, SMALL).await.unwrap();
    disk.set_capacity(Some(3000));
    let mut index = 0;
    let full = loop {
        match log.append_wait(vec![entry(1, index, 1, vec![1; 100])]).await {
            Ok(()) => index += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(full.class(), polity_base::Class::Resource, "{full}");
    assert!(full.to_string().contains("disk is full"), "{full}");
    drop(log);
    disk.set_capacity(None);
    let (log, _) = open(&disk.restart(Crash::Torn), SMALL).await.unwrap();
    assert!(log.last(RangeId(1)).unwrap().0 >= index - 1);
}
