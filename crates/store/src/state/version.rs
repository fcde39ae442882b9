//! The key of one version of a row, as redb stores it.
//!
//! ```text
//!   user key | !timestamp, 8 bytes big endian
//! ```
//! Versions sort by user key and then newest first. Keys may be prefixes of each
//! other, so the bytes do not compare as a whole: `a` at a late timestamp would
//! fall between versions of `ab`. [`VersionedKey`] compares the two parts one
//! after the other, which needs no escaping and leaves user keys readable where
//! they lie.
//!
//! The value is one tag byte, then the row: `0` stands for a deleted row, `1` for
//! one that exists.

use std::borrow::Cow;
use std::cmp::Ordering;

use polity_base::Timestamp;
use redb::TypeName;

/// Bytes of the timestamp at a versioned key's end.
const SUFFIX: usize = 8;

const DELETED: u8 = 0;
const EXISTS: u8 = 1;

/// redb's key type of versions.
#[derive(Debug)]
pub(super) struct VersionedKey;

impl redb::Value for VersionedKey {
    type SelfType<'a> = &'a [u8];
    type AsBytes<'a> = &'a [u8];

    fn fixed_width() -> Option<usize> {
        None
    }

    fn from_bytes<'a>(data: &'a [u8]) -> &'a [u8]
    where
        Self: 'a,
    {
        data
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a &'b [u8]) -> &'a [u8]
    where
        Self: 'b,
    {
        value
    }

    fn type_name() -> TypeName {
        TypeName::new("polity::VersionedKey")
    }
}

impl redb::Key for VersionedKey {
    fn compare(a: &[u8], b: &[u8]) -> Ordering {
        let ((a, at), (b, bt)) = (halves(a), halves(b));
        a.cmp(b).then_with(|| at.cmp(bt))
    }

    /// The shortest user key after the left one and not after the right one, with
    /// a suffix that sorts before all others.
    fn separator<'a>(left: &'a [u8], right: &'a [u8]) -> Cow<'a, [u8]> {
        let ((a, _), (b, _)) = (halves(left), halves(right));
        let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
        // b[..=common] is greater than a, as it differs from it or extends it,
        // and is b itself or a prefix of it. b itself would need a suffix before
        // its own; a true prefix needs none in particular.
        if common + 1 < b.len() && common + 1 < a.len() {
            let mut separator = Vec::with_capacity(common + 1 + SUFFIX);
            separator.extend_from_slice(&b[..=common]);
            separator.extend_from_slice(&[0; SUFFIX]);
            return Cow::Owned(separator);
        }
        Cow::Borrowed(left)
    }
}

fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len().saturating_sub(SUFFIX))
}

/// The user key and the timestamp of a versioned key.
pub(super) fn split(bytes: &[u8]) -> (&[u8], Timestamp) {
    let (key, suffix) = halves(bytes);
    let inverted = suffix.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    (key, Timestamp(!inverted))
}

/// Writes the versioned key of `key` at `at` to `out`, in place of what is there.
pub(super) fn join<'a>(key: &[u8], at: Timestamp, out: &'a mut Vec<u8>) -> &'a [u8] {
    out.clear();
    out.reserve(key.len() + SUFFIX);
    out.extend_from_slice(key);
    out.extend_from_slice(&(!at.0).to_be_bytes());
    out
}

/// Writes the stored form of a row, or of its absence, to `out`.
pub(super) fn wrap<'a>(value: Option<&[u8]>, out: &'a mut Vec<u8>) -> &'a [u8] {
    out.clear();
    match value {
        Some(value) => {
            out.reserve(value.len() + 1);
            out.push(EXISTS);
            out.extend_from_slice(value);
        }
        None => out.push(DELETED),
    }
    out
}

/// The row that a stored form holds, if it is one.
pub(super) fn unwrap(stored: &[u8]) -> Option<&[u8]> {
    match stored.split_first() {
        Some((&EXISTS, value)) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use redb::Key;

    use super::*;

    fn pair() -> impl Strategy<Value = (Vec<u8>, Timestamp)> {
        let byte = prop_oneof![Just(0u8), Just(255), Just(7)];
        let at = prop_oneof![Just(0u64), Just(u64::MAX), 0u64..4, any::<u64>()];
        (proptest::collection::vec(byte, 0..5), at.prop_map(Timestamp))
    }

    proptest! {
        #[test]
        fn versions_sort_by_key_and_then_newest_first((a, at) in pair(), (b, bt) in pair()) {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            let (x, y) = (join(&a, at, &mut x), join(&b, bt, &mut y));
            prop_assert_eq!(VersionedKey::compare(x, y), a.cmp(&b).then(bt.cmp(&at)));
            prop_assert_eq!(split(x), (&a[..], at));
        }

        #[test]
        fn separators_separate((a, at) in pair(), (b, bt) in pair()) {
            let (mut x, mut y) = (Vec::new(), Vec::new());
            let (x, y) = (join(&a, at, &mut x), join(&b, bt, &mut y));
            prop_assume!(VersionedKey::compare(x, y).is_lt());
            let s = VersionedKey::separator(x, y);
            prop_assert!(s.len() <= x.len());
            prop_assert!(VersionedKey::compare(x, &s).is_le() && VersionedKey::compare(&s, y).is_lt());
        }
    }

    #[test]
    fn a_deleted_row_differs_from_an_empty_one() {
        let mut out = Vec::new();
        assert_eq!(unwrap(wrap(Some(b""), &mut out)), Some(&b""[..]));
        assert_eq!(unwrap(wrap(None, &mut out)), None);
    }
}
