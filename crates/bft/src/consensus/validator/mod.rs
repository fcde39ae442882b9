//! One validator: inputs in, outputs out, no IO, no clock, no chance.
//!
//! ```text
//!            messages  ticks  what the application says
//!                 ╲      │      ╱
//!  ┌───────────────▼─────▼─────▼───────────────┐
//!  │ receive    who may say what; what is for    │
//!  │            later, for now, or long past     │
//!  │    │                                        │
//!  │    ▼                                        │
//!  │ core       Malachite: rounds, locks, votes  │ ──▶ effects: sign, verify, remember,
//!  │    │                                        │               wait, publish, decide
//!  │    ▼                                        │
//!  │ decide     block + certificate              │
//!  └───────────────┬────────────────────────────┘
//!                  ▼
//!   append · send · build · check · commit · …      in an order that the outbox keeps
//! ```
//!
//! A height has three phases. It is *waiting* while there is nothing to agree on: no
//! block is made for its own sake. It is *running* from the first transaction, here
//! or at somebody who says so. It is *deciding* from the certificate until the
//! application has the block on disk; then the next height begins, at once if there
//! is something to do.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | inputs, outputs, the step |
//! | `receive.rs` | messages |
//! | `effects.rs` | what the core asks for |
//! | `heights.rs` | from one height to the next |
//! | `recover.rs` | a start with a log |
//! | `helping.rs` | being asked, and asking, for what was lost on the way |

mod effects;
mod heights;
mod helping;
mod receive;
mod recover;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arc_malachitebft_core_consensus::{Input as CoreInput, Params};
use arc_malachitebft_core_types::{Timeout, TimeoutKind, ValuePayload};
use polity_base::NodeId;

use super::candidates::Candidates;
use super::catch_up::CatchUp;
use super::context::{Address, Context, Members};
use super::core::{self, State};
use super::error::Fatal;
use super::inbox::Inbox;
use super::message::Message;
use super::pace::{Pace, PaceOptions};
use super::pledges::Pledges;
use super::presence::{Presence, Quorum};
use super::record::Record;
use super::strikes::Strikes;
use super::verify::{self, Trust};
use super::watch::Watch;
use crate::block::{Block, Certificate};
use crate::evidence::Evidence;
use crate::signing::SecretKey;
use crate::types::{BlockId, Height, LedgerId, Validators};
use effects::Hands;

/// What can be chosen about a validator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// How long to wait for what
    pub pace: PaceOptions,
    /// How often to say something at least
    pub heartbeat: Duration,
    /// How far ahead of this node's clock a proposed block's time may be
    pub drift_ms: u64,
    /// The largest snapshot that is taken in, in bytes
    pub snapshot_limit: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            pace: PaceOptions::default(),
            heartbeat: Duration::from_millis(500),
            drift_ms: 2_000,
            snapshot_limit: 16 << 30,
        }
    }
}

/// The time, as an input.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now {
    /// Since some moment before the validator started; never goes back
    pub elapsed: Duration,
    /// What a clock on the wall shows, in milliseconds since 1970
    pub unix_ms: u64,
}

/// Where a ledger is: what the next block builds on, and who decides about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tip {
    /// The newest committed height; 0 at genesis
    pub height: Height,
    /// Its block
    pub block: BlockId,
    /// The validators of the next height
    pub validators: Validators,
}

/// What comes in.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message of a node, whose identity the link vouches for
    Message(NodeId, Message),
    /// Bytes of a node that are no message
    Garbage(NodeId),
    /// Time has passed
    Tick,
    /// Whether there is something to be ordered
    Pending(bool),
    /// The answer to [`Output::Build`]: a block that this node made and that is valid;
    /// none if there was nothing to put into one after all
    Built(Height, u32, Option<Arc<Block>>),
    /// The answer to [`Output::Check`]: whether a block is valid, or why not
    Checked(BlockId, Result<(), String>),
    /// The answer to [`Output::Commit`]: the block is on disk, and this is where the
    /// ledger is now
    Committed(Tip),
    /// The answer to [`Output::Commit`] for a block that is not valid here
    Refused(BlockId, String),
    /// The answer to [`Output::Install`]: where the ledger is now, or why the snapshot
    /// that this node sent is not what it should be
    Installed(NodeId, Result<Tip, String>),
}

