//! Transactions on eventual tables, among nodes that are cut off from each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_base::key::{Direction, KeyBuilder};
use polity_base::row::{decode, encode};
use polity_base::{Bounds, Class, ColumnChange, ColumnId, Guarantee, Key, NodeId, RowChange, Span, Value};

use super::{key as strong_key, number, to_number};
use crate::eventual::NoIndexes;
use crate::testing::World;
use crate::*;

const STOCK: Bounds = Bounds { lower: Some(0), upper: None };

/// Nodes of one cluster; the first leads what is strong.
async fn nodes(count: u64) -> (World, Vec<Database>) {
    let world = World::new(Duration::from_secs(5));
    let mut databases = Vec::new();
    for node in 1..=count {
        let site = world.start_with_eventual(NodeId(node), 0, Arc::new(NoIndexes)).await.unwrap();
        databases.push(site.database);
    }
    (world, databases)
}

fn key(name: &str) -> Key {
    let mut key = KeyBuilder::new(Guarantee::Eventual.storage(16_384));
    key.push(&Value::Text(name.to_owned())).unwrap();
    key.finish()
}

fn all() -> Span {
    Span::of_index(Guarantee::Eventual.storage(16_384))
}

/// A row of a name and a stock.
fn row(name: &str, stock: i64) -> Bytes {
    encode(&[Value::Text(name.to_owned()), Value::Int8(stock)])
}

fn insert(name: &str, stock: i64) -> (RowChange, Option<Bytes>) {
    let name = Value::Text(name.to_owned());
    let columns = vec![
        (ColumnId(0), ColumnChange::Set(name.clone())),
        (ColumnId(1), ColumnChange::Add { amount: stock, bounds: STOCK }),
    ];
    (RowChange::Insert(columns), Some(encode(&[name, Value::Int8(stock)])))
}

fn add(amount: i64) -> RowChange {
    RowChange::Update(vec![(ColumnId(1), ColumnChange::Add { amount, bounds: STOCK })])
}

/// A transaction whose statement asks nobody.
async fn begin(database: &Database) -> Transaction {
    let mut t = database.begin(TransactionOptions::default()).await.unwrap();
    t.begin_statement_with(Reach::Here).await.unwrap();
    t
}

/// Inserts a row under its name, in a transaction of its own.
async fn put(database: &Database, name: &str, stock: i64) {
    let mut t = begin(database).await;
    let (change, shown) = insert(name, stock);
    t.change(key(name), change, shown).unwrap();
    t.commit().await.unwrap();
}

/// Takes from, or adds to, a row's stock.
async fn sell(database: &Database, name: &str, amount: i64) -> Result<(), Error> {
    let mut t = begin(database).await;
    let locked = t.lock(&key(name), LockMode::NoKeyExclusive, Wait::Block).await?;
    if locked.is_newer() {
        t.advance().await?;
    }
    let seen = stock_in(&t.view(), name).unwrap_or_default();
    t.change(key(name), add(-amount), Some(row(name, seen - amount)))?;
    t.commit().await.map(drop)
}

fn stock_in(view: &View, name: &str) -> Option<i64> {
    let bytes = view.get(&key(name)).unwrap()?;
    decode(&bytes).unwrap()[1].as_i64()
}

async fn stock(database: &Database, name: &str) -> Option<i64> {
    stock_in(&begin(database).await.view(), name)
}

fn names(view: &View) -> Vec<String> {
    let mut scan = view.scan(all(), Direction::Ascending).unwrap();
    let rows = scan.next_chunk(100).unwrap();
    let name = |(_, row): (Key, Bytes)| match decode(&row).unwrap().swap_remove(0) {
        Value::Text(name) => name,
        other => panic!("{other:?}"),
    };
    rows.into_iter().map(name).collect()
}

