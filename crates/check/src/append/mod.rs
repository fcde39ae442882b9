//! Transactions on lists, judged by their dependencies.
//!
//! Each transaction reads whole lists and appends elements that nobody else
//! appends. A list is then its own history: who reads `[3 7 9]` tells in which
//! order 3, 7 and 9 were written, and which write they saw. This is what makes
//! the check possible without a look inside (Kingsbury & Alvaro, "Elle: Inferring
//! Isolation Anomalies from Experimental Observations", VLDB 2020, section 3).
//!
//! ```text
//! ww  T appended 3, U appended 7 right after it        T → U
//! wr  U read a list that ends with T's element         T → U
//! rw  T read a list that ends where U appended         T → U
//! process, realtime: T was over before U began         T → U
//! ```
//! A cycle is a proof that no order of the transactions explains what they saw.
//! Its class (Adya, "Weak Consistency", 1999, chapter 4) says which isolation
//! level forbids it: see [`crate::finding::Phenomenon`].
//!
//! What is inferred is sound: transactions whose outcome is unknown count only if
//! somebody saw their elements. It is complete for lists that were read at the
//! end; an element that nobody could read orders nobody.

mod cycles;
mod elements;
mod graph;
mod orders;
mod story;
#[cfg(test)]
mod tests;

pub(crate) use story::who;

use crate::finding::Findings;
use crate::history::{Operation, Transaction};

/// Judges transactions on lists. Linear in what they read, but for the search
/// within cycles, which is bounded.
pub fn check(history: &[Operation<Transaction>]) -> Findings {
    let mut findings = Findings::default();
    let lists = elements::Lists::infer(history, &mut findings);
    let mut edges = lists.edges();
    orders::add(history, lists.committed(), &mut edges);
    let graph = graph::Graph::new(history.len(), edges);
    for (anomaly, cycle) in cycles::find(&graph, history) {
        findings.add(anomaly, || story::tell(history, &cycle));
    }
    findings
}
