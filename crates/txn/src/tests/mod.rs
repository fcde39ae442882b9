//! Tests of the whole: transactions on replicas.

mod behaviour;
mod byzantine;
mod contention;
mod eventual;
mod history;
mod local;
mod nodes;
mod script;
mod stale;
mod strong;

use bytes::Bytes;
use polity_base::key::KeyBuilder;
use polity_base::{IndexId, Key, Span, Value};

pub(crate) const TABLE: IndexId = IndexId(16384);

/// The key of a row named `name`.
pub(crate) fn key(name: &str) -> Key {
    let mut key = KeyBuilder::new(TABLE);
    key.push(&Value::Text(name.to_string())).unwrap();
    key.finish()
}

/// The name in a key.
pub(crate) fn name(key: &[u8]) -> String {
    let text = key.get(5..).and_then(|rest| rest.strip_suffix(&[0, 0]));
    String::from_utf8_lossy(text.unwrap_or(key)).into_owned()
}

pub(crate) fn all() -> Span {
    Span::of_index(TABLE)
}

pub(crate) fn number(n: i64) -> Bytes {
    Bytes::from(n.to_string())
}

pub(crate) fn to_number(value: &[u8]) -> i64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}
