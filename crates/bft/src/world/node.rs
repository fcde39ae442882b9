//! One node of the simulated world: its validator, its disk, its clock, its lies.

use std::sync::Arc;

use polity_base::NodeId;

use super::network::Micros;
use super::random::Random;
use super::{Event, Subject, World, id, place};
use crate::adversary::{self, Adversary, Means, Sends, Sent};
use crate::block::{Block, Certificate};
use crate::consensus::application::{CommitError, Ingredients};
use crate::consensus::mempool::{Mempool, MempoolOptions};
use crate::consensus::message::{Message, SnapshotPart};
use crate::consensus::outbox::Outbox;
use crate::consensus::record::Record;
use crate::consensus::validator::{Event as Told, Input, Options, Output, Question, Tip, To, Validator};
use crate::evidence::Evidence;
use crate::invariant::Sight;
use crate::signing::SecretKey;
use crate::transaction::SignedTransaction;
use crate::types::{Height, LedgerId};

/// So many transactions make a block here, and so many bytes.
const BLOCK: (usize, usize) = (64, 1 << 20);
/// How long a transaction waits before it is sent again.
const RESEND: std::time::Duration = std::time::Duration::from_millis(800);

/// A node.
pub struct Node<A> {
    place: usize,
    ledger: LedgerId,
    key: Arc<SecretKey>,
    validator: Option<Validator>,
    outbox: Outbox,
    application: Option<A>,
    mempool: Mempool,
    /// What of the log is on disk, and what is on its way
    log: Vec<Record>,
    unsynced: Vec<Record>,
    last_sync: Micros,
    liar: Option<(Box<dyn Adversary>, Means)>,
    next_tick: Micros,
    /// How far its clock is off
    pub skew_ms: i64,
    /// How often it was started
    pub life: u64,
    /// Inputs that its validators have taken
    steps: u64,
}

/// What an application is asked for.
pub enum Task {
    Build(Height, u32),
    Check(Arc<Block>),
    Commit(Arc<Block>, Arc<Certificate>),
    Install(NodeId, Height, Vec<bytes::Bytes>),
}

impl<A: Subject> Node<A> {
    pub fn new(
        place: usize,
        count: usize,
        ledger: LedgerId,
        key: Arc<SecretKey>,
        application: A,
        lie: Option<&'static str>,
        random: &mut Random,
    ) -> Node<A> {
        let peers = (0..count).filter(|peer| *peer != place).map(id).collect();
        let means = Means { ledger, node: id(place), key: key.clone(), peers, random: random.draw() | 1 };
        Node {
            place,
            ledger,
            key,
            validator: None,
            outbox: Outbox::default(),
            application: Some(application),
            mempool: Mempool::new(MempoolOptions::default()),
            log: Vec::new(),
            unsynced: Vec::new(),
            last_sync: 0,
            liar: lie.and_then(adversary::by_name).map(|adversary| (adversary, means)),
            next_tick: Micros::MAX,
            skew_ms: random.between(0, 1000) as i64 - 500,
            life: 0,
            steps: 0,
        }
    }

    pub fn is_up(&self) -> bool {
        self.validator.is_some()
    }

    pub fn is_honest(&self) -> bool {
        self.liar.is_none()
    }

    pub fn tip(&self) -> Tip {
        self.application().tip()
    }

    /// Its ledger, unless it is being opened.
    pub fn application(&self) -> &A {
        self.application.as_ref().expect("a node always has its ledger")
    }

    /// Ends the process: of what is not on disk, some of the beginning is kept.
    pub fn crash(&mut self, random: &mut Random) {
        let kept = random.below(self.unsynced.len() as u64 + 1) as usize;
        self.log.extend(self.unsynced.drain(..kept));
        self.unsynced.clear();
        if self.liar.as_ref().is_some_and(|(adversary, _)| adversary.forgets()) {
            self.log.clear();
        }
        self.stop();
        self.application = self.application.take().map(A::reopen);
    }

