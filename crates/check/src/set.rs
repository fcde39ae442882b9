//! Sets: what was added and acknowledged is in every later read, once; what is in
//! a read was added.

use std::collections::{HashMap, HashSet};

use crate::append::who;
use crate::finding::{Anomaly, Findings};
use crate::history::{Operation, Outcome, SetAction};

/// What is known of an element.
struct Element<'a> {
    added: &'a Operation<SetAction>,
    /// When the last read that has it began.
    last_seen: Option<u64>,
    /// The last read that ought to have it and has not, and when that began.
    missing: Option<&'a Operation<SetAction>>,
}

/// Judges sets. Takes as long as the reads are, all together.
pub fn check(history: &[Operation<SetAction>]) -> Findings {
    let mut findings = Findings::default();
    let mut sets: HashMap<u64, HashMap<u64, Element>> = HashMap::new();
    for operation in history {
        if let SetAction::Add { set, element } = operation.action {
            let new = Element { added: operation, last_seen: None, missing: None };
            if sets.entry(set).or_default().insert(element, new).is_some() {
                findings.undecided.push(format!("element {element} was added to set {set} twice: a broken workload"));
            }
        }
    }
    for reader in history.iter().filter(|operation| operation.is_ok()) {
        if let SetAction::Read { set, elements } = &reader.action {
            read(reader, *set, elements, sets.entry(*set).or_default(), &mut findings);
        }
    }
    for (set, elements) in &sets {
        for (element, known) in elements {
            let Some(missing) = known.missing else { continue };
            // Seen again later: it was there all along, and only that read was stale.
            let gone = known.last_seen.is_none_or(|seen| seen < missing.invoked);
            findings.add(if gone { Anomaly::Lost } else { Anomaly::StaleRead }, || {
                vec![
                    format!("{} added {element} to set {set}, acknowledged", who(known.added)),
                    format!("{} read the set later, without it", who(missing)),
                ]
            });
        }
    }
    findings
}

fn read<'a>(
    reader: &'a Operation<SetAction>,
    set: u64,
    elements: &[u64],
    known: &mut HashMap<u64, Element<'a>>,
    findings: &mut Findings,
) {
    let mut seen = HashSet::with_capacity(elements.len());
    for element in elements {
        if !seen.insert(*element) {
            findings.add(Anomaly::Duplicate, || vec![format!("{} read set {set} with {element} twice", who(reader))]);
        }
        match known.get_mut(element) {
            None => findings.add(Anomaly::Garbage, || {
                vec![format!("{} read {element} in set {set}, which nobody added", who(reader))]
            }),
            Some(known) => {
                known.last_seen = known.last_seen.max(Some(reader.invoked));
                if known.added.outcome == Outcome::Failed {
                    findings.add(Anomaly::AbortedRead, || {
                        vec![
                            format!("{} read {element} in set {set}", who(reader)),
                            format!("{} failed to add it", who(known.added)),
                        ]
                    });
                }
            }
        }
    }
    for (element, known) in known.iter_mut() {
        let due = known.added.is_ok() && known.added.precedes(reader);
        if due && !seen.contains(element) && known.missing.is_none_or(|other| other.invoked < reader.invoked) {
            known.missing = Some(reader);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn op(times: (u64, u64), outcome: Outcome, action: SetAction) -> Operation<SetAction> {
        Operation { process: times.0, invoked: times.0, completed: times.1, outcome, action, error: None }
    }

    fn add(times: (u64, u64), outcome: Outcome, element: u64) -> Operation<SetAction> {
        op(times, outcome, SetAction::Add { set: 1, element })
    }

    fn saw(times: (u64, u64), elements: &[u64]) -> Operation<SetAction> {
        op(times, Outcome::Ok, SetAction::Read { set: 1, elements: elements.to_vec() })
    }

    fn names(history: &[Operation<SetAction>]) -> Vec<String> {
        check(history).counts().keys().map(ToString::to_string).collect()
    }

    #[test]
    fn known_answers() {
        let ok = add((0, 10), Outcome::Ok, 7);
        assert_eq!(names(&[ok.clone(), saw((5, 8), &[]), saw((11, 12), &[7])]), [""; 0]);
        assert_eq!(names(&[ok.clone(), saw((11, 12), &[])]), ["lost"]);
        assert_eq!(names(&[ok.clone(), saw((11, 12), &[7]), saw((13, 14), &[])]), ["lost"]);
        assert_eq!(names(&[ok.clone(), saw((11, 12), &[]), saw((13, 14), &[7])]), ["stale-read"]);
        assert_eq!(names(&[ok.clone(), saw((11, 12), &[7, 7])]), ["duplicate"]);
        assert_eq!(names(&[ok, saw((11, 12), &[7, 8])]), ["garbage"]);
        assert_eq!(names(&[add((0, 10), Outcome::Failed, 7), saw((11, 12), &[7])]), ["G1a"]);
        let unknown = add((0, 10), Outcome::Unknown, 7);
        assert_eq!(names(&[unknown, saw((11, 12), &[]), saw((13, 14), &[7])]), [""; 0]);
    }

    #[test]
    fn a_planted_loss_is_found() {
        for seed in 1..100 {
            let mut random = Random::new(seed);
            let (mut history, mut there) = (Vec::new(), Vec::new());
            for moment in 0..200 {
                let at = moment * 10 + 50;
                let times = (at - random.below(30), at + random.below(30));
                let outcome = *random.pick(&[Outcome::Ok, Outcome::Ok, Outcome::Unknown, Outcome::Failed]);
                if outcome == Outcome::Ok || outcome == Outcome::Unknown && random.chance(50) {
                    there.push(moment);
                }
                history.push(add(times, outcome, moment));
                if random.chance(20) {
                    history.push(saw((at, at + 9), &there));
                }
            }
            history.push(saw((5000, 5001), &there));
            assert_eq!(names(&history), [""; 0], "seed {seed}");
            let acknowledged: Vec<u64> = history
                .iter()
                .filter(|o| o.is_ok())
                .filter_map(|o| match o.action {
                    SetAction::Add { element, .. } => Some(element),
                    _ => None,
                })
                .collect();
            let victim = *random.pick(&acknowledged);
            there.retain(|element| *element != victim);
            history.push(saw((6000, 6001), &there));
            assert_eq!(names(&history), ["lost"], "seed {seed}");
        }
    }
}
