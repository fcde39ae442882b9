//! Answers whoever is behind with blocks whose certificates are another block's, and
//! claims to be far ahead so that it is asked.

use std::sync::Arc;

use super::{Adversary, Means, Sends, To, unchanged};
use crate::block::Certificate;
use crate::consensus::message::Message;
use crate::types::Height;

/// The adversary.
#[derive(Default)]
pub struct StaleCertificate {
    old: Option<Arc<Certificate>>,
}

impl Adversary for StaleCertificate {
    fn send(&mut self, _: &mut Means, to: To, message: Message) -> Sends {
        match message {
            Message::Certified(block, certificate) => {
                let mut stale = Certificate::clone(self.old.get_or_insert(certificate.clone()));
                // Its votes are genuine, only for something else.
                stale.height = certificate.height;
                stale.block = certificate.block;
                unchanged(to, Message::Certified(block, Arc::new(stale)))
            }
            Message::Status(mut status) => {
                status.committed = Height(status.committed.0 + 3);
                unchanged(to, Message::Status(status))
            }
            message => unchanged(to, message),
        }
    }
}
