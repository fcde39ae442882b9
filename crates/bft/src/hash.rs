//! The one hash function of ledgers: SHA-256 (FIPS 180-4), which whoever writes a
//! verifier has at hand. What is hashed begins with the name of what it is, so that
//! nothing can be passed off as something else.

use sha2::{Digest, Sha256};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

/// The digest of the parts, one after the other.
pub fn sha256(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// The digest of a list: its name, how many parts it has, and each part with its
/// length before it.
pub fn hash_list<'a>(name: &str, parts: impl ExactSizeIterator<Item = &'a [u8]>) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update((parts.len() as u32).to_be_bytes());
    for part in parts {
        hasher.update((part.len() as u32).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// A digest's first bytes, for people.
pub fn short(hash: &[u8]) -> String {
    hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}
