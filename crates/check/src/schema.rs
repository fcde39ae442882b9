//! Definitions that change under the statements that use them: columns are added
//! and dropped, indexes made and dropped, while rows are written and read.
//!
//! ```text
//! ADD COLUMN c1 DEFAULT -7 ──▶ generation −7 of c1 ──▶ DROP COLUMN c1 ──▶ …
//!                   every row shows −7, or what was written into it
//! ```
//! A column is there or not, and each statement that names it says which: a
//! register, judged by linearizability; the same goes for an index. Each ADD has a
//! default of its own, so a read says which *generation* of the column it saw:
//!
//! - all rows of one read are of one generation;
//! - what was written after that generation was added shows, not the default;
//! - what was written before it was added is gone with the column that held it.
//!
//! And a read by an index must give the rows that a scan gives in the same
//! statement.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::append::who;
use crate::finding::{Anomaly, Findings};
use crate::history::{Existence, Operation, Outcome, RegisterAccess, SchemaAction};
use crate::register::{Call, Verdict, linearize, tell};

/// Judges definitions, and what was seen through them.
pub fn check(history: &[Operation<SchemaAction>]) -> Findings {
    let mut findings = Findings::default();
    check_existence(history, &mut findings);
    let known = Known::of(history);
    for reader in history.iter().filter(|operation| operation.is_ok()) {
        match &reader.action {
            SchemaAction::Read { column, bucket, rows, missing: false } => {
                known.check_values(reader, *column, rows, &mut findings);
                known.check_rows(reader, *bucket, rows.iter().map(|(row, _)| *row), &mut findings);
            }
            SchemaAction::Compare { bucket, indexed, scanned } => {
                let (by_index, by_scan): (BTreeSet<_>, BTreeSet<_>) =
                    (indexed.iter().collect(), scanned.iter().collect());
                if by_index != by_scan || indexed.len() != scanned.len() {
                    findings.add(Anomaly::IndexDisagrees, || {
                        let only = |some: &BTreeSet<&u64>, other| some.difference(other).copied().copied().collect();
                        let (index, scan): (Vec<u64>, Vec<u64>) =
                            (only(&by_index, &by_scan), only(&by_scan, &by_index));
                        vec![
                            format!("{} read bucket {bucket} by index and by scan in one statement", who(reader)),
                            format!(
                                "{} and {} rows; only by index {index:?}, only by scan {scan:?}",
                                indexed.len(),
                                scanned.len()
                            ),
                        ]
                    });
                }
                known.check_rows(reader, *bucket, scanned.iter().copied(), &mut findings);
            }
            SchemaAction::Write { row, found: false, missing: false, .. } => findings.add(Anomaly::Lost, || {
                vec![format!("{} updated row {row}, which it had inserted, and there was none", who(reader))]
            }),
            _ => {}
        }
    }
    findings
}

/// What was written, and which defaults there were.
struct Known<'a> {
    /// Inserted rows by bucket
    inserted: HashMap<u64, Vec<(u64, &'a Operation<SchemaAction>)>>,
    /// Rows of which the insert has surely failed
    refused: BTreeMap<u64, &'a Operation<SchemaAction>>,
    /// What wrote into a row's column
    written: HashMap<(u64, u64), Vec<&'a Operation<SchemaAction>>>,
    /// Which ADD a default belongs to
    defaults: HashMap<(u64, i64), &'a Operation<SchemaAction>>,
}

