//! Segments: files of sealed frames.
//!
//! ```text
//! segment = header frame* zero*       zeros only while it is written
//! header  = "POLITYL1" | segment u64 | first sequence u64 | key number u32 | salt 4 | crc32c u32
//! frame   = magic 4 | length u32 | sequence u64 | part u32 | crc32c u32 | sealed bytes | tag 16
//! ```
//! Integers are little endian. Every frame has the next sequence number, across
//! segments, so that a missing one shows. Frames of one flush group have the
//! parts 0, 1, …, and the last one has the top bit set; all but the last are full.
//!
//! The checksum covers the frame, the number of its segment and its offset; so
//! does the seal. A frame is therefore valid in its own place only: it can be
//! found by looking for it, and can be neither moved nor swapped nor brought back.

use std::sync::Arc;

use crate::disk::{DiskFile, read_exact_at};
use crate::error::Error;
use crate::log::record::Sink;
use crate::seal::{NONCE_LEN, Sealer, TAG_LEN};

pub(super) const SEGMENT_HEAD: usize = 36;
const SEGMENT_MAGIC: &[u8; 8] = b"POLITYL1";

pub(super) const FRAME_HEAD: usize = 24;
pub(super) const FRAME_MAGIC: [u8; 4] = [0xF7, b'P', b'L', 0x9C];
/// The most plain bytes in a frame.
pub(super) const FRAME_PLAIN: usize = 1 << 20;
/// What a frame takes beyond its plain bytes.
pub(super) const FRAME_OVERHEAD: usize = FRAME_HEAD + TAG_LEN;
/// What every frame of a flush group but the last takes in the file.
pub(super) const FULL_FRAME: u64 = (FRAME_PLAIN + FRAME_OVERHEAD) as u64;
const LAST_PART: u32 = 1 << 31;

/// The name of a segment's file.
pub(super) fn file_name(id: u64) -> String {
    format!("log-{id:010}")
}

/// The segment whose file has this name.
pub(super) fn id_of(name: &str) -> Option<u64> {
    let id = name.strip_prefix("log-")?.parse().ok()?;
    (file_name(id) == name).then_some(id)
}

/// An open segment.
#[derive(Clone)]
pub(super) struct Segment {
    pub id: u64,
    pub salt: [u8; 4],
    pub file: Arc<dyn DiskFile>,
}

/// The header of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHead {
    pub id: u64,
    pub first_sequence: u64,
    pub key_number: u32,
    pub salt: [u8; 4],
}

impl SegmentHead {
    pub fn encode(&self) -> [u8; SEGMENT_HEAD] {
        let mut out = [0; SEGMENT_HEAD];
        out[..8].copy_from_slice(SEGMENT_MAGIC);
        out[8..16].copy_from_slice(&self.id.to_le_bytes());
        out[16..24].copy_from_slice(&self.first_sequence.to_le_bytes());
        out[24..28].copy_from_slice(&self.key_number.to_le_bytes());
        out[28..32].copy_from_slice(&self.salt);
        let checksum = crc32c::crc32c(&out[..32]);
        out[32..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8; SEGMENT_HEAD], id: u64) -> Result<SegmentHead, &'static str> {
        if crc32c::crc32c(&bytes[..32]).to_le_bytes() != bytes[32..] {
            return Err("the segment's header does not match its checksum");
        }
        if bytes[..8] != *SEGMENT_MAGIC {
            return Err("not a segment of the log, or of an unknown version");
        }
        let head = SegmentHead {
            id: u64_at(bytes, 8),
            first_sequence: u64_at(bytes, 16),
            key_number: u32_at(bytes, 24),
            salt: [bytes[28], bytes[29], bytes[30], bytes[31]],
        };
        if head.id != id {
            return Err("the segment's header belongs to another segment");
        }
        Ok(head)
    }
}

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameHead {
    /// How many plain bytes the frame has
    pub length: usize,
    pub sequence: u64,
    pub part: u32,
    pub last: bool,
    bytes: [u8; FRAME_HEAD],
}

impl FrameHead {
    fn new(length: usize, sequence: u64, part: u32, last: bool) -> FrameHead {
        let mut bytes = [0; FRAME_HEAD];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        bytes[16..20].copy_from_slice(&(part | if last { LAST_PART } else { 0 }).to_le_bytes());
        FrameHead { length, sequence, part, last, bytes }
    }

