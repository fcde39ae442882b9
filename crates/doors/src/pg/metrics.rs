//! What the PostgreSQL door counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use polity_sql::Error;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

/// How a statement came.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// As a simple query
    Simple,
    /// As an Execute message
    Extended,
}

/// Counters of the PostgreSQL door.
pub struct DoorMetrics {
    connections: Gauge,
    accepted: Counter,
    refused: Counter,
    statements: Counter,
    errors: Family<[(&'static str, String); 1], Counter>,
    received: Counter,
    sent: Counter,
    simple: Histogram,
    extended: Histogram,
    open: AtomicUsize,
}

impl DoorMetrics {
    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Counters that `registry` shows.
    pub fn register(registry: &mut Registry) -> Arc<DoorMetrics> {
        let durations = Family::<[(&str, &str); 1], Histogram, _>::new_with_constructor(histogram as fn() -> Histogram);
        // Each look-up holds a lock until the end of its statement.
        let simple = durations.get_or_create(&[("protocol", "simple")]).clone();
        let extended = durations.get_or_create(&[("protocol", "extended")]).clone();
        let metrics = DoorMetrics {
            connections: Gauge::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            statements: Counter::default(),
            errors: Family::default(),
            received: Counter::default(),
            sent: Counter::default(),
            simple,
            extended,
            open: AtomicUsize::new(0),
        };
        let sql = registry.sub_registry_with_prefix("sql");
        sql.register("connections", "Connections open now", metrics.connections.clone());
        sql.register("connections_accepted", "Connections accepted", metrics.accepted.clone());
        sql.register("connections_refused", "Connections that ended before a session", metrics.refused.clone());
        sql.register("statements", "Requests that were answered", metrics.statements.clone());
        sql.register("errors", "Errors sent to clients, by SQLSTATE class", metrics.errors.clone());
        sql.register_with_unit("received", "Bytes received from clients", Unit::Bytes, metrics.received.clone());
        sql.register_with_unit("sent", "Bytes sent to clients", Unit::Bytes, metrics.sent.clone());
        sql.register_with_unit(
            "request_duration",
            "Time from a request's arrival until its answer was ready, by protocol",
            Unit::Seconds,
            durations,
        );
        Arc::new(metrics)
    }

    /// A connection was accepted.
    pub(super) fn connected(self: &Arc<Self>) -> Place {
        self.accepted.inc();
        self.connections.inc();
        Place { count: self.open.fetch_add(1, Ordering::AcqRel) + 1, metrics: self.clone() }
    }

    /// A connection ended before it became a session.
    pub(super) fn refused(&self) {
        self.refused.inc();
    }

    /// An error was sent.
    pub(super) fn failed(&self, error: &Error) {
        let class = error.condition().code().get(..2).unwrap_or_default().to_owned();
        self.errors.get_or_create(&[("class", class)]).inc();
    }

    /// A request that arrived at `began` has its answer.
    pub(super) fn took(&self, kind: Kind, began: Instant) {
        let histogram = match kind {
            Kind::Simple => &self.simple,
            Kind::Extended => &self.extended,
        };
        self.statements.inc();
        histogram.observe(began.elapsed().as_secs_f64());
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.inc_by(bytes as u64);
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.inc_by(bytes as u64);
    }
}

/// Buckets from 25 µs to 13 s.
fn histogram() -> Histogram {
    Histogram::new(exponential_buckets(25e-6, 2.0, 20))
}

/// One connection's place among those that are open.
pub(super) struct Place {
    metrics: Arc<DoorMetrics>,
    count: usize,
}

impl Place {
    /// How many connections were open when this one came, itself included.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.connections.dec();
        self.metrics.open.fetch_sub(1, Ordering::AcqRel);
    }
}
