//! Known answers by hand, one for each anomaly; then generated histories, clean
//! and with planted violations.

use std::collections::HashMap;

use super::check;
use crate::finding::{Anomaly, Findings, Level, Order, Phenomenon};
use crate::history::{Access, Operation, Outcome, Transaction};
use crate::random::Random;

type List = Operation<Transaction>;

fn data(phenomenon: Phenomenon) -> Anomaly {
    Anomaly::Cycle(phenomenon, Order::Data)
}

/// A transaction by hand: `a1:5` appends 5 to list 1, `r1:3,5` reads it so,
/// `u1:5` appends and takes it back.
fn txn(process: u64, times: (u64, u64), outcome: Outcome, script: &str) -> List {
    let access = |word: &str| {
        let (what, values) = word.split_once(':').expect("what:values");
        let key = what[1..].parse().expect("a key");
        let mut elements = values.split(',').filter(|v| !v.is_empty()).map(|v| v.parse().expect("an element"));
        match &what[..1] {
            "r" => Access::Read { key, elements: Some(elements.collect()) },
            kind => Access::Append { key, element: elements.next().expect("an element"), undone: kind == "u" },
        }
    };
    let action = Transaction(script.split_whitespace().map(access).collect());
    Operation { process, invoked: times.0, completed: times.1, outcome, action, error: None }
}

/// Committed transactions that all ran at the same time, each by its own client.
fn together(scripts: &[&str]) -> Findings {
    let history: Vec<List> =
        scripts.iter().enumerate().map(|(n, script)| txn(n as u64, (0, 100), Outcome::Ok, script)).collect();
    check(&history)
}

fn only(findings: &Findings) -> Vec<String> {
    findings.counts().keys().map(ToString::to_string).collect()
}

#[test]
fn what_is_serial_is_clean() {
    let findings = together(&["a1:1 r2:", "r1:1 a1:2 r1:1,2", "a2:7 r1:1,2", "r2:7 r1:1,2"]);
    assert_eq!(only(&findings), [""; 0], "{:?}", findings.stories());
}

#[test]
fn g0_writes_interleaved() {
    assert_eq!(only(&together(&["a1:1 a2:1", "a1:2 a2:2", "r1:1,2 r2:2,1"])), ["G0"]);
}

#[test]
fn g1a_reads_what_was_rolled_back() {
    let failed = txn(1, (0, 100), Outcome::Failed, "a1:1");
    assert_eq!(only(&check(&[failed.clone(), txn(2, (0, 100), Outcome::Ok, "r1:1")])), ["G1a"]);
    assert_eq!(only(&together(&["u1:1 a1:2", "r1:1,2"])), ["G1a", "dirty-update"]);
    let dirty = [failed, txn(2, (0, 100), Outcome::Ok, "a1:2"), txn(3, (0, 100), Outcome::Ok, "r1:1,2")];
    assert_eq!(only(&check(&dirty)), ["G1a", "dirty-update"]);
}

#[test]
fn g1b_reads_the_middle_of_a_transaction() {
    // The reader also comes before the writer's second append: a cycle of its own.
    assert_eq!(only(&together(&["a1:1 a1:2", "r1:1", "r1:1,2"])), ["G-single", "G1b"]);
}

#[test]
fn g1c_sees_each_other() {
    assert_eq!(only(&together(&["a1:1 r2:1", "a2:1 r1:1"])), ["G1c"]);
}

#[test]
fn g_single_lost_update_and_read_skew() {
    assert_eq!(only(&together(&["r1: a1:1", "r1: a1:2", "r1:1,2"])), ["G-single"]);
    assert_eq!(only(&together(&["a1:1 a2:1", "r1: r2:1", "r1:1 r2:1"])), ["G-single"]);
    assert_eq!(only(&together(&["a1:1", "r1: r1:1"])), ["G-single"], "a read that cannot be repeated");
}

