//! Records, and their bytes inside a flush group.
//!
//! ```text
//! entry     1  group  index  term  length payload
//! truncate  2  group  from
//! purge     3  group  upto
//! state     4  group  length name  length value
//! outline   5  group  purged+1 or 0  first+1 or 0  next
//! trim      6  oldest segment
//! close     7
//! ```
//! Numbers are LEB128. The last three are the log's own: they are never given to
//! it, and never given back.

use std::borrow::Cow;

use bytes::Bytes;
use polity_base::RangeId;

/// One thing to remember.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// The next entry of a group. Indexes follow each other without gaps; the
    /// first entry of a group may have any index.
    Entry {
        /// The group
        group: RangeId,
        /// The entry's place in the group
        index: u64,
        /// The term it was proposed in
        term: u64,
        /// What it says
        payload: Bytes,
    },
    /// Entries from `from_index` on are no longer part of the group.
    Truncate {
        /// The group
        group: RangeId,
        /// The first entry to drop
        from_index: u64,
    },
    /// Entries up to `upto_index` are no longer needed. If the group has none
    /// after it, the next entry is `upto_index + 1`.
    Purge {
        /// The group
        group: RangeId,
        /// The last entry to drop
        upto_index: u64,
    },
    /// A named value of the group; the last one given is kept.
    State {
        /// The group
        group: RangeId,
        /// The name, such as "vote"
        name: Cow<'static, str>,
        /// The value
        value: Bytes,
    },
}

impl Record {
    /// The group that the record is about.
    pub fn group(&self) -> RangeId {
        match self {
            Record::Entry { group, .. }
            | Record::Truncate { group, .. }
            | Record::Purge { group, .. }
            | Record::State { group, .. } => *group,
        }
    }

    /// Roughly how many bytes the record takes in the log.
    pub(super) fn size(&self) -> usize {
        match self {
            Record::Entry { payload, .. } => payload.len() + 24,
            Record::State { name, value, .. } => name.len() + value.len() + 16,
            Record::Truncate { .. } | Record::Purge { .. } => 16,
        }
    }
}

/// What a group holds, without its entries and values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Outline {
    /// The highest purged index
    pub purged: Option<u64>,
    /// The first index that is there, or comes; unknown while the group is new
    pub first: Option<u64>,
    /// The index after the last; as `first` when there is none
    pub next: u64,
}

impl Outline {
    /// The next index, if it is determined.
    pub fn expected(&self) -> Option<u64> {
        self.first.map(|_| self.next)
    }

    pub fn entry(&mut self, index: u64) {
        self.first.get_or_insert(index);
        self.next = index + 1;
    }

    pub fn truncate(&mut self, from: u64) {
        let Some(first) = self.first else { return };
        self.next = self.next.min(from.max(first));
        if from < first && self.purged.is_none() {
            *self = Outline::default();
        }
    }

    pub fn purge(&mut self, upto: u64) {
        let after = upto.saturating_add(1);
        self.purged = self.purged.max(Some(upto));
        let first = self.first.map_or(after, |first| first.max(after));
        self.first = Some(first);
        self.next = self.next.max(first);
    }

    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Entry { index, .. } => self.entry(*index),
            Record::Truncate { from_index, .. } => self.truncate(*from_index),
            Record::Purge { upto_index, .. } => self.purge(*upto_index),
            Record::State { .. } => {}
        }
    }
}

/// A record as it is read back.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Stored<'a> {
    /// An entry; `position` is where its payload starts, counted from the start
    /// of the flush group.
    Entry {
        group: RangeId,
        index: u64,
        term: u64,
        position: u64,
        payload: &'a [u8],
    },
    Truncate {
        group: RangeId,
        from_index: u64,
    },
    Purge {
        group: RangeId,
        upto_index: u64,
    },
    State {
        group: RangeId,
        name: &'a str,
        value: &'a [u8],
    },
    Outline {
        group: RangeId,
        outline: Outline,
    },
    Trim {
        oldest: u64,
    },
    Close,
}

const ENTRY: u8 = 1;
const TRUNCATE: u8 = 2;
const PURGE: u8 = 3;
const STATE: u8 = 4;
const OUTLINE: u8 = 5;
const TRIM: u8 = 6;
const CLOSE: u8 = 7;

/// Takes the bytes of a flush group.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A kind and up to four numbers, on the stack.
struct Head {
    bytes: [u8; 48],
    len: usize,
}

impl Head {
    fn new(kind: u8) -> Head {
        let mut bytes = [0; 48];
        bytes[0] = kind;
        Head { bytes, len: 1 }
    }

    fn number(mut self, mut v: u64) -> Head {
        while v >= 0x80 {
            self.bytes[self.len] = v as u8 | 0x80;
            self.len += 1;
            v >>= 7;
        }
        self.bytes[self.len] = v as u8;
        self.len += 1;
        self
    }

    fn into(self, out: &mut impl Sink) -> usize {
        out.put(&self.bytes[..self.len]);
        self.len
    }
}

/// Writes what goes before an entry's payload; how many bytes that takes.
pub(super) fn encode_entry_head(group: RangeId, index: u64, term: u64, length: usize, out: &mut impl Sink) -> u64 {
    let head = Head::new(ENTRY).number(group.0).number(index).number(term).number(length as u64);
    head.into(out) as u64
}

/// Writes a record.
pub(super) fn encode(record: &Record, out: &mut impl Sink) {
    match record {
        Record::Entry { group, index, term, payload } => {
            encode_entry_head(*group, *index, *term, payload.len(), out);
            out.put(payload);
        }
        Record::Truncate { group, from_index } => {
            Head::new(TRUNCATE).number(group.0).number(*from_index).into(out);
        }
        Record::Purge { group, upto_index } => {
            Head::new(PURGE).number(group.0).number(*upto_index).into(out);
        }
        Record::State { group, name, value } => encode_state(*group, name, value, out),
    }
}

