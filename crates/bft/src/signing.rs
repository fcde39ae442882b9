//! Keys and signatures: Ed25519 by the rules of ZIP-215, under which it makes no
//! difference whether signatures are verified one by one or many at once.

use std::convert::Infallible;

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
    pub fn sign(&self, bytes: &[u8]) -> Result<Signature, Infallible> {
        Ok(Signature(self.0.sign(bytes).to_bytes().to_vec()))
    }
}

/// Whether all of these signatures are right. Twice as fast as one by one; if it says
/// no, that says nothing of any one of them.
pub fn verify_all<'a>(signed: impl Iterator<Item = (&'a PublicKey, Vec<u8>, &'a Signature)>) -> bool {
    let (mut batch, mut seed) = (ed25519_zebra::batch::Verifier::new(), blake3::Hasher::new());
    for (key, bytes, signature) in signed {
        let Ok(signature) = ed25519_zebra::Signature::try_from(&signature.0[..]) else { return false };
        seed.update(&key.0).update(&signature.to_bytes()).update(blake3::hash(&bytes).as_bytes());
        batch.queue((ed25519_zebra::VerificationKeyBytes::from(key.0), signature, &bytes));
    }
    batch.verify(Coefficients(seed.finalize_xof())).is_ok()
}

/// The coefficients of a batch: numbers that nobody can know before all of its
/// signatures are fixed, since they follow from them by a hash.
struct Coefficients(blake3::OutputReader);

impl rand_core::TryRng for Coefficients {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(bytes);
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Coefficients {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_signature_spoils_a_batch_and_none_does_not() {
        let keys: Vec<SecretKey> = (1..=3).map(|n| SecretKey::from_seed([n; 32])).collect();
        let publics: Vec<PublicKey> = keys.iter().map(SecretKey::public).collect();
        let text = |n: usize| format!("message {n}").into_bytes();
        let signatures: Vec<Signature> = (0..9).map(|n| keys[n % 3].sign(&text(n)).unwrap()).collect();
        let all = |signatures: &[Signature]| {
            verify_all(signatures.iter().enumerate().map(|(n, signature)| (&publics[n % 3], text(n), signature)))
        };
        assert!(all(&signatures) && all(&[]));
        for place in 0..9 {
            for byte in [0, 31, 32, 63] {
                let mut wrong = signatures.clone();
                wrong[place].0[byte] ^= 1;
                assert!(!all(&wrong), "signature {place}, byte {byte}");
                assert!(!publics[place % 3].verify(&text(place), &wrong[place]));
            }
            let mut short = signatures.clone();
            short[place].0.pop();
            assert!(!all(&short));
        }
    }
}
