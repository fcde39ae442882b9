//! The bytes of what nodes say to each other: postcard, and nothing behind it.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The bytes of a message.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Bytes, String> {
    postcard::to_stdvec(message).map(Bytes::from).map_err(|e| format!("cannot be sent: {e}"))
}

/// A message from its bytes, all of them.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err("has bytes behind its end".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}
