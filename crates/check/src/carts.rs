//! Shopping carts under a guarantee that merges: sets of elements that nobody else
//! adds, a note that the later write keeps, carts that are deleted.
//!
//! - What was put in stays, unless somebody who had seen it took it out, or deleted the
//!   cart; what was taken out so does not come back (observed-remove: Shapiro et al.,
//!   "Conflict-free Replicated Data Types", SSS 2011).
//! - A note that somebody overwrote who had seen it does not come back.
//! - A cart that somebody wrote a note on shows one in the end, unless the cart may also
//!   have been made by somebody who knew nothing of that note: a new row writes all of its
//!   columns, its note as NULL, and which of two concurrent writes is the later one no
//!   client can tell.
//! - In the end every replica shows the same.
//! - A session does not lose sight of what it saw or put in, unless it was taken out,
//!   and does not see again what it saw gone.
//! - A read by an index gives what a scan gives in the same statement.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::append::who;
use crate::finding::{Anomaly, Findings};
use crate::history::{CartAction, Operation, Outcome, SeenCart};

type Op = Operation<CartAction>;

/// Judges carts.
pub fn check(history: &[Op]) -> Findings {
    let mut findings = Findings::default();
    let known = Known::of(history);
    let mut last: Option<(&Op, &Vec<SeenCart>)> = None;
    for reader in history.iter().filter(|operation| operation.is_ok()) {
        match &reader.action {
            CartAction::Read { seen, last: at_the_end, .. } => {
                known.check_origins(reader, seen, &mut findings);
                if *at_the_end {
                    let first = *last.get_or_insert((reader, seen));
                    if first.1 != seen {
                        findings.add(Anomaly::Diverged, || {
                            let differ = |a: &[SeenCart], b: &[SeenCart]| {
                                a.iter().filter(|cart| !b.contains(cart)).cloned().collect::<Vec<_>>()
                            };
                            vec![
                                format!("at the end {} read {:?}", who(first.0), differ(first.1, seen)),
                                format!("and {} read {:?} instead", who(reader), differ(seen, first.1)),
                            ]
                        });
                    }
                }
            }
            CartAction::Compare { owner, indexed, scanned, .. } => {
                let (by_index, by_scan): (BTreeSet<_>, BTreeSet<_>) =
                    (indexed.iter().collect(), scanned.iter().collect());
                if by_index != by_scan || indexed.len() != scanned.len() {
                    findings.add(Anomaly::IndexDisagrees, || {
                        vec![format!(
                            "{} read the carts of owner {owner} in one statement: {indexed:?} by index, {scanned:?} by scan",
                            who(reader)
                        )]
                    });
                }
            }
            _ => {}
        }
    }
    if let Some((reader, seen)) = last {
        known.check_last(reader, seen, &mut findings);
    }
    known.check_sessions(&mut findings);
    findings
}

