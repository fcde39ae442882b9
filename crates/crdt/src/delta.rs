//! One transaction's changes, on their way to the other replicas.
//!
//! A delta is applied whole, and not before everything that its author had applied:
//! so a transaction shows on every replica all at once, and never before one it
//! depends on (causal consistency: Lloyd et al., "Don't Settle for Eventual", SOSP
//! 2011).

use bytes::Bytes;
use polity_base::{Bounds, Key, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::row::RowState;
use crate::stamp::{Stamp, VersionVector};

const VERSION: u8 = 1;

/// One transaction's changes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Delta {
    /// Who took the transaction
    pub origin: NodeId,
    /// When: later than all deltas of the origin before
    pub at: Timestamp,
    /// The origin's delta before this one; zero for its first
    pub previous: Timestamp,
    /// What the origin had applied, itself left out
    pub seen: VersionVector,
    /// What it adds to the states of rows, by key, each row at most once
    pub rows: Vec<(Key, RowState)>,
}

/// What to do with a delta that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// It was applied already.
    Known,
    /// All that it depends on was applied.
    Ready,
    /// Something is missing that it depends on.
    Early,
}

/// Bytes that are not a delta.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a delta: {0}")]
pub struct NotADelta(pub String);

impl Delta {
    /// Its stamp, which all of its writes have.
    pub fn stamp(&self) -> Stamp {
        Stamp { at: self.at, origin: self.origin }
    }

    /// What its author had applied when it wrote this, its own deltas included.
    pub fn author_seen(&self) -> VersionVector {
        let mut seen = self.seen.clone();
        seen.advance(self.origin, self.previous);
        seen
    }

