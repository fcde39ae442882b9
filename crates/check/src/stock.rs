//! A stock that is sold on every side of a partition, under a guarantee that merges:
//! counters that must not fall below zero, and must count every sale once.
//!
//! A sale takes pieces out of stock and counts them as sold, in one row and one
//! transaction; pieces are moved from item to item, in one transaction; and they are
//! delivered in packs of [`PACK`]. Hence:
//!
//! - No read shows less than nothing in stock.
//! - What is in stock and what was sold differ from the opening stock by whole packs,
//!   all items together, in every read: transactions are seen whole.
//! - In the end every replica shows the same: what was acknowledged, perhaps what
//!   nobody knows of, and nothing else.
//! - A session never sees fewer pieces sold than it saw or sold before, wherever it is
//!   connected (Terry et al., "Session Guarantees for Weakly Consistent Replicated
//!   Data", PDIS 1994: monotonic reads, read your writes).

use std::collections::{BTreeMap, HashMap};

use crate::append::who;
use crate::finding::{Anomaly, Findings};
use crate::history::{Operation, Outcome, StockAction};

/// Pieces that are delivered at a time.
pub const PACK: i64 = 5;

/// By item: pieces in stock, pieces sold.
type Rows = Vec<(u64, i64, i64)>;

/// Judges a stock; its first operation opens it.
pub fn check(history: &[Operation<StockAction>]) -> Findings {
    let mut findings = Findings::default();
    let opening = history.iter().find_map(|operation| match &operation.action {
        StockAction::Open(items) => Some(items),
        _ => None,
    });
    let Some(opening) = opening else {
        if !history.is_empty() {
            findings.undecided.push("the stock was never opened".into());
        }
        return findings;
    };
    let total: i64 = opening.iter().map(|(_, pieces)| pieces).sum();
    let mut last: Option<(&Operation<StockAction>, &Rows)> = None;
    for reader in history.iter().filter(|operation| operation.is_ok()) {
        let StockAction::Read { rows, last: at_the_end, .. } = &reader.action else { continue };
        check_read(history, reader, rows, opening.len(), total, &mut findings);
        if *at_the_end {
            let first = *last.get_or_insert((reader, rows));
            if first.1 != rows {
                findings.add(Anomaly::Diverged, || {
                    vec![
                        format!("at the end {} read {:?}", who(first.0), first.1),
                        format!("and {} read {rows:?}", who(reader)),
                    ]
                });
            }
        }
    }
    if let Some((reader, rows)) = last {
        check_last(history, reader, rows, opening, &mut findings);
    }
    check_sessions(history, &mut findings);
    findings
}

/// Pieces of each item that were sold for sure, and that may have been besides; and
/// packs that were delivered, likewise. Of what had begun by `until`.
fn done(history: &[Operation<StockAction>], until: u64) -> (BTreeMap<u64, (i64, i64)>, (i64, i64)) {
    let (mut sold, mut packs) = (BTreeMap::<u64, (i64, i64)>::new(), (0, 0));
    for operation in history.iter().filter(|o| o.outcome != Outcome::Failed && o.invoked <= until) {
        let (surely, perhaps) = if operation.is_ok() { (1, 0) } else { (0, 1) };
        match operation.action {
            StockAction::Sell { item, amount, .. } => {
                let sums = sold.entry(item).or_default();
                *sums = (sums.0 + surely * amount, sums.1 + perhaps * amount);
            }
            StockAction::Deliver { .. } => packs = (packs.0 + surely, packs.1 + perhaps),
            _ => {}
        }
    }
    (sold, packs)
}

