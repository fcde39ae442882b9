//! Behaves well until it restarts, and has then forgotten what it signed: its log is
//! lost. It may vote a second time, and otherwise.

use super::{Adversary, Means, Sends, To, unchanged};
use crate::consensus::message::Message;

/// The adversary.
pub struct Amnesiac;

impl Adversary for Amnesiac {
    fn send(&mut self, _: &mut Means, to: To, message: Message) -> Sends {
        unchanged(to, message)
    }

    fn forgets(&self) -> bool {
        true
    }
}
