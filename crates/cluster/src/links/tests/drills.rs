//! Faults on purpose, and what looks like them.

use super::*;

/// Two nodes that notice a silence quickly.
async fn pair(world: &World) -> (Links, Links) {
    let quick = |node| {
        let mut config = world.config(node);
        config.limits.silence = Duration::from_millis(600);
        config.limits.dial_timeout = Duration::from_millis(600);
        config.limits.dial_wait = Duration::from_secs(2);
        config.limits.ping_every = Duration::from_millis(100);
        config
    };
    let (one, two) = (Links::start(quick(1)).await.unwrap(), Links::start(quick(2)).await.unwrap());
    for links in [&one, &two] {
        links.register(ECHO, Arc::new(Echo));
    }
    (one, two)
}

/// Calls until it works again.
async fn recovers(from: &Links, to: &Links) {
    let ample = tokio::time::Instant::now() + Duration::from_secs(60);
    while let Err(error) = echo(from, to, Traffic::Control, b"again").await {
        assert!(tokio::time::Instant::now() < ample, "{error}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn rule(peer: Option<u64>, way: Way, fault: Fault) -> Rule {
    Rule { peer: peer.map(NodeId), way, fault }
}

#[tokio::test]
async fn a_cut_peer_is_noticed_and_found_again() {
    let world = World::new();
    let (one, two) = pair(&world).await;
    for way in [Way::Incoming, Way::Outgoing, Way::Both] {
        for faulty in [&one, &two] {
            recovers(&one, &two).await;
            let other = if faulty.node() == one.node() { two.node() } else { one.node() };
            let number = faulty.faults().set(rule(Some(other.0), way, Fault::Cut)).unwrap();
            let error = echo(&one, &two, Traffic::Control, b"lost").await.unwrap_err();
            assert!(matches!(error, CallError::Lost { .. } | CallError::Unreachable { .. }), "{error}");
            until("it is noticed", || !one.peers()[0].connected).await;
            let error = echo(&one, &two, Traffic::Control, b"lost").await.unwrap_err();
            assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
            assert!(faulty.faults().clear(number));
        }
    }
    recovers(&one, &two).await;
    recovers(&two, &one).await;
}

#[tokio::test]
async fn a_cut_touches_the_named_peer_only() {
    let world = World::new();
    let (one, two) = pair(&world).await;
    let three = world.start(3).await;
    three.register(ECHO, Arc::new(Echo));
    recovers(&one, &two).await;
    one.faults().set(rule(Some(2), Way::Both, Fault::Cut)).unwrap();
    assert!(echo(&one, &three, Traffic::Control, b"").await.is_ok());
    assert!(echo(&one, &two, Traffic::Control, b"").await.is_err());
    one.faults().set(rule(None, Way::Outgoing, Fault::Cut)).unwrap();
    let cut = tokio::time::timeout(Duration::from_millis(300), echo(&one, &three, Traffic::Control, b"")).await;
    assert!(!matches!(cut, Ok(Ok(_))), "{cut:?}");
}

#[tokio::test]
async fn delayed_messages_come_late_and_in_parallel() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    two.register(ECHO, Arc::new(Echo));
    assert!(echo(&one, &two, Traffic::Control, b"").await.is_ok());
    let delay = Fault::Delay { by: Duration::from_millis(150), jitter: Duration::from_millis(20) };
    one.faults().set(rule(Some(2), Way::Outgoing, delay)).unwrap();
    let start = tokio::time::Instant::now();
    let calls: Vec<_> = (0..40).map(|_| call(&one, &two, ECHO, Traffic::Control, "x")).collect();
    for call in calls {
        call.await.unwrap().unwrap();
        assert!(start.elapsed() >= Duration::from_millis(150));
    }
    // One after the other they would have taken six seconds.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    one.faults().clear_all();
    assert!(echo(&one, &two, Traffic::Control, b"").await.is_ok());
}

#[tokio::test]
async fn some_messages_are_dropped() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    two.register(ECHO, Arc::new(Echo));
    assert!(echo(&one, &two, Traffic::Control, b"").await.is_ok());
    two.faults().set(rule(Some(1), Way::Incoming, Fault::Drop { probability: 0.5 })).unwrap();
    let calls: Vec<_> = (0..200).map(|_| call(&one, &two, ECHO, Traffic::Control, "x")).collect();
    until("about half are answered", || calls.iter().filter(|call| call.is_finished()).count() > 60).await;
    two.faults().clear_all();
    // What was sent before this one has come or will not.
    for _ in 0..3 {
        assert!(echo(&one, &two, Traffic::Control, b"").await.is_ok());
    }
    let answered = calls.iter().filter(|call| call.is_finished()).count();
    assert!((60..=140).contains(&answered), "{answered}");
}

#[tokio::test]
async fn a_narrow_line_takes_its_time() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    two.register(ECHO, Arc::new(Echo));
    assert!(echo(&one, &two, Traffic::Bulk, b"").await.is_ok());
    one.faults().set(rule(None, Way::Outgoing, Fault::Bandwidth { bytes_per_second: 1_000_000 })).unwrap();
    let start = tokio::time::Instant::now();
    let calls: Vec<_> = (0..10).map(|_| call(&one, &two, ECHO, Traffic::Bulk, vec![1; 50_000])).collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
}

#[tokio::test]
async fn round_trips_are_measured() {
    let world = World::new();
    let (one, two) = pair(&world).await;
    recovers(&one, &two).await;
    until("a round trip is known", || one.peers()[0].round_trip.is_some()).await;
}
