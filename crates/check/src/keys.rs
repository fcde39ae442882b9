//! Unique and foreign keys while clients race for them.
//!
//! A unique name is a register with two values: a row is there, or it is not. An
//! insert that succeeded found none, one that was refused as a duplicate found
//! one, and so for deletes; hence each name is judged by linearizability
//! ([`crate::register`]). Reads show each name once. A child that was inserted has
//! its parent: every read of the children in one statement shows all of them, and
//! the last one has whoever was acknowledged.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::append::who;
use crate::finding::{Anomaly, Findings};
use crate::history::{KeyAction, Operation, Outcome, ParentChange, RegisterAccess};
use crate::register::{Call, Verdict, linearize, tell};

/// Judges unique and foreign keys.
pub fn check(history: &[Operation<KeyAction>]) -> Findings {
    let mut findings = Findings::default();
    check_reads(history, &mut findings);
    check_adoptions(history, &mut findings);
    check_names(history, &mut findings);
    findings
}

fn check_reads(history: &[Operation<KeyAction>], findings: &mut Findings) {
    for reader in history.iter().filter(|operation| operation.is_ok()) {
        match &reader.action {
            KeyAction::Names(names) => {
                let mut seen = HashSet::new();
                for name in names.iter().filter(|name| !seen.insert(**name)) {
                    findings.add(Anomaly::DuplicateKey, || {
                        vec![format!("{} read two rows with the unique name {name}", who(reader))]
                    });
                }
            }
            KeyAction::Children(children) => {
                for (child, parent, _) in children.iter().filter(|(_, _, there)| !there) {
                    findings.add(Anomaly::Orphan, || {
                        vec![format!("{} read child {child} of parent {parent}, and that is not there", who(reader))]
                    });
                }
            }
            _ => {}
        }
    }
}

/// Children are never deleted, so whoever was acknowledged stays.
fn check_adoptions(history: &[Operation<KeyAction>], findings: &mut Findings) {
    let mut adopted: HashMap<u64, &Operation<KeyAction>> = HashMap::new();
    let mut failed = HashSet::new();
    for operation in history {
        if let KeyAction::Adopt { child, refused, .. } = operation.action {
            match operation.outcome {
                Outcome::Ok if !refused => drop(adopted.insert(child, operation)),
                Outcome::Unknown => {}
                _ => drop(failed.insert(child)),
            }
        }
    }
    let reads = history.iter().filter(|operation| operation.is_ok());
    for (reader, children) in reads.filter_map(|o| match &o.action {
        KeyAction::Children(children) => Some((o, children)),
        _ => None,
    }) {
        let seen: HashSet<u64> = children.iter().map(|(child, _, _)| *child).collect();
        if let Some(child) = seen.iter().find(|child| failed.contains(*child)) {
            findings.add(Anomaly::AbortedRead, || {
                vec![format!("{} read child {child}, whose insert had been refused", who(reader))]
            });
        }
        for (child, by) in &adopted {
            if by.precedes(reader) && !seen.contains(child) {
                findings.add(Anomaly::Lost, || {
                    vec![
                        format!("{} inserted child {child}, acknowledged", who(by)),
                        format!("{} read all children later, without it", who(reader)),
                    ]
                });
            }
        }
    }
}

