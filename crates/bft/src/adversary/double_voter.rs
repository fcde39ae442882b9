//! Votes as it should to half of the others, and otherwise to the rest: for nothing,
//! or for some other block that was proposed.

use arc_malachitebft_core_types::NilOrVal;

use super::{Adversary, Means, Sends, To, to_each, unchanged};
use crate::consensus::message::Message;
use crate::types::BlockId;

/// The adversary.
#[derive(Default)]
pub struct DoubleVoter {
    /// A block it voted for before
    last: Option<BlockId>,
}

impl Adversary for DoubleVoter {
    fn send(&mut self, means: &mut Means, to: To, message: Message) -> Sends {
        match &message {
            Message::Vote(vote) if vote.message.voter.0 == means.node => {
                let mut other = vote.message.clone();
                other.value = match (&vote.message.value, self.last) {
                    (NilOrVal::Nil, Some(block)) => NilOrVal::Val(block),
                    _ => NilOrVal::Nil,
                };
                if let NilOrVal::Val(block) = vote.message.value {
                    self.last = Some(block);
                }
                let Ok(other) = means.vote(other) else { return unchanged(to, message) };
                let (first, second) = means.halves();
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