impl Known<'_> {
    fn of(history: &[Operation<SchemaAction>]) -> Known<'_> {
        let mut known = Known {
            inserted: HashMap::new(),
            refused: BTreeMap::new(),
            written: HashMap::new(),
            defaults: HashMap::new(),
        };
        for operation in history {
            match operation.action {
                SchemaAction::Write { row, bucket, column, missing, inserts, .. } => {
                    let happened = operation.outcome != Outcome::Failed && !missing;
                    if inserts && happened {
                        known.inserted.entry(bucket).or_default().push((row, operation));
                    }
                    if inserts && !happened {
                        known.refused.insert(row, operation);
                    }
                    if let (Some(column), true) = (column, happened) {
                        known.written.entry((row, column)).or_default().push(operation);
                    }
                }
                SchemaAction::Column { column, default, .. } => {
                    known.defaults.insert((column, default), operation);
                }
                _ => {}
            }
        }
        known
    }

    /// Whether a read gave all rows that it must, and none that was refused.
    fn check_rows(
        &self,
        reader: &Operation<SchemaAction>,
        bucket: u64,
        rows: impl Iterator<Item = u64>,
        findings: &mut Findings,
    ) {
        let mut seen = BTreeSet::new();
        for row in rows {
            if !seen.insert(row) {
                findings.add(Anomaly::Duplicate, || vec![format!("{} read row {row} twice", who(reader))]);
            }
            if let Some(by) = self.refused.get(&row) {
                findings.add(Anomaly::AbortedRead, || {
                    vec![format!("{} read row {row}", who(reader)), format!("{} failed to insert it", who(by))]
                });
            }
        }
        for (row, by) in self.inserted.get(&bucket).into_iter().flatten() {
            if by.is_ok() && by.precedes(reader) && !seen.contains(row) {
                findings.add(Anomaly::Lost, || {
                    vec![
                        format!("{} inserted row {row} into bucket {bucket}, acknowledged", who(by)),
                        format!("{} read the bucket later, without it", who(reader)),
                    ]
                });
            }
        }
    }

    /// Whether all values of a column are of one generation, and the ones that were
    /// written.
    fn check_values(
        &self,
        reader: &Operation<SchemaAction>,
        column: u64,
        rows: &[(u64, Option<i64>)],
        findings: &mut Findings,
    ) {
        let mut generation: Option<(i64, &Operation<SchemaAction>)> = None;
        for (row, value) in rows {
            let garbage = || vec![format!("{} read {value:?} in column {column} of row {row}", who(reader))];
            let Some(default) = value.filter(|value| *value < 0) else {
                let writes = self.written.get(&(*row, column));
                if *value != i64::try_from(*row).ok() || writes.is_none() {
                    findings.add(Anomaly::Garbage, garbage);
                }
                continue;
            };
            let Some(added) = self.defaults.get(&(column, default)) else {
                findings.add(Anomaly::Garbage, garbage);
                continue;
            };
            if added.outcome == Outcome::Failed {
                findings.add(Anomaly::AbortedRead, || {
                    vec![garbage().remove(0), format!("{} failed to add that column", who(added))]
                });
            }
            match generation {
                None => generation = Some((default, added)),
                Some((other, _)) if other != default => findings.add(Anomaly::MixedSchema, || {
                    vec![format!("{} read the defaults {other} and {default} in one column {column}", who(reader))]
                }),
                Some(_) => {}
            }
        }
        if let Some((_, added)) = generation {
            self.check_generation(reader, column, rows, added, findings);
        }
    }

    /// `added` is what made the column that was read.
    fn check_generation(
        &self,
        reader: &Operation<SchemaAction>,
        column: u64,
        rows: &[(u64, Option<i64>)],
        added: &Operation<SchemaAction>,
        findings: &mut Findings,
    ) {
        for (row, value) in rows {
            let writes = self.written.get(&(*row, column)).map_or(&[][..], Vec::as_slice);
            if value.is_none_or(|value| value < 0) {
                let lost = writes.iter().find(|w| w.is_ok() && added.precedes(w) && w.precedes(reader));
                if let Some(write) = lost {
                    findings.add(Anomaly::Lost, || {
                        vec![
                            format!("{} wrote column {column} of row {row}, acknowledged", who(write)),
                            format!("{} read {value:?} there later, a default of before", who(reader)),
                        ]
                    });
                }
            } else if !writes.is_empty() && writes.iter().all(|write| write.precedes(added)) {
                findings.add(Anomaly::MixedSchema, || {
                    vec![
                        format!("{} wrote column {column} of row {row}", who(writes[0])),
                        format!("{} added the column later, after it had been dropped", who(added)),
                        format!("{} read what had been in the old one", who(reader)),
                    ]
                });
            }
        }
    }
}

/// What an operation says about whether a column or an index is there.
fn existence(action: &SchemaAction) -> Option<((bool, u64), RegisterAccess)> {
    let (absent, present) = (None, Some(1));
    let read = |there: bool| RegisterAccess::Read(if there { present } else { absent });
    let change = |change| match change {
        Existence::Made => RegisterAccess::CompareAndSet { from: absent, to: present, matched: true },
        Existence::AlreadyThere => RegisterAccess::CompareAndSet { from: absent, to: present, matched: false },
        Existence::Dropped => RegisterAccess::CompareAndSet { from: present, to: absent, matched: true },
        Existence::Absent => RegisterAccess::CompareAndSet { from: present, to: absent, matched: false },
    };
    match action {
        SchemaAction::Column { column, change: what, .. } => Some(((true, *column), change(*what))),
        SchemaAction::Index { index, change: what } => Some(((false, *index), change(*what))),
        SchemaAction::Write { column: Some(column), missing, .. } => Some(((true, *column), read(!missing))),
        SchemaAction::Read { column, missing, .. } => Some(((true, *column), read(!missing))),
        SchemaAction::Write { .. } | SchemaAction::Compare { .. } => None,
    }
}

