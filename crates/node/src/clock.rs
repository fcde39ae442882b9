//! The machine's clock as a [`ClockSource`].
//!
//! A clock is worth nothing without a bound on its error. The kernel knows one
//! (`adjtimex`, maintained by the NTP daemon), but reading it takes a system call
//! that no safe library offers yet, so the bound is stated: it is an input of
//! whoever runs the node, and stands for "the time service keeps this machine
//! within so much of true time". A node that is alone never depends on it: its
//! timestamps are pushed forward by the hybrid clock, whatever this one does.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use polity_base::Timestamp;
use polity_base::seams::ClockSource;
use polity_base::time::ClockReading;

/// What a machine under NTP keeps without effort.
pub const USUAL_ERROR: Duration = Duration::from_millis(250);

/// The machine's clock, with a stated error.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    error_nanos: u64,
}

impl SystemClock {
    /// The machine's clock, of which true time is at most `error` away.
    pub fn new(error: Duration) -> SystemClock {
        SystemClock { error_nanos: u64::try_from(error.as_nanos()).unwrap_or(u64::MAX) }
    }
}

impl ClockSource for SystemClock {
    fn read(&self) -> ClockReading {
        // The one place where the machine's time is read. A clock before 1970 reads
        // as 1970, and beyond 2554 as 2554.
        #[allow(clippy::disallowed_methods)]
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        ClockReading {
            earliest: Timestamp(now.saturating_sub(self.error_nanos)),
            latest: Timestamp(now.saturating_add(self.error_nanos)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_on_both_sides() {
        let reading = SystemClock::new(Duration::from_millis(3)).read();
        assert_eq!(reading.latest.0 - reading.earliest.0, 6_000_000);
        // 2020-01-01: a clock before it is broken.
        assert!(reading.midpoint().0 > 1_577_836_800_000_000_000);
    }
}