/// What no replica may ever show.
fn check_read(
    history: &[Operation<StockAction>],
    reader: &Operation<StockAction>,
    rows: &Rows,
    items: usize,
    total: i64,
    findings: &mut Findings,
) {
    if let Some((item, pieces, _)) = rows.iter().find(|(_, pieces, _)| *pieces < 0) {
        findings.add(Anomaly::Oversold, || vec![format!("{} read {pieces} pieces of item {item}", who(reader))]);
    }
    let (sold, packs) = done(history, reader.completed);
    for (item, _, seen) in rows {
        let (surely, perhaps) = sold.get(item).copied().unwrap_or_default();
        if *seen > surely + perhaps {
            findings.add(Anomaly::Garbage, || {
                vec![
                    format!("{} read that {seen} pieces of item {item} were sold", who(reader)),
                    format!("when {} had been asked for at most", surely + perhaps),
                ]
            });
        }
    }
    // A replica that the opening has not reached yet shows part of the items.
    if rows.len() < items {
        return;
    }
    let delivered = rows.iter().map(|(_, pieces, sold)| pieces + sold).sum::<i64>() - total;
    if delivered % PACK != 0 || delivered < 0 {
        findings.add(Anomaly::IntermediateRead, || {
            vec![
                format!("{} read {rows:?}", who(reader)),
                format!("which is {delivered} more than the opening stock: not whole packs of {PACK}"),
            ]
        });
    } else if delivered > (packs.0 + packs.1) * PACK {
        findings.add(Anomaly::Garbage, || {
            vec![
                format!("{} read {rows:?}", who(reader)),
                format!("which is {delivered} more than the opening stock, with {} packs delivered", packs.0 + packs.1),
            ]
        });
    }
}

/// What every replica must show when all have come together.
fn check_last(
    history: &[Operation<StockAction>],
    reader: &Operation<StockAction>,
    rows: &Rows,
    opening: &[(u64, i64)],
    findings: &mut Findings,
) {
    let (sold, packs) = done(history, u64::MAX);
    for (item, (surely, _)) in &sold {
        let seen = rows.iter().find(|(other, _, _)| other == item).map_or(0, |(_, _, sold)| *sold);
        if seen < *surely {
            findings.add(Anomaly::Lost, || {
                vec![
                    format!("{surely} pieces of item {item} were sold, acknowledged"),
                    format!("{} read {seen} at the end", who(reader)),
                ]
            });
        }
    }
    if rows.len() < opening.len() {
        findings.add(Anomaly::Lost, || vec![format!("{} read {rows:?} at the end: items are missing", who(reader))]);
        return;
    }
    let total: i64 = opening.iter().map(|(_, pieces)| pieces).sum();
    let delivered = rows.iter().map(|(_, pieces, sold)| pieces + sold).sum::<i64>() - total;
    if delivered < packs.0 * PACK {
        findings.add(Anomaly::Lost, || {
            vec![
                format!("{} packs were delivered, acknowledged", packs.0),
                format!("{} read {rows:?} at the end, {delivered} more than the opening stock", who(reader)),
            ]
        });
    }
}

