//! Votes in the name of others, whose keys it does not have, makes certificates of such
//! votes, and accuses others by them.

use arc_malachitebft_core_types::{NilOrVal, VoteType};

use super::{Adversary, Means, Sends, Sent, To, unchanged};
use crate::consensus::context::{Address, Vote};
use crate::consensus::message::{Message, Polka};
use crate::evidence::Evidence;
use crate::types::{BlockId, Height};

/// The adversary.
#[derive(Default)]
pub struct Forger {
    /// Where the others are
    at: Option<(Height, u32)>,
    block: BlockId,
}

impl Adversary for Forger {
    fn send(&mut self, _: &mut Means, to: To, message: Message) -> Sends {
        match &message {
            Message::Vote(vote) => {
                self.at = Some((vote.message.height, vote.message.round));
                if let NilOrVal::Val(block) = vote.message.value {
                    self.block = block;
                }
            }
            Message::Proposal(proposal) => self.at = Some((proposal.message.height, proposal.message.round)),
            _ => {}
        }
        unchanged(to, message)
    }

    fn tick(&mut self, means: &mut Means) -> Sends {
        let Some((height, round)) = self.at else { return Vec::new() };
        let kind = if means.draw().is_multiple_of(2) { VoteType::Prevote } else { VoteType::Precommit };
        let value = if means.draw().is_multiple_of(2) { NilOrVal::Nil } else { NilOrVal::Val(BlockId([7; 32])) };
        let mut votes = Vec::new();
        for peer in &means.peers {
            let vote = Vote { height, round, kind, value, voter: Address(*peer) };
            votes.extend(means.vote(vote));
        }
        let signatures = votes.iter().map(|vote| (vote.message.voter.0, vote.signature.clone())).collect();
        let polka = Polka { height, round, block: self.block, signatures };
        let accusations = votes.iter().filter_map(|vote| {
            let mut other = vote.message.clone();
            other.value = NilOrVal::Val(BlockId([8; 32]));
            Some(Evidence::votes(vote.clone(), means.vote(other).ok()?))
        });
        let accusations = Message::Evidence(accusations.collect());
        let messages = votes.into_iter().map(Message::Vote).chain([Message::Polka(polka), accusations]);
        messages.map(|message| (To::All, Sent::Message(message))).collect()
    }
}
