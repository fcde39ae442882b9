//! Says that it does not keep blocks, and offers a snapshot instead whose state never
//! was.

use bytes::BytesMut;

use super::{Adversary, Means, Sends, To, unchanged};
use crate::consensus::message::Message;
use crate::types::Height;

/// The adversary.
#[derive(Default)]
pub struct LyingSnapshot {
    /// Where its own ledger is
    at: Height,
}

impl Adversary for LyingSnapshot {
    fn send(&mut self, means: &mut Means, to: To, message: Message) -> Sends {
        match message {
            Message::Certified(block, _) => unchanged(to, Message::Pruned(block.header().height, Some(self.at))),
            Message::Status(status) => {
                self.at = status.committed;
                unchanged(to, Message::Status(status))
            }
            Message::Snapshot(mut part) if !part.bytes.is_empty() => {
                let mut bytes = BytesMut::from(&part.bytes[..]);
                let place = means.draw() as usize % bytes.len();
                bytes[place] ^= 1;
                part.bytes = bytes.freeze();
                unchanged(to, Message::Snapshot(part))
            }
            message => unchanged(to, message),
        }
    }
}
