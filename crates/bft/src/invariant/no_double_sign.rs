//! No double sign: an honest node sends at most one prevote, one precommit and one
//! proposal a round, crashes or not.
//!
//! Buchman, Kwon & Milosevic 2018, algorithm 1: each step is taken once a round. The
//! proof of agreement counts on it for every honest node.

use std::collections::BTreeMap;

use arc_malachitebft_core_types::VoteType;
use polity_base::NodeId;

use super::{Invariant, Sight};
use crate::consensus::context::{Proposal, Vote};
use crate::consensus::message::Message;
use crate::types::Height;

/// What was said.
#[derive(Default)]
pub struct NoDoubleSign {
    votes: BTreeMap<(NodeId, Height, u32, VoteType), Vote>,
    proposals: BTreeMap<(NodeId, Height, u32), Proposal>,
}

impl Invariant for NoDoubleSign {
    fn look(&mut self, sight: &Sight) -> Result<(), String> {
        match sight {
            Sight::Sent(node, Message::Vote(vote)) if vote.message.voter.0 == *node => {
                let Vote { height, round, kind, .. } = vote.message;
                let first = self.votes.entry((*node, height, round, kind)).or_insert_with(|| vote.message.clone());
                match *first == vote.message {
                    true => Ok(()),
                    false => Err(format!("no double sign: {node} sent {first:?} and {:?}", vote.message)),
                }
            }
            Sight::Sent(node, Message::Proposal(proposal)) if proposal.message.proposer.0 == *node => {
                let Proposal { height, round, .. } = proposal.message;
                let first = self.proposals.entry((*node, height, round)).or_insert_with(|| proposal.message.clone());
                match *first == proposal.message {
                    true => Ok(()),
                    false => Err(format!("no double sign: {node} sent {first:?} and {:?}", proposal.message)),
                }
            }
            _ => Ok(()),
        }
    }
}
