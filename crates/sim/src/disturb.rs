//! Carrying out what fate orders, and undoing it when its time is over. Orders name
//! the *place* of a machine: another one may stand there by now, with another number.

use std::collections::BTreeSet;
use std::time::Duration;

use polity_cluster::links::{Fault, Rule, Way as Direction};
use polity_store::disk::{Crash, Fault as DiskFault};

use crate::fate::{Order, Way};
use crate::run::{LATENCY, PATIENCE, World};

/// How a machine is, as far as fate is concerned.
#[derive(Default)]
pub(crate) struct Condition {
    /// When its node is started again; none while it is not down
    pub start_at: Option<Duration>,
    /// Whether it is to stop in order, and since when
    pub stopping: Option<Duration>,
    /// Whether its disk was made to fail, so that its node may refuse to come up
    pub disk_failed: bool,
}

/// A disturbance that ends by itself.
pub(crate) enum Passing {
    Cut(BTreeSet<Way>),
    Hold(u64),
    Slow(Way),
    Lose(u64),
    SlowDisk(u64),
    DiskFull(u64),
}

impl World<'_> {
    /// Carries an order out; says whether that was possible.
    pub fn carry_out(&mut self, order: Order) -> Result<bool, String> {
        if self.spares(&order) {
            return Ok(false);
        }
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
                self.sim.set_link_latency(self.host(a), self.host(b), by);
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
            Order::Damage { node, running, seed, lasts } => return self.damage(node, running, seed, now + lasts),
            Order::Wipe { node, again, lasts } => self.lose_disk(node, again, now + lasts),
            Order::Remove { node, lasts } => self.remove(node, now + lasts),
        }
        Ok(true)
    }

    /// Whether an order is not for the node it names, as it is now.
    fn spares(&mut self, order: &Order) -> bool {
        match order {
            Order::Crash { node, .. }
            | Order::CrashAfter { node, .. }
            | Order::Restart { node }
            | Order::DiskError { node, .. }
            | Order::DiskFull { node, .. } => self.is_lost(*node),
            Order::Damage { node, .. } | Order::Wipe { node, .. } | Order::Remove { node, .. } => !self.may_lose(*node),
            _ => false,
        }
    }

    /// Ends a node's process, and what its disk had not made durable.
    pub fn crash(&mut self, node: u64, crash: Crash, quiet: bool, start_at: Duration) {
        if self.condition(node).start_at.is_some() {
            return;
        }
        self.power_off(node, crash, quiet);
        let still_full = self.passing.iter().any(|(_, p)| matches!(p, Passing::DiskFull(full) if *full == node));
        let condition = self.condition(node);
        // An error that was to come does not come any more.
        condition.disk_failed &= still_full;
        (condition.start_at, condition.stopping) = (Some(start_at), None);
    }

    /// Ends a node's process and its connections; quietly, if nobody is to hear that
    /// they close.
    pub fn power_off(&mut self, node: u64, crash: Crash, quiet: bool) {
        if quiet {
            // Nobody hears that its connections close.
            for other in (1..=self.nodes).filter(|other| *other != node) {
                self.sim.partition(self.host(node), self.host(other));
                self.cut.extend([(node, other), (other, node)]);
                self.held.remove(&(node.min(other), node.max(other)));
            }
        }
        self.machine(node).lose_power(crash);
        let host = self.host(node);
        self.sim.crash(host);
        self.set_cuts();
    }

    /// Has exactly those ways cut that something cuts, and those messages wait that
    /// something holds, where nothing cuts.
    pub fn set_cuts(&mut self) {
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
            self.sim.release(self.host(*a), self.host(*b));
            self.cut.remove(&(*a, *b));
            self.cut.remove(&(*b, *a));
        }
        for (a, b) in wanted.difference(&self.cut) {
            self.sim.partition_oneway(self.host(*a), self.host(*b));
        }
        for (a, b) in self.cut.difference(&wanted) {
            self.sim.repair_oneway(self.host(*a), self.host(*b));
        }
        for (a, b) in held.difference(&self.held) {
            self.sim.hold(self.host(*a), self.host(*b));
        }
        self.held = held;
        self.cut = wanted;
    }

    fn pass(&mut self, passing: Passing) {
        match passing {
            Passing::Cut(_) | Passing::Hold(_) => self.set_cuts(),
            Passing::Slow((a, b)) => {
                self.sim.set_link_latency(self.host(a), self.host(b), LATENCY.0);
                self.sim.set_link_max_message_latency(self.host(a), self.host(b), LATENCY.1);
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
    pub fn look_after_machines(&mut self, healing: bool) -> Result<(), String> {
        let now = self.sim.elapsed();
        while let Some(at) = self.passing.iter().position(|(until, _)| *until <= now) {
            let (_, passing) = self.passing.swap_remove(at);
            self.pass(passing);
        }
        self.look_after_loss(healing)?;
        for node in (1..=self.nodes).filter(|node| !self.is_lost(*node)).collect::<Vec<_>>() {
            let machine = self.machine(node).clone();
            if let Some(at) = self.condition(node).start_at {
                if at <= now {
                    self.condition(node).start_at = None;
                    self.note(format_args!("n{} starts", machine.node));
                    let host = self.host(node);
                    self.sim.bounce(host);
                }
                continue;
            }
            if machine.disk().has_stopped() {
                self.note(format_args!("n{} stopped in the middle of a write", machine.node));
                let down = if healing { Duration::ZERO } else { self.fate.down() };
                let crash = if self.fate.number().is_multiple_of(2) { Crash::Torn } else { Crash::Lost };
                self.crash(node, crash, false, now + down);
                continue;
            }
            if let Some(since) = self.condition(node).stopping {
                if machine.has_stopped() || now > since + PATIENCE {
                    self.note(format_args!("n{} starts again", machine.node));
                    self.condition(node).stopping = None;
                    machine.lose_power(Crash::Lost);
                    let host = self.host(node);
                    self.sim.bounce(host);
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
                    return Err(format!("node {} failed, though its disk did not: {why}", machine.node));
                }
                self.note(format_args!("n{} failed with its disk: {why}", machine.node));
                self.condition(node).disk_failed = false;
                machine.disk().set_capacity(None);
                self.crash(node, Crash::Lost, false, now + Duration::from_millis(200));
            }
        }
        Ok(())
    }

    /// Ends everything that is broken.
    pub fn heal(&mut self) {
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
