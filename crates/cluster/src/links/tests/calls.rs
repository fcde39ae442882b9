//! Calls: answers, errors, bounds.

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
