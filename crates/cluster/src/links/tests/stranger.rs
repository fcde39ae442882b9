//! Somebody who connects with whatever certificate, and says whatever comes to
//! mind.

use bytes::BytesMut;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::dial::{greet, greeted};
use super::super::frame::Kind;
use super::super::tls::{self, Witness};
use super::*;
use crate::certificates::{Credentials, Made};

/// Credentials that nobody has checked.
pub fn credentials(world: &World, node: u64, made: &Made) -> Arc<Credentials> {
    let good = Credentials::load(&world.files(node), CLUSTER, NodeId(node), NOW).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(made.private_key.as_bytes()).unwrap();
    let own = Arc::new(CertifiedKey::from_der(chain, key, &provider()).unwrap());
    Arc::new(Credentials { own, ..good })
}

/// Connects to `to`, and says hello; gives its answer.
pub async fn knock(world: &World, to: &Links, credentials: Arc<Credentials>) -> Result<TlsStream<TcpStream>, String> {
    let time = tls::Time(world.clock.clone());
    let config = tls::client(&credentials, &time, Witness::new(credentials.clone())).unwrap();
    knock_with(to, config).await
}

pub async fn knock_with(to: &Links, config: rustls::ClientConfig) -> Result<TlsStream<TcpStream>, String> {
    let stream = TcpStream::connect(to.local_address()).await.unwrap();
    let host = ServerName::try_from("whoever").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(host, stream).await.map_err(|e| e.to_string())?;
    greet(&mut stream, Kind::Hello(Traffic::Control)).await.map_err(|e| e.to_string())?;
    match greeted(&mut stream, &mut BytesMut::new()).await? {
        Kind::Welcome => Ok(stream),
        Kind::Rejected(why) => Err(format!("rejected: {why}")),
        other => Err(other.word().to_owned()),
    }
}

/// A stranger with a good certificate, of node 9.
async fn insider(world: &World, to: &Links) -> TlsStream<TcpStream> {
    let made = world.authority.node(NodeId(9), &[], 10, NOW).unwrap();
    knock(world, to, credentials(world, 2, &made)).await.unwrap()
}

/// Waits until the other side hangs up; gives what it said last.
async fn hung_up(mut stream: TlsStream<TcpStream>) -> Option<Kind> {
    let (mut rest, mut last) = (BytesMut::new(), None);
    while stream.read_buf(&mut rest).await.is_ok_and(|bytes| bytes > 0) {}
    while let Ok(Some(content)) = frame::take(&mut rest, 1 << 20) {
        last = frame::decode(content).unwrap().pop().map(|message| message.kind);
    }
    last
}

#[tokio::test]
async fn links_agree_on_a_key_that_no_quantum_computer_finds() {
    let world = World::new();
    let one = world.start(1).await;
    let stream = insider(&world, &one).await;
    let session = stream.get_ref().1;
    assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn what_is_said_wrongly_costs_the_connection_and_nothing_else() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    one.register(ECHO, Arc::new(Echo));
    one.register(GATE, Arc::new(Strict));
    assert!(echo(&two, &one, Traffic::Control, b"before").await.is_ok());
    let framed = |content: &[u8]| [&(content.len() as u32).to_le_bytes(), content].concat();
    let message = |kind, body: &'static [u8]| {
        let mut frame = frame::Frame::default();
        frame.push(&frame::Message { kind, body: Bytes::from_static(body) });
        frame.finish().to_vec()
    };
    let offences = [
        (vec![0xff; 64], "a frame of 4294967295 bytes"),
        (framed(&[9, 1, 2, 3]), "a frame of version 9"),
        (framed(&[frame::VERSION, 200, 200]), "a frame that holds no message"),
        (framed(&[]), "a frame that holds no message"),
        (message(Kind::Hello(Traffic::Bulk), b""), "out of place (hello)"),
        (message(Kind::Answer { id: 1 }, b"?"), "out of place (answer)"),
        (message(Kind::Request { id: 1, service: GATE.0 }, b"malformed"), "cannot be read: at byte 3"),
        (message(Kind::Request { id: 1, service: GATE.0 }, b"unauthorised"), "may not make: not you"),
    ];
    for (n, (bytes, what)) in offences.into_iter().enumerate() {
        let mut stream = insider(&world, &one).await;
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        match hung_up(stream).await {
            Some(Kind::Rejected(why)) => assert!(why.contains(what), "{why}"),
            other => panic!("{what}: {other:?}"),
        }
        until(what, || one.refused().of(Reason::Offence) == n as u64 + 1).await;
        assert!(one.hub.was_logged(what), "{what}");
    }
    assert!(echo(&two, &one, Traffic::Control, b"after").await.is_ok());
    assert_eq!(two.peers()[0].control.connects, 1);
}

#[tokio::test]
async fn a_peer_that_takes_no_answers_holds_up_nobody_and_only_what_bounds_allow() {
    let world = World::new();
    let mut config = world.config(1);
    (config.limits.waiting_bytes, config.limits.calls) = (1 << 20, 16);
    let (one, two) = (Links::start(config).await.unwrap(), world.start(2).await);
    one.register(ECHO, Arc::new(Echo));
    let mut stream = insider(&world, &one).await;
    for id in 0..400 {
        let mut frame = frame::Frame::default();
        let body = Bytes::from(vec![7; 100_000]);
        frame.push(&frame::Message { kind: Kind::Request { id, service: ECHO.0 }, body });
        stream.write_all(&frame.finish()).await.unwrap();
    }
    let slow = one.hub.peer(NodeId(9)).connections().pop().unwrap();
    until("answers are stuck", || slow.calls.being_answered() > 0).await;
    assert!(slow.calls.being_answered() <= 16);
    for _ in 0..20 {
        assert_eq!(echo(&two, &one, Traffic::Control, b"quick").await.unwrap(), echoed(2, b"quick"));
    }
    drop(stream);
    until("it is gone", || slow.is_over() && slow.calls.being_answered() == 0).await;
}

/// Finds fault with everything.
struct Strict;

#[async_trait]
impl Handler for Strict {
    async fn answer(&self, _: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        match &request[..] {
            b"malformed" => Err(Refusal::Malformed("at byte 3".to_owned())),
            _ => Err(Refusal::Unauthorised("not you".to_owned())),
        }
    }
}
