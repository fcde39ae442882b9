//! A dependency graph: who must come after whom, and why.
//!
//! Nodes are transactions, by number. Edges carry a kind and a reason. Walks take
//! a set of kinds, so one graph serves the search for every phenomenon. All
//! algorithms here are iterative (histories are long, stacks are not) and linear
//! in the edges they touch.

use std::collections::{BinaryHeap, VecDeque};

/// A set of kinds of edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kinds(u8);

impl Kinds {
    /// No kind.
    pub const NONE: Kinds = Kinds(0);
    /// `to` overwrote what `from` wrote.
    pub const WW: Kinds = Kinds(1);
    /// `to` read what `from` wrote.
    pub const WR: Kinds = Kinds(2);
    /// `to` overwrote what `from` read.
    pub const RW: Kinds = Kinds(4);
    /// One process did `from`, then `to`.
    pub const PROCESS: Kinds = Kinds(8);
    /// `from` had ended before `to` began.
    pub const REALTIME: Kinds = Kinds(16);
    /// All of them.
    pub const ALL: Kinds = Kinds(31);

    /// Both sets together.
    pub const fn or(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    /// Whether the sets have a kind in common.
    pub const fn meets(self, other: Kinds) -> bool {
        self.0 & other.0 != 0
    }
}

/// One dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Who comes first.
    pub from: u32,
    /// Who comes after.
    pub to: u32,
    /// Exactly one kind.
    pub kind: Kinds,
    /// The list it is about; without meaning for orders of process and time.
    pub key: u64,
    /// The element that was read or overwritten; none is the empty list.
    pub before: Option<u64>,
    /// The element that `to` appended, for WW and RW.
    pub after: Option<u64>,
}

/// The edges, by where they start.
pub struct Graph {
    /// Where each node's edges start in `edges`; one more than there are nodes.
    starts: Vec<u32>,
    edges: Vec<Edge>,
}

/// The number of no component: a node that no cycle passes through.
const ALONE: u32 = u32::MAX;

/// The strongly connected components of more than one node.
pub struct Components {
    /// Of each node.
    pub of: Vec<u32>,
    /// How many there are.
    pub count: u32,
}

impl Components {
    /// Whether a cycle may pass along this edge.
    pub fn hold(&self, edge: &Edge) -> bool {
        self.of[edge.from as usize] != ALONE && self.of[edge.from as usize] == self.of[edge.to as usize]
    }
}

