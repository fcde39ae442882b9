//! Damage to the file, and what it gives away.

use polity_base::Timestamp;

use super::{GROUP, everything, key, open, put, rows, write};
use crate::Error;
use crate::disk::MemoryDisk;
use crate::state::tables::FILE;

/// A state of a few dozen pages, and its file's length.
fn filled(disk: &MemoryDisk) -> usize {
    let state = open(disk).unwrap();
    for n in 0..60u8 {
        write(&state, vec![put(key(1, &[n]), vec![n; 900])]);
    }
    state.checkpoint().unwrap();
    disk.contents(FILE).len()
}

/// Reads all there is.
fn read_all(disk: &MemoryDisk) -> Result<Vec<(polity_base::Key, bytes::Bytes)>, Error> {
    let state = open(disk)?;
    let mut scan = state.snapshot()?.scan(&everything(), Timestamp::MAX)?;
    scan.next_chunk(usize::MAX, usize::MAX)
}

#[test]
fn a_flipped_bit_is_found_or_does_not_matter() {
    let disk = MemoryDisk::new(1);
    let len = filled(&disk);
    let whole = read_all(&disk.copy()).unwrap();
    assert_eq!(whole.len(), 60);
    let mut found = 0;
    // Odd steps, so that every part of a block and every block has its turn.
    for byte in (0..60).chain((60..len).step_by(509)) {
        let damaged = disk.copy();
        damaged.flip(FILE, byte, byte % 8);
        match read_all(&damaged) {
            Ok(rows) => assert_eq!(rows, whole, "byte {byte}"),
            Err(Error::Corrupt { file, what, .. }) => {
                assert_eq!(file, FILE, "byte {byte}: {what}");
                found += 1;
            }
            Err(other) => panic!("byte {byte}: {other}"),
        }
    }
    assert!(found > 60, "only {found} flips were found");
}

#[test]
fn either_copy_of_the_header_is_enough() {
    for copies in [vec![4200], vec![12400], vec![4200, 12400]] {
        let disk = MemoryDisk::new(1);
        filled(&disk);
        copies.iter().for_each(|at| disk.flip(FILE, *at, 0));
        let read = read_all(&disk);
        if copies.len() == 1 {
            assert_eq!(read.unwrap().len(), 60);
        } else {
            let error = read.unwrap_err();
            assert!(matches!(&error, Error::Corrupt { what, .. } if what.contains("header")), "{error}");
        }
    }
}

#[test]
fn a_block_does_not_pass_for_another() {
    use crate::disk::{Disk, OpenOptions, read_exact_at};
    let disk = MemoryDisk::new(1);
    let len = filled(&disk);
    let blocks = (len - 20480) / 4124;
    let place = |block: usize| 20480 + block as u64 * 4124;
    let whole = read_all(&disk.copy()).unwrap();
    let mut found = 0;
    for block in 0..blocks - 1 {
        let swapped = disk.copy();
        let file = swapped.open(FILE, OpenOptions::EXISTING).unwrap();
        let (mut a, mut b) = (vec![0; 4124], vec![0; 4124]);
        read_exact_at(&*file, place(block), &mut a).unwrap();
        read_exact_at(&*file, place(block + 1), &mut b).unwrap();
        file.write_at(place(block), &b).unwrap();
        file.write_at(place(block + 1), &a).unwrap();
        match read_all(&swapped) {
            Ok(rows) => assert_eq!(rows, whole, "block {block}"),
            Err(Error::Corrupt { .. }) => found += 1,
            Err(other) => panic!("block {block}: {other}"),
        }
    }
    assert!(found > 10, "only {found} swaps were found");
}

#[test]
fn a_cut_or_foreign_file_is_refused() {
    use crate::disk::{Disk, OpenOptions};
    let disk = MemoryDisk::new(1);
    let len = filled(&disk);
    for cut in [0, 10, 4096, 9000, 20480, 30000, len as u64 / 2] {
        let cut_off = disk.copy();
        cut_off.open(FILE, OpenOptions::EXISTING).unwrap().set_len(cut).unwrap();
        let error = read_all(&cut_off).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "cut at {cut}: {error}");
    }
    let foreign = MemoryDisk::new(2);
    foreign.open(FILE, OpenOptions::CREATE).unwrap().write_at(0, &[b'x'; 30000]).unwrap();
    let error = read_all(&foreign).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn the_file_shows_nothing_of_what_it_holds() {
    let disk = MemoryDisk::new(1);
    let state = open(&disk).unwrap();
    let secret = b"the quick brown fox jumps over it";
    write(&state, vec![put(key(1, secret), secret.to_vec())]);
    state.checkpoint().unwrap();
    assert_eq!(rows(&state, Timestamp::MAX).len(), 1);
    drop(state);
    let file = disk.contents(FILE);
    for plain in [&secret[..8], &[0, 0, 64, 1, b't', b'h'], b"redb", b"rows", b"polity"] {
        assert!(!file.windows(plain.len()).any(|w| w == plain), "{plain:?} is readable");
    }
}

#[test]
fn the_mark_and_the_rows_are_those_of_the_same_moment() {
    let disk = MemoryDisk::new(1);
    let state = open(&disk).unwrap();
    write(&state, vec![put(key(1, b"a"), "1")]);
    state.checkpoint().unwrap();
    write(&state, vec![put(key(1, b"a"), "2")]);
    drop(state);
    let state = open(&disk).unwrap();
    assert_eq!(state.applied(GROUP).index, 1);
    assert_eq!(rows(&state, Timestamp::MAX), [(key(1, b"a"), "1".into())]);
}
