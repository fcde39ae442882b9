//! Registers, judged by linearizability: each operation took effect at one
//! moment between question and answer, and reads saw the last write.
//!
//! The search is Wing & Gong's ("Testing and verifying concurrent objects", 1993):
//! try each operation that may come next, go back when stuck. Lowe's memory
//! ("Testing for linearizability", 2017) of which sets of operations led to which
//! value makes it quick, as in porcupine. Linearizability is local (Herlihy &
//! Wing, 1990, theorem 1), so each register is judged alone (P-compositionality,
//! Horn & Kroening, 2015): keep registers short, for the search is exponential in
//! the number of operations that run at the same time, in the worst case.

use std::collections::{BTreeMap, HashSet};

use crate::finding::{Anomaly, Findings};
use crate::history::{Operation, Outcome, RegisterAccess, RegisterAction};

/// Steps of one register's search; beyond, it is reported as undecided.
const STEPS: usize = 2_000_000;
/// Operations told before the one that fits nowhere.
const TOLD: usize = 8;

/// Judges registers that begin without a value.
pub fn check(history: &[Operation<RegisterAction>]) -> Findings {
    let mut by_key: BTreeMap<u64, Vec<&Operation<RegisterAction>>> = BTreeMap::new();
    for operation in history {
        by_key.entry(operation.action.key).or_default().push(operation);
    }
    let mut findings = Findings::default();
    for (key, operations) in by_key {
        let calls: Vec<Call> = operations
            .into_iter()
            .filter_map(|o| Call::new(&o.action.access, o.invoked, o.latest(), o.process, o.outcome))
            .collect();
        match linearize(&calls, None) {
            Verdict::Linearizable => {}
            Verdict::Undecided => findings
                .undecided
                .push(format!("register {key}: {} operations, undecided after {STEPS} steps", calls.len())),
            Verdict::Not { prefix } => {
                findings.add(Anomaly::NotLinearizable, || tell(&format!("register {key}"), &calls, &prefix))
            }
        }
    }
    findings
}

/// An operation that may have had an effect.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    access: RegisterAccess,
    invoked: u64,
    latest: u64,
    process: u64,
    /// Nobody knows whether it took effect, nor what it answered.
    open: bool,
}

impl Call {
    /// `None` for what tells nothing: failed operations, and reads without an answer.
    pub(crate) fn new(
        access: &RegisterAccess,
        invoked: u64,
        latest: u64,
        process: u64,
        outcome: Outcome,
    ) -> Option<Call> {
        let open = outcome == Outcome::Unknown;
        if outcome == Outcome::Failed || open && matches!(access, RegisterAccess::Read(_)) {
            return None;
        }
        Some(Call { access: access.clone(), invoked, latest, process, open })
    }

    /// The value after this call, or `None` if it cannot come here.
    fn step(&self, value: Option<i64>) -> Option<Option<i64>> {
        match self.access {
            RegisterAccess::Read(seen) => (seen == value).then_some(value),
            RegisterAccess::Write(new) => Some(new),
            RegisterAccess::CompareAndSet { from, to, .. } if self.open => Some(if value == from { to } else { value }),
            RegisterAccess::CompareAndSet { from, to, matched } => {
                ((value == from) == matched).then_some(if matched { to } else { value })
            }
        }
    }
}

/// What the search says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is an order that explains all answers.
    Linearizable,
    /// There is none; the longest that was found is `prefix`, by number.
    Not {
        /// The longest order that explains the answers in it.
        prefix: Vec<usize>,
    },
    /// The search was given up.
    Undecided,
}

/// The calls not yet placed, by the time of their questions and answers: a list
/// in which a placed call is unlinked and can be put back (Lowe 2017, section 3).
struct Pending {
    /// Entries 2n and 2n+1 are question and answer of call n; the last is the head.
    next: Vec<usize>,
    previous: Vec<usize>,
    head: usize,
}

impl Pending {
    fn new(calls: &[Call]) -> Pending {
        let mut entries: Vec<usize> = (0..calls.len() * 2).collect();
        // At equal times questions come first: it cannot be known that the answer was before.
        entries.sort_by_key(|&e| {
            let call = &calls[e / 2];
            (if e.is_multiple_of(2) { call.invoked } else { call.latest }, e % 2, e)
        });
        let head = entries.len();
        let (mut next, mut previous) = (vec![head; head + 1], vec![head; head + 1]);
        let mut last = head;
        for entry in entries {
            (next[last], previous[entry]) = (entry, last);
            last = entry;
        }
        (next[last], previous[head]) = (head, last);
        Pending { next, previous, head }
    }

    fn unlink(&mut self, call: usize) {
        for entry in [call * 2, call * 2 + 1] {
            let (before, after) = (self.previous[entry], self.next[entry]);
            (self.next[before], self.previous[after]) = (after, before);
        }
    }

