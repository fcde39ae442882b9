//! Reading the log back.
//!
//! Every segment is read and verified from its first byte to its last. What
//! does not verify is either *damage* or a *torn tail*, and the difference
//! matters: damage is reported and nothing starts, a torn tail is cut, since it
//! was never acknowledged.
//!
//! A flush group is written only after the one before it was durable, and a
//! segment is begun only after the one before it was complete. Hence:
//!
//! - In a segment that has a successor, everything was acknowledged, and
//!   anything wrong is damage. A missing end shows in the sequence numbers.
//! - In the last segment, anything wrong is damage if some frame of a *later*
//!   flush group is found after it: that group would not have been begun. Frames
//!   are found by looking for them at every byte, so a damaged length hides none.
//! - Otherwise what is wrong lies in the very last flush group. Whether the
//!   machine stopped while that group was written, or the group was damaged after
//!   it was acknowledged, *cannot be told from the log alone*; the same holds for
//!   a last segment that vanished. It is cut, and reported as a warning. The
//!   window is as small as can be: each later flush group closes it, an orderly
//!   end of the log writes one, and every start begins a new segment. Whoever
//!   knows more (a replica whose rows are ahead of its log) must check.
//! - A last segment that ends in zeros only has an ordinary end: segments are
//!   extended ahead of what is written into them, and cut when they are complete.
//! - A frame whose checksum matches and whose seal does not was not torn by any
//!   disk: damage, wherever it is.
//!
//! Cutting precedes everything else and is synced, so that nothing of the tail
//! can be taken for damage later on.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use polity_base::planted::{Bug, planted};

use crate::disk::{Disk, DiskFile, OpenOptions};
use crate::error::Error;
use crate::log::index::{Index, Place};
use crate::log::record::{Records, Stored};
use crate::log::segment::{
    FRAME_HEAD, FRAME_MAGIC, FRAME_OVERHEAD, FULL_FRAME, FrameHead, SEGMENT_HEAD, Segment, SegmentHead, file_name,
    id_of,
};
use crate::seal::Sealer;

/// What was read back.
pub(super) struct Recovery {
    pub index: Index,
    pub sequence: u64,
    pub next_segment: u64,
    pub oldest: u64,
}

/// Reads and verifies all segments, and cuts a torn tail.
pub(super) fn recover(disk: &dyn Disk, sealer: &Sealer, key_number: u32, index: Index) -> Result<Recovery, Error> {
    let names = disk.list().map_err(|e| Error::io("list", &disk.name(), e))?;
    let mut ids: Vec<u64> = names.iter().filter_map(|name| id_of(name)).collect();
    ids.sort_unstable();
    let mut state = Recovery { index, sequence: 0, next_segment: 1, oldest: 1 };
    let last = ids.last().copied();
    let mut start = ids.first().copied().unwrap_or(1);
    for &id in &ids {
        if id != state.next_segment {
            // Segments that were removed, not all of which went: all before
            // here must turn out to have been of no use.
            state.index.clear();
            start = id;
        }
        let first = id == start;
        let mut scan = Scan::open(disk, sealer, key_number, id, (!first).then_some(state.sequence))?;
        let kept = match scan.run(&mut state, first)? {
            End::Clean => true,
            End::Unused(at) if Some(id) == last => scan.shorten(at).map(|()| true)?,
            End::Unused(at) => return Err(scan.damage(at, "frames are missing at the segment's end")),
            End::Broken(broken) if Some(id) == last => scan.cut(disk, &broken)?,
            End::Broken(broken) => return Err(scan.damage(broken.at, broken.what)),
        };
        if kept {
            state.next_segment = id + 1;
        }
    }
    check_complete(&state, &ids, start)?;
    remove_leftovers(disk, &ids, &mut state)?;
    Ok(state)
}