impl Graph {
    /// A graph of `nodes` nodes. Edges from a node to itself are left out.
    pub fn new(nodes: usize, mut edges: Vec<Edge>) -> Graph {
        edges.retain(|edge| edge.from != edge.to);
        edges.sort_by_key(|edge| (edge.from, edge.to, edge.kind.0));
        edges.dedup_by_key(|edge| (edge.from, edge.to, edge.kind.0));
        let mut starts = vec![0u32; nodes + 1];
        for edge in &edges {
            starts[edge.from as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        Graph { starts, edges }
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.starts.len() - 1
    }

    /// All edges.
    pub fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// The edges that start at a node.
    pub fn from(&self, node: u32) -> &[Edge] {
        &self.edges[self.starts[node as usize] as usize..self.starts[node as usize + 1] as usize]
    }

    /// Tarjan's strongly connected components (SIAM J. Comput. 1972) along edges of `kinds`.
    pub fn components(&self, kinds: Kinds) -> Components {
        const UNSEEN: u32 = u32::MAX;
        let nodes = self.nodes();
        let mut index = vec![UNSEEN; nodes];
        let mut low = vec![0u32; nodes];
        let mut on_stack = vec![false; nodes];
        let mut components = Components { of: vec![ALONE; nodes], count: 0 };
        let (mut next, mut stack, mut calls) = (0u32, Vec::new(), Vec::<(u32, u32)>::new());
        for root in 0..nodes as u32 {
            if index[root as usize] != UNSEEN {
                continue;
            }
            calls.push((root, 0));
            while let Some((node, at)) = calls.last_mut() {
                let v = *node as usize;
                if *at == 0 {
                    (index[v], low[v]) = (next, next);
                    next += 1;
                    stack.push(*node);
                    on_stack[v] = true;
                }
                if let Some(edge) = self.from(*node).get(*at as usize) {
                    *at += 1;
                    let w = edge.to as usize;
                    if !edge.kind.meets(kinds) {
                        continue;
                    }
                    if index[w] == UNSEEN {
                        calls.push((edge.to, 0));
                    } else if on_stack[w] {
                        low[v] = low[v].min(index[w]);
                    }
                    continue;
                }
                calls.pop();
                if let Some((parent, _)) = calls.last() {
                    low[*parent as usize] = low[*parent as usize].min(low[v]);
                }
                if low[v] == index[v] {
                    let first = stack.iter().rposition(|&n| n as usize == v).unwrap_or(0);
                    let members = stack.split_off(first);
                    for &member in &members {
                        on_stack[member as usize] = false;
                    }
                    if members.len() > 1 {
                        for &member in &members {
                            components.of[member as usize] = components.count;
                        }
                        components.count += 1;
                    }
                }
            }
        }
        components
    }

    /// Each node's place in an order that agrees with the edges of `kinds`, near
    /// the order of `times`; `None` if they form a cycle.
    pub fn places(&self, kinds: Kinds, times: &[u64]) -> Option<Vec<u32>> {
        let mut waits_for = vec![0u32; self.nodes()];
        for edge in self.edges.iter().filter(|edge| edge.kind.meets(kinds)) {
            waits_for[edge.to as usize] += 1;
        }
        let ready = |node: u32| (std::cmp::Reverse(times[node as usize]), node);
        let mut heap: BinaryHeap<_> =
            (0..self.nodes() as u32).filter(|&n| waits_for[n as usize] == 0).map(ready).collect();
        let (mut places, mut next) = (vec![0; self.nodes()], 0);
        while let Some((_, node)) = heap.pop() {
            places[node as usize] = next;
            next += 1;
            for edge in self.from(node).iter().filter(|edge| edge.kind.meets(kinds)) {
                waits_for[edge.to as usize] -= 1;
                if waits_for[edge.to as usize] == 0 {
                    heap.push(ready(edge.to));
                }
            }
        }
        (next as usize == self.nodes()).then_some(places)
    }
}

/// What a path must be like.
pub struct Wanted<'a> {
    /// It goes along these kinds.
    pub kinds: Kinds,
    /// It has an edge of each of these sets (at most two; `NONE` asks for nothing).
    pub needs: [Kinds; 2],
    /// It stays within these components.
    pub within: &'a Components,
    /// It never goes beyond the target's place.
    pub places: Option<&'a [u32]>,
}

/// Finds shortest paths; keeps its memory between searches.
pub struct Search {
    /// By node and by which needs are met: the search that was here, and the edge it came by.
    reached: Vec<(u32, u32)>,
    round: u32,
    queue: VecDeque<u32>,
    /// How many more edges may be looked at, over all searches.
    pub budget: u64,
}

impl Search {
    /// A search on `graph` that looks at `budget` edges at most.
    pub fn new(graph: &Graph, budget: u64) -> Search {
        Search { reached: vec![(0, 0); graph.nodes() * 4], round: 0, queue: VecDeque::new(), budget }
    }

