//! What a serializable transaction has read.
//!
//! Points and spans, by index. A set that would grow beyond bounds becomes
//! coarser instead: it then covers keys that were not read, which can cost a
//! needless conflict and never an anomaly.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use bytes::Bytes;
use parking_lot::Mutex;
use polity_base::{Key, Span, Timestamp};

/// The most points, and the most spans, of one index that are told apart.
const MAX_PARTS: usize = 4096;

/// A set of keys: points and spans, coarse when large.
#[derive(Default, Debug)]
pub(crate) struct ReadSet {
    /// By the first four bytes of the key: the index.
    indexes: BTreeMap<[u8; 4], IndexReads>,
}

#[derive(Default, Debug)]
struct IndexReads {
    points: HashSet<Key>,
    /// Start to end; neither overlapping nor touching.
    spans: BTreeMap<Key, Key>,
}

/// One part of a [`ReadSet`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part<'a> {
    Point(&'a Key),
    Span { start: &'a Key, end: &'a Key },
}

impl Part<'_> {
    pub fn to_span(&self) -> Span {
        match self {
            Part::Point(key) => key.point(),
            Part::Span { start, end } => Span { start: (*start).clone(), end: (*end).clone() },
        }
    }
}

fn index_of(key: &[u8]) -> [u8; 4] {
    let mut index = [0; 4];
    for (to, from) in index.iter_mut().zip(key) {
        *to = *from;
    }
    index
}

impl ReadSet {
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    pub fn add_point(&mut self, key: &[u8]) {
        let reads = self.indexes.entry(index_of(key)).or_default();
        if reads.points.contains(key) || reads.covers(key) {
            return;
        }
        reads.points.insert(Key(Bytes::copy_from_slice(key)));
        reads.coarsen();
    }

    pub fn add_span(&mut self, start: Key, end: Key) {
        if start >= end {
            return;
        }
        let reads = self.indexes.entry(index_of(&start)).or_default();
        reads.add_span(start, end);
        reads.coarsen();
    }

    pub fn merge(&mut self, other: ReadSet) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (index, reads) in other.indexes {
            let mine = self.indexes.entry(index).or_default();
            for (start, end) in reads.spans {
                mine.add_span(start, end);
            }
            for point in reads.points {
                if !mine.covers(&point) {
                    mine.points.insert(point);
                }
            }
            mine.coarsen();
        }
    }

    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        self.indexes.values().flat_map(|reads| {
            let spans = reads.spans.iter().map(|(start, end)| Part::Span { start, end });
            spans.chain(reads.points.iter().filter(|p| !reads.covers(p)).map(Part::Point))
        })
    }
}

impl IndexReads {
    fn covers(&self, key: &[u8]) -> bool {
        self.spans
            .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .is_some_and(|(_, end)| key < end.0.as_ref())
    }

    fn add_span(&mut self, mut start: Key, mut end: Key) {
        // The one that begins before, if it reaches us, and all that begin within.
        if let Some((s, e)) = self.spans.range::<Key, _>(..=&start).next_back()
            && *e >= start
        {
            if *e >= end {
                return;
            }
            start = s.clone();
        }
        while let Some((s, e)) = self.spans.range::<Key, _>(&start..).next()
            && *s <= end
        {
            let s = s.clone();
            end = end.max(e.clone());
            self.spans.remove(&s);
        }
        self.spans.insert(start, end);
    }

    fn coarsen(&mut self) {
        if self.points.len() > MAX_PARTS {
            let points = std::mem::take(&mut self.points);
            if let (Some(first), Some(last)) = (points.iter().min(), points.iter().max()) {
                self.add_span(first.clone(), last.successor());
            }
        }
        if self.spans.len() > MAX_PARTS
            && let Some((start, _)) = self.spans.first_key_value()
        {
            // Spans do not overlap, so the last to begin is the last to end.
            let start = start.clone();
            let end = self.spans.last_key_value().map_or_else(|| start.clone(), |(_, end)| end.clone());
            self.spans = BTreeMap::from([(start, end)]);
        }
    }
}

/// Collects what the views of one snapshot read.
#[derive(Debug)]
pub(crate) struct Recorder {
    at: Timestamp,
    set: Mutex<ReadSet>,
}

impl Recorder {
    pub fn new(at: Timestamp) -> Recorder {
        Recorder { at, set: Mutex::default() }
    }

    /// The timestamp of the snapshot.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    pub fn point(&self, key: &[u8]) {
        self.set.lock().add_point(key);
    }

    pub fn span(&self, start: Key, end: Key) {
        self.set.lock().add_span(start, end);
    }

    pub fn with<T>(&self, f: impl FnOnce(&ReadSet) -> T) -> T {
        f(&self.set.lock())
    }

    pub fn into_set(self) -> ReadSet {
        self.set.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(bytes: &[u8]) -> Key {
        Key::from([&[0, 0, 0, 9], bytes].concat())
    }

    fn spans(set: &ReadSet) -> Vec<Span> {
        let mut spans: Vec<Span> = set.parts().map(|p| p.to_span()).collect();
        spans.sort_by(|a, b| a.start.cmp(&b.start));
        spans
    }

    #[test]
    fn spans_that_touch_become_one() {
        let mut set = ReadSet::default();
        for (start, end) in [(1, 3), (7, 9), (3, 5), (4, 8), (20, 21), (2, 4)] {
            set.add_span(key(&[start]), key(&[end]));
        }
        assert_eq!(spans(&set), [(1, 9), (20, 21)].map(|(s, e)| Span { start: key(&[s]), end: key(&[e]) }));
        set.add_span(key(&[0]), key(&[30]));
        assert_eq!(spans(&set), [Span { start: key(&[0]), end: key(&[30]) }]);
    }

    #[test]
    fn points_within_spans_are_not_told_twice() {
        let mut set = ReadSet::default();
        set.add_point(&key(&[5]));
        set.add_point(&key(&[15]));
        set.add_point(&key(&[5]));
        set.add_span(key(&[1]), key(&[10]));
        set.add_point(&key(&[6]));
        assert_eq!(spans(&set), [Span { start: key(&[1]), end: key(&[10]) }, key(&[15]).point()]);
    }

    #[test]
    fn many_points_become_a_span_that_covers_them() {
        let mut set = ReadSet::default();
        for i in 0..=MAX_PARTS as u16 {
            set.add_point(&key(&(i * 3).to_be_bytes()));
        }
        let all = spans(&set);
        assert_eq!(all.len(), 1);
        assert!(all[0].contains(&key(&0u16.to_be_bytes())));
        assert!(all[0].contains(&key(&(MAX_PARTS as u16 * 3).to_be_bytes())));
        assert!(!all[0].contains(&key(&(MAX_PARTS as u16 * 3 + 1).to_be_bytes())));
    }

    #[test]
    fn many_spans_become_one() {
        let mut set = ReadSet::default();
        for i in 0..=MAX_PARTS as u16 {
            set.add_span(key(&(i * 4).to_be_bytes()), key(&(i * 4 + 2).to_be_bytes()));
        }
        assert_eq!(spans(&set).len(), 1);
    }
}
