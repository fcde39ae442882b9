//! Orders that come from clients, not from data: of one process, and of time.
//!
//! Of real time only the nearest pairs become edges, the others follow from them
//! (Elle's transitive reduction): a transaction stays at the *front* until one
//! that began after its end has ended too. The front is never wider than the
//! clients are many, so edges stay linear.

use std::collections::HashMap;

use super::graph::{Edge, Kinds};
use crate::history::Operation;

/// Adds the orders of the committed transactions to `edges`.
pub fn add<A>(history: &[Operation<A>], committed: &[bool], edges: &mut Vec<Edge>) {
    let order = |from: u32, to: u32, kind| Edge { from, to, kind, key: 0, before: None, after: None };
    let mut events = Vec::new();
    for (number, operation) in history.iter().enumerate().filter(|(number, _)| committed[*number]) {
        // At equal times, what begins comes first: it cannot be known to be later.
        events.push((operation.invoked, 0, number as u32));
        if operation.latest() < u64::MAX {
            events.push((operation.completed, 1, number as u32));
        }
    }
    events.sort_unstable();
    let mut front: Vec<u32> = Vec::new();
    let mut last_of_process: HashMap<u64, u32> = HashMap::new();
    for (_, ends, number) in events {
        let operation = &history[number as usize];
        if ends == 1 {
            front.retain(|&other| !history[other as usize].precedes(operation));
            front.push(number);
            continue;
        }
        edges.extend(front.iter().map(|&other| order(other, number, Kinds::REALTIME)));
        if let Some(before) = last_of_process.insert(operation.process, number) {
            edges.push(order(before, number, Kinds::PROCESS));
        }
    }
}

/// The same cycle with as few transactions as can be: whatever lies between two
/// of which one precedes the other is left out, unless it is an RW dependency,
/// which gives the cycle its class.
pub fn shorten<A>(history: &[Operation<A>], mut cycle: Vec<Edge>) -> Vec<Edge> {
    if !cycle.iter().any(|edge| edge.kind == Kinds::REALTIME) {
        return cycle;
    }
    // The last edge stays, so that what remains is still a contradiction.
    let last = |kinds: Kinds| cycle.iter().rposition(|edge| edge.kind.meets(kinds));
    if let Some(at) = last(Kinds::RW).or_else(|| last(Kinds::WW.or(Kinds::WR))) {
        cycle.rotate_left(at + 1);
    }
    let mut short = Vec::new();
    let mut at = 0;
    while at < cycle.len() {
        let from = &history[cycle[at].from as usize];
        let free = cycle[at..cycle.len() - 1].iter().take_while(|edge| edge.kind != Kinds::RW);
        let leap = free.enumerate().filter(|(_, edge)| from.precedes(&history[edge.to as usize])).last();
        match leap {
            Some((length, edge)) => {
                short.push(Edge { from: cycle[at].from, to: edge.to, kind: Kinds::REALTIME, ..*edge });
                at += length + 1;
            }
            None => {
                short.push(cycle[at]);
                at += 1;
            }
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Outcome;

    #[test]
    fn real_time_keeps_the_nearest_pairs_only() {
        let at = |process, invoked, completed, outcome| Operation {
            process,
            invoked,
            completed,
            outcome,
            action: (),
            error: None,
        };
        let history = [
            at(1, 0, 10, Outcome::Ok),
            at(2, 5, 15, Outcome::Unknown),
            at(1, 20, 30, Outcome::Ok),
            at(3, 40, 50, Outcome::Ok),
        ];
        let mut edges = Vec::new();
        add(&history, &[true; 4], &mut edges);
        let of = |kind| edges.iter().filter(|e| e.kind == kind).map(|e| (e.from, e.to)).collect::<Vec<_>>();
        assert_eq!(of(Kinds::REALTIME), [(0, 2), (2, 3)], "0 → 3 follows, and nothing follows the unknown one");
        assert_eq!(of(Kinds::PROCESS), [(0, 2)]);
    }
}
