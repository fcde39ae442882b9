//! From one height to the next: when a height begins, how its block is made and
//! judged, and how it ends.

use std::sync::Arc;

use arc_malachitebft_core_consensus::{Input as CoreInput, ProposedValue};
use arc_malachitebft_core_types::{CommitCertificate, Context as _, Round, Validity, ValueOrigin, VoteExtensionPolicy};
use polity_base::NodeId;

use super::{Event, Output, Phase, Tip, To, Validator};
use crate::block::{Block, Certificate};
use crate::consensus::context::{Address, Context, Members, Proposal};
use crate::consensus::error::Fatal;
use crate::consensus::message::{Message, Signed};
use crate::consensus::record::{Entry, Record};
use crate::types::{BlockId, Height};

impl Validator {
    /// Sets the table for the height after the tip.
    pub(super) fn prepare_height(&mut self) {
        let height = self.height();
        self.phase = Phase::Waiting;
        self.members = Members::from(&self.tip.validators);
        self.called = false;
        self.hands.timers.clear();
        self.hands.todo.clear();
        self.hands.wanted = None;
        self.hands.decision = None;
        self.hands.candidates.clear();
        self.hands.pledges.begin(height);
        self.hands.watch.begin(height, &self.tip.validators);
    }

    /// Begins the height if there is something to agree on, here or elsewhere.
    pub(super) fn start_if_due(&mut self) -> Result<(), Fatal> {
        if self.phase != Phase::Waiting || !self.is_due() {
            return Ok(());
        }
        self.start(false)?;
        for (from, message) in self.inbox.take(self.height()) {
            self.receive_now(from, message)?;
        }
        Ok(())
    }

    pub(super) fn start(&mut self, again: bool) -> Result<(), Fatal> {
        self.phase = Phase::Running;
        let (height, members) = (self.height(), self.members.clone());
        self.feed(CoreInput::StartHeight(height, members, again, None, VoteExtensionPolicy::Disabled))
    }

    /// Whether there is something to agree on: here, or for more than a third of the
    /// power, of whom one at least is honest, or for the proposer. One liar alone
    /// makes nobody turn rounds.
    fn is_due(&self) -> bool {
        if self.pending {
            return true;
        }
        let speakers = self.inbox.speakers(self.height());
        let power: u64 = speakers.filter_map(|node| self.tip.validators.get(node)).map(|v| v.power).sum();
        self.called || u128::from(power) * 3 > u128::from(self.tip.validators.total_power())
    }

    /// Whether somebody whose turn it is proposes something for the height that is
    /// waited for. One who claims so wrongly gets a strike.
    pub(super) fn is_called_by(&mut self, from: NodeId, proposal: &Signed<Proposal>) -> bool {
        let round = Round::new(proposal.message.round);
        let author = Context.select_proposer(&self.members, self.height(), round);
        let right = self.hands.trust.proposal_of(author, proposal);
        if !right {
            self.strike(from, "signatures that are not right");
        }
        right
    }

    /// Has a block made if it is this node's turn and there is something to put in it.
    pub(super) fn ask_for_block(&mut self) {
        let Some((height, round)) = self.hands.wanted else { return };
        let turn = self.phase == Phase::Running
            && (height, Round::new(round)) == (self.height(), self.core.round())
            && self.core.driver.step_is_propose();
        match (turn, self.hands.candidates.own()) {
            (false, _) => self.hands.wanted = None,
            // Made for an earlier round of the height: as good as another, and not
            // another.
            (true, Some(block)) => self.hands.propose(height, round, block),
            (true, None) if self.pending => {
                self.hands.wanted = None;
                self.hands.outputs.push(Output::Build(height, round));
            }
            (true, None) => {}
        }
    }

    /// A block of ours is ready.
    pub(super) fn built(&mut self, height: Height, round: u32, block: Option<Arc<Block>>) -> Result<(), Fatal> {
        if self.phase != Phase::Running || height != self.height() {
            return Ok(());
        }
        let turn = self.core.round() == Round::new(round);
        let Some(block) = block else {
            // Until there is something again.
            self.pending = false;
            self.hands.wanted = turn.then_some((height, round));
            return Ok(());
        };
        let id = block.id();
        self.hands.candidates.built(id, block.clone(), round, self.hands.node);
        self.hands.append(Record { height, entry: Entry::Block(block) });
        if turn {
            self.hands.propose(height, round, id);
        }
        Ok(())
    }

