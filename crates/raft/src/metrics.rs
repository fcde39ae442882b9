//! Counters and histograms of one group, cheap enough to be always on.
//!
//! Relaxed atomics throughout: each figure is right by itself, and a reader that
//! looks at two of them may see one of them a moment older.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Sub-buckets per power of two: quantiles are right to 1/8.
const STEPS: usize = 8;
const BUCKETS: usize = 64 * STEPS;

/// A histogram of unsigned numbers with buckets that grow with the number.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }
}

fn bucket(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let power = 63 - value.leading_zeros() as usize;
    let step = (value >> (power - 3)) as usize & (STEPS - 1);
    (power - 2) * STEPS + step
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (power, step) = (bucket / STEPS + 2, bucket % STEPS);
    let start = (STEPS + step) as u64;
    let shift = power - 3;
    (start << shift) + ((1u64 << shift) - 1)
}

impl Histogram {
    /// Counts one value.
    pub fn record(&self, value: u64) {
        if let Some(bucket) = self.buckets.get(bucket(value)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts one duration, in microseconds.
    pub fn record_micros(&self, elapsed: Duration) {
        self.record(elapsed.as_micros() as u64);
    }

    /// What was counted so far.
    pub fn summary(&self) -> Summary {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        let count = counts.iter().sum();
        let quantile = |part: f64| {
            let rank = (count as f64 * part).ceil() as u64;
            let mut seen = 0;
            counts.iter().position(|n| {
                seen += n;
                seen >= rank.max(1)
            })
        };
        let at = |part| quantile(part).map_or(0, upper);
        Summary {
            count,
            sum: self.sum.load(Ordering::Relaxed),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

/// A histogram, summed up. The quantiles are the upper ends of their buckets, at
/// most an eighth too high.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Values counted
    pub count: u64,
    /// Their sum
    pub sum: u64,
    /// Half of them are at or below this
    pub p50: u64,
    /// Nine of ten are at or below this
    pub p90: u64,
    /// 99 of 100 are at or below this
    pub p99: u64,
    /// All are at or below this
    pub max: u64,
}

impl Summary {
    /// The mean, 0 when nothing was counted.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum as f64 / self.count as f64 }
    }
}

/// The figures of one group.
#[derive(Default)]
pub struct GroupMetrics {
    /// Batches handed to this member to propose.
    pub proposals: AtomicU64,
    /// Batches refused or lost, for whatever reason but their preconditions.
    pub failures: AtomicU64,
    /// Entries proposed by this member.
    pub entries: AtomicU64,
    /// Bytes of entries written to the log.
    pub log_bytes: AtomicU64,
    /// Read barriers answered at once.
    pub barriers: AtomicU64,
    /// Read barriers that had to ask the group.
    pub slow_barriers: AtomicU64,
    /// Batches per entry.
    pub batches_per_entry: Histogram,
    /// Entries applied in one step.
    pub entries_per_apply: Histogram,
    /// Microseconds of one apply step.
    pub apply_micros: Histogram,
    /// Microseconds from proposal to outcome.
    pub commit_micros: Histogram,
    /// Microseconds from handing entries to the log until they are durable.
    pub append_micros: Histogram,
    /// Checkpoints that let the log be purged.
    pub checkpoints: AtomicU64,
}

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_hold_their_values() {
        let mut last = 0;
        for value in (0..4096u64).chain([1 << 20, (1 << 40) + 12345, u64::MAX]) {
            let b = bucket(value);
            assert!(b >= last, "{value}");
            assert!(value <= upper(b), "{value} <= {}", upper(b));
            assert!(upper(b) - value <= value / 8 + 1, "{value} in bucket up to {}", upper(b));
            last = b;
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn a_summary_names_the_quantiles() {
        let histogram = Histogram::default();
        assert_eq!(histogram.summary(), Summary::default());
        (1..=100).for_each(|v| histogram.record(v));
        let summary = histogram.summary();
        assert_eq!((summary.count, summary.sum), (100, 5050));
        assert!((50..=56).contains(&summary.p50), "{summary:?}");
        assert!((99..=112).contains(&summary.p99), "{summary:?}");
    }
}
