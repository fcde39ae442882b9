//! The recent writes of a group: what preconditions are checked against.
//!
//! The window holds the newest commits of the group's log, as many as fit into a
//! fixed *weight*: one for every key written, at least one for a batch. A batch of
//! very many keys counts, and is remembered, as one span for each index it wrote.
//! What no longer fits is forgotten from the old end; [`Window::floor`] is the
//! timestamp of the last commit that was. So the window is a function of the
//! sequence of commits alone: not of restarts (it is rebuilt from the state's
//! `history`, commit by commit, down to the same floor), nor of garbage
//! collection, checkpoints or snapshots. Replicas that applied the same log
//! answer alike.
//!
//! A read at `since` is answered exactly while `since >= floor`, and with "too old"
//! before that.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use polity_base::{Span, Timestamp};

/// How many keys the windows of all replicas hold. Part of what replicas agree on:
/// another number is another outcome.
pub(super) const WEIGHT: usize = 1 << 18;

/// A batch with more writes than this is remembered as spans. Agreed upon, too.
pub(super) const MANY: usize = 4096;

/// So many keys are looked through one by one before the ordered map is asked.
const FEW: usize = 256;

/// Whether something was written since.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Nothing was.
    Unchanged,
    /// Something was, last at this timestamp.
    Changed(Timestamp),
    /// Not known: `since` is older than what is remembered.
    TooOld,
}

/// What a commit wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Write {
    Key(Arc<[u8]>),
    /// From the first key, included, to the second, excluded
    Span(Arc<[u8]>, Arc<[u8]>),
}

/// A committed batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Commit {
    pub at: Timestamp,
    pub id: u128,
    pub writes: Vec<Write>,
}

impl Commit {
    fn weight(&self) -> usize {
        self.writes.len().max(1)
    }
}

type WrittenSpan = (Timestamp, Arc<[u8]>, Arc<[u8]>);

struct Remembered {
    commit: Commit,
    /// The weight of all commits ever up to this one
    total: u64,
}

/// The recent writes of a group.
pub(super) struct Window {
    limit: u64,
    floor: Timestamp,
    /// The weight of all commits ever, and of those forgotten
    total: u64,
    forgotten: u64,
    commits: VecDeque<Remembered>,
    /// When a key was written last, within the window
    newest: BTreeMap<Arc<[u8]>, Timestamp>,
    /// Spans written within the window, in commit order
    spans: VecDeque<WrittenSpan>,
    ids: HashMap<u128, Timestamp>,
    /// For each index an upper bound of when one of its keys was written last.
    /// Only spares work: with or without it answers are the same.
    by_index: BTreeMap<[u8; 4], Timestamp>,
}

impl Window {
    /// A window of `limit` keys that remembers commits later than `floor`.
    pub fn new(limit: usize, floor: Timestamp) -> Window {
        Window {
            limit: limit as u64,
            floor,
            total: 0,
            forgotten: 0,
            commits: VecDeque::new(),
            newest: BTreeMap::new(),
            spans: VecDeque::new(),
            ids: HashMap::new(),
            by_index: BTreeMap::new(),
        }
    }

    /// The newest commit that is forgotten.
    pub fn floor(&self) -> Timestamp {
        self.floor
    }

    /// The commits that are remembered, oldest first.
    pub fn commits(&self) -> impl Iterator<Item = &Commit> {
        self.commits.iter().map(|r| &r.commit)
    }

    /// When the batch `id` was committed, if that is remembered.
    pub fn duplicate(&self, id: u128) -> Option<Timestamp> {
        self.ids.get(&id).copied()
    }

