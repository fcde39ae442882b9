//! Who is not let in.

use rcgen::{CertificateParams, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::stranger::{credentials, knock, knock_with};
use super::*;
use crate::certificates::Made;

const DAY: u64 = 24 * 60 * 60 * 1_000_000_000;

/// Whom the stranger is told to be, and what the log says.
async fn refused(world: &World, to: &Links, made: &Made, told: &str, logged: &str) {
    let before = to.refused().total();
    let answer = knock(world, to, credentials(world, 7, made)).await;
    let answer = answer.expect_err("it was let in");
    assert!(answer.contains(told), "{answer}");
    until("the refusal is counted", || to.refused().total() > before).await;
    assert!(to.hub.was_logged(logged), "{logged}: {:?}", to.hub.log());
}

#[tokio::test]
async fn strangers_are_refused_and_the_log_says_who_and_why() {
    let world = World::new();
    let one = world.start(1).await;
    let folder = world.folder.path();

    // Of an authority that nobody here believes
    let foreign = Authority::create(&folder.join("foreign"), CLUSTER, 30, NOW).unwrap();
    let made = foreign.node(NodeId(2), &[], 10, NOW).unwrap();
    let name = format!("polity://{CLUSTER:032x}/node/2 at 127.0.0.1");
    refused(&world, &one, &made, "alert", &format!("{name} invalid peer certificate")).await;

    // Signed by itself
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.subject_alt_names = vec![SanType::URI(format!("polity://{CLUSTER:032x}/node/2").try_into().unwrap())];
    let certificate = params.self_signed(&key).unwrap().pem();
    let made = Made { certificate, private_key: key.serialize_pem() };
    refused(&world, &one, &made, "alert", &name).await;

    // Run out
    let made = world.authority.node(NodeId(2), &[], 3, Timestamp(NOW.0 - 5 * DAY)).unwrap();
    refused(&world, &one, &made, "CertificateExpired", "certificate expired").await;

    // Not valid yet
    let made = world.authority.node(NodeId(2), &[], 3, Timestamp(NOW.0 + 5 * DAY)).unwrap();
    refused(&world, &one, &made, "alert", "not valid yet").await;

    // Of another cluster, though signed by the same authority
    let astray = Authority::astray(&folder.join("ca"), 0xbad);
    let made = astray.node(NodeId(2), &[], 10, NOW).unwrap();
    refused(
        &world,
        &one,
        &made,
        "rejected: its certificate is of cluster",
        "of cluster 00000000000000000000000000000bad",
    )
    .await;

    // A client's
    let made = world.authority.client("alice", 10, NOW).unwrap();
    refused(&world, &one, &made, "rejected: its certificate is that of", "client/alice, not of a node").await;

    // This node's own
    let made = world.authority.node(NodeId(1), &[], 10, NOW).unwrap();
    refused(&world, &one, &made, "node 1, which is this one", "node 1, which is this one").await;

    let made = world.authority.node(NodeId(2), &[], 10, NOW).unwrap();
    knock(&world, &one, credentials(&world, 7, &made)).await.unwrap();
}

#[tokio::test]
async fn without_certificate_protocol_or_tls_nobody_gets_in() {
    let world = World::new();
    let one = world.start(1).await;
    let made = world.authority.node(NodeId(2), &[], 10, NOW).unwrap();
    let good = credentials(&world, 7, &made);
    let builder = |version: &'static rustls::SupportedProtocolVersion| {
        let time = super::tls::Time(world.clock.clone());
        rustls::ClientConfig::builder_with_details(
            Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            Arc::new(time),
        )
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(super::tls::Witness::new(good.clone()))
    };
    let resolver = || Arc::new(rustls::sign::SingleCertAndKey::from(good.own.clone()));

    let mut anonymous = builder(&rustls::version::TLS13).with_no_client_auth();
    anonymous.alpn_protocols = vec![b"polity-links/1".to_vec()];
    let answer = knock_with(&one, anonymous).await.unwrap_err();
    assert!(answer.contains("CertificateRequired"), "{answer}");

    let mut old = builder(&rustls::version::TLS12).with_client_cert_resolver(resolver());
    old.alpn_protocols = vec![b"polity-links/1".to_vec()];
    let answer = knock_with(&one, old).await.unwrap_err();
    assert!(answer.contains("ProtocolVersion"), "{answer}");

    let silent = builder(&rustls::version::TLS13).with_client_cert_resolver(resolver());
    let answer = knock_with(&one, silent).await.unwrap_err();
    assert!(answer.contains("does not speak the links' protocol"), "{answer}");

    let mut other = builder(&rustls::version::TLS13).with_client_cert_resolver(resolver());
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    let answer = knock_with(&one, other).await.unwrap_err();
    assert!(answer.contains("NoApplicationProtocol"), "{answer}");

    let mut plain = TcpStream::connect(one.local_address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    until("all are counted", || one.refused().total() == 5).await;
}

#[tokio::test]
async fn the_node_that_answers_must_be_the_one_that_was_called() {
    let world = World::new();
    let (one, three) = (world.start(1).await, world.start(3).await);
    let address = three.local_address().to_string();
    let error = one.call(NodeId(2), &address, ECHO, Traffic::Control, Bytes::new()).await.unwrap_err();
    assert!(error.to_string().contains("node 3 answers there"), "{error}");
    assert!(one.hub.was_logged("node 3 answers there"));
}

#[tokio::test]
async fn a_peer_whose_certificate_has_run_out_is_neither_let_in_nor_called() {
    let world = World::new();
    let one = world.start(1).await;
    // Node 2 lives on a day on which node 1's certificate has run out.
    let files = world.places("n2");
    let made = world.authority.node(NodeId(2), &[], 25, NOW).unwrap();
    made.write(&files.certificate, &files.private_key).unwrap();
    let later = Arc::new(SetClock(AtomicU64::new(NOW.0 + 15 * DAY)));
    let mut config = world.config(2);
    config.seams.clock = later;
    let two = Links::start(config).await.unwrap();
    two.register(ECHO, Arc::new(Echo));
    one.register(ECHO, Arc::new(Echo));
    let error = echo(&one, &two, Traffic::Control, b"").await.unwrap_err().to_string();
    assert!(error.contains("CertificateExpired"), "{error}");
    assert!(two.hub.was_logged("certificate expired"), "{:?}", two.hub.log());
    let error = echo(&two, &one, Traffic::Control, b"").await.unwrap_err().to_string();
    assert!(error.contains("certificate expired"), "{error}");
}

#[tokio::test]
async fn a_flood_of_strangers_is_not_a_flood_of_log_lines() {
    let world = World::new();
    let one = world.start(1).await;
    for n in 0..600 {
        one.hub.refused(Reason::Protocol, &format!("stranger {n}"), "for a reason of its own");
    }
    assert_eq!(one.refused().total(), 600);
    assert!(one.hub.log().len() <= 256);
}
