//! Passwords as SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677), in PostgreSQL's
//! form: `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
//!
//! The password itself is kept nowhere.

use std::num::NonZeroU32;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use polity_base::seams::Entropy;

use crate::error::{Condition, Error, Result};

const ITERATIONS: NonZeroU32 = NonZeroU32::new(4_096).unwrap();
const SALT_BYTES: usize = 16;

/// The verifier of a password.
pub fn verifier(password: &str, entropy: &dyn Entropy) -> Result<String> {
    let mut salt = [0; SALT_BYTES];
    entropy.fill(&mut salt);
    Ok(derive(password, &salt))
}

fn derive(password: &str, salt: &[u8]) -> String {
    // A password that SASLprep refuses is used as it is, as in PostgreSQL.
    let prepared = stringprep::saslprep(password).unwrap_or(password.into());
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, prepared.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client_key = hmac::sign(&key, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let server_key = hmac::sign(&key, b"Server Key");
    format!(
        "SCRAM-SHA-256${ITERATIONS}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored_key.as_ref()),
        STANDARD.encode(server_key.as_ref())
    )
}

/// What is kept of a password as it was given: a verifier stays as it is, so
/// that a dump can be restored.
pub(super) fn stored(given: &str, entropy: &dyn Entropy) -> Result<String> {
    if is_verifier(given) {
        return Ok(given.to_owned());
    }
    let md5 = given.strip_prefix("md5").is_some_and(|h| h.len() == 32 && h.bytes().all(|b| b.is_ascii_hexdigit()));
    if md5 {
        return Err(Error::new(Condition::FeatureNotSupported, "MD5 password verifiers are not supported")
            .hint("Give the password itself: it is stored as a SCRAM-SHA-256 verifier."));
    }
    verifier(given, entropy)
}

fn is_verifier(text: &str) -> bool {
    let Some((parameters, keys)) = text.strip_prefix("SCRAM-SHA-256$").and_then(|t| t.split_once('$')) else {
        return false;
    };
    let decoded = |part: &str| STANDARD.decode(part).is_ok_and(|b| b.len() == digest::SHA256_OUTPUT_LEN);
    let parameters_fit = parameters
        .split_once(':')
        .is_some_and(|(n, salt)| n.parse::<NonZeroU32>().is_ok() && STANDARD.decode(salt).is_ok_and(|s| !s.is_empty()));
    parameters_fit && keys.split_once(':').is_some_and(|(a, b)| decoded(a) && decoded(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifier_is_rfc_7677s() {
        // The user, password and salt of RFC 7677, section 3; keys as PostgreSQL derives them.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        assert_eq!(
            derive("pencil", &salt),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
        assert!(is_verifier(&derive("pencil", &salt)));
        assert!(!is_verifier("SCRAM-SHA-256$4096:abc"));
        assert!(!is_verifier("pencil"));
    }
}