    /// Remembers a commit, later than all before it, and forgets old ones.
    pub fn record(&mut self, commit: Commit) {
        for write in &commit.writes {
            match write {
                Write::Key(key) => {
                    self.by_index.insert(index_of(key), commit.at);
                    self.newest.insert(key.clone(), commit.at);
                }
                Write::Span(start, end) => {
                    self.spans.push_back((commit.at, start.clone(), end.clone()));
                }
            }
        }
        self.ids.insert(commit.id, commit.at);
        self.total += commit.weight() as u64;
        self.commits.push_back(Remembered { commit, total: self.total });
        while self.total - self.forgotten > self.limit {
            self.forget();
        }
    }

    fn forget(&mut self) {
        let Some(Remembered { commit, total }) = self.commits.pop_front() else { return };
        self.forgotten = total;
        self.floor = commit.at;
        for write in &commit.writes {
            match write {
                Write::Key(key) => {
                    if self.newest.get(key) == Some(&commit.at) {
                        self.newest.remove(key);
                    }
                }
                Write::Span(..) => {
                    self.spans.pop_front();
                }
            }
        }
        if self.ids.get(&commit.id) == Some(&commit.at) {
            self.ids.remove(&commit.id);
        }
    }

    /// Whether a key of `span` was written after `since`.
    pub fn changed_since(&self, span: &Span, since: Timestamp) -> Answer {
        if span.is_empty() {
            return Answer::Unchanged;
        }
        if since < self.floor {
            return Answer::TooOld;
        }
        let (start, end): (&[u8], &[u8]) = (&span.start, &span.end);
        let keys = match is_point(start, end) {
            true => self.newest.get(start).copied(),
            false => self.newest_key(start, end, since),
        };
        let spans = self.spans.iter().rev().take_while(|(at, ..)| *at > since);
        let spans = spans.filter(|(_, s, e)| &**s < end && start < &**e).map(|(at, ..)| *at).next();
        match keys.max(spans) {
            Some(at) if at > since => Answer::Changed(at),
            _ => Answer::Unchanged,
        }
    }

    /// Adds to `keys` those of `span` that were written after `since`, deleted ones
    /// included, in no order. `false` when that is not known, or when there are more
    /// than `most`: what is in `keys` then means nothing.
    pub fn written_since(&self, span: &Span, since: Timestamp, most: usize, keys: &mut Vec<Arc<[u8]>>) -> bool {
        if span.is_empty() {
            return true;
        }
        let (start, end): (&[u8], &[u8]) = (&span.start, &span.end);
        let spans = self.spans.iter().rev().take_while(|(at, ..)| *at > since);
        if since < self.floor || spans.into_iter().any(|(_, s, e)| &**s < end && start < &**e) {
            return false;
        }
        let (first, last) = (index_of(start), index_of(end));
        if self.by_index.range(first..=last).all(|(_, at)| *at <= since) {
            return true;
        }
        let before = keys.len();
        let range = (Bound::Included(start), Bound::Excluded(end));
        let later = self.newest.range::<[u8], _>(range).filter(|(_, at)| **at > since);
        keys.extend(later.map(|(key, _)| key.clone()).take(most.saturating_add(1)));
        keys.len() - before <= most
    }

    /// When a key from `start` to `end` was written last, if that is after `since`.
    fn newest_key(&self, start: &[u8], end: &[u8], since: Timestamp) -> Option<Timestamp> {
        let (first, last) = (index_of(start), index_of(end));
        if self.by_index.range(first..=last).all(|(_, at)| *at <= since) {
            return None;
        }
        let from = self.commits.partition_point(|r| r.commit.at <= since);
        let before = from.checked_sub(1).and_then(|i| self.commits.get(i)).map_or(self.forgotten, |r| r.total);
        if self.total - before <= FEW as u64 {
            let written = |write: &Write| matches!(write, Write::Key(key) if start <= &**key && &**key < end);
            let later = self.commits.range(from..).rev();
            return later.map(|r| &r.commit).find(|c| c.writes.iter().any(written)).map(|c| c.at);
        }
        let range = (Bound::Included(start), Bound::Excluded(end));
        self.newest.range::<[u8], _>(range).map(|(_, at)| *at).max()
    }
}

