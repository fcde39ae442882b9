//! What a peer sends over a link: frames, the messages in them, and Raft's requests
//! and responses in those.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use polity_base::RangeId;
use polity_cluster::links::frame;
use polity_raft::network::{Request, Response};

/// As for a control connection, in small.
const LIMIT: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(content)) = frame::take(&mut buffer, LIMIT) {
        let Ok(messages) = frame::decode(content) else { break };
        for message in messages {
            let _ = postcard::take_from_bytes::<(RangeId, Request)>(&message.body);
            let _ = postcard::take_from_bytes::<Response>(&message.body);
            // What is read is written the same.
            let mut frame = frame::Frame::default();
            frame.push(&message);
            let mut again = BytesMut::from(&frame.finish()[..]);
            let content = frame::take(&mut again, usize::MAX).expect("a frame").expect("whole");
            assert_eq!(frame::decode(content).expect("messages"), [message]);
        }
    }
});
