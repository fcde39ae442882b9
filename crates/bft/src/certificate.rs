//! What certifies a block: precommits of more than two thirds of the power.
//!
//! ```text
//! certificate = "polity/bft/certificate/1" height round block (node signature)*
//! ```
//! Each signature is over the bytes of a precommit for the block: see
//! [`crate::consensus::context::Vote::sign_bytes`], and [`crate::proof::verify`] for
//! those who do not trust this crate's consensus.

use polity_base::NodeId;

use crate::codec::{Decoded, Reader, Write, serde_as_bytes};
use crate::types::{BlockId, Height, Signature};

const NAME: &str = "polity/bft/certificate/1";

/// Precommits of more than two thirds of the power for a block.
#[derive(Clone, PartialEq, Debug)]
pub struct Certificate {
    /// The block's height
    pub height: Height,
    /// The round of the precommits
    pub round: u32,
    /// The block
    pub block: BlockId,
    /// Who precommitted
    pub signatures: Vec<(NodeId, Signature)>,
}

serde_as_bytes!(Certificate);

impl Certificate {
    /// Writes the certificate.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.raw(NAME.as_bytes());
        out.u64(self.height.0);
        out.u32(self.round);
        out.raw(&self.block.0);
        out.count(self.signatures.len());
        for (node, signature) in &self.signatures {
            out.u64(node.0);
            signature.write(out);
        }
    }

    /// Reads a certificate, right or not.
    pub fn read(reader: &mut Reader) -> Decoded<Certificate> {
        reader.name(NAME)?;
        Ok(Certificate {
            height: reader.height()?,
            round: reader.u32()?,
            block: BlockId(reader.hash()?),
            signatures: reader.list(9, |reader| Ok((reader.node()?, Signature::read(reader)?)))?,
        })
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(80 + self.signatures.len() * 73);
        self.write(&mut out);
        out
    }

    /// Reads a certificate and nothing else.
    pub fn decode(bytes: &[u8]) -> Decoded<Certificate> {
        Reader::whole(bytes, Certificate::read)
    }
}