/// What goes out.
#[derive(Clone, Debug)]
pub enum Output {
    /// Append to the log
    Append(Record),
    /// Send, not before the records before it are durable if it promises something
    Send(To, Message),
    /// Make a block for this height, to be proposed in this round
    Build(Height, u32),
    /// Check a block, which somebody proposed
    Check(Arc<Block>),
    /// Apply a block and make it durable; the certificate is verified
    Commit(Arc<Block>, Arc<Certificate>),
    /// Answer a node's question from what is stored
    Serve(NodeId, Question),
    /// Put a snapshot in place of the state, if it proves itself. From whom, of which
    /// height, and its parts
    Install(NodeId, Height, Vec<bytes::Bytes>),
    /// Have this ordered
    Evidence(Evidence),
    /// Tell people
    Notify(Event),
}

/// To whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To {
    /// All other nodes
    All,
    /// One node
    Node(NodeId),
}

/// What a node asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Question {
    /// Decided blocks, from this height up to and including that
    Blocks(Height, Height),
    /// A part of the snapshot at a height
    Snapshot(Height, u32),
}

/// What people may want to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A round began
    Round(Height, u32, NodeId),
    /// A block was decided in a round, or came with its certificate
    Decided(Height, u32, BlockId),
    /// A node sends what it must not
    Misbehaves(NodeId, &'static str),
    /// This node lacks blocks, up to a height that some node claims
    Behind(Height),
    /// A proposed block is not valid
    Invalid(Height, BlockId, String),
}

