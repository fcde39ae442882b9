//! How things that are signed, hashed or kept in files are written: by hand, byte by
//! byte, in one way only.
//!
//! ```text
//! number  fixed width, big endian
//! bytes   length u32, then the bytes            text likewise, in UTF-8
//! list    count u32, then the elements
//! choice  one byte that says which, then its fields
//! ```
//! Whoever reads checks every length against what is left, takes no count for true
//! that could not be, and refuses bytes that are left over. Where an encoding could be
//! written in two ways (values inside of rows), what was read is written again and
//! must come out the same: two different strings of bytes are never one thing.

use polity_base::NodeId;

use crate::hash::Hash;
use crate::types::Height;

/// Bytes that are not what they should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what} at byte {offset}")]
pub struct DecodeError {
    /// Where reading stopped, in bytes
    pub offset: usize,
    /// What is wrong there
    pub what: &'static str,
}

/// Writing, each thing at the end of what is there.
pub trait Write {
    /// Bytes as they are.
    fn raw(&mut self, bytes: &[u8]);

    /// One byte.
    fn byte(&mut self, value: u8) {
        self.raw(&[value]);
    }

    /// Two bytes.
    fn u16(&mut self, value: u16) {
        self.raw(&value.to_be_bytes());
    }

    /// Four bytes.
    fn u32(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    /// Eight bytes.
    fn u64(&mut self, value: u64) {
        self.raw(&value.to_be_bytes());
    }

    /// Eight bytes, in two's complement.
    fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    /// Sixteen bytes.
    fn u128(&mut self, value: u128) {
        self.raw(&value.to_be_bytes());
    }

    /// A length or a count.
    fn count(&mut self, value: usize) {
        self.u32(u32::try_from(value).unwrap_or(u32::MAX));
    }

    /// Bytes with their length.
    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    /// 0, or 1 and what `write` writes.
    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.byte(0),
            Some(value) => {
                self.byte(1);
                write(self, value);
            }
        }
    }
}

impl Write for Vec<u8> {
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Reading, from the front.
#[derive(Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    offset: usize,
}

/// What reading gives.
pub type Decoded<T> = Result<T, DecodeError>;

impl<'a> Reader<'a> {
    /// Reads `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes, offset: 0 }
    }

    /// Reads all of `bytes` with `read`, and refuses bytes that are left over.
    pub fn whole<T>(bytes: &'a [u8], read: impl FnOnce(&mut Reader<'a>) -> Decoded<T>) -> Decoded<T> {
        let mut reader = Reader::new(bytes);
        let value = read(&mut reader)?;
        match reader.rest {
            [] => Ok(value),
            _ => Err(reader.error("there is more than belongs there")),
        }
    }

    /// The error that `what` is wrong here.
    pub fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { offset: self.offset, what }
    }

    /// How many bytes are left.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Where reading is, in bytes from the beginning.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// So many bytes.
    pub fn raw(&mut self, count: usize) -> Decoded<&'a [u8]> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(self.error("it ends too early"));
        };
        self.rest = rest;
        self.offset += count;
        Ok(taken)
    }

    /// So many bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let error = self.error("it ends too early");
        self.raw(N)?.try_into().map_err(|_| error)
    }

    /// One byte.
    pub fn byte(&mut self) -> Decoded<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Decoded<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// Eight bytes, in two's complement.
    pub fn i64(&mut self) -> Decoded<i64> {
        self.array().map(i64::from_be_bytes)
    }

    /// Sixteen bytes.
    pub fn u128(&mut self) -> Decoded<u128> {
        self.array().map(u128::from_be_bytes)
    }

    /// A hash.
    pub fn hash(&mut self) -> Decoded<Hash> {
        self.array()
    }

    /// A height.
    pub fn height(&mut self) -> Decoded<Height> {
        self.u64().map(Height)
    }

    /// A node.
    pub fn node(&mut self) -> Decoded<NodeId> {
        self.u64().map(NodeId)
    }

    /// How many elements follow, of at least `least` bytes each.
    pub fn count(&mut self, least: usize) -> Decoded<usize> {
        let error = self.error("a count is larger than what follows");
        let count = self.u32()? as usize;
        match count.checked_mul(least.max(1)) {
            Some(bytes) if bytes <= self.rest.len() => Ok(count),
            _ => Err(error),
        }
    }

    /// Bytes with their length.
    pub fn bytes(&mut self) -> Decoded<&'a [u8]> {
        let count = self.count(1)?;
        self.raw(count)
    }

    /// Text with its length.
    pub fn text(&mut self) -> Decoded<&'a str> {
        let error = self.error("text is not UTF-8");
        std::str::from_utf8(self.bytes()?).map_err(|_| error)
    }

    /// 0, or 1 and what `read` reads.
    pub fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Decoded<T>) -> Decoded<Option<T>> {
        let error = self.error("neither there nor not there");
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(error),
        }
    }

    /// A list whose elements take at least `least` bytes each.
    pub fn list<T>(&mut self, least: usize, mut read: impl FnMut(&mut Self) -> Decoded<T>) -> Decoded<Vec<T>> {
        let count = self.count(least)?;
        (0..count).map(|_| read(self)).collect()
    }

    /// The name of what follows, which must be `name`.
    pub fn name(&mut self, name: &'static str) -> Decoded<()> {
        let error = self.error("it is of another kind or version");
        match self.raw(name.len()) {
            Ok(found) if found == name.as_bytes() => Ok(()),
            _ => Err(error),
        }
    }
}

/// Lets serde see a type as the bytes that its `encode` gives, which its `decode`
/// reads.
macro_rules! serde_as_bytes {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.encode())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                let bytes = <bytes::Bytes as serde::Deserialize>::deserialize(deserializer)?;
                <$type>::decode(&bytes).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_bytes;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut out = Vec::new();
        out.byte(7);
        out.u16(300);
        out.i64(-2);
        out.u128(1 << 100);
        out.bytes(b"abc");
        out.option(Some(9u64), |out, n| out.u64(n));
        out.option(None::<u64>, |out, n| out.u64(n));
        let mut reader = Reader::new(&out);
        assert_eq!(reader.byte(), Ok(7));
        assert_eq!(reader.u16(), Ok(300));
        assert_eq!(reader.i64(), Ok(-2));
        assert_eq!(reader.u128(), Ok(1 << 100));
        assert_eq!(reader.text(), Ok("abc"));
        assert_eq!(reader.option(Reader::u64), Ok(Some(9)));
        assert_eq!(reader.option(Reader::u64), Ok(None));
        assert_eq!(reader.left(), 0);
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_before_anything_is_reserved() {
        let mut huge = Vec::new();
        huge.u32(u32::MAX);
        assert!(Reader::new(&huge).bytes().is_err());
        assert!(Reader::new(&huge).list(0, Reader::byte).is_err());
        assert!(Reader::whole(&[0, 0], Reader::byte).is_err());
        assert!(Reader::new(&[2]).option(Reader::byte).is_err());
    }
}
