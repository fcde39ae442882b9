//! One run: a cluster, its clients and its fate, from a seed to a verdict.
//!
//! ```text
//! boot ─▶ set up ─▶ work (things break) ─▶ drain, heal ─▶ read ─▶ judge
//!            └── invariants are looked at all the time ──┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use polity_base::planted::Bug;
use polity_check::Level;
use polity_check::random::Random;
use polity_check::workload::{Isolation, Workload};
use polity_cluster::links::{Fault, Rule, Way as Direction};
use polity_store::disk::{Crash, Fault as DiskFault};

use crate::clients::{self, Phase, Plan, Stage};
use crate::fate::{Fate, Kind, Order, Way};
use crate::invariant::{Invariants, View};
use crate::machine::{Machine, Setting};
use crate::network::host;
use crate::panics;
use crate::trace::{Trace, Who};
use crate::world::{EPOCH, SkewedClock};

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything follows from it
    pub seed: u64,
    /// For how long clients work and things break, simulated
    pub work: Duration,
    /// Whether every event is printed
    pub aloud: bool,
    /// A bug that is planted
    pub bug: Option<Bug>,
    /// Whether things break at all
    pub faults: bool,
    /// Where real files go that cannot be simulated; emptied before and after
    pub folder: PathBuf,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed
    pub seed: u64,
    /// Nodes
    pub nodes: u64,
    /// What the clients did
    pub workloads: Vec<&'static str>,
    /// How much time passed in the simulation
    pub simulated: Duration,
    /// Operations that took effect,
    pub ok: u64,
    /// that did not,
    pub failed: u64,
    /// and of which nobody knows
    pub unknown: u64,
    /// Faults by kind
    pub faults: BTreeMap<Kind, u64>,
    /// What must not be, if it was
    pub violations: Vec<String>,
    /// What checkers could not decide
    pub undecided: usize,
    /// Events of the trace, and what they come to
    pub trace: (u64, String),
}

/// A tick of the simulation.
const TICK: Duration = Duration::from_millis(1);
/// How often invariants are looked at that cost little,
const GLANCE: u64 = 10;
/// and those that read what is on disk.
const LOOK: u64 = 2_000;
/// How long a cluster may take to come up, or to be well again.
const PATIENCE: Duration = Duration::from_secs(90);
/// What messages take, at least and at most.
const LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(12));

/// Runs a seed.
pub fn run(options: &Options) -> Report {
    let _ = std::fs::remove_dir_all(&options.folder);
    plant(options.bug);
    let report = World::new(options).run();
    plant(None);
    let _ = std::fs::remove_dir_all(&options.folder);
    report
}

#[cfg(debug_assertions)]
fn plant(bug: Option<Bug>) {
    polity_base::planted::plant(bug);
}

#[cfg(not(debug_assertions))]
fn plant(_: Option<Bug>) {}

/// How a machine is, as far as fate is concerned.
#[derive(Default)]
struct Condition {
    /// When its node is started again; none while it is not down
    start_at: Option<Duration>,
    /// Whether it is to stop in order, and since when
    stopping: Option<Duration>,
    /// Whether its disk was made to fail, so that its node may refuse to come up
    disk_failed: bool,
}

/// A disturbance that ends by itself.
enum Passing {
    Cut(BTreeSet<Way>),
    Hold(u64),
    Slow(Way),
    Lose(u64),
    SlowDisk(u64),
    DiskFull(u64),
}

struct World<'a> {
    options: Options,
    sim: turmoil::Sim<'a>,
    machines: Vec<Arc<Machine>>,
    conditions: Vec<Condition>,
    stage: Arc<Stage>,
    plan: Plan,
    passing: Vec<(Duration, Passing)>,
    cut: BTreeSet<Way>,
    /// Pairs whose messages wait, the lesser number first
    held: BTreeSet<Way>,
    fate: Fate,
    trace: Trace,
    invariants: Invariants,
    violations: Vec<String>,
    steps: u64,
    nodes: u64,
}

