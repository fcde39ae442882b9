//! Proofs: what somebody keeps who trusts no node, and checks with nothing but genesis.
//!
//! ```text
//!  genesis ─▶ validators 1 ─certify─▶ header: "next are validators 2" ─▶ … ─▶ validators n
//!                                                                                │ certify
//!                                            key = value, or no value ◀─ tree ─ header
//! ```
//! A proof holds all of that: each header at which the validators changed, with its
//! certificate and the new validators; the header whose state is proved; and for each key
//! the way through the tree. [`docs/proofs.md`] describes every byte, for those who write
//! a verifier of their own.
//!
//! | module | holds |
//! |---|---|
//! | `mod.rs` | the file |
//! | [`verify`] | whether it holds, and what does not; nothing of consensus is used there |
//! | [`path`] | the way through the tree |
//!
//! [`docs/proofs.md`]: https://docs.rs/polity

mod fault;
pub mod path;
#[cfg(test)]
mod tests;
pub mod verify;

use bytes::Bytes;
use polity_base::Key;

use crate::block::{Certificate, Header};
use crate::codec::{Decoded, Reader, Write};
use crate::hash::{Hash, sha256};
use crate::ledger::tree::Path;
use crate::transaction::read_key;
use crate::types::{LedgerId, Validators};

pub use fault::Fault;
pub use verify::{Proven, verify, verify_file};

const NAME: &str = "polity/bft/proof/1";

/// A proof of what keys have at a height.
#[derive(Clone, PartialEq, Debug)]
pub struct Proof {
    /// The ledger
    pub ledger: LedgerId,
    /// From genesis to those who decided about the header, one step for each change
    pub chain: Vec<Step>,
    /// The header of the height
    pub header: Header,
    /// What certifies it
    pub certificate: Certificate,
    /// What is proved
    pub items: Vec<Item>,
}

/// A change of the validators.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// The last header that those before decided about
    pub header: Header,
    /// What certifies it
    pub certificate: Certificate,
    /// Those who decide after it
    pub validators: Validators,
}

/// What a key has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// The key
    pub key: Key,
    /// Its value, if it has one
    pub value: Option<Bytes>,
    /// The way through the tree
    pub path: Path,
}

impl Proof {
    /// The proof as a file.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        out.raw(NAME.as_bytes());
        out.raw(&self.ledger.0);
        out.count(self.chain.len());
        self.chain.iter().for_each(|step| step.write(&mut out));
        self.header.write(&mut out);
        self.certificate.write(&mut out);
        out.count(self.items.len());
        self.items.iter().for_each(|item| item.write(&mut out));
        seal(&mut out);
        out
    }

    /// Reads a file, whether it proves anything or not.
    pub fn decode(bytes: &[u8]) -> Decoded<Proof> {
        Reader::whole(bytes, |reader| {
            reader.name(NAME)?;
            let proof = Proof {
                ledger: LedgerId(reader.hash()?),
                chain: reader.list(400, Step::read)?,
                header: Header::read(reader)?,
                certificate: Certificate::read(reader)?,
                items: reader.list(10, Item::read)?,
            };
            let damaged = reader.error("it is damaged: its checksum is another");
            let sum = sha256(&[&bytes[..reader.offset()]]);
            if reader.hash()? == sum { Ok(proof) } else { Err(damaged) }
        })
    }
}

/// Ends a file with its checksum. That keeps nobody from changing it, who could make
/// another; it tells damage from lies.
fn seal(out: &mut Vec<u8>) {
    let sum = sha256(&[out]);
    out.raw(&sum);
}

impl Step {
    /// Writes the step.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.header.write(out);
        self.certificate.write(out);
        self.validators.write(out);
    }

    /// Reads a step.
    pub fn read(reader: &mut Reader) -> Decoded<Step> {
        Ok(Step {
            header: Header::read(reader)?,
            certificate: Certificate::read(reader)?,
            validators: Validators::read(reader)?,
        })
    }
}

impl Item {
    fn write(&self, out: &mut Vec<u8>) {
        out.bytes(&self.key);
        out.option(self.value.as_ref(), |out, value| out.bytes(value));
        out.option(self.path.leaf.as_ref(), |out, (key, value)| {
            out.raw(key);
            out.raw(value);
        });
        out.count(self.path.siblings.len());
        self.path.siblings.iter().for_each(|sibling| out.raw(sibling));
    }

    fn read(reader: &mut Reader) -> Decoded<Item> {
        let hashes = |reader: &mut Reader| Ok((reader.hash()?, reader.hash()?));
        Ok(Item {
            key: read_key(reader)?,
            value: reader.option(|reader| reader.bytes().map(Bytes::copy_from_slice))?,
            path: Path { leaf: reader.option(hashes)?, siblings: reader.list::<Hash>(32, Reader::hash)? },
        })
    }
}
