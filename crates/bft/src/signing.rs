//! Keys and signatures, of any scheme that is known here.
//!
//! Each begins with the number of its scheme, so that others can come beside:
//!
//! | scheme | key | signature | |
//! |---|---|---|---|
//! | 1 | 32 bytes | 64 bytes | Ed25519 (RFC 8032), judged by the rules of ZIP-215 |
//!
//! ZIP-215 says of every signature, also of crafted ones, whether it is right, and says
//! the same of one alone and of many at once. RFC 8032 leaves that open, and validators
//! that judge differently disagree about blocks.

use std::fmt;

use ed25519_zebra::batch;
use sha2::{Digest, Sha256};

use crate::codec::{Decoded, Reader, Write, serde_as_bytes};
use crate::hash::short;

const ED25519: u8 = 1;

/// Whom a signature is of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PublicKey {
    /// A key of scheme 1
    Ed25519([u8; 32]),
}

/// A signature.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signature {
    /// A signature of scheme 1
    Ed25519([u8; 64]),
}

serde_as_bytes!(PublicKey);
serde_as_bytes!(Signature);

impl Signature {
    /// The bytes of a signature: its scheme and what belongs to it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(65);
        self.write(&mut out);
        out
    }

    /// Writes the signature.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Signature::Ed25519(bytes) => {
                out.byte(ED25519);
                out.raw(bytes);
            }
        }
    }

    /// Reads a signature.
    pub fn read(reader: &mut Reader) -> Decoded<Signature> {
        let unknown = reader.error("a signature of an unknown scheme");
        match reader.byte()? {
            ED25519 => reader.array().map(Signature::Ed25519),
            _ => Err(unknown),
        }
    }

    /// Reads a signature and nothing else.
    pub fn decode(bytes: &[u8]) -> Decoded<Signature> {
        Reader::whole(bytes, Signature::read)
    }

    /// A signature that is right for nothing.
    pub fn void() -> Signature {
        Signature::Ed25519([0xFF; 64])
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Signature::Ed25519(bytes) = self;
        write!(f, "signature {}", short(bytes))
    }
}

impl PublicKey {
    /// The bytes of a key: its scheme and what belongs to it.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(33);
        self.write(&mut out);
        out
    }

    /// Writes the key.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            PublicKey::Ed25519(bytes) => {
                out.byte(ED25519);
                out.raw(bytes);
            }
        }
    }

    /// Reads a key. Whether it is one that can have signed anything is seen when a
    /// signature is verified.
    pub fn read(reader: &mut Reader) -> Decoded<PublicKey> {
        let unknown = reader.error("a key of an unknown scheme");
        match reader.byte()? {
            ED25519 => reader.array().map(PublicKey::Ed25519),
            _ => Err(unknown),
        }
    }

    /// Reads a key and nothing else.
    pub fn decode(bytes: &[u8]) -> Decoded<PublicKey> {
        Reader::whole(bytes, PublicKey::read)
    }

    /// Whether a signature over `bytes` is of this key.
    pub fn verify(&self, bytes: &[u8], signature: &Signature) -> bool {
        let (PublicKey::Ed25519(key), Signature::Ed25519(signature)) = (self, signature);
        let key = ed25519_zebra::VerificationKey::try_from(*key);
        let signature = ed25519_zebra::Signature::from(*signature);
        key.is_ok_and(|key| key.verify(&signature, bytes).is_ok())
    }
}

/// In hexadecimal, as people hand keys to each other.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.encode().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PublicKey::Ed25519(bytes) = self;
        write!(f, "key {}", short(bytes))
    }
}

/// Why nothing was signed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the key cannot sign: {0}")]
pub struct SignError(pub String);

/// A key that signs.
pub struct SecretKey(ed25519_zebra::SigningKey);

impl SecretKey {
    /// The key that follows from a seed.
    pub fn from_seed(seed: [u8; 32]) -> SecretKey {
        SecretKey(ed25519_zebra::SigningKey::from(seed))
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::Ed25519(ed25519_zebra::VerificationKey::from(&self.0).into())
    }

    /// A signature over `bytes`.
    pub fn sign(&self, bytes: &[u8]) -> Result<Signature, SignError> {
        Ok(Signature::Ed25519(self.0.sign(bytes).to_bytes()))
    }
}

