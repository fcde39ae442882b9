//! What breaks, and when: a schedule that follows from the seed.
//!
//! | fault | what happens |
//! |---|---|
//! | crash | the process ends between two awaits; what was not synced is lost, kept or torn |
//! | crash in a write | the machine stops at its n-th disk operation from now |
//! | restart | the node stops in order and comes back |
//! | blackout | every node crashes at once |
//! | isolation, split, one-way cut | messages are lost, also those on their way |
//! | standstill | messages to and from a node wait, and arrive late, all at once |
//! | slow links, loss | messages take longer; single ones are lost |
//! | clock | jumps forward or back, and drifts |
//! | slow disk, failing disk, full disk | syncs take long; one operation fails; no space is left |
//! | damage | a bit of a file flips: the node must be replaced ([`crate::loss`]) |
//! | wiped disk | all a machine had is gone: the node must be replaced |
//! | removal | a node is taken out of the cluster while it runs, and replaced |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use polity_check::random::Random;
use polity_store::disk::Crash;

/// A kind of fault, for counting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// A node's process ends
    Crash,
    /// A machine stops at a disk operation
    CrashInWrite,
    /// A node stops in order
    Restart,
    /// All nodes crash
    Blackout,
    /// One node is cut off
    Isolation,
    /// The nodes are in two halves
    Split,
    /// One node does not hear others
    OneWayCut,
    /// One node's messages wait
    Standstill,
    /// Messages take long
    SlowLinks,
    /// Messages are lost
    Loss,
    /// A clock jumps and drifts
    Clock,
    /// Syncs take long
    SlowDisk,
    /// A disk operation fails
    DiskError,
    /// No space is left
    DiskFull,
    /// A bit of a file flips
    Damage,
    /// A disk is empty
    Wipe,
    /// A node is taken out of the cluster
    Removal,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Crash => "crash",
            Kind::CrashInWrite => "crash in a write",
            Kind::Restart => "restart",
            Kind::Blackout => "blackout",
            Kind::Isolation => "isolation",
            Kind::Split => "split",
            Kind::OneWayCut => "one-way cut",
            Kind::Standstill => "standstill",
            Kind::SlowLinks => "slow links",
            Kind::Loss => "loss",
            Kind::Clock => "clock",
            Kind::SlowDisk => "slow disk",
            Kind::DiskError => "disk error",
            Kind::DiskFull => "disk full",
            Kind::Damage => "damaged file",
            Kind::Wipe => "wiped disk",
            Kind::Removal => "removal",
        })
    }
}

/// Kinds, and how likely each is.
const WEIGHTS: [(Kind, u64); 17] = [
    (Kind::Crash, 18),
    (Kind::CrashInWrite, 8),
    (Kind::Restart, 6),
    (Kind::Blackout, 4),
    (Kind::Isolation, 14),
    (Kind::Split, 8),
    (Kind::OneWayCut, 8),
    (Kind::Standstill, 6),
    (Kind::SlowLinks, 6),
    (Kind::Loss, 6),
    (Kind::Clock, 8),
    (Kind::SlowDisk, 6),
    (Kind::DiskError, 4),
    (Kind::DiskFull, 4),
    (Kind::Damage, 5),
    (Kind::Wipe, 4),
    (Kind::Removal, 4),
];

/// Messages from the first node to the second.
pub type Way = (u64, u64);

/// What is to be done to the world.
#[allow(missing_docs)] // each field is what its name says
#[derive(Clone, PartialEq, Debug)]
pub enum Order {
    /// End the node's process. Quietly: its connections do not close, for the others
    /// they are just silent.
    Crash { node: u64, crash: Crash, quiet: bool, down: Duration },
    /// Have the machine stop after so many disk operations.
    CrashAfter { node: u64, operations: u64 },
    /// Have the node stop in order, and start again.
    Restart { node: u64 },
    /// Lose all messages that go these ways.
    Cut { ways: BTreeSet<Way>, lasts: Duration },
    /// Have a node's messages wait, both ways, until this is over.
    Hold { node: u64, lasts: Duration },
    /// Have messages between two nodes take so long.
    Slow { nodes: Way, by: Duration, lasts: Duration },
    /// Lose some of what a node sends and gets, in percent.
    Lose { node: u64, percent: u64, lasts: Duration },
    /// Set a clock, in nanoseconds and millionths.
    Clock { node: u64, nanos: i64, drift_ppm: i64 },
    /// Have syncs take longer.
    SlowDisk { node: u64, by: Duration, lasts: Duration },
    /// Have a disk operation fail after so many others.
    DiskError { node: u64, operations: u64 },
    /// Leave so much space.
    DiskFull { node: u64, left: u64, lasts: Duration },
    /// Flip a bit of a file, of a node that runs or after a crash; replace the node at
    /// the latest after this.
    Damage { node: u64, running: bool, seed: u64, lasts: Duration },
    /// Take all that is on a disk, and replace the node, perhaps after it was started
    /// under its old number.
    Wipe { node: u64, again: bool, lasts: Duration },
    /// Take a node out of the cluster, and stop it so long after.
    Remove { node: u64, lasts: Duration },
}