/// What each session saw only ever grows.
fn check_sessions(history: &[Operation<StockAction>], findings: &mut Findings) {
    let mut sessions: BTreeMap<u64, Vec<&Operation<StockAction>>> = BTreeMap::new();
    for operation in history.iter().filter(|operation| operation.is_ok()) {
        if let StockAction::Read { session, .. } | StockAction::Sell { session, .. } = operation.action {
            sessions.entry(session).or_default().push(operation);
        }
    }
    for (session, mut operations) in sessions {
        operations.sort_by_key(|operation| operation.invoked);
        let mut known: HashMap<u64, i64> = HashMap::new();
        for operation in operations {
            match &operation.action {
                StockAction::Sell { item, amount, .. } => *known.entry(*item).or_default() += amount,
                StockAction::Read { rows, last: false, .. } => {
                    let seen: HashMap<u64, i64> = rows.iter().map(|(item, _, sold)| (*item, *sold)).collect();
                    for (item, least) in &mut known {
                        let now = seen.get(item).copied().unwrap_or_default();
                        if now < *least {
                            findings.add(Anomaly::SessionBroken, || {
                                vec![
                                    format!("session {session} knew that {least} pieces of item {item} were sold"),
                                    format!("and {} read {now}", who(operation)),
                                ]
                            });
                        }
                        *least = now;
                    }
                    known.extend(seen);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(moment: u64, outcome: Outcome, action: StockAction) -> Operation<StockAction> {
        Operation { process: moment, invoked: moment * 10, completed: moment * 10 + 5, outcome, action, error: None }
    }

    fn sell(session: u64, amount: i64) -> StockAction {
        StockAction::Sell { session, item: 1, amount }
    }

    fn read(session: u64, rows: &[(u64, i64, i64)], last: bool) -> StockAction {
        StockAction::Read { session, rows: rows.to_vec(), last }
    }

    /// One after the other on a stock of 10 pieces of item 1 and none of item 2.
    fn names(actions: &[(Outcome, StockAction)]) -> Vec<String> {
        let mut history = vec![at(0, Outcome::Ok, StockAction::Open(vec![(1, 10), (2, 0)]))];
        history.extend(actions.iter().zip(1..).map(|((outcome, action), n)| at(n, *outcome, action.clone())));
        check(&history).counts().keys().map(ToString::to_string).collect()
    }

    #[test]
    fn known_answers() {
        let ok = |action| (Outcome::Ok, action);
        let with = |rows: &[(u64, i64, i64)]| names(&[ok(sell(1, 3)), ok(read(2, rows, true))]);
        assert_eq!(with(&[(1, 7, 3), (2, 0, 0)]), [""; 0]);
        assert_eq!(with(&[(1, 10, 0), (2, 0, 0)]), ["lost"], "the sale is gone");
        assert_eq!(with(&[(1, 7, 0), (2, 0, 0)]), ["G1b", "lost"], "half of the sale is gone");
        assert_eq!(with(&[(1, 4, 6), (2, 0, 0)]), ["garbage"], "counted twice");
        assert_eq!(with(&[(1, 12, 3), (2, 0, 0)]), ["garbage"], "a pack that nobody delivered");
        assert_eq!(with(&[(1, 7, 3)]), ["lost"], "an item is gone");
        assert_eq!(with(&[(1, -2, 12), (2, 0, 0)]), ["garbage", "oversold"]);
        let unknown = (Outcome::Unknown, sell(1, 3));
        assert_eq!(names(&[unknown.clone(), ok(read(2, &[(1, 10, 0), (2, 0, 0)], true))]), [""; 0]);
        assert_eq!(names(&[unknown, ok(read(2, &[(1, 7, 3), (2, 0, 0)], true))]), [""; 0]);
        let deliver = ok(StockAction::Deliver { session: 1, item: 2 });
        assert_eq!(names(&[deliver.clone(), ok(read(2, &[(1, 10, 0), (2, 5, 0)], true))]), [""; 0]);
        assert_eq!(names(&[deliver, ok(read(2, &[(1, 10, 0), (2, 0, 0)], true))]), ["lost"]);
        let moved = ok(StockAction::Move { session: 1, from: 1, to: 2, amount: 4 });
        assert_eq!(names(&[moved, ok(read(2, &[(1, 6, 0), (2, 4, 0)], true))]), [""; 0]);
    }

    #[test]
    fn replicas_that_differ_at_the_end_are_found() {
        let (one, other) = ([(1, 7, 3), (2, 0, 0)], [(1, 10, 0), (2, 0, 0)]);
        let ends =
            [(Outcome::Unknown, sell(1, 3)), (Outcome::Ok, read(2, &one, true)), (Outcome::Ok, read(3, &other, true))];
        assert_eq!(names(&ends), ["diverged"]);
    }

    #[test]
    fn sessions_that_go_back_are_found() {
        let (before, after) = ([(1, 10, 0), (2, 0, 0)], [(1, 7, 3), (2, 0, 0)]);
        let with = |session| names(&[(Outcome::Ok, sell(1, 3)), (Outcome::Ok, read(session, &before, false))]);
        assert_eq!(with(1), ["session-broken"], "it does not see its own sale");
        assert_eq!(with(2), [""; 0], "another session may");
        let seen =
            [(Outcome::Ok, sell(1, 3)), (Outcome::Ok, read(2, &after, false)), (Outcome::Ok, read(2, &before, false))];
        assert_eq!(names(&seen), ["session-broken"]);
    }
}
