//! What must hold of merging, tried on random histories of several replicas.
//!
//! A history is what really happens: replicas change a row, send each other deltas,
//! which are applied when all they depend on was, and give each other shares. So only
//! states that can be reached are judged.

use std::collections::BTreeMap;

use polity_base::guarantee::Guarantee;
use polity_base::key::KeyBuilder;
use polity_base::{Bounds, ColumnChange, ColumnId, Key, NodeId, RowChange, Timestamp, Value};
use proptest::prelude::*;

use crate::cell::Cell;
use crate::delta::{Delta, Readiness};
use crate::escrow::Side;
use crate::row::{JoinContext, Lost, Refused, RowState};
use crate::stamp::{Stamp, VersionVector};

const REPLICAS: u64 = 3;

const PLAIN: ColumnId = ColumnId(0);
const COUNTER: ColumnId = ColumnId(1);
const STOCK: ColumnId = ColumnId(2);
const SEATS: ColumnId = ColumnId(3);
const TAGS: ColumnId = ColumnId(4);

const FREE: Bounds = Bounds { lower: None, upper: None };
const ABOVE: Bounds = Bounds { lower: Some(0), upper: None };
const WITHIN: Bounds = Bounds { lower: Some(-2), upper: Some(9) };

/// One replica of one row.
#[derive(Clone, Default)]
struct Replica {
    node: NodeId,
    row: RowState,
    vector: VersionVector,
    /// Lost values it was told of
    lost: Vec<Lost>,
}

struct History {
    key: Key,
    clock: u64,
    replicas: Vec<Replica>,
    /// All that was published, in order of time
    deltas: Vec<Delta>,
}

#[derive(Clone, Debug)]
enum Step {
    Change(usize, RowChange),
    Give(usize, usize, ColumnId, Side, u64),
    Deliver(usize, usize),
    Collect(usize),
}

impl History {
    fn new() -> History {
        let mut key = KeyBuilder::new(Guarantee::Eventual.storage(20_000));
        key.push(&Value::Int4(1)).unwrap();
        let replicas = (1..=REPLICAS).map(|n| Replica { node: NodeId(n), ..Replica::default() }).collect();
        History { key: key.finish(), clock: 0, replicas, deltas: Vec::new() }
    }

