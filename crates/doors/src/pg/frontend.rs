//! What clients send: frames, and the messages in them.
//!
//! ```text
//! frame = type (1 byte) length (4 bytes, itself included) body
//! ```
//! The reader never looks beyond the body of its own frame, never reserves memory
//! for bytes that have not arrived, and refuses what it does not understand; a
//! message that lies about its lengths costs its sender the connection.

use bytes::{Buf, Bytes, BytesMut};

/// Why a client's bytes are not a message.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// A length no message of its type has
    #[error("invalid message length {0}")]
    Length(i64),
    /// A length no opening has
    #[error("invalid length of startup packet")]
    Opening,
    /// A protocol that is not version 3
    #[error("unsupported frontend protocol {0}.{1}: server supports 3.0 to 3.0")]
    Version(u16, u16),
    /// A type byte that no message has
    #[error("invalid frontend message type {0}")]
    Type(u8),
    /// A body that ends before its last field, or goes on after it
    #[error("invalid message format")]
    Format,
    /// Text that is not UTF-8; the bytes that are not
    #[error("invalid byte sequence for encoding \"UTF8\": {0}")]
    Encoding(String),
}

impl Malformed {
    /// Whether what comes after the message cannot be read either.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Malformed::Format | Malformed::Encoding(_))
    }
}

/// The text that `bytes` are.
pub fn utf8(bytes: &[u8]) -> Result<&str, Malformed> {
    std::str::from_utf8(bytes).map_err(|error| {
        let from = error.valid_up_to();
        let wrong = bytes.get(from..).unwrap_or_default();
        let shown: Vec<String> =
            wrong.iter().take(error.error_len().unwrap_or(4)).map(|b| format!("0x{b:02x}")).collect();
        Malformed::Encoding(shown.join(" "))
    })
}

/// Messages that carry data may be this long, in bytes (PostgreSQL's limit).
const LARGE: usize = 0x3FFF_FFFF;
/// Others may be this long.
const SMALL: usize = 10_000;

/// One message, still encoded.
#[derive(Debug)]
pub struct Frame {
    /// The type byte
    pub kind: u8,
    /// The body
    pub body: Bytes,
}

/// Takes the next frame off `input`; `None` until all of it is there.
pub fn next_frame(input: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    let Some((&kind, rest)) = input.split_first() else { return Ok(None) };
    let limit = match kind {
        b'Q' | b'P' | b'B' | b'd' | b'F' => LARGE,
        b'p' | b'D' | b'E' | b'C' | b'H' | b'S' | b'X' | b'c' | b'f' => SMALL,
        _ => return Err(Malformed::Type(kind)),
    };
    let Some(length) = rest.first_chunk::<4>() else { return Ok(None) };
    let length = body_length(*length, limit)?;
    if input.len() < 5 + length {
        return Ok(None);
    }
    input.advance(5);
    Ok(Some(Frame { kind, body: input.split_to(length).freeze() }))
}

fn body_length(bytes: [u8; 4], limit: usize) -> Result<usize, Malformed> {
    let length = i32::from_be_bytes(bytes);
    let body = length.checked_sub(4).and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= limit);
    body.ok_or(Malformed::Length(i64::from(length)))
}

/// Whether a whole Sync message is what comes next.
pub fn sync_follows(input: &[u8]) -> bool {
    input.starts_with(&[b'S', 0, 0, 0, 4])
}

/// What a connection begins with.
#[derive(PartialEq, Eq, Debug)]
pub enum Opening {
    /// May we speak TLS?
    Ssl,
    /// May we speak GSSAPI?
    Gss,
    /// Cancel what another connection runs
    Cancel {
        /// The number that connection was given
        process: i32,
        /// The secret that goes with it
        secret: Vec<u8>,
    },
    /// A session
    Startup {
        /// Minor version of protocol 3
        minor: u16,
        /// Names and values
        parameters: Vec<(String, String)>,
    },
}

/// The longest opening, in bytes.
const LONGEST_OPENING: usize = 10_000;

/// Takes the opening off `input`; `None` until all of it is there.
pub fn next_opening(input: &mut BytesMut) -> Result<Option<Opening>, Malformed> {
    let Some(length) = input.first_chunk::<4>() else { return Ok(None) };
    let length = body_length(*length, LONGEST_OPENING).map_err(|_| Malformed::Opening)?;
    if length < 4 {
        return Err(Malformed::Opening);
    }
    if input.len() < 4 + length {
        return Ok(None);
    }
    input.advance(4);
    let opening = input.split_to(length);
    let mut body = Fields(&opening);
    let code = body.u32()?;
    Ok(Some(match code {
        80_877_103 => Opening::Ssl,
        80_877_104 => Opening::Gss,
        80_877_102 => Opening::Cancel { process: body.u32()? as i32, secret: body.rest().to_vec() },
        _ if code >> 16 == 3 => {
            let mut parameters = Vec::new();
            loop {
                let name = body.text()?;
                if name.is_empty() {
                    break;
                }
                parameters.push((name.to_owned(), body.text()?.to_owned()));
            }
            if !body.0.is_empty() {
                return Err(Malformed::Opening);
            }
            Opening::Startup { minor: (code & 0xFFFF) as u16, parameters }
        }
        _ => return Err(Malformed::Version((code >> 16) as u16, (code & 0xFFFF) as u16)),
    }))
}

