//! A validator in a real process: tasks, timers, links and disk around the machine.
//!
//! ```text
//!  clients ─▶ intake ─▶ mempool ─▶ gossip ─▶ links ─▶ other nodes' intake
//!             verify      │
//!                         ▼ something is pending
//!  links ─▶ ┌───────────────────────┐ records ┌─────┐
//!           │ machine: the validator │────────▶│ log │   one fsync for all that waits
//!  ticks ─▶ │ and its outbox, one task│◀────────└─────┘
//!           └───────────┬───────────┘ durable
//!            build check│commit ▲ answers
//!                       ▼       │
//!           ┌───────────────────────┐
//!           │ worker: the ledger,     │   a thread of its own: executing a block never
//!           │ one thing at a time     │   keeps a vote waiting
//!           └───────────────────────┘
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | starting it, and the handle |
//! | `intake.rs` | transactions from clients and peers, and who waits for what comes of them |
//! | `machine.rs` | the task of the validator |
//! | `worker.rs` | the thread of the ledger |

mod intake;
mod machine;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_base::seams::ClockSource;
use polity_base::{NodeId, RangeId};
use polity_store::log::Log;
use tokio::sync::{mpsc, oneshot, watch};

use super::application::Application;
use super::error::Fatal;
use super::log::ValidatorLog;
use super::mempool::MempoolOptions;
use super::message::Message;
use super::presence::Quorum;
use super::validator::{Event as Told, Options as ValidatorOptions, To};
use crate::adversary::Adversary;
use crate::signing::{SecretKey, Verified};
use crate::transaction::SignedTransaction;
use crate::types::{Height, LedgerId};
use intake::Intake;
pub use intake::SubmitError;
use machine::{Event, Machine};

/// The way to other nodes. Messages may get lost, twice, late or out of order; what
/// must not happen is that one seems to come from a node that did not send it.
pub trait Network: Send + Sync + 'static {
    /// Sends to one node, on the connection for large things or the other one. Never
    /// waits: what does not fit is lost.
    fn send(&self, to: NodeId, message: Bytes, bulk: bool);

    /// The nodes that take part in the ledger, without this one.
    fn peers(&self) -> Vec<NodeId>;
}

/// What can be chosen about a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The validator's own
    pub validator: ValidatorOptions,
    /// How much may wait to be ordered
    pub mempool: MempoolOptions,
    /// Transactions of a block at most
    pub block_count: usize,
    /// Bytes of a block's transactions at most
    pub block_bytes: usize,
    /// After how long a transaction that is not ordered is sent to the others again
    pub resend: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            validator: ValidatorOptions::default(),
            mempool: MempoolOptions::default(),
            block_count: 4096,
            block_bytes: 4 << 20,
            resend: Duration::from_secs(2),
        }
    }
}

/// What a driver is made of.
pub struct Parts<A, N> {
    /// The ledger
    pub ledger: LedgerId,
    /// This node
    pub node: NodeId,
    /// The key it signs with
    pub key: Arc<SecretKey>,
    /// The ledger's state and blocks
    pub application: A,
    /// The node's log, and the validator's part of it
    pub log: Log,
    /// The group that the validator's records are under
    pub group: RangeId,
    /// The way to others
    pub network: Arc<N>,
    /// The time
    pub clock: Arc<dyn ClockSource>,
}

/// Where a validator is, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// The newest committed height
    pub committed: Height,
    /// The round of the next one, if it is worked on
    pub round: Option<u32>,
    /// Whether those who are heard could decide
    pub quorum: Quorum,
    /// Why the validator has stopped, if it has
    pub stopped: Option<Fatal>,
}

/// A running validator. It stops when the last clone goes.
pub struct Handle<A: Application> {
    intake: Arc<Intake<A::Outcome>>,
    events: mpsc::UnboundedSender<Event>,
    messages: mpsc::Sender<Event>,
    condition: watch::Receiver<Condition>,
    told: Arc<parking_lot::Mutex<Option<mpsc::Receiver<Told>>>>,
}

impl<A: Application> Clone for Handle<A> {
    fn clone(&self) -> Handle<A> {
        Handle {
            intake: self.intake.clone(),
            events: self.events.clone(),
            messages: self.messages.clone(),
            condition: self.condition.clone(),
            told: self.told.clone(),
        }
    }
}

/// So many things that people may want to know wait to be fetched.
const TOLD: usize = 1024;
/// So many messages of peers wait to be taken in.
const MESSAGES: usize = 4096;

