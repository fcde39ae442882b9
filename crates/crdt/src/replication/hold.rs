//! Deltas that came before what they depend on.
//!
//! They wait here until it has come, in memory and up to a number of bytes. What does
//! not fit is dropped: whoever sent it learns from the answer that it was not applied,
//! and sends it again.

use std::collections::BTreeMap;

use polity_base::{NodeId, Timestamp};

use crate::cell::Cell;
use crate::delta::{Delta, Readiness};
use crate::row::RowState;
use crate::stamp::VersionVector;

/// Deltas that wait for others.
pub(crate) struct Hold {
    limit: usize,
    bytes: usize,
    waiting: BTreeMap<(NodeId, Timestamp), (Delta, usize)>,
}

impl Hold {
    /// Holds up to `limit` bytes.
    pub fn new(limit: usize) -> Hold {
        Hold { limit, bytes: 0, waiting: BTreeMap::new() }
    }

    /// Keeps a delta, if there is room.
    pub fn put(&mut self, delta: Delta) {
        let size = size(&delta);
        let place = (delta.origin, delta.at);
        if self.bytes + size > self.limit || self.waiting.contains_key(&place) {
            return;
        }
        self.bytes += size;
        self.waiting.insert(place, (delta, size));
    }

    /// Takes a delta out that can be applied on top of `here`.
    pub fn next_ready(&mut self, here: &VersionVector) -> Option<Delta> {
        loop {
            let found = self.firsts().find_map(|(place, delta)| match delta.readiness(here) {
                Readiness::Early => None,
                readiness => Some((place, readiness)),
            });
            let (place, readiness) = found?;
            let (delta, size) = self.waiting.remove(&place)?;
            self.bytes -= size;
            if readiness == Readiness::Ready {
                return Some(delta);
            }
        }
    }

    /// The first delta of each origin: no other can be ready.
    fn firsts(&self) -> impl Iterator<Item = ((NodeId, Timestamp), &Delta)> {
        let mut last = None;
        self.waiting.iter().filter_map(move |(place, (delta, _))| {
            let first = last != Some(place.0);
            last = Some(place.0);
            first.then_some((*place, delta))
        })
    }

    /// What the deltas that wait depend on, beyond `here`.
    pub fn wants(&self, here: &VersionVector) -> VersionVector {
        let mut wants = VersionVector::new();
        for (delta, _) in self.waiting.values() {
            let author = delta.author_seen();
            for (origin, _, at) in author.beyond(here) {
                wants.advance(origin, at);
            }
        }
        wants
    }

    /// Drops what `node` wrote after `last`.
    pub fn forget(&mut self, node: NodeId, last: Timestamp) {
        self.waiting.retain(|(origin, at), (_, size)| {
            let stays = *origin != node || *at <= last;
            if !stays {
                self.bytes -= *size;
            }
            stays
        });
    }

    /// How many deltas wait, and their bytes.
    pub fn load(&self) -> (u64, u64) {
        (self.waiting.len() as u64, self.bytes as u64)
    }
}

/// Roughly how many bytes a delta takes.
fn size(delta: &Delta) -> usize {
    let cell = |cell: &Cell| match cell {
        Cell::Register(register) => register.value.size() + 32,
        Cell::Counter(counter) => counter.tallies.len() * 96 + 48,
        Cell::Set(set) => set.elements.values().map(|(value, _)| value.size() + 128).sum(),
    };
    let row = |row: &RowState| row.cells.values().map(cell).sum::<usize>() + 64;
    delta.rows.iter().map(|(key, state)| key.len() + row(state)).sum::<usize>() + 128
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(origin: u64, at: u64, previous: u64, seen: &[(u64, u64)]) -> Delta {
        let seen = seen.iter().map(|(node, at)| (NodeId(*node), Timestamp(*at))).collect();
        Delta { origin: NodeId(origin), at: Timestamp(at), previous: Timestamp(previous), seen, rows: Vec::new() }
    }

    fn drain(hold: &mut Hold, here: &mut VersionVector) -> Vec<(u64, u64)> {
        let mut applied = Vec::new();
        while let Some(delta) = hold.next_ready(here) {
            here.advance(delta.origin, delta.at);
            applied.push((delta.origin.0, delta.at.0));
        }
        applied
    }

    #[test]
    fn deltas_come_out_in_an_order_in_which_nothing_is_missing() {
        let mut hold = Hold::new(1 << 20);
        hold.put(delta(2, 7, 5, &[(1, 6)]));
        hold.put(delta(3, 9, 0, &[(2, 7)]));
        hold.put(delta(1, 6, 4, &[]));
        let mut here = VersionVector::new();
        assert_eq!(drain(&mut hold, &mut here), []);
        assert_eq!(hold.wants(&here).to_string(), "n1@6 n2@7");
        here.advance(NodeId(1), Timestamp(4));
        assert_eq!(drain(&mut hold, &mut here), [(1, 6)]);
        here.advance(NodeId(2), Timestamp(5));
        assert_eq!(drain(&mut hold, &mut here), [(2, 7), (3, 9)]);
        assert_eq!(hold.load(), (0, 0));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_what_was_applied_otherwise_goes() {
        let mut hold = Hold::new(300);
        (1..9).for_each(|n| hold.put(delta(1, n * 10, n * 10 - 5, &[])));
        assert_eq!(hold.load(), (2, 256));
        let mut here = VersionVector::new();
        here.advance(NodeId(1), Timestamp(60));
        assert_eq!(drain(&mut hold, &mut here), []);
        assert_eq!(hold.load(), (0, 0));
        hold.put(delta(1, 80, 70, &[]));
        hold.forget(NodeId(1), Timestamp(75));
        assert_eq!(hold.load(), (0, 0));
    }
}
