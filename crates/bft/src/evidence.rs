//! Proof that somebody signed two different things.

use arc_malachitebft_core_types::VoteType;
use polity_base::NodeId;
use serde::{Deserialize, Serialize};

use crate::consensus::context::{Proposal, Vote};
use crate::consensus::message::Signed;
use crate::types::{Height, LedgerId, PublicKey};

/// Two votes or two proposals of one validator that contradict each other.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Evidence {
    /// Two votes of one kind, height and round
    Votes(Box<(Signed<Vote>, Signed<Vote>)>),
    /// Two proposals of one height and round
    Proposals(Box<(Signed<Proposal>, Signed<Proposal>)>),
}

/// What evidence is about: height, round, kind, and who.
pub type Accusation = (Height, u32, u8, NodeId);

impl Evidence {
    /// Of two votes.
    pub fn votes(first: Signed<Vote>, second: Signed<Vote>) -> Evidence {
        Evidence::Votes(Box::new((first, second)))
    }

    /// Of two proposals.
    pub fn proposals(first: Signed<Proposal>, second: Signed<Proposal>) -> Evidence {
        Evidence::Proposals(Box::new((first, second)))
    }

    /// What it is about.
    pub fn key(&self) -> Accusation {
        match self {
            Evidence::Votes(pair) => {
                let Vote { height, round, kind, voter, .. } = pair.0.message;
                (height, round, if kind == VoteType::Prevote { 0 } else { 1 }, voter.0)
            }
            Evidence::Proposals(pair) => {
                let Proposal { height, round, proposer, .. } = pair.0.message;
                (height, round, 2, proposer.0)
            }
        }
    }

    /// Whether it proves what it says: the two contradict each other, and both are
    /// signed with the key that the validator had at their height.
    pub fn holds(&self, ledger: &LedgerId, key: &PublicKey) -> bool {
        match self {
            Evidence::Votes(pair) => {
                let (first, second) = &**pair;
                let what = |vote: &Vote| (vote.height, vote.round, vote.kind, vote.voter);
                let right = |vote: &Signed<Vote>| key.verify(&vote.message.sign_bytes(ledger), &vote.signature);
                what(&first.message) == what(&second.message)
                    && first.message.value != second.message.value
                    && right(first)
                    && right(second)
            }
            Evidence::Proposals(pair) => {
                let (first, second) = &**pair;
                let what = |proposal: &Proposal| (proposal.height, proposal.round, proposal.proposer);
                let right = |p: &Signed<Proposal>| key.verify(&p.message.sign_bytes(ledger), &p.signature);
                what(&first.message) == what(&second.message)
                    && first.message != second.message
                    && right(first)
                    && right(second)
            }
        }
    }

    /// Who lied.
    pub fn validator(&self) -> NodeId {
        self.key().3
    }

    /// Whether it proves the same as another.
    pub fn is_about_the_same(&self, other: &Evidence) -> bool {
        self.key() == other.key()
    }
}
