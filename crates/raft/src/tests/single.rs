//! A group of one.

use std::sync::Arc;
use std::time::Duration;

use polity_base::{Class, RangeId};
use polity_store::disk::{Fault, MemoryDisk, RealDisk};
use polity_store::log::LogOptions;
use polity_store::state::BatchOutcome;
use tokio::task::JoinSet;

use super::world::*;
use crate::{Checkpointer, Error, GroupOptions};

#[tokio::test]
async fn what_is_acknowledged_can_be_read_at_once() {
    let member = alone(Arc::new(MemoryDisk::new(1))).await;
    let mut last = polity_base::Timestamp::ZERO;
    for n in 0..20 {
        let at = committed(member.group.propose(put(n, "k", &n.to_string())).await.unwrap());
        assert!(at > last);
        last = at;
        assert!(member.group.read_barrier().await.unwrap() >= at);
        assert_eq!(member.read("k").await, Some(n.to_string()));
    }
    assert_eq!(member.group.metrics().slow_barriers.load(std::sync::atomic::Ordering::Relaxed), 0);
    member.stop().await;
}

#[tokio::test]
async fn outcomes_go_to_those_who_proposed_them() {
    let member = alone(Arc::new(MemoryDisk::new(2))).await;
    let mut tasks = JoinSet::new();
    for n in 0..200u128 {
        let group = member.group.clone();
        // Ten tasks try to insert each of twenty keys.
        tasks.spawn(
            async move { (n % 20, group.propose(insert(n, &(n % 20).to_string(), &n.to_string())).await.unwrap()) },
        );
    }
    let mut winners = std::collections::BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        match done.unwrap() {
            (key, BatchOutcome::Committed(at)) => assert!(winners.insert(key, at).is_none(), "{key} twice"),
            (key, BatchOutcome::Exists(at)) => assert_eq!(at, named(&key.to_string())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(winners.len(), 20);
    let metrics = member.group.metrics();
    let entries = metrics.batches_per_entry.summary();
    assert_eq!(entries.sum, 200);
    assert!(entries.count < 200, "batches share entries: {entries:?}");
    member.stop().await;
}

#[tokio::test]
async fn a_batch_that_is_proposed_twice_is_applied_once() {
    let member = alone(Arc::new(MemoryDisk::new(3))).await;
    let first = committed(member.group.propose(insert(7, "k", "v")).await.unwrap());
    let again = member.group.propose(insert(7, "k", "v")).await.unwrap();
    assert_eq!(again, BatchOutcome::Duplicate(first));
    member.stop().await;
}

#[tokio::test]
async fn a_stopped_member_refuses() {
    let member = alone(Arc::new(MemoryDisk::new(4))).await;
    member.group.shutdown().await;
    let refused = member.group.propose(put(1, "k", "v")).await.unwrap_err();
    assert_eq!(refused.class(), Class::Unavailable, "{refused}");
    let refused = member.group.read_barrier().await.unwrap_err();
    assert_eq!(refused.class(), Class::Unavailable, "{refused}");
    // Stopping twice is no harm.
    member.group.shutdown().await;
}

#[tokio::test]
async fn batches_on_their_way_at_a_stop_are_answered() {
    let member = alone(Arc::new(MemoryDisk::new(5))).await;
    let mut tasks = JoinSet::new();
    for n in 0..500u128 {
        let group = member.group.clone();
        tasks.spawn(async move { (n, group.propose(put(n, &n.to_string(), "v")).await) });
    }
    tokio::task::yield_now().await;
    member.group.shutdown().await;
    while let Some(done) = tasks.join_next().await {
        let (n, outcome) = done.unwrap();
        let there = member.value(&n.to_string(), member.group.applied()).is_some();
        match outcome {
            Ok(outcome) => {
                committed(outcome);
                assert!(there, "{n} was acknowledged");
            }
            Err(error) if error.class() == Class::Unavailable => assert!(!there, "{n} was refused: {error}"),
            Err(error) => assert_eq!(error.class(), Class::Unknown, "{error}"),
        }
    }
}

#[tokio::test]
async fn a_failed_sync_leaves_the_outcome_unknown_and_stops_the_member() {
    let disk = MemoryDisk::new(6);
    let member = alone(Arc::new(disk.clone())).await;
    committed(member.group.propose(put(1, "before", "v")).await.unwrap());
    disk.fail_after(0, Fault::Error);
    let error = member.group.propose(put(2, "during", "v")).await.unwrap_err();
    assert_eq!(error.class(), Class::Unknown, "{error}");
    let refused = loop {
        // The member notices on its own; until then outcomes are unknown.
        match member.group.propose(put(3, "after", "v")).await.unwrap_err() {
            Error::OutcomeUnknown { .. } => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert_eq!(refused.class(), Class::Unavailable, "{refused}");
    assert!(member.group.status().failure.is_some());
    member.stop().await;
}

#[tokio::test]
async fn a_batch_beyond_the_limit_is_refused() {
    let mut options = GroupOptions::default();
    options.packing.max_bytes = 1000;
    let store = open_store(Arc::new(MemoryDisk::new(7))).await.unwrap();
    let member = start(store, 1, options).await.unwrap();
    let error = member.group.propose(put(1, "k", &"x".repeat(2000))).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 1000, .. }), "{error}");
    committed(member.group.propose(put(2, "k", &"x".repeat(500))).await.unwrap());
    member.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_comes_back_with_everything_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut expected = std::collections::BTreeMap::new();
    for round in 0..8u128 {
        let disk = Arc::new(RealDisk::open(folder.path()).unwrap());
        let member = alone(disk).await;
        assert_eq!(member.rows(), expected, "round {round}");
        let mut tasks = JoinSet::new();
        for n in 0..50u128 {
            let group = member.group.clone();
            let (key, value) = (format!("{}", n % 30), format!("{round}-{n}"));
            tasks.spawn(async move {
                committed(group.propose(put(round * 1000 + n, &key, &value)).await.unwrap());
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        expected = member.rows();
        assert_eq!(expected.len(), 30);
        let checkpoints = Checkpointer::new(member.state.clone(), vec![member.group.clone()], Duration::MAX, u64::MAX);
        match round % 3 {
            // A log without a checkpoint, one before the stop, one after it.
            0 => {}
            1 => checkpoints.once().await.unwrap(),
            _ => {
                member.group.shutdown().await;
                checkpoints.last().await.unwrap();
            }
        }
        drop(checkpoints);
        member.stop().await;
    }
}

#[tokio::test]
async fn checkpoints_let_the_log_shrink() {
    let disk = MemoryDisk::new(8);
    let options = LogOptions { segment_bytes: 4 << 10, ..LogOptions::default() };
    let store = open_store_with(Arc::new(disk.clone()), options).await.unwrap();
    let member = start(store, 1, GroupOptions::default()).await.unwrap();
    let checkpoints = Checkpointer::new(member.state.clone(), vec![member.group.clone()], Duration::MAX, u64::MAX);
    for round in 0..5u128 {
        for n in 0..50u128 {
            committed(member.group.propose(put(round * 100 + n, &n.to_string(), &"v".repeat(100))).await.unwrap());
        }
        let before = member.group.status();
        assert!(before.purged_index < before.applied_index);
        checkpoints.once().await.unwrap();
        while member.group.status().purged_index < before.applied_index {
            tokio::task::yield_now().await;
        }
        assert_eq!(member.log.first(RANGE), None, "everything is purged");
    }
    let rows = member.rows();
    member.stop().await;
    // Everything comes back from the rows alone, and the group goes on.
    let disk = disk.restart(polity_store::disk::Crash::Lost);
    let member = alone(Arc::new(disk)).await;
    assert_eq!(member.rows(), rows);
    committed(member.group.propose(put(9999, "more", "v")).await.unwrap());
    member.stop().await;
}

#[tokio::test]
async fn a_checkpoint_that_meets_a_full_disk_ends_the_member_though_it_applies_nothing() {
    let disk = MemoryDisk::new(10);
    let member = alone(Arc::new(disk.clone())).await;
    for n in 0..50u128 {
        committed(member.group.propose(put(n, &n.to_string(), &"v".repeat(40_000))).await.unwrap());
    }
    disk.set_capacity(Some(disk.used()));
    let checkpoints = Checkpointer::new(member.state.clone(), vec![member.group.clone()], Duration::MAX, u64::MAX);
    checkpoints.once().await.unwrap_err();
    let why = tokio::time::timeout(Duration::from_secs(30), member.group.failed()).await.expect("it goes on");
    assert!(why.contains("the disk is full"), "{why}");
    assert_eq!(member.group.status().failure, Some(why));
    member.stop().await;

    // With space again, everything is there.
    let disk = disk.restart(polity_store::disk::Crash::Lost);
    disk.set_capacity(None);
    let member = alone(Arc::new(disk)).await;
    assert_eq!(member.rows().len(), 50);
    member.stop().await;
}

#[tokio::test]
async fn groups_share_a_log_without_meeting() {
    let store = open_store(Arc::new(MemoryDisk::new(9))).await.unwrap();
    let clock =
        || Arc::new(polity_base::time::HybridClock::new(Arc::new(StepClock::default()), polity_base::Timestamp::ZERO));
    let (log, state) = (store.log.clone(), store.state.clone());
    let start = |id| {
        crate::Group::start(
            RangeId(id),
            polity_base::NodeId(1),
            log.clone(),
            state.clone(),
            clock(),
            GroupOptions::default(),
        )
    };
    let (first, second) = (start(1).await.unwrap(), start(2).await.unwrap());
    committed(first.propose(put(1, "a", "1")).await.unwrap());
    committed(second.propose(put(2, "b", "2")).await.unwrap());
    assert_eq!(first.status().applied_index, second.status().applied_index);
    first.shutdown().await;
    committed(second.propose(put(3, "c", "3")).await.unwrap());
    second.shutdown().await;
}
