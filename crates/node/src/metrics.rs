//! The node's figures, for `/metrics` and `/health`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polity_base::NodeId;
use polity_raft::Group;
use polity_raft::metrics::Summary;
use polity_store::log::Log;
use polity_store::state::State;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads the figures of the lower half when they are asked for.
pub(crate) struct Figures {
    pub group: Group,
    pub log: Log,
    pub state: Arc<State>,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Figures").field("range", &self.group.id()).finish_non_exhaustive()
    }
}

/// Writes figures down.
pub(crate) struct Encoder<'a>(pub DescriptorEncoder<'a>);

impl Encoder<'_> {
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(self.0.encode_descriptor(name, help, None, MetricType::Counter)?)
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: i64) -> fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(self.0.encode_descriptor(name, help, None, MetricType::Gauge)?)
    }

    /// One value for each peer.
    pub fn gauges(&mut self, name: &str, help: &str, values: impl Iterator<Item = (NodeId, f64)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (peer, value) in values {
            ConstGauge::new(value).encode(family.encode_family(&[("peer", peer.0)])?)?;
        }
        Ok(())
    }

    /// A distribution, as gauges by quantile, and a count and a sum.
    fn summary(&mut self, name: &str, help: &str, summary: &Summary) -> fmt::Result {
        let mut quantiles = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (quantile, value) in [("0.5", summary.p50), ("0.9", summary.p90), ("0.99", summary.p99)] {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(quantiles.encode_family(&[("quantile", quantile)])?)?;
        }
        self.counter(&format!("{name}_observed"), &format!("{help}: how many"), summary.count)?;
        self.counter(&format!("{name}_sum"), &format!("{help}: their sum"), summary.sum)
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut encoder = Encoder(encoder);
        let (metrics, status) = (self.group.metrics(), self.group.status());
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);

        encoder.counter("raft_proposals", "Batches proposed", count(&metrics.proposals))?;
        encoder.counter("raft_failures", "Batches refused or lost", count(&metrics.failures))?;
        encoder.counter("raft_entries", "Log entries proposed", count(&metrics.entries))?;
        encoder.counter("raft_barriers", "Read barriers answered at once", count(&metrics.barriers))?;
        encoder.counter("raft_slow_barriers", "Read barriers that asked the group", count(&metrics.slow_barriers))?;
        encoder.counter("raft_checkpoints", "Checkpoints taken", count(&metrics.checkpoints))?;
        encoder.gauge("raft_leads", "Whether this member leads", i64::from(status.leads))?;
        encoder.gauge("raft_term", "The term", status.term as i64)?;
        encoder.gauge("raft_applied_index", "The last applied entry", status.applied_index as i64)?;
        encoder.gauge(
            "raft_log_entries",
            "Entries in the log",
            status.last_index.saturating_sub(status.purged_index) as i64,
        )?;
        for (name, help, histogram) in [
            ("raft_commit_micros", "Microseconds from proposal to outcome", &metrics.commit_micros),
            ("raft_append_micros", "Microseconds until entries are durable", &metrics.append_micros),
            ("raft_apply_micros", "Microseconds of applying a step", &metrics.apply_micros),
            ("raft_batches_per_entry", "Batches that share an entry", &metrics.batches_per_entry),
            ("raft_entries_per_apply", "Entries that share a step", &metrics.entries_per_apply),
        ] {
            encoder.summary(name, help, &histogram.summary())?;
        }

        let log = self.log.stats();
        encoder.counter("log_appends", "Appends made durable", log.appends)?;
        encoder.counter("log_syncs", "Syncs this took", log.flushes)?;
        encoder.counter("log_bytes", "Bytes written for them", log.bytes)?;
        encoder.gauge("rows_waiting_bytes", "Bytes of rows that wait for a checkpoint", self.state.layer_bytes() as i64)
    }
}
