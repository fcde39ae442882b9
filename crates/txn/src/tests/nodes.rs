//! Locks among several nodes.

use std::time::Duration;

use polity_base::{Class, NodeId};

use super::{key, number, to_number};
use crate::locks::LockQuestion;
use crate::testing::World;
use crate::*;

const LEASE: Duration = Duration::from_millis(400);

/// Three nodes, of which the first leads.
fn three() -> (World, [Database; 3]) {
    let world = World::new(LEASE);
    let nodes = [1, 2, 3].map(|node| world.start(NodeId(node), 0).database);
    (world, nodes)
}

async fn begin(database: &Database, isolation: Isolation) -> Transaction {
    let mut t = database.begin(TransactionOptions { isolation, ..Default::default() }).await.unwrap();
    t.begin_statement().await.unwrap();
    t
}

async fn holder(database: &Database, name: &str) -> Transaction {
    let mut t = begin(database, Isolation::Serializable).await;
    t.lock(&key(name), LockMode::Exclusive, Wait::Block).await.unwrap();
    t
}

/// Lets other tasks run until `there`.
async fn until(there: impl Fn() -> bool) {
    let patience = async {
        while !there() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), patience).await.expect("it never came to that");
}

/// Locks `key` in a task of its own, which ends with the transaction.
fn waiter(mut t: Transaction, name: &'static str) -> tokio::task::JoinHandle<Result<Transaction, Error>> {
    tokio::spawn(async move { t.lock(&key(name), LockMode::Exclusive, Wait::Block).await.map(|_| t) })
}

async fn increment(database: &Database, isolation: Isolation) -> Result<(), Error> {
    let mut t = begin(database, isolation).await;
    let locked = t.lock(&key("hot"), LockMode::NoKeyExclusive, Wait::Block).await?;
    if locked.newest > t.read_at() {
        t.advance().await?;
    }
    let old = t.view().get(&key("hot"))?.map_or(0, |v| to_number(&v));
    t.put(key("hot"), number(old + 1))?;
    t.commit().await.map(drop)
}

/// All who want the same row queue at the leader, wherever they are: none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_row_queues_among_nodes_and_never_fails() {
    for isolation in [Isolation::Serializable, Isolation::ReadCommitted] {
        let (_world, nodes) = three();
        let clients: Vec<_> = (0..9)
            .map(|client| {
                let database = nodes[client % 3].clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        increment(&database, isolation).await.unwrap();
                    }
                })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        let t = begin(&nodes[2], isolation).await;
        assert_eq!(to_number(&t.view().get(&key("hot")).unwrap().unwrap()), 180);
        until(|| nodes[0].inner.locks.table().is_empty()).await;
    }
}

/// A transaction of one statement asks for its locks with the batch.
#[tokio::test]
async fn locks_that_are_deferred_are_asked_for_with_the_batch() {
    for isolation in [Isolation::Serializable, Isolation::ReadCommitted] {
        let (_world, nodes) = three();
        let table = nodes[0].inner.locks.table();
        let deferring = async |value: i64| {
            let mut t = nodes[1].begin(TransactionOptions { isolation, ..Default::default() }).await.unwrap();
            assert!(t.defer_locks());
            t.begin_statement().await.unwrap();
            t.lock(&key("a"), LockMode::NoKeyExclusive, Wait::Block).await.unwrap();
            t.put(key("a"), number(value)).unwrap();
            t
        };
        // Nobody is asked before.
        let t = deferring(1).await;
        assert!(table.is_empty());
        t.commit().await.unwrap();
        assert!(table.is_empty(), "what was claimed is given back");
        // Who is in the way is not passed by, and nothing is done.
        let held = holder(&nodes[2], "a").await;
        let error = deferring(2).await.commit().await.unwrap_err();
        assert!(matches!(&error, Error::Conflict(Contested::Lock)), "{error}");
        assert_eq!(table.all().len(), 1);
        drop(held);
        until(|| table.is_empty()).await;
        let t = begin(&nodes[2], isolation).await;
        assert_eq!(to_number(&t.view().get(&key("a")).unwrap().unwrap()), 1);
        // A lock that somebody else held in the meantime is no protection: what the row was
        // is a condition of its own.
        let t = deferring(3).await;
        let mut other = holder(&nodes[2], "a").await;
        other.put(key("a"), number(4)).unwrap();
        other.commit().await.unwrap();
        until(|| table.is_empty()).await;
        let outcome = t.commit().await;
        match isolation {
            // It has read nothing, and what it locked it need not know.
            Isolation::Serializable => drop(outcome.unwrap()),
            Isolation::ReadCommitted => {
                assert!(matches!(outcome, Err(Error::Conflict(Contested::Key(k))) if k == key("a")));
            }
        }
        // Where the locks are kept here there is nothing to defer.
        let mut t = nodes[0].begin(TransactionOptions { isolation, ..Default::default() }).await.unwrap();
        assert!(!t.defer_locks());
    }
}

