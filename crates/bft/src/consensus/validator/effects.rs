//! What the core asks for, and how it is done.
//!
//! Signing and verifying happen here and now; everything else becomes an output.
//! [`Hands`] is what of a validator the core's coroutine may touch while it runs.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arc_malachitebft_core_consensus::{
    ConsensusMsg, Effect, Input as CoreInput, LocallyProposedValue, MisbehaviorEvidence, Resumable, Resume,
};
use arc_malachitebft_core_types::{CommitCertificate, NilOrVal, Round, SignedMessage, Timeout, VoteType};
use polity_base::NodeId;
use polity_base::planted::{Bug, planted};

use super::{Event, Now, Output, Timer, To};
use crate::block::Certificate;
use crate::consensus::candidates::Candidates;
use crate::consensus::context::{Address, Context, Proposal, Vote};
use crate::consensus::error::Fatal;
use crate::consensus::message::{Message, Signed};
use crate::consensus::pace::Pace;
use crate::consensus::pledges::Pledges;
use crate::consensus::record::{Entry, Record};
use crate::consensus::verify::Trust;
use crate::consensus::watch::Watch;
use crate::signing::SecretKey;
use crate::types::{BlockId, Height, PublicKey, Signature};

/// What the core's coroutine may touch.
pub(super) struct Hands {
    pub trust: Trust,
    pub node: NodeId,
    pub key: Arc<SecretKey>,
    pub now: Now,
    pub pace: Pace,
    pub timers: Vec<Timer>,
    pub outputs: Vec<Output>,
    /// Inputs for the core that follow from this one
    pub todo: VecDeque<CoreInput<Context>>,
    pub candidates: Candidates,
    pub pledges: Pledges,
    pub watch: Watch,
    /// While the log is taken in: the records it holds, as bytes
    pub replayed: Option<BTreeSet<Vec<u8>>>,
    /// For which height and round the core wants a block of ours
    pub wanted: Option<(Height, u32)>,
    /// What the core has decided
    pub decision: Option<CommitCertificate<Context>>,
    /// When the round that is worked on began
    pub round_began: Duration,
    /// Whether a signature did not verify since this was last looked at
    pub bad_signature: bool,
}

impl Hands {
    /// Does what an effect asks for.
    pub fn answer(&mut self, effect: Effect<Context>) -> Result<Resume<Context>, Fatal> {
        use Effect as E;
        match effect {
            E::SignVote(vote, r) => return Ok(r.resume_with(self.sign_vote(vote)?)),
            E::SignProposal(proposal, r) => return Ok(r.resume_with(self.sign_proposal(proposal)?)),
            E::VerifySignature(message, key, r) => return Ok(r.resume_with(self.verify(message, &key))),
            E::VerifyCommitCertificate(certificate, members, _, r) => {
                let known = |vote: &Vote, signature: &Signature| self.watch.has(vote, signature);
                return Ok(r.resume_with(self.trust.commit(&certificate, &members, &known)));
            }
            E::VerifyPolkaCertificate(polka, members, _, r) => {
                let known = |vote: &Vote, signature: &Signature| self.watch.has(vote, signature);
                let outcome = self.trust.polka(&polka, &members, &known);
                self.learn(outcome.is_ok(), polka.votes(&Context));
                return Ok(r.resume_with(outcome));
            }
            E::VerifyRoundCertificate(certificate, members, _, r) => {
                let known = |vote: &Vote, signature: &Signature| self.watch.has(vote, signature);
                let outcome = self.trust.round(&certificate, &members, &known);
                self.learn(outcome.is_ok(), certificate.votes(&Context));
                return Ok(r.resume_with(outcome));
            }
            E::WalAppend(height, input, _) => self.remember(height, input)?,
            E::CancelAllTimeouts(_) => self.timers.clear(),
            E::CancelTimeout(timeout, _) => self.timers.retain(|(t, _)| *t != timeout),
            E::ScheduleTimeout(timeout, _) => self.schedule(timeout),
            E::StartRound(height, round, proposer, _, _) => self.start_round(height, round, proposer),
            E::PublishConsensusMsg(message, _) => self.publish(message.into()),
            E::PublishLivenessMsg(message, _) => self.publish(message.into()),
            E::RepublishVote(vote, _) => self.publish(vote.into()),
            E::RepublishRoundCertificate(votes, _) => self.publish(Message::Round(votes.into())),
            E::RestreamProposal(_, _, _, _, block, _) => self.publish_block(&block),
            E::GetValue(height, round, _, _) => self.wanted = round.as_u32().map(|round| (height, round)),
            E::Decide(certificate, _, _) => self.decision = Some(certificate),
            E::Finalize(_, _, evidence, _) => self.report(evidence),
            // Decided blocks of peers do not go through the core, and votes have no
            // extensions.
            E::CertVerifiedSyncValue(..)
            | E::CertRejectedSyncValue(..)
            | E::VerifyExtendedCommitCertificate(..)
            | E::ExtendVote(..)
            | E::VerifyVoteExtension(..) => {
                return Err(Fatal::Core(format!("asks for what was never begun: {effect:?}")));
            }
        }
        Ok(Resume::Continue)
    }

    fn schedule(&mut self, timeout: Timeout) {
        self.timers.retain(|(other, _)| *other != timeout);
        self.timers.push((timeout, self.now.elapsed + self.pace.wait(timeout.kind, timeout.round)));
    }

