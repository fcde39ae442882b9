//! Keys and signatures: Ed25519 by the rules of ZIP-215.

use serde::{Deserialize, Serialize};

/// Whom a signature is of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct PublicKey([u8; 32]);

/// A signature.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Signature(pub Vec<u8>);

impl Signature {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.clone()
    }
}

impl PublicKey {
    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    /// Whether a signature over `bytes` is of this key.
    pub fn verify(&self, bytes: &[u8], signature: &Signature) -> bool {
        let key = ed25519_zebra::VerificationKey::try_from(self.0);
        let signature = ed25519_zebra::Signature::try_from(&signature.0[..]);
        matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(&signature, bytes).is_ok())
    }
}

/// A key that signs.
pub struct SecretKey(ed25519_zebra::SigningKey);

impl SecretKey {
    /// The key that follows from a seed.
    pub fn from_seed(seed: [u8; 32]) -> SecretKey {
        SecretKey(ed25519_zebra::SigningKey::from(seed))
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(ed25519_zebra::VerificationKey::from(&self.0).into())
    }

    /// A signature over `bytes`.
    pub fn sign(&self, bytes: &[u8]) -> Result<Signature, std::convert::Infallible> {
        Ok(Signature(self.0.sign(bytes).to_bytes().to_vec()))
    }
}
