//! What the lists say: who wrote which element, in which order, and who saw it.
//!
//! Here are found the anomalies that need no cycle: elements that nobody wrote,
//! or that were rolled back, or are there twice or no more, and reads that do not
//! agree with each other or with their own transaction.

use std::collections::{HashMap, HashSet};

use super::graph::{Edge, Kinds};
use super::story::{list, who};
use crate::finding::{Anomaly, Findings};
use crate::history::{Access, Operation, Outcome, Transaction};

/// Transactions that append to one list what nobody read are tied to each of its
/// last readers, but no more than so many of them: usually there are none.
const UNSEEN_TIED: usize = 16;

/// Who appended an element, and how.
#[derive(Clone, Copy)]
struct Writer {
    transaction: u32,
    undone: bool,
    /// No later append of the same transaction to the same list.
    last: bool,
}

impl Writer {
    fn is_rolled_back(self, history: &[Operation<Transaction>]) -> bool {
        self.undone || history[self.transaction as usize].outcome == Outcome::Failed
    }
}

/// A read, as far as it depends on others.
struct Read {
    transaction: u32,
    key: u64,
    /// How many elements others had appended.
    length: usize,
}

/// All that the reads tell.
pub struct Lists {
    writers: HashMap<(u64, u64), Writer>,
    /// By list: the longest read.
    orders: HashMap<u64, Vec<u64>>,
    /// By list: how many elements of the order are beyond doubt.
    sound: HashMap<u64, usize>,
    /// Reads that agree with their list's order.
    reads: Vec<Read>,
    /// Acknowledged elements that no read has, by list.
    unseen: HashMap<u64, Vec<(u64, u32)>>,
    committed: Vec<bool>,
}

/// The reads of a transaction, each with the elements that the transaction itself
/// had appended to that list before.
fn reads_of(transaction: &Transaction) -> Vec<(u64, &[u64], Vec<u64>)> {
    let mut own: Vec<(u64, u64)> = Vec::new();
    let mut reads = Vec::new();
    for access in &transaction.0 {
        match access {
            Access::Append { key, element, undone: false } => own.push((*key, *element)),
            Access::Append { undone: true, .. } | Access::Read { elements: None, .. } => {}
            Access::Read { key, elements: Some(elements) } => {
                let own = own.iter().filter(|(k, _)| k == key).map(|(_, e)| *e).collect();
                reads.push((*key, elements.as_slice(), own));
            }
        }
    }
    reads
}

impl Lists {
    /// Reads the history, and reports what is wrong without any cycle.
    pub fn infer(history: &[Operation<Transaction>], findings: &mut Findings) -> Lists {
        let mut lists = Lists {
            writers: writers(history, findings),
            orders: HashMap::new(),
            sound: HashMap::new(),
            reads: Vec::new(),
            unseen: HashMap::new(),
            committed: history.iter().map(Operation::is_ok).collect(),
        };
        lists.find_orders(history);
        lists.find_committed(history);
        // Those whose outcome is unknown, but who were seen, have seen something themselves.
        lists.find_orders(history);
        lists.find_suspects(history);
        for (number, operation) in history.iter().enumerate().filter(|(number, _)| lists.committed[*number]) {
            for (key, elements, own) in reads_of(&operation.action) {
                let read = judge_read(&lists, history, number, key, elements, &own, findings);
                lists.reads.extend(read.map(|length| Read { transaction: number as u32, key, length }));
            }
        }
        lists.find_dirty_updates(history, findings);
        lists.find_lost(history, findings);
        lists
    }

    /// Which transactions took effect: acknowledged, or unknown and seen.
    pub fn committed(&self) -> &[bool] {
        &self.committed
    }

    fn find_committed(&mut self, history: &[Operation<Transaction>]) {
        for (&key, order) in &self.orders {
            for writer in order.iter().filter_map(|element| self.writers.get(&(key, *element))) {
                let number = writer.transaction as usize;
                self.committed[number] |= history[number].outcome == Outcome::Unknown && !writer.undone;
            }
        }
    }

    /// Finds how much of each order is beyond doubt, so that reads of no more
    /// than that need not be looked at element by element.
    fn find_suspects(&mut self, history: &[Operation<Transaction>]) {
        for (&key, order) in &self.orders {
            let mut seen = HashSet::with_capacity(order.len());
            let mut sound = |element: &u64| {
                seen.insert(*element)
                    && self.writers.get(&(key, *element)).is_some_and(|writer| !writer.is_rolled_back(history))
            };
            self.sound.insert(key, order.iter().take_while(|element| sound(element)).count());
        }
    }

