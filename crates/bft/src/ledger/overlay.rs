//! A state with changes on top that are not part of it yet: those of a block, and on top
//! of them those of the transaction that is being applied, which may be taken back.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use polity_base::{Key, Span};

use super::error::Error;
use super::storage::View;

type Layer = BTreeMap<Key, Option<Bytes>>;

/// A state with changes on top.
pub struct Overlay<'a, V> {
    base: &'a V,
    block: Layer,
    transaction: Layer,
}

impl<'a, V: View> Overlay<'a, V> {
    /// The state as it is.
    pub fn new(base: &'a V) -> Overlay<'a, V> {
        Overlay { base, block: Layer::new(), transaction: Layer::new() }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.transaction.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.get_before(key),
        }
    }

    /// The value that a key had before the transaction.
    pub fn get_before(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.block.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    /// Changes a key, in the name of the transaction.
    pub fn put(&mut self, key: Key, value: Option<Bytes>) {
        self.transaction.insert(key, value);
    }

    /// The keys that the transaction has changed.
    pub fn touched(&self) -> impl Iterator<Item = &Key> {
        self.transaction.keys()
    }

    /// Keeps what the transaction has changed.
    pub fn keep(&mut self) {
        let kept = std::mem::take(&mut self.transaction);
        self.block.extend(kept);
    }

    /// Takes back what the transaction has changed.
    pub fn take_back(&mut self) {
        self.transaction.clear();
    }

    /// The first keys of a span with their values, at most so many.
    pub fn first(&self, span: &Span, most: usize) -> Result<Vec<(Key, Bytes)>, Error> {
        if span.is_empty() || most == 0 {
            return Ok(Vec::new());
        }
        // So many of the base's may be gone.
        let changed = |layer: &Layer| layer.range(span.start.clone()..span.end.clone()).count();
        let enough = most.saturating_add(changed(&self.block)).saturating_add(changed(&self.transaction));
        let mut found = BTreeMap::new();
        self.base.scan(span, &mut |key, value| {
            found.insert(Key(Bytes::copy_from_slice(key)), Some(Bytes::copy_from_slice(value)));
            if found.len() < enough { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        for layer in [&self.block, &self.transaction] {
            let range = layer.range(span.start.clone()..span.end.clone());
            found.extend(range.map(|(key, value)| (key.clone(), value.clone())));
        }
        Ok(found.into_iter().filter_map(|(key, value)| Some((key, value?))).take(most).collect())
    }

    /// Whether a span has a key.
    pub fn any(&self, span: &Span) -> Result<bool, Error> {
        Ok(!self.first(span, 1)?.is_empty())
    }

    /// What a transaction before this one in the block has written of a span.
    pub fn written_before(&self, span: &Span) -> Option<Key> {
        if span.is_empty() {
            return None;
        }
        self.block.range(span.start.clone()..span.end.clone()).next().map(|(key, _)| key.clone())
    }

    /// All changes.
    pub fn into_changes(mut self) -> BTreeMap<Key, Option<Bytes>> {
        self.keep();
        self.block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::storage::memory::MemoryStorage;
    use crate::ledger::storage::{Storage, Views};

    fn key(n: u8) -> Key {
        Key::from(vec![n])
    }

    #[test]
    fn changes_hide_what_is_below_and_can_be_taken_back() {
        let mut storage = MemoryStorage::new();
        let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        storage.apply(1, vec![(key(1), value("a")), (key(2), value("b")), (key(4), value("d"))], false).unwrap();
        let view = storage.views().now().unwrap();
        let mut overlay = Overlay::new(&view);
        let all = Span { start: key(0), end: key(9) };
        let names = |overlay: &Overlay<_>, most| -> Vec<u8> {
            overlay.first(&all, most).unwrap().iter().map(|(key, _)| key[0]).collect()
        };
        overlay.put(key(1), None);
        overlay.put(key(3), value("c"));
        assert_eq!(names(&overlay, 9), [2, 3, 4]);
        assert_eq!(names(&overlay, 1), [2]);
        assert_eq!(overlay.get(&key(1)).unwrap(), None);
        assert_eq!(overlay.get_before(&key(1)).unwrap(), value("a"));
        assert_eq!(overlay.written_before(&all), None);
        overlay.take_back();
        assert_eq!(names(&overlay, 9), [1, 2, 4]);
        overlay.put(key(4), None);
        overlay.keep();
        assert_eq!(overlay.written_before(&all), Some(key(4)));
        assert_eq!(names(&overlay, 9), [1, 2]);
        assert_eq!(overlay.into_changes().into_iter().collect::<Vec<_>>(), [(key(4), None)]);
    }
}