    fn link(&mut self, call: usize) {
        for entry in [call * 2 + 1, call * 2] {
            let (before, after) = (self.previous[entry], self.next[entry]);
            (self.next[before], self.previous[after]) = (entry, entry);
        }
    }
}

/// Searches for an order of the calls that begins with `initial`.
pub(crate) fn linearize(calls: &[Call], initial: Option<i64>) -> Verdict {
    let mut pending = Pending::new(calls);
    let mut placed = vec![0u64; calls.len().div_ceil(64)];
    let mut known: HashSet<(Vec<u64>, Option<i64>)> = HashSet::new();
    let mut order: Vec<(usize, Option<i64>)> = Vec::new();
    let mut longest = Vec::new();
    // Calls whose answer nobody has need not be placed.
    let mut answers = calls.iter().filter(|call| !call.open).count();
    let mut value = initial;
    let mut entry = pending.next[pending.head];
    for _ in 0..STEPS {
        if answers == 0 {
            return Verdict::Linearizable;
        }
        let call = entry / 2;
        let is_question = entry != pending.head && entry.is_multiple_of(2);
        if is_question {
            if let Some(new) = calls[call].step(value) {
                placed[call / 64] |= 1 << (call % 64);
                if known.insert((placed.clone(), new)) {
                    order.push((call, value));
                    value = new;
                    answers -= usize::from(!calls[call].open);
                    pending.unlink(call);
                    if order.len() > longest.len() {
                        longest = order.iter().map(|(call, _)| *call).collect();
                    }
                    entry = pending.next[pending.head];
                    continue;
                }
                placed[call / 64] &= !(1 << (call % 64));
            }
            entry = pending.next[entry];
            continue;
        }
        // An answer: its question had to come before whatever follows. Go back.
        let Some((call, before)) = order.pop() else { return Verdict::Not { prefix: longest } };
        placed[call / 64] &= !(1 << (call % 64));
        value = before;
        answers += usize::from(!calls[call].open);
        pending.link(call);
        entry = pending.next[call * 2];
    }
    Verdict::Undecided
}

