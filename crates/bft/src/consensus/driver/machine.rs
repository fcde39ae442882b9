//! The task of the validator: it takes in what happens, one thing at a time, and
//! hands out what follows.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_base::NodeId;
use polity_base::seams::ClockSource;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::intake::Intake;
use super::worker::Task;
use super::{Condition, Network, Options, transmit};
use crate::adversary::{Adversary, Means, Sent};
use crate::consensus::error::Fatal;
use crate::consensus::log::ValidatorLog;
use crate::consensus::message::Message;
use crate::consensus::outbox::Outbox;
use crate::consensus::record::Record;
use crate::consensus::validator::{Event as Told, Input, Now, Output, Tip, To, Validator};
use crate::evidence::Evidence;
use crate::signing::SecretKey;
use crate::types::LedgerId;

/// What happens.
pub enum Event {
    /// A peer's message
    Message(NodeId, Message),
    /// A peer's bytes that are none
    Garbage(NodeId),
    /// Evidence that a peer passed on
    Evidence(Vec<Evidence>),
    /// Whether something is to be ordered
    Pending(bool),
    /// The worker's answer
    Answer(Input),
    /// So many records are durable
    Durable(Result<usize, Fatal>),
    /// The worker or the gossip wants something sent
    Say(To, Message),
    /// The node is to lie, or to stop to
    Lie(Option<Box<dyn Adversary>>),
    /// The state cannot be written
    Broken(Fatal),
    /// It is to stop
    Stop(oneshot::Sender<()>),
}

/// What is around the machine.
pub struct Surroundings<N> {
    pub ledger: LedgerId,
    pub node: NodeId,
    pub key: Arc<SecretKey>,
    pub network: Arc<N>,
    pub clock: Arc<dyn ClockSource>,
    pub tasks: std::sync::mpsc::Sender<Task>,
    pub events: mpsc::UnboundedSender<Event>,
    pub told: mpsc::Sender<Told>,
}

/// The validator with its outbox and log.
pub struct Machine<N> {
    around: Surroundings<N>,
    validator: Validator,
    outbox: Outbox,
    log: ValidatorLog,
    began: Instant,
    liar: Option<(Box<dyn Adversary>, Means)>,
    condition: watch::Sender<Condition>,
    next_report: Duration,
}

/// How often a liar has ideas of its own.
const IDEAS: Duration = Duration::from_millis(50);
/// How often it is told how things are, at least.
const REPORTS: Duration = Duration::from_millis(250);