#[test]
fn g2_item_write_skew() {
    assert_eq!(only(&together(&["r1: r2: a1:1", "r1: r2: a2:1", "r1:1 r2:1"])), ["G2-item"]);
    assert!(!together(&["r2: a1:1", "r1: a2:1", "r1:1 r2:1"]).breaks(Level::Snapshot));
    assert!(together(&["r2: a1:1", "r1: a2:1", "r1:1 r2:1"]).breaks(Level::Serializable));
}

#[test]
fn the_order_of_time_and_of_processes_counts_under_strictness_only() {
    let stale = [
        txn(1, (0, 10), Outcome::Ok, "a1:1"),
        txn(2, (20, 30), Outcome::Ok, "r1:"),
        txn(3, (5, 40), Outcome::Ok, "r1:1"),
    ];
    let findings = check(&stale);
    assert_eq!(only(&findings), ["G-single-realtime"]);
    assert!(findings.breaks(Level::StrictSerializable) && !findings.breaks(Level::Serializable));
    // The clock cannot tell which was first, but one client did both.
    let own = [
        txn(1, (0, 10), Outcome::Ok, "a1:1"),
        txn(1, (10, 30), Outcome::Ok, "r1:"),
        txn(3, (5, 40), Outcome::Ok, "r1:1"),
    ];
    assert_eq!(only(&check(&own)), ["G-single-process"]);
}

#[test]
fn an_unknown_outcome_counts_if_it_was_seen_and_only_then() {
    let lost = txn(1, (0, 10), Outcome::Unknown, "r2: a1:1");
    let other = txn(2, (20, 30), Outcome::Ok, "r1: a2:1");
    let seen = txn(3, (40, 50), Outcome::Ok, "r1:1 r2:1");
    assert!(check(&[lost.clone(), other.clone(), txn(3, (40, 50), Outcome::Ok, "r1: r2:1")]).is_clean());
    // It may have taken effect long after it was sent, but not before it read list 2 as empty.
    assert_eq!(only(&check(&[lost, other, seen])), ["G2-item"]);
}

#[test]
fn lists_that_cannot_be() {
    assert_eq!(only(&together(&["a1:1 a1:2", "a1:3", "r1:1,2,3", "r1:3,1"])), ["incompatible-order"]);
    assert_eq!(only(&together(&["a1:1", "r1:1,1"])), ["duplicate"]);
    assert_eq!(only(&together(&["a1:1", "r1:1,9"])), ["garbage"]);
    assert_eq!(only(&together(&["r1: a1:1 r1:"])), ["internal"]);
    let lost = [txn(1, (0, 10), Outcome::Ok, "a1:1"), txn(2, (20, 30), Outcome::Ok, "r1:")];
    assert_eq!(only(&check(&lost)), ["G-single-realtime", "lost"]);
}

#[test]
fn the_story_names_who_read_what_and_why_it_matters() {
    let findings = together(&["r1: r2: a1:1", "r1: r2: a2:1", "r1:1 r2:1"]);
    let story = findings.stories()[0].story.join("\n");
    let expected = "\
T1: client 0 (0.000000–0.000000 s): read 1 [], read 2 [], append 1 1
T2: client 1 (0.000000–0.000000 s): read 1 [], read 2 [], append 2 1
T1 → T2 (rw): T1 read list 2 empty, so without T2's 1, which came next
T2 → T1 (rw): T2 read list 1 empty, so without T1's 1, which came next";
    assert_eq!(story, expected);
}