fn check_existence(history: &[Operation<SchemaAction>], findings: &mut Findings) {
    let mut registers: BTreeMap<(bool, u64), Vec<Call>> = BTreeMap::new();
    for o in history {
        let Some((what, access)) = existence(&o.action) else { continue };
        if let Some(call) = Call::new(&access, o.invoked, o.latest(), o.process, o.outcome) {
            registers.entry(what).or_default().push(call);
        }
    }
    for ((is_column, number), calls) in registers {
        let what = format!("{} {number} (1: it is there)", if is_column { "column" } else { "index" });
        match linearize(&calls, None) {
            Verdict::Linearizable => {}
            Verdict::Undecided => findings.undecided.push(format!("{what}: undecided")),
            Verdict::Not { prefix } => findings.add(Anomaly::NotLinearizable, || tell(&what, &calls, &prefix)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One after the other, all acknowledged unless said otherwise.
    fn history(actions: &[SchemaAction]) -> Vec<Operation<SchemaAction>> {
        let at = |n: usize| n as u64 * 10;
        let operation = |(n, action): (usize, &SchemaAction)| Operation {
            process: 1,
            invoked: at(n),
            completed: at(n) + 5,
            outcome: Outcome::Ok,
            action: action.clone(),
            error: None,
        };
        actions.iter().enumerate().map(operation).collect()
    }

    fn names(history: &[Operation<SchemaAction>]) -> Vec<String> {
        check(history).counts().keys().map(ToString::to_string).collect()
    }

    fn add(default: i64) -> SchemaAction {
        SchemaAction::Column { column: 1, default, change: Existence::Made }
    }

    fn dropped() -> SchemaAction {
        SchemaAction::Column { column: 1, default: 0, change: Existence::Dropped }
    }

    fn insert(row: u64, column: Option<u64>) -> SchemaAction {
        SchemaAction::Write { row, bucket: 0, column, inserts: true, found: true, missing: false }
    }

    fn read(rows: &[(u64, Option<i64>)]) -> SchemaAction {
        SchemaAction::Read { column: 1, bucket: 0, rows: rows.to_vec(), missing: false }
    }

    #[test]
    fn known_answers_of_existence() {
        let gone = SchemaAction::Read { column: 1, bucket: 0, rows: vec![], missing: true };
        assert_eq!(names(&history(&[gone.clone(), add(-1), read(&[]), dropped(), gone.clone()])), [""; 0]);
        assert_eq!(names(&history(&[add(-1), gone])), ["not-linearizable"]);
        assert_eq!(names(&history(&[add(-1), add(-2)])), ["not-linearizable"]);
        let index = |change| SchemaAction::Index { index: 3, change };
        assert_eq!(names(&history(&[index(Existence::Made), index(Existence::AlreadyThere)])), [""; 0]);
        assert_eq!(names(&history(&[index(Existence::Made), index(Existence::Absent)])), ["not-linearizable"]);
    }

    #[test]
    fn known_answers_of_values() {
        let old = insert(7, None);
        let new = insert(8, Some(1));
        let start = [old, add(-1), new];
        let with = |more: &[SchemaAction]| names(&history(&[&start, more].concat()));
        assert_eq!(with(&[read(&[(7, Some(-1)), (8, Some(8))])]), [""; 0]);
        assert_eq!(with(&[read(&[(7, Some(-1)), (8, Some(-1))])]), ["lost"], "what was written shows the default");
        assert_eq!(with(&[read(&[(7, Some(-1))])]), ["lost"], "a row is gone");
        assert_eq!(with(&[read(&[(7, None), (8, Some(8))])]), ["garbage"], "no default");
        assert_eq!(with(&[read(&[(7, Some(-5)), (8, Some(8))])]), ["garbage"], "nobody's default");
        assert_eq!(with(&[read(&[(7, Some(-1)), (7, Some(-1)), (8, Some(8))])]), ["duplicate"]);
        let again = [dropped(), add(-2)];
        let with = |rows: &[(u64, Option<i64>)]| names(&history(&[&start[..], &again, &[read(rows)]].concat()));
        assert_eq!(with(&[(7, Some(-2)), (8, Some(-2))]), [""; 0]);
        assert_eq!(with(&[(7, Some(-2)), (8, Some(-1))]), ["mixed-schema"], "two generations");
        assert_eq!(with(&[(7, Some(-2)), (8, Some(8))]), ["mixed-schema"], "back from the dropped column");
    }

    #[test]
    fn known_answers_of_rows() {
        let compare = |indexed: &[u64], scanned: &[u64]| {
            let compare = SchemaAction::Compare { bucket: 0, indexed: indexed.to_vec(), scanned: scanned.to_vec() };
            names(&history(&[insert(7, None), insert(8, None), compare]))
        };
        assert_eq!(compare(&[8, 7], &[7, 8]), [""; 0]);
        assert_eq!(compare(&[7], &[7, 8]), ["index-disagrees"]);
        assert_eq!(compare(&[7, 8, 8], &[7, 8]), ["index-disagrees"]);
        assert_eq!(compare(&[7], &[7]), ["lost"]);
        let mut failed = history(&[add(-1), insert(7, Some(1)), read(&[(7, Some(7))])]);
        failed[1].outcome = Outcome::Failed;
        assert_eq!(names(&failed), ["G1a", "garbage"]);
        let lost =
            SchemaAction::Write { row: 7, bucket: 0, column: None, inserts: false, found: false, missing: false };
        assert_eq!(names(&history(&[insert(7, None), lost])), ["lost"]);
        let mut rolled_back = history(&[insert(7, None), add(-1), read(&[(7, Some(-1))])]);
        rolled_back[1].outcome = Outcome::Failed;
        assert!(check(&rolled_back).has(Anomaly::AbortedRead));
    }
}
