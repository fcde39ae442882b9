//! Messages: what is for now, what is for later, and what is long past.

use std::sync::Arc;

use arc_malachitebft_core_consensus::Input as CoreInput;
use polity_base::NodeId;

use super::{Output, Phase, Question, Validator};
use crate::block::Block;
use crate::consensus::error::Fatal;
use crate::consensus::message::{Message, Seen};
use crate::types::Height;

impl Validator {
    pub(super) fn receive(&mut self, from: NodeId, message: Message) -> Result<(), Fatal> {
        let now = self.hands.now.elapsed;
        if from == self.hands.node || self.strikes.ignores(from, now) {
            return Ok(());
        }
        self.presence.heard(from, now);
        match message {
            Message::Vote(ref vote) => self.route(from, vote.message.height, message),
            Message::Proposal(ref proposal) => self.route(from, proposal.message.height, message),
            Message::Polka(ref polka) => self.route(from, polka.height, message),
            Message::Round(ref votes) => self.route(from, votes.height, message),
            Message::Block(ref block) => self.route(from, block.header().height, message),
            Message::Seen(seen) => self.receive_seen(from, seen),
            Message::Status(status) => {
                self.receive_status(from, status);
                Ok(())
            }
            Message::Certified(block, certificate) => {
                self.catch_up.offer(from, block, certificate, self.height(), now);
                Ok(())
            }
            Message::Pruned(_, snapshot) => {
                self.receive_pruned(from, snapshot);
                Ok(())
            }
            Message::Snapshot(part) => {
                self.receive_part(from, part);
                Ok(())
            }
            Message::Fetch(first, last) => {
                self.hands.outputs.push(Output::Serve(from, Question::Blocks(first, last)));
                Ok(())
            }
            Message::FetchSnapshot(height, part) => {
                self.hands.outputs.push(Output::Serve(from, Question::Snapshot(height, part)));
                Ok(())
            }
            // For whoever collects them; they do not come here.
            Message::Transactions(_) | Message::Evidence(_) => Ok(()),
        }
    }

    /// Sends a message of the protocol to where it belongs by its height.
    fn route(&mut self, from: NodeId, height: Height, message: Message) -> Result<(), Fatal> {
        let current = self.height();
        if height > current {
            // Whoever is there has decided what comes before.
            self.catch_up.claims(from, Height(height.0 - 1));
        }
        match self.phase {
            _ if height < current => self.receive_late(from, message),
            _ if height.0 == current.0 + 1 => self.inbox.hold(from, height, message),
            _ if height > current => {}
            Phase::Running => return self.receive_now(from, message),
            Phase::Waiting => {
                let right = match &message {
                    Message::Proposal(proposal) => {
                        let right = self.is_called_by(from, proposal);
                        self.called |= right;
                        right
                    }
                    _ => true,
                };
                if right {
                    self.inbox.hold(from, height, message);
                }
            }
            Phase::Deciding | Phase::Installing => self.receive_late(from, message),
        }
        Ok(())
    }

    /// A message of the height that is worked on.
    pub(super) fn receive_now(&mut self, from: NodeId, message: Message) -> Result<(), Fatal> {
        if self.phase != Phase::Running {
            return Ok(());
        }
        let input = match message {
            Message::Vote(vote) => CoreInput::Vote(vote.into_core()),
            Message::Proposal(proposal) => CoreInput::Proposal(proposal.into_core()),
            Message::Polka(polka) => CoreInput::PolkaCertificate(polka.into_core()),
            Message::Round(votes) => CoreInput::RoundCertificate(votes.into_core()),
            Message::Block(block) => {
                self.receive_block(from, block);
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.hands.bad_signature = false;
        self.feed(input)?;
        if std::mem::take(&mut self.hands.bad_signature) {
            self.strike(from, "signatures that are not right");
        }
        Ok(())
    }

    /// A block that somebody proposed, or a peer's copy of it.
    fn receive_block(&mut self, from: NodeId, block: Arc<Block>) {
        if !self.hands.candidates.has_use_for(&block.id()) {
            return;
        }
        if !block.is_whole() {
            return self.strike(from, "a block that is not what its header says");
        }
        // Not invalid, just early: for a clock that is slow, or until it is so late.
        match block.header().time_ms > self.hands.now.unix_ms.saturating_add(self.options.drift_ms) {
            true => self.hands.candidates.hold_early(from, block),
            false => self.hands.candidates.offer(from, block),
        }
    }

    /// Looks again at blocks that came too early.
    pub(super) fn retry_early_blocks(&mut self) {
        for (from, block) in self.hands.candidates.take_early() {
            self.receive_block(from, block);
        }
    }

    /// A message of a height that is decided: nothing can follow from it but evidence.
    fn receive_late(&mut self, from: NodeId, message: Message) {
        let (height, known) = match &message {
            Message::Vote(vote) => (vote.message.height, self.hands.watch.knows_vote(vote)),
            Message::Proposal(proposal) => (proposal.message.height, self.hands.watch.knows_proposal(proposal)),
            _ => return,
        };
        let Some(key) = (!known).then(|| self.hands.watch.key_of(&message)).flatten() else { return };
        let (right, evidence) = match &message {
            Message::Vote(vote) if self.hands.trust.vote(&vote.message, &vote.signature, &key) => {
                (true, self.hands.watch.vote(vote))
            }
            Message::Proposal(p) if self.hands.trust.proposal(&p.message, &p.signature, &key) => {
                (true, self.hands.watch.proposal(p))
            }
            _ => (false, None),
        };
        self.hands.outputs.extend(evidence.map(Output::Evidence));
        if !right {
            self.strike(from, "signatures that are not right");
        }
        if height < self.tip.height {
            self.tell_where(from);
        }
    }

    /// What another has seen at a height.
    fn receive_seen(&mut self, from: NodeId, seen: Seen) -> Result<(), Fatal> {
        let height = seen.height;
        for proposal in seen.proposals.into_iter().filter(|proposal| proposal.message.height == height) {
            self.route(from, height, Message::Proposal(proposal))?;
        }
        for vote in seen.votes.into_iter().filter(|vote| vote.message.height == height) {
            if self.strikes.ignores(from, self.hands.now.elapsed) {
                break;
            }
            self.route(from, height, Message::Vote(vote))?;
        }
        Ok(())
    }
}
