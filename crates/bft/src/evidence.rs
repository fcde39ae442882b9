//! Proof that somebody signed two different things.

use arc_malachitebft_core_types::VoteType;
use polity_base::NodeId;
use serde::{Deserialize, Serialize};

use crate::consensus::context::{Proposal, Vote};
use crate::consensus::message::Signed;
use crate::types::Height;

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

    /// Who lied.
    pub fn validator(&self) -> NodeId {
        self.key().3
    }

    /// Whether it proves the same as another.
    pub fn is_about_the_same(&self, other: &Evidence) -> bool {
        self.key() == other.key()
    }
}
