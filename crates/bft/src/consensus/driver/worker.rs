//! The thread of the ledger: it makes, checks and commits blocks, one at a time, and
//! answers peers' questions from what is stored.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use bytes::Bytes;
use polity_base::NodeId;
use polity_base::seams::ClockSource;
use tokio::sync::mpsc::UnboundedSender;

use super::Options;
use super::intake::Intake;
use super::machine::Event;
use crate::block::{Block, Certificate};
use crate::consensus::application::{Application, CommitError, Ingredients};
use crate::consensus::error::Fatal;
use crate::consensus::message::{Message, SnapshotPart};
use crate::consensus::validator::{Input, Question, To};
use crate::evidence::Evidence;
use crate::types::Height;

/// What is asked of a ledger.
pub enum Task {
    Build(Height, u32),
    Check(Arc<Block>),
    Commit(Arc<Block>, Arc<Certificate>),
    Install(NodeId, Height, Vec<Bytes>),
    Serve(NodeId, Question),
    Evidence(Vec<Evidence>),
}

/// So many bytes of blocks are sent in answer to one question, about.
const ANSWER: usize = 8 << 20;

/// Starts the thread; where to put tasks. It ends when nobody can.
pub fn start<A: Application>(
    node: NodeId,
    application: A,
    intake: Arc<Intake<A::Outcome>>,
    events: UnboundedSender<Event>,
    clock: Arc<dyn ClockSource>,
    options: Options,
) -> std::io::Result<Sender<Task>> {
    let (sender, tasks) = channel();
    let worker = Worker { node, application, intake, events, clock, options };
    std::thread::Builder::new().name(format!("ledger-{node}")).spawn(move || worker.run(tasks))?;
    Ok(sender)
}

struct Worker<A: Application> {
    node: NodeId,
    application: A,
    intake: Arc<Intake<A::Outcome>>,
    events: UnboundedSender<Event>,
    clock: Arc<dyn ClockSource>,
    options: Options,
}

impl<A: Application> Worker<A> {
    fn run(mut self, tasks: Receiver<Task>) {
        for task in tasks {
            let outcome = match task {
                Task::Build(height, round) => self.build(height, round),
                Task::Check(block) => {
                    let outcome = self.application.check(&block, &|id| self.intake.knows(id));
                    self.answer(Input::Checked(block.id(), outcome));
                    Ok(())
                }
                Task::Commit(block, certificate) => self.commit(&block, &certificate),
                Task::Install(from, height, parts) => self.install(from, height, parts),
                Task::Serve(node, question) => self.serve(node, question),
                Task::Evidence(evidence) => {
                    self.accuse(evidence);
                    Ok(())
                }
            };
            if let Err(CommitError::Storage(reason)) = outcome {
                let _ = self.events.send(Event::Broken(Fatal::Storage(reason)));
                return;
            }
        }
    }

    fn answer(&self, input: Input) {
        // A machine that has stopped needs no answers.
        let _ = self.events.send(Event::Answer(input));
    }

    fn say(&self, to: To, message: Message) {
        let _ = self.events.send(Event::Say(to, message));
    }

    fn build(&mut self, height: Height, round: u32) -> Result<(), CommitError> {
        let (transactions, evidence) = self.intake.first(self.options.block_count, self.options.block_bytes);
        // A copy may arrive when the transaction is ordered already.
        let (transactions, late): (Vec<_>, Vec<_>) =
            transactions.into_iter().partition(|transaction| self.application.admits(transaction));
        self.intake.forget(&late);
        let unix_ms = (self.clock.read().midpoint().unix_micros() / 1000).unsigned_abs();
        let ingredients = Ingredients { proposer: self.node, unix_ms, transactions, evidence };
        let block = match height == Height(self.application.tip().height.0 + 1) {
            true => self.application.build(ingredients)?,
            // It was decided elsewhere meanwhile.
            false => None,
        };
        self.answer(Input::Built(height, round, block));
        Ok(())
    }

    fn commit(&mut self, block: &Arc<Block>, certificate: &Arc<Certificate>) -> Result<(), CommitError> {
        match self.application.commit(block, certificate) {
            Ok(committed) => {
                let application = &self.application;
                let keep = |evidence: &Evidence| application.admits_evidence(evidence);
                let pending = self.intake.settle(committed.tip.height, committed.outcomes, keep);
                self.intake.pending(pending);
                self.answer(Input::Committed(committed.tip));
                Ok(())
            }
            Err(CommitError::Invalid(reason)) => {
                self.answer(Input::Refused(block.id(), reason));
                Ok(())
            }
            Err(broken) => Err(broken),
        }
    }

    fn install(&mut self, from: NodeId, height: Height, parts: Vec<Bytes>) -> Result<(), CommitError> {
        let outcome = match self.application.install(height, parts) {
            Ok(tip) => {
                let application = &self.application;
                let pending = self.intake.sweep(|transaction| application.admits(transaction));
                self.intake.pending(pending);
                Ok(tip)
            }
            Err(CommitError::Invalid(reason)) => Err(reason),
            Err(broken) => return Err(broken),
        };
        self.answer(Input::Installed(from, outcome));
        Ok(())
    }

    fn accuse(&mut self, evidence: Vec<Evidence>) {
        let held = evidence.into_iter().filter(|evidence| self.application.admits_evidence(evidence));
        let new: Vec<Evidence> = held.filter(|evidence| self.intake.accuse(evidence.clone())).collect();
        if !new.is_empty() {
            self.say(To::All, Message::Evidence(new));
            self.intake.pending(true);
        }
    }

    fn serve(&mut self, node: NodeId, question: Question) -> Result<(), CommitError> {
        match question {
            Question::Blocks(first, _) if first < self.application.oldest_block() => {
                let pruned = Message::Pruned(self.application.oldest_block(), self.application.snapshot());
                self.say(To::Node(node), pruned);
            }
            Question::Blocks(first, last) => {
                let mut sent = 0;
                for height in first.0..=last.0.min(first.0.saturating_add(31)) {
                    let Some((block, certificate)) = self.application.block(Height(height))? else { break };
                    sent += block.transactions.iter().map(|transaction| transaction.size()).sum::<usize>();
                    self.say(To::Node(node), Message::Certified(block, certificate));
                    if sent > ANSWER {
                        break;
                    }
                }
            }
            Question::Snapshot(height, index) => {
                if let Some((bytes, count)) = self.application.snapshot_part(height, index)? {
                    self.say(To::Node(node), Message::Snapshot(SnapshotPart { height, index, count, bytes }));
                }
            }
        }
        Ok(())
    }
}