    /// Has blocks checked that were proposed and are here.
    pub(super) fn ask_for_checks(&mut self) {
        if self.phase == Phase::Running {
            let blocks = self.hands.candidates.unchecked();
            self.hands.outputs.extend(blocks.into_iter().map(Output::Check));
        }
    }

    /// It is known whether a block is valid.
    pub(super) fn checked(&mut self, id: BlockId, outcome: Result<(), String>) -> Result<(), Fatal> {
        if self.phase != Phase::Running {
            return Ok(());
        }
        let height = self.height();
        let Some(candidate) = self.hands.candidates.judge(id, outcome.is_ok()) else { return Ok(()) };
        let value = ProposedValue {
            height,
            round: Round::new(candidate.round),
            valid_round: candidate.locked_round,
            proposer: Address(candidate.proposer),
            value: id,
            validity: Validity::from_bool(outcome.is_ok()),
        };
        match (outcome, candidate.block.clone()) {
            (Ok(()), Some(block)) => self.hands.append(Record { height, entry: Entry::Block(block) }),
            (Ok(()), None) => return Ok(()),
            (Err(reason), _) => self.hands.outputs.push(Output::Notify(Event::Invalid(height, id, reason))),
        }
        self.feed(CoreInput::ProposedValue(value, ValueOrigin::Consensus))
    }

    /// Ends the height if the core has decided.
    pub(super) fn take_decision(&mut self) -> Result<(), Fatal> {
        let Some(decided) = self.hands.decision.take() else { return Ok(()) };
        if self.phase != Phase::Running {
            return Ok(());
        }
        let Some(block) = self.hands.candidates.block(&decided.value_id) else {
            return Err(Fatal::Core(format!("decided for {}, which is not here", decided.value_id)));
        };
        self.hands.pace.decided(self.hands.now.elapsed.saturating_sub(self.hands.round_began));
        let certificate = certificate(decided);
        self.commit(block, Arc::new(certificate));
        Ok(())
    }

    /// Ends the height if a peer has sent its block with a certificate.
    pub(super) fn decide_if_certified(&mut self) -> Result<(), Fatal> {
        if !matches!(self.phase, Phase::Waiting | Phase::Running) {
            return Ok(());
        }
        let Some((from, block, certificate)) = self.catch_up.take(self.height()) else { return Ok(()) };
        match self.is_certified(&block, &certificate) {
            Ok(()) => {
                self.hands.learn_precommits(&certificate);
                self.commit(block, certificate);
            }
            Err(what) => {
                self.catch_up.refuted(from);
                self.strike(from, what);
            }
        }
        Ok(())
    }

    fn is_certified(&self, block: &Block, certificate: &Certificate) -> Result<(), &'static str> {
        let header = block.header();
        if header.height != self.height() || header.parent != self.tip.block {
            return Err("a decided block that is not the next");
        }
        if certificate.height != header.height || certificate.block != block.id() {
            return Err("a certificate of another block");
        }
        if !block.is_whole() {
            return Err("a block that is not what its header says");
        }
        match self.hands.trust.certificate(certificate, &self.tip.validators) {
            true => Ok(()),
            false => Err("a certificate that does not hold"),
        }
    }

    fn commit(&mut self, block: Arc<Block>, certificate: Arc<Certificate>) {
        self.phase = Phase::Deciding;
        let height = self.height();
        self.hands.timers.clear();
        self.hands.todo.clear();
        self.hands.outputs.push(Output::Notify(Event::Decided(height, certificate.round, block.id())));
        self.hands.outputs.push(Output::Commit(block, certificate));
        if self.is_validator(self.hands.node) {
            let seen = self.hands.watch.seen(height, 0);
            self.hands.outputs.push(Output::Send(To::All, Message::Seen(seen)));
        }
    }

    /// The ledger has moved on.
    pub(super) fn advance(&mut self, tip: Tip) {
        if tip.height <= self.tip.height {
            return;
        }
        self.tip = tip;
        self.prepare_height();
        self.inbox.forget_before(self.height());
        self.catch_up.forget_before(self.height());
        for (from, proposal) in self.inbox.proposals(self.height()) {
            self.called |= self.is_called_by(from, &proposal);
        }
    }
}

/// A decision of the core in the ledger's own form.
fn certificate(decided: CommitCertificate<Context>) -> Certificate {
    let signatures = decided.commit_signatures.into_iter();
    let mut signatures: Vec<(NodeId, _)> = signatures.map(|s| (s.address.0, s.signature)).collect();
    signatures.sort_by_key(|(node, _)| *node);
    Certificate {
        height: decided.height,
        round: decided.round.as_u32().unwrap_or_default(),
        block: decided.value_id,
        signatures,
    }
}