/// Either side of a cut reads and writes eventual tables, and what they did comes
/// together. What is strong is refused on one side, and only that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_of_a_cut_go_on_and_come_together() {
    let (world, nodes) = nodes(3).await;
    put(&nodes[0], "pen", 30).await;
    world.settle().await;
    world.cut(NodeId(2));
    put(&nodes[1], "ink", 1).await;
    sell(&nodes[1], "pen", 2).await.unwrap();
    put(&nodes[0], "nib", 1).await;
    sell(&nodes[0], "pen", 5).await.unwrap();
    assert_eq!(names(&begin(&nodes[1]).await.view()), ["ink", "pen"]);
    assert_eq!(stock(&nodes[1], "pen").await, Some(28));
    assert_eq!(stock(&nodes[0], "pen").await, Some(25));
    let mut t = nodes[1].begin(TransactionOptions::default()).await.unwrap();
    assert_eq!(t.begin_statement().await.unwrap_err().class(), Class::Unavailable);
    world.mend();
    world.settle().await;
    for node in &nodes {
        assert_eq!(names(&begin(node).await.view()), ["ink", "nib", "pen"]);
        assert_eq!(stock(node, "pen").await, Some(23));
    }
}

/// Locks of eventual rows are this node's own: whoever holds one elsewhere, and
/// whether that node can be reached, is of no concern.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_locked_among_the_transactions_of_one_node() {
    let (world, nodes) = nodes(2).await;
    put(&nodes[0], "pen", 100).await;
    world.settle().await;
    let mut holder = begin(&nodes[0]).await;
    holder.lock(&key("pen"), LockMode::Exclusive, Wait::Block).await.unwrap();
    let mut other = begin(&nodes[0]).await;
    let refused = other.lock(&key("pen"), LockMode::Exclusive, Wait::NoWait).await;
    assert!(matches!(refused, Err(Error::LockNotAvailable { .. })), "{refused:?}");
    // On another node, and on one that is cut off.
    let mut there = begin(&nodes[1]).await;
    there.lock(&key("pen"), LockMode::Exclusive, Wait::NoWait).await.unwrap();
    world.cut(NodeId(2));
    there.lock(&key("ink"), LockMode::Exclusive, Wait::NoWait).await.unwrap();
    drop((holder, other, there));
    // Updates of a row queue, and none is lost.
    let sellers: Vec<_> = (0..20)
        .map(|_| {
            let node = nodes[0].clone();
            tokio::spawn(async move { sell(&node, "pen", 1).await })
        })
        .collect();
    for seller in sellers {
        seller.await.unwrap().unwrap();
    }
    assert_eq!(stock(&nodes[0], "pen").await, Some(80));
}

/// A transaction is seen whole, in the order in which it came to be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_seen_whole_on_every_node() {
    let (world, nodes) = nodes(2).await;
    let watcher = {
        let node = nodes[1].clone();
        tokio::spawn(async move {
            let mut most = 0;
            while most < 40 {
                let seen = names(&begin(&node).await.view()).len();
                assert_eq!(seen % 2, 0, "half of a transaction");
                assert!(seen >= most, "back in time");
                most = seen;
                tokio::task::yield_now().await;
            }
        })
    };
    for n in 0..20 {
        let mut t = begin(&nodes[0]).await;
        for half in ["a", "b"] {
            let name = format!("{half}{n:02}");
            let (change, shown) = insert(&name, 1);
            t.change(key(&name), change, shown).unwrap();
        }
        t.commit().await.unwrap();
    }
    world.settle().await;
    tokio::time::timeout(Duration::from_secs(30), watcher).await.expect("it came").unwrap();
}

/// What a transaction changed it sees, and what it takes back is not committed.
#[tokio::test]
async fn changes_are_seen_and_taken_back_with_their_savepoint() {
    let (_world, nodes) = nodes(1).await;
    put(&nodes[0], "pen", 10).await;
    let mut t = begin(&nodes[0]).await;
    t.change(key("pen"), add(-1), Some(row("pen", 9))).unwrap();
    let savepoint = t.savepoint();
    let (change, shown) = insert("ink", 1);
    t.change(key("ink"), change, shown).unwrap();
    t.change(key("pen"), RowChange::Delete, None).unwrap();
    assert_eq!(names(&t.view()), ["ink"]);
    t.rollback_to(&savepoint);
    assert_eq!(names(&t.view()), ["pen"]);
    assert_eq!(stock_in(&t.view(), "pen"), Some(9));
    t.commit().await.unwrap();
    assert_eq!(names(&begin(&nodes[0]).await.view()), ["pen"]);
    assert_eq!(stock(&nodes[0], "pen").await, Some(9));
}

