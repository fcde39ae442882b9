//! The table against its own invariants. What transactions see of it is in the
//! golden scripts (`scripts/locks.txt`).

use std::collections::BTreeMap;

use polity_base::Key;
use proptest::prelude::*;

use super::table::*;
use super::*;

fn id(number: u64) -> TransactionId {
    TransactionId { node: NodeId(1), number }
}

const MODES: [LockMode; 4] = [LockMode::KeyShare, LockMode::Share, LockMode::NoKeyExclusive, LockMode::Exclusive];

#[test]
fn modes_conflict_as_postgresqls_do() {
    let rows: Vec<String> =
        MODES.iter().map(|a| MODES.iter().map(|b| if a.conflicts(*b) { 'x' } else { '.' }).collect()).collect();
    assert_eq!(rows, ["...x", "..xx", ".xxx", "xxxx"]);
}

#[derive(Clone, Debug)]
enum Step {
    Request { owner: u64, key: u8, mode: usize, wait: bool },
    Cancel(u64),
    Release(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u64..6, 0u8..3, 0usize..4, any::<bool>())
            .prop_map(|(owner, key, mode, wait)| Step::Request { owner, key, mode, wait }),
        1 => (0u64..6).prop_map(Step::Cancel),
        2 => (0u64..6).prop_map(Step::Release),
    ];
    proptest::collection::vec(step, 1..80)
}

/// What every owner holds and waits for, as the replies told.
#[derive(Default)]
struct Told {
    held: BTreeMap<(u64, u8), LockMode>,
    waits: BTreeMap<u64, (u8, LockMode)>,
}

impl Told {
    fn granted(&mut self, owners: Vec<TransactionId>) {
        for TransactionId { number: owner, .. } in owners {
            let (key, mode) = self.waits.remove(&owner).expect("only waiters are granted");
            self.hold(owner, key, mode);
        }
    }

    fn hold(&mut self, owner: u64, key: u8, mode: LockMode) {
        let held = self.held.entry((owner, key)).or_insert(mode);
        *held = mode.max(*held);
    }

    fn check(&self, table: &LockTable) {
        for ((a, key), mode) in &self.held {
            for ((b, _), other) in self.held.iter().filter(|((b, k), _)| k == key && b != a) {
                assert!(!mode.conflicts(*other), "{a} and {b} hold key {key}");
            }
        }
        // The list is what was told, and nothing else.
        let listed: BTreeMap<_, _> =
            table.all().into_iter().map(|l| ((l.owner.number, l.key.0[0], l.granted), l.mode)).collect();
        let held = self.held.iter().map(|((owner, key), mode)| ((*owner, *key, true), *mode));
        let waits = self.waits.iter().map(|(owner, (key, mode))| ((*owner, *key, false), *mode));
        assert_eq!(listed, held.chain(waits).collect::<BTreeMap<_, _>>());
        // Whoever waits waits for someone, and following that ends somewhere.
        for &owner in self.waits.keys() {
            let mut front = vec![(owner, 0)];
            while let Some((next, depth)) = front.pop() {
                assert!(depth < 10, "a cycle was not found");
                let blockers = table.blockers(id(next));
                assert_eq!(blockers.is_empty(), !self.waits.contains_key(&next), "{next} waits for nobody");
                front.extend(blockers.into_iter().map(|b| (b.number, depth + 1)));
            }
        }
    }
}

proptest! {
    #[test]
    fn holders_never_conflict_and_waiters_always_wait_for_someone(steps in steps()) {
        let mut table = LockTable::default();
        let mut told = Told::default();
        for step in steps {
            match step {
                Step::Request { owner, key, mode, wait } => {
                    if told.waits.contains_key(&owner) {
                        continue;
                    }
                    match table.request(id(owner), &Key::from(vec![key]), MODES[mode], wait) {
                        Reply::Granted => told.hold(owner, key, MODES[mode]),
                        Reply::Queued => drop(told.waits.insert(owner, (key, MODES[mode]))),
                        Reply::Refused(blockers) => assert!(!wait && !blockers.is_empty()),
                        Reply::Deadlock(cycle) => {
                            assert_eq!(cycle[0].waiter.number, owner);
                            let ends = cycle.iter().zip(cycle.iter().cycle().skip(1));
                            ends.for_each(|(wait, next)| assert_eq!(wait.blocker, next.waiter));
                        }
                    }
                }
                Step::Cancel(owner) => {
                    told.waits.remove(&owner);
                    told.granted(table.cancel(id(owner)));
                }
                Step::Release(owner) => {
                    told.waits.remove(&owner);
                    told.held.retain(|(o, _), _| *o != owner);
                    told.granted(table.release_all(id(owner)));
                }
            }
            told.check(&table);
        }
        for owner in 0..6 {
            told.waits.remove(&owner);
            told.held.retain(|(o, _), _| *o != owner);
            told.granted(table.release_all(id(owner)));
        }
        prop_assert!(table.is_empty());
    }
}
