//! Our cells beside those of the `crdts` crate, which nobody here wrote, through the same
//! random histories: where the two mean the same they must show the same.
//!
//! | here                    | there                                        |
//! |-------------------------|----------------------------------------------|
//! | [`Set`]                 | `Orswot`, which keeps no removals            |
//! | [`Counter`], unbounded  | `PNCounter`                                  |
//! | [`Register`]            | `LWWReg`, with the stamp for a marker        |
//!
//! What they have nothing for is judged by [`crate::laws`] alone: bounds and shares, rows
//! that are deleted and come again, and forgetting.

use std::collections::BTreeSet;

use crdts::{CmRDT, CvRDT, LWWReg, Orswot, PNCounter};
use polity_base::{Bounds, NodeId, Timestamp, Value};
use proptest::prelude::*;

use crate::cell::{Counter, Register, Set};
use crate::stamp::Stamp;

const REPLICAS: u64 = 4;

/// One replica's cells, ours and theirs.
#[derive(Clone)]
struct Replica {
    node: NodeId,
    set: Set,
    counter: Counter,
    register: Register,
    their_set: Orswot<i64, u64>,
    their_counter: PNCounter<u64>,
    their_register: LWWReg<i64, (u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    PutIn(usize, i64),
    TakeOut(usize, i64),
    Count(usize, i64),
    Write(usize, i64),
    Merge(usize, usize),
}

impl Replica {
    fn new(node: u64) -> Replica {
        let unbounded = Bounds { lower: None, upper: None };
        Replica {
            node: NodeId(node),
            set: Set::default(),
            counter: Counter::new(unbounded, Stamp::default()),
            register: Register { stamp: Stamp::default(), value: Value::Int8(0) },
            their_set: Orswot::new(),
            their_counter: PNCounter::new(),
            their_register: LWWReg { val: 0, marker: (0, 0) },
        }
    }

    fn put_in(&mut self, element: i64, stamp: Stamp) {
        let part = self.set.adding(&Value::Int8(element), stamp).unwrap();
        self.set.join(&Set { elements: [part].into() });
        let context = self.their_set.read_ctx().derive_add_ctx(self.node.0);
        self.their_set.apply(self.their_set.add(element, context));
    }

    fn take_out(&mut self, element: i64, stamp: Stamp) {
        if let Some(part) = self.set.removing(&Value::Int8(element), stamp).unwrap() {
            self.set.join(&Set { elements: [part].into() });
        }
        let context = self.their_set.contains(&element).derive_rm_ctx();
        self.their_set.apply(self.their_set.rm(element, context));
    }

    fn count(&mut self, amount: i64) {
        let tally = self.counter.tally(self.node).after(amount).unwrap();
        self.counter.join(&self.counter.part(self.node, tally));
        let steps = amount.unsigned_abs();
        self.their_counter.apply(match amount < 0 {
            true => self.their_counter.dec_many(self.node.0, steps),
            false => self.their_counter.inc_many(self.node.0, steps),
        });
    }

    fn write(&mut self, value: i64, stamp: Stamp) {
        self.register.join(&Register { stamp, value: Value::Int8(value) });
        self.their_register.update(value, (stamp.at.0, stamp.origin.0));
    }

    fn merge(&mut self, other: &Replica) {
        self.set.join(&other.set);
        self.counter.join(&other.counter);
        self.register.join(&other.register);
        self.their_set.merge(other.their_set.clone());
        self.their_counter.merge(other.their_counter.clone());
        self.their_register.merge(other.their_register.clone());
    }

    fn compare(&self) {
        let elements: BTreeSet<i64> = self.set.values().iter().filter_map(Value::as_i64).collect();
        assert_eq!(elements, self.their_set.read().val.into_iter().collect(), "set of {}", self.node);
        assert_eq!(self.counter.sum().to_string(), self.their_counter.read().to_string(), "counter of {}", self.node);
        assert_eq!(self.register.value, Value::Int8(self.their_register.val), "register of {}", self.node);
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (at, element) = (0..REPLICAS as usize, 0..4i64);
    prop_oneof![
        1 => (at.clone(), element.clone()).prop_map(|(at, element)| Step::PutIn(at, element)),
        1 => (at.clone(), element).prop_map(|(at, element)| Step::TakeOut(at, element)),
        1 => (at.clone(), -9..10i64).prop_map(|(at, amount)| Step::Count(at, amount)),
        1 => (at.clone(), any::<i64>()).prop_map(|(at, value)| Step::Write(at, value)),
        2 => (at.clone(), at).prop_map(|(from, to)| Step::Merge(from, to)),
    ]
}

proptest! {
    #[test]
    fn both_show_the_same(steps in prop::collection::vec(step(), 0..80)) {
        let mut replicas: Vec<Replica> = (1..=REPLICAS).map(Replica::new).collect();
        for (step, clock) in steps.iter().zip(1..) {
            let stamp = |replica: &Replica| Stamp { at: Timestamp(clock), origin: replica.node };
            let changed = match *step {
                Step::PutIn(at, element) => {
                    let stamp = stamp(&replicas[at]);
                    replicas[at].put_in(element, stamp);
                    at
                }
                Step::TakeOut(at, element) => {
                    let stamp = stamp(&replicas[at]);
                    replicas[at].take_out(element, stamp);
                    at
                }
                Step::Count(at, amount) => {
                    replicas[at].count(amount);
                    at
                }
                Step::Write(at, value) => {
                    let stamp = stamp(&replicas[at]);
                    replicas[at].write(value, stamp);
                    at
                }
                Step::Merge(from, to) => {
                    let from = replicas[from].clone();
                    replicas[to].merge(&from);
                    to
                }
            };
            replicas[changed].compare();
        }
        for at in 0..replicas.len() {
            let all = replicas.clone();
            all.iter().for_each(|other| replicas[at].merge(other));
            replicas[at].compare();
        }
    }
}
