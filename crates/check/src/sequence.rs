//! Sequences: a number is given once, to one client, whatever became of the
//! transaction that took it. Gaps are no fault, nor is the order.

use std::collections::HashMap;

use crate::append::who;
use crate::finding::{Anomaly, Findings};
use crate::history::{Operation, SequenceAction};

/// Judges the numbers that clients saw.
pub fn check(history: &[Operation<SequenceAction>]) -> Findings {
    let mut findings = Findings::default();
    let mut given: HashMap<(u64, i64), &Operation<SequenceAction>> = HashMap::new();
    for operation in history {
        let sequence = operation.action.sequence;
        for &value in &operation.action.values {
            if let Some(other) = given.insert((sequence, value), operation) {
                findings.add(Anomaly::NumberReused, || {
                    vec![
                        format!("{} got {value} from sequence {sequence}", who(other)),
                        format!("{} got it too", who(operation)),
                    ]
                });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Outcome;
    use crate::random::Random;

    fn took(process: u64, outcome: Outcome, values: &[i64]) -> Operation<SequenceAction> {
        let action = SequenceAction { sequence: process % 2, values: values.to_vec() };
        Operation { process, invoked: process, completed: process + 5, outcome, action, error: None }
    }

    #[test]
    fn known_answers() {
        let clean = |history: &[_]| check(history).is_clean();
        assert!(clean(&[took(0, Outcome::Ok, &[1, 2]), took(2, Outcome::Ok, &[4, 3]), took(1, Outcome::Ok, &[1])]));
        assert!(!clean(&[took(0, Outcome::Ok, &[1]), took(2, Outcome::Ok, &[1])]));
        assert!(!clean(&[took(0, Outcome::Failed, &[1]), took(2, Outcome::Ok, &[1])]), "rolled back, yet given");
        assert!(!clean(&[took(0, Outcome::Unknown, &[7, 7])]));
    }

    #[test]
    fn a_planted_reuse_is_found_in_any_place() {
        for seed in 1..100 {
            let mut random = Random::new(seed);
            let mut history: Vec<_> =
                (0..200).map(|n| took(n, Outcome::Ok, &[n as i64 * 2, n as i64 * 2 + 1])).collect();
            assert!(check(&history).is_clean(), "seed {seed}");
            let (a, b) = (random.below(100) as usize * 2, random.below(100) as usize * 2);
            if a != b {
                history[a].action.values[1] = history[b].action.values[0];
                assert_eq!(check(&history).counts().get(&Anomaly::NumberReused), Some(&1), "seed {seed}");
            }
        }
    }
}