/// Whether the span from `start` to `end` is `start` alone.
fn is_point(start: &[u8], end: &[u8]) -> bool {
    end.len() == start.len() + 1 && end.starts_with(start) && end.last() == Some(&0)
}

/// The first four bytes of a key, which name its index.
fn index_of(key: &[u8]) -> [u8; 4] {
    let mut index = [0; 4];
    let n = key.len().min(4);
    index[..n].copy_from_slice(&key[..n]);
    index
}

/// What a batch that wrote `keys` and cleared `spans` is remembered by.
pub(super) fn writes<'a>(keys: impl ExactSizeIterator<Item = &'a [u8]>, spans: &[Span]) -> Vec<Write> {
    let mut writes: Vec<Write> = spans.iter().map(|s| Write::Span(Arc::from(&*s.start), Arc::from(&*s.end))).collect();
    if keys.len() <= MANY {
        writes.extend(keys.map(|key| Write::Key(Arc::from(key))));
        return writes;
    }
    let mut bounds: BTreeMap<[u8; 4], (&[u8], &[u8])> = BTreeMap::new();
    for key in keys {
        let (least, most) = bounds.entry(index_of(key)).or_insert((key, key));
        *least = (*least).min(key);
        *most = (*most).max(key);
    }
    writes.extend(bounds.into_values().map(|(least, most)| {
        let end: Vec<u8> = most.iter().copied().chain([0]).collect();
        Write::Span(Arc::from(least), Arc::from(end))
    }));
    writes
}

const KEY: u8 = 0;
const SPAN: u8 = 1;

impl Commit {
    /// Appends the commit's bytes to `out`.
    ///
    /// ```text
    /// timestamp u64 | id u128 | count u32 | write*
    /// write = 0 length u32 key | 1 length u32 start length u32 end
    /// ```
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.at.0.to_le_bytes());
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&(self.writes.len() as u32).to_le_bytes());
        let mut put = |kind: Option<u8>, bytes: &[u8]| {
            out.extend(kind);
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        for write in &self.writes {
            match write {
                Write::Key(key) => put(Some(KEY), key),
                Write::Span(start, end) => {
                    put(Some(SPAN), start);
                    put(None, end);
                }
            }
        }
    }

    /// Takes a commit off the front of `bytes`.
    pub fn decode(bytes: &mut &[u8]) -> Option<Commit> {
        let at = Timestamp(u64::from_le_bytes(*take(bytes)?));
        let id = u128::from_le_bytes(*take(bytes)?);
        let count = u32::from_le_bytes(*take(bytes)?);
        let writes = (0..count).map(|_| decode_write(bytes)).collect::<Option<Vec<Write>>>()?;
        Some(Commit { at, id, writes })
    }
}

