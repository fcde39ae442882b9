//! Clients on a session that answers by rote.

use std::collections::HashMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::history::{Access, KeyAction, RegisterAccess};

/// Runs a future that never waits.
fn now_or_never<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the session does not wait"),
    }
}

/// Answers every statement alike, but for those that begin with a given word.
#[derive(Default)]
struct Rote {
    statements: Vec<String>,
    failures: HashMap<&'static str, Failure>,
    rows: Vec<Row>,
    count: u64,
}

impl Session for Rote {
    async fn execute(&mut self, sql: &str) -> Result<Answer, Failure> {
        self.statements.push(sql.into());
        match self.failures.iter().find(|(word, _)| sql.starts_with(**word)) {
            Some((_, failure)) => Err(failure.clone()),
            None => Ok(Answer { rows: self.rows.clone(), count: self.count }),
        }
    }

    fn now(&self) -> u64 {
        self.statements.len() as u64
    }
}

fn refused(sqlstate: &str) -> Failure {
    Failure::Refused { sqlstate: sqlstate.into(), message: "no".into() }
}

/// What becomes of the first operation of a workload whose statements include `word`, if that fails.
fn outcome(workload: Workload, word: &'static str, failure: Failure) -> Line {
    for seed in 0..1000 {
        let mut session = Rote { failures: HashMap::from([(word, failure.clone())]), count: 1, ..Rote::default() };
        let mut client = Client::new(workload, "t", Isolation::Serializable, 1, seed);
        let line = now_or_never(client.next(&mut session, 1, 0));
        if session.statements.iter().any(|sql| sql.starts_with(word)) {
            return line;
        }
    }
    panic!("no operation says {word}");
}

fn append_outcome(word: &'static str, failure: Failure) -> Outcome {
    match outcome(Workload::Append, word, failure) {
        Line::Append(operation) => operation.outcome,
        other => panic!("{other:?} is of another workload"),
    }
}

#[test]
fn only_what_decides_leaves_an_outcome_unknown() {
    assert_eq!(append_outcome("COMMIT", Failure::Lost("gone".into())), Outcome::Unknown);
    assert_eq!(append_outcome("COMMIT", refused("40003")), Outcome::Unknown);
    assert_eq!(append_outcome("COMMIT", refused("57P01")), Outcome::Unknown);
    assert_eq!(append_outcome("COMMIT", refused("40001")), Outcome::Failed);
    assert_eq!(append_outcome("UPDATE", Failure::Lost("gone".into())), Outcome::Failed, "COMMIT was never sent");
    assert_eq!(append_outcome("BEGIN", Failure::Lost("gone".into())), Outcome::Failed);
    let Line::Register(lone) = outcome(Workload::Register, "UPDATE", Failure::Lost("gone".into())) else {
        panic!("another workload")
    };
    assert_eq!(lone.outcome, Outcome::Unknown, "a lone statement decides");
    assert_eq!(lone.error.as_deref(), Some("connection lost: gone"));
}

#[test]
fn a_broken_key_is_an_answer() {
    let Line::Keys(claim) = outcome(Workload::Keys, "INSERT INTO t_names", refused("23505")) else {
        panic!("another workload")
    };
    assert_eq!(claim.outcome, Outcome::Ok);
    assert!(matches!(claim.action, KeyAction::Claim { taken: true, .. }), "{claim:?}");
}

#[test]
fn answers_are_written_down() {
    for seed in 0..50 {
        let rows = vec![vec![Some("3".into())]];
        let mut session = Rote { rows, count: 0, ..Rote::default() };
        let mut client = Client::new(Workload::Register, "t", Isolation::Serializable, 1, seed);
        let Line::Register(operation) = now_or_never(client.next(&mut session, 9, 0)) else {
            panic!("another workload")
        };
        assert_eq!((operation.process, operation.outcome), (9, Outcome::Ok));
        match operation.action.access {
            RegisterAccess::Read(seen) => assert_eq!(seen, Some(3)),
            RegisterAccess::CompareAndSet { matched, .. } => assert!(!matched, "no row was changed"),
            RegisterAccess::Write(_) => {}
        }
    }
}

#[test]
fn the_same_seed_says_the_same() {
    for workload in Workload::STRONG.into_iter().chain(Workload::EVENTUAL) {
        let run = |seed| {
            let mut session = Rote { count: 1, ..Rote::default() };
            let mut client = Client::new(workload, "t", Isolation::ReadCommitted, 3, seed);
            let lines: Vec<Line> = (0..50).map(|age| now_or_never(client.next(&mut session, 3, age))).collect();
            (session.statements, lines)
        };
        assert_eq!(run(1), run(1), "{}", workload.name());
        assert_ne!(run(1).0, run(2).0, "{}", workload.name());
    }
}

#[test]
fn the_grammar_is_wide_and_elements_are_unique() {
    let mut session = Rote { count: 1, ..Rote::default() };
    let mut elements = std::collections::HashSet::new();
    let mut undone = 0;
    for number in 0..4 {
        let mut client = Client::new(Workload::Append, "t", Isolation::Serializable, number, 5);
        for age in 0..300 {
            let Line::Append(operation) = now_or_never(client.next(&mut session, number, age)) else {
                panic!("another workload")
            };
            for access in operation.action.0 {
                if let Access::Append { element, undone: taken_back, .. } = access {
                    assert!(elements.insert(element), "{element} twice");
                    undone += usize::from(taken_back);
                }
            }
        }
    }
    assert!(undone > 0);
    for part in
        ["id >=", "bucket =", "FOR UPDATE", "ON CONFLICT", "UPDATE t_lists SET val = val ||", "ROLLBACK TO", "RELEASE"]
    {
        assert!(session.statements.iter().any(|sql| sql.contains(part)), "nobody said {part}");
    }
}