    /// Whether a replica that has applied `here` may apply it.
    pub fn readiness(&self, here: &VersionVector) -> Readiness {
        if self.at <= here.of(self.origin) {
            return Readiness::Known;
        }
        match self.previous <= here.of(self.origin) && here.dominates(&self.seen) {
            true => Readiness::Ready,
            false => Readiness::Early,
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Result<Bytes, NotADelta> {
        let bytes = postcard::to_extend(self, vec![VERSION]).map_err(|e| NotADelta(e.to_string()))?;
        Ok(bytes.into())
    }

    /// The delta of these bytes, which may come from anywhere.
    pub fn decode(bytes: &[u8]) -> Result<Delta, NotADelta> {
        let wrong = |what: &str| Err(NotADelta(what.to_owned()));
        let Some((&VERSION, rest)) = bytes.split_first() else { return wrong("unknown version") };
        let (delta, rest) = postcard::take_from_bytes::<Delta>(rest).map_err(|e| NotADelta(e.to_string()))?;
        if !rest.is_empty() {
            return wrong("bytes behind its end");
        }
        delta.check()?;
        Ok(delta)
    }

    fn check(&self) -> Result<(), NotADelta> {
        let wrong = |what: &str| Err(NotADelta(what.to_owned()));
        if self.previous >= self.at || self.at == Timestamp::MAX {
            return wrong("a time that is not after the one before");
        }
        if self.seen.of(self.origin) > Timestamp::ZERO {
            return wrong("what it saw includes itself");
        }
        let mut before: Option<&Key> = None;
        for (key, row) in &self.rows {
            if key.first().map(|first| first >> 6) != Some(0b10) || key.len() < 4 {
                return wrong("a key that is no row's of an eventual table");
            }
            if before.replace(key).is_some_and(|before| before >= key) {
                return wrong("rows that are out of order");
            }
            if row.is_blank() || (!row.is_live() && !row.cells.is_empty()) {
                return wrong("a row that cannot be");
            }
            if row.life.stamp.at > self.at {
                return wrong("a row from later");
            }
            row.cells.values().try_for_each(|cell| self.check_cell(cell))?;
        }
        Ok(())
    }

    /// What a delta brings is of its own time, or older.
    fn check_cell(&self, cell: &Cell) -> Result<(), NotADelta> {
        let fits = match cell {
            Cell::Register(register) => register.stamp == self.stamp(),
            Cell::Counter(counter) => {
                let Bounds { lower, upper } = counter.bounds;
                counter.incarnation.at <= self.at && lower.zip(upper).is_none_or(|(lower, upper)| lower <= upper)
            }
            Cell::Set(set) => set.elements.values().all(|(_, marks)| {
                let added = marks.added.iter().all(|(node, at)| (*node, *at) == (self.origin, self.at));
                added && marks.removed.values().all(|removal| removal.by == self.stamp())
            }),
        };
        if fits { Ok(()) } else { Err(NotADelta("a cell that is not its author's".to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use polity_base::key::KeyBuilder;
    use polity_base::{ColumnId, Guarantee, Value};

    use super::*;
    use crate::cell::{Register, Set};
    use crate::row::Life;

    fn key(n: i64) -> Key {
        let mut key = KeyBuilder::new(Guarantee::Eventual.storage(20_000));
        key.push(&Value::Int8(n)).unwrap();
        key.finish()
    }

    fn delta() -> Delta {
        let stamp = Stamp { at: Timestamp(9), origin: NodeId(1) };
        let cell = Cell::Register(Register { stamp, value: Value::Int4(7) });
        let row = RowState { life: Life { count: 1, stamp }, cells: [(ColumnId(0), cell)].into() };
        Delta {
            origin: NodeId(1),
            at: Timestamp(9),
            previous: Timestamp(4),
            seen: VersionVector::new(),
            rows: vec![(key(1), row.clone()), (key(2), row)],
        }
    }

    type Damage = fn(&mut Delta);

    #[test]
    fn what_cannot_be_is_refused() {
        let good = delta();
        assert_eq!(Delta::decode(&good.encode().unwrap()), Ok(good));
        let nest = |depth| (0..depth).fold(Value::Int4(1), |value, _| Value::Array(vec![value]));
        let stamp = delta().stamp();
        let cases: [(&str, Damage); 10] = [
            ("time", |d| d.previous = d.at),
            ("time", |d| (d.at, d.previous) = (Timestamp::MAX, Timestamp(1))),
            ("itself", |d| d.seen.advance(d.origin, Timestamp(3))),
            ("no row's", |d| d.rows[0].0 = Guarantee::Strong.span().start),
            ("no row's", |d| d.rows[1].0 = polity_base::guarantee::merging_key(&key(2))),
            ("order", |d| d.rows[1].0 = key(1)),
            ("cannot be", |d| d.rows[0].1.life.count = 0),
            ("cannot be", |d| d.rows[0].1.life.count = 2),
            ("later", |d| d.rows[0].1.life.stamp.at = Timestamp(10)),
            ("author's", |d| d.at = Timestamp(10)),
        ];
        for (complaint, damage) in cases {
            let mut bad = delta();
            damage(&mut bad);
            let error = Delta::decode(&bad.encode().unwrap()).unwrap_err();
            assert!(error.to_string().contains(complaint), "{error}, not {complaint}");
        }
        let mut deep = delta();
        let set = |value| Cell::Register(Register { stamp, value });
        deep.rows[0].1.cells.insert(ColumnId(1), set(nest(8)));
        assert_eq!(Delta::decode(&deep.encode().unwrap()), Ok(deep.clone()));
        deep.rows[0].1.cells.insert(ColumnId(1), set(nest(9)));
        assert!(Delta::decode(&deep.encode().unwrap()).is_err());
    }

    #[test]
    fn bytes_that_nest_without_end_take_no_stack() {
        let one = postcard::to_stdvec(&Value::Array(vec![Value::Null])).unwrap();
        let [array, count, _] = one[..] else { panic!("three bytes") };
        assert!(postcard::from_bytes::<Value>(&[array, count].repeat(1_000_000)).is_err());
    }

    #[test]
    fn an_element_that_is_there_twice_is_refused() {
        let twice = vec![(Value::Int4(1), crate::cell::Marks::default()); 2];
        let bytes = postcard::to_stdvec(&twice).unwrap();
        assert!(postcard::from_bytes::<Set>(&bytes).is_err());
        assert!(postcard::from_bytes::<Set>(&postcard::to_stdvec(&twice[..1]).unwrap()).is_ok());
    }
}
