//! Genesis: what a ledger begins with, and all that somebody who checks it later must
//! have from a source that they trust.
//!
//! ```text
//! genesis    = "polity/bft/genesis/1" name created_ms validators parameters
//! parameters = lifetime most_rows administrator*
//! ledger     = SHA-256(genesis)
//! ```

use crate::codec::{DecodeError, Decoded, Reader, Write};
use crate::hash::sha256;
use crate::types::{LedgerId, Validators};

const NAME: &str = "polity/bft/genesis/1";

/// What a ledger begins with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Genesis {
    /// A name that tells it from others
    pub name: String,
    /// When it was made, in milliseconds since 1970
    pub created_ms: u64,
    /// Who decides about its first block
    pub validators: Validators,
    /// What all who apply its blocks must agree on
    pub parameters: Parameters,
}

/// What all who apply a ledger's blocks must agree on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// For how many heights it is known what was ordered and written: a transaction
    /// that expires later is not taken yet, and one that read longer ago conflicts
    pub lifetime: u64,
    /// The most rows that one operation may go through (to define an index over rows
    /// that are there)
    pub most_rows: u64,
    /// Users who may do everything with every table, and speak for others
    pub administrators: Vec<String>,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters { lifetime: 1024, most_rows: 100_000, administrators: Vec::new() }
    }
}

impl Genesis {
    /// Its bytes: what is handed to those who check proofs.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.raw(NAME.as_bytes());
        out.bytes(self.name.as_bytes());
        out.u64(self.created_ms);
        self.validators.write(&mut out);
        self.parameters.write(&mut out);
        out
    }

    /// Reads a genesis.
    pub fn decode(bytes: &[u8]) -> Decoded<Genesis> {
        Reader::whole(bytes, |reader| {
            reader.name(NAME)?;
            Ok(Genesis {
                name: reader.text()?.to_owned(),
                created_ms: reader.u64()?,
                validators: Validators::read(reader)?,
                parameters: Parameters::read(reader)?,
            })
        })
    }

    /// The ledger that begins so.
    pub fn ledger(&self) -> LedgerId {
        LedgerId(sha256(&[&self.encode()]))
    }

    /// Why no ledger can begin so, if none can.
    pub fn fault(&self) -> Option<DecodeError> {
        // What can be read is right, and what is right can be read.
        Genesis::decode(&self.encode()).err()
    }
}

impl Parameters {
    /// Writes the parameters.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.u64(self.lifetime);
        out.u64(self.most_rows);
        out.count(self.administrators.len());
        self.administrators.iter().for_each(|user| out.bytes(user.as_bytes()));
    }

    fn read(reader: &mut Reader) -> Decoded<Parameters> {
        let (lifetime, most_rows) = (reader.u64()?, reader.u64()?);
        if !(2..=1 << 20).contains(&lifetime) {
            return Err(reader.error("a lifetime that cannot be"));
        }
        let administrators = reader.list(4, |reader| reader.text().map(str::to_owned))?;
        Ok(Parameters { lifetime, most_rows, administrators })
    }
}

#[cfg(test)]
mod tests {
    use polity_base::NodeId;

    use super::*;
    use crate::signing::SecretKey;
    use crate::types::Validator;

    fn genesis(powers: &[u64]) -> Genesis {
        let validator = |(n, power): (usize, &u64)| Validator {
            node: NodeId(n as u64 + 1),
            key: SecretKey::from_seed([n as u8; 32]).public(),
            power: *power,
        };
        Genesis {
            name: "shop".to_owned(),
            created_ms: 5,
            validators: Validators::new(powers.iter().enumerate().map(validator).collect()),
            parameters: Parameters { administrators: vec!["ada".to_owned()], ..Parameters::default() },
        }
    }

    #[test]
    fn a_genesis_is_read_back_and_every_byte_of_it_counts() {
        let genesis = genesis(&[1, 2, 3, 4]);
        let bytes = genesis.encode();
        assert_eq!(Genesis::decode(&bytes), Ok(genesis.clone()));
        assert_eq!(genesis.fault(), None);
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] ^= 1;
            let same = Genesis::decode(&other).is_ok_and(|read| read.ledger() == genesis.ledger());
            assert!(!same, "byte {place}");
        }
    }

    #[test]
    fn validators_that_could_not_decide_are_refused() {
        assert!(genesis(&[]).fault().is_some());
        assert!(genesis(&[1, 0]).fault().is_some());
        assert!(genesis(&[1 << 60, 1 << 60]).fault().is_some());
        let mut twice = genesis(&[1, 1]);
        let list: Vec<Validator> = twice.validators.iter().cloned().collect();
        twice.validators = Validators::new(vec![list[0].clone(), Validator { node: NodeId(9), ..list[0].clone() }]);
        assert!(twice.fault().is_some(), "one key would vote twice");
    }
}
