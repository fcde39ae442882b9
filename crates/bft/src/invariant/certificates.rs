//! Certificate soundness: every committed block has genuine precommits of more than
//! two thirds of the power, of different validators, for that block and round.
//!
//! Castro & Liskov, "Practical Byzantine Fault Tolerance", OSDI 1999, section 4.2:
//! any two such quorums have an honest node in common. Verified from the bytes up,
//! with none of the code that consensus verifies with but the vote's encoding.

use std::collections::BTreeSet;

use arc_malachitebft_core_types::{NilOrVal, VoteType};

use super::{Invariant, Sight};
use crate::consensus::context::{Address, Vote};
use crate::types::LedgerId;

/// The ledger whose certificates are looked at.
pub struct Certificates(LedgerId);

impl Certificates {
    /// Certificates of a ledger.
    pub fn new(ledger: LedgerId) -> Certificates {
        Certificates(ledger)
    }
}

impl Invariant for Certificates {
    fn look(&mut self, sight: &Sight) -> Result<(), String> {
        let Sight::Committed(node, block, certificate, validators) = sight else { return Ok(()) };
        let height = block.header().height;
        let wrong = |what: &str| Err(format!("certificates: {node}'s of height {height} {what}"));
        if certificate.height != height || certificate.block != block.id() {
            return wrong("is for another block");
        }
        let (mut counted, mut power) = (BTreeSet::new(), 0u128);
        for (voter, signature) in &certificate.signatures {
            let Some(validator) = validators.iter().find(|validator| validator.node == *voter) else {
                return wrong("has a signature of no validator");
            };
            let vote = Vote {
                height,
                round: certificate.round,
                kind: VoteType::Precommit,
                value: NilOrVal::Val(block.id()),
                voter: Address(*voter),
            };
            if !counted.insert(*voter) || !validator.key.verify(&vote.sign_bytes(&self.0), signature) {
                return wrong("has a signature twice, or one that is not right");
            }
            power += u128::from(validator.power);
        }
        let total: u128 = validators.iter().map(|validator| u128::from(validator.power)).sum();
        match power * 3 > total * 2 {
            true => Ok(()),
            false => wrong(&format!("has power {power} of {total}")),
        }
    }
}
