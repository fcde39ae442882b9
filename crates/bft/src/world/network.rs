//! The way of a message: how long it takes, whether it arrives, how often.

use std::collections::BTreeSet;

use super::random::Random;

/// Microseconds.
pub type Micros = u64;

/// How the network is at the moment.
#[derive(Clone, Debug)]
pub struct Network {
    random: Random,
    /// Messages lost, of a thousand
    pub loss: u64,
    /// Messages that arrive twice, of a thousand
    pub twice: u64,
    /// What a message takes, at least and at most
    pub latency: (Micros, Micros),
    /// Messages that take far longer, of a thousand
    pub stragglers: u64,
    /// One side of a partition; empty if there is none
    pub side: BTreeSet<u64>,
}

impl Network {
    /// A network that is well.
    pub fn new(random: Random) -> Network {
        Network { random, loss: 0, twice: 0, latency: (300, 6_000), stragglers: 0, side: BTreeSet::new() }
    }

    /// When a message arrives: never, once, or twice.
    pub fn arrivals(&mut self, from: u64, to: u64, now: Micros) -> Vec<Micros> {
        let cut = self.side.contains(&from) != self.side.contains(&to);
        if cut || self.random.chance(self.loss) {
            return Vec::new();
        }
        let mut arrivals = vec![now + self.delay()];
        if self.random.chance(self.twice) {
            arrivals.push(now + self.delay());
        }
        arrivals
    }

    fn delay(&mut self) -> Micros {
        let (low, high) = self.latency;
        let delay = self.random.between(low, high);
        match self.random.chance(self.stragglers) {
            true => delay * 60,
            false => delay,
        }
    }

    /// Everything arrives again, in good time.
    pub fn heal(&mut self) {
        *self = Network::new(self.random.clone());
    }
}