/// Whether all segments that hold something of use were there.
fn check_complete(state: &Recovery, ids: &[u64], start: u64) -> Result<(), Error> {
    if ids.is_empty() {
        return Ok(());
    }
    if start > state.oldest {
        return Err(Error::corrupt(&file_name(start - 1), 0, "the segment is missing"));
    }
    match state.index.groups.iter().find_map(|(id, group)| group.missing().map(|index| (id, index))) {
        Some((group, index)) => {
            let what = format!("entry {index} of group {group} should be here or later, and is not");
            Err(Error::corrupt(&file_name(start), 0, what))
        }
        None => Ok(()),
    }
}

/// Removes segments that were of no use before the crash.
fn remove_leftovers(disk: &dyn Disk, ids: &[u64], state: &mut Recovery) -> Result<(), Error> {
    let leftovers: Vec<u64> = ids.iter().copied().filter(|id| *id < state.oldest).collect();
    for &id in &leftovers {
        let name = file_name(id);
        disk.remove(&name).map_err(|e| Error::io("remove", &name, e))?;
        state.index.remove_segment(id);
    }
    match leftovers.first() {
        Some(&id) => disk.sync_dir().map_err(|e| Error::io("remove", &file_name(id), e)),
        None => Ok(()),
    }
}

/// Where a segment stops making sense.
struct Broken {
    at: u64,
    what: &'static str,
    /// Where the flush group starts that is not whole
    group: u64,
}

impl Broken {
    /// How much of the segment is whole. A segment without its first flush group
    /// was never used.
    fn keep(&self) -> u64 {
        if self.group == SEGMENT_HEAD as u64 { 0 } else { self.group }
    }
}

enum End {
    Clean,
    /// Only zeros follow: the file was extended and nothing written there
    Unused(u64),
    Broken(Broken),
}

/// Reads one segment.
struct Scan<'a> {
    sealer: &'a Sealer,
    name: String,
    id: u64,
    key_number: u32,
    window: Window,
    /// The sequence number that the segment must start with, if that is known
    first_sequence: Option<u64>,
    /// The sequence number of the first frame of the next flush group
    flush: u64,
}

/// The part of a file that is in memory.
struct Window {
    file: Arc<dyn DiskFile>,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

const WINDOW_BYTES: usize = 4 << 20;

impl Window {
    /// The `len` bytes at `at`, unless the file ends before.
    fn get(&mut self, at: u64, len: usize) -> io::Result<Option<&[u8]>> {
        if at.saturating_add(len as u64) > self.len {
            return Ok(None);
        }
        if at < self.start || at + len as u64 > self.start + self.bytes.len() as u64 {
            let wanted = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(WINDOW_BYTES).max(len);
            self.bytes.resize(wanted, 0);
            self.start = at;
            let read = self.file.read_at(at, &mut self.bytes)?;
            self.bytes.truncate(read);
        }
        Ok(self.loaded_from(at).get(..len))
    }

    /// What is in memory from `at` on.
    fn loaded_from(&self, at: u64) -> &[u8] {
        at.checked_sub(self.start).and_then(|skip| self.bytes.get(usize::try_from(skip).ok()?..)).unwrap_or(&[])
    }
}

impl<'a> Scan<'a> {
    fn open(
        disk: &dyn Disk,
        sealer: &'a Sealer,
        key_number: u32,
        id: u64,
        first_sequence: Option<u64>,
    ) -> Result<Scan<'a>, Error> {
        let name = file_name(id);
        let failed = |e| Error::io("read", &name, e);
        let file = disk.open(&name, OpenOptions::EXISTING).map_err(failed)?;
        let len = file.len().map_err(failed)?;
        let window = Window { file, len, start: 0, bytes: Vec::new() };
        Ok(Scan { sealer, name, id, key_number, window, first_sequence, flush: first_sequence.unwrap_or(0) })
    }

    fn damage(&self, at: u64, what: impl Into<String>) -> Error {
        Error::corrupt(&self.name, at, what)
    }

    fn bytes(&mut self, at: u64, len: usize) -> Result<Option<&[u8]>, Error> {
        self.window.get(at, len).map_err(|e| Error::io("read", &self.name, e))
    }

