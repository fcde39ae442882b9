//! The figures of the replica of the eventual tables, for `/metrics`.

use std::fmt;

use polity_crdt::Replica;
use polity_crdt::replica::PeerStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use crate::metrics::Encoder;

/// Reads the figures of the replica when they are asked for.
pub(crate) struct EventualFigures(pub Replica);

impl fmt::Debug for EventualFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventualFigures").finish_non_exhaustive()
    }
}

impl Collector for EventualFigures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut encoder = Encoder(encoder);
        let status = self.0.status();
        let counts = status.counts;
        for (name, help, value) in [
            ("eventual_commits", "Transactions of eventual tables committed here", counts.commits),
            ("eventual_entries", "Log entries that the replica of the eventual tables wrote", counts.entries),
            ("eventual_entry_bytes", "Bytes of these entries", counts.entry_bytes),
            ("eventual_applied_deltas", "Transactions of other nodes applied here", counts.applied_deltas),
            ("eventual_repeated_deltas", "Transactions of other nodes that came again", counts.repeated_deltas),
            ("eventual_sent_deltas", "Transactions sent to other nodes", counts.sent_deltas),
            ("eventual_sent_bytes", "Bytes of transactions sent to other nodes", counts.sent_bytes),
            ("eventual_conflicts", "Values that lost to concurrent writes", counts.conflicts),
            ("eventual_short_shares", "Transactions refused for too small a share", counts.short_shares),
            ("eventual_transfers", "Shares given to other nodes", counts.transfers),
            ("eventual_collected", "Tombstones and removals forgotten", counts.collected),
            ("eventual_repaired_rows", "Rows found to differ from another node's, and mended", counts.repaired_rows),
        ] {
            encoder.counter(name, help, value)?;
        }
        let ready = i64::from(status.not_ready.is_none());
        encoder.gauge("eventual_ready", "Whether eventual tables are served here", ready)?;
        for (name, help, value) in [
            ("eventual_held_deltas", "Transactions that wait for others before them", status.held_deltas),
            ("eventual_held_bytes", "Bytes of these", status.held_bytes),
            ("eventual_log_deltas", "Transactions kept for nodes that lack them", status.log_deltas),
            ("eventual_log_bytes", "Bytes of these", status.log_bytes),
        ] {
            encoder.gauge(name, help, i64::try_from(value).unwrap_or(i64::MAX))?;
        }
        let peers = |value: fn(&PeerStatus) -> f64| status.peers.iter().map(move |p| (p.node, value(p)));
        encoder.gauges(
            "eventual_lag_seconds",
            "Age of the oldest write that the peer is not known to have; 0 if it has all",
            peers(|peer| peer.lag.as_secs_f64()),
        )?;
        encoder.gauges(
            "eventual_holds_back",
            "Whether it is this peer for which tombstones and transactions are kept",
            peers(|peer| f64::from(u8::from(peer.holds_back))),
        )
    }
}