    /// Ends the validator.
    pub fn stop(&mut self) {
        self.validator = None;
        self.life += 1;
    }

    pub fn describe(&self) -> String {
        let at = self.tip().height;
        match &self.validator {
            Some(v) => format!("n{} at {at}: {}", self.place, v.describe()),
            None => format!("n{} at {at}, down", self.place),
        }
    }
}

impl<A: Subject> World<A> {
    /// Starts a node with what is on its disk.
    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].is_up() {
            return;
        }
        let now = self.clock(node);
        let n = &mut self.nodes[node];
        n.life += 1;
        n.outbox = Outbox::default();
        n.mempool = Mempool::new(MempoolOptions::default());
        n.next_tick = Micros::MAX;
        let tip = n.tip();
        let log: Vec<Record> = n.log.iter().filter(|record| record.height > tip.height).cloned().collect();
        n.log.clone_from(&log);
        let (ledger, key) = (n.ledger, n.key.clone());
        match Validator::new(ledger, id(node), key, Options::default(), tip.clone(), log, now) {
            Ok((validator, outputs)) => {
                self.nodes[node].validator = Some(validator);
                if self.nodes[node].is_honest() {
                    self.see(&Sight::Started(id(node), &tip));
                }
                self.take_outputs(node, outputs);
                self.later(node, 300_000, Event::Gossip { node });
                if !self.nodes[node].is_honest() {
                    self.later(node, 20_000, Event::Lie { node });
                }
            }
            Err(fatal) => self.failed(node, fatal),
        }
    }

    /// Gives a node's validator an input.
    pub(super) fn step(&mut self, node: usize, input: Input) {
        let now = self.clock(node);
        let Some(validator) = self.nodes[node].validator.as_mut() else { return };
        match validator.step(now, input) {
            Ok(outputs) => self.take_outputs(node, outputs),
            Err(fatal) => self.failed(node, fatal),
        }
        self.nodes[node].steps += 1;
        if self.options.crash_at == Some((node, self.nodes[node].steps)) {
            self.nodes[node].unsynced.clear();
            self.crash(node, 5_000);
        }
    }

    fn take_outputs(&mut self, node: usize, outputs: Vec<Output>) {
        let ready = self.nodes[node].outbox.push(outputs);
        if !ready.records.is_empty() {
            let records = ready.records.len();
            let delay = self.random.between(100, 4_000);
            let n = &mut self.nodes[node];
            n.unsynced.extend(ready.records);
            n.last_sync = n.last_sync.max(self.now + delay);
            let delay = n.last_sync - self.now;
            self.later(node, delay, Event::Synced { node, records });
        }
        for output in ready.outputs {
            self.put_out(node, output);
        }
        self.schedule_tick(node);
    }

    fn schedule_tick(&mut self, node: usize) {
        let n = &self.nodes[node];
        let Some(validator) = &n.validator else { return };
        let at = validator.next_tick().as_micros() as Micros + 1;
        if at < n.next_tick || n.next_tick <= self.now {
            self.nodes[node].next_tick = at.max(self.now + 1);
            let delay = self.nodes[node].next_tick - self.now;
            self.later(node, delay, Event::Tick { node });
        }
    }

    pub(super) fn tick(&mut self, node: usize) {
        // A tick that was due later and is not the next any more does no harm.
        self.step(node, Input::Tick);
        self.schedule_tick(node);
    }

    pub(super) fn synced(&mut self, node: usize, records: usize) {
        let n = &mut self.nodes[node];
        n.log.extend(n.unsynced.drain(..records));
        for output in n.outbox.durable(records) {
            self.put_out(node, output);
        }
    }

    fn put_out(&mut self, node: usize, output: Output) {
        let task = match output {
            Output::Send(to, message) => return self.send(node, to, message),
            Output::Serve(to, question) => return self.serve(node, to, question),
            Output::Evidence(evidence) => return self.accuse(node, vec![evidence]),
            Output::Notify(told) => return self.notice(told),
            Output::Append(_) => unreachable!("the outbox hands records out apart"),
            Output::Build(height, round) => Task::Build(height, round),
            Output::Check(block) => Task::Check(block),
            Output::Commit(block, certificate) => Task::Commit(block, certificate),
            Output::Install(from, height, parts) => Task::Install(from, height, parts),
        };
        let delay = self.random.between(50, 3_000);
        self.later(node, delay, Event::Answer { node, task });
    }

    fn notice(&mut self, told: Told) {
        match told {
            Told::Round(_, round, _) if round > 0 => self.report.rounds += 1,
            Told::Misbehaves(node, _) => {
                self.report.ignored.insert(node);
            }
            _ => {}
        }
    }

    /// Sends what a node's validator wants sent, or what its liar makes of it.
    pub(super) fn send(&mut self, node: usize, to: To, message: Message) {
        let sends = match &mut self.nodes[node].liar {
            Some((adversary, means)) => adversary.send(means, to, message),
            None => {
                self.see(&Sight::Sent(id(node), &message));
                vec![(to, Sent::Message(message))]
            }
        };
        self.transmit(node, sends);
    }

    fn transmit(&mut self, node: usize, sends: Sends) {
        for (to, sent) in sends {
            let bytes = Arc::new(match sent {
                Sent::Message(message) => message.encode(),
                Sent::Bytes(bytes) => bytes,
            });
            let targets: Vec<usize> = match to {
                To::All => (0..self.nodes.len()).filter(|to| *to != node).collect(),
                To::Node(to) => vec![place(to)],
            };
            for to in targets {
                for at in self.network.arrivals(node as u64, to as u64, self.now) {
                    self.at(at, 0, Event::Arrives { to, from: id(node), bytes: bytes.clone() });
                }
            }
        }
    }

    /// Lets a liar have ideas.
    pub(super) fn lie(&mut self, node: usize) {
        if let Some((adversary, means)) = &mut self.nodes[node].liar {
            let sends = adversary.tick(means);
            self.transmit(node, sends);
        }
        self.later(node, 50_000, Event::Lie { node });
    }

    /// Does what an application is asked for.
    pub(super) fn answer(&mut self, node: usize, task: Task) {
        let unix_ms = self.clock(node).unix_ms;
        let n = &mut self.nodes[node];
        let Some(application) = n.application.as_mut() else { return };
        let input = match task {
            Task::Build(height, round) => {
                let transactions = n.mempool.first(BLOCK.0, BLOCK.1);
                let evidence = n.mempool.evidence().to_vec();
                let ingredients = Ingredients { proposer: id(node), unix_ms, transactions, evidence };
                match application.build(ingredients) {
                    Ok(block) => Input::Built(height, round, block),
                    Err(_) => return,
                }
            }
            Task::Check(block) => Input::Checked(block.id(), application.check(&block, &|_| false)),
            Task::Commit(block, certificate) => return self.commit(node, block, certificate),
            Task::Install(from, height, parts) => {
                let outcome = application.install(height, parts).map_err(|e| e.to_string());
                if let Ok(tip) = &outcome {
                    self.report.snapshots += 1;
                    if self.nodes[node].is_honest() {
                        self.see(&Sight::Installed(id(node), tip));
                    }
                    self.sweep(node);
                }
                Input::Installed(from, outcome)
            }
        };
        self.step(node, input);
    }

    fn commit(&mut self, node: usize, block: Arc<Block>, certificate: Arc<Certificate>) {
        let n = &mut self.nodes[node];
        let Some(application) = n.application.as_mut() else { return };
        let validators = application.tip().validators;
        match application.commit(&block, &certificate) {
            Ok(committed) => {
                if self.nodes[node].is_honest() {
                    self.see(&Sight::Committed(id(node), &block, &certificate, &validators));
                    self.note(&block);
                }
                self.sweep(node);
                self.step(node, Input::Committed(committed.tip));
            }
            Err(CommitError::Invalid(reason)) => self.step(node, Input::Refused(block.id(), reason)),
            Err(CommitError::Storage(reason)) => self.report.violations.push(reason),
        }
    }

    /// Takes note of what an honest node committed.
    fn note(&mut self, block: &Block) {
        self.report.height = self.report.height.max(block.header().height.0);
        for transaction in &block.transactions {
            let id = transaction.id();
            self.waiting.remove(&id);
            self.ordered.insert(id);
        }
        self.report.accused.extend(block.evidence.iter().map(Evidence::validator));
    }

    /// Takes out of a node's pool what its ledger has no use for any more.
    fn sweep(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let Some(application) = n.application.as_ref() else { return };
        let gone: Vec<_> = n.mempool.first(usize::MAX, usize::MAX);
        let gone: Vec<_> = gone.iter().filter(|t| !application.admits(t)).map(|t| t.id()).collect();
        n.mempool.remove(&gone);
        n.mempool.retain_evidence(|evidence| application.admits_evidence(evidence));
        let pending = n.mempool.is_pending();
        self.step(node, Input::Pending(pending));
    }

    /// Takes transactions into a node's pool; those that are new there.
    pub(super) fn admit(&mut self, node: usize, transactions: Vec<Arc<SignedTransaction>>) {
        let now = self.clock(node).elapsed;
        let n = &mut self.nodes[node];
        let Some(application) = n.application.as_ref() else { return };
        for transaction in transactions {
            if transaction.verify() && application.admits(&transaction) {
                // A refusal for want of room is the sender's to try again.
                let _ = n.mempool.add(transaction, now);
            }
        }
        if self.nodes[node].mempool.is_pending() {
            self.step(node, Input::Pending(true));
        }
    }

    /// Takes evidence into a node's pool, and passes on what is new there.
    pub(super) fn accuse(&mut self, node: usize, evidence: Vec<Evidence>) {
        let n = &mut self.nodes[node];
        let Some(application) = n.application.as_ref() else { return };
        let new: Vec<Evidence> = evidence
            .into_iter()
            .filter(|evidence| application.admits_evidence(evidence) && n.mempool.accuse(evidence.clone()))
            .collect();
        if !new.is_empty() {
            self.send(node, To::All, Message::Evidence(new));
            self.step(node, Input::Pending(true));
        }
    }

    /// Sends again what others seem not to have got.
    pub(super) fn gossip(&mut self, node: usize) {
        let now = self.clock(node).elapsed;
        let again = self.nodes[node].mempool.resend(now, RESEND, BLOCK.0);
        if !again.is_empty() {
            self.send(node, To::All, Message::Transactions(again));
        }
        let evidence = self.nodes[node].mempool.evidence().to_vec();
        if !evidence.is_empty() {
            self.send(node, To::All, Message::Evidence(evidence));
        }
        self.later(node, 300_000, Event::Gossip { node });
    }

    fn serve(&mut self, node: usize, to: NodeId, question: Question) {
        let n = &mut self.nodes[node];
        let Some(application) = n.application.as_mut() else { return };
        let mut answers = Vec::new();
        match question {
            Question::Blocks(first, _) if first < application.oldest_block() => {
                answers.push(Message::Pruned(application.oldest_block(), application.snapshot()));
            }
            Question::Blocks(first, last) => {
                for height in first.0..=last.0.min(first.0.saturating_add(31)) {
                    match application.block(Height(height)) {
                        Ok(Some((block, certificate))) => answers.push(Message::Certified(block, certificate)),
                        _ => break,
                    }
                }
            }
            Question::Snapshot(height, index) => {
                if let Ok(Some((bytes, count))) = application.snapshot_part(height, index) {
                    answers.push(Message::Snapshot(SnapshotPart { height, index, count, bytes }));
                }
            }
        }
        answers.into_iter().for_each(|answer| self.send(node, To::Node(to), answer));
    }
}