    /// Reads whole flush groups into `state` until the end, or what is no frame.
    fn run(&mut self, state: &mut Recovery, first: bool) -> Result<End, Error> {
        let head = match self.head()? {
            Ok(head) => head,
            Err(what) => return Ok(End::Broken(Broken { at: 0, what, group: SEGMENT_HEAD as u64 })),
        };
        let segment = Segment { id: self.id, salt: head.salt, file: self.window.file.clone() };
        state.index.add_segment(segment.clone());
        if first {
            state.sequence = head.first_sequence;
        }
        self.flush = head.first_sequence;
        let mut start = SEGMENT_HEAD as u64;
        let mut plain = Vec::new();
        while start < self.window.len || start == SEGMENT_HEAD as u64 {
            plain.clear();
            match self.group(&segment, start, &mut plain)? {
                Ok((end, sequence)) => {
                    self.replay(state, start, &plain)?;
                    start = end;
                    self.flush = sequence;
                    state.sequence = sequence;
                }
                Err((at, _)) if at == start && start > SEGMENT_HEAD as u64 && self.zeros_from(at)? => {
                    return Ok(End::Unused(at));
                }
                Err((at, what)) => return Ok(End::Broken(Broken { at, what, group: start })),
            }
        }
        Ok(End::Clean)
    }

