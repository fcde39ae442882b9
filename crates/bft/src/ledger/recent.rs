//! The recent past of a ledger: what was ordered, and when which key was written last.
//!
//! It reaches back as many heights as the ledger's parameters say, neither more nor less,
//! since what it answers decides about transactions: it is a function of the blocks
//! alone, not of restarts or of what a node happens to keep.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;

use polity_base::{IndexId, Key, Span};

use super::records::storage_of;
use crate::transaction::TransactionId;
use crate::types::Height;

/// Whether something was written since.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing was.
    Unchanged,
    /// This key was, for one.
    Changed(Key),
    /// Not known any more.
    TooOld,
}

/// The recent past.
#[derive(Clone)]
pub struct Recent {
    lifetime: u64,
    heights: VecDeque<(Height, Vec<TransactionId>, Vec<Key>)>,
    ids: HashSet<TransactionId>,
    written: BTreeMap<Key, Height>,
    /// When a key of a storage was written last. It only spares work.
    storages: HashMap<IndexId, Height>,
}

impl Recent {
    /// A past that reaches back `lifetime` heights.
    pub fn new(lifetime: u64) -> Recent {
        Recent {
            lifetime,
            heights: VecDeque::new(),
            ids: HashSet::new(),
            written: BTreeMap::new(),
            storages: HashMap::new(),
        }
    }

    /// The oldest height that is remembered when `next` is the next one.
    pub fn oldest(&self, next: Height) -> Height {
        Height(next.0.saturating_sub(self.lifetime).max(1))
    }

    /// The last height that a transaction may name as its end when `next` is the next.
    pub fn last_expiry(&self, next: Height) -> Height {
        Height(next.0.saturating_add(self.lifetime - 1))
    }

    /// Takes note of the next height, and forgets what is too long ago.
    pub fn push(&mut self, height: Height, ids: &[TransactionId], written: &[Key]) {
        self.ids.extend(ids);
        for key in written {
            self.written.insert(key.clone(), height);
            self.storages.insert(storage_of(key), height);
        }
        self.heights.push_back((height, ids.to_vec(), written.to_vec()));
        let oldest = self.oldest(height.next());
        while self.heights.front().is_some_and(|(first, ..)| *first < oldest) {
            let Some((first, ids, keys)) = self.heights.pop_front() else { return };
            for id in &ids {
                self.ids.remove(id);
            }
            for key in keys {
                if self.written.get(&key) == Some(&first) {
                    self.written.remove(&key);
                }
            }
        }
    }

    /// Whether a transaction was ordered.
    pub fn has_ordered(&self, id: &TransactionId) -> bool {
        self.ids.contains(id)
    }

    /// Whether a key of `span` was written after `since`, when `next` is the next height.
    pub fn changed_since(&self, span: &Span, since: Height, next: Height) -> Answer {
        // What was written at the oldest height and later is known.
        if since.next() < self.oldest(next) {
            return Answer::TooOld;
        }
        if span.is_empty() {
            return Answer::Unchanged;
        }
        let storage = storage_of(&span.start);
        let is_within = Span::of_index(storage).end >= span.end;
        if is_within && self.storages.get(&storage).is_none_or(|last| *last <= since) {
            return Answer::Unchanged;
        }
        let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(&span.start), Bound::Excluded(&span.end));
        let mut range = self.written.range::<[u8], _>(range);
        range.find(|(_, height)| **height > since).map_or(Answer::Unchanged, |(key, _)| Answer::Changed(key.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> Key {
        Key::from(vec![0x40, 0, 0, 0x20 + n / 8, n])
    }

    proptest! {
        #[test]
        fn it_answers_as_one_who_looks_through_all_heights(
            lifetime in 2u64..6,
            heights in proptest::collection::vec(proptest::collection::btree_set(0u8..16, 0..4), 1..14),
            from in 0u8..16, to in 0u8..17, back in 0u64..9,
        ) {
            let mut recent = Recent::new(lifetime);
            for (place, keys) in heights.iter().enumerate() {
                let height = Height(place as u64 + 1);
                let keys: Vec<Key> = keys.iter().map(|n| key(*n)).collect();
                recent.push(height, &[[height.0 as u8; 32]], &keys);
            }
            let next = Height(heights.len() as u64 + 1);
            let since = Height((next.0 - 1).saturating_sub(back));
            let span = Span { start: key(from), end: key(to) };
            let later = heights.iter().skip(since.0 as usize).flatten();
            let changed = later.map(|n| key(*n)).any(|key| span.contains(&key));
            match recent.changed_since(&span, since, next) {
                Answer::TooOld => prop_assert!(next.0 - since.0 > lifetime + 1, "{since} {next}"),
                Answer::Changed(key) => prop_assert!(changed && span.contains(&key)),
                Answer::Unchanged => prop_assert!(!changed && next.0 - since.0 <= lifetime + 1),
            }
            for height in 1..next.0 {
                let known = height + lifetime >= next.0;
                prop_assert_eq!(recent.has_ordered(&[height as u8; 32]), known);
            }
        }
    }
}
