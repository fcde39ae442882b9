//! Every signature and certificate that the core asks about.

use std::collections::BTreeSet;

use arc_malachitebft_core_types as malachite;
use arc_malachitebft_core_types::{
    CertificateError, CommitCertificate, Context as _, NilOrVal, PolkaCertificate, RoundCertificate,
    RoundCertificateType, ThresholdParam, ThresholdParams, Validator as _, ValidatorSet as _, VoteType,
};
use polity_base::planted::{Bug, planted};

use super::context::{Address, Context, Member, Members, Proposal, Vote};
use super::message::Signed;
use crate::block::Certificate;
use crate::types::{LedgerId, PublicKey, Signature, Validators};

/// How much power decides: more than two thirds, and more than one third to know that
/// somebody honest is among them.
pub fn thresholds() -> ThresholdParams {
    match planted(Bug::AcceptTwoF) {
        true => ThresholdParams { quorum: ThresholdParam::new(3, 7), ..ThresholdParams::default() },
        false => ThresholdParams::default(),
    }
}

/// What is verified, for one ledger.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    /// The ledger that signatures must be for
    pub ledger: LedgerId,
}

type Outcome = Result<(), CertificateError<Context>>;

/// Whether a vote with its signature was verified before.
pub type Known<'a> = &'a dyn Fn(&Vote, &Signature) -> bool;

impl Trust {
    /// Whether a vote is signed by a key.
    pub fn vote(&self, vote: &Vote, signature: &Signature, key: &PublicKey) -> bool {
        key.verify(&vote.sign_bytes(&self.ledger), signature)
    }

    /// Whether a proposal is signed by a key.
    pub fn proposal(&self, proposal: &Proposal, signature: &Signature, key: &PublicKey) -> bool {
        key.verify(&proposal.sign_bytes(&self.ledger), signature)
    }

    /// Whether a proposal is of this member, and signed by it.
    pub fn proposal_of(&self, member: &Member, proposal: &Signed<Proposal>) -> bool {
        proposal.message.proposer == *member.address()
            && self.proposal(&proposal.message, &proposal.signature, member.public_key())
    }

    /// Whether a decided block's certificate holds.
    pub fn certificate(&self, certificate: &Certificate, validators: &Validators) -> bool {
        let members = Members::from(validators);
        let signatures = certificate.signatures.iter();
        let certificate = CommitCertificate {
            height: certificate.height,
            round: malachite::Round::new(certificate.round),
            value_id: certificate.block,
            commit_signatures: signatures
                .map(|(node, signature)| malachite::CommitSignature::new(Address(*node), signature.clone()))
                .collect(),
        };
        self.commit(&certificate, &members, &|_, _| false).is_ok()
    }

    /// Whether precommits of a quorum are for one block.
    pub fn commit(&self, certificate: &CommitCertificate<Context>, members: &Members, known: Known) -> Outcome {
        let CommitCertificate { height, round, value_id, .. } = certificate;
        let mut tally = Tally::new(self, members, known);
        for signed in &certificate.commit_signatures {
            let vote = Context.new_precommit(*height, *round, NilOrVal::Val(*value_id), signed.address);
            let wrong = || CertificateError::InvalidCommitSignature(signed.clone());
            tally.count(&vote, &signed.signature, wrong)?;
        }
        tally.reach(thresholds().quorum)
    }

    /// Whether prevotes of a quorum are for one block.
    pub fn polka(&self, polka: &PolkaCertificate<Context>, members: &Members, known: Known) -> Outcome {
        let PolkaCertificate { height, round, value_id, .. } = polka;
        let mut tally = Tally::new(self, members, known);
        for signed in &polka.polka_signatures {
            let vote = Context.new_prevote(*height, *round, NilOrVal::Val(*value_id), signed.address);
            let wrong = || CertificateError::InvalidPolkaSignature(signed.clone());
            tally.count(&vote, &signed.signature, wrong)?;
        }
        tally.reach(thresholds().quorum)
    }

    /// Whether votes justify entering a round.
    pub fn round(&self, certificate: &RoundCertificate<Context>, members: &Members, known: Known) -> Outcome {
        let mut tally = Tally::new(self, members, known);
        let precommits_only = certificate.cert_type == RoundCertificateType::Precommit;
        let votes = certificate.votes(&Context);
        for (signed, vote) in certificate.round_signatures.iter().zip(votes) {
            if precommits_only && vote.kind != VoteType::Precommit {
                return Err(CertificateError::InvalidVoteType(signed.address));
            }
            let wrong = || CertificateError::InvalidRoundSignature(signed.clone());
            tally.count(&vote, &vote.signature, wrong)?;
        }
        tally.reach(if precommits_only { thresholds().quorum } else { thresholds().honest })
    }
}

/// Counts the power behind a certificate, each member once.
struct Tally<'a> {
    trust: &'a Trust,
    members: &'a Members,
    known: Known<'a>,
    counted: BTreeSet<Address>,
    power: u64,
}

impl<'a> Tally<'a> {
    fn new(trust: &'a Trust, members: &'a Members, known: Known<'a>) -> Tally<'a> {
        Tally { trust, members, known, counted: BTreeSet::new(), power: 0 }
    }

    fn count(
        &mut self,
        vote: &Vote,
        signature: &Signature,
        wrong: impl FnOnce() -> CertificateError<Context>,
    ) -> Outcome {
        let Some(member) = self.members.get_by_address(&vote.voter) else {
            return Err(CertificateError::UnknownValidator(vote.voter));
        };
        if !self.counted.insert(vote.voter) {
            return Err(CertificateError::DuplicateVote(vote.voter));
        }
        if !(self.known)(vote, signature) && !self.trust.vote(vote, signature, member.public_key()) {
            return Err(wrong());
        }
        let added = member.voting_power();
        let overflow = CertificateError::VotingPowerOverflow { signed: self.power, added };
        self.power = self.power.checked_add(added).ok_or(overflow)?;
        Ok(())
    }

    fn reach(&self, threshold: ThresholdParam) -> Outcome {
        let total = self.members.total_voting_power();
        match threshold.is_met(self.power, total) {
            true => Ok(()),
            false => Err(CertificateError::NotEnoughVotingPower {
                signed: self.power,
                total,
                expected: threshold.min_expected(total),
            }),
        }
    }
}
