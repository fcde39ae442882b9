//! A simulated world: validators, their disks and the ways between them, in one
//! thread and from one seed.
//!
//! ```text
//!   events by time:  a message arrives · a tick is due · a sync is done ·
//!                    the application answers · a client · fate
//!        │
//!        ▼
//!   node: validator ─▶ outbox ─▶ (adversary) ─▶ network ─▶ more events
//!                         ╰─▶ log: what is synced survives a crash, of the rest a part
//! ```
//!
//! The validators are the real ones; so is the ledger, if it is given one. Time
//! passes only from event to event, so a minute costs what happens in it. The same
//! seed gives the same run, whose digest says so.
//!
//! Fate crashes nodes, cuts the network in two, loses, doubles and delays messages,
//! until all is healed: from then on there must be progress, unless more lie than
//! may.

mod fate;
pub mod local;

mod network;
mod node;
mod random;
mod real;
pub mod simple;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use polity_base::NodeId;
use polity_base::planted::Bug;

use crate::block::Block;
use crate::consensus::application::Application;
use crate::consensus::error::Fatal;
use crate::consensus::message::Message;
use crate::consensus::validator::{Input, Now};
use crate::invariant::{self, Invariant, Replay, Sight};
use crate::signing::SecretKey;
use crate::transaction::{SignedTransaction, TransactionId};
use crate::types::{LedgerId, Validator, Validators};
use network::{Micros, Network};
use node::Node;
use random::Random;

/// What is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything follows from it
    pub seed: u64,
    /// The voting power of each validator
    pub powers: Vec<u64>,
    /// Who lies, and how
    pub liars: Vec<(usize, &'static str)>,
    /// For how long clients work and things break
    pub work: Duration,
    /// Whether things break
    pub faults: bool,
    /// Messages lost in the beginning, of a thousand
    pub loss: u64,
    /// A node that nobody hears for the first three quarters of the time
    pub absent: Option<usize>,
    /// A node that crashes after so many inputs of its validator, and loses all that
    /// is not synced
    pub crash_at: Option<(usize, u64)>,
    /// Whether validators come, go and change their power
    pub changes: bool,
    /// Whether there must be progress in the end
    pub progress: bool,
    /// A bug that is planted
    pub bug: Option<Bug>,
}

