//! New replicas, replicas that were away for too long, and replicas that went back in time.

use std::sync::Arc;
use std::time::Duration;

use polity_base::{NodeId, RowChange, Value};
use polity_store::disk::{Crash, MemoryDisk};
use tokio::time::sleep;

use super::world::*;
use crate::Error;
use crate::replica::{Limits, NoIndexes};

async fn until_readable(world: &World, node: u64) {
    for _ in 0..300 {
        if world.replica(node).writable().is_ok() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("n{node} is not complete after half a minute: {:?}", world.replica(node).status());
}

/// A world whose messages hold few rows, so that filling takes many.
async fn small_pages(seed: u64, nodes: u64) -> World {
    let limits = Limits { message_bytes: 2_000, upkeep_every: Duration::from_millis(300), ..Limits::default() };
    World::with(seed, nodes, limits, Arc::new(NoIndexes)).await
}

#[tokio::test(start_paused = true)]
async fn a_new_replica_is_filled_while_others_go_on_and_is_not_read_before() {
    let mut world = small_pages(1, 2).await;
    for n in 0..200 {
        world.commit(1, vec![(key(n), insert("old", 4)), (key(n + 1000), insert("old", 4))]).await.unwrap();
    }
    world.commit(2, vec![(key(7), RowChange::Delete)]).await.unwrap();
    world.settle().await;
    // What all have is forgotten; the new one cannot be told it by deltas.
    sleep(Duration::from_secs(3)).await;
    assert!(world.replica(1).status().counts.collected > 0);
    world.net.members.lock().nodes.insert(NodeId(3));
    world.start(NodeId(3), MemoryDisk::new(33), true).await.unwrap();
    assert!(matches!(world.replica(3).readable(), Err(Error::NotReady { .. })));
    let (mut n, mut turns) = (0, 0);
    while world.replica(3).readable().is_err() {
        world
            .commit(1, vec![(key(n), update(NAME, text("new"))), (key(n + 1000), update(NAME, text("new")))])
            .await
            .unwrap();
        n = n % 6 + 1;
        sleep(Duration::from_millis(3)).await;
        turns += 1;
        if turns == 40 {
            // It goes on where it was.
            world.crash(NodeId(3), Crash::Torn).await;
        }
        let refused = world.commit(3, vec![(key(-1), insert("early", 1))]).await;
        assert!(refused.is_ok() || matches!(refused, Err(Error::NotReady { .. })), "{refused:?}");
    }
    assert!(turns > 40, "it was complete before the crash");
    // The first moment it is read no transaction shows in part.
    for n in 0..200 {
        let name = |n| shown(&world.row(3, &key(n)), NAME);
        assert!(n == 7 || name(n) == name(n + 1000), "{n}: {:?} {:?}", name(n), name(n + 1000));
    }
    world.commit(3, vec![(key(-2), insert("now", 1))]).await.unwrap();
    world.settle().await;
    assert_eq!(world.rows(3), world.rows(1));
    assert!(!world.rows(3).contains_key(&key(7)));
    assert_eq!(world.row(3, &key(8)), world.row(1, &key(8)));
}

#[tokio::test(start_paused = true)]
async fn a_replica_restored_from_an_old_backup_takes_the_others_rows_and_keeps_what_only_it_wrote() {
    let mut world = small_pages(2, 3).await;
    for n in 0..20 {
        world.commit(1, vec![(key(n), insert("old", 3))]).await.unwrap();
    }
    world.settle().await;
    sleep(Duration::from_secs(2)).await;
    // The backup, with a write that nobody else has.
    world.cut(&[3]);
    world.commit(3, vec![(key(100), insert("mine", 1))]).await.unwrap();
    let backup = world.nodes[&NodeId(3)].disk.copy();
    world.heal();
    world.settle().await;
    world.commit(2, vec![(key(5), RowChange::Delete), (key(6), update(TAGS, tags(&["a"], &[])))]).await.unwrap();
    world.settle().await;
    sleep(Duration::from_secs(3)).await;
    assert!(world.row(1, &key(5)).is_blank(), "all had it, so it is forgotten");
    world.halt(NodeId(3), Crash::Kept).await;
    world.start(NodeId(3), backup.restart(Crash::Kept), false).await.unwrap();
    assert!(world.row(3, &key(5)).is_live());
    // Who has seen the delete elsewhere waits until it shows here, not only until it is here.
    world.replica(3).wait_for(&world.replica(1).vector(), Duration::from_secs(30)).await.unwrap();
    assert!(!world.rows(3).contains_key(&key(5)));
    sleep(Duration::from_secs(1)).await;
    until_readable(&world, 3).await;
    world.settle().await;
    sleep(Duration::from_secs(2)).await;
    for node in 1..=3 {
        assert!(!world.row(node, &key(5)).is_live(), "n{node}: what was deleted stays so");
        assert_eq!(shown(&world.row(node, &key(100)), NAME), Some(Value::Text("mine".into())));
        assert_eq!(world.rows(node), world.rows(1));
    }
}

#[tokio::test(start_paused = true)]
async fn two_sides_that_wrote_more_than_is_kept_fill_each_other() {
    let limits = Limits {
        message_bytes: 2_000,
        log_bytes: 8_000,
        upkeep_every: Duration::from_millis(300),
        ..Limits::default()
    };
    let mut world = World::with(3, 4, limits, Arc::new(NoIndexes)).await;
    let rows = (0..60).map(|n| (key(n), insert("old", 100)));
    world.commit(1, rows.collect()).await.unwrap();
    world.settle().await;
    world.cut(&[1, 2]);
    for n in 0..100 {
        for (node, column) in [(1, NAME), (3, NAME)] {
            let change = text(&format!("a rather long name, number {n} of n{node}"));
            world.commit(node, vec![(key(n % 60), update(column, change))]).await.unwrap();
            world.commit(node, vec![(key(n % 60), update(STOCK, stock(-1)))]).await.unwrap();
        }
        if n % 10 == 0 {
            for node in world.nodes.values() {
                node.state.checkpoint().unwrap();
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
    assert!(world.replica(1).status().log_bytes < 20_000, "{:?}", world.replica(1).status());
    // Reads go on as of before, meanwhile.
    world.heal();
    let mut filled = false;
    for _ in 0..200 {
        sleep(Duration::from_millis(20)).await;
        filled |= world.replica(1).writable().is_err();
        for node in 1..=4 {
            world.replica(node).readable().unwrap();
            assert_eq!(world.rows(node).len(), 60);
        }
    }
    assert!(filled);
    for node in 1..=4 {
        until_readable(&world, node).await;
    }
    world.settle().await;
    for node in 1..=4 {
        assert_eq!(world.rows(node), world.rows(1), "n{node}");
        let sold: i64 = (0..60)
            .map(|n| match shown(&world.row(node, &key(n)), STOCK) {
                Some(Value::Int8(left)) => 100 - left,
                other => panic!("{other:?}"),
            })
            .sum();
        assert_eq!(sold, 200, "n{node}");
    }
}
