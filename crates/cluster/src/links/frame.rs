//! What links put on the wire.
//!
//! ```text
//! frame    length: u32, little endian    bytes that follow
//!          version: u8                   of everything behind it
//!          message*                      until the frame's end
//! message  (kind, length of the body)    postcard
//!          body
//! ```
//! A frame holds whatever was waiting when it was written, so under load many
//! messages share one frame, one TLS record and one system call.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Refusal, Traffic};

/// The version of what follows it in a frame.
pub const VERSION: u8 = 1;
/// Bytes of a frame before its messages.
pub const HEAD_BYTES: usize = 5;
/// More than the kind and length of any message take, its texts apart.
pub const KIND_BYTES: usize = 64;
/// Messages in a frame. (A frame is read at once, and the smallest messages take
/// far more in memory than on the wire.)
pub const MOST_MESSAGES: usize = 16 * 1024;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// What it is
    pub kind: Kind,
    /// What it carries: a request or its answer; otherwise empty
    pub body: Bytes,
}

/// What a message is. New kinds go to the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Kind {
    /// The first message of whoever dialled: what the connection is for
    Hello(Traffic),
    /// Its answer: go ahead
    Welcome,
    /// Its other answer: go away, and why
    Rejected(String),
    /// Asks a service
    Request {
        /// Names the request in its answer
        id: u64,
        /// The service
        service: u16,
    },
    /// Answers a request
    Answer {
        /// The request
        id: u64,
    },
    /// Refuses a request
    Refused {
        /// The request
        id: u64,
        /// Why
        refusal: Refusal,
    },
    /// Are you there?
    Ping {
        /// Comes back in the answer
        stamp: u64,
    },
    /// Yes.
    Pong {
        /// That of the question
        stamp: u64,
    },
    /// Make a new connection in place of this one, which ends soon
    Retire,
}

/// Why bytes are not a frame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// The frame is larger than allowed.
    #[error("a frame of {bytes} bytes, where {limit} are allowed")]
    Oversized {
        /// Bytes it claims to have
        bytes: usize,
        /// Bytes allowed
        limit: usize,
    },
    /// The frame has another version.
    #[error("a frame of version {0}, where {VERSION} is spoken")]
    Version(u8),
    /// The frame ends within a message, or a message is none.
    #[error("a frame that holds no message where one should be")]
    Message,
    /// The frame holds more messages than are ever put into one.
    #[error("a frame of more than {MOST_MESSAGES} messages")]
    Crowded,
}

impl Kind {
    /// What it is, in a word.
    pub fn word(&self) -> &'static str {
        match self {
            Kind::Hello(_) => "hello",
            Kind::Welcome => "welcome",
            Kind::Rejected(_) => "rejection",
            Kind::Request { .. } => "request",
            Kind::Answer { .. } => "answer",
            Kind::Refused { .. } => "refusal",
            Kind::Ping { .. } => "ping",
            Kind::Pong { .. } => "pong",
            Kind::Retire => "retire",
        }
    }
}

impl Message {
    /// A message without a body.
    pub fn bare(kind: Kind) -> Message {
        Message { kind, body: Bytes::new() }
    }
}

