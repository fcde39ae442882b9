//! Sends much that is of no use: bytes that are no message, votes of rounds far away,
//! blocks that nobody proposed, old heights, questions.

use std::sync::Arc;

use arc_malachitebft_core_types::{NilOrVal, VoteType};

use super::{Adversary, Means, Sends, Sent, To, unchanged};
use crate::block::Block;
use crate::consensus::context::{Address, Vote};
use crate::consensus::message::Message;
use crate::types::{BlockId, Height};

/// So many messages each time.
const MUCH: usize = 24;

/// The adversary.
#[derive(Default)]
pub struct Flooder {
    height: Height,
    block: Option<Arc<Block>>,
}

impl Adversary for Flooder {
    fn send(&mut self, _: &mut Means, to: To, message: Message) -> Sends {
        match &message {
            Message::Vote(vote) => self.height = vote.message.height,
            Message::Block(block) => self.block = Some(block.clone()),
            _ => {}
        }
        unchanged(to, message)
    }

    fn tick(&mut self, means: &mut Means) -> Sends {
        (0..MUCH).map(|_| (To::All, self.garbage(means))).collect()
    }
}

impl Flooder {
    fn garbage(&self, means: &mut Means) -> Sent {
        let draw = means.draw();
        let height = Height(self.height.0 + draw % 4);
        let vote = |round| Vote {
            height,
            round,
            kind: VoteType::Precommit,
            value: NilOrVal::Val(BlockId(std::array::from_fn(|i| (draw >> (i % 8)) as u8))),
            voter: Address(means.node),
        };
        match draw % 5 {
            0 => Sent::Bytes((0..draw % 200).map(|i| (draw >> (i % 57)) as u8).collect()),
            1 => {
                means.vote(vote(draw as u32)).map_or(Sent::Bytes(Vec::new()), |vote| Sent::Message(Message::Vote(vote)))
            }
            2 => means.vote(vote(3)).map_or(Sent::Bytes(Vec::new()), |vote| Sent::Message(Message::Vote(vote))),
            3 => Sent::Message(Message::Fetch(Height(draw), Height(u64::MAX))),
            _ => match &self.block {
                Some(block) => {
                    let mut stray = Block::clone(block);
                    stray.header.height = height;
                    stray.header.time_ms = draw;
                    Sent::Message(Message::Block(Arc::new(stray)))
                }
                None => Sent::Message(Message::FetchSnapshot(height, draw as u32)),
            },
        }
    }
}
