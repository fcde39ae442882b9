//! Members that are removed, and what becomes of their shares.

use std::time::Duration;

use polity_base::planted::{Bug, plant};
use polity_base::{NodeId, Value};
use polity_store::disk::Crash;
use tokio::time::sleep;

use super::world::*;
use crate::Error;
use crate::replica::Departure;

const NOBODY_YET: Departure = Departure { last_write: None, heir: None };

/// The heir of a member that was removed spends all it may. What the others show then.
async fn inherit() -> Vec<Option<Value>> {
    let mut world = World::new(1, 3).await;
    sleep(Duration::from_secs(1)).await;
    world.commit(1, vec![(key(1), insert("ticket", 9))]).await.unwrap();
    world.settle().await;
    world.commit(3, vec![(key(1), update(STOCK, stock(-1)))]).await.unwrap();
    world.settle().await;
    // What it sells now nobody hears of.
    world.cut(&[3]);
    world.commit(3, vec![(key(1), update(STOCK, stock(-1)))]).await.unwrap();
    world.depart(3, NOBODY_YET);
    let refused = world.commit(1, vec![(key(1), update(STOCK, stock(-8)))]).await;
    assert!(matches!(refused, Err(Error::ShareTooSmall { .. })), "{refused:?}");
    let last_write = world.replica(1).agree_on_last_write(NodeId(3)).await.unwrap();
    assert_eq!(last_write, world.replica(1).vector().of(NodeId(3)));
    world.depart(3, Departure { last_write: Some(last_write), heir: Some(NodeId(1)) });
    sleep(Duration::from_secs(2)).await;
    world.commit(1, vec![(key(1), update(STOCK, stock(-8)))]).await.unwrap();
    world.heal();
    sleep(Duration::from_secs(3)).await;
    assert!(matches!(world.replica(3).readable(), Err(Error::Removed)));
    (1..=2).map(|node| shown(&world.row(node, &key(1)), STOCK)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_heir_spends_what_a_removed_member_had_left_and_no_more() {
    assert_eq!(inherit().await, [Some(Value::Int8(0)), Some(Value::Int8(0))]);
}

#[tokio::test(start_paused = true)]
async fn writes_beyond_the_last_that_counts_would_break_the_bound() {
    plant(Some(Bug::ApplyBeyondDeparture));
    let left = inherit().await;
    plant(None);
    assert!(left.contains(&Some(Value::Int8(-1))), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_over_before_every_member_has_agreed() {
    let mut world = World::new(2, 3).await;
    sleep(Duration::from_secs(1)).await;
    world.commit(1, vec![(key(1), insert("ticket", 9))]).await.unwrap();
    world.settle().await;
    // 2 hears what 1 does not.
    world.cut_pair(1, 3);
    world.cut_pair(1, 2);
    world.commit(3, vec![(key(1), update(STOCK, stock(-2)))]).await.unwrap();
    world.replica(2).wait_for(&world.replica(3).vector(), Duration::from_secs(1)).await.unwrap();
    world.halt(NodeId(3), Crash::Lost).await;
    world.depart(3, NOBODY_YET);
    let refused = world.replica(1).agree_on_last_write(NodeId(3)).await;
    assert!(matches!(refused, Err(Error::Unreachable { node: NodeId(2), .. })), "{refused:?}");
    world.heal();
    let last_write = world.replica(1).agree_on_last_write(NodeId(3)).await.unwrap();
    assert_eq!(last_write, world.replica(2).vector().of(NodeId(3)));
    world.depart(3, Departure { last_write: Some(last_write), heir: Some(NodeId(1)) });
    // A restart forgets neither.
    world.crash(NodeId(2), Crash::Lost).await;
    sleep(Duration::from_secs(3)).await;
    let refused = world.commit(1, vec![(key(1), update(STOCK, stock(-8)))]).await;
    assert!(matches!(refused, Err(Error::OutOfBounds { value: 7, .. })), "{refused:?}");
    world.commit(1, vec![(key(1), update(STOCK, stock(-7)))]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shares_that_a_departed_member_still_gets_go_to_the_heir() {
    let mut world = World::new(3, 3).await;
    sleep(Duration::from_secs(1)).await;
    world.halt(NodeId(3), Crash::Lost).await;
    // Inserted by a replica that believes 3 to be there.
    world.cut(&[2]);
    world.commit(2, vec![(key(1), insert("ticket", 9))]).await.unwrap();
    world.depart(3, NOBODY_YET);
    world.heal();
    let last_write = world.replica(1).agree_on_last_write(NodeId(3)).await.unwrap();
    world.depart(3, Departure { last_write: Some(last_write), heir: Some(NodeId(1)) });
    sleep(Duration::from_secs(3)).await;
    world.commit(1, vec![(key(1), update(STOCK, stock(-9)))]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_heir_that_is_gone_too_had_taken_over_goes_on_to_the_next() {
    let mut world = World::new(4, 4).await;
    sleep(Duration::from_secs(1)).await;
    let rows = (0..50).map(|n| (key(n), insert("ticket", 8)));
    world.commit(1, rows.collect()).await.unwrap();
    world.settle().await;
    for (gone, heir) in [(4, 1), (1, 2)] {
        world.depart(gone, NOBODY_YET);
        let survivor = heir + 1;
        let last_write = world.replica(survivor).agree_on_last_write(NodeId(gone)).await.unwrap();
        let departure = Departure { last_write: Some(last_write), heir: Some(NodeId(heir)) };
        world.depart(gone, departure);
        sleep(Duration::from_secs(3)).await;
        world.halt(NodeId(gone), Crash::Lost).await;
    }
    // The first heir is gone: whom it gave out for is the next one's, too.
    let mut members = world.net.members.lock().clone();
    members.removed.values_mut().for_each(|departure| departure.heir = Some(NodeId(2)));
    *world.net.members.lock() = members;
    sleep(Duration::from_secs(3)).await;
    world.settle().await;
    for n in 0..50 {
        world.commit(2, vec![(key(n), update(STOCK, stock(-8)))]).await.unwrap();
        let refused = world.commit(3, vec![(key(n), update(STOCK, stock(-1)))]).await;
        assert!(matches!(refused, Err(Error::OutOfBounds { .. } | Error::ShareTooSmall { .. })), "{refused:?}");
    }
}