/// Draws faults from a seed.
pub struct Fate {
    random: Random,
    nodes: u64,
    next: Duration,
    /// How long nothing breaks, about
    pause: Duration,
    /// How often each kind came about
    pub counts: BTreeMap<Kind, u64>,
}

impl Fate {
    /// Faults for so many nodes, from `begin` on.
    pub fn new(seed: u64, nodes: u64, begin: Duration) -> Fate {
        let mut random = Random::new(seed);
        let pause = Duration::from_millis(*random.pick(&[400, 1_000, 2_500]));
        Fate { random, nodes, next: begin + pause, pause, counts: BTreeMap::new() }
    }

    /// What is to be done by now, if anything is.
    pub fn next(&mut self, now: Duration) -> Option<(Kind, Vec<Order>)> {
        if now < self.next {
            return None;
        }
        self.next = now + self.span(self.pause / 4, self.pause * 2);
        let all: u64 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.random.below(all);
        let kind = WEIGHTS.iter().find(|(_, weight)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let kind = kind.map_or(Kind::Crash, |(kind, _)| *kind);
        Some((kind, self.draw(kind)))
    }

    /// A number of the generator, for whoever carries orders out.
    pub fn number(&mut self) -> u64 {
        self.random.number()
    }

    /// A time between two.
    pub fn span(&mut self, least: Duration, most: Duration) -> Duration {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(micros(least) + self.random.below(micros(most).saturating_sub(micros(least)) + 1))
    }

    fn node(&mut self) -> u64 {
        1 + self.random.below(self.nodes)
    }

    fn crash(&mut self, node: u64) -> Order {
        let crash = *self.random.pick(&[Crash::Lost, Crash::Lost, Crash::Torn, Crash::Torn, Crash::Kept]);
        let quiet = self.random.chance(50);
        Order::Crash { node, crash, quiet, down: self.down() }
    }

    /// How long a node stays down: mostly not long enough to be given up.
    pub fn down(&mut self) -> Duration {
        let most = *self.random.pick(&[100, 1_000, 1_000, 5_000]);
        self.span(Duration::from_millis(5), Duration::from_millis(most))
    }

    fn lasts(&mut self) -> Duration {
        let most = *self.random.pick(&[500, 2_000, 4_000, 8_000]);
        self.span(Duration::from_millis(100), Duration::from_millis(most))
    }

    /// Both ways between the nodes of `some` and all others.
    fn around(&self, some: &BTreeSet<u64>) -> BTreeSet<Way> {
        let pairs = (1..=self.nodes).flat_map(|a| (1..=self.nodes).map(move |b| (a, b)));
        pairs.filter(|(a, b)| some.contains(a) != some.contains(b)).collect()
    }

    fn draw(&mut self, kind: Kind) -> Vec<Order> {
        let node = self.node();
        let lasts = self.lasts();
        let order = match kind {
            Kind::Crash => self.crash(node),
            Kind::CrashInWrite => Order::CrashAfter { node, operations: self.random.below(60) },
            Kind::Restart => Order::Restart { node },
            Kind::Blackout => return (1..=self.nodes).map(|node| self.crash(node)).collect(),
            Kind::Isolation => Order::Cut { ways: self.around(&BTreeSet::from([node])), lasts },
            Kind::Split => {
                let some = (1..=self.nodes).filter(|_| self.random.chance(50)).collect();
                Order::Cut { ways: self.around(&some), lasts }
            }
            Kind::OneWayCut => {
                let (inwards, some) = (self.random.chance(50), self.around(&BTreeSet::from([node])));
                let ways = some.into_iter().filter(|(from, _)| (*from == node) != inwards).collect();
                Order::Cut { ways, lasts }
            }
            Kind::Standstill => Order::Hold { node, lasts },
            Kind::SlowLinks => {
                let other = 1 + node % self.nodes;
                Order::Slow {
                    nodes: (node, other),
                    by: self.span(Duration::from_millis(20), Duration::from_millis(400)),
                    lasts,
                }
            }
            Kind::Loss => Order::Lose { node, percent: 1 + self.random.below(30), lasts },
            Kind::Clock => {
                let most = *self.random.pick(&[100_000_000, 2_000_000_000, 60_000_000_000]);
                let nanos = i64::try_from(self.random.below(2 * most)).unwrap_or(0) - i64::try_from(most).unwrap_or(0);
                let drift_ppm = i64::try_from(self.random.below(2_000)).unwrap_or(0) - 1_000;
                Order::Clock { node, nanos, drift_ppm }
            }
            Kind::SlowDisk => {
                let by = Duration::from_millis(*self.random.pick(&[10, 100, 1_000]));
                Order::SlowDisk { node, by, lasts }
            }
            Kind::DiskError => Order::DiskError { node, operations: self.random.below(60) },
            Kind::DiskFull => Order::DiskFull { node, left: self.random.below(64 << 10), lasts },
            Kind::Damage => Order::Damage { node, running: self.random.chance(40), seed: self.random.number(), lasts },
            Kind::Wipe => Order::Wipe { node, again: self.random.chance(50), lasts },
            Kind::Removal => Order::Remove { node, lasts },
        };
        vec![order]
    }
}