/// Who did what.
#[derive(Default)]
struct Known<'a> {
    /// By element
    added: HashMap<u64, (u64, &'a Op)>,
    /// By element: who may have taken it out
    removed: HashMap<u64, Vec<&'a Op>>,
    /// By cart: who may have deleted it
    deleted: HashMap<u64, Vec<&'a Op>>,
    /// By value of the note
    noted: HashMap<i64, (u64, &'a Op)>,
    /// What sessions did, each in order
    sessions: BTreeMap<u64, Vec<&'a Op>>,
}

impl<'a> Known<'a> {
    fn of(history: &'a [Op]) -> Known<'a> {
        let mut known = Known::default();
        for operation in history {
            let happened = operation.outcome != Outcome::Failed;
            let session = match &operation.action {
                CartAction::Add { session, cart, element } => {
                    known.added.insert(*element, (*cart, operation));
                    session
                }
                CartAction::Remove { session, element, .. } => {
                    if happened {
                        known.removed.entry(*element).or_default().push(operation);
                    }
                    session
                }
                CartAction::Note { session, cart, value, .. } => {
                    known.noted.insert(*value, (*cart, operation));
                    session
                }
                CartAction::Delete { session, cart, .. } => {
                    if happened {
                        known.deleted.entry(*cart).or_default().push(operation);
                    }
                    session
                }
                CartAction::Read { session, .. } | CartAction::Compare { session, .. } => session,
            };
            if operation.is_ok() {
                known.sessions.entry(*session).or_default().push(operation);
            }
        }
        known.sessions.values_mut().for_each(|operations| operations.sort_by_key(|operation| operation.invoked));
        known
    }

    /// Whether all that was seen was written by somebody.
    fn check_origins(&self, reader: &Op, seen: &[SeenCart], findings: &mut Findings) {
        for cart in seen {
            let mut once = HashSet::new();
            for element in &cart.elements {
                let what = || format!("{} read {element} in cart {}", who(reader), cart.cart);
                if !once.insert(element) {
                    findings.add(Anomaly::Duplicate, || vec![format!("{} twice", what())]);
                }
                match self.added.get(element) {
                    Some((home, by)) if *home == cart.cart && by.outcome == Outcome::Failed => {
                        findings.add(Anomaly::AbortedRead, || vec![what(), format!("{} failed to put it in", who(by))]);
                    }
                    Some((home, by)) if *home == cart.cart && by.invoked <= reader.completed => {}
                    _ => findings.add(Anomaly::Garbage, || vec![what(), "nobody had put it in there".into()]),
                }
            }
            let Some(note) = cart.note else { continue };
            match self.noted.get(&note) {
                Some((home, by)) if *home == cart.cart && by.outcome != Outcome::Failed => {}
                _ => findings.add(Anomaly::Garbage, || {
                    vec![format!("{} read note {note} on cart {}, which nobody wrote", who(reader), cart.cart)]
                }),
            }
        }
    }

    /// What every replica must show when all have come together.
    fn check_last(&self, reader: &Op, seen: &[SeenCart], findings: &mut Findings) {
        let carts: HashMap<u64, &SeenCart> = seen.iter().map(|cart| (cart.cart, cart)).collect();
        let there: HashSet<u64> = seen.iter().flat_map(|cart| &cart.elements).copied().collect();
        for (element, (cart, by)) in &self.added {
            let gone = self.removed.contains_key(element) || self.deleted.contains_key(cart);
            if by.is_ok() && !gone && !there.contains(element) {
                findings.add(Anomaly::Lost, || {
                    vec![
                        format!("{} put {element} into cart {cart}, acknowledged", who(by)),
                        format!("{} read the cart at the end, without it", who(reader)),
                    ]
                });
            }
        }
        let back = |element: &u64, by: &Op, findings: &mut Findings| {
            findings.add(Anomaly::Resurrected, || {
                vec![
                    format!("{} saw {element} and took it out, acknowledged", who(by)),
                    format!("{} read it at the end", who(reader)),
                ]
            });
        };
        for by in self.removed.values().chain(self.deleted.values()).flatten().filter(|by| by.is_ok()) {
            match &by.action {
                CartAction::Remove { element, found: true, .. } if there.contains(element) => {
                    back(element, by, findings);
                }
                CartAction::Delete { seen, found: true, .. } => {
                    seen.iter().filter(|element| there.contains(element)).for_each(|e| back(e, by, findings));
                }
                _ => {}
            }
        }
        self.check_deleted(reader, &carts, findings);
        self.check_notes(reader, &carts, findings);
    }

    /// A cart that was deleted once, and after all that was put in, is gone.
    fn check_deleted(&self, reader: &Op, carts: &HashMap<u64, &SeenCart>, findings: &mut Findings) {
        for (cart, deletes) in &self.deleted {
            let [delete] = deletes.as_slice() else { continue };
            let CartAction::Delete { found: true, .. } = delete.action else { continue };
            let adds = self.added.values().filter(|(home, by)| home == cart && by.outcome != Outcome::Failed);
            if delete.is_ok() && carts.contains_key(cart) && adds.into_iter().all(|(_, by)| by.precedes(delete)) {
                findings.add(Anomaly::Resurrected, || {
                    vec![
                        format!("{} deleted cart {cart}, acknowledged, and nobody put anything in since", who(delete)),
                        format!("{} read it at the end", who(reader)),
                    ]
                });
            }
        }
    }

    fn check_notes(&self, reader: &Op, carts: &HashMap<u64, &SeenCart>, findings: &mut Findings) {
        let overwritten = self.overwritten();
        for cart in carts.values().filter(|cart| !self.deleted.contains_key(&cart.cart)) {
            match cart.note {
                Some(note) => {
                    if let Some(by) = overwritten.get(&note) {
                        findings.add(Anomaly::Resurrected, || {
                            vec![
                                format!("{} saw note {note} on cart {} and overwrote it", who(by), cart.cart),
                                format!("{} read it at the end", who(reader)),
                            ]
                        });
                    }
                }
                None => {
                    let writes = self.noted.values().filter(|(home, by)| *home == cart.cart && by.is_ok());
                    if let Some((_, by)) = writes.into_iter().find(|(_, by)| !self.may_be_overwritten(by)) {
                        findings.add(Anomaly::Lost, || {
                            vec![
                                format!("{} wrote a note on cart {}, acknowledged", who(by), cart.cart),
                                format!("{} read the cart at the end without any", who(reader)),
                            ]
                        });
                    }
                }
            }
        }
    }

    /// Whether the note that an operation wrote may have lost to the NULL of a row that
    /// was made at the same time: somebody put something in who had not seen the cart,
    /// and whoever wrote the note had not seen what was put in.
    fn may_be_overwritten(&self, note: &Op) -> bool {
        let CartAction::Note { session, cart, found: true, .. } = note.action else { return true };
        self.added.iter().any(|(element, (home, add))| {
            let CartAction::Add { session: adder, .. } = add.action else { return false };
            let author_knew = (session == adder && add.precedes(note))
                || self.knew(session, note, |seen| seen.cart == cart && seen.elements.contains(element));
            let adder_knew = self.wrote_to(adder, add, cart) || self.knew(adder, add, |seen| seen.cart == cart);
            *home == cart && add.outcome != Outcome::Failed && !author_knew && !adder_knew
        })
    }

    /// Whether a session had read something before one of its operations.
    fn knew(&self, session: u64, until: &Op, what: impl Fn(&SeenCart) -> bool) -> bool {
        self.before(session, until).any(|operation| match &operation.action {
            CartAction::Read { seen, last: false, .. } => seen.iter().any(&what),
            _ => false,
        })
    }

    /// Whether a session had changed a cart before one of its operations, and so has it.
    fn wrote_to(&self, session: u64, until: &Op, which: u64) -> bool {
        self.before(session, until).any(|operation| match operation.action {
            CartAction::Add { cart, .. }
            | CartAction::Remove { cart, found: true, .. }
            | CartAction::Note { cart, found: true, .. } => cart == which,
            _ => false,
        })
    }

    /// What a session did before one of its operations, acknowledged.
    fn before(&self, session: u64, until: &Op) -> impl Iterator<Item = &'a Op> {
        let until = until.invoked;
        self.sessions.get(&session).into_iter().flatten().copied().filter(move |by| by.completed <= until)
    }

    /// Notes that somebody overwrote who had seen them, and by whom.
    fn overwritten(&self) -> HashMap<i64, &'a Op> {
        let mut overwritten = HashMap::new();
        for operations in self.sessions.values() {
            let mut seen: HashMap<u64, BTreeSet<i64>> = HashMap::new();
            for operation in operations {
                match &operation.action {
                    CartAction::Read { seen: carts, last: false, .. } => carts.iter().for_each(|cart| {
                        seen.entry(cart.cart).or_default().extend(cart.note);
                    }),
                    CartAction::Note { cart, value, found: true, .. } => {
                        let before = seen.entry(*cart).or_default();
                        overwritten.extend(before.iter().map(|note| (*note, *operation)));
                        before.insert(*value);
                    }
                    _ => {}
                }
            }
        }
        overwritten
    }

    fn check_sessions(&self, findings: &mut Findings) {
        for (session, operations) in &self.sessions {
            // Of each element whether the session saw it, or saw it gone.
            let mut known: HashMap<u64, (u64, bool)> = HashMap::new();
            for operation in operations {
                match &operation.action {
                    CartAction::Add { cart, element, .. } => drop(known.insert(*element, (*cart, true))),
                    CartAction::Read { asked, seen, last: false, .. } => {
                        self.check_view(*session, operation, asked, seen, &mut known, findings);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Compares what a session reads with what it knows.
    fn check_view(
        &self,
        session: u64,
        reader: &Op,
        asked: &[u64],
        seen: &[SeenCart],
        known: &mut HashMap<u64, (u64, bool)>,
        findings: &mut Findings,
    ) {
        let there: HashSet<u64> = seen.iter().flat_map(|cart| &cart.elements).copied().collect();
        for (element, (cart, visible)) in known.iter_mut().filter(|(_, (cart, _))| asked.contains(cart)) {
            match (*visible, there.contains(element)) {
                (true, false) => {
                    let begun = |by: &&Op| by.invoked <= reader.completed;
                    let taken = self.removed.get(element).is_some_and(|ops| ops.iter().any(begun))
                        || self.deleted.get(cart).is_some_and(|ops| ops.iter().any(begun));
                    if !taken {
                        findings.add(Anomaly::SessionBroken, || {
                            vec![
                                format!("session {session} knew of {element} in cart {cart}"),
                                format!("{} did not read it, and nobody had taken it out", who(reader)),
                            ]
                        });
                    }
                    *visible = false;
                }
                (false, true) => {
                    findings.add(Anomaly::Resurrected, || {
                        vec![
                            format!("session {session} had seen that {element} was gone from cart {cart}"),
                            format!("{} read it again", who(reader)),
                        ]
                    });
                    *visible = true;
                }
                _ => {}
            }
        }
        for cart in seen {
            known.extend(cart.elements.iter().map(|element| (*element, (cart.cart, true))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One after the other, all acknowledged.
    fn names(actions: &[CartAction]) -> Vec<String> {
        let operation = |(n, action): (usize, &CartAction)| Operation {
            process: 1,
            invoked: n as u64 * 10,
            completed: n as u64 * 10 + 5,
            outcome: Outcome::Ok,
            action: action.clone(),
            error: None,
        };
        let history: Vec<_> = actions.iter().enumerate().map(operation).collect();
        check(&history).counts().keys().map(ToString::to_string).collect()
    }

    fn add(session: u64, element: u64) -> CartAction {
        CartAction::Add { session, cart: 1, element }
    }

    fn remove(session: u64, element: u64) -> CartAction {
        CartAction::Remove { session, cart: 1, element, found: true }
    }

    fn note(session: u64, value: i64) -> CartAction {
        CartAction::Note { session, cart: 1, value, found: true }
    }

    fn read(session: u64, note: Option<i64>, elements: &[u64], last: bool) -> CartAction {
        let seen = vec![SeenCart { cart: 1, note, elements: elements.to_vec() }];
        CartAction::Read { session, asked: vec![1], seen, last }
    }

    fn nothing(session: u64, last: bool) -> CartAction {
        CartAction::Read { session, asked: vec![1], seen: vec![], last }
    }

    #[test]
    fn known_answers_of_sets() {
        let end = |elements| read(9, None, elements, true);
        assert_eq!(names(&[add(1, 7), add(2, 8), end(&[7, 8])]), [""; 0]);
        assert_eq!(names(&[add(1, 7), end(&[])]), ["lost"]);
        assert_eq!(names(&[add(1, 7), remove(1, 7), end(&[])]), [""; 0]);
        assert_eq!(names(&[add(1, 7), remove(1, 7), end(&[7])]), ["resurrected"]);
        assert_eq!(names(&[add(1, 7), end(&[7, 8])]), ["garbage"]);
        assert_eq!(names(&[add(1, 7), end(&[7, 7])]), ["duplicate"]);
        assert_eq!(names(&[add(1, 7), end(&[7]), read(9, None, &[], true)]), ["diverged"]);
        let delete = CartAction::Delete { session: 1, cart: 1, seen: vec![7], found: true };
        assert_eq!(names(&[add(1, 7), delete.clone(), nothing(9, true)]), [""; 0]);
        assert_eq!(names(&[add(1, 7), delete.clone(), end(&[])]), ["resurrected"], "the cart is back");
        assert_eq!(names(&[add(1, 7), delete.clone(), add(2, 8), end(&[8])]), [""; 0], "it was made anew");
        assert_eq!(names(&[add(1, 7), delete, add(2, 8), end(&[7, 8])]), ["resurrected"]);
        let compare = CartAction::Compare { session: 1, owner: 1, indexed: vec![1], scanned: vec![] };
        assert_eq!(names(&[add(1, 7), compare]), ["index-disagrees"]);
    }

    #[test]
    fn known_answers_of_notes() {
        let end_of = |note, elements| read(9, note, elements, true);
        let end = |note| end_of(note, &[7]);
        assert_eq!(names(&[add(1, 7), note(1, 5), end(Some(5))]), [""; 0]);
        assert_eq!(names(&[add(1, 7), note(1, 5), end(None)]), ["lost"]);
        assert_eq!(names(&[add(1, 7), note(1, 5), add(1, 8), end_of(None, &[7, 8])]), ["lost"], "it had the cart");
        assert_eq!(names(&[add(1, 7), note(1, 5), end(Some(6))]), ["garbage"]);
        assert_eq!(names(&[add(1, 7), note(1, 5), note(2, 6), end(Some(5))]), [""; 0], "nobody saw it before");
        let seen = read(2, Some(5), &[7], false);
        assert_eq!(names(&[add(1, 7), note(1, 5), seen, note(2, 6), end(Some(5))]), ["resurrected"]);
        assert_eq!(names(&[add(1, 7), note(1, 5), note(1, 6), end(Some(5))]), ["resurrected"], "its own");
    }

    /// Merging two rows of one key keeps the later note, be it that of a row made without.
    #[test]
    fn a_note_may_lose_to_a_cart_that_somebody_made_who_knew_nothing_of_it() {
        let end = read(9, None, &[7, 8], true);
        let ends = |actions: &[CartAction]| names(&[actions, std::slice::from_ref(&end)].concat());
        assert_eq!(ends(&[add(1, 7), note(1, 5), add(2, 8)]), [""; 0]);
        // Clocks are wrong: what was made before may have the later time.
        assert_eq!(ends(&[add(2, 8), add(1, 7), note(1, 5)]), [""; 0]);
        // Who had seen the cart put something into that one.
        assert_eq!(ends(&[add(1, 7), read(2, None, &[7], false), note(1, 5), add(2, 8)]), ["lost"]);
        assert_eq!(ends(&[add(1, 7), note(2, 6), note(1, 5), add(2, 8)]), ["lost"]);
        // Who wrote the note had seen what was put in.
        assert_eq!(ends(&[add(1, 7), add(2, 8), read(1, None, &[7, 8], false), note(1, 5)]), ["lost"]);
        // An update of no row wrote nothing.
        let missed = CartAction::Note { session: 3, cart: 1, value: 6, found: false };
        assert_eq!(ends(&[missed, add(1, 7), add(1, 8)]), [""; 0]);
    }

    #[test]
    fn known_answers_of_sessions() {
        let see = |session, elements: &[u64]| read(session, None, elements, false);
        assert_eq!(names(&[add(1, 7), nothing(2, false), see(2, &[7])]), [""; 0]);
        assert_eq!(names(&[add(1, 7), nothing(1, false)]), ["session-broken"], "not its own");
        assert_eq!(names(&[add(1, 7), see(2, &[7]), see(2, &[])]), ["session-broken"]);
        assert_eq!(names(&[add(1, 7), see(2, &[7]), remove(1, 7), see(2, &[])]), [""; 0]);
        let back = [add(1, 7), see(2, &[7]), remove(1, 7), see(2, &[]), see(2, &[7])];
        assert_eq!(names(&back), ["resurrected"]);
        let others = [add(1, 7), remove(1, 7), see(2, &[7])];
        assert_eq!(names(&others), [""; 0], "another session may not know yet");
    }
}
