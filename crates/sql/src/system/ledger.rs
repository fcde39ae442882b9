//! What this node's ledger knows: blocks, validators and evidence. What rows were before,
//! [`super::history`] says.

use polity_base::{NodeId, Value};
use polity_txn::byzantine::Reader;
use polity_txn::byzantine::bft::evidence::Evidence;
use polity_txn::byzantine::bft::hash::hex;
use polity_txn::byzantine::bft::ledger::error::Error as Below;
use polity_txn::byzantine::bft::types::Height;

use super::{Rows, SystemInput, text};
use crate::error::Result;
use crate::ledger::step::of_ledger;
use crate::session::Engine;
use crate::system::shape::Fill;

/// Blocks that are shown at most.
const MOST: usize = 10_000;

pub(super) fn fill_of(name: &str) -> Option<Fill> {
    is_one(name).then_some(live)
}

/// Whether it is one of these tables.
pub(crate) fn is_one(name: &str) -> bool {
    matches!(name, "blocks" | "validators" | "evidence" | "history")
}

fn live(input: &SystemInput, rows: &mut Rows<'_>) {
    rows.rows.clone_from(&input.live);
}

/// The rows of a table of the schema `polity`, now.
pub(crate) fn rows_of(table: &str, engine: &Engine) -> Result<Vec<Vec<Value>>> {
    let directory = engine.database().directory();
    let Some(reader) = directory.ledger().and_then(|ledger| ledger.reader()) else { return Ok(Vec::new()) };
    match table {
        "blocks" => blocks(&reader),
        "validators" => validators(&reader),
        "evidence" => Ok(reader.evidence().map_err(of_ledger)?.iter().map(evidence).collect()),
        // The history is read bit by bit: see `history`.
        _ => Ok(Vec::new()),
    }
}

/// The newest blocks of which all is kept, newest first.
fn blocks(reader: &Reader) -> Result<Vec<Vec<Value>>> {
    let mut found = Vec::new();
    let mut height = reader.height().map_err(of_ledger)?;
    while height > Height(0) && found.len() < MOST {
        let journal = match reader.journal(height) {
            Ok(journal) => journal,
            Err(Below::Gone { .. }) => break,
            Err(error) => return Err(of_ledger(error)),
        };
        let Some(events) = &journal.events else { break };
        let signed: Vec<String> = journal.certificate.signatures.iter().map(|(node, _)| node.0.to_string()).collect();
        found.push(vec![
            number(height.0),
            moment(journal.header.time_ms),
            number(events.ids.len() as u64),
            node(journal.header.proposer),
            number(u64::from(journal.certificate.round)),
            text(hex(&journal.header.id().0)),
            text(hex(&journal.header.state_root)),
            text(signed.join(" ")),
        ]);
        height = Height(height.0 - 1);
    }
    Ok(found)
}

fn validators(reader: &Reader) -> Result<Vec<Vec<Value>>> {
    let sets: Vec<_> = reader.validators().map_err(of_ledger)?.into_iter().collect();
    let mut found = Vec::new();
    for (at, (from, set)) in sets.iter().enumerate() {
        let until = sets.get(at + 1).map_or(Value::Null, |(next, _)| number(next.0 - 1));
        for validator in set.iter() {
            let key = text(hex(&validator.key.encode()));
            found.push(vec![node(validator.node), key, number(validator.power), number(from.0), until.clone()]);
        }
    }
    Ok(found)
}

fn evidence(evidence: &Evidence) -> Vec<Value> {
    let (height, round, kind, who) = evidence.key();
    let fault = match kind {
        0 => "two prevotes",
        1 => "two precommits",
        _ => "two proposals",
    };
    vec![number(height.0), number(u64::from(round)), node(who), text(fault)]
}

pub(super) fn number(n: u64) -> Value {
    Value::Int8(i64::try_from(n).unwrap_or(i64::MAX))
}

fn node(NodeId(node): NodeId) -> Value {
    number(node)
}

pub(super) fn moment(time_ms: u64) -> Value {
    Value::TimestampTz(i64::try_from(time_ms.saturating_mul(1_000)).unwrap_or(i64::MAX))
}