    /// The shortest path from one node to another (the same node again, if they
    /// are equal): edges in order. `None` if there is none or the budget is spent.
    pub fn path(&mut self, graph: &Graph, from: u32, to: u32, wanted: &Wanted) -> Option<Vec<Edge>> {
        const START: u32 = u32::MAX;
        self.round += 1;
        self.queue.clear();
        let met = |edge: Kinds| u32::from(edge.meets(wanted.needs[0])) | (u32::from(edge.meets(wanted.needs[1])) << 1);
        let none = wanted.needs.map(|need| need == Kinds::NONE);
        let first = u32::from(none[0]) | (u32::from(none[1]) << 1);
        let end = to * 4 + 3;
        self.queue.push_back(from * 4 + first);
        if from != to {
            self.reached[(from * 4 + first) as usize] = (self.round, START);
        }
        while let Some(state) = self.queue.pop_front() {
            let node = state / 4;
            for (at, edge) in graph.from(node).iter().enumerate() {
                if self.budget == 0 {
                    return None;
                }
                self.budget -= 1;
                let beyond = wanted.places.is_some_and(|places| places[edge.to as usize] > places[to as usize]);
                if beyond || !edge.kind.meets(wanted.kinds) || !wanted.within.hold(edge) {
                    continue;
                }
                let next = edge.to * 4 + ((state % 4) | met(edge.kind));
                if self.reached[next as usize].0 == self.round {
                    continue;
                }
                let by = graph.starts[node as usize] + at as u32;
                // The flags before this edge are needed to walk back: they are the low bits of `by`'s owner.
                self.reached[next as usize] = (self.round, by * 4 + state % 4);
                if next == end {
                    return Some(self.walk_back(graph, from * 4 + first, end));
                }
                self.queue.push_back(next);
            }
        }
        None
    }

    fn walk_back(&self, graph: &Graph, start: u32, end: u32) -> Vec<Edge> {
        let (mut path, mut state) = (Vec::new(), end);
        loop {
            let by = self.reached[state as usize].1;
            let edge = graph.edges[(by / 4) as usize];
            path.push(edge);
            state = edge.from * 4 + by % 4;
            if state == start {
                path.reverse();
                return path;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(nodes: usize, edges: &[(u32, u32, Kinds)]) -> Graph {
        let edge = |&(from, to, kind): &(u32, u32, Kinds)| Edge { from, to, kind, key: 0, before: None, after: None };
        Graph::new(nodes, edges.iter().map(edge).collect())
    }

    #[test]
    fn components_are_those_of_the_kinds_asked_for() {
        let graph =
            graph(5, &[(0, 1, Kinds::WW), (1, 2, Kinds::WR), (2, 0, Kinds::RW), (2, 3, Kinds::WW), (3, 4, Kinds::WW)]);
        let all = graph.components(Kinds::ALL);
        assert_eq!((all.count, all.of), (1, vec![0, 0, 0, ALONE, ALONE]));
        assert_eq!(graph.components(Kinds::WW.or(Kinds::WR)).count, 0);
        assert_eq!(graph.places(Kinds::WW.or(Kinds::WR), &[0; 5]).map(|p| p[4]), Some(4));
        assert_eq!(graph.places(Kinds::ALL, &[0; 5]), None);
    }

    #[test]
    fn a_path_meets_its_needs_and_may_return_to_its_start() {
        // 0 → 1 directly by WW, and by way of 2 with an RW.
        let graph = graph(3, &[(0, 1, Kinds::WW), (0, 2, Kinds::WW), (2, 1, Kinds::RW), (1, 0, Kinds::WW)]);
        let within = &graph.components(Kinds::ALL);
        let mut search = Search::new(&graph, 1000);
        let mut nodes = |from, to, needs| {
            let wanted = Wanted { kinds: Kinds::ALL, needs, within, places: None };
            search.path(&graph, from, to, &wanted).map(|path| path.iter().map(|e| e.to).collect::<Vec<_>>())
        };
        assert_eq!(nodes(0, 1, [Kinds::NONE; 2]), Some(vec![1]));
        assert_eq!(nodes(0, 1, [Kinds::RW, Kinds::NONE]), Some(vec![2, 1]));
        assert_eq!(nodes(0, 0, [Kinds::NONE; 2]), Some(vec![1, 0]));
        assert_eq!(nodes(0, 1, [Kinds::REALTIME, Kinds::NONE]), None);
    }
}
