//! A bank: transfers move money, and none appears or vanishes.
//!
//! Every read of all balances within one transaction must add up to what the bank
//! opened with, show every account, and none below zero. If no outcome is
//! unknown, the last read must also be what the acknowledged transfers make of
//! the opening balances: a transfer that was lost as a whole keeps the total.

use std::collections::BTreeMap;

use crate::append::who;
use crate::finding::{Anomaly, Findings};
use crate::history::{BankAction, Operation, Outcome};

/// By account.
type Balances = Vec<(u64, i64)>;

/// Judges a bank; its first operation opens it.
pub fn check(history: &[Operation<BankAction>]) -> Findings {
    let mut findings = Findings::default();
    let Some(opening) = history.iter().find_map(|operation| match &operation.action {
        BankAction::Open(balances) => Some(balances),
        _ => None,
    }) else {
        if !history.is_empty() {
            findings.undecided.push("the bank was never opened".into());
        }
        return findings;
    };
    let total: i128 = opening.iter().map(|(_, balance)| i128::from(*balance)).sum();
    let reads = || {
        history.iter().filter(|operation| operation.is_ok()).filter_map(|operation| match &operation.action {
            BankAction::Read(balances) => Some((operation, balances)),
            _ => None,
        })
    };
    for (reader, balances) in reads() {
        let sum: i128 = balances.iter().map(|(_, balance)| i128::from(*balance)).sum();
        if sum != total {
            findings.add(Anomaly::WrongTotal, || {
                vec![format!("{} read {}", who(reader), list(balances)), format!("which is {sum}, not {total}")]
            });
        }
        if balances.iter().map(|(account, _)| account).ne(opening.iter().map(|(account, _)| account)) {
            findings.add(Anomaly::Lost, || {
                vec![
                    format!("{} read {}", who(reader), list(balances)),
                    format!("but it opened with {}", list(opening)),
                ]
            });
        }
        if let Some((account, balance)) = balances.iter().find(|(_, balance)| *balance < 0) {
            findings.add(Anomaly::NegativeBalance, || {
                vec![format!("{} read {}", who(reader), list(balances)), format!("account {account} has {balance}")]
            });
        }
    }
    check_last(history, opening, reads().max_by_key(|(reader, _)| reader.invoked), &mut findings);
    findings
}

/// Judges the last read by what was acknowledged.
fn check_last(
    history: &[Operation<BankAction>],
    opening: &[(u64, i64)],
    last: Option<(&Operation<BankAction>, &Balances)>,
    findings: &mut Findings,
) {
    let Some((reader, seen)) = last else { return };
    let mut expected: BTreeMap<u64, i64> = opening.iter().copied().collect();
    for operation in history {
        let BankAction::Transfer { from, to, amount, applied } = operation.action else { continue };
        match operation.outcome {
            Outcome::Failed => {}
            Outcome::Ok if operation.precedes(reader) => {
                if applied {
                    *expected.entry(from).or_default() -= amount;
                    *expected.entry(to).or_default() += amount;
                }
            }
            // It may or may not be in what was read.
            _ => return,
        }
    }
    let expected: Vec<_> = expected.into_iter().collect();
    let same_sum = seen.iter().map(|(_, b)| b).sum::<i64>() == expected.iter().map(|(_, b)| b).sum::<i64>();
    if *seen != expected && same_sum {
        findings.add(Anomaly::Lost, || {
            vec![
                format!("{} read {}", who(reader), list(seen)),
                format!("but the acknowledged transfers come to {}", list(&expected)),
            ]
        });
    }
}

fn list(balances: &[(u64, i64)]) -> String {
    let all: Vec<String> = balances.iter().map(|(account, balance)| format!("{account}: {balance}")).collect();
    format!("{{{}}}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn at(moment: u64, outcome: Outcome, action: BankAction) -> Operation<BankAction> {
        Operation { process: moment, invoked: moment * 10, completed: moment * 10 + 5, outcome, action, error: None }
    }

    fn names(history: &[Operation<BankAction>]) -> Vec<String> {
        check(history).counts().keys().map(ToString::to_string).collect()
    }

    #[test]
    fn known_answers() {
        let open = at(0, Outcome::Ok, BankAction::Open(vec![(1, 50), (2, 50)]));
        let transfer = at(1, Outcome::Ok, BankAction::Transfer { from: 1, to: 2, amount: 20, applied: true });
        let read = |balances: &[(u64, i64)]| at(9, Outcome::Ok, BankAction::Read(balances.to_vec()));
        let with = |balances: &[(u64, i64)]| names(&[open.clone(), transfer.clone(), read(balances)]);
        assert_eq!(with(&[(1, 30), (2, 70)]), [""; 0]);
        assert_eq!(with(&[(1, 30), (2, 50)]), ["wrong-total"]);
        assert_eq!(with(&[(1, -10), (2, 110)]), ["lost", "negative-balance"]);
        assert_eq!(with(&[(1, 50), (2, 50)]), ["lost"], "the transfer is gone as a whole");
        assert_eq!(with(&[(1, 100)]), ["lost"], "an account is gone");
        let unknown = Operation { outcome: Outcome::Unknown, ..transfer.clone() };
        assert_eq!(names(&[open.clone(), unknown, read(&[(1, 50), (2, 50)])]), [""; 0]);
    }

    #[test]
    fn serial_histories_are_clean_and_a_planted_half_is_found() {
        for seed in 1..50 {
            let mut random = Random::new(seed);
            let mut balances: Vec<(u64, i64)> = (0..6).map(|account| (account, 100)).collect();
            let mut history = vec![at(0, Outcome::Ok, BankAction::Open(balances.clone()))];
            for moment in 1..300 {
                let (from, to) = (random.below(6), random.below(6));
                let amount = random.below(60) as i64;
                let applied = balances[from as usize].1 >= amount;
                if applied {
                    balances[from as usize].1 -= amount;
                    balances[to as usize].1 += amount;
                }
                history.push(at(moment, Outcome::Ok, BankAction::Transfer { from, to, amount, applied }));
                if moment % 5 == 4 {
                    history.push(at(moment, Outcome::Ok, BankAction::Read(balances.clone())));
                }
            }
            assert_eq!(names(&history), [""; 0], "seed {seed}");
            let last = history.len() - 1;
            if let BankAction::Read(balances) = &mut history[last].action {
                balances[random.below(6) as usize].1 += 1;
            }
            assert_eq!(names(&history), ["wrong-total"], "seed {seed}");
        }
    }
}
