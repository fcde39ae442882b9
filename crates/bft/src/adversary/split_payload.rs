//! Sends everyone another block under the same header, so that nobody but one has
//! what all vote on.

use std::sync::Arc;

use super::{Adversary, Means, Sends, Sent, To, unchanged};
use crate::block::Block;
use crate::consensus::message::Message;

/// The adversary.
pub struct SplitPayload;

impl Adversary for SplitPayload {
    fn send(&mut self, means: &mut Means, to: To, message: Message) -> Sends {
        let Message::Block(block) = &message else { return unchanged(to, message) };
        let peers = match to {
            To::All => means.peers.clone(),
            To::Node(node) => vec![node],
        };
        let split = |(place, peer)| {
            // The first one gets the true block: it can be had, though not from here.
            let block = match place {
                0 if to == To::All => block.clone(),
                place => Arc::new(without(block, place)),
            };
            (To::Node(peer), Sent::Message(Message::Block(block)))
        };
        peers.into_iter().enumerate().map(split).collect()
    }
}

/// The block without one of its transactions, and with another one twice.
fn without(block: &Block, place: usize) -> Block {
    let mut split = block.clone();
    let count = split.transactions.len();
    if count > 0 {
        let gone = split.transactions.remove(place % count);
        split.transactions.extend([gone.clone(), gone]);
    }
    split
}
