//! Secondary indexes: entries follow rows wherever they change, and an index that comes
//! later is built from the rows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use polity_base::key::KeyBuilder;
use polity_base::{Guarantee, IndexId, Key, NodeId, RowChange, Span, row};
use polity_store::disk::Crash;
use tokio::time::sleep;

use super::world::*;
use crate::replica::{Limits, Schema};

/// A catalog with an index on names, and one that is not there yet.
#[derive(Default)]
struct Names {
    later: AtomicBool,
    dropped: AtomicBool,
}

fn index(number: u32) -> IndexId {
    Guarantee::Eventual.storage(20_001 + number)
}

impl Schema for Names {
    fn entries(&self, key: &Key, visible: &Bytes) -> Vec<(Key, Bytes)> {
        let mut slots = row::Slots::of(visible).unwrap();
        slots.skip().unwrap();
        let name = slots.next_slot().unwrap().unwrap().to_value().unwrap();
        let indexes = self.indexes().into_iter();
        indexes
            .map(|(index, _)| {
                let mut entry = KeyBuilder::new(index);
                entry.push(&name).unwrap();
                entry.push_raw(&key[4..]);
                (entry.finish(), Bytes::new())
            })
            .collect()
    }

    fn indexes(&self) -> Vec<(IndexId, IndexId)> {
        if self.dropped.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let count = 1 + u32::from(self.later.load(Ordering::Relaxed));
        (0..count).map(|number| (index(number), table())).collect()
    }

    fn is_dropped(&self, storage: IndexId) -> bool {
        [table(), index(0)].contains(&storage) && self.dropped.load(Ordering::Relaxed)
    }
}

/// The entries that are there, without their index.
fn entries(world: &World, node: u64, index: IndexId) -> BTreeSet<Vec<u8>> {
    let node = &world.nodes[&NodeId(node)];
    let reader = node.state.snapshot().unwrap();
    let mut scan = reader.scan(&Span::of_index(index), node.replica.applied()).unwrap();
    std::iter::from_fn(|| scan.next().unwrap()).map(|(key, _)| key[4..].to_vec()).collect()
}

fn expected(world: &World, node: u64, schema: &Names) -> BTreeSet<Vec<u8>> {
    let rows = world.rows(node);
    rows.iter().map(|(key, row)| schema.entries(key, row)[0].0[4..].to_vec()).collect()
}

#[tokio::test(start_paused = true)]
async fn entries_follow_rows_and_later_indexes_are_built_while_writing_goes_on() {
    let schema = Arc::new(Names::default());
    let mut world = World::with(1, 2, Limits::default(), schema.clone()).await;
    for n in 0..150 {
        let rows = (0..10).map(|m| (key(n * 10 + m), insert(&format!("row {m}"), 1)));
        world.commit(1, rows.collect()).await.unwrap();
    }
    world.settle().await;
    // Both change a name at once: one entry must go on both.
    world.cut(&[1]);
    world.commit(1, vec![(key(1), update(NAME, text("here"))), (key(2), RowChange::Delete)]).await.unwrap();
    world.commit(2, vec![(key(1), update(NAME, text("there"))), (key(3), RowChange::Delete)]).await.unwrap();
    world.heal();
    world.settle().await;
    for node in 1..=2 {
        assert!(world.replica(node).is_built(index(0)));
        assert!(!world.replica(node).is_built(index(1)));
        assert_eq!(entries(&world, node, index(0)), expected(&world, node, &schema), "n{node}");
        assert!(entries(&world, node, index(1)).is_empty());
    }
    schema.later.store(true, Ordering::Relaxed);
    let mut n = 10;
    while !world.replica(1).is_built(index(1)) {
        world.commit(1, vec![(key(n), update(NAME, text("meanwhile")))]).await.unwrap();
        n += 7;
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_secs(1)).await;
    for node in 1..=2 {
        assert_eq!(entries(&world, node, index(1)), expected(&world, node, &schema), "n{node}");
    }
    world.crash(NodeId(2), Crash::Lost).await;
    assert!(world.replica(2).is_built(index(1)));
}

#[tokio::test(start_paused = true)]
async fn of_a_dropped_table_nothing_stays_and_nothing_comes() {
    let schema = Arc::new(Names::default());
    let mut world = World::with(2, 2, Limits::default(), schema.clone()).await;
    world.commit(1, vec![(key(1), insert("bread", 1))]).await.unwrap();
    world.settle().await;
    world.cut(&[1]);
    world.commit(2, vec![(key(2), insert("late", 1))]).await.unwrap();
    schema.dropped.store(true, Ordering::Relaxed);
    world.heal();
    world.settle().await;
    sleep(Duration::from_secs(3)).await;
    assert!(!world.replica(1).is_built(index(0)));
    assert!(world.rows(1).is_empty() && entries(&world, 1, index(0)).is_empty());
    assert!(world.row(1, &key(1)).is_blank() && world.row(1, &key(2)).is_blank());
    world.crash(NodeId(1), Crash::Torn).await;
    assert!(world.rows(1).is_empty() && world.row(1, &key(1)).is_blank());
}
