//! Calls: answers and errors.

use super::*;

#[tokio::test]
async fn a_call_is_answered_and_the_caller_is_who_its_certificate_says() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    two.register(ECHO, Arc::new(Echo));
    one.register(ECHO, Arc::new(Echo));
    for traffic in [Traffic::Control, Traffic::Bulk] {
        assert_eq!(echo(&one, &two, traffic, b"hello").await.unwrap(), echoed(1, b"hello"));
        assert_eq!(echo(&two, &one, traffic, b"").await.unwrap(), echoed(2, b""));
    }
    let links = one.peers();
    assert!(links[0].connected && links[0].accepted && links[0].node == NodeId(2), "{links:?}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_of_all_sizes_share_the_connections() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    two.register(ECHO, Arc::new(Echo));
    let sizes = [0, 1, 200, 5_000, 40_000, 70_000, 300_000];
    let mut calls = Vec::new();
    for n in 0..700usize {
        let traffic = if n % 3 == 0 { Traffic::Bulk } else { Traffic::Control };
        let request = Bytes::from(vec![n as u8; sizes[n % sizes.len()]]);
        calls.push((request.clone(), call(&one, &two, ECHO, traffic, request)));
    }
    for (n, (request, call)) in calls.into_iter().enumerate() {
        match call.await.unwrap() {
            Ok(answer) => assert_eq!(answer, echoed(1, &request), "call {n}"),
            // Control calls may not wait for room.
            Err(CallError::Overloaded { .. }) if n % 3 != 0 => {}
            Err(error) => panic!("call {n}: {error}"),
        }
    }
    let peer = one.peers().remove(0);
    assert_eq!((peer.control.connects, peer.bulk.connects, peer.waiting), (1, 1, 0), "{peer:?}");
    assert!(peer.bulk.messages_sent == 234 && peer.control.messages_sent > 200, "{peer:?}");
    for traffic in [peer.bulk, peer.control] {
        assert!(traffic.bytes_received > 1_000_000 && traffic.bytes_sent > 1_000_000, "{peer:?}");
    }
}

#[tokio::test]
async fn a_slow_request_delays_no_other_and_answers_may_overtake() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    let gate = Gate::closed();
    two.register(ECHO, Arc::new(Echo));
    two.register(GATE, gate.clone());
    let slow: Vec<_> = (0..50).map(|n| call(&one, &two, GATE, Traffic::Control, vec![n])).collect();
    until("all requests are being answered", || gate.came() == 50).await;
    assert_eq!(echo(&one, &two, Traffic::Control, b"quick").await.unwrap(), echoed(1, b"quick"));
    gate.open();
    for (n, slow) in slow.into_iter().enumerate() {
        assert_eq!(slow.await.unwrap().unwrap(), vec![n as u8]);
    }
}

#[tokio::test]
async fn a_caller_may_go_away() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    let gate = Gate::closed();
    two.register(ECHO, Arc::new(Echo));
    two.register(GATE, gate.clone());
    let calls: Vec<_> = (0..5).map(|n| call(&one, &two, GATE, Traffic::Control, vec![n])).collect();
    until("they have come", || gate.came() == 5).await;
    assert_eq!((one.peers()[0].waiting, two.peers()[0].being_answered), (5, 5));
    for call in calls {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert_eq!((one.peers()[0].waiting, two.peers()[0].being_answered), (0, 5));
    gate.open();
    assert!(echo(&one, &two, Traffic::Control, b"still").await.is_ok());
}

/// Refuses or panics, as it is asked.
struct Moody;

#[async_trait]
impl Handler for Moody {
    async fn answer(&self, _: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        match &request[..] {
            b"panic" => panic!("asked to"),
            b"long" => Ok(vec![0; 10_000].into()),
            other => Err(Refusal::Failed(String::from_utf8_lossy(other).into_owned())),
        }
    }
}

#[tokio::test]
async fn refusals_reach_the_caller_and_leave_the_connection() {
    let world = World::new();
    let mut config = world.config(2);
    config.limits.control_bytes = 5_000;
    let (one, two) = (world.start(1).await, Links::start(config).await.unwrap());
    two.register(ECHO, Arc::new(Echo));
    two.register(GATE, Arc::new(Moody));
    let refusal = async |service, request: &'static [u8]| match call(&one, &two, service, Traffic::Control, request)
        .await
        .unwrap()
        .unwrap_err()
    {
        CallError::Refused { refusal, .. } => refusal,
        other => panic!("{other}"),
    };
    assert_eq!(refusal(Service(77), b"").await, Refusal::NoService);
    assert_eq!(refusal(GATE, b"no").await, Refusal::Failed("no".to_owned()));
    assert!(refusal(GATE, b"panic").await.to_string().contains("fault in Polity"));
    assert!(refusal(GATE, b"long").await.to_string().contains("takes 10000 bytes"));
    assert!(echo(&one, &two, Traffic::Control, b"still").await.is_ok());
    let traffic = one.peers()[0].control;
    assert_eq!((traffic.refused, traffic.connects), (4, 1));
}

#[tokio::test]
async fn what_cannot_be_reached_is_said_at_once_and_with_the_reason() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    let address = two.local_address().to_string();
    two.stop().await;
    let call = |to| one.call(NodeId(to), &address, ECHO, Traffic::Control, Bytes::new());
    let Err(CallError::Unreachable { why, .. }) = call(2).await else { panic!("reached") };
    assert!(why.contains("refused") && why.contains(&address), "{why}");
    let Err(CallError::Unreachable { why, .. }) = call(1).await else { panic!("reached") };
    assert!(why.contains("this node itself"), "{why}");
    let nowhere = one.call(NodeId(3), "", ECHO, Traffic::Bulk, Bytes::new()).await;
    assert!(matches!(nowhere, Err(CallError::Unreachable { .. })), "{nowhere:?}");
}

#[tokio::test]
async fn calls_in_flight_are_lost_with_their_peer_and_the_next_ones_find_it_again() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    let gate = Gate::closed();
    two.register(GATE, gate.clone());
    let (lost, address) = (call(&one, &two, GATE, Traffic::Control, "x"), two.local_address());
    until("it has come", || gate.came() == 1).await;
    two.stop().await;
    assert!(matches!(lost.await.unwrap(), Err(CallError::Lost { .. })));

    let again = Links::start(LinksConfig { listen: address, ..world.config(2) }).await.unwrap();
    again.register(ECHO, Arc::new(Echo));
    let ample = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        match echo(&one, &again, Traffic::Control, b"back").await {
            Ok(answer) => break assert_eq!(answer, echoed(1, b"back")),
            Err(CallError::Unreachable { .. } | CallError::Lost { .. }) => {
                assert!(tokio::time::Instant::now() < ample);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // The new node had no services for a moment.
            Err(CallError::Refused { refusal: Refusal::NoService, .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(one.peers()[0].control.connects, 2);
}

#[tokio::test]
async fn nothing_runs_after_stop() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    let gate = Gate::closed();
    two.register(GATE, gate.clone());
    let call = call(&one, &two, GATE, Traffic::Bulk, "x");
    until("it has come", || gate.came() == 1).await;
    let address = one.local_address();
    one.stop().await;
    two.stop().await;
    assert!(call.await.unwrap().is_err());
    assert_eq!(Arc::strong_count(&gate), 1);
    // The port is free.
    tokio::net::TcpListener::bind(address).await.unwrap();
}
