//! Nodes that were removed for good, as the strong range has them.
//!
//! The row of a removed node says that its number is not given again. Once every member
//! has agreed on the last of its writes to eventual tables that counts, it says so too,
//! and who gives out the node's shares from then on.

use std::collections::BTreeMap;

use bytes::Bytes;
use polity_base::key::KeyBuilder;
use polity_base::{IndexId, Key, NodeId, Timestamp, Value};
use polity_crdt::replica::Departure;
use polity_store::state::State;

use crate::wire::{decode, encode};

/// The key of a removed node's row.
pub(crate) fn key(node: NodeId) -> Key {
    let mut key = KeyBuilder::new(IndexId::REMOVED_NODES);
    // A bigint always has an order.
    let _ = key.push(&Value::Int8(i64::try_from(node.0).unwrap_or(i64::MAX)));
    key.finish()
}

/// What the row says.
pub(crate) fn value(departure: &Departure) -> Result<Bytes, String> {
    encode(&(departure.last_write.map(|at| at.0), departure.heir.map(|heir| heir.0)))
}

/// All removed nodes, as far as applied here.
pub(crate) fn all(state: &State) -> Result<BTreeMap<NodeId, Departure>, String> {
    let mut removed = BTreeMap::new();
    let span = KeyBuilder::new(IndexId::REMOVED_NODES).finish().prefix_span();
    let rows = state.snapshot().map_err(|e| e.to_string())?;
    let mut rows = rows.scan(&span, Timestamp::MAX).map_err(|e| e.to_string())?;
    while let Some((row, said)) = rows.next().map_err(|e| e.to_string())? {
        let Some(node) = numbered(&row) else { continue };
        removed.insert(node, parse(&said)?);
    }
    Ok(removed)
}

/// Whether a node was removed, as far as applied here.
pub(crate) fn is_removed(state: &State, node: NodeId) -> Result<bool, String> {
    let rows = state.snapshot().map_err(|e| e.to_string())?;
    Ok(rows.get(&key(node), Timestamp::MAX).map_err(|e| e.to_string())?.is_some())
}

/// What a removed node's row says.
pub(crate) fn parse(said: &[u8]) -> Result<Departure, String> {
    if said.is_empty() {
        return Ok(Departure { last_write: None, heir: None });
    }
    let (last, heir): (Option<u64>, Option<u64>) = decode(said)?;
    Ok(Departure { last_write: last.map(Timestamp), heir: heir.map(NodeId) })
}

/// The node whose row has this key: of the numbers that were given, the one that has it.
fn numbered(row: &Key) -> Option<NodeId> {
    // Key bytes of a bigint: a mark, then eight bytes in which the sign is turned.
    let number = row.get(5..13)?.try_into().ok().map(u64::from_be_bytes)?;
    let node = NodeId(number ^ (1 << 63));
    (key(node) == *row).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_of_the_node_it_was_written_for() {
        for node in [1, 7, 1_000_000] {
            assert_eq!(numbered(&key(NodeId(node))), Some(NodeId(node)));
        }
    }

    #[test]
    fn a_row_says_what_was_agreed() {
        let agreed = Departure { last_write: Some(Timestamp(7)), heir: Some(NodeId(2)) };
        assert_eq!(parse(&value(&agreed).unwrap()), Ok(agreed));
        // As they were written before there were eventual tables, and are until it is agreed.
        assert_eq!(parse(b""), Ok(Departure { last_write: None, heir: None }));
        assert!(parse(b"nonsense").is_err());
    }
}
