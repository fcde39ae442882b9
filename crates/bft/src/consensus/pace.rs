//! How long to wait: timeouts that follow what the network has shown.
//!
//! A round succeeds if its timeouts are longer than messages take, and nobody knows
//! how long that is (Dwork, Lynch & Stockmeyer, "Consensus in the Presence of
//! Partial Synchrony", JACM 1988). So waiting doubles from round to round of a
//! height: some round is long enough. And since what took long now will take about
//! as long next time, the first round's timeouts are a multiple of what rounds took
//! of late: an average that follows a slow round at once and fast rounds slowly.
//!
//! ```text
//! took   ·20 ms··20 ms··· 300 ms ··20 ms··20 ms ···      a decided round, start to end
//! typical 20     20       300      265    235   … 20     up at once, down by an eighth
//! propose 400    400      1200     1060   940   … 400    four times typical, within bounds
//! ```
//!
//! One bad hour must not make the next one worse: what is typical is taken to be a
//! twentieth of the longest wait at most. Doubling gets to the rest if it has to.
//!
//! Nothing of this touches safety, so each validator has its own pace.

use std::time::Duration;

use arc_malachitebft_core_types::{Round, TimeoutKind};

/// The bounds of all waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PaceOptions {
    /// The shortest wait for a proposal. A silent proposer costs at least this.
    pub propose_floor: Duration,
    /// The shortest wait for stragglers once a quorum has voted, though not alike
    pub vote_floor: Duration,
    /// The longest wait of any kind
    pub ceiling: Duration,
    /// How long nothing may happen before votes are sent again and peers are asked
    /// for what is missing
    pub repeat: Duration,
}

impl Default for PaceOptions {
    fn default() -> PaceOptions {
        PaceOptions {
            propose_floor: Duration::from_millis(400),
            vote_floor: Duration::from_millis(150),
            ceiling: Duration::from_secs(10),
            repeat: Duration::from_millis(250),
        }
    }
}

/// What rounds took of late, and what follows for the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    options: PaceOptions,
    typical: Duration,
}

impl Pace {
    /// A pace that knows nothing yet and starts with the shortest waits.
    pub fn new(options: PaceOptions) -> Pace {
        Pace { options, typical: Duration::ZERO }
    }

    /// Takes note of a round that ended with a decision: how long it took.
    pub fn decided(&mut self, took: Duration) {
        let took = took.min(self.options.ceiling / 20);
        self.typical = match took > self.typical {
            true => took,
            false => self.typical - (self.typical - took) / 8,
        };
    }

    /// What a decided round takes.
    pub fn typical(&self) -> Duration {
        self.typical
    }

    /// How long to wait in a round.
    pub fn wait(&self, kind: TimeoutKind, round: Round) -> Duration {
        let first = match kind {
            TimeoutKind::Propose => (self.typical * 4).max(self.options.propose_floor),
            TimeoutKind::Prevote | TimeoutKind::Precommit => (self.typical * 2).max(self.options.vote_floor),
            TimeoutKind::Rebroadcast => return self.repeat(),
            TimeoutKind::FinalizeHeight(_) => return Duration::ZERO,
        };
        let doublings = round.as_u32().unwrap_or(0).min(16);
        first.saturating_mul(1 << doublings).min(self.options.ceiling)
    }

    /// How long nothing may happen before what was said is said again.
    pub fn repeat(&self) -> Duration {
        self.options.repeat.max(self.typical * 2).min(self.options.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_slow_round_lengthens_the_next_at_once_and_fast_ones_shorten_it_slowly() {
        let mut pace = Pace::new(PaceOptions::default());
        let propose = |pace: &Pace| pace.wait(TimeoutKind::Propose, Round::ZERO);
        assert_eq!(propose(&pace), ms(400));
        pace.decided(ms(300));
        assert_eq!(propose(&pace), ms(1200));
        pace.decided(ms(20));
        assert_eq!(propose(&pace), ms(1060));
        (0..60).for_each(|_| pace.decided(ms(20)));
        assert_eq!(propose(&pace), ms(400));
    }

    #[test]
    fn waits_double_from_round_to_round_and_end_at_the_ceiling() {
        let pace = Pace::new(PaceOptions::default());
        let wait = |round| pace.wait(TimeoutKind::Prevote, Round::new(round));
        assert_eq!([wait(0), wait(1), wait(2)], [ms(150), ms(300), ms(600)]);
        assert_eq!(wait(u32::MAX), Duration::from_secs(10));
    }

    #[test]
    fn a_bad_hour_does_not_make_the_next_one_worse() {
        let mut pace = Pace::new(PaceOptions::default());
        pace.decided(Duration::from_secs(3600));
        assert_eq!(pace.wait(TimeoutKind::Propose, Round::ZERO), Duration::from_secs(2));
    }
}
