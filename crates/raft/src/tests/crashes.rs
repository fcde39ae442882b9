//! Crashes: whatever is acknowledged is there after the next start, whatever the
//! disk made of what was not synced.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use polity_store::disk::{Crash, MemoryDisk};
use polity_store::log::LogOptions;
use tokio::task::JoinSet;

use super::world::*;
use crate::{Checkpointer, GroupOptions};

/// Runs a member on `disk` until the machine stops. Each task counts its own key
/// up, so that what a key must hold is a number: at least the last one that was
/// acknowledged, at most the last one that was proposed.
async fn run_until_crash(disk: &MemoryDisk, bounds: &mut BTreeMap<u64, (u64, u64)>) {
    let options = LogOptions { segment_bytes: 8 << 10, ..LogOptions::default() };
    let Ok(store) = open_store_with(Arc::new(disk.clone()), options).await else { return };
    let Ok(member) = start(store, 1, GroupOptions::default()).await else { return };
    let checkpoints = Checkpointer::new(member.state.clone(), vec![member.group.clone()], Duration::MAX, u64::MAX);
    let mut tasks = JoinSet::new();
    for task in 0..4u64 {
        let group = member.group.clone();
        let (_, mut proposed) = bounds.get(&task).copied().unwrap_or_default();
        let mut acknowledged = None;
        tasks.spawn(async move {
            loop {
                proposed += 1;
                let id = u128::from(task) << 64 | u128::from(proposed);
                match group.propose(put(id, &task.to_string(), &proposed.to_string())).await {
                    Ok(outcome) => acknowledged = Some(committed(outcome)).map(|_| proposed),
                    Err(_) => return (task, acknowledged, proposed),
                }
            }
        });
    }
    let checkpointing = async {
        while checkpoints.once().await.is_ok() {
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
        }
        std::future::pending::<()>().await;
    };
    let finished = async {
        while let Some(done) = tasks.join_next().await {
            let (task, acknowledged, proposed) = done.unwrap();
            let bound = bounds.entry(task).or_default();
            bound.0 = acknowledged.unwrap_or(bound.0);
            bound.1 = proposed;
        }
    };
    tokio::select! {
        () = finished => {}
        () = checkpointing => {}
    }
    member.group.shutdown().await;
}

async fn crash_again_and_again(seed: u64) {
    println!("POLITY_SEED={seed} cargo test -p polity-raft crashes");
    let mut disk = MemoryDisk::new(seed);
    let mut bounds = BTreeMap::new();
    for round in 0..6 {
        disk.crash_after(20 + (seed * 7 + round * 31) % 150);
        run_until_crash(&disk, &mut bounds).await;
        let fate = [Crash::Lost, Crash::Kept, Crash::Torn][(seed + round) as usize % 3];
        disk = disk.restart(fate);
        let member = alone(Arc::new(disk.clone())).await;
        for (task, (acknowledged, proposed)) in &mut bounds {
            let found = member.read(&task.to_string()).await.map_or(0, |v| v.parse().unwrap());
            assert!(
                (*acknowledged..=*proposed).contains(&found),
                "seed {seed} round {round} task {task}: {found} is not in {acknowledged}..={proposed}"
            );
            // What was found is there to stay.
            *acknowledged = found;
        }
        member.stop().await;
    }
}

#[tokio::test]
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