impl Output {
    /// Whether it binds this validator: such a thing must not be said and forgotten.
    pub fn promises(&self) -> bool {
        match self {
            Output::Send(_, message) => matches!(
                message,
                Message::Vote(_) | Message::Proposal(_) | Message::Polka(_) | Message::Round(_) | Message::Seen(_)
            ),
            _ => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing to agree on at the next height
    Waiting,
    /// Agreeing
    Running,
    /// A block is decided, and on its way to the disk
    Deciding,
    /// A snapshot is on its way to the disk
    Installing,
}

/// A validator, or a node that follows them.
pub struct Validator {
    options: Options,
    tip: Tip,
    phase: Phase,
    /// What a failed snapshot leads back to
    before_installing: Phase,
    members: Members,
    core: State,
    hands: Hands,
    inbox: Inbox,
    catch_up: CatchUp,
    presence: Presence,
    strikes: Strikes,
    pending: bool,
    /// Whether a proposal of the height that is waited for has come
    called: bool,
    /// When which node was helped last
    helped: BTreeMap<NodeId, Duration>,
    next_heartbeat: Duration,
    fatal: Option<Fatal>,
}

impl Validator {
    /// A validator at `tip`. What its log holds brings it back to where it was; the
    /// outputs are to be handled like those of a step.
    pub fn new(
        ledger: LedgerId,
        node: NodeId,
        key: Arc<SecretKey>,
        options: Options,
        tip: Tip,
        log: Vec<Record>,
        now: Now,
    ) -> Result<(Validator, Vec<Output>), Fatal> {
        let members = Members::from(&tip.validators);
        let params = Params {
            address: Address(node),
            threshold_params: verify::thresholds(),
            value_payload: ValuePayload::ProposalAndParts,
            enabled: true,
        };
        let mut validator = Validator {
            options,
            phase: Phase::Waiting,
            before_installing: Phase::Waiting,
            members: members.clone(),
            // Nothing is ever queued in the core: what is early waits in the inbox,
            // where nobody can crowd out others.
            core: State::new(Context, tip.height, members, params, 1, 1),
            hands: Hands {
                trust: Trust { ledger },
                node,
                key,
                now,
                pace: Pace::new(options.pace),
                timers: Vec::new(),
                outputs: Vec::new(),
                todo: VecDeque::new(),
                candidates: Candidates::default(),
                pledges: Pledges::default(),
                watch: Watch::default(),
                replayed: None,
                wanted: None,
                decision: None,
                round_began: now.elapsed,
                bad_signature: false,
            },
            inbox: Inbox::default(),
            catch_up: CatchUp::new(node),
            presence: Presence::new(node, options.heartbeat * 4),
            strikes: Strikes::default(),
            pending: false,
            called: false,
            helped: BTreeMap::new(),
            next_heartbeat: now.elapsed,
            fatal: None,
            tip,
        };
        validator.prepare_height();
        validator.recover(log)?;
        let outputs = validator.finish()?;
        Ok((validator, outputs))
    }

    /// Takes an input. After an error there is nothing to be had but the same error.
    pub fn step(&mut self, now: Now, input: Input) -> Result<Vec<Output>, Fatal> {
        if let Some(fatal) = &self.fatal {
            return Err(fatal.clone());
        }
        self.hands.now = Now { elapsed: now.elapsed.max(self.hands.now.elapsed), ..now };
        let outcome = self.take(input).and_then(|()| self.finish());
        if let Err(fatal) = &outcome {
            self.fatal = Some(fatal.clone());
            self.hands.outputs.clear();
        }
        outcome
    }

    /// When the next tick is due.
    pub fn next_tick(&self) -> Duration {
        let timers = self.hands.timers.iter().filter(|_| self.phase == Phase::Running).map(|(_, at)| *at);
        let others = [Some(self.next_heartbeat), self.catch_up.deadline()];
        timers.chain(others.into_iter().flatten()).min().unwrap_or(self.next_heartbeat)
    }

    /// Where the ledger is, as far as this validator was told.
    pub fn tip(&self) -> &Tip {
        &self.tip
    }

    /// The height that is worked on or waited for.
    pub fn height(&self) -> Height {
        Height(self.tip.height.0 + 1)
    }

    /// The round of that height, if it is worked on.
    pub fn round(&self) -> Option<u32> {
        (self.phase == Phase::Running).then(|| self.core.round().as_u32()).flatten()
    }

    /// Whether those who are heard could decide.
    pub fn quorum(&self) -> Quorum {
        self.presence.quorum(&self.tip.validators, self.hands.now.elapsed)
    }

    /// Where the validator is in the protocol, for people.
    pub fn describe(&self) -> String {
        let driver = &self.core.driver;
        let timers: Vec<_> = self.hands.timers.iter().map(|(timeout, at)| format!("{timeout} at {at:?}")).collect();
        let votes = self.hands.watch.seen(self.height(), driver.round().as_u32().unwrap_or(0)).votes;
        let votes: Vec<_> = votes
            .iter()
            .map(|v| format!("{} {:?} {:?} r{}", v.message.voter, v.message.kind, v.message.value, v.message.round))
            .collect();
        format!(
            "{:?} {:?} height {} round {} step {:?} pending {} lacking {:?} timers {timers:?} votes {votes:#?}",
            self.tip.height,
            self.phase,
            self.height(),
            driver.round(),
            driver.step(),
            self.pending,
            self.hands.candidates.lacking().collect::<Vec<_>>()
        )
    }

    fn take(&mut self, input: Input) -> Result<(), Fatal> {
        match input {
            Input::Message(from, message) => self.receive(from, message)?,
            Input::Garbage(from) => self.strike(from, "bytes that are no message"),
            Input::Tick => self.tick()?,
            Input::Pending(pending) => self.pending = pending,
            Input::Built(height, round, block) => self.built(height, round, block)?,
            Input::Checked(block, outcome) => self.checked(block, outcome)?,
            Input::Committed(tip) => self.advance(tip),
            Input::Refused(block, reason) => {
                return Err(Fatal::Diverged { height: self.height(), block, reason });
            }
            Input::Installed(from, outcome) => self.installed(from, outcome),
        }
        Ok(())
    }

    /// What follows from every input, until nothing does.
    fn finish(&mut self) -> Result<Vec<Output>, Fatal> {
        loop {
            self.start_if_due()?;
            if let Some(input) = self.hands.todo.pop_front() {
                self.feed(input)?;
                continue;
            }
            self.ask_for_block();
            self.ask_for_checks();
            self.decide_if_certified()?;
            if self.hands.todo.is_empty() {
                break;
            }
        }
        self.catch_up_if_behind();
        Ok(std::mem::take(&mut self.hands.outputs))
    }

    /// Gives the core an input, and takes note of a decision.
    fn feed(&mut self, input: CoreInput<Context>) -> Result<(), Fatal> {
        let hands = &mut self.hands;
        core::process(&mut self.core, input, &mut |effect| hands.answer(effect))?;
        self.take_decision()
    }

    fn tick(&mut self) -> Result<(), Fatal> {
        let now = self.hands.now.elapsed;
        while let Some(place) = self.hands.timers.iter().position(|(_, at)| *at <= now) {
            if self.phase != Phase::Running {
                break;
            }
            let (timeout, _) = self.hands.timers.swap_remove(place);
            if timeout.kind == TimeoutKind::Rebroadcast {
                self.ask_peers();
            }
            self.feed(CoreInput::TimeoutElapsed(timeout))?;
        }
        if self.next_heartbeat <= now {
            self.next_heartbeat = now + self.options.heartbeat;
            self.say_status(To::All, false);
        }
        self.retry_early_blocks();
        self.catch_up.tick(now);
        Ok(())
    }

    fn strike(&mut self, node: NodeId, what: &'static str) {
        if self.strikes.strike(node, self.hands.now.elapsed) {
            self.hands.outputs.push(Output::Notify(Event::Misbehaves(node, what)));
        }
    }

    /// Whether a node decides about the next block.
    fn is_validator(&self, node: NodeId) -> bool {
        self.tip.validators.get(node).is_some()
    }
}

/// A timer that is running.
type Timer = (Timeout, Duration);
