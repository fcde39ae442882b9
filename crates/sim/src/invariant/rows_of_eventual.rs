//! What a node's replica of the eventual tables holds at this moment, row by row.

use std::collections::BTreeMap;

use bytes::Bytes;
use polity_base::{Guarantee, Key, Span, Timestamp};
use polity_crdt::RowState;

use super::View;

/// Below are the replica's own books, from here on what it remembers of rows.
const FIRST_ROW: u32 = 0xC000_4000;

/// A row, as readers see it and as merging knows it.
pub struct Row {
    /// As readers see it; none if it was deleted
    pub visible: Option<Bytes>,
    /// All that is known of it
    pub state: RowState,
}

/// All rows, those that were deleted and not forgotten yet among them. None if the
/// replica cannot be read at the moment.
pub fn read(view: &View) -> Result<Option<BTreeMap<Key, Row>>, String> {
    if view.core.eventual().readable().is_err() {
        return Ok(None);
    }
    let Ok(reader) = view.core.state().snapshot() else { return Ok(None) };
    let traces =
        Span { start: Key(Bytes::copy_from_slice(&FIRST_ROW.to_be_bytes())), end: Guarantee::Eventual.span().end };
    let broken = |e: String| format!("n{}: the eventual tables cannot be read: {e}", view.node);
    let mut scan = reader.scan(&traces, Timestamp::MAX).map_err(|e| broken(e.to_string()))?;
    let mut rows = BTreeMap::new();
    loop {
        // A damaged disk answers nothing any more; that is looked at elsewhere.
        let Ok(next) = scan.next() else { return Ok(None) };
        let Some((trace_key, trace)) = next else { break };
        let mut key = trace_key.0.to_vec();
        key[0] = key[0] & 0x3F | 0x80;
        let key: Key = key.into();
        let Ok(visible) = reader.get(&key, Timestamp::MAX) else { return Ok(None) };
        let visible = visible.map(|(row, _)| row);
        let state = RowState::load(visible.as_deref(), Some(&trace)).map_err(|e| broken(format!("{key}: {e}")))?;
        rows.insert(key, Row { visible, state });
    }
    Ok(Some(rows))
}