    fn head(&mut self) -> Result<Result<SegmentHead, &'static str>, Error> {
        let id = self.id;
        let Some(bytes) = self.bytes(0, SEGMENT_HEAD)?.and_then(|b| b.try_into().ok()) else {
            return Ok(Err("the segment ends within its header"));
        };
        let head = match SegmentHead::decode(bytes, id) {
            Ok(head) => head,
            Err(what) => return Ok(Err(what)),
        };
        if head.key_number != self.key_number {
            return Err(
                self.damage(24, format!("sealed with data key {}, which is not in the keyring", head.key_number))
            );
        }
        if let Some(expected) = self.first_sequence.filter(|expected| *expected != head.first_sequence) {
            let what = format!("frames {expected} to {} are missing before this segment", head.first_sequence);
            return Err(self.damage(0, what));
        }
        Ok(Ok(head))
    }

    /// Reads the flush group at `start`. Gives the offset and sequence number
    /// after it, or where and why it is not whole.
    #[expect(clippy::type_complexity, reason = "the outer error ends recovery, the inner one ends the segment")]
    fn group(
        &mut self,
        segment: &Segment,
        start: u64,
        plain: &mut Vec<u8>,
    ) -> Result<Result<(u64, u64), (u64, &'static str)>, Error> {
        let mut at = start;
        let mut sequence = self.flush;
        loop {
            let (head, sealed) = match self.frame(at)? {
                Ok(frame) => frame,
                Err(what) => return Ok(Err((at, what))),
            };
            let part = (sequence - self.flush) as u32;
            if head.sequence != sequence || head.part != part {
                let what = format!("frame {} stands where frame {sequence} should", head.sequence);
                return Err(self.damage(at, what));
            }
            head.open(self.sealer, segment, at, &sealed, plain).map_err(|what| self.damage(at, what))?;
            at += head.stored_len() as u64;
            sequence += 1;
            if head.last {
                return Ok(Ok((at, sequence)));
            }
        }
    }

    /// The frame at `at`, its checksum verified; or why there is none.
    fn frame(&mut self, at: u64) -> Result<Result<(FrameHead, Vec<u8>), &'static str>, Error> {
        let id = self.id;
        let head = match self.bytes(at, FRAME_HEAD)?.and_then(|b| b.try_into().ok()).map(FrameHead::parse) {
            Some(Ok(head)) => head,
            Some(Err(what)) => return Ok(Err(what)),
            None => return Ok(Err("the file ends within a frame")),
        };
        match self.bytes(at + FRAME_HEAD as u64, head.stored_len() - FRAME_HEAD)? {
            None => Ok(Err("the file ends within a frame")),
            Some(sealed) if head.checksum_matches(id, at, sealed) => Ok(Ok((head, sealed.to_vec()))),
            Some(_) => Ok(Err("a frame does not match its checksum")),
        }
    }

    /// Cuts what is broken off the last segment if it can be a torn tail.
    /// Whether anything of the segment is left.
    fn cut(&mut self, disk: &dyn Disk, broken: &Broken) -> Result<bool, Error> {
        if let Some(later) = self.later_flush(broken)? {
            let what = format!("{}, yet a later flush group follows at offset {later}", broken.what);
            return Err(self.damage(broken.at, what));
        }
        let keep = broken.keep();
        tracing::warn!(
            file = %self.name,
            offset = keep,
            bytes = self.window.len - keep,
            reason = broken.what,
            "cut the torn end of the log: a write that was never acknowledged, if the disk kept what it had synced"
        );
        if keep == 0 {
            disk.remove(&self.name).map_err(|e| Error::io("remove", &self.name, e))?;
            disk.sync_dir().map_err(|e| Error::io("remove", &self.name, e))?;
            return Ok(false);
        }
        self.shorten(keep)?;
        Ok(true)
    }

    fn shorten(&self, len: u64) -> Result<(), Error> {
        let file = &self.window.file;
        file.set_len(len).map_err(|e| Error::io("cut", &self.name, e))?;
        file.sync().map_err(|e| Error::io("sync", &self.name, e))
    }

    fn zeros_from(&mut self, mut at: u64) -> Result<bool, Error> {
        while self.bytes(at, 1)?.is_some() {
            let loaded = self.window.loaded_from(at);
            if loaded.iter().any(|b| *b != 0) {
                return Ok(false);
            }
            at += loaded.len() as u64;
        }
        Ok(true)
    }

    /// Looks at every byte after what is broken for a frame of a later flush
    /// group; where it is.
    fn later_flush(&mut self, broken: &Broken) -> Result<Option<u64>, Error> {
        if planted(Bug::TakeDamageForATornWrite) {
            return Ok(None);
        }
        let mut at = broken.at + 1;
        while self.bytes(at, FRAME_OVERHEAD)?.is_some() {
            let loaded = self.window.loaded_from(at);
            let Some(n) = loaded.windows(FRAME_MAGIC.len()).position(|w| w == FRAME_MAGIC) else {
                at += (loaded.len() - FRAME_MAGIC.len() + 1) as u64;
                continue;
            };
            at += n as u64;
            match self.frame(at)? {
                // The broken group's own parts have their places, counted from its start.
                Ok((head, _)) if at != broken.group + u64::from(head.part) * FULL_FRAME => return Ok(Some(at)),
                Ok((head, _)) => at += head.stored_len() as u64,
                Err(_) => at += 1,
            }
        }
        Ok(None)
    }

    fn replay(&self, state: &mut Recovery, offset: u64, plain: &[u8]) -> Result<(), Error> {
        let mut records = Records::of(plain);
        while let Some(stored) = records.next().map_err(|what| self.damage(offset, what))? {
            let index = &mut state.index;
            match stored {
                Stored::Entry { group, index: at, term, position, payload } => {
                    let expected = index.groups.get(&group).and_then(|g| g.outline.expected());
                    if let Some(expected) = expected.filter(|expected| *expected != at) {
                        let what = format!("entry {at} of group {group} stands where entry {expected} should");
                        return Err(self.damage(offset, what));
                    }
                    let place = Place { segment: self.id, offset, position };
                    // A bulk load that memory does not hold need not be copied first.
                    let kept = index.may_keep(payload.len()).then(|| Bytes::copy_from_slice(payload));
                    index.entry(group, at, term, payload.len(), kept, Some(place));
                }
                Stored::Truncate { group, from_index } => index.truncate(group, from_index),
                Stored::Purge { group, upto_index } => index.purge(group, upto_index),
                Stored::State { group, name, value } => index.state(group, name, Bytes::copy_from_slice(value)),
                Stored::Outline { group, outline } => index.outline(group, outline),
                Stored::Trim { oldest } => state.oldest = oldest,
                Stored::Close => {}
            }
        }
        Ok(())
    }
}