/// A row may go and come again in one transaction.
#[tokio::test]
async fn a_row_that_goes_and_comes_in_one_transaction_begins_anew() {
    let (world, nodes) = nodes(2).await;
    put(&nodes[0], "pen", 10).await;
    let mut t = begin(&nodes[0]).await;
    t.change(key("pen"), RowChange::Delete, None).unwrap();
    let (change, shown) = insert("pen", 3);
    t.change(key("pen"), change, shown).unwrap();
    t.change(key("pen"), add(-1), Some(row("pen", 2))).unwrap();
    t.commit().await.unwrap();
    world.settle().await;
    for node in &nodes {
        assert_eq!(stock(node, "pen").await, Some(2));
    }
}

/// SERIALIZABLE reads one state of this node's replica, READ COMMITTED one a statement;
/// neither is a condition of the commit.
#[tokio::test]
async fn statements_read_the_state_of_this_node() {
    let (_world, nodes) = nodes(1).await;
    for (isolation, later) in [(Isolation::Serializable, 10), (Isolation::ReadCommitted, 9)] {
        let name = format!("{isolation:?}");
        put(&nodes[0], &name, 10).await;
        let options = TransactionOptions { isolation, ..Default::default() };
        let mut t = nodes[0].begin(options).await.unwrap();
        t.begin_statement_with(Reach::Here).await.unwrap();
        assert_eq!(stock_in(&t.view(), &name), Some(10));
        sell(&nodes[0], &name, 1).await.unwrap();
        t.begin_statement_with(Reach::Here).await.unwrap();
        assert_eq!(stock_in(&t.view(), &name), Some(later));
        // And it may write what is strong all the same.
        t.begin_statement().await.unwrap();
        t.put(strong_key(&name), number(1)).unwrap();
        t.commit().await.unwrap();
    }
}

/// A transaction that read what is strong, and writes what is eventual, sees one strong
/// state, which it may not take from this node's copy alone.
#[tokio::test]
async fn reads_of_strong_tables_ask_the_leader_as_ever() {
    let (world, nodes) = nodes(2).await;
    let mut t = nodes[0].begin(TransactionOptions::default()).await.unwrap();
    t.begin_statement().await.unwrap();
    t.put(strong_key("a"), number(1)).unwrap();
    world.lag(NodeId(2));
    t.commit().await.unwrap();
    let mut t = begin(&nodes[1]).await;
    assert_eq!(t.view().get(&strong_key("a")).unwrap(), None, "nobody was asked");
    t.begin_statement().await.unwrap();
    assert_eq!(t.view().get(&strong_key("a")).unwrap().map(|v| to_number(&v)), Some(1));
    // The state that was asked for stays when a later statement asks nobody.
    t.begin_statement_with(Reach::Here).await.unwrap();
    assert_eq!(t.view().get(&strong_key("a")).unwrap().map(|v| to_number(&v)), Some(1));
    let (change, shown) = insert("pen", 1);
    t.change(key("pen"), change, shown).unwrap();
    t.commit().await.unwrap();
    assert_eq!(stock(&nodes[1], "pen").await, Some(1));
}