/// The end of the longest order, and what cannot come after it.
pub(crate) fn tell(what: &str, calls: &[Call], prefix: &[usize]) -> Vec<String> {
    let describe = |call: &Call| {
        let micros = |nanos: u64| format!("{}.{:06}", nanos / 1_000_000_000, nanos / 1000 % 1_000_000);
        let value = |value: Option<i64>| value.map_or("nothing".into(), |value| value.to_string());
        let deed = match &call.access {
            RegisterAccess::Read(seen) => format!("read {}", value(*seen)),
            RegisterAccess::Write(new) => format!("wrote {}", value(*new)),
            RegisterAccess::CompareAndSet { from, to, matched } => {
                let answer = match (call.open, matched) {
                    (true, _) => "answer unknown",
                    (false, true) => "done",
                    (false, false) => "refused",
                };
                format!("wrote {} if it was {}: {answer}", value(*to), value(*from))
            }
        };
        let end = if call.latest == u64::MAX { "?".into() } else { micros(call.latest) };
        format!("client {} ({}–{end} s) {deed}", call.process, micros(call.invoked))
    };
    let mut story =
        vec![format!("{what}: {} of {} operations can be put in order; the last of them:", prefix.len(), calls.len())];
    story.extend(prefix.iter().skip(prefix.len().saturating_sub(TOLD)).map(|&n| format!("  {}", describe(&calls[n]))));
    story.push("none of these can come next:".into());
    let placed: HashSet<usize> = prefix.iter().copied().collect();
    let rest = || calls.iter().enumerate().filter(|(n, _)| !placed.contains(n)).map(|(_, call)| call);
    let first_answer = rest().map(|call| call.latest).min().unwrap_or(u64::MAX);
    let next = rest().filter(|call| call.invoked <= first_answer && !call.open);
    story.extend(next.take(TOLD).map(|call| format!("  {}", describe(call))));
    story
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn on(
        key: u64,
        process: u64,
        times: (u64, u64),
        outcome: Outcome,
        access: RegisterAccess,
    ) -> Operation<RegisterAction> {
        let action = RegisterAction { key, access };
        Operation { process, invoked: times.0, completed: times.1, outcome, action, error: None }
    }

    fn cas(from: i64, to: i64, matched: bool) -> RegisterAccess {
        RegisterAccess::CompareAndSet { from: Some(from), to: Some(to), matched }
    }

    use Outcome::{Failed, Ok, Unknown};
    use RegisterAccess::{Read, Write};

    #[test]
    fn known_answers() {
        let clean = |calls: &[(u64, u64, Outcome, RegisterAccess)]| {
            let history: Vec<_> = calls
                .iter()
                .enumerate()
                .map(|(n, (from, to, outcome, access))| on(1, n as u64, (*from, *to), *outcome, access.clone()))
                .collect();
            check(&history).is_clean()
        };
        assert!(clean(&[(0, 10, Ok, Write(Some(1))), (5, 15, Ok, Read(None)), (20, 30, Ok, Read(Some(1)))]));
        assert!(!clean(&[(0, 10, Ok, Write(Some(1))), (11, 15, Ok, Read(None))]), "a stale read");
        assert!(!clean(&[(0, 10, Ok, Read(Some(1)))]), "out of nothing");
        assert!(!clean(&[(0, 10, Failed, Write(Some(1))), (11, 15, Ok, Read(Some(1)))]), "what had failed");
        assert!(clean(&[(0, 10, Unknown, Write(Some(1))), (11, 15, Ok, Read(None)), (16, 18, Ok, Read(Some(1)))]));
        assert!(!clean(&[(0, 10, Unknown, Write(Some(1))), (11, 15, Ok, Read(Some(1))), (16, 18, Ok, Read(None))]));
        // Two reads at the time of one write: new, then old.
        assert!(!clean(&[(0, 100, Ok, Write(Some(1))), (10, 20, Ok, Read(Some(1))), (30, 40, Ok, Read(None))]));
        // Lost update: both compare-and-sets say they found 1.
        let one = (0, 1, Ok, Write(Some(1)));
        assert!(!clean(&[one.clone(), (2, 9, Ok, cas(1, 2, true)), (3, 8, Ok, cas(1, 3, true))]));
        assert!(clean(&[one.clone(), (2, 9, Ok, cas(1, 2, true)), (3, 8, Ok, cas(1, 3, false))]));
        assert!(!clean(&[one.clone(), (2, 9, Ok, cas(1, 2, false))]));
        assert!(clean(&[one, (2, 9, Unknown, cas(7, 2, false)), (10, 11, Ok, Read(Some(1)))]));
    }

    #[test]
    fn the_story_says_what_cannot_come_next() {
        let history = [on(4, 1, (0, 1000), Ok, Write(Some(1))), on(4, 2, (2000, 3000), Ok, Read(None))];
        let story = check(&history).stories()[0].story.join("\n");
        let expected = "\
register 4: 1 of 2 operations can be put in order; the last of them:
  client 1 (0.000000–0.000001 s) wrote 1
none of these can come next:
  client 2 (0.000002–0.000003 s) read nothing";
        assert_eq!(story, expected);
    }

    /// Registers that take one operation at a time, with answers that travel.
    fn linear(seed: u64, operations: u64) -> Vec<Operation<RegisterAction>> {
        let mut random = Random::new(seed);
        let mut values: BTreeMap<u64, Option<i64>> = BTreeMap::new();
        let mut history = Vec::new();
        for number in 0..operations {
            let moment = 1000 + number * 10;
            let times = (moment - random.below(60), moment + random.below(60));
            let key = number / 100 * 4 + random.below(4);
            let value = values.entry(key).or_default();
            let outcome = if random.chance(3) { Unknown } else { Ok };
            let happens = outcome == Ok || random.chance(50);
            let access = match random.below(3) {
                0 => Read(*value),
                1 => {
                    let new = Some(number as i64);
                    if happens {
                        *value = new;
                    }
                    Write(new)
                }
                _ => {
                    let from = if random.chance(60) { *value } else { Some(-1) };
                    let matched = from == *value;
                    let to = Some(number as i64);
                    if matched && happens {
                        *value = to;
                    }
                    RegisterAccess::CompareAndSet { from, to, matched }
                }
            };
            history.push(on(key, number, times, outcome, access));
        }
        history
    }

    #[test]
    fn linear_histories_are_always_clean_and_planted_reads_are_found() {
        let first = std::env::var("POLITY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
        for seed in first..first + 40 {
            let mut history = linear(seed, 500);
            let findings = check(&history);
            assert!(findings.is_clean() && findings.undecided.is_empty(), "POLITY_SEED={seed}: {findings:#?}");
            // A read of a value that was overwritten long ago.
            let mut random = Random::new(seed);
            let written: Vec<(u64, i64, u64)> = history
                .iter()
                .filter_map(|o| match o.action.access {
                    Write(Some(value)) if o.outcome == Ok => Some((o.action.key, value, o.completed)),
                    _ => None,
                })
                .collect();
            let (key, value, _) = *random.pick(&written);
            let end = history.iter().map(|o| o.completed).max().unwrap_or(0);
            history.push(on(key, 9998, (end + 1, end + 2), Ok, Write(Some(-7))));
            history.push(on(key, 9999, (end + 3, end + 4), Ok, Read(Some(value))));
            assert!(check(&history).has(Anomaly::NotLinearizable), "POLITY_SEED={seed}");
        }
    }

    #[test]
    fn many_operations_take_seconds() {
        let many = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
        let history = linear(7, many);
        #[allow(clippy::disallowed_methods)] // A test is no node: it reads the clock itself.
        let begun = std::time::Instant::now();
        assert!(check(&history).is_clean());
        println!("{many} register operations judged in {:?}", begun.elapsed());
    }
}