/// A database that runs one transaction at a time, and clients whose questions
/// and answers travel a while: always strictly serializable.
fn serial(seed: u64, transactions: usize) -> Vec<List> {
    let mut random = Random::new(seed);
    let mut lists: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut free: Vec<u64> = vec![0; 12];
    let mut history = Vec::with_capacity(transactions);
    for number in 0..transactions as u64 {
        let moment = 1000 + number * 10;
        let invoked = moment - random.below(80) - 1;
        let client = (0..free.len()).find(|&c| free[c] < invoked).unwrap_or_else(|| {
            free.push(0);
            free.len() - 1
        });
        let completed = moment + random.below(80);
        let draw = random.below(100);
        let outcome = match draw {
            0..5 => Outcome::Unknown,
            5..10 => Outcome::Failed,
            _ => Outcome::Ok,
        };
        // An unknown one may have happened.
        let applied = outcome == Outcome::Ok || outcome == Outcome::Unknown && random.chance(50);
        let mut accesses = Vec::new();
        let before = (!applied).then(|| lists.clone());
        for at in 0..1 + random.below(5) {
            // Lists come into use and go out of use, so that none grows for ever.
            let key = number / 200 * 4 + random.below(6);
            if random.chance(50) {
                let elements = Some(lists.get(&key).cloned().unwrap_or_default());
                accesses.push(Access::Read { key, elements });
            } else {
                let element = number * 10 + at;
                let undone = random.chance(5);
                if !undone {
                    lists.entry(key).or_default().push(element);
                }
                accesses.push(Access::Append { key, element, undone });
            }
        }
        if let Some(before) = before {
            lists = before;
        }
        lists.retain(|key, _| *key >= number / 200 * 4);
        free[client] = if outcome == Outcome::Unknown { u64::MAX } else { completed };
        history.push(Operation {
            process: client as u64,
            invoked,
            completed,
            outcome,
            action: Transaction(accesses),
            error: None,
        });
    }
    history
}

fn seeds(base: u64, count: u64) -> impl Iterator<Item = u64> {
    let first = std::env::var("POLITY_SEED").ok().and_then(|seed| seed.parse().ok());
    println!("seeds from {} (POLITY_SEED chooses one)", first.unwrap_or(base));
    first.unwrap_or(base)..first.map_or(base + count, |first| first + 1)
}

#[test]
fn serial_histories_are_always_clean() {
    for seed in seeds(1, 60) {
        let mut history = serial(seed, 400);
        // The order in which a history was written down means nothing.
        let mut random = Random::new(seed);
        for at in (1..history.len()).rev() {
            history.swap(at, random.below(at as u64 + 1) as usize);
        }
        let findings = check(&history);
        assert!(findings.is_clean(), "seed {seed}: {:#?}", findings.stories());
        assert_eq!(findings.undecided, [""; 0]);
    }
}

/// Where in a history a committed transaction read a list with at least so many elements.
fn a_read(history: &[List], random: &mut Random, least: usize) -> (usize, usize) {
    let mut places = Vec::new();
    for (number, operation) in history.iter().enumerate().filter(|(_, operation)| operation.is_ok()) {
        for (at, access) in operation.action.0.iter().enumerate() {
            let appended_before = operation.action.0[..at].iter().any(|a| matches!(a, Access::Append { .. }));
            if !appended_before && matches!(access, Access::Read { elements: Some(e), .. } if e.len() >= least) {
                places.push((number, at));
            }
        }
    }
    *random.pick(&places)
}

fn elements(history: &mut [List], place: (usize, usize)) -> &mut Vec<u64> {
    match &mut history[place.0].action.0[place.1] {
        Access::Read { elements: Some(elements), .. } => elements,
        other => panic!("{other:?} is no read"),
    }
}

/// Plants violations in clean histories, and says which of them were found.
fn planted(seed: u64, plant: impl Fn(&mut Vec<List>, &mut Random)) -> Findings {
    let mut history = serial(seed, 300);
    plant(&mut history, &mut Random::new(seed));
    check(&history)
}

#[test]
fn planted_violations_are_found() {
    for seed in seeds(1, 30) {
        let swapped = planted(seed, |history, random| {
            let place = a_read(history, random, 3);
            elements(history, place).swap(0, 1);
        });
        assert!(swapped.has(Anomaly::IncompatibleOrder), "seed {seed}: {:?}", swapped.counts());
        let doubled = planted(seed, |history, random| {
            let place = a_read(history, random, 1);
            let list = elements(history, place);
            list.push(list[0]);
        });
        assert!(doubled.has(Anomaly::Duplicate), "seed {seed}: {:?}", doubled.counts());
        let garbage = planted(seed, |history, random| {
            let place = a_read(history, random, 0);
            elements(history, place).push(u64::MAX);
        });
        assert!(garbage.has(Anomaly::Garbage), "seed {seed}: {:?}", garbage.counts());
        let aborted = planted(seed, |history, random| {
            let place = a_read(history, random, 1);
            let element = elements(history, place)[0];
            let wrote = |operation: &List| {
                operation.action.0.iter().any(|a| matches!(a, Access::Append { element: e, .. } if *e == element))
            };
            history.iter_mut().filter(|operation| wrote(operation)).for_each(|o| o.outcome = Outcome::Failed);
        });
        assert!(aborted.has(Anomaly::AbortedRead), "seed {seed}: {:?}", aborted.counts());
    }
}