    fn start_round(&mut self, height: Height, round: Round, proposer: Address) {
        self.round_began = self.now.elapsed;
        let round = round.as_u32().unwrap_or_default();
        self.outputs.push(Output::Notify(Event::Round(height, round, proposer.0)));
    }

    /// Sends to all. A proposal of ours brings its block along.
    fn publish(&mut self, message: Message) {
        let block = match &message {
            Message::Proposal(proposal) if proposal.message.proposer.0 == self.node => Some(proposal.message.block),
            _ => None,
        };
        self.outputs.push(Output::Send(To::All, message));
        if let Some(block) = block {
            self.publish_block(&block);
        }
    }

    fn publish_block(&mut self, block: &BlockId) {
        if let Some(block) = self.candidates.block(block) {
            self.outputs.push(Output::Send(To::All, Message::Block(block)));
        }
    }

    fn sign(&self, bytes: &[u8]) -> Result<Signature, Fatal> {
        self.key.sign(bytes).map_err(|e| Fatal::Sign(e.to_string()))
    }

    fn sign_vote(&mut self, mut vote: Vote) -> Result<SignedMessage<Context, Vote>, Fatal> {
        if planted(Bug::SkipLockRule) && vote.kind == VoteType::Prevote {
            vote.value = self.candidates.proposed_in(vote.round).map_or(NilOrVal::Nil, NilOrVal::Val);
        }
        self.pledges.vote(&vote)?;
        let signature = self.sign(&vote.sign_bytes(&self.trust.ledger))?;
        // What was just signed need not be verified.
        self.watch.vote(&Signed { message: vote.clone(), signature: signature.clone() });
        Ok(SignedMessage::new(vote, signature))
    }

    fn sign_proposal(&mut self, proposal: Proposal) -> Result<SignedMessage<Context, Proposal>, Fatal> {
        self.pledges.proposal(&proposal)?;
        let signature = self.sign(&proposal.sign_bytes(&self.trust.ledger))?;
        Ok(SignedMessage::new(proposal, signature))
    }

    fn verify(&mut self, message: SignedMessage<Context, ConsensusMsg<Context>>, key: &PublicKey) -> bool {
        let SignedMessage { message, signature } = message;
        let valid = match &message {
            ConsensusMsg::Vote(vote) => self.watch.has(vote, &signature) || self.trust.vote(vote, &signature, key),
            ConsensusMsg::Proposal(proposal) => self.trust.proposal(proposal, &signature, key),
        };
        self.bad_signature |= !valid;
        if valid {
            let evidence = match message {
                ConsensusMsg::Vote(message) => self.watch.vote(&Signed { message, signature }),
                ConsensusMsg::Proposal(message) => self.watch.proposal(&Signed { message, signature }),
            };
            self.outputs.extend(evidence.map(Output::Evidence));
        }
        valid
    }

    /// Takes note of the votes of a certificate that was just looked at.
    fn learn(&mut self, valid: bool, votes: impl Iterator<Item = SignedMessage<Context, Vote>>) {
        self.bad_signature |= !valid;
        if valid {
            for vote in votes {
                self.outputs.extend(self.watch.vote(&vote.into()).map(Output::Evidence));
            }
        }
    }

    /// Takes note of the precommits of a certificate that holds.
    pub fn learn_precommits(&mut self, certificate: &Certificate) {
        for (node, signature) in &certificate.signatures {
            let message = Vote {
                height: certificate.height,
                round: certificate.round,
                kind: VoteType::Precommit,
                value: NilOrVal::Val(certificate.block),
                voter: Address(*node),
            };
            let vote = Signed { message, signature: signature.clone() };
            self.outputs.extend(self.watch.vote(&vote).map(Output::Evidence));
        }
    }

    /// Evidence that the core found. Most of it the watch has found already.
    fn report(&mut self, evidence: MisbehaviorEvidence<Context>) {
        for (_, pairs) in evidence.votes {
            for (first, second) in pairs {
                let found = [self.watch.vote(&first.into()), self.watch.vote(&second.into())];
                self.outputs.extend(found.into_iter().flatten().map(Output::Evidence));
            }
        }
        for (_, pairs) in evidence.proposals {
            for (first, second) in pairs {
                let found = [self.watch.proposal(&first.into()), self.watch.proposal(&second.into())];
                self.outputs.extend(found.into_iter().flatten().map(Output::Evidence));
            }
        }
    }

    /// Puts an input of the core into the log, unless it comes from there.
    fn remember(&mut self, height: Height, input: CoreInput<Context>) -> Result<(), Fatal> {
        let record = Record::of(height, input)?;
        if let Entry::Proposal(proposal) = &record.entry {
            self.candidates.proposed(&proposal.message);
        }
        if let Entry::Polka(polka) = &record.entry {
            self.candidates.prevoted(polka.block, polka.round, self.node);
        }
        self.append(record);
        Ok(())
    }

    /// Puts a record into the log, unless it comes from there.
    pub fn append(&mut self, record: Record) {
        let known = self.replayed.as_ref().is_some_and(|known| known.contains(&record.encode()));
        if !known {
            self.outputs.push(Output::Append(record));
        }
    }

    /// Proposes a block that is valid.
    pub fn propose(&mut self, height: Height, round: u32, block: BlockId) {
        self.wanted = None;
        let value = LocallyProposedValue::new(height, Round::new(round), block);
        self.todo.push_back(CoreInput::Propose(value));
    }
}