/// The table is in one place, so a cycle through three nodes is one of its graph.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_among_nodes_is_found() {
    let (_world, nodes) = three();
    let [a, b, mut c] = [holder(&nodes[0], "a").await, holder(&nodes[1], "b").await, holder(&nodes[2], "c").await];
    let names = [a.id(), b.id(), c.id()].map(|id| id.to_string());
    assert_eq!(names, ["1/1", "2/1", "3/1"]);
    let (a, b) = (waiter(a, "b"), waiter(b, "c"));
    until(|| nodes[0].lock_waits().len() == 2).await;
    let error = c.lock(&key("a"), LockMode::Exclusive, Wait::Block).await.unwrap_err();
    assert!(matches!(&error, Error::Deadlock(cycle) if cycle.len() == 3), "{error}");
    // Whoever gives up lets the others go on.
    c.rollback().await;
    let b = b.await.unwrap().unwrap();
    b.rollback().await;
    a.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_remote_wait_ends_in_time_or_when_it_is_abandoned() {
    let (_world, nodes) = three();
    let held = holder(&nodes[1], "a").await;
    // Not at all,
    let mut t = begin(&nodes[2], Isolation::Serializable).await;
    let error = t.lock(&key("a"), LockMode::Share, Wait::NoWait).await.unwrap_err();
    assert!(
        matches!(&error, Error::LockNotAvailable { blockers, timed_out: false, .. } if *blockers == [held.id()]),
        "{error}"
    );
    // for less than a turn, and for more than one,
    for timeout in [LEASE / 40, LEASE / 4] {
        t.set_lock_timeout(Some(timeout));
        let error = t.lock(&key("a"), LockMode::Share, Wait::Block).await.unwrap_err();
        assert!(
            matches!(&error, Error::LockNotAvailable { blockers, timed_out: true, .. } if *blockers == [held.id()]),
            "{error}"
        );
        until(|| nodes[0].lock_waits().is_empty()).await;
    }
    // and until the client cancels.
    t.set_lock_timeout(None);
    let waiting = waiter(t, "a");
    until(|| !nodes[0].lock_waits().is_empty()).await;
    waiting.abort();
    until(|| nodes[0].lock_waits().is_empty()).await;
    drop(held);
    holder(&nodes[2], "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_locks_of_a_node_that_is_gone_are_freed() {
    let (world, nodes) = three();
    // It is silent for as long as its lease,
    let gone = holder(&nodes[1], "a").await;
    let waiting = waiter(begin(&nodes[2], Isolation::Serializable).await, "a");
    until(|| !nodes[0].lock_waits().is_empty()).await;
    world.cut(NodeId(2));
    let held = waiting.await.unwrap().unwrap();
    drop((gone, held));
    // or someone knows it,
    world.mend();
    let gone = holder(&nodes[1], "b").await;
    world.lock_server(NodeId(1)).unwrap().forget(NodeId(2));
    let held = holder(&nodes[2], "b").await;
    drop((gone, held));
    // or it comes back without its memory.
    let gone = holder(&nodes[1], "c").await;
    std::mem::forget(gone);
    let again = world.start(NodeId(2), 0).database;
    holder(&again, "c").await;
}

/// What was lost on its way is said again by the next renewal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_release_costs_a_moment() {
    let (world, nodes) = three();
    let held = holder(&nodes[1], "a").await;
    world.lose(|question| matches!(question, LockQuestion::Release { .. } | LockQuestion::Cancel { .. }));
    drop(held);
    let held = holder(&nodes[2], "a").await;
    let waiting = waiter(begin(&nodes[1], Isolation::Serializable).await, "a");
    until(|| !nodes[0].lock_waits().is_empty()).await;
    waiting.abort();
    until(|| nodes[0].lock_waits().is_empty()).await;
    drop(held);
}

