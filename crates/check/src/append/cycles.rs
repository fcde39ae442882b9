//! Searches a dependency graph for cycles, and names them.
//!
//! Elle's plan (VLDB 2020, section 5): for each phenomenon take the graph of the
//! edges it may have, find the strongly connected components (Tarjan), and within
//! these a short cycle of the right form: an edge of the kind it must have, and
//! the shortest way back.
//!
//! ```text
//! G0        ww                     and back by ww
//! G1c       wr                     and back by ww, wr
//! G-single  rw                     and back by ww, wr
//! G2-item   rw                     and back by anything, once more by rw
//! ```
//! Then all of it again with the order of processes and of real time, which
//! must then take part. A transaction that is part of one cycle is mostly part of
//! many longer ones that say nothing new, so what was found to break a weaker
//! level is passed over in the search for what breaks stronger ones. Cycles are
//! examples, not a list: their number can be exponential. Where transactions are ordered by the other edges, a way back
//! never leads past its end, which keeps searches as short as transactions are
//! concurrent.

use std::collections::HashSet;

use super::graph::{Components, Edge, Graph, Kinds, Search, Wanted};
use super::orders::shorten;
use crate::finding::{Anomaly, Order, Phenomenon};
use crate::history::Operation;

/// Edges looked at in one search for one phenomenon.
const BUDGET: u64 = 20_000_000;
/// Cycles collected in one search, of which the shortest are told first.
const ENOUGH: usize = 64;

const DATA: Kinds = Kinds::WW.or(Kinds::WR).or(Kinds::RW);

/// Cycles of the graph with their names, shortest first; none if and only if there
/// is none. The nodes are the operations of `history`.
pub fn find<A>(graph: &Graph, history: &[Operation<A>]) -> Vec<(Anomaly, Vec<Edge>)> {
    let all = graph.components(Kinds::ALL);
    if all.count == 0 {
        return Vec::new();
    }
    let (ww, wr, rw) = (Kinds::WW, Kinds::WR, Kinds::RW);
    let plans = [(ww, ww, Kinds::NONE), (wr, ww.or(wr), Kinds::NONE), (rw, ww.or(wr), Kinds::NONE), (rw, DATA, rw)];
    let times: Vec<u64> = history.iter().map(|operation| operation.invoked).collect();
    let mut found = Vec::new();
    let mut blamed = vec![false; graph.nodes()];
    for order in [Kinds::NONE, Kinds::PROCESS, Kinds::REALTIME] {
        if order != Kinds::NONE && graph.components(DATA.or(order)).count == 0 {
            continue;
        }
        for (start, back, again) in plans {
            let plan = Plan { start, back: back.or(order), needs: [again, order] };
            let cycles = plan.run(graph, &times, &blamed);
            let mut cycles: Vec<_> = cycles.into_iter().map(|cycle| shorten(history, cycle)).collect();
            cycles.sort_by_key(Vec::len);
            for edge in cycles.iter().flatten() {
                blamed[edge.from as usize] = true;
            }
            found.extend(cycles.into_iter().map(|cycle| (name(&cycle), cycle)));
        }
    }
    if found.is_empty() {
        found.extend(any_cycle(graph, &all).map(|cycle| (name(&cycle), cycle)));
    }
    found
}

/// The form of a cycle: where it starts, and how it comes back.
struct Plan {
    start: Kinds,
    back: Kinds,
    needs: [Kinds; 2],
}

impl Plan {
    fn run(&self, graph: &Graph, times: &[u64], blamed: &[bool]) -> Vec<Vec<Edge>> {
        let within = graph.components(self.start.or(self.back));
        if within.count == 0 {
            return Vec::new();
        }
        // With rw on the way back, the graph of the way back has cycles itself.
        let places = graph.places(self.back, times);
        let wanted = Wanted { kinds: self.back, needs: self.needs, within: &within, places: places.as_deref() };
        let mut search = Search::new(graph, BUDGET);
        let (mut cycles, mut known) = (Vec::new(), HashSet::new());
        let starts = graph.edges().iter().filter(|edge| edge.kind.meets(self.start) && within.hold(edge));
        for edge in starts.filter(|edge| !blamed[edge.from as usize] && !blamed[edge.to as usize]) {
            if search.budget == 0 || cycles.len() == ENOUGH {
                break;
            }
            let Some(way) = search.path(graph, edge.to, edge.from, &wanted) else { continue };
            let mut cycle = vec![*edge];
            cycle.extend(way);
            let mut nodes: Vec<u32> = cycle.iter().map(|edge| edge.from).collect();
            nodes.sort_unstable();
            // A walk that meets its needs may cross itself: then it is no cycle, but two.
            let crosses = nodes.windows(2).any(|pair| pair[0] == pair[1]);
            let old = nodes.iter().any(|&node| blamed[node as usize]);
            if !crosses && !old && known.insert(nodes) {
                cycles.push(cycle);
            }
        }
        cycles
    }
}

/// A shortest cycle through some node of a component.
fn any_cycle(graph: &Graph, within: &Components) -> Option<Vec<Edge>> {
    let start = graph.edges().iter().find(|edge| within.hold(edge))?.from;
    let wanted = Wanted { kinds: Kinds::ALL, needs: [Kinds::NONE; 2], within, places: None };
    Search::new(graph, u64::MAX).path(graph, start, start, &wanted)
}

/// What a cycle is called, by the edges it has.
fn name(cycle: &[Edge]) -> Anomaly {
    let count = |kind: Kinds| cycle.iter().filter(|edge| edge.kind == kind).count();
    let phenomenon = match (count(Kinds::RW), count(Kinds::WR)) {
        (0, 0) => Phenomenon::G0,
        (0, _) => Phenomenon::G1c,
        (1, _) => Phenomenon::GSingle,
        _ => Phenomenon::G2Item,
    };
    let order = match (count(Kinds::REALTIME), count(Kinds::PROCESS)) {
        (0, 0) => Order::Data,
        (0, _) => Order::Process,
        _ => Order::Realtime,
    };
    Anomaly::Cycle(phenomenon, order)
}