    fn of(steps: &[Step]) -> History {
        let mut history = History::new();
        for step in steps {
            history.step(step);
        }
        history
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Change(at, change) => {
                self.clock += 1;
                let replica = &self.replicas[*at];
                let stamp = Stamp { at: Timestamp(self.clock), origin: replica.node };
                let members: Vec<NodeId> = (1..=REPLICAS).map(NodeId).collect();
                match replica.row.change(change, stamp, &members) {
                    Ok(part) => self.publish(*at, part),
                    Err(Refused::Exists | Refused::Missing | Refused::Short(..)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            Step::Give(from, to, column, side, amount) => {
                self.clock += 1;
                let pair = (self.replicas[*from].node, self.replicas[*to].node);
                if let Some((part, _)) = self.replicas[*from].row.transfer(*column, pair, *side, *amount) {
                    self.publish(*from, part);
                }
            }
            Step::Deliver(number, to) => {
                if let Some(delta) = self.deltas.get(*number).cloned() {
                    self.replicas[*to].receive(&delta);
                }
            }
            Step::Collect(at) => {
                let stable = self.stable();
                self.replicas[*at].row.collect(&stable);
            }
        }
        self.check_bounds();
    }

    fn publish(&mut self, at: usize, part: RowState) {
        let replica = &mut self.replicas[at];
        let mut seen = replica.vector.clone();
        seen.remove(replica.node);
        let delta = Delta {
            origin: replica.node,
            at: Timestamp(self.clock),
            previous: replica.vector.of(replica.node),
            seen,
            rows: vec![(self.key.clone(), part)],
        };
        let delta = Delta::decode(&delta.encode().unwrap()).unwrap();
        replica.receive(&delta);
        assert!(replica.vector.covers(delta.stamp()));
        self.deltas.push(delta);
    }

    /// What every replica has applied. (Here all is known at once.)
    fn stable(&self) -> VersionVector {
        let mut stable = self.replicas[0].vector.clone();
        self.replicas.iter().for_each(|r| stable.meet(&r.vector));
        stable
    }

    /// No replica ever sees a counter beyond its bounds, nor has one rights it should not.
    fn check_bounds(&self) {
        for replica in &self.replicas {
            for (column, bounds) in [(STOCK, ABOVE), (SEATS, WITHIN)] {
                let Some(counter) = replica.row.counter(column) else { continue };
                let value = counter.sum();
                assert!(bounds.lower.is_none_or(|b| value >= i128::from(b)), "{value} on {}", replica.node);
                assert!(bounds.upper.is_none_or(|b| value <= i128::from(b)), "{value} on {}", replica.node);
                for side in [Side::Take, Side::Add] {
                    let Some(own) = counter.right(replica.node, side) else { continue };
                    assert!(own >= 0, "{} has {own} rights", replica.node);
                    let all = counter.holders().into_iter().filter_map(|n| counter.right(n, side));
                    let (bound, left) = match side {
                        Side::Take => (bounds.lower, value - i128::from(bounds.lower.unwrap_or(0))),
                        Side::Add => (bounds.upper, i128::from(bounds.upper.unwrap_or(0)) - value),
                    };
                    assert!(bound.is_some());
                    assert_eq!(all.sum::<i128>(), left, "rights and what is left");
                }
            }
        }
    }

    /// Delivers everything to everybody, in an order that `choice` draws.
    fn settle(&mut self, mut choice: u64) {
        loop {
            let mut ways = Vec::new();
            for (number, delta) in self.deltas.iter().enumerate() {
                for (to, replica) in self.replicas.iter().enumerate() {
                    if delta.readiness(&replica.vector) == Readiness::Ready {
                        ways.push((number, to));
                    }
                }
            }
            if ways.is_empty() {
                break;
            }
            choice = choice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (number, to) = ways[(choice >> 33) as usize % ways.len()];
            self.step(&Step::Deliver(number, to));
        }
    }
}

impl Replica {
    fn receive(&mut self, delta: &Delta) {
        if delta.readiness(&self.vector) != Readiness::Ready {
            return;
        }
        let author = delta.author_seen();
        for (_, part) in &delta.rows {
            let context = JoinContext { here: &self.vector, author: &author };
            self.row.join(part, context, &mut self.lost);
        }
        self.vector.advance(delta.origin, delta.at);
    }

    fn joined(&self, other: &Replica) -> Replica {
        let mut all = self.clone();
        let context = JoinContext { here: &self.vector, author: &other.vector };
        all.row.join(&other.row, context, &mut Vec::new());
        all.vector.join(&other.vector);
        all
    }
}

fn any_columns(insert: bool) -> impl Strategy<Value = Vec<(ColumnId, ColumnChange)>> {
    let low = if insert { 0 } else { -4 };
    let add = move |bounds, most: i64| (low..=most).prop_map(move |amount| ColumnChange::Add { amount, bounds });
    let texts = || proptest::collection::vec((0..4).prop_map(|n| Value::Text(format!("t{n}"))), 0..3);
    let elements = (texts(), texts()).prop_map(|(added, removed)| ColumnChange::Elements { added, removed });
    let each = (
        (0..6i32).prop_map(|v| ColumnChange::Set(Value::Int4(v))),
        add(FREE, 4),
        add(ABOVE, 4),
        add(WITHIN, 4),
        elements,
        0..32u8,
    );
    each.prop_map(move |(plain, counter, stock, seats, tags, mask)| {
        let all = [(PLAIN, plain), (COUNTER, counter), (STOCK, stock), (SEATS, seats), (TAGS, tags)];
        let keep = |n: usize| insert || mask & (1 << n) != 0;
        all.into_iter().enumerate().filter(|(n, _)| keep(*n)).map(|(_, change)| change).collect()
    })
}

fn any_change() -> impl Strategy<Value = RowChange> {
    prop_oneof![
        2 => any_columns(true).prop_map(RowChange::Insert),
        6 => any_columns(false).prop_map(RowChange::Update),
        1 => Just(RowChange::Delete),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let at = || 0..REPLICAS as usize;
    prop_oneof![
        4 => (at(), any_change()).prop_map(|(at, change)| Step::Change(at, change)),
        1 => (at(), at(), prop_oneof![Just(STOCK), Just(SEATS)], any::<bool>(), 0..4u64).prop_map(
            |(from, to, column, take, amount)| {
                Step::Give(from, to, column, if take { Side::Take } else { Side::Add }, amount)
            }
        ),
        6 => (0..24usize, at()).prop_map(|(number, to)| Step::Deliver(number, to)),
    ]
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any_step(), 0..40)
}

fn any_forgetful_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![5 => any_step(), 1 => (0..REPLICAS as usize).prop_map(Step::Collect)];
    proptest::collection::vec(step, 0..50)
}

/// What users and other replicas can tell apart.
fn seen(row: &RowState) -> (bool, BTreeMap<ColumnId, Value>) {
    let cells = row.cells.iter().map(|(column, cell)| (*column, cell.shown()));
    (row.is_live(), cells.collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn replicas_that_were_told_the_same_hold_the_same(steps in any_steps(), a: u64, b: u64) {
        let mut one = History::of(&steps);
        let mut other = History::of(&steps);
        one.settle(a);
        other.settle(b);
        let first = &one.replicas[0];
        for replica in one.replicas.iter().chain(&other.replicas) {
            prop_assert_eq!(&replica.vector, &first.vector);
            prop_assert_eq!(&replica.row, &first.row);
        }
    }

    #[test]
    fn joining_is_commutative_associative_and_idempotent(steps in any_steps()) {
        let history = History::of(&steps);
        let [a, b, c] = &history.replicas[..] else { panic!("three replicas") };
        prop_assert_eq!(&a.joined(b).row, &b.joined(a).row);
        prop_assert_eq!(&a.joined(b).joined(c).row, &a.joined(&b.joined(c)).row);
        prop_assert_eq!(&a.joined(a).row, &a.row);
        prop_assert_eq!(&a.joined(b).joined(b).row, &a.joined(b).row);
    }

    #[test]
    fn a_delta_may_come_again_and_whole_states_may_come_instead(steps in any_steps(), choice: u64) {
        let mut history = History::of(&steps);
        let all = history.replicas.iter().fold(Replica::default(), |all, r| all.joined(r));
        history.settle(choice);
        prop_assert_eq!(&all.row, &history.replicas[0].row);
        for delta in &history.deltas {
            let mut again = history.replicas[0].clone();
            let context = JoinContext { here: &again.vector.clone(), author: &delta.author_seen() };
            again.row.join(&delta.rows[0].1, context, &mut again.lost);
            prop_assert_eq!(&again.row, &history.replicas[0].row);
        }
    }

    /// What a write overwrites without having seen it is told of, everywhere once.
    #[test]
    fn no_value_vanishes_silently(steps in any_steps(), choice: u64) {
        let mut history = History::of(&steps);
        history.settle(choice);
        let registers = |delta: &Delta| match delta.rows[0].1.cells.get(&PLAIN) {
            Some(Cell::Register(register)) => Some(register.clone()),
            _ => None,
        };
        let last = &history.replicas[0].row;
        for delta in &history.deltas {
            let Some(register) = registers(delta) else { continue };
            let stands = matches!(last.cells.get(&PLAIN), Some(Cell::Register(r)) if r.stamp == register.stamp);
            // Overwritten by somebody who knew, or deleted by somebody who knew.
            let knew = history.deltas.iter().any(|later| {
                let same = later.rows[0].1.life.count > delta.rows[0].1.life.count || registers(later).is_some();
                later.at > delta.at && same && later.author_seen().covers(delta.stamp())
            });
            for replica in &history.replicas {
                let told = replica.lost.iter().any(|l| l.lost_stamp == register.stamp);
                let equal = history.deltas.iter().filter(|d| d.at != delta.at).filter_map(registers).any(|r| r.value == register.value);
                prop_assert!(stands || knew || told || equal, "{} was lost on {}", register.stamp, replica.node);
            }
        }
    }

    #[test]
    fn what_every_replica_has_can_be_forgotten(steps in any_forgetful_steps(), choice: u64) {
        let mut history = History::of(&steps);
        history.settle(choice);
        let stable = history.stable();
        for replica in &mut history.replicas {
            replica.row.collect(&stable);
        }
        let first = seen(&history.replicas[0].row);
        for replica in &history.replicas {
            prop_assert_eq!(&seen(&replica.row), &first);
            // Nothing is left of a deleted row, nor of elements that were taken out.
            prop_assert!(replica.row.is_live() || replica.row.is_blank());
        }
    }

    #[test]
    fn what_is_stored_is_the_state_again(steps in any_steps()) {
        for replica in History::of(&steps).replicas {
            let (visible, trace) = (replica.row.visible(), replica.row.trace());
            prop_assert_eq!(RowState::load(visible.as_deref(), trace.as_deref()).unwrap(), replica.row);
        }
    }

    #[test]
    fn bytes_from_anywhere_are_answered(visible: Vec<u8>, mut trace: Vec<u8>) {
        let _ = Delta::decode(&trace);
        let _ = RowState::load(Some(&visible), Some(&trace));
        trace.insert(0, 1);
        let _ = Delta::decode(&trace);
        let _ = RowState::load(Some(&visible), Some(&trace));
        let _ = RowState::load(None, Some(&trace));
    }
}

#[test]
fn a_row_that_was_never_changed_takes_few_bytes_of_trace() {
    let columns = (0..12).map(|n| (ColumnId(n), ColumnChange::Set(Value::Int4(7)))).collect();
    let stamp = Stamp { at: Timestamp(1_800_000_000_000_000_000), origin: NodeId(3) };
    let row = RowState::default().change(&RowChange::Insert(columns), stamp, &[]).unwrap();
    assert!(row.trace().unwrap().len() <= 20, "{}", row.trace().unwrap().len());
}
