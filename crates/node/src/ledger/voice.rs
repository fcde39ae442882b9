//! Validators sign for users of nodes that are none.
//!
//! Others take a validator's word for who its users are, since its key is in the ledger. The
//! key of a node that joined later is not. Such a node writes down what its user wants as if
//! a validator wanted it, asks that validator to sign, and has it ordered like any other
//! transaction:
//!
//! ```text
//!  psql ─▶ node 6 ──── body: author = node 2, user = ada ───▶ node 2   looks, signs
//!              │ ◀──────────────── signature ─────────────────────┘
//!              ╰─▶ all, as if a client of node 2 had handed it in
//! ```
//! So a validator trusts the nodes of its cluster, which have shown their certificates, as
//! it trusts the passwords of its own clients. A node that lies can act for the users of its
//! cluster thereby, which a validator that lies can do anyway, except for those who sign
//! with an own key alone. It cannot approve of anything: that is signed in no user's name.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::NodeId;
use polity_bft::transaction::Body;
use polity_bft::types::{LedgerId, PublicKey};
use polity_cluster::links::{Handler, Refusal};

use super::host::Host;

/// Answers nodes that are no validators.
pub(crate) struct Voice(pub Arc<Host>);

#[async_trait]
impl Handler for Voice {
    async fn answer(&self, from: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        let signature = self.0.speak(from, &request).map_err(Refusal::Failed)?;
        Ok(signature.encode().into())
    }
}

/// Whether the validator that signs with `key` lends its voice to that, or why not.
pub(super) fn may_speak(body: &Body, ledger: LedgerId, key: &PublicKey) -> Result<(), String> {
    if body.ledger != ledger {
        return Err("it is for another ledger".to_owned());
    }
    if body.author != *key {
        return Err("it is for another validator to sign".to_owned());
    }
    match &body.user {
        // What is signed for nobody is signed in the validator's own name.
        None => Err("it names no user".to_owned()),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use polity_bft::signing::SecretKey;
    use polity_bft::transaction::{Operation, ValidatorChange};
    use polity_bft::types::Height;

    use super::*;

    #[test]
    fn a_validator_speaks_for_users_and_never_for_itself() {
        let (own, other) = (SecretKey::from_seed([1; 32]).public(), SecretKey::from_seed([2; 32]).public());
        let ledger = LedgerId([7; 32]);
        let body = |author: &PublicKey, user: Option<&str>, ledger| Body {
            ledger,
            author: author.clone(),
            user: user.map(str::to_owned),
            nonce: 1,
            expires: Height(9),
            preconditions: Vec::new(),
            operations: vec![Operation::Approve(ValidatorChange { node: NodeId(6), key: other.clone(), power: 9 })],
        };
        assert_eq!(may_speak(&body(&own, Some("ada"), ledger), ledger, &own), Ok(()));
        assert!(may_speak(&body(&own, None, ledger), ledger, &own).is_err(), "an approval in its own name");
        assert!(may_speak(&body(&other, Some("ada"), ledger), ledger, &own).is_err());
        assert!(may_speak(&body(&own, Some("ada"), LedgerId([8; 32])), ledger, &own).is_err());
    }
}