/// Which of two kinds of things a Describe or Close names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A prepared statement
    Statement,
    /// A portal
    Portal,
}

/// Format codes as they stand in a message, two bytes each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Codes<'a>(&'a [u8]);

impl Codes<'_> {
    /// How many there are.
    pub fn len(self) -> usize {
        self.0.len() / 2
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// All codes.
    pub fn iter(&self) -> impl Iterator<Item = i16> + '_ {
        self.0.chunks_exact(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]]))
    }
}

/// Values as they stand in a Bind message: each a length (-1 for NULL) and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Values<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Values<'a> {
    /// How many there are.
    pub fn len(self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// All values; `None` is NULL.
    pub fn iter(self) -> impl Iterator<Item = Option<&'a [u8]>> {
        let mut rest = Fields(self.bytes);
        // Their lengths were checked when the message was decoded.
        (0..self.count).map(move |_| rest.value().unwrap_or_default())
    }
}

/// A message, borrowing what it says from its frame. An empty name means the
/// unnamed statement or portal.
#[derive(PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the fields are the protocol's (PostgreSQL manual, 55.7)
pub enum Message<'a> {
    Query { text: &'a str },
    Parse { name: &'a str, text: &'a str, types: Vec<u32> },
    Bind { portal: &'a str, statement: &'a str, formats: Codes<'a>, values: Values<'a>, results: Codes<'a> },
    Describe { target: Target, name: &'a str },
    Execute { portal: &'a str, rows: usize },
    Close { target: Target, name: &'a str },
    Flush,
    Sync,
    Terminate,
    CopyData(&'a [u8]),
    CopyDone,
    CopyFail { reason: &'a str },
    Password(&'a [u8]),
    FunctionCall,
}

/// Decodes a frame.
pub fn decode(frame: &Frame) -> Result<Message<'_>, Malformed> {
    let mut body = Fields(&frame.body);
    let message = match frame.kind {
        b'Q' => Message::Query { text: body.text()? },
        b'P' => {
            let (name, text) = (body.text()?, body.text()?);
            let types = (0..body.count(4)?).map(|_| body.u32()).collect::<Result<_, _>>()?;
            Message::Parse { name, text, types }
        }
        b'B' => {
            let (portal, statement) = (body.text()?, body.text()?);
            Message::Bind { portal, statement, formats: body.codes()?, values: body.values()?, results: body.codes()? }
        }
        b'D' => Message::Describe { target: body.target()?, name: body.text()? },
        b'C' => Message::Close { target: body.target()?, name: body.text()? },
        b'E' => {
            let portal = body.text()?;
            // Zero and less mean no limit.
            let rows = usize::try_from(body.u32()? as i32).ok().filter(|n| *n > 0).unwrap_or(usize::MAX);
            Message::Execute { portal, rows }
        }
        b'H' => Message::Flush,
        b'S' => Message::Sync,
        b'X' => Message::Terminate,
        b'd' => Message::CopyData(body.rest()),
        b'c' => Message::CopyDone,
        b'f' => Message::CopyFail { reason: body.text()? },
        b'p' => Message::Password(body.rest()),
        b'F' => {
            body.rest();
            Message::FunctionCall
        }
        other => return Err(Malformed::Type(other)),
    };
    if body.0.is_empty() { Ok(message) } else { Err(Malformed::Format) }
}

/// Reads fields off a body, within its bounds.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Format)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Format)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A count of things that take at least `size` bytes each.
    fn count(&mut self, size: usize) -> Result<usize, Malformed> {
        let count = usize::from(self.array().map(u16::from_be_bytes)?);
        if count * size <= self.0.len() { Ok(count) } else { Err(Malformed::Format) }
    }

    fn codes(&mut self) -> Result<Codes<'a>, Malformed> {
        let count = self.count(2)?;
        self.take(count * 2).map(Codes)
    }

    fn values(&mut self) -> Result<Values<'a>, Malformed> {
        let count = self.count(4)?;
        let from = self.0;
        for _ in 0..count {
            self.value()?;
        }
        let (bytes, _) = from.split_at_checked(from.len() - self.0.len()).ok_or(Malformed::Format)?;
        Ok(Values { count, bytes })
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(Malformed::Format)?;
        let text = utf8(self.take(end)?)?;
        self.take(1)?;
        Ok(text)
    }

    fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.u32()? as i32 {
            -1 => Ok(None),
            length => self.take(usize::try_from(length).map_err(|_| Malformed::Format)?).map(Some),
        }
    }

    fn target(&mut self) -> Result<Target, Malformed> {
        match self.array::<1>()? {
            [b'S'] => Ok(Target::Statement),
            [b'P'] => Ok(Target::Portal),
            _ => Err(Malformed::Format),
        }
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(bytes: &[u8]) -> Result<Option<Frame>, Malformed> {
        next_frame(&mut BytesMut::from(bytes))
    }

    /// The error in what a client sent.
    fn error(bytes: &[u8]) -> Option<Malformed> {
        match frame(bytes) {
            Ok(frame) => decode(&frame?).err(),
            Err(error) => Some(error),
        }
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn whole_messages_are_read_and_parts_are_waited_for() {
        let query = message(b'Q', b"select 1\0");
        let whole = frame(&query).unwrap().unwrap();
        assert_eq!(decode(&whole), Ok(Message::Query { text: "select 1" }));
        for end in 0..query.len() {
            assert!(frame(&query[..end]).unwrap().is_none());
        }
        assert!(sync_follows(b"S\0\0\0\x04B"));
        assert!(!sync_follows(b"S\0\0"));
    }

    #[test]
    fn a_bind_is_read_without_copies() {
        let body = b"p\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x02ab\0\x02\0\x00\0\x01";
        let whole = frame(&message(b'B', body)).unwrap().unwrap();
        let Ok(Message::Bind { portal, statement, formats, values, results }) = decode(&whole) else { panic!() };
        assert_eq!((portal, statement), ("p", "s"));
        assert_eq!(formats.iter().collect::<Vec<_>>(), [1]);
        assert_eq!(values.iter().collect::<Vec<_>>(), [None, Some(b"ab".as_slice())]);
        assert_eq!(results.iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn lies_about_lengths_are_refused() {
        assert_eq!(error(b"Q\0\0\0\x03"), Some(Malformed::Length(3)));
        assert_eq!(error(b"Q\x7f\xff\xff\xff"), Some(Malformed::Length(i64::from(i32::MAX))));
        assert_eq!(error(b"Q\xff\xff\xff\xff"), Some(Malformed::Length(-1)));
        assert_eq!(error(b"S\0\x10\0\0"), Some(Malformed::Length(0x10_0000)));
        assert_eq!(error(b"Q\0\0\0\x08abcd"), Some(Malformed::Format));
        assert_eq!(error(b"Q\0\0\0\x06\xff\0"), Some(Malformed::Encoding("0xff".into())));
        // A Bind that claims more values than it has bytes, and one with a negative length.
        assert_eq!(error(b"B\0\0\0\x0a\0\0\0\0\xff\xff"), Some(Malformed::Format));
        assert_eq!(error(&message(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0")), Some(Malformed::Format));
        assert_eq!(error(b"S\0\0\0\x05x"), Some(Malformed::Format));
        assert_eq!(error(b"?"), Some(Malformed::Type(b'?')));
    }

    #[test]
    fn openings_are_told_apart() {
        let read = |code: u32, rest: &[u8]| {
            let mut bytes = BytesMut::from(&(rest.len() as u32 + 8).to_be_bytes()[..]);
            bytes.extend_from_slice(&code.to_be_bytes());
            bytes.extend_from_slice(rest);
            next_opening(&mut bytes)
        };
        assert_eq!(read(80_877_103, b""), Ok(Some(Opening::Ssl)));
        assert_eq!(
            read(3 << 16, b"user\0a\0\0"),
            Ok(Some(Opening::Startup { minor: 0, parameters: vec![("user".into(), "a".into())] }))
        );
        assert_eq!(read(2 << 16, b""), Err(Malformed::Version(2, 0)));
        assert_eq!(read(3 << 16, b"user\0a\0"), Err(Malformed::Format));
        // A TLS handshake where an opening should be.
        assert_eq!(next_opening(&mut BytesMut::from(&b"\x16\x03\x01\x02\x00\x01"[..])), Err(Malformed::Opening));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            kind in proptest::sample::select(b"QPBDCEHSXdcfpF".to_vec()),
            body in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..64),
        ) {
            let bytes = message(kind, &body);
            if let Ok(Some(frame)) = frame(&bytes)
                && let Ok(Message::Bind { values, formats, .. }) = decode(&frame)
            {
                prop_assert_eq!(values.iter().count(), values.len());
                prop_assert_eq!(formats.iter().count(), formats.len());
            }
            let _ = next_opening(&mut BytesMut::from(&bytes[1..]));
        }

        #[test]
        fn a_stream_is_cut_alike_wherever_it_is_split(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 1..6),
            step in 1usize..9,
        ) {
            let stream: Vec<u8> = bodies.iter().flat_map(|b| message(b'd', b)).collect();
            let mut input = BytesMut::new();
            let mut found = Vec::new();
            for part in stream.chunks(step) {
                input.extend_from_slice(part);
                while let Some(frame) = next_frame(&mut input).unwrap() {
                    found.push(frame.body.to_vec());
                }
            }
            prop_assert_eq!(found, bodies);
        }
    }
}