/// Takes the next frame's content off `buffer`; none if it is not whole yet.
pub fn take(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, Malformed> {
    let Some(length) = buffer.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > limit {
        return Err(Malformed::Oversized { bytes: length, limit });
    }
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Reads a frame's content: its version and messages.
pub fn decode(mut frame: Bytes) -> Result<Vec<Message>, Malformed> {
    match frame.first() {
        Some(&VERSION) => frame.advance(1),
        Some(&other) => return Err(Malformed::Version(other)),
        None => return Err(Malformed::Message),
    }
    let mut messages = Vec::new();
    while !frame.is_empty() {
        if messages.len() == MOST_MESSAGES {
            return Err(Malformed::Crowded);
        }
        let ((kind, length), rest) =
            postcard::take_from_bytes::<(Kind, u32)>(&frame).map_err(|_| Malformed::Message)?;
        let (length, head) = (length as usize, frame.len() - rest.len());
        if length > rest.len() {
            return Err(Malformed::Message);
        }
        frame.advance(head);
        messages.push(Message { kind, body: frame.split_to(length) });
    }
    Ok(messages)
}

/// Has postcard write where the frame is.
struct Sink<'a>(&'a mut BytesMut);

impl postcard::ser_flavors::Flavor for Sink<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.put_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Collects messages into one frame.
#[derive(Default)]
pub struct Frame {
    buffer: BytesMut,
    messages: usize,
}

impl Frame {
    /// Adds a message.
    pub fn push(&mut self, message: &Message) {
        self.head(message);
        self.buffer.put_slice(&message.body);
    }

    fn head(&mut self, message: &Message) {
        if self.buffer.is_empty() {
            self.buffer.put_slice(&[0, 0, 0, 0, VERSION]);
        }
        let head = (&message.kind, message.body.len() as u32);
        // Kinds hold numbers and texts, which are always written.
        let _ = postcard::serialize_with_flavor(&head, Sink(&mut self.buffer));
        self.messages += 1;
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Messages so far.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// The finished frame.
    pub fn finish(&mut self) -> Bytes {
        self.finish_before(0)
    }

    /// A frame of one message, without its body: that is to follow.
    pub fn of_one(message: &Message) -> Bytes {
        let mut frame = Frame::default();
        frame.head(message);
        frame.finish_before(message.body.len())
    }

    fn finish_before(&mut self, following: usize) -> Bytes {
        if let Some(length) = self.buffer.first_chunk::<4>().map(|_| self.buffer.len() - 4 + following) {
            self.buffer[..4].copy_from_slice(&(length as u32).to_le_bytes());
        }
        self.messages = 0;
        self.buffer.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages() -> impl Strategy<Value = Vec<Message>> {
        let kind = prop_oneof![
            Just(Kind::Hello(Traffic::Bulk)),
            Just(Kind::Welcome),
            ".*".prop_map(Kind::Rejected),
            (any::<u64>(), any::<u16>()).prop_map(|(id, service)| Kind::Request { id, service }),
            any::<u64>().prop_map(|id| Kind::Answer { id }),
            (any::<u64>(), ".*").prop_map(|(id, why)| Kind::Refused { id, refusal: Refusal::Failed(why) }),
            any::<u64>().prop_map(|stamp| Kind::Ping { stamp }),
            Just(Kind::Retire),
        ];
        let body = proptest::collection::vec(any::<u8>(), 0..300);
        let message = (kind, body).prop_map(|(kind, body)| Message { kind, body: body.into() });
        proptest::collection::vec(message, 1..20)
    }

    proptest! {
        #[test]
        fn frames_are_read_as_written(messages in messages(), cut in 0usize..100) {
            let mut frame = Frame::default();
            messages.iter().for_each(|message| frame.push(message));
            let mut bytes = BytesMut::from(&frame.finish()[..]);
            let whole = bytes.clone();
            // A frame comes in pieces.
            let mut piece = bytes.split_to(cut.min(bytes.len() - 1));
            prop_assert_eq!(take(&mut piece, usize::MAX).unwrap(), None);
            piece.unsplit(bytes);
            let content = take(&mut piece, whole.len() - 4).unwrap().unwrap();
            prop_assert!(piece.is_empty());
            prop_assert_eq!(decode(content).unwrap(), messages);
        }

        #[test]
        fn a_body_may_follow_its_frame(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let message = Message { kind: Kind::Answer { id: 7 }, body: body.into() };
            let mut bytes = BytesMut::from(&Frame::of_one(&message)[..]);
            bytes.put_slice(&message.body);
            prop_assert_eq!(decode(take(&mut bytes, 4096).unwrap().unwrap()).unwrap(), vec![message]);
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = take(&mut buffer, 256) {
                let _ = decode(frame);
            }
            let _ = decode(bytes.into());
        }

        #[test]
        fn damaged_frames_are_survived(messages in messages(), place in any::<usize>(), byte in any::<u8>()) {
            let mut frame = Frame::default();
            messages.iter().for_each(|message| frame.push(message));
            let mut bytes = frame.finish().to_vec();
            let place = 4 + place % (bytes.len() - 4);
            bytes[place] = byte;
            let _ = decode(Bytes::from(bytes).slice(4..));
        }
    }

    #[test]
    fn what_is_too_large_or_new_is_named() {
        let mut buffer = BytesMut::from(&[0xff, 0xff, 0xff, 0x7f][..]);
        assert_eq!(take(&mut buffer, 1000), Err(Malformed::Oversized { bytes: 0x7fff_ffff, limit: 1000 }));
        assert_eq!(decode(Bytes::from_static(&[9, 0])), Err(Malformed::Version(9)));
        assert_eq!(decode(Bytes::new()), Err(Malformed::Message));
    }
}
