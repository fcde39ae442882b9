//! Walking through the rows of a span at a timestamp.
//!
//! Three sources are merged: redb, the frozen layer and the active layer. In
//! redb a key's versions lie next to each other, newest first. Walking up, the
//! first one that is not too new decides about the key, and the rest is passed
//! over; walking down, the last one before the key changes does. Where a key has
//! very many versions the walk jumps instead.
//!
//! Layers are asked for some keys at a time, so that nobody waits for a walk.
//! What is added to the active layer meanwhile is newer than the walk's timestamp
//! and not seen.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use bytes::Bytes;
use polity_base::key::Direction;
use polity_base::{Key, Span, Timestamp};
use redb::AccessGuard;

use crate::error::Error;
use crate::state::from_redb;
use crate::state::layer::{Layer, Version, is_cleared};
use crate::state::reader::View;
use crate::state::version::{VersionedKey, join, split, unwrap};

/// So many keys are taken from a layer at a time.
const LAYER_CHUNK: usize = 256;
/// After so many versions of one key the walk jumps to the next.
const PATIENCE: usize = 12;

type Stored = (AccessGuard<'static, VersionedKey>, AccessGuard<'static, &'static [u8]>);

/// A walk through the rows of a span.
pub struct Scan {
    view: Arc<View>,
    span: Span,
    at: Timestamp,
    direction: Direction,
    layers: [LayerWalk; 2],
    base: BaseWalk,
    /// Whether the span overlaps one that was cleared
    clears: bool,
    done: bool,
}

/// What redb or a layer has next.
enum Next {
    Base(Stored),
    Layer(Key, Version),
    End,
}

impl Scan {
    pub(super) fn new(view: Arc<View>, span: Span, at: Timestamp, direction: Direction) -> Result<Scan, Error> {
        let done = span.is_empty();
        let layers = [Some(view.active.clone()), view.frozen.clone()].map(|layer| LayerWalk {
            layer,
            ready: VecDeque::new(),
            from: None,
        });
        let clears = view.clears.iter().any(|c| c.span.overlaps(&span));
        let base = BaseWalk::default();
        let mut scan = Scan { view, span, at, direction, layers, base, clears, done };
        if !done {
            let (start, end) = (scan.span.start.clone(), scan.span.end.clone());
            scan.base.seek(&scan.view, Edge::Before(&start), Edge::Before(&end))?;
        }
        Ok(scan)
    }

    /// The next row.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<(Key, Bytes)>, Error> {
        let mut found = None;
        self.drive(|key, _, row| {
            found = Some((Key(Bytes::copy_from_slice(key)), Bytes::copy_from_slice(row)));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// The next rows: at most `max_rows`, and no more than about `max_bytes`, but
    /// at least one unless the end is reached. The rows of a chunk share their
    /// memory.
    pub fn next_chunk(&mut self, max_rows: usize, max_bytes: usize) -> Result<Vec<(Key, Bytes)>, Error> {
        let mut bytes = Vec::new();
        let mut ends: Vec<(usize, usize)> = Vec::new();
        if max_rows == 0 {
            return Ok(Vec::new());
        }
        self.drive(|key, _, row| {
            bytes.extend_from_slice(key);
            let middle = bytes.len();
            bytes.extend_from_slice(row);
            ends.push((middle, bytes.len()));
            match ends.len() >= max_rows || bytes.len() >= max_bytes {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        let bytes = Bytes::from(bytes);
        let mut start = 0;
        let rows = ends.into_iter().map(|(middle, end)| {
            let row = (Key(bytes.slice(start..middle)), bytes.slice(middle..end));
            start = end;
            row
        });
        Ok(rows.collect())
    }

    /// Shows `visit` the rows that follow, each with its key and when it was
    /// written, until it breaks or the end is reached.
    pub fn drive(&mut self, mut visit: impl FnMut(&[u8], Timestamp, &[u8]) -> ControlFlow<()>) -> Result<(), Error> {
        self.drive_all(|key, written, row| match row {
            Some(row) => visit(key, written, row),
            None => ControlFlow::Continue(()),
        })
    }

    /// The same with the keys whose rows were deleted, as far as a trace of that is left.
    pub fn drive_all(
        &mut self,
        mut visit: impl FnMut(&[u8], Timestamp, Option<&[u8]>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        while !self.done {
            let flow = match self.step()? {
                Next::End => {
                    self.done = true;
                    ControlFlow::Break(())
                }
                Next::Layer(key, (written, row)) => match self.is_there(&key, written) {
                    true => visit(&key, written, row.as_deref()),
                    false => ControlFlow::Continue(()),
                },
                Next::Base((key, stored)) => {
                    let (key, written) = split(key.value());
                    match self.is_there(key, written) {
                        true => visit(key, written, unwrap(stored.value())),
                        false => ControlFlow::Continue(()),
                    }
                }
            };
            if flow.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn is_there(&self, key: &[u8], written: Timestamp) -> bool {
        !(self.clears && is_cleared(&self.view.clears, key, written))
    }

    /// Takes the next key from the source that has it; sources below that have it,
    /// too, are passed over.
    fn step(&mut self) -> Result<Next, Error> {
        let (span, at, direction) = (&self.span, self.at, self.direction);
        for layer in &mut self.layers {
            layer.fill(span, at, direction);
        }
        if self.base.ahead.is_none() {
            self.base.advance(&self.view, &self.span, at, direction)?;
        }
        let before = |a: &[u8], b: &[u8]| match direction {
            Direction::Ascending => a.cmp(b),
            Direction::Descending => b.cmp(a),
        };
        let [active, frozen] = &mut self.layers;
        let both = match (active.peek(), frozen.peek()) {
            (None, None) => return Ok(self.base.ahead.take().map_or(Next::End, Next::Base)),
            (Some(a), Some(f)) => before(a, f),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let upper = if both.is_le() { &mut *active } else { &mut *frozen };
        let order = match (upper.peek(), &self.base.ahead) {
            (Some(key), Some((stored, _))) => before(key, split(stored.value()).0),
            _ => Ordering::Less,
        };
        if order.is_gt() {
            return Ok(self.base.ahead.take().map_or(Next::End, Next::Base));
        }
        if order.is_eq() {
            self.base.ahead = None;
        }
        let taken = upper.take();
        if both.is_eq() {
            frozen.take();
        }
        Ok(taken.map_or(Next::End, |(key, version)| Next::Layer(key, version)))
    }
}

/// A walk through a layer.
struct LayerWalk {
    /// The layer, until its end is reached
    layer: Option<Arc<Layer>>,
    ready: VecDeque<(Key, Version)>,
    /// The last key that was taken from the layer
    from: Option<Key>,
}

impl LayerWalk {
    fn fill(&mut self, span: &Span, at: Timestamp, direction: Direction) {
        if !self.ready.is_empty() {
            return;
        }
        let Some(layer) = &self.layer else { return };
        let (start, end): (&[u8], &[u8]) = (&span.start, &span.end);
        let (from, to) = match (&self.from, direction) {
            (None, _) => (Bound::Included(start), Bound::Excluded(end)),
            (Some(last), Direction::Ascending) => (Bound::Excluded(&**last), Bound::Excluded(end)),
            (Some(last), Direction::Descending) => (Bound::Included(start), Bound::Excluded(&**last)),
        };
        let found = layer.collect(from, to, at, direction, LAYER_CHUNK);
        match found.last() {
            Some((last, _)) if found.len() == LAYER_CHUNK => self.from = Some(last.clone()),
            _ => self.layer = None,
        }
        self.ready = found.into();
    }

    fn peek(&self) -> Option<&[u8]> {
        self.ready.front().map(|(key, _)| &**key)
    }

    fn take(&mut self) -> Option<(Key, Version)> {
        self.ready.pop_front()
    }
}

/// A walk through redb.
#[derive(Default)]
struct BaseWalk {
    range: Option<redb::Range<'static, VersionedKey, &'static [u8]>>,
    /// The next version to show
    ahead: Option<Stored>,
    /// Upwards: the key that was put ahead last
    decided: Vec<u8>,
    has_decided: bool,
    /// Downwards: the newest visible version so far of the key being passed
    held: Option<Stored>,
}

/// A place between versions.
#[derive(Clone, Copy)]
enum Edge<'a> {
    /// Before all versions of a key
    Before(&'a [u8]),
    /// Before the version of a key that is visible at a timestamp
    Visible(&'a [u8], Timestamp),
    /// After all versions of a key
    After(&'a [u8]),
}

impl Edge<'_> {
    fn encode(self, out: &mut Vec<u8>) -> (&[u8], bool) {
        match self {
            Edge::Before(key) => (join(key, Timestamp::MAX, out), true),
            Edge::Visible(key, at) => (join(key, at, out), true),
            Edge::After(key) => (join(key, Timestamp::ZERO, out), false),
        }
    }
}

impl BaseWalk {
    fn seek(&mut self, view: &View, from: Edge<'_>, to: Edge<'_>) -> Result<(), Error> {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let from = match from.encode(&mut a) {
            (key, true) => Bound::Included(key),
            (key, false) => Bound::Excluded(key),
        };
        let to = match to.encode(&mut b) {
            (key, true) => Bound::Excluded(key),
            (key, false) => Bound::Included(key),
        };
        let range = view.base.rows.range::<&[u8]>((from, to)).map_err(|e| from_redb(e, &view.base.failure))?;
        self.range = Some(range);
        Ok(())
    }

    fn pull(&mut self, view: &View, direction: Direction) -> Result<Option<Stored>, Error> {
        let Some(range) = &mut self.range else { return Ok(None) };
        let next = match direction {
            Direction::Ascending => range.next(),
            Direction::Descending => range.next_back(),
        };
        match next.transpose().map_err(|e| from_redb(e, &view.base.failure))? {
            Some(stored) => Ok(Some(stored)),
            None => {
                self.range = None;
                Ok(None)
            }
        }
    }

    /// Puts the next key's visible version ahead, if there is one.
    fn advance(&mut self, view: &View, span: &Span, at: Timestamp, direction: Direction) -> Result<(), Error> {
        match direction {
            Direction::Ascending => self.advance_up(view, span, at),
            Direction::Descending => self.advance_down(view, span, at),
        }
    }

    fn advance_up(&mut self, view: &View, span: &Span, at: Timestamp) -> Result<(), Error> {
        let mut passed = 0;
        while let Some(stored) = self.pull(view, Direction::Ascending)? {
            let (key, written) = split(stored.0.value());
            let decided = self.has_decided && self.decided == key;
            if !decided && written <= at {
                self.decided.clear();
                self.decided.extend_from_slice(key);
                self.has_decided = true;
                self.ahead = Some(stored);
                return Ok(());
            }
            passed += 1;
            if passed >= PATIENCE {
                passed = 0;
                let key = key.to_vec();
                let from = if decided { Edge::After(&key) } else { Edge::Visible(&key, at) };
                self.seek(view, from, Edge::Before(&span.end))?;
            }
        }
        Ok(())
    }

    fn advance_down(&mut self, view: &View, span: &Span, at: Timestamp) -> Result<(), Error> {
        let mut held = self.held.take();
        let mut passed = 0;
        while let Some(stored) = self.pull(view, Direction::Descending)? {
            let (key, written) = split(stored.0.value());
            let same = held.as_ref().is_some_and(|(k, _)| split(k.value()).0 == key);
            if held.is_some() && !same {
                self.ahead = held;
                self.held = (written <= at).then_some(stored);
                return Ok(());
            }
            passed += 1;
            if passed >= PATIENCE {
                passed = 0;
                // What is visible of this key, and then on before all of it.
                let key = key.to_vec();
                self.seek(view, Edge::Visible(&key, at), Edge::After(&key))?;
                let visible = self.pull(view, Direction::Ascending)?;
                self.seek(view, Edge::Before(&span.start), Edge::Before(&key))?;
                if visible.is_some() {
                    self.ahead = visible;
                    return Ok(());
                }
                held = None;
            } else if written <= at {
                held = Some(stored);
            }
        }
        self.ahead = held;
        Ok(())
    }
}
