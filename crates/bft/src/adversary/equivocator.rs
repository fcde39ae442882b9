//! Proposes one block to half of the others and another to the rest, and votes for
//! each where it was proposed. Where it should propose once more what a quorum has
//! prevoted for, it proposes something new to all. That is the worst a proposer can do
//! for agreement: only quorums and locks stand in its way.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_malachitebft_core_types::{NilOrVal, Round};

use super::{Adversary, Means, Sends, To, to_each, unchanged};
use crate::block::Block;
use crate::consensus::message::Message;
use crate::types::BlockId;

/// The adversary.
#[derive(Default)]
pub struct Equivocator {
    /// The other block, by the one that the validator made
    twins: BTreeMap<BlockId, Arc<Block>>,
    /// Proposals whose block has not come by yet
    waiting: Vec<Message>,
}

impl Adversary for Equivocator {
    fn send(&mut self, means: &mut Means, to: To, message: Message) -> Sends {
        let (first, second) = means.halves();
        match &message {
            // A validator sends the block of its proposal right after it.
            Message::Proposal(proposal) if proposal.message.proposer.0 == means.node => {
                self.waiting.push(message);
                Vec::new()
            }
            Message::Block(block) if block.header().proposer == means.node || !self.waiting.is_empty() => {
                let twin = self.twins.entry(block.id()).or_insert_with(|| twin(block)).clone();
                let mut sends = Vec::new();
                for waiting in std::mem::take(&mut self.waiting) {
                    let Message::Proposal(proposal) = &waiting else { continue };
                    let mut other = proposal.message.clone();
                    other.block = twin.id();
                    other.locked_round = Round::Nil;
                    let Ok(other) = means.proposal(other).map(Message::Proposal) else { continue };
                    match proposal.message.locked_round {
                        Round::Nil => sends.extend(to_each(&first, &waiting)),
                        Round::Some(_) => sends.extend(to_each(&first, &other)),
                    }
                    sends.extend(to_each(&second, &other));
                }
                sends.extend(to_each(&first, &message));
                sends.extend(to_each(&second, &Message::Block(twin)));
                sends
            }
            Message::Vote(vote) if vote.message.voter.0 == means.node => {
                let mut other = vote.message.clone();
                let NilOrVal::Val(id) = other.value else { return unchanged(to, message) };
                let Some(twin) = self.twins.get(&id) else { return unchanged(to, message) };
                other.value = NilOrVal::Val(twin.id());
                let Ok(other) = means.vote(other) else { return unchanged(to, message) };
                let mut sends = to_each(&first, &message);
                sends.extend(to_each(&second, &Message::Vote(other)));
                sends
            }
            // Would give it away.
            Message::Seen(_) => Vec::new(),
            _ => unchanged(to, message),
        }
    }
}

/// A block that is as valid as the other.
fn twin(block: &Arc<Block>) -> Arc<Block> {
    let mut twin = Block::clone(block);
    twin.header.time_ms += 1;
    Arc::new(twin)
}
