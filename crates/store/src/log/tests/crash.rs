//! A crash at every operation of a workload, and at every one of the recovery
//! that follows: what comes back is the log after some prefix of the calls, and
//! no acknowledged call is missing from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Model;
use crate::disk::{Crash, MemoryDisk};
use crate::log::testing::{entry, open, purge, state, truncate};
use crate::log::{LogOptions, Record};

const OPTIONS: LogOptions = LogOptions { segment_bytes: 1500, cache_bytes: 300 };

/// Two groups that append, change their minds, and purge; bursts of calls share
/// flush groups; segments come and go.
fn workload() -> Vec<Vec<Record>> {
    let mut calls = Vec::new();
    let mut next = 0;
    for round in 0..14u64 {
        calls.push(vec![state(1, "vote", format!("round {round}")), entry(1, next, round, vec![1; 90])]);
        calls.push(vec![entry(2, round, round, vec![2; 700]), entry(1, next + 1, round, vec![3; 20])]);
        calls.push(vec![truncate(1, next + 1), entry(1, next + 1, round + 1, vec![4; 30])]);
        next += 2;
        if round % 3 == 2 {
            calls.push(vec![purge(1, next - 2), purge(2, round - 1), state(2, "committed", vec![round as u8])]);
        }
    }
    calls
}

/// Runs the calls in bursts of three; how many were acknowledged.
async fn run(disk: &MemoryDisk, calls: &[Vec<Record>]) -> usize {
    let acknowledged = Arc::new(AtomicUsize::new(0));
    let Ok((log, _)) = open(disk, OPTIONS).await else { return 0 };
    for burst in calls.chunks(3) {
        for call in burst {
            let acknowledged = acknowledged.clone();
            log.append(call.clone(), move |outcome| {
                acknowledged.fetch_add(usize::from(outcome.is_ok()), Ordering::Relaxed);
            });
        }
        if log.append_wait(vec![]).await.is_err() {
            break;
        }
    }
    log.close().await;
    acknowledged.load(Ordering::Relaxed)
}

/// Checks what a folder holds against the prefixes of the calls; which it is.
async fn check(disk: &MemoryDisk, prefixes: &[Model], acknowledged: usize, what: &str) -> usize {
    let (log, recovered) = open(disk, OPTIONS).await.unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = Model::of_recovered(&log, &recovered);
    let at = (acknowledged..prefixes.len()).find(|&n| prefixes[n] == found);
    at.unwrap_or_else(|| panic!("{what}: {acknowledged} calls were acknowledged, found {found:?}"))
}

#[tokio::test]
async fn every_acknowledged_call_survives_a_crash_at_every_operation() {
    let calls = workload();
    let prefixes = Model::prefixes(&calls);
    let disk = MemoryDisk::new(0);
    assert_eq!(run(&disk, &calls).await, calls.len());
    let operations = disk.operations();
    for at in 0..operations {
        for (seed, crash) in [(0, Crash::Lost), (0, Crash::Kept), (1, Crash::Torn), (2, Crash::Torn), (3, Crash::Torn)]
        {
            let disk = MemoryDisk::new(seed * 1000 + at);
            disk.crash_after(at);
            let acknowledged = run(&disk, &calls).await;
            let what = format!("crash after operation {at} of {operations}, {crash:?}, seed {seed}");
            let disk = disk.restart(crash);
            let found = check(&disk, &prefixes, acknowledged, &what).await;
            // What was found once is durable: it is found again.
            let again = check(&disk.restart(Crash::Lost), &prefixes, found, &what).await;
            assert_eq!(found, again, "{what}");
        }
    }
}

#[tokio::test]
async fn a_crash_during_recovery_changes_nothing() {
    let calls = workload();
    let prefixes = Model::prefixes(&calls);
    for seed in 0..150 {
        let disk = MemoryDisk::new(seed);
        disk.crash_after(20 + seed);
        let acknowledged = run(&disk, &calls).await;
        let mut disk = disk.restart(Crash::Torn);
        for operations in 0..6 {
            disk.crash_after(operations);
            let opened = open(&disk, OPTIONS).await.is_ok();
            disk = disk.restart(Crash::Torn);
            let what = format!("seed {seed}, recovery crashed after {operations}, had opened: {opened}");
            check(&disk.copy(), &prefixes, acknowledged, &what).await;
        }
    }
}

#[tokio::test]
async fn work_goes_on_after_each_of_many_crashes() {
    let calls = workload();
    let prefixes = Model::prefixes(&calls);
    for seed in 0..60 {
        let mut disk = MemoryDisk::new(seed);
        let mut done = 0;
        let mut crashes = 0;
        while done < calls.len() {
            disk.crash_after(11 + (seed * 7 + crashes * 13) % 29);
            let acknowledged = done + run(&disk, &calls[done..]).await;
            disk = disk.restart(Crash::Torn);
            let what = format!("seed {seed}, crash {crashes}");
            done = check(&disk.copy(), &prefixes, acknowledged, &what).await;
            crashes += 1;
            assert!(crashes < 200, "{what}: no progress");
        }
    }
}