impl Options {
    /// Four validators that are well.
    pub fn new(seed: u64) -> Options {
        Options {
            seed,
            powers: vec![1; 4],
            liars: Vec::new(),
            work: Duration::from_secs(10),
            faults: true,
            loss: 0,
            absent: None,
            crash_at: None,
            changes: false,
            progress: true,
            bug: None,
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The highest committed height
    pub height: u64,
    /// Transactions that were ordered
    pub ordered: usize,
    /// Heights that took more than one round
    pub rounds: u64,
    /// Crashes
    pub crashes: u64,
    /// Snapshots that were put in place
    pub snapshots: u64,
    /// Whom there is evidence against, in committed blocks
    pub accused: BTreeSet<NodeId>,
    /// Whom somebody does not listen to any more
    pub ignored: BTreeSet<NodeId>,
    /// What must not be, if it was
    pub violations: Vec<String>,
    /// What the run comes to
    pub digest: u64,
}

/// A ledger that can be simulated.
pub trait Subject: Application + Sized {
    /// The name of the ledger that begins with these validators.
    fn name(validators: &Validators) -> LedgerId;

    /// That ledger at genesis, on a disk of its own.
    fn genesis(validators: &Validators, node: NodeId) -> Self;

    /// The same ledger after a crash: what was not committed is gone.
    fn reopen(self) -> Self;

    /// What is handed in before everything else.
    fn opening(&self) -> Vec<SignedTransaction> {
        Vec::new()
    }

    /// A transaction of some client.
    fn transaction(&self, draw: &mut dyn FnMut() -> u64) -> SignedTransaction;

    /// Transactions that give a node this voting power, from two heights later on.
    fn change(&self, node: NodeId, power: u64, draw: &mut dyn FnMut() -> u64) -> Vec<SignedTransaction>;

    /// Applies a block without looking at certificates or its header; the root of the
    /// state after it.
    fn replay(&mut self, block: &Block) -> [u8; 32];
}

enum Event {
    Arrives { to: usize, from: NodeId, bytes: Arc<Vec<u8>> },
    Tick { node: usize },
    Synced { node: usize, records: usize },
    Answer { node: usize, task: node::Task },
    Gossip { node: usize },
    Lie { node: usize },
    Submit,
    Fate,
    Appears,
    Start { node: usize },
    Healed,
}

struct Due {
    at: Micros,
    order: u64,
    /// Which life of the node it is for
    life: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.order == other.order
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Validators and what is between them.
pub struct World<A> {
    options: Options,
    random: Random,
    now: Micros,
    order: u64,
    due: BinaryHeap<Reverse<Due>>,
    nodes: Vec<Node<A>>,
    network: Network,
    invariants: Vec<Box<dyn Invariant>>,
    /// What clients handed in and was not ordered yet
    waiting: BTreeMap<TransactionId, Arc<SignedTransaction>>,
    ordered: BTreeSet<TransactionId>,
    working: bool,
    report: Report,
}

/// How long a world may take to be well again once it is healed.
const PATIENCE: Micros = 120_000_000;
/// The moment at which worlds begin, in milliseconds since 1970.
const EPOCH_MS: u64 = 1_800_000_000_000;

/// Runs a seed.
pub fn run<A: Subject>(options: &Options) -> Report {
    plant(options.bug);
    let report = World::<A>::new(options.clone()).run();
    plant(None);
    report
}

#[cfg(debug_assertions)]
fn plant(bug: Option<Bug>) {
    polity_base::planted::plant(bug);
}

#[cfg(not(debug_assertions))]
fn plant(_: Option<Bug>) {}

impl<A: Subject> World<A> {
    fn new(options: Options) -> World<A> {
        let mut random = Random::new(options.seed);
        let keys: Vec<Arc<SecretKey>> =
            (0..options.powers.len()).map(|i| Arc::new(SecretKey::from_seed([i as u8 + 1; 32]))).collect();
        let list = options.powers.iter().zip(&keys).enumerate();
        let list = list.map(|(i, (power, key))| Validator { node: id(i), key: key.public(), power: *power });
        let validators = Validators::new(list.collect());
        let ledger = A::name(&validators);
        let nodes = keys.iter().enumerate().map(|(i, key)| {
            let lie = options.liars.iter().find(|(liar, _)| *liar == i).map(|(_, name)| *name);
            let application = A::genesis(&validators, id(i));
            Node::new(i, options.powers.len(), ledger, key.clone(), application, lie, &mut random)
        });
        let nodes = nodes.collect();
        let replay = replay::<A>(&validators, options.bug);
        World {
            now: 0,
            order: 0,
            due: BinaryHeap::new(),
            nodes,
            network: Network::new(Random::new(random.draw())),
            invariants: invariant::all(ledger, replay),
            waiting: BTreeMap::new(),
            ordered: BTreeSet::new(),
            working: true,
            report: Report::default(),
            random,
            options,
        }
    }

    fn run(mut self) -> Report {
        for node in 0..self.nodes.len() {
            self.start(node);
        }
        let first = (0..self.nodes.len()).find(|node| self.nodes[*node].is_honest()).unwrap_or(0);
        let opening = self.nodes[first].application().opening();
        self.hand_in(first, opening);
        self.network.loss = self.options.loss;
        self.network.side.extend(self.options.absent.map(|node| node as u64));
        self.at(1_000, 0, Event::Submit);
        self.at(self.options.work.as_micros() as Micros * 3 / 4, 0, Event::Appears);
        self.at(50_000, 0, Event::Fate);
        self.at(self.options.work.as_micros() as Micros, 0, Event::Healed);
        let mut end = None;
        while let Some(Reverse(due)) = self.due.pop() {
            self.now = due.at;
            self.happens(due);
            if !self.report.violations.is_empty() {
                break;
            }
            if !self.working {
                let end = *end.get_or_insert(self.now + PATIENCE);
                if self.is_well() || !self.options.progress && self.now > end - PATIENCE * 3 / 4 {
                    break;
                }
                if self.now > end {
                    self.report.violations.push(self.stuck());
                    break;
                }
            }
        }
        self.report.ordered = self.ordered.len();
        self.report
    }

    fn at(&mut self, at: Micros, life: u64, event: Event) {
        self.order += 1;
        self.due.push(Reverse(Due { at, order: self.order, life, event }));
    }

    /// Something that happens to a node, unless it crashes before.
    fn later(&mut self, node: usize, delay: Micros, event: Event) {
        let life = self.nodes[node].life;
        self.at(self.now + delay, life, event);
    }

    fn happens(&mut self, due: Due) {
        let alive = |world: &World<A>, node: usize| world.nodes[node].life == due.life && world.nodes[node].is_up();
        match due.event {
            Event::Arrives { to, from, bytes } => self.arrives(to, from, &bytes),
            Event::Tick { node } if alive(self, node) => self.tick(node),
            Event::Synced { node, records } if alive(self, node) => self.synced(node, records),
            Event::Answer { node, task } if alive(self, node) => self.answer(node, task),
            Event::Gossip { node } if alive(self, node) => self.gossip(node),
            Event::Lie { node } if alive(self, node) => self.lie(node),
            Event::Start { node } => self.start(node),
            Event::Submit => self.submit(),
            Event::Fate => self.fate(),
            Event::Appears => self.network.side.clear(),
            Event::Healed => self.heal(),
            _ => {}
        }
    }

    fn arrives(&mut self, to: usize, from: NodeId, bytes: &[u8]) {
        if !self.nodes[to].is_up() {
            return;
        }
        self.digest(bytes);
        match Message::decode(bytes) {
            Ok(Message::Transactions(transactions)) => {
                self.admit(to, transactions);
            }
            Ok(Message::Evidence(evidence)) => self.accuse(to, evidence),
            Ok(message) => self.step(to, Input::Message(from, message)),
            Err(_) => self.step(to, Input::Garbage(from)),
        }
    }

    /// Has invariants look at what an honest node or a client did.
    fn see(&mut self, sight: &Sight) {
        for invariant in &mut self.invariants {
            if let Err(violation) = invariant.look(sight) {
                self.report.violations.push(violation);
            }
        }
    }

    fn digest(&mut self, bytes: &[u8]) {
        let mut digest = self.report.digest ^ self.now;
        for byte in bytes {
            // FNV-1a.
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
        self.report.digest = digest;
    }

    fn failed(&mut self, node: usize, fatal: Fatal) {
        self.nodes[node].stop();
        if self.nodes[node].is_honest() {
            self.report.violations.push(format!("n{node} stopped: {fatal}"));
        }
    }

    /// Whether all honest nodes have the same, and nothing waits.
    fn is_well(&self) -> bool {
        let tips: BTreeSet<_> = self.honest().map(|node| node.tip().block).collect();
        tips.len() == 1 && self.waiting.is_empty() && self.honest().all(Node::is_up)
    }

    fn honest(&self) -> impl Iterator<Item = &Node<A>> {
        self.nodes.iter().filter(|node| node.is_honest())
    }

    fn stuck(&self) -> String {
        let places: Vec<_> = self.nodes.iter().map(Node::describe).collect();
        format!("progress: {} transactions wait though all is healed; {}", self.waiting.len(), places.join("; "))
    }

    fn clock(&self, node: usize) -> Now {
        let skewed = (self.now / 1000) as i64 + self.nodes[node].skew_ms;
        Now { elapsed: Duration::from_micros(self.now), unix_ms: EPOCH_MS.saturating_add_signed(skewed) }
    }
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

fn place(node: NodeId) -> usize {
    node.0 as usize - 1
}

/// Applies blocks on a ledger that takes no part, without the bug that is planted.
fn replay<A: Subject>(validators: &Validators, bug: Option<Bug>) -> Replay {
    let mut observer = A::genesis(validators, NodeId(0));
    Box::new(move |block| {
        plant(None);
        let root = observer.replay(block);
        plant(bug);
        root
    })
}