/// Starts a validator in the current runtime, where its log says it was.
pub fn start<A: Application, N: Network>(parts: Parts<A, N>, options: Options) -> Result<Handle<A>, Fatal> {
    let tip = parts.application.tip();
    let (log, records) = ValidatorLog::open(parts.log.clone(), parts.group, tip.height)?;
    let (events, event_receiver) = mpsc::unbounded_channel();
    let (messages, message_receiver) = mpsc::channel(MESSAGES);
    let (told, told_receiver) = mpsc::channel(TOLD);
    let intake = Arc::new(Intake::new(options.mempool, parts.application.gate(), events.clone()));
    let (node, clock) = (parts.node, parts.clock.clone());
    let tasks = worker::start(node, parts.application, intake.clone(), events.clone(), clock, options)
        .map_err(|e| Fatal::Storage(format!("the ledger's thread does not start: {e}")))?;
    let machine = Machine::new(
        machine::Surroundings {
            ledger: parts.ledger,
            node: parts.node,
            key: parts.key,
            network: parts.network.clone(),
            clock: parts.clock,
            tasks,
            events: events.clone(),
            told,
        },
        log,
        records,
        tip,
        options,
    )?;
    let condition = machine.condition();
    tokio::spawn(machine.run(event_receiver, message_receiver, intake.clone()));
    tokio::spawn(intake::gossip(intake.clone(), events.clone(), options.resend));
    Ok(Handle { intake, events, messages, condition, told: Arc::new(parking_lot::Mutex::new(Some(told_receiver))) })
}

impl<A: Application> Handle<A> {
    /// Has a transaction ordered, and waits for what comes of it. Its signature is
    /// verified first.
    pub async fn submit(&self, transaction: Arc<SignedTransaction>) -> Result<A::Outcome, SubmitError> {
        self.is_able()?;
        let outcome = self.intake.submit(transaction)?;
        outcome.await.map_err(|_| SubmitError::Unknown)
    }

    /// The same for one whose signature is known to be right.
    pub async fn submit_verified(&self, transaction: Verified<SignedTransaction>) -> Result<A::Outcome, SubmitError> {
        self.is_able()?;
        let outcome = self.intake.submit_verified(transaction)?;
        outcome.await.map_err(|_| SubmitError::Unknown)
    }

    /// Whether anything can be decided, as far as is known.
    fn is_able(&self) -> Result<(), SubmitError> {
        let condition = self.condition.borrow();
        match &condition.stopped {
            Some(fatal) => Err(SubmitError::Stopped(fatal.clone())),
            None if condition.quorum.missing() > 0 => Err(SubmitError::NoQuorum(condition.quorum.clone())),
            None => Ok(()),
        }
    }

    /// Takes in what a peer sent: who it is, the link vouches for.
    pub async fn receive(&self, from: NodeId, bytes: Bytes) {
        match Message::decode(&bytes) {
            Ok(Message::Transactions(transactions)) => self.intake.clone().receive(transactions).await,
            Ok(Message::Evidence(evidence)) => {
                let _ = self.messages.try_send(Event::Evidence(evidence));
            }
            // What does not fit is lost, as it may be on the way.
            Ok(message) => drop(self.messages.try_send(Event::Message(from, message))),
            Err(_) => drop(self.messages.try_send(Event::Garbage(from))),
        }
    }

    /// Where the validator is, also as it changes.
    pub fn condition(&self) -> watch::Receiver<Condition> {
        self.condition.clone()
    }

    /// What people may want to know, from the start on. Can be taken once; what is not
    /// fetched in time is dropped.
    pub fn told(&self) -> Option<mpsc::Receiver<Told>> {
        self.told.lock().take()
    }

    /// Makes the node lie in its messages, or stop to.
    pub fn lie(&self, adversary: Option<Box<dyn Adversary>>) {
        let _ = self.events.send(Event::Lie(adversary));
    }

    /// How many transactions wait to be ordered, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        self.intake.size()
    }

    /// Stops the validator: nothing is sent any more once this returns.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        if self.events.send(Event::Stop(done)).is_ok() {
            // It is gone as well if nobody answers.
            let _ = stopped.await;
        }
    }
}

/// Sends a message to whom it is for.
fn transmit(network: &dyn Network, to: To, bytes: Bytes, bulk: bool) {
    match to {
        To::Node(node) => network.send(node, bytes, bulk),
        To::All => network.peers().into_iter().for_each(|peer| network.send(peer, bytes.clone(), bulk)),
    }
}
