//! Certificates change while the links run.

use super::*;

const DAY_SECONDS: i64 = 24 * 60 * 60;
const DAY: u64 = DAY_SECONDS as u64 * 1_000_000_000;

/// Gives the node a new certificate, as its operator would.
fn renew(world: &World, node: u64, days: u32) {
    let (files, new) = (world.places(&format!("n{node}")), world.places("new"));
    let now = Timestamp(world.clock.0.load(Ordering::Relaxed));
    world.authority.node(NodeId(node), &[], days, now).unwrap().write(&new.certificate, &new.private_key).unwrap();
    std::fs::rename(new.private_key, files.private_key).unwrap();
    std::fs::rename(new.certificate, files.certificate).unwrap();
}

#[tokio::test]
async fn new_certificates_replace_the_old_ones_and_no_call_is_lost() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    for renewed in [&one, &two] {
        let gate = Gate::closed();
        two.register(ECHO, Arc::new(Echo));
        two.register(GATE, gate.clone());
        let waiting = call(&one, &two, GATE, Traffic::Control, "across");
        until("it has come", || gate.came() == 1).await;
        let before = one.peers()[0].control.connects;
        let connection = one.hub.peer(NodeId(2)).outbound(Traffic::Control).up().unwrap();
        renew(&world, renewed.node().0, 20);
        renewed.reload().unwrap();
        assert_eq!(renewed.certificate_expires_seconds(), 20 * DAY_SECONDS);
        until("the connection was made anew", || one.peers()[0].control.connects > before).await;
        assert!(echo(&one, &two, Traffic::Control, b"new").await.is_ok());
        assert!(!waiting.is_finished());
        gate.open();
        assert_eq!(waiting.await.unwrap().unwrap(), "across");
        until("the old connection is gone", || connection.is_over()).await;
    }
}

#[tokio::test]
async fn an_old_connection_ends_within_a_bound_though_calls_wait_on_it() {
    let world = World::new();
    let mut config = world.config(2);
    config.limits.retirement = Duration::from_millis(100);
    let (one, two) = (world.start(1).await, Links::start(config).await.unwrap());
    let gate = Gate::closed();
    two.register(GATE, gate.clone());
    let waiting = call(&one, &two, GATE, Traffic::Bulk, "for ever");
    until("it has come", || gate.came() == 1).await;
    two.reload().unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(CallError::Lost { .. })));
}

#[tokio::test]
async fn changed_files_are_noticed_and_bad_ones_change_nothing() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    two.register(ECHO, Arc::new(Echo));
    assert!(echo(&one, &two, Traffic::Control, b"").await.is_ok());
    let files = world.files(1);
    let key = std::fs::read(&files.private_key).unwrap();
    std::fs::write(&files.private_key, std::fs::read(world.files(2).private_key).unwrap()).unwrap();
    let error = one.reload().unwrap_err().to_string();
    assert!(error.contains("n1.key: is not the key of"), "{error}");
    assert!(echo(&one, &two, Traffic::Control, b"").await.is_ok());
    assert_eq!(one.peers()[0].control.connects, 1);
    std::fs::write(&files.private_key, key).unwrap();
    renew(&world, 1, 20);
    until("the new certificate is in use", || one.certificate_expires_seconds() == 20 * DAY_SECONDS).await;
    until("the connection was made anew", || one.peers()[0].control.connects == 2).await;
}

#[tokio::test]
async fn a_connection_ends_when_the_certificate_of_its_peer_runs_out() {
    let world = World::new();
    let (one, two) = (world.start(1).await, world.start(2).await);
    two.register(ECHO, Arc::new(Echo));
    assert!(echo(&one, &two, Traffic::Control, b"").await.is_ok());
    one.hub.end_outlived();
    assert!(one.peers()[0].connected);
    world.clock.0.store(NOW.0 + 11 * DAY, Ordering::Relaxed);
    two.hub.end_outlived();
    let error = loop {
        match echo(&one, &two, Traffic::Control, b"").await {
            Err(error @ CallError::Unreachable { .. }) => break error.to_string(),
            Err(CallError::Lost { .. }) | Ok(_) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    };
    assert!(error.contains("expired") || error.contains("Expired") || error.contains("not valid any more"), "{error}");
    assert_eq!(one.certificate_expires_seconds(), -DAY_SECONDS);
}

#[tokio::test]
async fn the_end_of_the_own_certificate_is_told_once_a_day_with_what_to_do() {
    let world = World::new();
    renew_first(&world, 40);
    let one = world.start(1).await;
    let mut said = None;
    let mut on_day = |day: u64| {
        world.clock.0.store(NOW.0 + day * DAY, Ordering::Relaxed);
        let first = one.hub.warning(&mut said);
        assert_eq!(one.hub.warning(&mut said), None);
        first
    };
    assert_eq!(on_day(10), None);
    for (day, urgent, end) in [
        (11, false, "runs out in 29 days"),
        (12, false, "runs out in 28 days"),
        (40, true, "runs out within a day"),
        (41, true, "has run out"),
        (42, true, "has run out"),
    ] {
        let (told, what) = on_day(day).unwrap();
        assert!(told == urgent && what.contains(end) && what.contains("`polity cert node 1 --host"), "{what}");
    }
    assert_eq!(one.certificate_expires_seconds(), -2 * DAY_SECONDS);
}

/// Gives a node that was not started yet a certificate that is valid for `days`.
fn renew_first(world: &World, days: u32) {
    let files = world.places("n1");
    world.authority.node(NodeId(1), &[], days, NOW).unwrap().write(&files.certificate, &files.private_key).unwrap();
}
