//! Transactions on a Raft group of one, over a disk in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use polity_base::seams::ClockSource;
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{Class, NodeId, RangeId, Timestamp};
use polity_raft::{Group, GroupOptions};
use polity_store::disk::MemoryDisk;
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{State, StateOptions};

use super::{key, number, to_number};
use crate::testing::{database_on, seams};
use crate::*;

/// A clock that moves by a microsecond whenever it is read.
struct StepClock(AtomicU64);

impl ClockSource for StepClock {
    fn read(&self) -> ClockReading {
        let now = Timestamp(self.0.fetch_add(1_000, Ordering::Relaxed) + 1_000);
        ClockReading { earliest: now, latest: now }
    }
}

/// A new group of one, and a database on it.
pub(crate) async fn database() -> (Database, Group) {
    let (disk, entropy) = (Arc::new(MemoryDisk::new(1)), seams().entropy);
    let keys = Keyring::open(&*disk, &MasterKey::generate(&*entropy), &*entropy).unwrap();
    let (log, _) = Log::open(disk.clone(), &keys, entropy.clone(), LogOptions::default()).await.unwrap();
    let state = Arc::new(State::open(disk, &keys, entropy, StateOptions::default()).unwrap());
    let clock = Arc::new(HybridClock::new(Arc::new(StepClock(AtomicU64::new(0))), Timestamp::ZERO));
    let options = GroupOptions::default();
    let group = Group::start(RangeId(1), NodeId(1), log, state.clone(), clock, options).await.unwrap();
    (database_on(StrongReplica::new(group.clone(), state), Options::default()), group)
}

async fn read(database: &Database, name: &str) -> Result<Option<i64>, Error> {
    let mut t = database.begin(TransactionOptions { read_only: true, ..Default::default() }).await?;
    t.begin_statement().await?;
    Ok(t.view().get(&key(name))?.map(|v| to_number(&v)))
}

async fn write(database: &Database, name: &str, value: i64) -> Result<Timestamp, Error> {
    let mut t = database.begin(TransactionOptions::default()).await?;
    t.begin_statement().await?;
    t.put(key(name), number(value))?;
    t.commit().await
}

/// Whatever was acknowledged before a transaction begins, it sees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_seen_by_all_who_come_later() {
    let (database, _group) = database().await;
    let acknowledged = Arc::new(AtomicI64::new(0));
    let writer = {
        let (database, acknowledged) = (database.clone(), acknowledged.clone());
        tokio::spawn(async move {
            for value in 1..=300 {
                write(&database, "a", value).await.unwrap();
                acknowledged.store(value, Ordering::SeqCst);
            }
        })
    };
    while !writer.is_finished() {
        let before = acknowledged.load(Ordering::SeqCst);
        let seen = read(&database, "a").await.unwrap().unwrap_or(0);
        assert!(seen >= before, "{seen} seen after {before} was acknowledged");
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    assert_eq!(read(&database, "a").await.unwrap(), Some(300));
}

#[tokio::test]
async fn the_past_can_be_read() {
    let (database, _group) = database().await;
    let first = write(&database, "a", 1).await.unwrap();
    let second = write(&database, "a", 2).await.unwrap();
    for (at, value) in
        [(first, Some(1)), (Timestamp(second.0 - 1), Some(1)), (second, Some(2)), (Timestamp::ZERO, None)]
    {
        let t =
            database.begin(TransactionOptions { freshness: Freshness::AsOf(at), ..Default::default() }).await.unwrap();
        assert_eq!(t.view().get(&key("a")).unwrap().map(|v| to_number(&v)), value);
    }
}

/// A replica that cannot keep its word refuses.
#[tokio::test]
async fn a_stopped_group_refuses() {
    let (database, group) = database().await;
    let at = write(&database, "a", 1).await.unwrap();
    let mut open = database.begin(TransactionOptions::default()).await.unwrap();
    open.begin_statement().await.unwrap();
    open.put(key("a"), number(2)).unwrap();
    group.shutdown().await;
    assert_eq!(open.commit().await.unwrap_err().class(), Class::Unavailable);
    assert_eq!(read(&database, "a").await.unwrap_err().class(), Class::Unavailable);
    // Except where the reader asked for the past by name.
    let past =
        database.begin(TransactionOptions { freshness: Freshness::AsOf(at), ..Default::default() }).await.unwrap();
    assert_eq!(past.view().get(&key("a")).unwrap().as_deref(), Some(&b"1"[..]));
}

/// A time after the last commit is closed before it is read: what is written later
/// does not appear in it.
#[tokio::test]
async fn a_state_that_was_read_never_changes() {
    let (database, group) = database().await;
    let last = write(&database, "a", 1).await.unwrap();
    let at = Timestamp(last.0 + 20_000);
    let read = async || {
        let options = TransactionOptions { freshness: Freshness::AsOf(at), ..Default::default() };
        let t = database.begin(options).await.unwrap();
        t.view().get(&key("a")).unwrap().map(|v| to_number(&v))
    };
    assert_eq!(read().await, Some(1));
    assert!(group.applied() >= at);
    assert!(write(&database, "a", 2).await.unwrap() > at);
    let entries = group.status().last_index;
    assert_eq!(read().await, Some(1));
    // What is closed needs no entry any more.
    assert_eq!(group.status().last_index, entries);
}
