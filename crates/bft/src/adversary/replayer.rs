//! Sends transactions again that were ordered long ago, and puts some into its blocks.

use std::sync::Arc;

use super::{Adversary, Means, Sends, Sent, To, unchanged};
use crate::consensus::message::Message;
use crate::transaction::SignedTransaction;

/// So many old transactions are kept.
const KEPT: usize = 64;

/// The adversary.
#[derive(Default)]
pub struct Replayer {
    old: Vec<Arc<SignedTransaction>>,
}

impl Adversary for Replayer {
    fn send(&mut self, means: &mut Means, to: To, message: Message) -> Sends {
        if let Message::Block(block) | Message::Certified(block, _) = &message {
            for transaction in &block.transactions {
                match self.old.len() < KEPT {
                    true => self.old.push(transaction.clone()),
                    false => self.old[means.draw() as usize % KEPT] = transaction.clone(),
                }
            }
        }
        unchanged(to, message)
    }

    fn tick(&mut self, means: &mut Means) -> Sends {
        if self.old.is_empty() {
            return Vec::new();
        }
        let chosen = (0..4).map(|_| self.old[means.draw() as usize % self.old.len()].clone()).collect();
        vec![(To::All, Sent::Message(Message::Transactions(chosen)))]
    }
}
