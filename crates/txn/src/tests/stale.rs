//! What a node serves alone, and what it does not.

use std::time::Duration;

use polity_base::{Class, NodeId, Timestamp};

use super::{key, number, to_number};
use crate::testing::World;
use crate::*;

const SECOND: Duration = Duration::from_secs(1);

async fn write(database: &Database, value: i64) -> Timestamp {
    let mut t = database.begin(TransactionOptions::default()).await.unwrap();
    t.begin_statement().await.unwrap();
    t.put(key("a"), number(value)).unwrap();
    t.commit().await.unwrap()
}

async fn read(database: &Database, freshness: Freshness) -> Result<i64, Error> {
    let mut t = database.begin(TransactionOptions { freshness, ..Default::default() }).await?;
    t.begin_statement().await?;
    Ok(to_number(&t.view().get(&key("a"))?.unwrap()))
}

/// Nodes 1 and 2; what they do not tell each other, they do not know.
fn two() -> (World, [Database; 2]) {
    let world = World::new(SECOND);
    let nodes = [1, 2].map(|node| world.start(NodeId(node), 0).database);
    (world, nodes)
}

#[tokio::test]
async fn a_replica_that_is_alone_serves_what_it_has_and_says_how_old_it_is() {
    let (world, [first, second]) = two();
    let old = write(&first, 1).await;
    world.lag(NodeId(2));
    world.pass(SECOND * 10);
    let newer = write(&first, 2).await;
    world.pass(SECOND * 3);
    // Served without asking anyone:
    assert_eq!(read(&second, Freshness::Local).await.unwrap(), 1);
    assert_eq!(read(&second, Freshness::Within(SECOND * 14)).await.unwrap(), 1);
    world.cut(NodeId(2));
    assert_eq!(read(&second, Freshness::Local).await.unwrap(), 1);
    assert_eq!(read(&second, Freshness::Within(SECOND * 14)).await.unwrap(), 1);
    assert_eq!(read(&second, Freshness::AsOf(old)).await.unwrap(), 1);
    // What is too old for the asker is refused, and so is what it cannot know.
    for (freshness, asked) in
        [(Freshness::Within(SECOND * 12), Wanted::Within(SECOND * 12)), (Freshness::AsOf(newer), Wanted::At(newer))]
    {
        let error = read(&second, freshness).await.unwrap_err();
        assert_eq!(error.class(), Class::Unavailable);
        let Error::TooStale { newest, age, wanted, outage } = error else { panic!("{error}") };
        assert_eq!((newest, wanted, outage.unreachable), (old, asked, vec![NodeId(1)]));
        assert!((SECOND * 13..SECOND * 14).contains(&age), "{age:?}");
    }
    assert_eq!(read(&second, Freshness::Latest).await.unwrap_err().class(), Class::Unavailable);
    // Once it reaches the leader again, it asks, if it must.
    world.mend();
    assert_eq!(read(&second, Freshness::Within(SECOND * 14)).await.unwrap(), 1);
    assert_eq!(read(&second, Freshness::AsOf(newer)).await.unwrap(), 2);
    assert_eq!(read(&second, Freshness::Within(SECOND * 2)).await.unwrap(), 2);
}

#[tokio::test]
async fn a_reader_of_the_past_writes_nothing_and_sees_one_state() {
    let (_world, [first, second]) = two();
    write(&first, 1).await;
    for freshness in [Freshness::Local, Freshness::Within(SECOND)] {
        let options = TransactionOptions { isolation: Isolation::ReadCommitted, freshness, ..Default::default() };
        let mut t = second.begin(options).await.unwrap();
        assert!(t.is_read_only());
        assert!(matches!(t.put(key("a"), number(5)), Err(Error::ReadOnly)));
        assert!(matches!(t.lock(&key("a"), LockMode::Share, Wait::Block).await, Err(Error::ReadOnly)));
        let before = t.view().get(&key("a")).unwrap();
        write(&first, 2).await;
        t.begin_statement().await.unwrap();
        assert_eq!(t.view().get(&key("a")).unwrap(), before);
    }
}

#[tokio::test]
async fn the_future_is_refused_also_where_clocks_are_fast() {
    let world = World::new(SECOND);
    let first = world.start(NodeId(1), 0);
    let fast = world.start(NodeId(2), 60_000_000_000);
    write(&first.database, 1).await;
    let own = first.clock.reading().latest;
    let refused = read(&first.database, Freshness::AsOf(Timestamp(own.0 + 1_000_000_000))).await;
    assert!(matches!(refused, Err(Error::InTheFuture(_))), "{refused:?}");
    // The past by its own clock, the future by the leader's, which decides.
    let refused = read(&fast.database, Freshness::AsOf(Timestamp(own.0 + 30_000_000_000))).await;
    assert!(matches!(refused, Err(Error::InTheFuture(_))), "{refused:?}");
}

/// Nothing is written, and the node that does not lead comes to know later states.
#[tokio::test]
async fn an_idle_leader_closes_time_for_the_others() {
    let world = World::new(SECOND);
    let first = world.start(NodeId(1), 0);
    let second = world.start(NodeId(2), 0).database;
    write(&first.database, 1).await;
    world.pass(SECOND * 60);
    let closed = first.clock.reading().latest;
    let there = async {
        while world.applied(NodeId(2)) < closed {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SECOND * 20, there).await.expect("nothing was closed");
    world.cut(NodeId(2));
    assert_eq!(read(&second, Freshness::AsOf(closed)).await.unwrap(), 1);
    assert_eq!(read(&second, Freshness::Within(SECOND * 10)).await.unwrap(), 1);
}

/// A leader whose clock is behind does not write into the past: what a reader was
/// shown of a time stays.
#[tokio::test]
async fn a_later_leader_with_a_slow_clock_writes_later() {
    let world = World::new(SECOND);
    let fast = world.start(NodeId(1), 60_000_000_000).database;
    let slow = world.start(NodeId(2), -60_000_000_000).database;
    let first = write(&fast, 1).await;
    // Closed by the first leader, and nothing written.
    let at = Timestamp(first.0 + 1_000);
    world.pass(SECOND);
    assert_eq!(read(&fast, Freshness::AsOf(at)).await.unwrap(), 1);
    world.lead(NodeId(2));
    let second = write(&slow, 2).await;
    assert!(second > at, "{second} after {at}");
    for database in [&fast, &slow] {
        assert_eq!(read(database, Freshness::Latest).await.unwrap(), 2);
        assert_eq!(read(database, Freshness::Local).await.unwrap(), 2);
    }
    assert_eq!(read(&fast, Freshness::AsOf(at)).await.unwrap(), 1);
}
