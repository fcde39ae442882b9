//! Tells a cycle so that a person can follow it.

use super::graph::{Edge, Kinds};
use crate::history::{Access, Operation, Transaction};

/// Elements shown of a long list, before and after the one that matters.
const SHOWN: usize = 4;

/// A list, cut to the part around `mark`, or to its end.
pub fn list(elements: &[u64], mark: Option<u64>) -> String {
    let at = mark.and_then(|mark| elements.iter().position(|&e| e == mark)).unwrap_or(elements.len());
    let (first, end) = (at.saturating_sub(SHOWN), (at + 1 + SHOWN).min(elements.len()));
    let shown: Vec<String> = elements[first..end].iter().map(u64::to_string).collect();
    let (before, after) = (if first > 0 { "… " } else { "" }, if end < elements.len() { " …" } else { "" });
    format!("[{before}{}{after}]", shown.join(" "))
}

/// Who did it and when, in seconds since the run began.
pub fn who<A>(operation: &Operation<A>) -> String {
    let seconds = |nanoseconds: u64| format!("{}.{:06}", nanoseconds / 1_000_000_000, nanoseconds / 1000 % 1_000_000);
    let end = if operation.latest() == u64::MAX { "?".into() } else { seconds(operation.completed) };
    format!("client {} ({}–{end} s)", operation.process, seconds(operation.invoked))
}

/// What a transaction did, as far as the lists of the cycle are concerned.
fn deeds(transaction: &Transaction, keys: &[u64]) -> String {
    let deeds: Vec<String> = transaction
        .0
        .iter()
        .filter_map(|access| match access {
            Access::Read { key, elements: Some(elements) } if keys.contains(key) => {
                Some(format!("read {key} {}", list(elements, None)))
            }
            Access::Append { key, element, undone: false } if keys.contains(key) => {
                Some(format!("append {key} {element}"))
            }
            _ => None,
        })
        .collect();
    if deeds.is_empty() { "nothing on these lists".into() } else { deeds.join(", ") }
}

fn because(edge: &Edge, from: &str, to: &str, history: &[Operation<Transaction>]) -> String {
    let key = edge.key;
    let before = edge.before.map_or("empty".into(), |element| format!("ending with {element}"));
    let (element, after) = (edge.before.unwrap_or_default(), edge.after.unwrap_or_default());
    match edge.kind {
        Kinds::WW => format!("{from} → {to} (ww): {to} appended {after} to list {key} after {from}'s {element}"),
        Kinds::WR => format!("{from} → {to} (wr): {to} read list {key} ending with {from}'s {element}"),
        Kinds::RW => {
            format!("{from} → {to} (rw): {from} read list {key} {before}, so without {to}'s {after}, which came next")
        }
        Kinds::PROCESS => {
            let process = history[edge.from as usize].process;
            format!("{from} → {to} (process): client {process} did {from}, then {to}")
        }
        _ => format!("{from} → {to} (realtime): {from} had ended before {to} began"),
    }
}

/// A cycle's story: its transactions, then what orders each before the next.
pub fn tell(history: &[Operation<Transaction>], cycle: &[Edge]) -> Vec<String> {
    let data = Kinds::WW.or(Kinds::WR).or(Kinds::RW);
    let keys: Vec<u64> = cycle.iter().filter(|edge| edge.kind.meets(data)).map(|edge| edge.key).collect();
    let name = |at: usize| format!("T{}", at % cycle.len() + 1);
    let mut story: Vec<String> = cycle
        .iter()
        .enumerate()
        .map(|(at, edge)| {
            let operation = &history[edge.from as usize];
            format!("{}: {}: {}", name(at), who(operation), deeds(&operation.action, &keys))
        })
        .collect();
    story.extend(cycle.iter().enumerate().map(|(at, edge)| because(edge, &name(at), &name(at + 1), history)));
    story
}
