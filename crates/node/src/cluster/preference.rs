//! Where leaders are to stand, as an operator prefers: kept with the rows, so that
//! every node that comes to lead knows.

use bytes::Bytes;
use polity_base::key::KeyBuilder;
use polity_base::{IndexId, Key, Operation, Timestamp};
use polity_store::state::State;

use crate::wire::{decode, encode};

fn key() -> Key {
    KeyBuilder::new(IndexId::PREFERENCE).finish()
}

/// The preferred regions, the most preferred first.
pub fn regions(state: &State) -> Result<Vec<String>, String> {
    let rows = state.snapshot().map_err(|e| e.to_string())?;
    match rows.get(&key(), Timestamp::MAX).map_err(|e| e.to_string())? {
        Some((value, _)) => decode(&value).map_err(|what| format!("the preferred regions: {what}")),
        None => Ok(Vec::new()),
    }
}

/// The change that makes these the preferred regions.
pub fn change(regions: &[String]) -> Result<Operation, String> {
    let value: Bytes = encode(&regions)?;
    Ok(Operation::Put { key: key(), value })
}