    fn find_orders(&mut self, history: &[Operation<Transaction>]) {
        for (operation, _) in history.iter().zip(&self.committed).filter(|(_, committed)| **committed) {
            for (key, elements, _) in reads_of(&operation.action) {
                let longest = self.orders.entry(key).or_default();
                if elements.len() > longest.len() {
                    *longest = elements.to_vec();
                }
            }
        }
    }

    fn find_dirty_updates(&self, history: &[Operation<Transaction>], findings: &mut Findings) {
        for (&key, order) in &self.orders {
            let mut rolled_back = None;
            for &element in order {
                let Some(writer) = self.writers.get(&(key, element)) else { continue };
                let by = &history[writer.transaction as usize];
                if writer.is_rolled_back(history) {
                    rolled_back = Some((element, by));
                } else if let (Some((under, by_whom)), true) =
                    (rolled_back, self.committed[writer.transaction as usize])
                {
                    findings.add(Anomaly::DirtyUpdate, || {
                        vec![
                            format!("{} appended {under} to list {key} and was rolled back", who(by_whom)),
                            format!("{} committed {element} on top of it", who(by)),
                            format!("list {key}: {}", list(order, Some(element))),
                        ]
                    });
                    break;
                }
            }
        }
    }

    /// Finds acknowledged elements in no read; those that a later read ought to
    /// have are lost.
    fn find_lost(&mut self, history: &[Operation<Transaction>], findings: &mut Findings) {
        let mut latest_read: HashMap<u64, &Operation<Transaction>> = HashMap::new();
        for operation in history.iter().filter(|operation| operation.is_ok()) {
            for (key, _, _) in reads_of(&operation.action) {
                let latest = latest_read.entry(key).or_insert(operation);
                if latest.invoked < operation.invoked {
                    *latest = operation;
                }
            }
        }
        let seen: HashMap<u64, HashSet<u64>> =
            self.orders.iter().map(|(key, order)| (*key, order.iter().copied().collect())).collect();
        for (number, operation) in history.iter().enumerate().filter(|(_, operation)| operation.is_ok()) {
            for access in &operation.action.0 {
                let Access::Append { key, element, undone: false } = access else { continue };
                let Some(reader) = latest_read.get(key) else { continue };
                if seen.get(key).is_some_and(|seen| seen.contains(element)) {
                    continue;
                }
                self.unseen.entry(*key).or_default().push((*element, number as u32));
                if operation.precedes(reader) {
                    findings.add(Anomaly::Lost, || {
                        vec![
                            format!("{} appended {element} to list {key}, acknowledged", who(operation)),
                            format!(
                                "{} read list {key} later, and it is not there, nor in any other read",
                                who(reader)
                            ),
                        ]
                    });
                }
            }
        }
    }

    /// The dependencies of the committed transactions.
    pub fn edges(&self) -> Vec<Edge> {
        let mut edges = Vec::new();
        // By list and length of a read: who appended next.
        let mut next_writer: HashMap<u64, Vec<Option<(u64, u32)>>> = HashMap::new();
        for (&key, order) in &self.orders {
            let by = |element: &u64| {
                self.writers.get(&(key, *element)).map(|w| w.transaction).filter(|t| self.committed[*t as usize])
            };
            let mut before: Option<(u64, u32)> = None;
            let mut next = vec![None; order.len() + 1];
            for (at, element) in order.iter().enumerate() {
                let Some(to) = by(element) else { continue };
                if let Some((previous, from)) = before {
                    edges.push(Edge { from, to, kind: Kinds::WW, key, before: Some(previous), after: Some(*element) });
                }
                before = Some((*element, to));
                next[at] = Some((*element, to));
            }
            for at in (0..order.len()).rev() {
                next[at] = next[at].or(next[at + 1]);
            }
            next_writer.insert(key, next);
            if let Some((previous, from)) = before {
                for &(element, to) in self.tied(key) {
                    edges.push(Edge { from, to, kind: Kinds::WW, key, before: Some(previous), after: Some(element) });
                }
            }
        }
        for read in &self.reads {
            let (key, from) = (read.key, read.transaction);
            let order = &self.orders[&key];
            let seen = read.length.checked_sub(1).map(|last| order[last]);
            if let Some(writer) = seen.and_then(|element| self.writers.get(&(key, element)))
                && self.committed[writer.transaction as usize]
            {
                edges.push(Edge {
                    from: writer.transaction,
                    to: from,
                    kind: Kinds::WR,
                    key,
                    before: seen,
                    after: None,
                });
            }
            match next_writer[&key][read.length] {
                Some((element, to)) => {
                    edges.push(Edge { from, to, kind: Kinds::RW, key, before: seen, after: Some(element) })
                }
                None => edges.extend(self.tied(key).iter().map(|&(element, to)| Edge {
                    from,
                    to,
                    kind: Kinds::RW,
                    key,
                    before: seen,
                    after: Some(element),
                })),
            }
        }
        edges
    }

