//! Many clients on few rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{key, number, to_number};
use crate::testing::database;
use crate::*;

const CLIENTS: u64 = 16;
const ROUNDS: u64 = 60;

/// The path of `UPDATE … SET v = v + 1 WHERE id = …`.
async fn increment(t: &mut Transaction, name: &str) -> Result<(), Error> {
    t.begin_statement().await?;
    let locked = t.lock(&key(name), LockMode::NoKeyExclusive, Wait::Block).await?;
    if locked.newest > t.read_at() {
        t.advance().await?;
    }
    let old = t.view().get(&key(name))?.map_or(0, |v| to_number(&v));
    t.put(key(name), number(old + 1))
}

async fn insert(t: &mut Transaction, name: &str) -> Result<(), Error> {
    t.begin_statement().await?;
    t.expect_absent(key(name));
    t.put(key(name), number(1))
}

/// One TPC-B transaction: an account, a teller, the branch, and the history.
async fn tpc_b(database: &Database, isolation: Isolation, client: u64, round: u64) -> Result<(), Error> {
    let mut t = database.begin(TransactionOptions { isolation, ..Default::default() }).await?;
    let random = (client * ROUNDS + round).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    increment(&mut t, &format!("account {}", random % 100)).await?;
    increment(&mut t, &format!("teller {}", random % 10)).await?;
    increment(&mut t, "branch").await?;
    insert(&mut t, &format!("history {client} {round}")).await?;
    t.commit().await?;
    Ok(())
}

/// The branch row is changed by every transaction. They queue for it, and none
/// fails: that is what locks and advancing snapshots are for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_row_queues_and_never_fails() {
    let (strong, _group) = super::strong::database().await;
    for (isolation, database) in [
        (Isolation::Serializable, database()),
        (Isolation::ReadCommitted, database()),
        (Isolation::Serializable, strong),
    ] {
        let clients = (0..CLIENTS).map(|client| {
            let database = database.clone();
            tokio::spawn(async move {
                for round in 0..ROUNDS {
                    tpc_b(&database, isolation, client, round).await.unwrap();
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        let mut t = database.begin(TransactionOptions::default()).await.unwrap();
        t.begin_statement().await.unwrap();
        let branch = t.view().get(&key("branch")).unwrap().unwrap();
        assert_eq!(to_number(&branch) as u64, CLIENTS * ROUNDS);
    }
}

/// Without locks nothing is lost either; transactions fail and try again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn validation_alone_loses_no_update() {
    let database = database();
    let conflicts = Arc::new(AtomicU64::new(0));
    let clients = (0..4).map(|_| {
        let (database, conflicts) = (database.clone(), conflicts.clone());
        tokio::spawn(async move {
            for _ in 0..50 {
                while let Err(error) = increment_unlocked(&database).await {
                    assert!(matches!(error, Error::Conflict(_)), "{error}");
                    conflicts.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let mut t = database.begin(TransactionOptions::default()).await.unwrap();
    t.begin_statement().await.unwrap();
    assert_eq!(to_number(&t.view().get(&key("counter")).unwrap().unwrap()), 200);
    assert!(conflicts.load(Ordering::Relaxed) > 0, "no two transactions ever met: this tests nothing");
}

async fn increment_unlocked(database: &Database) -> Result<(), Error> {
    let mut t = database.begin(TransactionOptions::default()).await?;
    t.begin_statement().await?;
    let old = t.view().get(&key("counter"))?.map_or(0, |v| to_number(&v));
    t.put(key("counter"), number(old + 1))?;
    t.commit().await?;
    Ok(())
}