/// Something that was verified: only whoever did can make it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// What was verified.
    pub fn into_inner(self) -> T {
        self.0
    }

    /// For those who have just verified it.
    pub(crate) fn vouch(value: T) -> Verified<T> {
        Verified(value)
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// From so many on, signatures are verified together.
const MANY: usize = 8;

/// Whether all signatures are right. Many together take half the time that they take
/// one by one; those of one key a third.
pub fn verify_all<'a>(items: impl IntoIterator<Item = (&'a PublicKey, &'a [u8], &'a Signature)>) -> bool {
    let items: Vec<_> = items.into_iter().collect();
    if items.len() < MANY {
        return items.iter().all(|(key, bytes, signature)| key.verify(bytes, signature));
    }
    let mut verifier = batch::Verifier::new();
    let mut coins = Coins::new();
    for (PublicKey::Ed25519(key), bytes, Signature::Ed25519(signature)) in items {
        coins.depend_on(&[key, signature, &(bytes.len() as u64).to_be_bytes(), bytes]);
        let key = ed25519_zebra::VerificationKeyBytes::from(*key);
        verifier.queue((key, ed25519_zebra::Signature::from(*signature), bytes));
    }
    verifier.verify(coins.toss()).is_ok()
}

/// Coefficients of a batch: a function of all that is in it, so that nobody can choose
/// what is in it to suit them, and no entropy is needed.
struct Coins(Sha256);

impl Coins {
    fn new() -> Coins {
        Coins(Sha256::new_with_prefix(b"polity/bft/batch/1"))
    }

    fn depend_on(&mut self, parts: &[&[u8]]) {
        parts.iter().for_each(|part| self.0.update(part));
    }

    fn toss(self) -> Tossed {
        Tossed { seed: self.0.finalize().into(), count: 0, ready: Vec::new() }
    }
}

struct Tossed {
    seed: [u8; 32],
    count: u64,
    ready: Vec<u8>,
}

impl rand_core::TryRng for Tossed {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        for byte in out {
            if self.ready.is_empty() {
                let block = crate::hash::sha256(&[&self.seed, &self.count.to_be_bytes()]);
                self.ready.extend_from_slice(&block);
                self.count += 1;
            }
            *byte = self.ready.pop().unwrap_or_default();
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Tossed {}

#[cfg(test)]
mod tests {
    use super::*;

    fn signed(count: u8) -> Vec<(PublicKey, Vec<u8>, Signature)> {
        let one = |n: u8| {
            let (key, message) = (SecretKey::from_seed([n % 5; 32]), vec![n; usize::from(n)]);
            let signature = key.sign(&message).unwrap();
            (key.public(), message, signature)
        };
        (0..count).map(one).collect()
    }

    fn all(items: &[(PublicKey, Vec<u8>, Signature)]) -> bool {
        verify_all(items.iter().map(|(key, bytes, signature)| (key, &bytes[..], signature)))
    }

    #[test]
    fn one_wrong_signature_among_many_is_seen() {
        for count in [1, 7, 8, 40] {
            let mut items = signed(count);
            assert!(all(&items), "{count}");
            for place in 0..items.len() {
                let right = items[place].2.clone();
                let Signature::Ed25519(mut bytes) = right;
                bytes[place % 64] ^= 1;
                items[place].2 = Signature::Ed25519(bytes);
                assert!(!all(&items), "{place} of {count}");
                items[place].2 = right;
            }
        }
    }

    #[test]
    fn a_signature_is_of_one_key_and_one_message() {
        let items = signed(12);
        for (key, bytes, signature) in &items {
            assert!(key.verify(bytes, signature));
            assert!(!key.verify(b"something else", signature));
            assert!(!key.verify(bytes, &Signature::void()));
        }
        assert!(!items[0].0.verify(&items[1].1, &items[1].2));
        // Bytes that are no point of the curve are a key that has signed nothing.
        assert!(!PublicKey::Ed25519([2; 32]).verify(&items[0].1, &items[0].2));
    }

    #[test]
    fn keys_and_signatures_are_read_back_and_nothing_else_is() {
        let (key, _, signature) = signed(3).pop().unwrap();
        assert_eq!(PublicKey::decode(&key.encode()), Ok(key.clone()));
        assert_eq!(Signature::decode(&signature.encode()), Ok(signature.clone()));
        let mut other = key.encode();
        other[0] = 9;
        assert!(PublicKey::decode(&other).is_err());
        assert!(PublicKey::decode(&key.encode()[..32]).is_err());
        assert!(Signature::decode(&[signature.encode(), vec![0]].concat()).is_err());
    }
}
