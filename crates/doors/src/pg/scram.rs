//! SCRAM-SHA-256, the server's side (RFC 5802, RFC 7677).
//!
//! ```text
//! client-first   n,,n=user,r=nonce
//! server-first   r=nonce+ours,s=salt,i=iterations
//! client-final   c=biws,r=nonce+ours,p=proof
//! server-final   v=signature
//! ```
//! The machine does no IO. Someone who is not known gets the same conversation as
//! someone with a wrong password, with a salt that stays the same.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// The mechanism's name.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// Why the conversation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The client does not follow the protocol
    Malformed(&'static str),
    /// The password is wrong, or there is no such user
    WrongPassword,
}

/// What is stored instead of a password.
pub struct Verifier {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
    known: bool,
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`.
    pub fn parse(text: &str) -> Option<Verifier> {
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        Some(Verifier {
            iterations: iterations.parse().ok()?,
            salt: BASE64.decode(salt).ok()?,
            stored_key: BASE64.decode(stored).ok()?,
            server_key: BASE64.decode(server).ok()?,
            known: true,
        })
    }

    /// One that no password fits, always the same for the same user.
    pub fn for_nobody(user: &str, secret: &[u8]) -> Verifier {
        let salt = hmac::sign(&hmac::Key::new(HMAC_SHA256, secret), user.as_bytes());
        Verifier {
            iterations: 4096,
            salt: salt.as_ref()[..16].to_vec(),
            stored_key: vec![0; 32],
            server_key: vec![0; 32],
            known: false,
        }
    }
}

/// The conversation after the server's first message.
pub struct Exchange {
    verifier: Verifier,
    /// The client's first message without its header, and the server's first
    so_far: String,
    nonce: String,
    header: String,
}

impl Exchange {
    /// Answers the client's first message; `fresh` are 18 random bytes.
    pub fn begin(verifier: Verifier, client_first: &[u8], fresh: &[u8; 18]) -> Result<(Exchange, String), Refusal> {
        let text = std::str::from_utf8(client_first).map_err(|_| Refusal::Malformed("the message is not UTF-8"))?;
        let mut parts = text.splitn(3, ',');
        let (flag, authzid, bare) = (parts.next(), parts.next(), parts.next());
        let (Some(flag), Some(""), Some(bare)) = (flag, authzid, bare) else {
            return Err(Refusal::Malformed("the first message is not n,,n=…,r=…"));
        };
        if flag != "n" && flag != "y" {
            return Err(Refusal::Malformed("channel binding was not offered"));
        }
        let theirs = bare.split(',').find_map(|a| a.strip_prefix("r=")).filter(|n| !n.is_empty());
        let theirs = theirs.ok_or(Refusal::Malformed("there is no nonce"))?;
        if bare.starts_with("m=") {
            return Err(Refusal::Malformed("an extension is required that is not known"));
        }
        let nonce = format!("{theirs}{}", BASE64.encode(fresh));
        let first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let exchange =
            Exchange { verifier, so_far: format!("{bare},{first}"), nonce, header: BASE64.encode(format!("{flag},,")) };
        Ok((exchange, first))
    }

    /// Checks the client's last message; gives the server's last.
    pub fn finish(self, client_final: &[u8]) -> Result<String, Refusal> {
        let text = std::str::from_utf8(client_final).map_err(|_| Refusal::Malformed("the message is not UTF-8"))?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Refusal::Malformed("there is no proof"))?;
        let mut attributes = without_proof.split(',');
        if attributes.next() != Some(format!("c={}", self.header).as_str()) {
            return Err(Refusal::Malformed("the channel binding changed"));
        }
        if attributes.next().and_then(|a| a.strip_prefix("r=")) != Some(self.nonce.as_str()) {
            return Err(Refusal::Malformed("the nonce changed"));
        }
        let proof = BASE64.decode(proof).map_err(|_| Refusal::Malformed("the proof is not base64"))?;
        let message = format!("{},{without_proof}", self.so_far);
        let sign = |key: &[u8]| hmac::sign(&hmac::Key::new(HMAC_SHA256, key), message.as_bytes());
        let signature = sign(&self.verifier.stored_key);
        if proof.len() != signature.as_ref().len() {
            return Err(Refusal::Malformed("the proof has the wrong length"));
        }
        let client_key: Vec<u8> = proof.iter().zip(signature.as_ref()).map(|(p, s)| p ^ s).collect();
        let fits = verify_slices_are_equal(digest(&SHA256, &client_key).as_ref(), &self.verifier.stored_key).is_ok();
        if !fits || !self.verifier.known {
            return Err(Refusal::WrongPassword);
        }
        Ok(format!("v={}", BASE64.encode(sign(&self.verifier.server_key))))
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use aws_lc_rs::pbkdf2;

    use super::*;

    fn salted(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
        let mut out = [0; 32];
        let iterations = NonZeroU32::new(iterations).unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut out);
        out
    }

    fn sign(key: &[u8], text: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(HMAC_SHA256, key), text).as_ref().to_vec()
    }

    fn verifier(password: &str) -> Verifier {
        let salted = salted(password, b"salt", 4096);
        let stored = digest(&SHA256, &sign(&salted, b"Client Key"));
        let text = format!(
            "SCRAM-SHA-256$4096:{}${}:{}",
            BASE64.encode(b"salt"),
            BASE64.encode(stored),
            BASE64.encode(sign(&salted, b"Server Key"))
        );
        Verifier::parse(&text).unwrap()
    }

    /// A client that knows `password`.
    fn converse(verifier: Verifier, password: &str) -> Result<String, Refusal> {
        let (exchange, first) = Exchange::begin(verifier, b"n,,n=,r=abc", &[7; 18])?;
        let nonce = first.split(',').next().unwrap().to_owned();
        let salt = BASE64.decode(first.split(",s=").nth(1).unwrap().split(',').next().unwrap()).unwrap();
        let salted = salted(password, &salt, 4096);
        let client_key = sign(&salted, b"Client Key");
        let without_proof = format!("c=biws,{nonce}");
        let message = format!("n=,r=abc,{first},{without_proof}");
        let signature = sign(digest(&SHA256, &client_key).as_ref(), message.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(k, s)| k ^ s).collect();
        exchange.finish(format!("{without_proof},p={}", BASE64.encode(proof)).as_bytes())
    }

    #[test]
    fn the_right_password_and_no_other_is_accepted() {
        assert!(converse(verifier("pencil"), "pencil").unwrap().starts_with("v="));
        assert_eq!(converse(verifier("pencil"), "pen"), Err(Refusal::WrongPassword));
        assert_eq!(converse(Verifier::for_nobody("eve", b"s"), "pencil"), Err(Refusal::WrongPassword));
    }

    #[test]
    fn tampering_is_refused() {
        let begin = |text: &[u8]| Exchange::begin(verifier("x"), text, &[0; 18]).map(|_| ());
        assert!(matches!(begin(b"p=tls-unique,,n=,r=a"), Err(Refusal::Malformed(_))));
        assert!(matches!(begin(b"n,,n="), Err(Refusal::Malformed(_))));
        assert!(matches!(begin(b"\xff"), Err(Refusal::Malformed(_))));
        let (exchange, _) = Exchange::begin(verifier("x"), b"n,,n=,r=a", &[0; 18]).unwrap();
        assert!(matches!(exchange.finish(b"c=biws,r=other,p=AAAA"), Err(Refusal::Malformed(_))));
    }
}