    /// The header in `bytes`, unless they cannot be one.
    pub fn parse(bytes: &[u8; FRAME_HEAD]) -> Result<FrameHead, &'static str> {
        if bytes[..4] != FRAME_MAGIC {
            return Err("no frame starts here");
        }
        let length = u32_at(bytes, 4) as usize;
        let (sequence, part) = (u64_at(bytes, 8), u32_at(bytes, 16));
        let last = part & LAST_PART != 0;
        if length > FRAME_PLAIN || (!last && length != FRAME_PLAIN) {
            return Err("a frame of impossible length");
        }
        Ok(FrameHead { length, sequence, part: part & !LAST_PART, last, bytes: *bytes })
    }

    /// How many bytes the frame takes in the file.
    pub fn stored_len(&self) -> usize {
        FRAME_OVERHEAD + self.length
    }

    fn place(&self, segment: u64, offset: u64) -> [u8; 36] {
        let mut out = [0; 36];
        out[..8].copy_from_slice(&segment.to_le_bytes());
        out[8..16].copy_from_slice(&offset.to_le_bytes());
        out[16..].copy_from_slice(&self.bytes[..20]);
        out
    }

    fn nonce(&self, salt: [u8; 4]) -> [u8; NONCE_LEN] {
        let mut out = [0; NONCE_LEN];
        out[..4].copy_from_slice(&salt);
        out[4..].copy_from_slice(&self.sequence.to_le_bytes());
        out
    }

    /// Whether the sealed bytes and tag after this header are those written here.
    pub fn checksum_matches(&self, segment: u64, offset: u64, sealed: &[u8]) -> bool {
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&self.place(segment, offset)), sealed);
        checksum.to_le_bytes() == self.bytes[20..]
    }

    /// Opens the sealed bytes after this header and appends them to `out`.
    pub fn open(
        &self,
        sealer: &Sealer,
        segment: &Segment,
        offset: u64,
        sealed: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        let (data, tag) = sealed.split_last_chunk().ok_or("a frame of impossible length")?;
        let from = out.len();
        out.extend_from_slice(data);
        let opened =
            sealer.open_in_place(&self.nonce(segment.salt), &self.place(segment.id, offset), &mut out[from..], tag);
        opened.map_err(|_| {
            out.truncate(from);
            "a frame that was not sealed by this log"
        })
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |n, &b| n << 8 | u32::from(b))
}

/// Builds the frames of flush groups, sealing each where it lies.
pub(super) struct FrameWriter<'a> {
    sealer: &'a Sealer,
    segment: u64,
    salt: [u8; 4],
    /// Where in the file `buffer` starts
    base: u64,
    sequence: u64,
    part: u32,
    buffer: &'a mut Vec<u8>,
    /// Where in `buffer` the open frame starts
    frame: usize,
    /// How many bytes of the flush group are in closed frames
    closed: u64,
    failure: Option<Error>,
}

impl<'a> FrameWriter<'a> {
    /// A flush group that starts at `offset`, to be appended to `buffer`, of
    /// which the first byte lies at `offset - buffer.len()`.
    pub fn start(
        sealer: &'a Sealer,
        head: &SegmentHead,
        offset: u64,
        sequence: u64,
        buffer: &'a mut Vec<u8>,
    ) -> FrameWriter<'a> {
        let frame = buffer.len();
        buffer.resize(frame + FRAME_HEAD, 0);
        let base = offset - frame as u64;
        let (segment, salt) = (head.id, head.salt);
        FrameWriter { sealer, segment, salt, base, sequence, part: 0, buffer, frame, closed: 0, failure: None }
    }

    /// How many bytes were put into the flush group so far.
    pub fn position(&self) -> u64 {
        self.closed + (self.buffer.len() - self.frame - FRAME_HEAD) as u64
    }

    /// The bytes of closed frames, once they are at least `at_least`, with the
    /// offset they belong at.
    pub fn ready(&self, at_least: usize) -> Option<(u64, &[u8])> {
        (self.frame >= at_least.max(1)).then(|| (self.base, &self.buffer[..self.frame]))
    }

    /// Forgets the closed frames, which the caller has written.
    pub fn written(&mut self) {
        self.base += self.frame as u64;
        self.buffer.drain(..self.frame);
        self.frame = 0;
    }

    /// Closes the flush group. Returns the next offset and sequence number; what
    /// is in the buffer is still to be written, at the returned first offset.
    pub fn finish(mut self) -> Result<(u64, u64, u64), Error> {
        self.close(true);
        match self.failure {
            Some(e) => Err(e),
            None => Ok((self.base, self.base + self.buffer.len() as u64, self.sequence)),
        }
    }

    fn close(&mut self, last: bool) {
        let offset = self.base + self.frame as u64;
        let from = self.frame + FRAME_HEAD;
        let head = FrameHead::new(self.buffer.len() - from, self.sequence, self.part, last);
        let place = head.place(self.segment, offset);
        match self.sealer.seal_in_place(&head.nonce(self.salt), &place, &mut self.buffer[from..]) {
            Ok(tag) => self.buffer.extend_from_slice(&tag),
            Err(e) => self.failure = Some(e),
        }
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&place), &self.buffer[from..]);
        self.buffer[self.frame..from].copy_from_slice(&head.bytes);
        self.buffer[from - 4..from].copy_from_slice(&checksum.to_le_bytes());
        self.closed += head.length as u64;
        self.sequence += 1;
        self.part += 1;
        self.frame = self.buffer.len();
    }
}

