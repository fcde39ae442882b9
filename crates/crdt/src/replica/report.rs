//! What an operator asks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polity_base::{Guarantee, IndexId, Key, NodeId, Span, Timestamp};

use super::book::{self, Book, StoredConflict};
use super::status::{Conflict, CounterShares, Counts, PeerStatus, Status};
use super::{Counters, Replica};
use crate::error::Error;
use crate::row::RowState;

/// Rows that are read at a time.
const CHUNK: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;

impl Replica {
    /// The replica at a glance.
    pub fn status(&self) -> Status {
        let shared = &self.inner.shared;
        let vector = self.vector();
        let (held_deltas, held_bytes) = shared.hold.lock().load();
        let kept = shared.state.stats(book::deltas_storage());
        let machine = shared.machine.lock();
        let stable = machine.known_everywhere();
        let now = shared.clock.reading().midpoint();
        let peer = |(node, about): (NodeId, &crate::replication::message::About)| {
            let missing = vector.beyond(&about.vector);
            // What it has last, or lacks first, of the origin that it is farthest behind of.
            let since = |(_, after, up_to): &(NodeId, Timestamp, Timestamp)| {
                if *after > Timestamp::ZERO { *after } else { *up_to }
            };
            let oldest = missing.iter().map(since).min();
            let lag = oldest.map_or(Duration::ZERO, |at| Duration::from_nanos(now.0.saturating_sub(at.0)));
            PeerStatus {
                node,
                vector: about.vector.clone(),
                lag,
                unreachable_since: shared.peers.unreachable_since(node),
                holds_back: vector
                    .iter()
                    .any(|(of, at)| about.vector.of(of) < at && about.vector.of(of) == stable.of(of)),
            }
        };
        Status {
            peers: machine.peers().map(peer).collect(),
            stable,
            held_deltas,
            held_bytes,
            log_deltas: kept.rows,
            log_bytes: kept.bytes,
            not_ready: self.readable().err().map(|e| e.to_string()),
            counts: shared.counts.read(),
            vector: vector.clone(),
        }
    }

    /// The values that lost to concurrent writes, by row, at most `most` of them.
    pub fn conflicts(&self, most: usize) -> Result<Vec<Conflict>, Error> {
        let reader = self.inner.shared.state.snapshot()?;
        let mut scan = reader.scan(&Book::Conflict.span(), reader.applied(Guarantee::Eventual))?;
        let stored = scan.next_chunk(most.max(1), usize::MAX)?;
        let conflict = |(key, bytes): (Key, bytes::Bytes)| {
            let stored: StoredConflict =
                postcard::from_bytes(&bytes).map_err(|e| Error::Damaged { key, reason: e.to_string() })?;
            Ok(Conflict { key: stored.row, lost: stored.lost, noticed: stored.noticed })
        };
        stored.into_iter().take(most).map(conflict).collect()
    }

    /// Who holds which shares of the counters with bounds in the rows of `storage`, at
    /// most `most` counters, in order of their keys.
    pub fn shares(&self, storage: IndexId, most: usize) -> Result<Vec<CounterShares>, Error> {
        let reader = self.inner.shared.state.snapshot()?;
        let at = reader.applied(Guarantee::Eventual);
        let mut scan = reader.scan(&Span::of_index(storage), at)?;
        let mut found = Vec::new();
        while found.len() < most {
            let rows = scan.next_chunk(CHUNK, CHUNK_BYTES)?;
            if rows.is_empty() {
                break;
            }
            for (key, visible) in rows {
                let trace = reader.get(&polity_base::guarantee::merging_key(&key), at)?;
                let state = RowState::load(Some(&visible), trace.as_ref().map(|(trace, _)| &trace[..]));
                let state = state.map_err(|e| Error::Damaged { key: key.clone(), reason: e.to_string() })?;
                let counters = state.shares().into_iter();
                found.extend(counters.map(|(column, shares)| CounterShares { key: key.clone(), column, shares }));
            }
        }
        found.truncate(most);
        Ok(found)
    }
}

impl Counters {
    fn read(&self) -> Counts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            commits: of(&self.commits),
            entries: of(&self.entries),
            entry_bytes: of(&self.entry_bytes),
            applied_deltas: of(&self.applied_deltas),
            repeated_deltas: of(&self.repeated_deltas),
            sent_deltas: of(&self.sent_deltas),
            sent_bytes: of(&self.sent_bytes),
            conflicts: of(&self.conflicts),
            short_shares: of(&self.short_shares),
            transfers: of(&self.transfers),
            collected: of(&self.collected),
            repaired_rows: of(&self.repaired_rows),
        }
    }
}
