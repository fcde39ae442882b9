//! Hybrid logical time (Kulkarni, Demirbas et al., "Logical Physical Clocks",
//! OPODIS 2014).
//!
//! A timestamp is a count of nanoseconds since 1970 that is pushed forward by
//! one whenever the physical clock has not moved on. The logical part needs no
//! bits of its own: at one event per nanosecond no machine overruns it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::seams::ClockSource;

/// A hybrid logical timestamp, in nanoseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Before everything.
    pub const ZERO: Timestamp = Timestamp(0);
    /// After everything.
    pub const MAX: Timestamp = Timestamp(u64::MAX);

    /// The next timestamp. Saturates at [`Timestamp::MAX`].
    pub fn next(self) -> Timestamp {
        Timestamp(self.0.saturating_add(1))
    }

    /// The timestamp `nanos` earlier. Saturates at [`Timestamp::ZERO`].
    pub fn minus_nanos(self, nanos: u64) -> Timestamp {
        Timestamp(self.0.saturating_sub(nanos))
    }

    /// Microseconds since 1970-01-01 UTC.
    pub fn unix_micros(self) -> i64 {
        (self.0 / 1_000) as i64
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.0)
    }
}

/// The interval in which the true time lies, ends included (TrueTime's `TT.now`,
/// Corbett et al., "Spanner", OSDI 2012, section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockReading {
    /// The true time is not before this.
    pub earliest: Timestamp,
    /// The true time is not after this.
    pub latest: Timestamp,
}

impl ClockReading {
    /// The middle of the interval: the best single guess.
    pub fn midpoint(self) -> Timestamp {
        Timestamp(self.earliest.0 + (self.latest.0.saturating_sub(self.earliest.0)) / 2)
    }
}

/// A clock that never goes back and never repeats itself.
pub struct HybridClock {
    source: Arc<dyn ClockSource>,
    last: AtomicU64,
}

impl HybridClock {
    /// A clock over `source` whose first timestamp is later than `at_least`
    /// (the persisted high-water mark of an earlier run).
    pub fn new(source: Arc<dyn ClockSource>, at_least: Timestamp) -> HybridClock {
        HybridClock { source, last: AtomicU64::new(at_least.0) }
    }

    /// A timestamp later than any this clock has given or observed.
    pub fn now(&self) -> Timestamp {
        let physical = self.source.read().midpoint().0;
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let next = physical.max(last.saturating_add(1));
            match self.last.compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Timestamp(next),
                Err(seen) => last = seen,
            }
        }
    }

    /// Notes a timestamp from elsewhere: later ones will be greater.
    pub fn observe(&self, seen: Timestamp) {
        self.last.fetch_max(seen.0, Ordering::AcqRel);
    }

    /// The interval in which the true time lies.
    pub fn reading(&self) -> ClockReading {
        self.source.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(AtomicU64);
    impl ClockSource for Fixed {
        fn read(&self) -> ClockReading {
            let now = Timestamp(self.0.load(Ordering::Relaxed));
            ClockReading { earliest: now, latest: now }
        }
    }

    #[test]
    fn time_moves_on_although_the_clock_stands_still_or_goes_back() {
        let source = Arc::new(Fixed(AtomicU64::new(100)));
        let clock = HybridClock::new(source.clone(), Timestamp::ZERO);
        assert_eq!(clock.now(), Timestamp(100));
        assert_eq!(clock.now(), Timestamp(101));
        source.0.store(50, Ordering::Relaxed);
        assert_eq!(clock.now(), Timestamp(102));
        clock.observe(Timestamp(500));
        assert_eq!(clock.now(), Timestamp(501));
        source.0.store(1000, Ordering::Relaxed);
        assert_eq!(clock.now(), Timestamp(1000));
    }

    #[test]
    fn a_new_clock_starts_after_the_high_water_mark() {
        let source = Arc::new(Fixed(AtomicU64::new(100)));
        assert_eq!(HybridClock::new(source, Timestamp(900)).now(), Timestamp(901));
    }
}
