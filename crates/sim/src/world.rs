//! Time and entropy of a simulated node.

use std::time::Duration;

use parking_lot::Mutex;
use polity_base::Timestamp;
use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::ClockReading;
use polity_check::random::Random;

/// When every simulation begins: 2030-01-01, in nanoseconds since 1970.
pub const EPOCH: u64 = 1_893_456_000_000_000_000;
/// The error that nodes believe their clocks to have.
const STATED_ERROR: u64 = 250_000_000;

/// A node's clock, which may be wrong: apart from the true time by an offset that
/// grows with its drift.
pub struct SkewedClock(Mutex<Skew>);

struct Skew {
    /// The true time when the drift began
    since: Duration,
    offset_nanos: i64,
    drift_ppm: i64,
    /// The last true time that was asked for
    seen: Duration,
}

impl SkewedClock {
    /// A clock that is `offset_nanos` ahead, and gains `drift_ppm` millionths.
    pub fn new(offset_nanos: i64, drift_ppm: i64) -> SkewedClock {
        let zero = Duration::ZERO;
        SkewedClock(Mutex::new(Skew { since: zero, offset_nanos, drift_ppm, seen: zero }))
    }

    /// Sets the clock `nanos` forward, or back, from what it shows.
    pub fn jump(&self, now: Duration, nanos: i64, drift_ppm: i64) {
        let mut skew = self.0.lock();
        let gained = skew.gained(now);
        skew.offset_nanos += gained + nanos;
        (skew.since, skew.drift_ppm) = (now, drift_ppm);
    }
}

impl Skew {
    fn gained(&self, now: Duration) -> i64 {
        let past = i64::try_from(now.saturating_sub(self.since).as_nanos()).unwrap_or(i64::MAX);
        past / 1_000_000 * self.drift_ppm
    }
}

impl ClockSource for SkewedClock {
    fn read(&self) -> ClockReading {
        let mut skew = self.0.lock();
        // A monotonic clock that gains is a moment ahead of its tick, and then waits for it.
        skew.seen = skew.seen.max(turmoil::sim_elapsed().unwrap_or_default());
        let now = skew.seen;
        let shown = EPOCH + u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 4);
        let shown = shown.saturating_add_signed(skew.offset_nanos + skew.gained(now));
        ClockReading {
            earliest: Timestamp(shown.saturating_sub(STATED_ERROR)),
            latest: Timestamp(shown.saturating_add(STATED_ERROR)),
        }
    }
}

/// Bytes that follow from a seed.
pub struct SeededEntropy(Mutex<Random>);

impl SeededEntropy {
    /// Bytes that follow from `seed`.
    pub fn new(seed: u64) -> SeededEntropy {
        SeededEntropy(Mutex::new(Random::new(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        let mut random = self.0.lock();
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&random.number().to_le_bytes()[..chunk.len()]);
        }
    }
}
