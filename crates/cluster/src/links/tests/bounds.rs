//! What waits is bounded, and bulk never stands before control.

use super::*;

#[tokio::test]
async fn control_calls_fail_at_once_where_too_many_wait_and_other_services_are_not_touched() {
    let world = World::new();
    let mut config = world.config(1);
    config.limits.calls = 4;
    let (one, two) = (Links::start(config).await.unwrap(), world.start(2).await);
    let gate = Gate::closed();
    two.register(ECHO, Arc::new(Echo));
    two.register(GATE, gate.clone());
    let waiting: Vec<_> = (0..4).map(|n| call(&one, &two, GATE, Traffic::Control, vec![n])).collect();
    until("they have come", || gate.came() == 4).await;
    let refused = call(&one, &two, GATE, Traffic::Control, "fifth").await.unwrap();
    assert!(matches!(refused, Err(CallError::Overloaded { .. })), "{refused:?}");
    assert!(echo(&one, &two, Traffic::Control, b"other").await.is_ok());
    gate.open();
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
    assert!(call(&one, &two, GATE, Traffic::Control, "sixth").await.unwrap().is_ok());
}

#[tokio::test]
async fn a_peer_that_asks_too_much_is_refused_by_the_one_it_asks() {
    let world = World::new();
    let mut config = world.config(2);
    config.limits.calls = 4;
    let (one, two) = (world.start(1).await, Links::start(config).await.unwrap());
    let gate = Gate::closed();
    two.register(ECHO, Arc::new(Echo));
    two.register(GATE, gate.clone());
    let waiting: Vec<_> = (0..4).map(|n| call(&one, &two, GATE, Traffic::Control, vec![n])).collect();
    until("they have come", || gate.came() == 4).await;
    let refused = call(&one, &two, GATE, Traffic::Control, "fifth").await.unwrap();
    let overloaded = CallError::Refused { to: NodeId(2), refusal: Refusal::Overloaded };
    assert_eq!(refused, Err(overloaded));
    assert!(echo(&one, &two, Traffic::Control, b"other").await.is_ok());
    gate.open();
    for waiting in waiting {
        waiting.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn control_passes_while_bulk_is_stuck() {
    let world = World::new();
    let small = |node| {
        let mut config = world.config(node);
        config.limits.waiting_bytes = 1 << 20;
        config
    };
    let (one, two) = (Links::start(small(1)).await.unwrap(), Links::start(small(2)).await.unwrap());
    let gate = Gate::closed();
    two.register(ECHO, Arc::new(Echo));
    two.register(GATE, gate.clone());
    // Far more than sockets and budgets hold: the receiver has stopped reading, and
    // the sender's queue is full.
    let stuck: Vec<_> = (0..64).map(|_| call(&one, &two, GATE, Traffic::Bulk, vec![7; 512 << 10])).collect();
    until("bulk is being answered", || gate.came() > 0).await;
    for _ in 0..100 {
        assert_eq!(echo(&one, &two, Traffic::Control, b"urgent").await.unwrap(), echoed(1, b"urgent"));
    }
    assert!(gate.came() < 64, "nothing was stuck");
    assert!(stuck.iter().all(|call| !call.is_finished()));
    gate.open();
    for stuck in stuck {
        assert_eq!(stuck.await.unwrap().unwrap().len(), 512 << 10);
    }
    assert_eq!(gate.came(), 64);
}

#[tokio::test]
async fn messages_larger_than_allowed_are_not_sent() {
    let world = World::new();
    let mut config = world.config(1);
    (config.limits.control_bytes, config.limits.bulk_bytes) = (100, 200_000);
    let (one, two) = (Links::start(config).await.unwrap(), world.start(2).await);
    two.register(ECHO, Arc::new(Echo));
    let too_large = call(&one, &two, ECHO, Traffic::Control, vec![0; 101]).await.unwrap();
    assert_eq!(too_large, Err(CallError::TooLarge { bytes: 101, limit: 100 }));
    assert!(call(&one, &two, ECHO, Traffic::Bulk, vec![0; 150_000]).await.unwrap().is_ok());
}
