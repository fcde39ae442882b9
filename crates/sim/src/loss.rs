//! Machines whose data is damaged or lost, and what their operator does.
//!
//! ```text
//! wiped ─────▶ started under its old number: the cluster must refuse it ──╮
//!   ╰─────────────────────────────────────────────────────────────────────┤
//! a bit flips ─▶ started: must refuse, and name the file ─────────────────┤
//!       ╰──────▶ comes up: what it serves must be right, for a while ─────┤
//!                                                                         ▼
//!          the operator removes the old number, and starts a node with a new one
//! ```
//! A node that is well is removed, too, perhaps while it is cut off: it runs on for a
//! while and must do no harm.
//!
//! Only one machine at a time, and only while as many vote as should: what is
//! acknowledged is on a majority, and no more than that is promised. A flip that
//! would pass for the torn end of the log is left out: that it cannot be told from
//! one is said where the log is read back.

use std::sync::Arc;
use std::time::Duration;

use polity_base::NodeId;
use polity_check::random::Random;
use polity_check::workload::Workload;
use polity_node::admin::Answer;
use polity_store::disk::{Crash, Disk, MemoryDisk};
use tokio::sync::oneshot;

use crate::door::Removal;
use crate::invariant::Stored;
use crate::machine::Machine;
use crate::run::{World, machine, plant};

/// Between two times that the operator asks for something,
const PAUSE: Duration = Duration::from_millis(200);
/// and how long it waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a bit is drawn anew that would pass for something else.
const DRAWS: usize = 8;

/// What happened to a machine.
#[derive(Clone, PartialEq, Eq)]
enum What {
    /// All it had is gone; whether it voted until then
    Wiped { voted: bool },
    /// A bit of this file is another; whether the log surely refuses that
    Damaged { file: String, is_refused: bool },
    /// Nothing: it is to go
    Removed,
}

/// A machine whose data is damaged or lost, or that is to go.
pub(crate) struct Loss {
    place: u64,
    /// The machine
    pub old: Arc<Machine>,
    what: What,
    /// Until when it may try to go on
    until: Duration,
    /// What the operator has done, once it has begun to replace it
    replacement: Option<Replacement>,
}

/// What an operator does to replace a node.
struct Replacement {
    /// Whether the new node is started before the old number is removed
    new_first: bool,
    asked: Duration,
    answer: Option<oneshot::Receiver<Removal>>,
    removed: bool,
    started: bool,
}

