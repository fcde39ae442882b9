//! Finding rows that differ, and mending them.

use std::sync::Arc;
use std::time::Duration;

use polity_base::guarantee::merging_key;
use polity_base::{Batch, NodeId, Operation, RangeId, Timestamp};
use polity_store::log::Record;
use polity_store::state::{EntryBody, OrderedEntry};
use tokio::time::sleep;

use super::world::*;
use crate::replica::{Limits, NoIndexes};

/// Makes a node's rows lack some, as no replica ever does by itself.
async fn lose(world: &mut World, node: u64, keys: &[i64]) {
    let disk = world.halt(NodeId(node), polity_store::disk::Crash::Kept).await;
    let operations: Vec<Operation> = keys
        .iter()
        .flat_map(|n| [Operation::Delete { key: key(*n) }, Operation::Delete { key: merging_key(&key(*n)) }])
        .collect();
    world.damage(node, disk, operations).await;
}

#[tokio::test(start_paused = true)]
async fn rows_that_one_replica_lost_come_back_for_little_traffic() {
    let limits = Limits { patrol_every: Duration::from_secs(3600), ..Limits::default() };
    let mut world = World::with(1, 2, limits, Arc::new(NoIndexes)).await;
    for n in 0..40 {
        let rows = (0..50).map(|m| (key(n * 50 + m), insert("a row of some length, as rows are", 3)));
        world.commit(1, rows.collect()).await.unwrap();
    }
    world.settle().await;
    let alike = world.replica(1).compare(NodeId(2)).await.unwrap();
    assert_eq!((alike.rows, alike.differing, alike.repaired), (2000, 0, 0));
    assert!(alike.sent_bytes + alike.received_bytes < 1000, "{alike:?}");
    let before = world.rows(1);
    lose(&mut world, 2, &[7, 8, 1234]).await;
    assert_eq!(world.rows(2).len(), 1997);
    sleep(Duration::from_secs(1)).await;
    let found = world.replica(1).compare(NodeId(2)).await.unwrap();
    assert_eq!((found.rows, found.differing), (2000, 3));
    assert!(found.sent_bytes + found.received_bytes < 6000, "{found:?}");
    assert_eq!(world.rows(2), before);
    assert_eq!(world.replica(2).status().counts.repaired_rows, 3);
    // The same the other way round.
    lose(&mut world, 1, &[0, 1999]).await;
    sleep(Duration::from_secs(1)).await;
    let found = world.replica(1).compare(NodeId(2)).await.unwrap();
    assert_eq!((found.differing, found.repaired), (2, 2));
    assert_eq!(world.rows(1), before);
}

#[tokio::test(start_paused = true)]
async fn the_patrol_finds_what_nobody_asked_for() {
    let limits = Limits { patrol_every: Duration::from_secs(5), patrol_rows: 16, ..Limits::default() };
    let mut world = World::with(2, 2, limits, Arc::new(NoIndexes)).await;
    let rows = (0..100).map(|n| (key(n), insert("row", 3)));
    world.commit(1, rows.collect()).await.unwrap();
    world.settle().await;
    let before = world.rows(1);
    lose(&mut world, 2, &[55]).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.rows(2), before);
}

#[tokio::test(start_paused = true)]
async fn what_was_forgotten_at_different_times_is_no_difference() {
    let mut world = World::new(3, 2).await;
    let rows = (0..100).map(|n| (key(n), insert("row", 3)));
    world.commit(1, rows.collect()).await.unwrap();
    world.commit(1, vec![(key(1), update(TAGS, tags(&["a", "b"], &[])))]).await.unwrap();
    world.settle().await;
    world.commit(2, vec![(key(1), update(TAGS, tags(&[], &["a"])))]).await.unwrap();
    world.commit(2, vec![(key(2), polity_base::RowChange::Delete)]).await.unwrap();
    world.settle().await;
    for _ in 0..30 {
        let found = world.replica(1).compare(NodeId(2)).await.unwrap();
        assert_eq!((found.differing, found.repaired), (0, 0));
        sleep(Duration::from_millis(50)).await;
    }
    assert!(world.row(1, &key(2)).is_blank());
}

impl World {
    /// Writes to a node's rows behind its replica's back, and starts it.
    async fn damage(&mut self, node: u64, disk: polity_store::disk::MemoryDisk, operations: Vec<Operation>) {
        let (log, state) = self.open(NodeId(node), &disk).await.unwrap();
        let applied = state.applied(RangeId::EVENTUAL);
        let last = log.last(RangeId::EVENTUAL).unwrap().0;
        for (index, _, payload) in log.read(RangeId::EVENTUAL, applied.index + 1..last + 1).unwrap() {
            let entry = crate::replica::entry_for_tests(index, &payload, NodeId(node));
            state.apply(RangeId::EVENTUAL, &[entry]).unwrap();
        }
        let batch = Batch { id: u128::MAX, author: NodeId(node), preconditions: vec![], operations };
        let body = EntryBody::Batches { proposed_at: Timestamp::ZERO, batches: vec![batch] };
        state.apply(RangeId::EVENTUAL, &[OrderedEntry { index: last + 1, term: 1, body }]).unwrap();
        state.checkpoint().unwrap();
        log.append_wait(vec![Record::Purge { group: RangeId::EVENTUAL, upto_index: last + 1 }]).await.unwrap();
        log.close().await;
        drop(state);
        self.start(NodeId(node), disk.restart(polity_store::disk::Crash::Kept), false).await.unwrap();
    }
}