fn decode_write(bytes: &mut &[u8]) -> Option<Write> {
    let [kind] = *take::<1>(bytes)?;
    let mut run = || {
        let len = u32::from_le_bytes(*take(bytes)?) as usize;
        let (run, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        Some(Arc::<[u8]>::from(run))
    };
    match kind {
        KEY => run().map(Write::Key),
        SPAN => Some(Write::Span(run()?, run()?)),
        _ => None,
    }
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (run, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(run)
}

#[cfg(test)]
mod tests {
    use polity_base::Key;
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> Vec<u8> {
        vec![0, 0, 0, n / 16, n % 16]
    }

    fn span(a: u8, b: u8) -> Span {
        Span { start: Key::from(key(a)), end: Key::from(key(b)) }
    }

    #[derive(Clone, Debug)]
    struct Batch {
        keys: Vec<u8>,
        spans: Vec<(u8, u8)>,
    }

    fn batch() -> impl Strategy<Value = Batch> {
        let spans = prop_oneof![8 => Just(vec![]), 1 => proptest::collection::vec((0u8..64, 0u8..64), 1..3)];
        (proptest::collection::vec(0u8..64, 0..5), spans).prop_map(|(keys, spans)| Batch { keys, spans })
    }

    fn commit(at: usize, batch: &Batch) -> Commit {
        let keys: Vec<Vec<u8>> = batch.keys.iter().map(|k| key(*k)).collect();
        let spans = batch.spans.iter().filter(|(a, b)| a < b);
        let spans: Vec<Span> = spans.map(|(a, b)| span(*a, *b)).collect();
        Commit { at: Timestamp(at as u64), id: at as u128, writes: writes(keys.iter().map(|k| &**k), &spans) }
    }

    proptest! {
        #[test]
        fn answers_are_those_of_looking_at_all_commits(
            batches in proptest::collection::vec(batch(), 0..60),
            limit in prop_oneof![Just(7usize), Just(40), Just(1000)],
            questions in proptest::collection::vec((0u8..64, 0u8..64, any::<bool>(), 0u64..60), 1..40),
        ) {
            let commits: Vec<Commit> = batches.iter().enumerate().map(|(i, b)| commit(i + 1, b)).collect();
            let mut window = Window::new(limit, Timestamp::ZERO);
            commits.iter().for_each(|c| window.record(c.clone()));
            let mut weight = 0;
            let fits = |c: &&Commit| { weight += c.weight(); weight <= limit };
            let kept: Vec<&Commit> = commits.iter().rev().take_while(fits).collect();
            let floor = commits.get((commits.len() - kept.len()).wrapping_sub(1)).map_or(Timestamp::ZERO, |c| c.at);
            prop_assert_eq!(window.floor(), floor);
            for (a, b, point, since) in questions {
                let asked = if point { Key::from(key(a)).point() } else { span(a, b) };
                let since = Timestamp(since);
                let hit = |w: &Write| match w {
                    Write::Key(k) => asked.contains(k),
                    Write::Span(s, e) => asked.overlaps(&Span { start: Key::from(s.to_vec()), end: Key::from(e.to_vec()) }),
                };
                let last = kept.iter().find(|c| c.at > since && c.writes.iter().any(hit)).map(|c| c.at);
                let expected = match last {
                    _ if asked.is_empty() => Answer::Unchanged,
                    _ if since < floor => Answer::TooOld,
                    Some(at) => Answer::Changed(at),
                    None => Answer::Unchanged,
                };
                prop_assert_eq!(window.changed_since(&asked, since), expected);
            }
            // Rebuilt from its own commits it is the same.
            let mut again = Window::new(limit, window.floor());
            for commit in window.commits() {
                let mut bytes = Vec::new();
                commit.encode(&mut bytes);
                let mut rest = &bytes[..];
                again.record(Commit::decode(&mut rest).unwrap());
                prop_assert!(rest.is_empty());
            }
            prop_assert_eq!(again.floor(), window.floor());
            prop_assert_eq!(&again.newest, &window.newest);
            prop_assert_eq!(&again.spans, &window.spans);
            prop_assert_eq!(&again.ids, &window.ids);
        }
    }

    #[test]
    fn a_batch_of_very_many_keys_weighs_one_a_index() {
        let keys: Vec<Vec<u8>> =
            (0..MANY as u32 + 1).map(|n| [vec![0, 0, 0, (n % 2) as u8], n.to_be_bytes().to_vec()].concat()).collect();
        let writes = writes(keys.iter().map(|k| &**k), &[]);
        assert_eq!(writes.len(), 2);
        let mut window = Window::new(2, Timestamp::ZERO);
        window.record(Commit { at: Timestamp(5), id: 1, writes });
        assert_eq!(
            window.changed_since(&Key::from(keys[9].clone()).point(), Timestamp(4)),
            Answer::Changed(Timestamp(5))
        );
        assert_eq!(window.changed_since(&Key::from(keys[9].clone()).point(), Timestamp(5)), Answer::Unchanged);
        assert_eq!(window.floor(), Timestamp::ZERO);
    }
}