    /// Acknowledged elements that no read has come after all that were read.
    fn tied(&self, key: u64) -> &[(u64, u32)] {
        let unseen = self.unseen.get(&key).map_or(&[][..], Vec::as_slice);
        &unseen[..unseen.len().min(UNSEEN_TIED)]
    }
}

/// Who appended which element; two who appended the same would make the history
/// worthless, and are reported as garbage.
fn writers(history: &[Operation<Transaction>], findings: &mut Findings) -> HashMap<(u64, u64), Writer> {
    let mut writers: HashMap<(u64, u64), Writer> = HashMap::new();
    for (number, operation) in history.iter().enumerate() {
        let mut last: HashMap<u64, u64> = HashMap::new();
        for access in &operation.action.0 {
            let Access::Append { key, element, undone } = access else { continue };
            let writer = Writer { transaction: number as u32, undone: *undone, last: true };
            if writers.insert((*key, *element), writer).is_some() {
                findings
                    .undecided
                    .push(format!("element {element} was appended to list {key} twice: a broken workload"));
            }
            if !undone
                && let Some(earlier) = last.insert(*key, *element)
                && let Some(writer) = writers.get_mut(&(*key, earlier))
            {
                writer.last = false;
            }
        }
    }
    writers
}

/// Judges one read by itself. Gives the length of its part that others wrote, if
/// it agrees with the list's order.
fn judge_read(
    lists: &Lists,
    history: &[Operation<Transaction>],
    number: usize,
    key: u64,
    elements: &[u64],
    own: &[u64],
    findings: &mut Findings,
) -> Option<usize> {
    let reader = &history[number];
    let read = |mark| format!("{} read list {key} as {}", who(reader), list(elements, mark));
    let order = &lists.orders[&key];
    let agrees = order.starts_with(elements);
    let doubtful = if agrees && elements.len() <= lists.sound[&key] { &[] } else { elements };
    let mut seen = HashSet::with_capacity(doubtful.len());
    for &element in doubtful {
        if !seen.insert(element) {
            findings.add(Anomaly::Duplicate, || vec![read(Some(element)), format!("{element} is there twice")]);
        }
        let Some(writer) = lists.writers.get(&(key, element)) else {
            findings.add(Anomaly::Garbage, || vec![read(Some(element)), format!("nobody appended {element} to it")]);
            continue;
        };
        let by = &history[writer.transaction as usize];
        if writer.is_rolled_back(history) {
            findings.add(Anomaly::AbortedRead, || {
                let how = if writer.undone { "to a savepoint" } else { "" };
                vec![
                    read(Some(element)),
                    format!("{} appended {element} and was rolled back {how}", who(by)).trim_end().into(),
                ]
            });
        }
    }
    let Some(external) = elements.strip_suffix(own) else {
        findings.add(Anomaly::Internal, || {
            vec![read(None), format!("it had itself appended {} before, which must be the end", list(own, None))]
        });
        return None;
    };
    if !agrees {
        findings.add(Anomaly::IncompatibleOrder, || {
            let differs = elements.iter().zip(order).find(|(a, b)| a != b).map(|(a, _)| *a);
            vec![read(differs), format!("another read of list {key} gave {}", list(order, None))]
        });
        return None;
    }
    if let Some(&element) = external.last()
        && let Some(writer) = lists.writers.get(&(key, element))
        && !writer.last
        && !writer.undone
        && writer.transaction as usize != number
    {
        findings.add(Anomaly::IntermediateRead, || {
            let by = who(&history[writer.transaction as usize]);
            vec![read(Some(element)), format!("{by} appended {element}, and more to the same list after it")]
        });
    }
    Some(external.len())
}