/// Two transactions of which each read what the other overwrote, on lists of
/// their own, hidden in the middle of a busy history.
#[test]
fn planted_cycles_are_found_and_named() {
    let plants: [(&[&str], Phenomenon); 5] = [
        (&["a9000001:1 a9000002:1", "a9000001:2 a9000002:2", "r9000001:1,2 r9000002:2,1"], Phenomenon::G0),
        (&["a9000001:1 r9000002:1", "a9000002:1 r9000001:1"], Phenomenon::G1c),
        (&["r9000001: a9000001:1", "r9000001: a9000001:2", "r9000001:1,2"], Phenomenon::GSingle),
        (&["r9000002: a9000001:1", "r9000001: a9000002:1", "r9000001:1 r9000002:1"], Phenomenon::G2Item),
        (
            &[
                "r9000002: a9000001:1",
                "r9000003: a9000002:1",
                "r9000001: a9000003:1",
                "r9000001:1 r9000002:1 r9000003:1",
            ],
            Phenomenon::G2Item,
        ),
    ];
    for seed in seeds(1, 20) {
        for (scripts, phenomenon) in plants {
            let findings = planted(seed, |history, random| {
                let middle = random.below(history.len() as u64) as usize;
                let times = (history[middle].invoked, history[middle].invoked + 50);
                let new = scripts.iter().enumerate().map(|(n, s)| txn(1000 + n as u64, times, Outcome::Ok, s));
                history.splice(middle..middle, new);
            });
            assert_eq!(findings.counts().keys().collect::<Vec<_>>(), [&data(phenomenon)], "seed {seed}");
        }
    }
}

#[test]
fn planted_stale_reads_are_found() {
    for seed in seeds(1, 30) {
        let findings = planted(seed, |history, random| {
            // A client that sees a list without its last elements, long after they were acknowledged.
            let place = a_read(history, random, 2);
            let (key, list) = match &history[place.0].action.0[place.1] {
                Access::Read { key, elements: Some(elements) } => {
                    // All that the last transaction appended, or it would be an intermediate read.
                    let last = elements[elements.len() - 1] / 10;
                    (*key, elements.iter().copied().filter(|element| element / 10 != last).collect::<Vec<_>>())
                }
                other => panic!("{other:?} is no read"),
            };
            let action = Transaction(vec![Access::Read { key, elements: Some(list) }]);
            let end = 1_000_000;
            history.push(Operation {
                process: 5000,
                invoked: end,
                completed: end + 1,
                outcome: Outcome::Ok,
                action,
                error: None,
            });
        });
        // Elements that this is the only one to read after are lost, as far as anyone can tell.
        let expected = |anomaly: &Anomaly| *anomaly == Anomaly::Lost || anomaly.forbidden_from() > Level::Serializable;
        assert!(
            !findings.is_clean() && findings.counts().keys().all(expected),
            "seed {seed}: {:#?}",
            findings.stories()
        );
    }
}

/// Prints its figure; `cargo test --release` gives the one in docs/checking.md.
#[test]
fn many_transactions_take_seconds() {
    let many = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    let history = serial(7, many);
    #[allow(clippy::disallowed_methods)] // A test is no node: it reads the clock itself.
    let begun = std::time::Instant::now();
    let findings = check(&history);
    println!("{many} transactions judged in {:?}", begun.elapsed());
    assert!(findings.is_clean());
}
