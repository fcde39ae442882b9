//! Damage that no crash explains: it is named, and nothing starts.

use super::Model;
use crate::Disk;
use crate::disk::{MemoryDisk, OpenOptions};
use crate::error::Error;
use crate::log::testing::{entry, open, purge, state};
use crate::log::{LogOptions, Record};

const OPTIONS: LogOptions = LogOptions { segment_bytes: 500, cache_bytes: 1 << 20 };

fn calls() -> Vec<Vec<Record>> {
    (0..12).map(|n| vec![entry(1, n, 1, vec![n as u8; 40 + n as usize]), state(1, "vote", vec![n as u8])]).collect()
}

/// A log of three segments; the last one's name, and where the flush group of
/// the last call starts in it.
async fn build(closed: bool) -> (MemoryDisk, String, usize) {
    let disk = MemoryDisk::new(1);
    let (log, _) = open(&disk, OPTIONS).await.unwrap();
    let mut before = (String::new(), 0);
    for call in calls() {
        let names = disk.list().unwrap();
        let last = names.last().unwrap().clone();
        before = (last.clone(), used(&disk, &last));
        log.append_wait(call).await.unwrap();
    }
    if closed {
        log.close().await;
    }
    let copy = disk.copy();
    let names = copy.list().unwrap();
    assert_eq!(names.len(), 3);
    assert_eq!(names.last(), Some(&before.0), "the last call did not begin a segment");
    (copy, before.0, before.1)
}

/// Where a segment ends and the zeros begin that it was extended with.
fn used(disk: &MemoryDisk, name: &str) -> usize {
    disk.contents(name).iter().rposition(|b| *b != 0).map_or(0, |at| at + 1)
}

async fn outcome(disk: &MemoryDisk) -> Result<Model, Error> {
    let (log, recovered) = open(&disk.copy(), OPTIONS).await?;
    Ok(Model::of_recovered(&log, &recovered))
}

#[tokio::test]
async fn every_bit_flip_is_named_or_lies_in_the_last_flush_group() {
    let (disk, last, group) = build(false).await;
    let prefixes = Model::prefixes(&calls());
    let (without_last, whole) = (&prefixes[prefixes.len() - 2], &prefixes[prefixes.len() - 1]);
    let end = used(&disk, &last);
    for name in disk.list().unwrap() {
        for bit in 0..disk.contents(&name).len() * 8 {
            let (byte, bit) = (bit / 8, bit % 8);
            disk.flip(&name, byte, bit);
            match outcome(&disk).await {
                Ok(found) => {
                    assert!(name == last && byte >= group, "{name}: bit {bit} of byte {byte} went unnoticed");
                    assert_eq!(found, if byte < end { without_last.clone() } else { whole.clone() });
                }
                Err(Error::Corrupt { file, offset, .. }) => {
                    assert!(name != last || byte < group, "the last flush group may have been torn");
                    assert_eq!(file, name);
                    assert!(offset <= byte as u64, "{name}: byte {byte} was reported at offset {offset}");
                }
                Err(other) => panic!("{name}: bit {bit} of byte {byte}: {other}"),
            }
            disk.flip(&name, byte, bit);
        }
    }
    assert_eq!(outcome(&disk).await.unwrap(), *whole);
}

#[tokio::test]
async fn once_a_log_was_closed_or_opened_again_every_acknowledged_byte_is_protected() {
    let end = {
        let (disk, last, _) = build(false).await;
        used(&disk, &last)
    };
    for closed in [true, false] {
        let (disk, last, group) = build(closed).await;
        if !closed {
            open(&disk, OPTIONS).await.unwrap();
        }
        for byte in group..end {
            disk.flip(&last, byte, byte % 8);
            let found = outcome(&disk).await;
            assert!(matches!(&found, Err(Error::Corrupt { file, .. }) if *file == last), "byte {byte}: {found:?}");
            disk.flip(&last, byte, byte % 8);
        }
    }
}

#[tokio::test]
async fn a_lost_segment_is_missed() {
    let (disk, last, _) = build(false).await;
    for name in disk.list().unwrap() {
        let copy = disk.copy();
        copy.remove(&name).unwrap();
        let found = outcome(&copy).await;
        // That the last segment existed is written nowhere else.
        assert_eq!(found.is_ok(), name == last, "{name}: {found:?}");
    }
}

#[tokio::test]
async fn a_lost_first_segment_is_missed_also_when_all_its_entries_were_purged() {
    let (disk, _, _) = build(false).await;
    let (log, _) = open(&disk, LogOptions { segment_bytes: 1 << 20, ..OPTIONS }).await.unwrap();
    log.append_wait(vec![purge(1, 3)]).await.unwrap();
    log.close().await;
    let names = disk.list().unwrap();
    disk.remove(&names[0]).unwrap();
    let found = outcome(&disk).await;
    assert!(matches!(&found, Err(Error::Corrupt { file, .. }) if *file == names[0]), "{found:?}");
}

#[tokio::test]
async fn a_shortened_segment_is_damage_unless_it_is_the_last() {
    let (disk, last, group) = build(false).await;
    for name in disk.list().unwrap() {
        for len in 0..disk.contents(&name).len() {
            let copy = disk.copy();
            let file = copy.open(&name, OpenOptions::EXISTING).unwrap();
            file.set_len(len as u64).unwrap();
            match outcome(&copy).await {
                // Shortened by more than a crash could.
                Ok(_) => assert_eq!(name, last),
                Err(Error::Corrupt { .. }) => assert!(name != last || len < group),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[tokio::test]
async fn frames_can_be_neither_swapped_nor_brought_back() {
    let (disk, last, group) = build(false).await;
    let names = disk.list().unwrap();
    // A whole segment under another's name.
    let copy = disk.copy();
    replace(&copy, &names[1], &disk.contents(&names[0]));
    assert!(matches!(outcome(&copy).await, Err(Error::Corrupt { .. })));
    // The last flush group once more, behind itself.
    let copy = disk.copy();
    let mut bytes = disk.contents(&last);
    bytes.truncate(used(&disk, &last));
    bytes.extend_from_within(group..);
    replace(&copy, &last, &bytes);
    let prefixes = Model::prefixes(&calls());
    assert_eq!(outcome(&copy).await.unwrap(), prefixes[prefixes.len() - 1], "it is no frame there");
}

#[tokio::test]
async fn zeros_and_noise_behind_the_end_are_cut() {
    let (disk, last, _) = build(false).await;
    let prefixes = Model::prefixes(&calls());
    for tail in [vec![0; 5000], b"\xF7PL\x9C".repeat(400), vec![0xF7; 77]] {
        let copy = disk.copy();
        let mut bytes = disk.contents(&last);
        bytes.extend(tail);
        replace(&copy, &last, &bytes);
        assert_eq!(outcome(&copy).await.unwrap(), prefixes[prefixes.len() - 1]);
    }
}

fn replace(disk: &MemoryDisk, name: &str, bytes: &[u8]) {
    disk.open(name, OpenOptions::FRESH).unwrap().write_at(0, bytes).unwrap();
}