/// Two or three of the workloads, by the seed.
fn plan(random: &mut Random) -> Plan {
    let mut workloads = Workload::ALL.to_vec();
    while workloads.len() > 3 {
        let at = random.below(workloads.len() as u64) as usize;
        workloads.remove(at);
    }
    let isolation = if random.chance(70) { Isolation::Serializable } else { Isolation::ReadCommitted };
    Plan {
        workloads,
        clients: 2 + random.below(3),
        isolation,
        seed: random.number(),
        rest: Duration::from_millis(*random.pick(&[0, 20, 100])),
    }
}

impl<'a> World<'a> {
    fn new(options: &Options) -> World<'a> {
        let trace = Trace::new(options.aloud);
        let mut random = Random::new(options.seed);
        let nodes = *random.pick(&[3, 3, 3, 4, 5]);
        let setting = Arc::new(Setting {
            seed: random.number(),
            nodes,
            folder: options.folder.clone(),
            checkpoint_interval: Duration::from_millis(*random.pick(&[300, 2_000, 10_000])),
            kept_entries: *random.pick(&[20, 200, 10_000]),
            retention: Duration::from_secs(*random.pick(&[600, 600, 10])),
            segment_bytes: *random.pick(&[32 << 10, 256 << 10, 64 << 20]),
            trace: trace.clone(),
        });
        let machines: Vec<_> = (1..=nodes)
            .map(|node| {
                let offset = i64::try_from(random.below(400_000_000)).unwrap_or(0) - 200_000_000;
                let drift = i64::try_from(random.below(400)).unwrap_or(0) - 200;
                Arc::new(Machine::new(node, setting.clone(), SkewedClock::new(offset, drift)))
            })
            .collect();
        let plan = plan(&mut random);
        let sim = turmoil::Builder::new()
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(1 << 30))
            .epoch(UNIX_EPOCH + Duration::from_nanos(EPOCH))
            .min_message_latency(LATENCY.0)
            .max_message_latency(LATENCY.1)
            .tcp_capacity(4096)
            .rng_seed(random.number())
            .build();
        World {
            options: options.clone(),
            sim,
            conditions: machines.iter().map(|_| Condition::default()).collect(),
            stage: Arc::new(Stage::new(machines.clone(), trace.clone())),
            plan,
            passing: Vec::new(),
            cut: BTreeSet::new(),
            held: BTreeSet::new(),
            fate: Fate::new(random.number(), nodes, Duration::ZERO),
            invariants: Invariants::new(&setting),
            trace,
            machines,
            violations: Vec::new(),
            steps: 0,
            nodes,
        }
    }

    fn run(mut self) -> Report {
        let _ = panics::take();
        if let Err(why) = self.play() {
            self.violations.push(why);
        }
        let mut report = Report {
            seed: self.options.seed,
            nodes: self.nodes,
            workloads: self.plan.workloads.iter().map(|w| w.name()).collect(),
            simulated: self.sim.elapsed(),
            faults: std::mem::take(&mut self.fate.counts),
            trace: self.trace.digest(),
            ..Report::default()
        };
        let seen = self.stage.seen.lock();
        (report.ok, report.failed, report.unknown) = (seen.ok, seen.failed, seen.unknown);
        let findings = polity_check::check(&seen.history);
        let level = match self.plan.isolation {
            Isolation::Serializable => Level::StrictSerializable,
            Isolation::RepeatableRead => Level::Snapshot,
            Isolation::ReadCommitted => Level::ReadCommitted,
        };
        for (anomaly, count) in findings.counts().iter().filter(|(anomaly, _)| anomaly.is_forbidden_at(level)) {
            let story = findings.stories().iter().find(|finding| finding.anomaly == *anomaly);
            let story = story.map_or_else(String::new, |finding| finding.story.join("\n    "));
            self.violations.push(format!("clients saw {anomaly} ({count} times): {story}"));
        }
        report.undecided = findings.undecided.len();
        report.violations = std::mem::take(&mut self.violations);
        report
    }

    /// All phases. An error is a violation that ends the run.
    fn play(&mut self) -> Result<(), String> {
        self.boot()?;
        let (stage, plan) = (self.stage.clone(), self.plan.clone());
        self.sim.client("clients", clients::run(stage, plan));
        self.stage.phase.send_replace(Phase::SetUp);
        self.until("the tables are made", PATIENCE, |world| *world.stage.phase.borrow() >= Phase::Work)?;
        let begun = self.sim.elapsed();
        self.note(format_args!("clients work: {:?}", self.plan));
        self.fate = Fate::new(self.fate.number(), self.nodes, begun);
        while self.sim.elapsed() < begun + self.options.work {
            self.step()?;
            if self.options.faults {
                for order in self.fate.next(self.sim.elapsed()) {
                    self.carry_out(order);
                }
            }
            self.look_after_machines(false)?;
        }
        self.note(format_args!("all is healed"));
        self.stage.phase.send_replace(Phase::Drain);
        self.heal();
        self.until("all nodes are well again", PATIENCE, World::is_well)?;
        self.stage.phase.send_replace(Phase::Read);
        self.until("clients have read all there is", PATIENCE, |world| *world.stage.phase.borrow() >= Phase::Over)?;
        self.until("all nodes have applied the same", PATIENCE, World::is_level)?;
        self.invariants.at_the_end(&self.views())
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.trace.note(Who::Fate, what);
    }

    /// One tick, and a look at the invariants.
    fn step(&mut self) -> Result<(), String> {
        self.trace.tick(self.sim.elapsed());
        self.sim.step().map_err(|error| format!("the simulation stopped: {error}"))?;
        self.steps += 1;
        if let Some(what) = panics::take() {
            return Err(format!("a task panicked: {what}"));
        }
        if self.steps.is_multiple_of(GLANCE) {
            self.invariants.glance(&self.views())?;
        }
        if self.steps.is_multiple_of(LOOK) {
            self.invariants.look(&self.views(), &self.machines)?;
        }
        if let Some(trouble) = self.stage.trouble.lock().take() {
            return Err(trouble);
        }
        Ok(())
    }

    fn until(&mut self, what: &str, patience: Duration, there: impl Fn(&World<'a>) -> bool) -> Result<(), String> {
        let begun = self.sim.elapsed();
        while !there(self) {
            if self.sim.elapsed() > begun + patience {
                let views = self.views();
                let nodes: Vec<_> = views.iter().map(|view| format!("n{} {}", view.node, view.short())).collect();
                let down: Vec<_> = self.machines.iter().filter(|m| m.running().is_none()).map(|m| m.node).collect();
                let nodes = nodes.join("; ");
                return Err(format!("after {patience:?} it is not so that {what}; down: {down:?}; {nodes}"));
            }
            self.step()?;
            self.look_after_machines(true)?;
        }
        Ok(())
    }

    fn views(&self) -> Vec<View> {
        let now = self.sim.elapsed();
        self.machines.iter().filter_map(|machine| View::of(machine, now)).collect()
    }

    /// Starts all nodes, the founder first, and waits until they vote.
    fn boot(&mut self) -> Result<(), String> {
        for at in 0..self.machines.len() {
            let machine = self.machines[at].clone();
            self.sim.host(host(machine.node), move || machine.clone().run());
            if at == 0 {
                self.until("the founder is up", PATIENCE, |world| world.machines[0].running().is_some())?;
            }
        }
        self.until("all nodes are up and vote", PATIENCE, World::is_well)
    }

    /// Whether every node is up, knows a leader, and as many vote as should.
    fn is_well(&self) -> bool {
        let views = self.views();
        let voters = if self.nodes.is_multiple_of(2) { self.nodes - 1 } else { self.nodes };
        let fine = |view: &View| {
            let status = &view.status;
            status.leader.is_some() && status.failure.is_none() && status.voters.len() as u64 == voters
        };
        views.len() as u64 == self.nodes && views.iter().all(fine)
    }

    /// Whether every node has applied all there is.
    fn is_level(&self) -> bool {
        let views = self.views();
        let most = views.iter().map(|view| view.status.last_index).max().unwrap_or_default();
        self.is_well() && views.iter().all(|view| view.applied.index == most)
    }

    fn machine(&self, node: u64) -> &Arc<Machine> {
        &self.machines[node as usize - 1]
    }

    fn condition(&mut self, node: u64) -> &mut Condition {
        &mut self.conditions[node as usize - 1]
    }

    fn carry_out(&mut self, order: Order) {
        self.note(format_args!("{order:?}"));
        let now = self.sim.elapsed();
        match order {
            Order::Crash { node, crash, quiet, down } => self.crash(node, crash, quiet, now + down),
            Order::CrashAfter { node, operations } => self.machine(node).disk().crash_after(operations),
            Order::Restart { node } => {
                if self.machine(node).running().is_some() && self.condition(node).stopping.is_none() {
                    self.machine(node).stop();
                    self.condition(node).stopping = Some(now);
                }
            }
            Order::Cut { ways, lasts } => {
                self.passing.push((now + lasts, Passing::Cut(ways)));
                self.set_cuts();
            }
            Order::Hold { node, lasts } => {
                self.passing.push((now + lasts, Passing::Hold(node)));
                self.set_cuts();
            }
            Order::Slow { nodes: (a, b), by, lasts } => {
                self.sim.set_link_latency(host(a), host(b), by);
                self.passing.push((now + lasts, Passing::Slow((a, b))));
            }
            Order::Lose { node, percent, lasts } => {
                if let Some(running) = self.machine(node).running()
                    && let Some(links) = running.core.links()
                {
                    let fault = Fault::Drop { probability: percent as f64 / 100.0 };
                    // Percents are probabilities.
                    let _ = links.faults().set(Rule { peer: None, way: Direction::Both, fault });
                    self.passing.push((now + lasts, Passing::Lose(node)));
                }
            }
            Order::Clock { node, nanos, drift_ppm } => self.machine(node).clock.jump(now, nanos, drift_ppm),
            Order::SlowDisk { node, by, lasts } => {
                self.machine(node).pace.slow_down(by);
                self.passing.push((now + lasts, Passing::SlowDisk(node)));
            }
            Order::DiskError { node, operations } => {
                self.condition(node).disk_failed = true;
                self.machine(node).disk().fail_after(operations, DiskFault::Error);
            }
            Order::DiskFull { node, left, lasts } => {
                self.condition(node).disk_failed = true;
                let disk = self.machine(node).disk();
                disk.set_capacity(Some(disk.used() + left));
                self.passing.push((now + lasts, Passing::DiskFull(node)));
            }
        }
    }

    /// Ends a node's process, and what its disk had not made durable.
    fn crash(&mut self, node: u64, crash: Crash, quiet: bool, start_at: Duration) {
        if self.condition(node).start_at.is_some() {
            return;
        }
        if quiet {
            // Nobody hears that its connections close.
            for other in (1..=self.nodes).filter(|other| *other != node) {
                self.sim.partition(host(node), host(other));
                self.cut.extend([(node, other), (other, node)]);
                self.held.remove(&(node.min(other), node.max(other)));
            }
        }
        self.machine(node).lose_power(crash);
        self.sim.crash(host(node));
        self.set_cuts();
        let still_full = self.passing.iter().any(|(_, p)| matches!(p, Passing::DiskFull(full) if *full == node));
        let condition = self.condition(node);
        // An error that was to come does not come any more.
        condition.disk_failed &= still_full;
        (condition.start_at, condition.stopping) = (Some(start_at), None);
    }

    /// Has exactly those ways cut that something cuts, and those messages wait that
    /// something holds, where nothing cuts.
    fn set_cuts(&mut self) {
        let wanted: BTreeSet<Way> = self
            .passing
            .iter()
            .filter_map(|(_, passing)| if let Passing::Cut(ways) = passing { Some(ways) } else { None })
            .flatten()
            .copied()
            .collect();
        let still: BTreeSet<u64> = self
            .passing
            .iter()
            .filter_map(|(_, p)| if let Passing::Hold(node) = p { Some(*node) } else { None })
            .collect();
        let pairs = (1..=self.nodes).flat_map(|a| (a + 1..=self.nodes).map(move |b| (a, b)));
        let held: BTreeSet<Way> = pairs
            .filter(|(a, b)| still.contains(a) || still.contains(b))
            .filter(|(a, b)| !wanted.contains(&(*a, *b)) && !wanted.contains(&(*b, *a)))
            .collect();
        for (a, b) in self.held.difference(&held) {
            // What waited arrives now, unless the way is cut.
            self.sim.release(host(*a), host(*b));
            self.cut.remove(&(*a, *b));
            self.cut.remove(&(*b, *a));
        }
        for (a, b) in wanted.difference(&self.cut) {
            self.sim.partition_oneway(host(*a), host(*b));
        }
        for (a, b) in self.cut.difference(&wanted) {
            self.sim.repair_oneway(host(*a), host(*b));
        }
        for (a, b) in held.difference(&self.held) {
            self.sim.hold(host(*a), host(*b));
        }
        self.held = held;
        self.cut = wanted;
    }

    fn pass(&mut self, passing: Passing) {
        match passing {
            Passing::Cut(_) | Passing::Hold(_) => self.set_cuts(),
            Passing::Slow((a, b)) => {
                self.sim.set_link_latency(host(a), host(b), LATENCY.0);
                self.sim.set_link_max_message_latency(host(a), host(b), LATENCY.1);
            }
            Passing::Lose(node) => {
                if let Some(links) = self.machine(node).running().as_ref().and_then(|running| running.core.links()) {
                    links.faults().clear_all();
                }
            }
            Passing::SlowDisk(node) => self.machine(node).pace.slow_down(Duration::ZERO),
            Passing::DiskFull(node) => self.machine(node).disk().set_capacity(None),
        }
    }

    /// Ends what passes, starts nodes again whose time has come, and looks for those
    /// that stopped by themselves.
    fn look_after_machines(&mut self, healing: bool) -> Result<(), String> {
        let now = self.sim.elapsed();
        while let Some(at) = self.passing.iter().position(|(until, _)| *until <= now) {
            let (_, passing) = self.passing.swap_remove(at);
            self.pass(passing);
        }
        for node in 1..=self.nodes {
            let machine = self.machine(node).clone();
            if let Some(at) = self.condition(node).start_at {
                if at <= now {
                    self.condition(node).start_at = None;
                    self.note(format_args!("n{node} starts"));
                    self.sim.bounce(host(node));
                }
                continue;
            }
            if machine.disk().has_stopped() {
                self.note(format_args!("n{node} stopped in the middle of a write"));
                let down = if healing { Duration::ZERO } else { self.fate.down() };
                let crash = if self.fate.number().is_multiple_of(2) { Crash::Torn } else { Crash::Lost };
                self.crash(node, crash, false, now + down);
                continue;
            }
            if let Some(since) = self.condition(node).stopping {
                if machine.has_stopped() || now > since + PATIENCE {
                    self.note(format_args!("n{node} starts again"));
                    self.condition(node).stopping = None;
                    machine.lose_power(Crash::Lost);
                    self.sim.bounce(host(node));
                }
                continue;
            }
            let failure = match (machine.refusal(), machine.running()) {
                (Some(why), _) => Some(why),
                (None, Some(running)) => running.core.group().status().failure,
                (None, None) => None,
            };
            if let Some(why) = failure {
                if !self.condition(node).disk_failed {
                    return Err(format!("node {node} failed, though its disk did not: {why}"));
                }
                self.note(format_args!("n{node} failed with its disk: {why}"));
                self.condition(node).disk_failed = false;
                machine.disk().set_capacity(None);
                self.crash(node, Crash::Lost, false, now + Duration::from_millis(200));
            }
        }
        Ok(())
    }

    /// Ends everything that is broken.
    fn heal(&mut self) {
        for (_, passing) in std::mem::take(&mut self.passing) {
            self.pass(passing);
        }
        self.set_cuts();
        let now = self.sim.elapsed();
        for condition in &mut self.conditions {
            condition.start_at = condition.start_at.map(|at| at.min(now));
        }
    }
}
