//! Says nothing at all.

use super::{Adversary, Means, Sends, To};
use crate::consensus::message::Message;

/// The adversary.
pub struct Silent;

impl Adversary for Silent {
    fn send(&mut self, _: &mut Means, _: To, _: Message) -> Sends {
        Vec::new()
    }
}