pub(super) fn encode_state(group: RangeId, name: &str, value: &[u8], out: &mut impl Sink) {
    Head::new(STATE).number(group.0).number(name.len() as u64).into(out);
    out.put(name.as_bytes());
    Head { bytes: [0; 48], len: 0 }.number(value.len() as u64).into(out);
    out.put(value);
}

pub(super) fn encode_outline(group: RangeId, outline: Outline, out: &mut impl Sink) {
    // Indexes of u64::MAX do not occur: `next` is one more.
    let option = |v: Option<u64>| v.map_or(0, |v| v.saturating_add(1));
    Head::new(OUTLINE)
        .number(group.0)
        .number(option(outline.purged))
        .number(option(outline.first))
        .number(outline.next)
        .into(out);
}

pub(super) fn encode_trim(oldest: u64, out: &mut impl Sink) {
    Head::new(TRIM).number(oldest).into(out);
}

pub(super) fn encode_close(out: &mut impl Sink) {
    Head::new(CLOSE).into(out);
}

/// Reads the records of a flush group one after another.
pub(super) struct Records<'a> {
    group: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    pub fn of(group: &'a [u8]) -> Records<'a> {
        Records { group, at: 0 }
    }

    /// The next record; `None` after the last; an error for what no log wrote.
    pub fn next(&mut self) -> Result<Option<Stored<'a>>, &'static str> {
        if self.at == self.group.len() {
            return Ok(None);
        }
        let kind = self.take(1)?[0];
        Ok(Some(match kind {
            ENTRY => {
                let (group, index, term) = (RangeId(self.number()?), self.number()?, self.number()?);
                let length = self.number()?;
                let position = self.at as u64;
                Stored::Entry { group, index, term, position, payload: self.take(length)? }
            }
            TRUNCATE => Stored::Truncate { group: RangeId(self.number()?), from_index: self.number()? },
            PURGE => Stored::Purge { group: RangeId(self.number()?), upto_index: self.number()? },
            STATE => {
                let group = RangeId(self.number()?);
                let length = self.number()?;
                let name = std::str::from_utf8(self.take(length)?).map_err(|_| "a name that is not UTF-8")?;
                let length = self.number()?;
                Stored::State { group, name, value: self.take(length)? }
            }
            OUTLINE => {
                let group = RangeId(self.number()?);
                let (purged, first) = (self.number()?.checked_sub(1), self.number()?.checked_sub(1));
                Stored::Outline { group, outline: Outline { purged, first, next: self.number()? } }
            }
            TRIM => Stored::Trim { oldest: self.number()? },
            CLOSE => Stored::Close,
            _ => return Err("a record of unknown kind"),
        }))
    }

    fn take(&mut self, n: u64) -> Result<&'a [u8], &'static str> {
        let n = usize::try_from(n).map_err(|_| "a record longer than its group")?;
        let taken = self.group[self.at..].get(..n).ok_or("a record longer than its group")?;
        self.at += n;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        let mut v = 0u64;
        for i in 0..10 {
            let b = self.take(1)?[0];
            if i == 9 && b > 1 {
                break;
            }
            v |= u64::from(b & 0x7F) << (7 * i);
            if b & 0x80 == 0 {
                return Ok(v);
            }
        }
        Err("a number out of range")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::testing::any_record;

    proptest! {
        #[test]
        fn what_was_written_is_read(records in proptest::collection::vec(any_record(), 0..8)) {
            let mut bytes = Vec::new();
            let mut positions = Vec::new();
            for record in &records {
                encode(record, &mut bytes);
                // An entry ends with its payload.
                let payload = if let Record::Entry { payload, .. } = record { payload.len() } else { 0 };
                positions.push((bytes.len() - payload) as u64);
            }
            let mut read = Records::of(&bytes);
            for (record, payload_at) in records.iter().zip(positions) {
                let stored = read.next().unwrap().unwrap();
                let expected = match record {
                    Record::Entry { group, index, term, payload } => {
                        Stored::Entry { group: *group, index: *index, term: *term, position: payload_at, payload }
                    }
                    Record::Truncate { group, from_index } => Stored::Truncate { group: *group, from_index: *from_index },
                    Record::Purge { group, upto_index } => Stored::Purge { group: *group, upto_index: *upto_index },
                    Record::State { group, name, value } => Stored::State { group: *group, name, value },
                };
                prop_assert_eq!(stored, expected);
            }
            prop_assert_eq!(read.next(), Ok(None));
        }

        #[test]
        fn an_outline_is_read_back(group: u64, purged in proptest::option::of(0..u64::MAX - 1),
                                   first in proptest::option::of(0..u64::MAX - 1), next: u64) {
            let outline = Outline { purged, first, next };
            let mut bytes = Vec::new();
            encode_outline(RangeId(group), outline, &mut bytes);
            encode_trim(next, &mut bytes);
            encode_close(&mut bytes);
            let mut read = Records::of(&bytes);
            prop_assert_eq!(read.next(), Ok(Some(Stored::Outline { group: RangeId(group), outline })));
            prop_assert_eq!(read.next(), Ok(Some(Stored::Trim { oldest: next })));
            prop_assert_eq!(read.next(), Ok(Some(Stored::Close)));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut read = Records::of(&bytes);
            while let Ok(Some(_)) = read.next() {}
        }
    }
}