/// A live transaction's locks outlast many leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_are_kept_as_long_as_their_transaction_lives() {
    let (_world, nodes) = three();
    let held = holder(&nodes[1], "a").await;
    let mut t = begin(&nodes[2], Isolation::Serializable).await;
    t.set_lock_timeout(Some(LEASE * 4));
    let error = t.lock(&key("a"), LockMode::Share, Wait::Block).await.unwrap_err();
    assert!(matches!(error, Error::LockNotAvailable { timed_out: true, .. }), "{error}");
    drop(held);
}

/// `SELECT … FOR UPDATE` at the old leader, and another writer at the new one,
/// which knows nothing of it: one of them fails, and no update is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_that_a_change_of_leaders_lost_lose_no_update() {
    for isolation in [Isolation::Serializable, Isolation::ReadCommitted] {
        for slow in 0..3 {
            let (world, nodes) = three();
            increment(&nodes[0], isolation).await.unwrap();
            let mut t = begin(&nodes[slow], isolation).await;
            t.lock(&key("hot"), LockMode::Exclusive, Wait::Block).await.unwrap();
            let old = to_number(&t.view().get(&key("hot")).unwrap().unwrap());
            world.lead(NodeId(3));
            // Does not wait: the lock is forgotten.
            increment(&nodes[1], isolation).await.unwrap();
            // The same transaction's next statement trusts its lock.
            t.begin_statement().await.unwrap();
            t.put(key("hot"), number(old + 10)).unwrap();
            let refused = t.commit().await.unwrap_err();
            assert_eq!(refused.class(), Class::Conflict, "{refused}");
            let t = begin(&nodes[0], isolation).await;
            assert_eq!(to_number(&t.view().get(&key("hot")).unwrap().unwrap()), old + 1);
        }
    }
}

/// The range was led by node 1, by node 2, and again by node 1. Each waits in the
/// memory of its own node for the other, a cycle that neither graph shows; so
/// whoever waits where nobody leads any more asks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_ever_where_nobody_leads() {
    let (world, nodes) = three();
    let first = holder(&nodes[1], "a").await;
    world.lead(NodeId(2));
    let second = holder(&nodes[0], "b").await;
    let first = waiter(first, "b");
    until(|| !nodes[1].lock_waits().is_empty()).await;
    world.lead(NodeId(1));
    let second = waiter(second, "a");
    let ended = async {
        drop(first.await.unwrap().unwrap());
        drop(second.await.unwrap().unwrap());
    };
    tokio::time::timeout(LEASE * 20, ended).await.expect("they wait for ever");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_that_does_not_answer_is_named() {
    let (world, nodes) = three();
    let mut t = begin(&nodes[1], Isolation::Serializable).await;
    world.lose(|_| true);
    let error = t.lock(&key("a"), LockMode::Share, Wait::Block).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.to_string().contains("node 1 did not answer about locks: lost"), "{error}");
    // Whoever sees no leader says so.
    world.cut(NodeId(1));
    let error = t.lock(&key("a"), LockMode::Share, Wait::Block).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(outage) if outage.unreachable == [NodeId(1)]), "{error}");
    // When it is back, so are its locks.
    world.lose(|_| false);
    world.mend();
    t.lock(&key("a"), LockMode::Share, Wait::Block).await.unwrap();
}