/// One transaction writes tables of one guarantee, whichever it writes first.
#[tokio::test]
async fn a_transaction_writes_one_guarantee() {
    let (_world, nodes) = nodes(1).await;
    let (change, shown) = insert("pen", 1);
    let mut t = begin(&nodes[0]).await;
    t.change(key("pen"), change.clone(), shown.clone()).unwrap();
    let refused = t.put(strong_key("a"), number(1));
    assert!(
        matches!(refused, Err(Error::Mixed { earlier: Guarantee::Eventual, now: Guarantee::Strong })),
        "{refused:?}"
    );
    t.commit().await.unwrap();
    let mut t = nodes[0].begin(TransactionOptions::default()).await.unwrap();
    t.begin_statement().await.unwrap();
    let savepoint = t.savepoint();
    t.put(strong_key("a"), number(1)).unwrap();
    assert!(matches!(t.change(key("ink"), change.clone(), shown.clone()), Err(Error::Mixed { .. })));
    // What was taken back was not written.
    t.rollback_to(&savepoint);
    t.change(key("ink"), change, shown).unwrap();
    t.commit().await.unwrap();
    let t = begin(&nodes[0]).await;
    assert_eq!(names(&t.view()), ["pen", "pen"]);
    assert_eq!(t.view().get(&strong_key("a")).unwrap(), None);
    // A row of an eventual table is never written as bytes, nor a strong one by columns.
    let mut t = begin(&nodes[0]).await;
    assert_eq!(t.change(strong_key("a"), RowChange::Delete, None).unwrap_err().class(), Class::Bug);
}

/// A transaction that asked for more replicas than can be reached is told so, and is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_acknowledgements_are_told_and_take_nothing_back() {
    let (world, nodes) = nodes(2).await;
    let write = async |name: &str| {
        let mut t = begin(&nodes[0]).await;
        let (change, shown) = insert(name, 1);
        t.change(key(name), change, shown).unwrap();
        t.keep_on(2);
        t.commit().await
    };
    write("pen").await.unwrap();
    // Two replicas keep it: the other one shows it.
    assert_eq!(stock(&nodes[1], "pen").await, Some(1));
    world.cut(NodeId(2));
    let error = write("ink").await.unwrap_err();
    let Error::Eventual(why) = &error else { panic!("{error}") };
    assert!(
        matches!(&**why, EventualError::AcksMissing { wanted: 2, kept_by, .. } if *kept_by == [NodeId(1)]),
        "{why}"
    );
    assert_eq!(error.class(), Class::Unknown);
    assert_eq!(stock(&nodes[0], "ink").await, Some(1));
    world.mend();
    world.settle().await;
    assert_eq!(stock(&nodes[1], "ink").await, Some(1));
}

/// Either side of a cut sells what it holds and no more; together they sell what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_is_never_oversold_on_either_side_of_a_cut() {
    let (world, nodes) = nodes(2).await;
    put(&nodes[0], "pen", 10).await;
    world.settle().await;
    world.cut(NodeId(2));
    let mut sold = 0;
    let mut refusals = Vec::new();
    for node in &nodes {
        for _ in 0..10 {
            match sell(node, "pen", 1).await {
                Ok(()) => sold += 1,
                Err(Error::Eventual(why)) => refusals.push(why),
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert_eq!((sold, refusals.len()), (10, 10));
    // The total would do as far as they know, but what is left is with the other.
    let short = |e: &Arc<EventualError>| match &**e {
        EventualError::ShareTooSmall { here: 0, elsewhere, .. } => elsewhere.iter().any(|h| h.share == 5),
        _ => false,
    };
    assert!(refusals.iter().all(short), "{refusals:?}");
    world.mend();
    world.settle().await;
    for node in &nodes {
        assert_eq!(stock(node, "pen").await, Some(0));
        let error = sell(node, "pen", 1).await.unwrap_err();
        let Error::Eventual(why) = error else { panic!("{error}") };
        assert!(matches!(*why, EventualError::OutOfBounds { value: 0, .. }), "{why}");
    }
}

/// A side that can be reached gives of what it holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_move_to_who_needs_them() {
    let (world, nodes) = nodes(2).await;
    put(&nodes[0], "pen", 10).await;
    world.settle().await;
    sell(&nodes[1], "pen", 9).await.unwrap();
    world.settle().await;
    assert_eq!(stock(&nodes[0], "pen").await, Some(1));
}
