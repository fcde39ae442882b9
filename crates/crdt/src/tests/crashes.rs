//! Crashes: whatever is acknowledged is there after the next start, whatever the disk
//! made of what was not synced.

use std::collections::BTreeMap;
use std::time::Duration;

use polity_base::{NodeId, RangeId, Value};
use polity_store::disk::{Crash, MemoryDisk};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::world::*;

/// Runs a replica on `disk` until the machine stops. Each task counts its own row up, so
/// that what a row must hold is a number: at least the last one that was acknowledged, at
/// most the last one that was tried.
async fn run_until_crash(world: &mut World, disk: MemoryDisk, bounds: &mut BTreeMap<i64, (i64, i64)>) {
    if world.start(NodeId(1), disk, false).await.is_err() {
        return;
    }
    let mut tasks = JoinSet::new();
    for task in 0..4i64 {
        let replica = world.replica(1).clone();
        let (_, mut tried) = bounds.get(&task).copied().unwrap_or_default();
        let mut acknowledged = None;
        let first = world.row(1, &key(task)).is_blank();
        let batches: Vec<_> = (0..500)
            .map(|n| {
                let number = (tried + 1 + n).to_string();
                let change = if first && n == 0 { insert(&number, 1) } else { update(NAME, text(&number)) };
                world.batch(vec![(key(task), change)])
            })
            .collect();
        tasks.spawn(async move {
            for batch in batches {
                tried += 1;
                match replica.commit(batch, 1).await {
                    Ok(_) => acknowledged = Some(tried),
                    Err(_) => break,
                }
            }
            (task, acknowledged, tried)
        });
    }
    let state = world.nodes[&NodeId(1)].state.clone();
    let checkpointed = world.replica(1).checkpointed();
    let checkpoints = tokio::spawn(async move {
        while let Ok(done) = state.checkpoint() {
            if let Some(mark) = done.marks.get(&RangeId::EVENTUAL) {
                checkpointed.made_durable(*mark);
            }
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }
    });
    while let Some(done) = tasks.join_next().await {
        let (task, acknowledged, tried) = done.unwrap();
        let bound = bounds.entry(task).or_default();
        bound.0 = acknowledged.unwrap_or(bound.0);
        bound.1 = tried;
    }
    checkpoints.abort();
}

async fn crash_again_and_again(seed: u64) {
    println!("POLITY_SEED={seed} cargo test -p polity-crdt crashes");
    let mut world = World::new(seed, 1).await;
    let mut disk = world.halt(NodeId(1), Crash::Lost).await;
    let mut bounds = BTreeMap::new();
    for round in 0..6 {
        disk.crash_after(20 + (seed * 7 + round * 31) % 150);
        run_until_crash(&mut world, disk.clone(), &mut bounds).await;
        let fate = [Crash::Lost, Crash::Kept, Crash::Torn][(seed + round) as usize % 3];
        disk = match world.nodes.contains_key(&NodeId(1)) {
            true => world.halt(NodeId(1), fate).await,
            false => disk.restart(fate),
        };
        world.start(NodeId(1), disk.clone(), false).await.unwrap();
        for (task, (acknowledged, tried)) in &mut bounds {
            let found = match shown(&world.row(1, &key(*task)), NAME) {
                Some(Value::Text(number)) => number.parse().unwrap(),
                _ => 0,
            };
            assert!(
                (*acknowledged..=*tried).contains(&found),
                "seed {seed} round {round} task {task}: {found} is not in {acknowledged}..={tried}"
            );
            // What was found is there to stay.
            *acknowledged = found;
            *tried = (*tried).max(found);
        }
        sleep(Duration::from_millis(1)).await;
        disk = world.halt(NodeId(1), Crash::Kept).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_any_crash() {
    match std::env::var("POLITY_SEED") {
        Ok(seed) => crash_again_and_again(seed.parse().unwrap()).await,
        Err(_) => {
            for seed in 1..=12 {
                crash_again_and_again(seed).await;
            }
        }
    }
}