impl World<'_> {
    /// Whether the machine at this place is one whose data is lost, and no other is
    /// there yet.
    pub fn is_lost(&self, place: u64) -> bool {
        let started = |loss: &Loss| loss.replacement.as_ref().is_some_and(|r| r.started);
        self.loss.as_ref().is_some_and(|loss| loss.place == place && !started(loss))
    }

    /// Whether a machine may lose its data: no other has, and all vote that should. What
    /// was acknowledged by one replica alone goes with its disk.
    pub fn may_lose(&mut self, place: u64) -> bool {
        let alone = self.plan.acks < 2 && self.plan.workloads.iter().any(|w| Workload::EVENTUAL.contains(w));
        if alone {
            return false;
        }
        let condition = self.condition(place);
        let is_up = condition.start_at.is_none() && condition.stopping.is_none() && !condition.disk_failed;
        self.loss.is_none() && is_up && self.machine(place).running().is_some() && self.is_complete()
    }

    /// Whether those belong to the cluster who should, and as many vote as should, alone:
    /// while votes change, a majority of the former voters is needed too, who may be two.
    fn is_complete(&self) -> bool {
        let views = self.views();
        let newest = views.iter().max_by_key(|view| (view.status.term, view.status.last_index));
        newest.is_some_and(|view| {
            let members = view.status.members.iter().map(|member| member.node.0).collect();
            let status = &view.status;
            *self.setting.members.lock() == members && !status.changing && self.may_vote(&status.voters)
        })
    }

    /// Whether a node votes, or did not long ago.
    fn votes(&self, node: u64) -> bool {
        self.views().iter().any(|view| view.status.voters.contains(&NodeId(node)))
    }

    /// Takes all that is on a machine's disk.
    pub fn lose_disk(&mut self, place: u64, again: bool, until: Duration) {
        let old = self.machine(place).clone();
        let voted = self.votes(old.node);
        old.remember_disk();
        self.power_off(place, Crash::Lost, false);
        old.wipe();
        *self.condition(place) = Default::default();
        self.loss = Some(Loss { place, old, what: What::Wiped { voted }, until, replacement: None });
        if again {
            let host = self.host(place);
            self.sim.bounce(host);
        } else {
            self.replace();
        }
    }

    /// Flips a bit on a machine's disk: of one that runs, or between a crash and the
    /// next start.
    pub fn damage(&mut self, place: u64, running: bool, seed: u64, until: Duration) -> Result<bool, String> {
        let old = self.machine(place).clone();
        if !running {
            self.crash(place, Crash::Lost, false, self.sim.elapsed());
        }
        // What must be noticed is for the code to say as it should be, not for a planted bug.
        plant(None);
        let drawn = draw(&old, running, &mut Random::new(seed));
        plant(self.options.bug);
        let Some(Flip { file, byte, bit, is_refused }) = drawn? else { return Ok(false) };
        self.note(format_args!("n{}: bit {bit} of byte {byte} of {file} flips", old.node));
        old.remember_disk();
        old.disk().flip(&file, byte, bit);
        *self.condition(place) = Default::default();
        self.loss = Some(Loss { place, old, what: What::Damaged { file, is_refused }, until, replacement: None });
        if !running {
            let host = self.host(place);
            self.sim.bounce(host);
        }
        Ok(true)
    }

    /// Takes a node out of the cluster, while it runs.
    pub fn remove(&mut self, place: u64, until: Duration) {
        let old = self.machine(place).clone();
        self.loss = Some(Loss { place, old, what: What::Removed, until, replacement: None });
        self.replace();
    }

    /// The number of a node that is being removed while it runs: what it does and cannot
    /// tell others does not count.
    pub fn going(&self) -> Option<u64> {
        self.loss.as_ref().filter(|loss| loss.what == What::Removed).map(|loss| loss.old.node)
    }

    /// The number of a node whose files need not hold what they should: one that is being
    /// removed, or one of whose bits were flipped.
    pub fn unreadable(&self) -> Option<u64> {
        let is_unreadable = |what: &What| matches!(what, What::Removed | What::Damaged { .. });
        self.loss.as_ref().filter(|loss| is_unreadable(&loss.what)).map(|loss| loss.old.node)
    }

    /// Looks how the machine does whose data is lost, and replaces it.
    pub fn look_after_loss(&mut self, healing: bool) -> Result<(), String> {
        match &self.loss {
            None => Ok(()),
            Some(Loss { replacement: Some(_), .. }) => {
                self.go_on_replacing(healing);
                Ok(())
            }
            Some(_) => self.watch_lost(healing),
        }
    }

    /// The machine tries to go on with what it has.
    fn watch_lost(&mut self, healing: bool) -> Result<(), String> {
        let Some(loss) = &self.loss else { return Ok(()) };
        let (old, node) = (loss.old.clone(), loss.old.node);
        // One that stopped in the middle of a write says so before anybody has noticed.
        let running = old.running().filter(|_| !old.disk().has_stopped());
        let failure = match (old.refusal(), running) {
            (Some(why), _) => Some(why),
            (None, Some(running)) => running.core.group().status().failure,
            (None, None) => None,
        };
        let up = old.running().is_some();
        match (&loss.what, failure) {
            (what, Some(why)) => {
                let named = match what {
                    What::Wiped { .. } => why.contains("the cluster refuses this node"),
                    What::Damaged { file, .. } => {
                        why.contains(file.as_str()) || file == "node" && why.contains("data folder belongs")
                    }
                    What::Removed => true,
                };
                if !named {
                    return Err(format!("node {node} failed, and did not say what it had lost: {why}"));
                }
                self.note(format_args!("n{node} names what it lost: {why}"));
            }
            (What::Wiped { voted: false }, None) if up => {
                // Who never voted has nothing to forget.
                self.note(format_args!("n{node} is sent all it had"));
                old.forget_loss();
                self.loss = None;
                return Ok(());
            }
            (What::Damaged { file, is_refused: true }, None) if up => {
                return Err(format!("node {node} came up on a log whose {file} is damaged, as if that had been torn"));
            }
            (What::Wiped { voted: true }, None) if up => {
                return Err(format!("node {node} lost all it had, and came back under its old number"));
            }
            _ if !healing && self.sim.elapsed() < loss.until && !old.disk().has_stopped() => return Ok(()),
            _ => {}
        }
        self.power_off(loss.place, Crash::Lost, false);
        self.replace();
        Ok(())
    }

    /// The operator begins to replace the machine.
    fn replace(&mut self) {
        let new_first = self.fate.number().is_multiple_of(2) && self.going().is_none();
        if let Some(loss) = &mut self.loss {
            let asked = Duration::ZERO;
            loss.replacement = Some(Replacement { new_first, asked, answer: None, removed: false, started: false });
        }
    }

    fn go_on_replacing(&mut self, healing: bool) {
        let Some(mut loss) = self.loss.take() else { return };
        let Some(replacement) = &mut loss.replacement else { return };
        let late = healing || self.sim.elapsed() >= loss.until;
        let runs = loss.what == What::Removed && loss.old.is_on();
        if runs && late {
            self.note(format_args!("n{} is switched off", loss.old.node));
            self.power_off(loss.place, Crash::Lost, false);
        }
        let empty = !(loss.what == What::Removed && loss.old.is_on());
        if (replacement.new_first || replacement.removed) && empty && !replacement.started {
            self.start_anew(loss.place, loss.old.node);
            replacement.started = true;
        }
        if !replacement.removed && (replacement.started || !replacement.new_first) {
            self.go_on_removing(loss.old.node, replacement);
        }
        let done = replacement.removed && replacement.started && self.machine(loss.place).running().is_some();
        if done && self.is_complete() {
            self.note(format_args!("n{} is replaced", loss.old.node));
        } else {
            self.loss = Some(loss);
        }
    }

    /// Asks one node after the other to remove a number, until one has done it.
    fn go_on_removing(&mut self, node: u64, replacement: &mut Replacement) {
        let now = self.sim.elapsed();
        if let Some(answer) = &mut replacement.answer {
            match answer.try_recv() {
                Ok(Ok(Answer::Done(_))) => replacement.removed = true,
                Ok(Ok(Answer::Refused(why))) if why.contains("there is no node") => replacement.removed = true,
                Err(oneshot::error::TryRecvError::Empty) if now < replacement.asked + PATIENCE => return,
                _ => {}
            }
            replacement.answer = None;
            if replacement.removed {
                self.note(format_args!("n{node} is removed"));
                self.setting.members.lock().remove(&node);
            }
            return;
        }
        let others = self.machines.iter().filter(|machine| machine.node != node);
        let up: Vec<_> = others.filter_map(|machine| machine.running()).collect();
        if now >= replacement.asked + PAUSE && !up.is_empty() {
            let at = self.fate.number() as usize % up.len();
            replacement.asked = now;
            replacement.answer = Some(up[at].door.remove(node));
        }
    }

    /// Puts a machine with a new number in the place of one.
    fn start_anew(&mut self, place: u64, old: u64) {
        let number = self.next_number;
        self.next_number += 1;
        let new = machine(number, &self.setting, &mut Random::new(self.fate.number()));
        self.note(format_args!("n{number} starts in place of n{old}"));
        self.setting.members.lock().insert(number);
        self.machines[place as usize - 1] = new.clone();
        self.stage.machines.lock()[place as usize - 1] = new.clone();
        *self.condition(place) = Default::default();
        let host = self.host(place);
        self.sim.host(host, move || new.clone().run());
        // Whatever cuts this place off cuts off the new machine.
        self.cut.retain(|(a, b)| *a != place && *b != place);
        self.held.retain(|(a, b)| *a != place && *b != place);
        self.set_cuts();
    }
}

