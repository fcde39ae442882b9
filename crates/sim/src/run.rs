//! One run: a cluster, its clients and its fate, from a seed to a verdict.
//!
//! ```text
//! boot ─▶ set up ─▶ work (things break) ─▶ drain, heal ─▶ read ─▶ judge
//!            └── invariants are looked at all the time ──┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use polity_base::NodeId;
use polity_base::planted::Bug;
use polity_check::Level;
use polity_check::random::Random;
use polity_check::workload::{Isolation, Workload};

use crate::clients::{self, Phase, Plan, Stage};
use crate::disturb::{Condition, Passing};
use crate::fate::{Fate, Kind, Way};
use crate::invariant::{Invariants, View};
use crate::loss::Loss;
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
pub(crate) const TICK: Duration = Duration::from_millis(1);
/// How often invariants are looked at that cost little,
const GLANCE: u64 = 10;
/// and those that read what is on disk.
const LOOK: u64 = 2_000;
/// How long a cluster may take to come up, or to be well again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// What messages take, at least and at most.
pub(crate) const LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(12));

/// Runs a seed.
pub fn run(options: &Options) -> Report {
    let _ = std::fs::remove_dir_all(&options.folder);
    plant(options.bug);
    let report = World::new(options).run();
    plant(None);
    let _ = std::fs::remove_dir_all(&options.folder);
    report
}

/// Plants a bug in all that runs from now on.
#[cfg(debug_assertions)]
pub(crate) fn plant(bug: Option<Bug>) {
    polity_base::planted::plant(bug);
}

#[cfg(not(debug_assertions))]
pub(crate) fn plant(_: Option<Bug>) {}

/// A cluster, its clients and its fate.
pub(crate) struct World<'a> {
    pub options: Options,
    pub sim: turmoil::Sim<'a>,
    /// By their places, of which the first is 1
    pub machines: Vec<Arc<Machine>>,
    pub conditions: Vec<Condition>,
    pub setting: Arc<Setting>,
    pub stage: Arc<Stage>,
    pub plan: Plan,
    pub passing: Vec<(Duration, Passing)>,
    pub cut: BTreeSet<Way>,
    /// Pairs whose messages wait, the lesser place first
    pub held: BTreeSet<Way>,
    /// The machine whose data is lost, if there is one
    pub loss: Option<Loss>,
    pub fate: Fate,
    pub trace: Trace,
    invariants: Invariants,
    violations: Vec<String>,
    steps: u64,
    /// How many there are
    pub nodes: u64,
    /// The number that the next new node gets
    pub next_number: u64,
}

/// Two or three of the workloads on strong tables, those on eventual tables, or some of
/// both, by the seed.
fn plan(random: &mut Random, bug: Option<Bug>) -> Plan {
    let mut workloads = Workload::STRONG.to_vec();
    let only_eventual = bug.is_some_and(|bug| Bug::OF_EVENTUAL.contains(&bug));
    let only_strong = bug.is_some_and(|bug| Bug::ALL.contains(&bug));
    let (eventual, strong) = match random.below(10) {
        _ if only_eventual => (2, 0),
        _ if only_strong => (0, 3),
        0..5 => (0, 3),
        5..7 => (1, 2),
        7..9 => (2, 1),
        _ => (2, 0),
    };
    while workloads.len() > strong {
        let at = random.below(workloads.len() as u64) as usize;
        workloads.remove(at);
    }
    let first = random.below(2) as usize;
    workloads.extend(Workload::EVENTUAL.iter().cycle().skip(first).take(eventual));
    let isolation = if random.chance(70) { Isolation::Serializable } else { Isolation::ReadCommitted };
    Plan {
        workloads,
        clients: 2 + random.below(3),
        isolation,
        acks: *random.pick(&[1, 1, 2]),
        seed: random.number(),
        rest: Duration::from_millis(*random.pick(&[0, 20, 100])),
    }
}

/// A machine with a clock of its own.
pub(crate) fn machine(node: u64, setting: &Arc<Setting>, random: &mut Random) -> Arc<Machine> {
    let offset = i64::try_from(random.below(400_000_000)).unwrap_or(0) - 200_000_000;
    let drift = i64::try_from(random.below(400)).unwrap_or(0) - 200;
    let most = *random.pick(&[0, 0, 200, 5_000, 20_000]);
    let gains_ppm = random.below(most + 1);
    Arc::new(Machine::new(node, setting.clone(), SkewedClock::new(offset, drift), gains_ppm))
}

