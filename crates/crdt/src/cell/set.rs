//! Elements that are put in and taken out: taking out what one has seen.
//!
//! For every element, each replica has the time it last put the element in, and up
//! to which of those times somebody took it out. An element is there as long as some
//! addition is later than every removal of additions of that replica: an addition
//! that the remover had not seen stays.
//!
//! All marks only grow, so this is a semilattice without a causal context: no
//! vector travels with the set (compare Bieniusa et al., "An Optimized Conflict-free
//! Replicated Set", 2012). Instead removals are kept until every replica has them
//! ([`Set::collect`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use polity_base::key::{KeyBuilder, NotAKey};
use polity_base::{IndexId, NodeId, Timestamp, Value};
use serde::{Deserialize, Serialize};

use crate::stamp::{Stamp, VersionVector};

/// Elements, by how they sort. Equal values are one element.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(into = "Vec<(Value, Marks)>", try_from = "Vec<(Value, Marks)>")]
pub struct Set {
    /// The marks of each element that was ever there
    pub elements: BTreeMap<Bytes, (Value, Marks)>,
}

/// An element with its marks, and how it sorts.
pub type Element = (Bytes, (Value, Marks));

/// Who put an element in, and which additions were taken out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Marks {
    /// When each replica last put it in
    pub added: BTreeMap<NodeId, Timestamp>,
    /// Up to which addition of each replica it was taken out
    pub removed: BTreeMap<NodeId, Removal>,
}

/// Up to which addition something was taken out, and by which write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Removal {
    /// The last addition that it took out
    pub up_to: Timestamp,
    /// The write that did; of several, the first
    pub by: Stamp,
}

impl Removal {
    fn join(&mut self, other: &Removal) {
        if (other.up_to, std::cmp::Reverse(other.by)) > (self.up_to, std::cmp::Reverse(self.by)) {
            *self = *other;
        }
    }
}

impl Marks {
    /// Whether the element is there.
    pub fn is_in(&self) -> bool {
        self.live().next().is_some()
    }

    /// The additions that nobody took out.
    pub fn live(&self) -> impl Iterator<Item = (NodeId, Timestamp)> {
        let taken = |node| self.removed.get(node).map(|r| r.up_to);
        self.added
            .iter()
            .filter(move |(node, at)| taken(node).is_none_or(|up_to| up_to < **at))
            .map(|(n, at)| (*n, *at))
    }

    fn join(&mut self, other: &Marks) {
        for (node, at) in &other.added {
            let known = self.added.entry(*node).or_default();
            *known = (*known).max(*at);
        }
        for (node, removal) in &other.removed {
            self.removed.entry(*node).and_modify(|known| known.join(removal)).or_insert(*removal);
        }
        self.tidy();
    }

    /// Drops additions that were taken out: the removal says as much.
    fn tidy(&mut self) {
        let removed = &self.removed;
        self.added.retain(|node, at| removed.get(node).is_none_or(|r| r.up_to < *at));
    }
}

/// How an element sorts, which is also what makes it equal to another.
fn place(value: &Value) -> Result<Bytes, NotAKey> {
    let mut key = KeyBuilder::new(IndexId(0));
    key.push(value)?;
    Ok(key.finish().0.slice(4..))
}

/// As bytes: how an element sorts is not written, it says its value.
impl From<Set> for Vec<(Value, Marks)> {
    fn from(set: Set) -> Vec<(Value, Marks)> {
        set.elements.into_values().collect()
    }
}

/// Elements that are not those of one set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotASet {
    /// One has no order
    #[error("an element is {0}")]
    Element(#[from] NotAKey),
    /// One is there twice
    #[error("an element is there twice")]
    Twice,
}

impl TryFrom<Vec<(Value, Marks)>> for Set {
    type Error = NotASet;

    fn try_from(elements: Vec<(Value, Marks)>) -> Result<Set, NotASet> {
        let mut set = Set::default();
        for (value, marks) in elements {
            if set.elements.insert(place(&value)?, (value, marks)).is_some() {
                return Err(NotASet::Twice);
            }
        }
        Ok(set)
    }
}

impl Set {
    /// The elements that are there, in order.
    pub fn values(&self) -> Vec<Value> {
        self.elements.values().filter(|(_, marks)| marks.is_in()).map(|(value, _)| value.clone()).collect()
    }

    /// What puts `value` in, by the write `stamp`.
    pub fn adding(&self, value: &Value, stamp: Stamp) -> Result<Element, NotAKey> {
        let place = place(value)?;
        // As it was first written, so that all replicas write it alike.
        let value = self.elements.get(&place).map_or(value, |(known, _)| known).clone();
        let marks = Marks { added: BTreeMap::from([(stamp.origin, stamp.at)]), removed: BTreeMap::new() };
        Ok((place, (value, marks)))
    }

    /// What takes `value` out, by the write `stamp`; `None` if it is not there.
    pub fn removing(&self, value: &Value, stamp: Stamp) -> Result<Option<Element>, NotAKey> {
        let place = place(value)?;
        let Some((value, marks)) = self.elements.get(&place).filter(|(_, marks)| marks.is_in()) else {
            return Ok(None);
        };
        let removed = marks.live().map(|(node, at)| (node, Removal { up_to: at, by: stamp })).collect();
        Ok(Some((place, (value.clone(), Marks { added: BTreeMap::new(), removed }))))
    }

    /// Both.
    pub fn join(&mut self, other: &Set) {
        for (place, (value, marks)) in &other.elements {
            match self.elements.get_mut(place) {
                None => {
                    let mut marks = marks.clone();
                    marks.tidy();
                    self.elements.insert(place.clone(), (value.clone(), marks));
                }
                Some((known, ours)) => {
                    ours.join(marks);
                    // 1.5 and 1.50 are one element: all replicas must show one of them.
                    if known != value && postcard::to_stdvec(value).ok() < postcard::to_stdvec(known).ok() {
                        *known = value.clone();
                    }
                }
            }
        }
    }

    /// Both, where `later` is what a later change of one transaction gave, at the same time as
    /// an earlier one: what it puts in stays, although the earlier one took it out.
    pub fn put_over(&mut self, later: &Set) {
        for (place, (_, marks)) in &later.elements {
            let Some((_, ours)) = self.elements.get_mut(place) else { continue };
            for (node, at) in &marks.added {
                if let Some(removal) = ours.removed.get_mut(node) {
                    removal.up_to = removal.up_to.min(at.minus_nanos(1));
                }
            }
        }
        self.join(later);
    }

    /// Forgets removals that every replica has applied. Returns whether there were any.
    pub fn collect(&mut self, stable: &VersionVector) -> bool {
        let mut any = false;
        self.elements.retain(|_, (_, marks)| {
            let before = marks.removed.len();
            marks.tidy();
            marks.removed.retain(|_, removal| !stable.covers(removal.by));
            any |= marks.removed.len() < before;
            !marks.added.is_empty() || !marks.removed.is_empty()
        });
        any
    }
}
