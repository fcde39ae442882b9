//! Proposes blocks whose header promises another state than applying them gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_malachitebft_core_types::NilOrVal;

use super::{Adversary, Means, Sends, To, unchanged};
use crate::block::Block;
use crate::consensus::message::Message;
use crate::types::BlockId;

/// The adversary.
#[derive(Default)]
pub struct WrongRoot {
    /// The wrong block, by the one that the validator made
    wrong: BTreeMap<BlockId, Arc<Block>>,
    waiting: Vec<Message>,
}

impl Adversary for WrongRoot {
    fn send(&mut self, means: &mut Means, to: To, message: Message) -> Sends {
        match &message {
            Message::Proposal(proposal) if proposal.message.proposer.0 == means.node => {
                self.waiting.push(message);
                Vec::new()
            }
            Message::Block(block) if block.header().proposer == means.node => {
                let wrong = self.wrong.entry(block.id()).or_insert_with(|| wrong(block)).clone();
                let mut sends = Vec::new();
                for waiting in std::mem::take(&mut self.waiting) {
                    let Message::Proposal(proposal) = waiting else { continue };
                    let mut other = proposal.message;
                    other.block = wrong.id();
                    let Ok(other) = means.proposal(other) else { continue };
                    sends.extend(unchanged(to, Message::Proposal(other)));
                }
                sends.extend(unchanged(to, Message::Block(wrong)));
                sends
            }
            Message::Vote(vote) if vote.message.voter.0 == means.node => {
                let mut other = vote.message.clone();
                if let NilOrVal::Val(id) = other.value
                    && let Some(wrong) = self.wrong.get(&id)
                {
                    other.value = NilOrVal::Val(wrong.id());
                }
                match means.vote(other) {
                    Ok(vote) => unchanged(to, Message::Vote(vote)),
                    Err(_) => Vec::new(),
                }
            }
            _ => unchanged(to, message),
        }
    }
}

fn wrong(block: &Arc<Block>) -> Arc<Block> {
    let mut wrong = Block::clone(block);
    wrong.header.state_root[0] ^= 1;
    Arc::new(wrong)
}