fn check_names(history: &[Operation<KeyAction>], findings: &mut Findings) {
    let mut names: BTreeMap<(bool, u64), Vec<Call>> = BTreeMap::new();
    let (absent, present) = (None, Some(1));
    let insert = |refused: bool| RegisterAccess::CompareAndSet { from: absent, to: present, matched: !refused };
    let delete = |found: bool| RegisterAccess::CompareAndSet { from: present, to: absent, matched: found };
    for o in history {
        let (of_name, number, access) = match o.action {
            KeyAction::Claim { name, taken } => (true, name, insert(taken)),
            KeyAction::Release { name, found } => (true, name, delete(found)),
            KeyAction::Parent { parent, change } => (
                false,
                parent,
                match change {
                    ParentChange::Inserted => insert(false),
                    ParentChange::AlreadyThere => insert(true),
                    ParentChange::Deleted => delete(true),
                    ParentChange::Absent => delete(false),
                    ParentChange::HasChildren => RegisterAccess::Read(present),
                },
            ),
            KeyAction::Adopt { parent, refused, .. } => {
                (false, parent, RegisterAccess::Read(if refused { absent } else { present }))
            }
            KeyAction::Names(_) | KeyAction::Children(_) => continue,
        };
        if let Some(call) = Call::new(&access, o.invoked, o.latest(), o.process, o.outcome) {
            names.entry((of_name, number)).or_default().push(call);
        }
    }
    for ((of_name, number), calls) in names {
        let what = format!("{} {number} (1: the row is there)", if of_name { "unique name" } else { "parent" });
        match linearize(&calls, absent) {
            Verdict::Linearizable => {}
            Verdict::Undecided => findings.undecided.push(format!("{what}: undecided")),
            Verdict::Not { prefix } => findings.add(Anomaly::NotLinearizable, || tell(&what, &calls, &prefix)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use KeyAction::{Adopt, Children, Claim, Names, Parent, Release};

    fn op(times: (u64, u64), outcome: Outcome, action: KeyAction) -> Operation<KeyAction> {
        Operation { process: times.0, invoked: times.0, completed: times.1, outcome, action, error: None }
    }

    /// One after the other, all acknowledged.
    fn names(actions: &[KeyAction]) -> Vec<String> {
        let at = |n: usize| (n as u64 * 10, n as u64 * 10 + 5);
        let history: Vec<_> = actions.iter().enumerate().map(|(n, a)| op(at(n), Outcome::Ok, a.clone())).collect();
        check(&history).counts().keys().map(ToString::to_string).collect()
    }

    #[test]
    fn known_answers_of_unique_keys() {
        let (claim, refused) = (Claim { name: 1, taken: false }, Claim { name: 1, taken: true });
        let (release, nothing) = (Release { name: 1, found: true }, Release { name: 1, found: false });
        assert_eq!(names(&[nothing.clone(), claim.clone(), refused.clone(), release.clone(), claim.clone()]), [""; 0]);
        assert_eq!(names(&[claim.clone(), claim.clone()]), ["not-linearizable"]);
        assert_eq!(names(&[refused]), ["not-linearizable"], "refused without a reason");
        assert_eq!(names(&[claim, nothing]), ["not-linearizable"], "the row is gone");
        assert_eq!(names(&[Names(vec![1, 2, 1])]), ["duplicate-key"]);
        let unknown = op((0, 5), Outcome::Unknown, Claim { name: 1, taken: false });
        let free = op((10, 15), Outcome::Ok, release);
        assert!(check(&[unknown, free]).is_clean());
    }

    #[test]
    fn known_answers_of_foreign_keys() {
        let parent = |change| Parent { parent: 1, change };
        let adopt = |refused| Adopt { parent: 1, child: 7, refused };
        let born = parent(ParentChange::Inserted);
        let gone = parent(ParentChange::Deleted);
        assert_eq!(names(&[adopt(true), born.clone(), adopt(false), parent(ParentChange::HasChildren)]), [""; 0]);
        assert_eq!(names(&[born.clone(), gone.clone(), parent(ParentChange::Absent)]), [""; 0]);
        assert_eq!(names(&[born.clone(), gone, adopt(false)]), ["not-linearizable"], "no such parent");
        assert_eq!(names(&[Children(vec![(7, 1, false)])]), ["orphan"]);
        assert_eq!(names(&[born.clone(), adopt(false), Children(vec![])]), ["lost"]);
        assert_eq!(names(&[adopt(true), born, Children(vec![(7, 1, true)])]), ["G1a"]);
    }

    #[test]
    fn planted_duplicates_are_found() {
        for seed in 1..60 {
            let mut random = Random::new(seed);
            let (mut there, mut history) = ([false; 8], Vec::new());
            for n in 0..300u64 {
                let name = random.below(8);
                let row = &mut there[name as usize];
                let moment = 1000 + n * 10;
                let times = (moment - random.below(40), moment + random.below(40));
                let action = if random.chance(50) {
                    Claim { name, taken: std::mem::replace(row, true) }
                } else {
                    Release { name, found: std::mem::replace(row, false) }
                };
                history.push(op(times, Outcome::Ok, action));
            }
            assert!(check(&history).is_clean(), "seed {seed}");
            let name = random.below(8);
            history.push(op((9000, 9001), Outcome::Ok, Claim { name, taken: false }));
            history.push(op((9002, 9003), Outcome::Ok, Claim { name, taken: false }));
            assert!(check(&history).has(Anomaly::NotLinearizable), "seed {seed}");
        }
    }
}
