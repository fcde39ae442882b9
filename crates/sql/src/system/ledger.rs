//! What this node's ledger knows: blocks, validators, evidence, and what rows were before.

use polity_base::key::Direction;
use polity_base::{Guarantee, Key, NodeId, Span, Value};
use polity_txn::View;
use polity_txn::byzantine::Reader;
use polity_txn::byzantine::bft::evidence::Evidence;
use polity_txn::byzantine::bft::ledger::error::Error as Below;
use polity_txn::byzantine::bft::types::Height;

use super::{Rows, SystemInput, text};
use crate::catalog::{Catalog, Table, rows};
use crate::error::Result;
use crate::expr::Local;
use crate::expr::text::write;
use crate::ledger::step::of_ledger;
use crate::session::Engine;
use crate::system::shape::Fill;
use crate::write::violation::key_text;

/// Rows that a table of the schema `polity` shows at most.
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
pub(crate) fn rows_of(table: &str, engine: &Engine, catalog: &Catalog, view: &View) -> Result<Vec<Vec<Value>>> {
    let directory = engine.database().directory();
    let Some(reader) = directory.ledger().and_then(|ledger| ledger.reader()) else { return Ok(Vec::new()) };
    match table {
        "blocks" => blocks(&reader),
        "validators" => validators(&reader),
        "evidence" => Ok(reader.evidence().map_err(of_ledger)?.iter().map(evidence).collect()),
        _ => history(&reader, catalog, view),
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

/// What the rows that are there now were at each height that changed them, newest first.
fn history(reader: &Reader, catalog: &Catalog, view: &View) -> Result<Vec<Vec<Value>>> {
    let mut found = Vec::new();
    let view = view.untracked();
    for table in catalog.tables.values().filter(|table| table.guarantee == Guarantee::Byzantine) {
        let mut scan = view.scan(Span::of_index(table.primary.storage), Direction::Ascending)?;
        loop {
            let chunk = scan.next_chunk(256)?;
            if chunk.is_empty() {
                break;
            }
            for (key, stored) in chunk {
                revisions(reader, table, &key, &stored, &mut found)?;
                if found.len() >= MOST {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

fn revisions(reader: &Reader, table: &Table, key: &Key, stored: &[u8], found: &mut Vec<Vec<Value>>) -> Result<()> {
    let named = key_of(table, &rows::load(table, stored)?);
    for revision in reader.history(key).map_err(of_ledger)? {
        let row = match &revision.value {
            Some(value) => text(shown(table, &rows::load(table, value)?)),
            None => Value::Null,
        };
        let (height, time) = (number(revision.height.0), moment(revision.time_ms));
        found.push(vec![text(table.name.as_str()), text(named.clone()), height, time, row]);
    }
    Ok(())
}

fn key_of(table: &Table, row: &[Value]) -> String {
    let places = table.primary.columns.iter().filter_map(|id| {
        let at = table.columns.iter().position(|c| c.id == *id)?;
        Some((table.columns[at].name.as_str(), &table.columns[at].r#type, row.get(at)?))
    });
    key_text(places, Local::UTC)
}

/// A row as people read it.
fn shown(table: &Table, row: &[Value]) -> String {
    let cell = |(column, value): (&crate::catalog::Column, &Value)| match value {
        Value::Null => "NULL".to_owned(),
        value => write(value, &column.r#type, Local::UTC),
    };
    let cells: Vec<String> = table.columns.iter().zip(row).map(cell).collect();
    format!("({})", cells.join(", "))
}

fn number(n: u64) -> Value {
    Value::Int8(i64::try_from(n).unwrap_or(i64::MAX))
}

fn node(NodeId(node): NodeId) -> Value {
    number(node)
}

fn moment(time_ms: u64) -> Value {
    Value::TimestampTz(i64::try_from(time_ms.saturating_mul(1_000)).unwrap_or(i64::MAX))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