impl<'a> World<'a> {
    fn new(options: &Options) -> World<'a> {
        let trace = Trace::new(options.aloud);
        let mut random = Random::new(options.seed);
        let nodes = *random.pick(&[3, 3, 3, 4, 5]);
        let setting = Arc::new(Setting {
            seed: random.number(),
            members: Mutex::new((1..=nodes).collect()),
            folder: options.folder.clone(),
            checkpoint_interval: Duration::from_millis(*random.pick(&[300, 2_000, 10_000])),
            kept_entries: *random.pick(&[20, 200, 10_000]),
            retention: Duration::from_secs(*random.pick(&[600, 600, 10])),
            segment_bytes: *random.pick(&[32 << 10, 256 << 10, 64 << 20]),
            trace: trace.clone(),
        });
        let machines: Vec<_> = (1..=nodes).map(|node| machine(node, &setting, &mut random)).collect();
        let plan = plan(&mut random, options.bug);
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
            setting: setting.clone(),
            loss: None,
            next_number: nodes + 1,
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
        if !self.stage.are_quiet.load(Ordering::Relaxed) {
            // What was under way when the run was ended is not in the history.
            report.violations = std::mem::take(&mut self.violations);
            return report;
        }
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
            if self.options.faults
                && let Some((kind, orders)) = self.fate.next(self.sim.elapsed())
            {
                // Not every one can be carried out on a node that is down already.
                let mut done = false;
                for order in orders {
                    done |= self.carry_out(order)?;
                }
                if done {
                    *self.fate.counts.entry(kind).or_default() += 1;
                }
            }
            self.look_after_machines(false)?;
        }
        self.note(format_args!("all is healed"));
        self.stage.phase.send_replace(Phase::Drain);
        self.heal();
        self.until("all nodes are well again", PATIENCE, World::is_well)?;
        self.until("all replicas have come together", PATIENCE, World::has_come_together)?;
        self.stage.phase.send_replace(Phase::Read);
        self.until("clients have read all there is", PATIENCE, |world| *world.stage.phase.borrow() >= Phase::Over)?;
        self.until("all nodes have applied the same", PATIENCE, World::is_level)?;
        self.invariants.at_the_end(&self.views())
    }

    pub fn note(&self, what: std::fmt::Arguments<'_>) {
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
            let lost = self.loss.iter().map(|loss| loss.old.clone());
            let machines: Vec<_> = self.machines.iter().cloned().chain(lost).collect();
            let unreadable = self.unreadable();
            let views: Vec<_> = self.views().into_iter().filter(|view| Some(view.node) != unreadable).collect();
            self.invariants.look(&views, &machines)?;
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

    pub fn views(&self) -> Vec<View> {
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

    /// Whether these may be the voters: as many as should be at least, and nobody who
    /// is gone. One more may have kept its vote when another was removed.
    pub fn may_vote(&self, voters: &[NodeId]) -> bool {
        let members = self.setting.members.lock();
        let least = if self.nodes.is_multiple_of(2) { self.nodes - 1 } else { self.nodes };
        voters.len() as u64 >= least && voters.iter().all(|voter| members.contains(&voter.0))
    }

    /// Whether every node is up, knows a leader, and as many vote as should, alone.
    fn is_well(&self) -> bool {
        let views = self.views();
        let fine = |view: &View| {
            let status = &view.status;
            let votes = !status.changing && self.may_vote(&status.voters);
            status.leader.is_some() && status.failure.is_none() && votes
        };
        self.loss.is_none() && views.len() as u64 == self.nodes && views.iter().all(fine)
    }

    /// Whether every replica of the eventual tables is there and has seen the same, and
    /// clients have stopped.
    fn has_come_together(&self) -> bool {
        let views = self.views();
        let mut replicas = views.iter().map(|view| view.core.eventual());
        let Some(first) = replicas.next().map(|first| first.vector()) else { return false };
        // A node whose disk failed lately is yet to be started again, and to be told.
        self.is_well()
            && self.stage.are_quiet.load(Ordering::Relaxed)
            && views.iter().all(|view| view.core.eventual().writable().is_ok())
            && replicas.all(|replica| replica.vector() == first)
    }

    /// Whether every node has applied all there is.
    fn is_level(&self) -> bool {
        let views = self.views();
        let most = views.iter().map(|view| view.status.last_index).max().unwrap_or_default();
        self.is_well() && views.iter().all(|view| view.applied.index == most)
    }

    /// The machine at a place.
    pub fn machine(&self, place: u64) -> &Arc<Machine> {
        &self.machines[place as usize - 1]
    }

    /// The name on the network of the machine at a place.
    pub fn host(&self, place: u64) -> String {
        host(self.machine(place).node)
    }

    pub fn condition(&mut self, place: u64) -> &mut Condition {
        &mut self.conditions[place as usize - 1]
    }
}
