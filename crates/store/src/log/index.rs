//! What the log knows in memory: where every entry is, the recent ones
//! themselves, and the named values.
//!
//! The index is ahead of the disk: a record changes it when it is given, before
//! it is written, since a group reads its own entries at once. An entry learns
//! its place when its flush group is durable; until then it stays in memory.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use polity_base::RangeId;

use crate::error::Error;
use crate::log::record::{Outline, Record};
use crate::log::segment::Segment;

/// What an entry costs in memory beside its payload, roughly, in bytes.
const SLOT_COST: usize = 96;

/// Where an entry's payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub segment: u64,
    /// Where in the file the flush group starts
    pub offset: u64,
    /// Where in the flush group the payload starts
    pub position: u64,
}

struct Slot {
    term: u64,
    /// Tells this entry from others that had its index before
    ticket: u64,
    length: usize,
    place: Option<Place>,
    payload: Option<Bytes>,
}

/// One group.
#[derive(Default)]
pub(super) struct Group {
    pub outline: Outline,
    pub states: BTreeMap<String, Bytes>,
    /// The index of the first slot. Later than `outline.first` only while
    /// recovery reads segments whose forerunners are gone.
    base: u64,
    slots: VecDeque<Slot>,
}

impl Group {
    /// The last entry's index and term.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.slots.back().map(|slot| (self.base + self.slots.len() as u64 - 1, slot.term))
    }

    /// The first entry's index.
    pub fn first(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.base)
    }

    /// The first index that should be there but is not.
    pub fn missing(&self) -> Option<u64> {
        self.outline.first.filter(|first| *first < self.base)
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(index.checked_sub(self.base)?).ok()?)
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(index.checked_sub(self.base)?).ok()?)
    }
}

/// An entry found in the index: its payload, or where to read it.
pub(super) enum Found {
    Here(Bytes),
    There(Segment, Place, usize),
}

/// All groups, and the segments their entries are in.
#[derive(Default)]
pub(super) struct Index {
    pub groups: BTreeMap<RangeId, Group>,
    segments: BTreeMap<u64, (Segment, u64)>,
    /// Entries in memory that have a place, oldest first; some may be gone.
    recent: VecDeque<(RangeId, u64, u64)>,
    cached_entries: usize,
    cached_bytes: usize,
    cache_limit: usize,
    next_ticket: u64,
}

impl Index {
    pub fn new(cache_limit: usize) -> Index {
        Index { cache_limit, ..Index::default() }
    }

    /// The ticket that the next entry gets. Entries of one call get consecutive ones.
    pub fn next_ticket(&self) -> u64 {
        self.next_ticket
    }

    /// Whether a payload of this many bytes can stay in memory at all.
    pub fn may_keep(&self, bytes: usize) -> bool {
        bytes + SLOT_COST <= self.cache_limit
    }

    /// Whether the records may come next, in this order.
    pub fn check(&self, records: &[Record]) -> Result<(), Error> {
        let mut outlines: Vec<(RangeId, Outline)> = Vec::new();
        for record in records {
            let group = record.group();
            let at = outlines.iter().position(|(g, _)| *g == group).unwrap_or_else(|| {
                outlines.push((group, self.groups.get(&group).map(|g| g.outline).unwrap_or_default()));
                outlines.len() - 1
            });
            let outline = &mut outlines[at].1;
            if let Record::Entry { index, .. } = record
                && let Some(expected) = outline.expected()
                && expected != *index
            {
                return Err(Error::OutOfOrder { group, expected, given: *index });
            }
            outline.apply(record);
        }
        Ok(())
    }

