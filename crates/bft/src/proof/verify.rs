//! Whether a proof holds: a function of its bytes and of genesis.
//!
//! Nothing here is shared with consensus, which makes certificates: what a precommit is
//! and how power is counted is written out once more.
//!
//! ```text
//! precommit = "polity/bft/vote/1" ledger height round 2 1 block node
//! quorum    = more than two thirds of the power of all
//! ```

use std::collections::BTreeSet;

use bytes::Bytes;
use polity_base::{Key, NodeId};

use super::{Fault, Proof, Step, path};
use crate::block::{Certificate, Header};
use crate::genesis::Genesis;
use crate::types::{BlockId, Height, LedgerId, Validators};

/// What a proof proves.
#[derive(Clone, PartialEq, Debug)]
pub struct Proven {
    /// About which ledger
    pub ledger: LedgerId,
    /// As of which height
    pub height: Height,
    /// That height's time, in milliseconds since 1970
    pub time_ms: u64,
    /// That height's block
    pub block: BlockId,
    /// Who signed it
    pub signers: Vec<NodeId>,
    /// Their power
    pub power: u64,
    /// The power of all who decided about it
    pub total_power: u64,
    /// How often the validators had changed since genesis
    pub changes: usize,
    /// What the keys have
    pub items: Vec<(Key, Option<Bytes>)>,
}

/// Whether a proof that came as a file holds, for the ledger whose genesis came as a file
/// from a trusted source.
pub fn verify_file(proof: &[u8], genesis: &[u8]) -> Result<Proven, Fault> {
    let genesis = Genesis::decode(genesis).map_err(|error| Fault::Unreadable { what: "genesis", error })?;
    let proof = Proof::decode(proof).map_err(|error| Fault::Unreadable { what: "proof", error })?;
    verify(&proof, &genesis)
}

/// Whether a proof holds for the ledger that began so.
pub fn verify(proof: &Proof, genesis: &Genesis) -> Result<Proven, Fault> {
    let expected = genesis.ledger();
    if proof.ledger != expected {
        return Err(Fault::OtherLedger { expected, found: proof.ledger });
    }
    let validators = follow(genesis, &proof.chain)?;
    let header = &proof.header;
    let in_header = |fault| Fault::Header { height: header.height, fault: Box::new(fault) };
    let power = certified(&expected, header, &proof.certificate, &validators).map_err(in_header)?;
    if proof.items.is_empty() {
        return Err(Fault::Empty);
    }
    for item in &proof.items {
        let in_item = |fault| Fault::Item { key: item.key.clone(), fault: Box::new(fault) };
        path::verify(&item.path, &header.state_root, &item.key, item.value.as_deref()).map_err(in_item)?;
    }
    Ok(Proven {
        ledger: expected,
        height: header.height,
        time_ms: header.time_ms,
        block: header.id(),
        signers: proof.certificate.signatures.iter().map(|(node, _)| *node).collect(),
        power,
        total_power: validators.total_power(),
        changes: proof.chain.len(),
        items: proof.items.iter().map(|item| (item.key.clone(), item.value.clone())).collect(),
    })
}

/// Follows changes of the validators from genesis; those who decide after the last.
pub fn follow(genesis: &Genesis, chain: &[Step]) -> Result<Validators, Fault> {
    let ledger = genesis.ledger();
    let (mut validators, mut height) = (genesis.validators.clone(), Height(0));
    for step in chain {
        let in_step = |fault| Fault::Step { height: step.header.height, fault: Box::new(fault) };
        if step.header.height <= height {
            return Err(in_step(Fault::Order));
        }
        certified(&ledger, &step.header, &step.certificate, &validators).map_err(in_step)?;
        if step.header.next_validators != step.validators.hash() {
            return Err(in_step(Fault::NextValidators));
        }
        (validators, height) = (step.validators.clone(), step.header.height);
    }
    Ok(validators)
}

/// Whether a header is certified by those who decide about it; the power of those who
/// signed.
pub fn certified(
    ledger: &LedgerId,
    header: &Header,
    certificate: &Certificate,
    validators: &Validators,
) -> Result<u64, Fault> {
    if header.ledger != *ledger {
        return Err(Fault::OtherLedger { expected: *ledger, found: header.ledger });
    }
    if header.validators != validators.hash() {
        return Err(Fault::Validators);
    }
    let block = header.id();
    if certificate.block != block || certificate.height != header.height {
        return Err(Fault::OtherBlock);
    }
    let (mut counted, mut signed) = (BTreeSet::new(), 0u64);
    for (node, signature) in &certificate.signatures {
        let validator = validators.get(*node).ok_or(Fault::Stranger(*node))?;
        if !counted.insert(*node) {
            return Err(Fault::Twice(*node));
        }
        let precommit = precommit(ledger, certificate, *node);
        if !validator.key.verify(&precommit, signature) {
            return Err(Fault::Signature(*node));
        }
        // All of them together have less than 2^60.
        signed += validator.power;
    }
    let total = validators.total_power();
    let needed = (u128::from(total) * 2 / 3) as u64 + 1;
    if signed < needed {
        return Err(Fault::Power { signed, needed, total });
    }
    Ok(signed)
}

/// The bytes that a validator signs when it precommits a block.
fn precommit(ledger: &LedgerId, certificate: &Certificate, node: NodeId) -> Vec<u8> {
    let parts: [&[u8]; 7] = [
        b"polity/bft/vote/1",
        &ledger.0,
        &certificate.height.0.to_be_bytes(),
        &certificate.round.to_be_bytes(),
        &[2, 1],
        &certificate.block.0,
        &node.0.to_be_bytes(),
    ];
    parts.concat()
}