/// A bit that flips.
struct Flip {
    file: String,
    byte: usize,
    bit: usize,
    /// Whether the log surely refuses it, so that the node must not come up
    is_refused: bool,
}

/// Draws a bit whose flip must be noticed, or does not matter: never one that makes
/// the log look as if its last write had been torn. Every other time one of the log, in
/// what was written of it: a file is longer than that.
fn draw(machine: &Machine, running: bool, random: &mut Random) -> Result<Option<Flip>, String> {
    let disk = machine.disk();
    let names = disk.list().map_err(|e| e.to_string())?;
    let is_log = |name: &String| name.starts_with("log-");
    let last_log = names.iter().filter(|name| is_log(name)).max();
    let is_data = |name: &&String| {
        let at_rest = *name == "node" || *name == "keyring" || is_log(name);
        // What is being written now may be torn yet.
        *name == "state" || if running { is_log(name) && Some(*name) != last_log } else { at_rest }
    };
    let files: Vec<&String> = names.iter().filter(is_data).filter(|name| !disk.contents(name).is_empty()).collect();
    let logs: Vec<&String> = files.iter().copied().filter(|name| is_log(name)).collect();
    if files.is_empty() {
        return Ok(None);
    }
    let before = if running { None } else { Stored::at(machine, disk.copy())? };
    for _ in 0..DRAWS {
        let among = if !logs.is_empty() && random.chance(50) { &logs } else { &files };
        let file = (*random.pick(among)).clone();
        let contents = disk.contents(&file);
        let written = contents.iter().rposition(|byte| *byte != 0).map_or(contents.len(), |last| last + 1);
        let (byte, bit) = (random.below(written as u64) as usize, random.below(8) as usize);
        let is_refused = match !running && is_log(&file) {
            false => false,
            true => match verdict(machine, &before, disk.copy(), (&file, byte, bit)) {
                Verdict::Unnoticed => continue,
                Verdict::Refused => true,
                Verdict::Alike => false,
            },
        };
        return Ok(Some(Flip { file, byte, bit, is_refused }));
    }
    Ok(None)
}

/// What the log makes of a bit that flipped.
enum Verdict {
    /// It is not opened.
    Refused,
    /// It says what it said before.
    Alike,
    /// It says something else.
    Unnoticed,
}

fn verdict(machine: &Machine, before: &Option<Stored>, disk: MemoryDisk, bit: (&str, usize, usize)) -> Verdict {
    let (file, byte, bit) = bit;
    disk.flip(file, byte, bit);
    match (before, Stored::at(machine, disk)) {
        (_, Err(_)) => Verdict::Refused,
        (Some(before), Ok(Some(after))) if before.log_is_like(&after) => Verdict::Alike,
        (_, Ok(_)) => Verdict::Unnoticed,
    }
}