    /// Takes a record in. Entries are kept in memory until they have a place.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Entry { group, index, term, payload } => {
                self.entry(*group, *index, *term, payload.len(), Some(payload.clone()), None);
            }
            Record::Truncate { group, from_index } => self.truncate(*group, *from_index),
            Record::Purge { group, upto_index } => self.purge(*group, *upto_index),
            Record::State { group, name, value } => self.state(*group, name, value.clone()),
        }
    }

    pub fn entry(
        &mut self,
        group: RangeId,
        index: u64,
        term: u64,
        length: usize,
        payload: Option<Bytes>,
        place: Option<Place>,
    ) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if payload.is_some() {
            self.cached_entries += 1;
            self.cached_bytes += length + SLOT_COST;
        }
        if let Some(place) = place {
            self.count(place.segment, 1);
            if payload.is_some() {
                self.recent.push_back((group, index, ticket));
            }
        }
        let known = self.groups.entry(group).or_default();
        known.outline.entry(index);
        if known.slots.is_empty() {
            known.base = index;
        }
        known.slots.push_back(Slot { term, ticket, length, place, payload });
        if place.is_some() {
            self.evict();
        }
    }

    pub fn truncate(&mut self, group: RangeId, from: u64) {
        let Some(known) = self.groups.get_mut(&group) else { return };
        known.outline.truncate(from);
        let keep = known.outline.next.saturating_sub(known.base);
        let at = known.slots.len().min(usize::try_from(keep).unwrap_or(usize::MAX));
        let dropped = known.slots.split_off(at);
        known.base = known.base.min(known.outline.next);
        dropped.into_iter().for_each(|slot| self.dropped(slot));
    }

    pub fn purge(&mut self, group: RangeId, upto: u64) {
        let known = self.groups.entry(group).or_default();
        known.outline.purge(upto);
        let first = known.outline.first.unwrap_or(0);
        let mut dropped = Vec::new();
        while known.base < first
            && let Some(slot) = known.slots.pop_front()
        {
            known.base += 1;
            dropped.push(slot);
        }
        known.base = known.base.max(first);
        dropped.into_iter().for_each(|slot| self.dropped(slot));
    }

    pub fn state(&mut self, group: RangeId, name: &str, value: Bytes) {
        let states = &mut self.groups.entry(group).or_default().states;
        match states.get_mut(name) {
            Some(old) => *old = value,
            None => {
                states.insert(name.to_owned(), value);
            }
        }
    }

    /// Takes over what a segment says of a group at its start, unless more is
    /// known from the segments before it.
    pub fn outline(&mut self, group: RangeId, outline: Outline) {
        self.groups.entry(group).or_insert_with(|| Group { outline, base: outline.next, ..Group::default() });
    }

    /// Notes where an entry is, now that it is durable.
    pub fn settle(&mut self, group: RangeId, index: u64, ticket: u64, place: Place) {
        let slot = self.groups.get_mut(&group).and_then(|g| g.slot_mut(index)).filter(|s| s.ticket == ticket);
        // It may have been dropped while it was written.
        if let Some(slot) = slot {
            slot.place = Some(place);
            self.count(place.segment, 1);
            self.recent.push_back((group, index, ticket));
        }
    }

    fn dropped(&mut self, slot: Slot) {
        if slot.payload.is_some() {
            self.cached_entries -= 1;
            self.cached_bytes -= slot.length + SLOT_COST;
        }
        if let Some(place) = slot.place {
            self.count(place.segment, -1);
        }
    }

    /// Lets go of the oldest entries in memory until the rest fits.
    pub fn evict(&mut self) {
        while self.cached_bytes > self.cache_limit
            && let Some((group, index, ticket)) = self.recent.pop_front()
        {
            let slot = self.groups.get_mut(&group).and_then(|g| g.slot_mut(index)).filter(|s| s.ticket == ticket);
            if let Some(slot) = slot
                && slot.payload.take().is_some()
            {
                self.cached_entries -= 1;
                self.cached_bytes -= slot.length + SLOT_COST;
            }
        }
        if self.recent.len() > 2 * self.cached_entries + 1024 {
            let groups = &self.groups;
            self.recent.retain(|(group, index, ticket)| {
                groups.get(group).and_then(|g| g.slot(*index)).is_some_and(|s| s.ticket == *ticket)
            });
        }
    }

    /// The entries of `range` that are there: index, term and payload.
    pub fn find(&self, group: RangeId, range: std::ops::Range<u64>) -> Vec<(u64, u64, Found)> {
        let Some(known) = self.groups.get(&group) else { return Vec::new() };
        let end = range.end.min(known.base + known.slots.len() as u64);
        let mut found = Vec::new();
        for index in range.start.max(known.base)..end {
            let Some(slot) = known.slot(index) else { break };
            let payload = match (&slot.payload, slot.place) {
                (Some(payload), _) => Found::Here(payload.clone()),
                (None, Some(place)) => match self.segments.get(&place.segment) {
                    Some((segment, _)) => Found::There(segment.clone(), place, slot.length),
                    None => break,
                },
                (None, None) => break,
            };
            found.push((index, slot.term, payload));
        }
        found
    }

    /// The term of an entry.
    pub fn term(&self, group: RangeId, index: u64) -> Option<u64> {
        self.groups.get(&group)?.slot(index).map(|slot| slot.term)
    }

    pub fn add_segment(&mut self, segment: Segment) {
        self.segments.insert(segment.id, (segment, 0));
    }

    /// The segments before the first one that holds a live entry, and before
    /// `active`: nothing in them is needed any more.
    pub fn dead_segments(&self, active: u64) -> Vec<u64> {
        self.segments.iter().take_while(|(id, (_, live))| **id < active && *live == 0).map(|(id, _)| *id).collect()
    }

    pub fn remove_segment(&mut self, id: u64) {
        self.segments.remove(&id);
    }

    /// Forgets all groups and segments: what follows starts anew.
    pub fn clear(&mut self) {
        *self = Index { next_ticket: self.next_ticket, ..Index::new(self.cache_limit) };
    }

    fn count(&mut self, segment: u64, by: i64) {
        if let Some((_, live)) = self.segments.get_mut(&segment) {
            *live = live.saturating_add_signed(by);
        }
    }

    #[cfg(test)]
    pub fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }
}
