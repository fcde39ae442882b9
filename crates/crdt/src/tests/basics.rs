//! One thing at a time.

use std::time::Duration;

use polity_base::{NodeId, RowChange, Timestamp, Value};
use polity_store::disk::Crash;
use tokio::time::{Instant, sleep};

use super::world::*;
use crate::Error;

#[tokio::test(start_paused = true)]
async fn what_is_committed_is_read_at_once_here_and_soon_everywhere() {
    let mut world = World::new(1, 3).await;
    let at = world.commit(1, vec![(key(1), insert("bread", 5)), (key(2), insert("salt", 7))]).await.unwrap();
    assert!(world.replica(1).applied() >= at);
    assert_eq!(world.rows(1).len(), 2);
    let vector = world.replica(1).vector();
    for node in 2..=3 {
        world.replica(node).wait_for(&vector, Duration::from_secs(1)).await.unwrap();
        assert_eq!(world.rows(node), world.rows(1));
    }
    world.commit(2, vec![(key(1), update(NAME, text("rye")))]).await.unwrap();
    world.commit(3, vec![(key(1), update(STOCK, stock(2)))]).await.unwrap();
    world.commit(1, vec![(key(2), RowChange::Delete)]).await.unwrap();
    world.settle().await;
    for node in 1..=3 {
        assert_eq!(world.rows(node).len(), 1);
        let row = world.row(node, &key(1));
        assert_eq!(shown(&row, NAME), Some(Value::Text("rye".into())));
        assert_eq!(shown(&row, STOCK), Some(Value::Int8(7)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_waits_for_nobody_and_acks_wait_for_as_many_as_are_asked_for() {
    let mut world = World::new(2, 3).await;
    sleep(Duration::from_secs(1)).await;
    world.cut(&[1]);
    let begun = Instant::now();
    world.commit(1, vec![(key(1), insert("alone", 1))]).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(5), "{:?}", begun.elapsed());
    let batch = world.batch(vec![(key(2), insert("together", 1))]);
    let refused = world.replica(1).commit(batch, 2).await;
    assert!(matches!(&refused, Err(Error::AcksMissing { kept_by, .. }) if *kept_by == [NodeId(1)]), "{refused:?}");
    assert_eq!(world.rows(1).len(), 2, "it is kept here all the same");
    world.heal();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(world.rows(3).len(), 2, "and spreads");
    let batch = world.batch(vec![(key(3), insert("together", 1))]);
    world.replica(1).commit(batch, 3).await.unwrap();
    assert!((1..=3).all(|node| world.rows(node).len() == 3));
}

#[tokio::test(start_paused = true)]
async fn what_two_that_are_cut_from_each_other_write_goes_through_a_third() {
    let mut world = World::new(3, 3).await;
    world.cut_pair(1, 2);
    world.commit(1, vec![(key(1), insert("from 1", 1))]).await.unwrap();
    world.commit(2, vec![(key(2), insert("from 2", 1))]).await.unwrap();
    sleep(Duration::from_secs(3)).await;
    assert_eq!(world.rows(1).len(), 2);
    assert_eq!(world.rows(2), world.rows(1));
}

#[tokio::test(start_paused = true)]
async fn a_delta_is_held_until_what_its_author_had_seen_has_come() {
    let mut world = World::new(4, 3).await;
    sleep(Duration::from_secs(1)).await;
    world.cut_pair(1, 3);
    world.commit(1, vec![(key(1), insert("first", 1))]).await.unwrap();
    world.replica(2).wait_for(&world.replica(1).vector(), Duration::from_secs(1)).await.unwrap();
    world.commit(2, vec![(key(1), update(NAME, text("second")))]).await.unwrap();
    for _ in 0..200 {
        sleep(Duration::from_millis(5)).await;
        let vector = world.replica(3).vector();
        assert!(vector.of(NodeId(2)) <= Timestamp::ZERO || vector.of(NodeId(1)) > Timestamp::ZERO, "{vector}");
        assert_eq!(world.row(3, &key(1)).is_live(), vector.of(NodeId(1)) > Timestamp::ZERO);
    }
    assert_eq!(shown(&world.row(3, &key(1)), NAME), Some(Value::Text("second".into())));
}

#[tokio::test(start_paused = true)]
async fn shares_are_spent_alone_and_asked_for_when_they_are_short() {
    let mut world = World::new(5, 3).await;
    sleep(Duration::from_secs(1)).await;
    world.commit(1, vec![(key(1), insert("ticket", 9))]).await.unwrap();
    world.settle().await;
    // Three each: what goes beyond comes from the others.
    world.commit(2, vec![(key(1), update(STOCK, stock(-5)))]).await.unwrap();
    world.settle().await;
    assert_eq!(shown(&world.row(3, &key(1)), STOCK), Some(Value::Int8(4)));
    let refused = world.commit(3, vec![(key(1), update(STOCK, stock(-5)))]).await;
    assert!(matches!(refused, Err(Error::OutOfBounds { value: 4, wanted: -5, .. })), "{refused:?}");
    world.cut(&[3]);
    let refused = world.commit(3, vec![(key(1), update(STOCK, stock(-4)))]).await;
    let Err(Error::ShareTooSmall { here, elsewhere, .. }) = &refused else { panic!("{refused:?}") };
    assert_eq!(*here + elsewhere.iter().map(|holder| holder.share).sum::<u64>(), 4);
    assert!(elsewhere.iter().all(|holder| holder.unreachable_since.is_some()));
    world.commit(3, vec![(key(1), update(STOCK, stock(-(i64::try_from(*here).unwrap()))))]).await.unwrap();
    world.heal();
    world.settle().await;
    let left = 4 - i64::try_from(*here).unwrap();
    assert_eq!(shown(&world.row(1, &key(1)), STOCK), Some(Value::Int8(left)));
}

#[tokio::test(start_paused = true)]
async fn what_loses_to_a_concurrent_write_is_in_the_conflict_log_of_every_replica() {
    let mut world = World::new(6, 2).await;
    world.commit(1, vec![(key(1), insert("bread", 1))]).await.unwrap();
    world.settle().await;
    world.cut(&[1]);
    world.commit(1, vec![(key(1), update(NAME, text("rye")))]).await.unwrap();
    world.commit(2, vec![(key(1), update(NAME, text("spelt")))]).await.unwrap();
    world.heal();
    world.settle().await;
    assert_eq!(world.rows(1), world.rows(2));
    for node in 1..=2 {
        let conflicts = world.replica(node).conflicts(10).unwrap();
        assert_eq!(conflicts.len(), 1);
        let lost = &conflicts[0].lost;
        assert_eq!(lost.lost, Value::Text("rye".into()));
        assert_eq!(lost.kept, Some(Value::Text("spelt".into())));
        assert_eq!((lost.lost_stamp.origin, lost.kept_stamp.origin), (NodeId(1), NodeId(2)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_replica_goes_on_where_it_was() {
    let mut world = World::new(7, 3).await;
    world.commit(1, vec![(key(1), insert("bread", 9))]).await.unwrap();
    world.settle().await;
    for crash in [Crash::Lost, Crash::Torn, Crash::Kept] {
        world.crash(NodeId(1), crash).await;
        assert_eq!(world.rows(1), world.rows(2));
        world.commit(1, vec![(key(1), update(STOCK, stock(-1)))]).await.unwrap();
        world.settle().await;
    }
    assert_eq!(shown(&world.row(3, &key(1)), STOCK), Some(Value::Int8(6)));
}

#[tokio::test(start_paused = true)]
async fn shares_move_to_where_they_are_spent_before_they_are_short() {
    let mut world = World::new(8, 3).await;
    sleep(Duration::from_secs(1)).await;
    world.commit(1, vec![(key(1), insert("ticket", 300))]).await.unwrap();
    world.settle().await;
    for _ in 0..8 {
        world.commit(2, vec![(key(1), update(STOCK, stock(-20)))]).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    }
    let status = |world: &World, node| world.replica(node).status().counts;
    assert_eq!(status(&world, 2).short_shares, 0);
    assert!(status(&world, 1).transfers + status(&world, 3).transfers >= 2);
    // What is left is where it is spent, and can be spent alone.
    world.cut(&[2]);
    world.commit(2, vec![(key(1), update(STOCK, stock(-20)))]).await.unwrap();
}