impl<N: Network> Machine<N> {
    pub fn new(
        around: Surroundings<N>,
        log: ValidatorLog,
        records: Vec<Record>,
        tip: Tip,
        options: Options,
    ) -> Result<Machine<N>, Fatal> {
        let began = Instant::now();
        let now = Now { elapsed: Duration::ZERO, unix_ms: unix_ms(&*around.clock) };
        let (validator, outputs) = Validator::new(
            around.ledger,
            around.node,
            around.key.clone(),
            options.validator,
            tip.clone(),
            records,
            now,
        )?;
        let condition = Condition { committed: tip.height, round: None, quorum: validator.quorum(), stopped: None };
        let mut machine = Machine {
            around,
            validator,
            outbox: Outbox::default(),
            log,
            began,
            liar: None,
            condition: watch::Sender::new(condition),
            next_report: Duration::ZERO,
        };
        machine.take_outputs(outputs);
        Ok(machine)
    }

    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// Runs until it is stopped, or must not go on.
    pub async fn run<O>(
        mut self,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut messages: mpsc::Receiver<Event>,
        intake: Arc<Intake<O>>,
    ) {
        let mut ideas = tokio::time::interval(IDEAS);
        let stopped = loop {
            let tick = self.began + self.validator.next_tick();
            let outcome = tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(Event::Stop(done)) => break Some(done),
                    Some(event) => self.happens(event),
                    None => break None,
                },
                () = tokio::time::sleep_until(tick) => self.step(Input::Tick),
                _ = ideas.tick(), if self.liar.is_some() => self.have_ideas(),
                message = messages.recv() => match message {
                    Some(event) => self.happens(event),
                    None => break None,
                },
            };
            if let Err(fatal) = outcome {
                tracing::error!(node = %self.around.node, "the validator stops for good: {fatal}");
                self.condition.send_modify(|condition| condition.stopped = Some(fatal));
                break None;
            }
            self.report();
        };
        intake.abandon();
        if let Some(stopped) = stopped {
            // Whoever asked may be gone.
            let _ = stopped.send(());
        }
    }

    fn happens(&mut self, event: Event) -> Result<(), Fatal> {
        match event {
            Event::Message(from, message) => self.step(Input::Message(from, message)),
            Event::Garbage(from) => self.step(Input::Garbage(from)),
            Event::Pending(pending) => self.step(Input::Pending(pending)),
            Event::Answer(input) => self.step(input),
            Event::Evidence(evidence) => {
                self.work(Task::Evidence(evidence));
                Ok(())
            }
            Event::Durable(outcome) => {
                let outputs = self.outbox.durable(outcome?);
                outputs.into_iter().for_each(|output| self.put_out(output));
                Ok(())
            }
            Event::Say(to, message) => {
                self.send(to, message);
                Ok(())
            }
            Event::Lie(adversary) => {
                self.liar = adversary.map(|adversary| (adversary, self.means()));
                Ok(())
            }
            Event::Broken(fatal) => Err(fatal),
            Event::Stop(_) => Ok(()),
        }
    }

    fn step(&mut self, input: Input) -> Result<(), Fatal> {
        let now = Now { elapsed: self.began.elapsed(), unix_ms: unix_ms(&*self.around.clock) };
        let outputs = self.validator.step(now, input)?;
        self.take_outputs(outputs);
        Ok(())
    }

    fn take_outputs(&mut self, outputs: Vec<Output>) {
        let ready = self.outbox.push(outputs);
        if !ready.records.is_empty() {
            let (events, count) = (self.around.events.clone(), ready.records.len());
            self.log.append(ready.records, move |outcome| {
                // After a stop nobody needs to know.
                let _ = events.send(Event::Durable(outcome.map(|()| count)));
            });
        }
        ready.outputs.into_iter().for_each(|output| self.put_out(output));
    }

    fn put_out(&mut self, output: Output) {
        match output {
            Output::Send(to, message) => self.send(to, message),
            Output::Build(height, round) => self.work(Task::Build(height, round)),
            Output::Check(block) => self.work(Task::Check(block)),
            Output::Commit(block, certificate) => self.work(Task::Commit(block, certificate)),
            Output::Serve(node, question) => self.work(Task::Serve(node, question)),
            Output::Install(from, height, parts) => self.work(Task::Install(from, height, parts)),
            Output::Evidence(evidence) => self.work(Task::Evidence(vec![evidence])),
            Output::Notify(told) => drop(self.around.told.try_send(told)),
            // The outbox keeps records apart.
            Output::Append(_) => {}
        }
    }

    fn work(&self, task: Task) {
        // The worker lives as long as the machine, unless it failed, which it says.
        let _ = self.around.tasks.send(task);
    }

    fn send(&mut self, to: To, message: Message) {
        let sends = match &mut self.liar {
            None => vec![(to, Sent::Message(message))],
            Some((adversary, means)) => adversary.send(means, to, message),
        };
        self.transmit(sends);
    }

    fn have_ideas(&mut self) -> Result<(), Fatal> {
        if let Some((adversary, means)) = &mut self.liar {
            let sends = adversary.tick(means);
            self.transmit(sends);
        }
        Ok(())
    }

    fn transmit(&self, sends: Vec<(To, Sent)>) {
        for (to, sent) in sends {
            let (bytes, bulk) = match sent {
                Sent::Message(message) => (message.encode(), message.is_bulk()),
                Sent::Bytes(bytes) => (bytes, false),
            };
            transmit(&*self.around.network, to, Bytes::from(bytes), bulk);
        }
    }

    fn means(&self) -> Means {
        let Surroundings { ledger, node, key, network, .. } = &self.around;
        let random = self.began.elapsed().as_nanos() as u64 | 1;
        Means { ledger: *ledger, node: *node, key: key.clone(), peers: network.peers(), random }
    }

    /// Says how things are, when they have changed or it is time to.
    fn report(&mut self) {
        let (now, committed) = (self.began.elapsed(), self.validator.tip().height);
        // While somebody is missing, it is told at once when he is back.
        let due = now >= self.next_report || self.condition.borrow().quorum.missing() > 0;
        let round = self.validator.round();
        let changed = {
            let last = self.condition.borrow();
            last.committed != committed || last.round != round
        };
        if !due && !changed {
            return;
        }
        if due {
            self.next_report = now + REPORTS;
        }
        let quorum = due.then(|| self.validator.quorum());
        self.condition.send_if_modified(|condition| {
            let quorum = quorum.filter(|quorum| *quorum != condition.quorum);
            let modified = changed || quorum.is_some();
            (condition.committed, condition.round) = (committed, round);
            if let Some(quorum) = quorum {
                condition.quorum = quorum;
            }
            modified
        });
    }
}

fn unix_ms(clock: &dyn ClockSource) -> u64 {
    (clock.read().midpoint().unix_micros() / 1000).unsigned_abs()
}