impl Sink for FrameWriter<'_> {
    fn put(&mut self, mut bytes: &[u8]) {
        loop {
            let room = FRAME_PLAIN - (self.buffer.len() - self.frame - FRAME_HEAD);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.buffer.extend_from_slice(now);
            if later.is_empty() {
                return;
            }
            self.close(false);
            self.buffer.resize(self.frame + FRAME_HEAD, 0);
            bytes = later;
        }
    }
}

/// Reads stretches of flush groups back, keeping the last frame opened.
pub(super) struct FrameReader<'a> {
    sealer: &'a Sealer,
    last: Option<(u64, u64, Vec<u8>)>,
}

impl<'a> FrameReader<'a> {
    pub fn new(sealer: &'a Sealer) -> FrameReader<'a> {
        FrameReader { sealer, last: None }
    }

    /// `length` bytes at `position` of the flush group that starts at `offset`.
    pub fn read(&mut self, segment: &Segment, offset: u64, position: u64, length: usize) -> Result<Vec<u8>, Error> {
        let mut out = Vec::with_capacity(length);
        let mut frame = offset + position / FRAME_PLAIN as u64 * FULL_FRAME;
        let mut skip = (position % FRAME_PLAIN as u64) as usize;
        while out.len() < length {
            let plain = self.frame(segment, frame)?;
            let rest = plain
                .get(skip..)
                .filter(|rest| !rest.is_empty())
                .ok_or_else(|| Error::corrupt(&file_name(segment.id), frame, "a frame shorter than its entries"))?;
            out.extend_from_slice(&rest[..rest.len().min(length - out.len())]);
            frame += FULL_FRAME;
            skip = 0;
        }
        Ok(out)
    }

    fn frame(&mut self, segment: &Segment, offset: u64) -> Result<&[u8], Error> {
        let cached = matches!(&self.last, Some((id, at, _)) if (*id, *at) == (segment.id, offset));
        if !cached {
            let mut plain = self.last.take().map(|(_, _, buffer)| buffer).unwrap_or_default();
            plain.clear();
            self.load(segment, offset, &mut plain)?;
            self.last = Some((segment.id, offset, plain));
        }
        Ok(self.last.as_ref().map_or(&[], |(_, _, plain)| plain))
    }

    fn load(&self, segment: &Segment, offset: u64, plain: &mut Vec<u8>) -> Result<(), Error> {
        let name = file_name(segment.id);
        let failed = |e| Error::io("read", &name, e);
        let damaged = |what| Error::corrupt(&name, offset, what);
        let mut head = [0; FRAME_HEAD];
        read_exact_at(&*segment.file, offset, &mut head).map_err(failed)?;
        let head = FrameHead::parse(&head).map_err(damaged)?;
        let mut sealed = vec![0; head.length + TAG_LEN];
        read_exact_at(&*segment.file, offset + FRAME_HEAD as u64, &mut sealed).map_err(failed)?;
        if !head.checksum_matches(segment.id, offset, &sealed) {
            return Err(damaged("a frame does not match its checksum"));
        }
        head.open(self.sealer, segment, offset, &sealed, plain).map_err(damaged)
    }
}
