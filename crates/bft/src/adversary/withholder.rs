//! Talks, proposes and answers, but keeps its votes to itself.

use super::{Adversary, Means, Sends, To, unchanged};
use crate::consensus::message::Message;

/// The adversary.
pub struct Withholder;

impl Adversary for Withholder {
    fn send(&mut self, _: &mut Means, to: To, message: Message) -> Sends {
        match message {
            Message::Vote(_) | Message::Polka(_) | Message::Round(_) | Message::Seen(_) => Vec::new(),
            message => unchanged(to, message),
        }
    }
}
