//! One property at a time.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::key::Direction;
use polity_base::{Batch, Class, Key, Span, Timestamp};
use proptest::prelude::*;

use super::{all, key, number, to_number};
use crate::testing::{MemoryReplica, database, database_on};
use crate::*;

fn read_committed() -> TransactionOptions {
    TransactionOptions { isolation: Isolation::ReadCommitted, ..Default::default() }
}

async fn begin(database: &Database, options: TransactionOptions) -> Transaction {
    let mut transaction = database.begin(options).await.unwrap();
    transaction.begin_statement().await.unwrap();
    transaction
}

async fn set(database: &Database, name: &str, value: i64) {
    let mut transaction = begin(database, TransactionOptions::default()).await;
    transaction.put(key(name), number(value)).unwrap();
    transaction.commit().await.unwrap();
}

fn value(view: &View, name: &str) -> Option<i64> {
    view.get(&key(name)).unwrap().map(|v| to_number(&v))
}

#[tokio::test]
async fn a_view_does_not_see_later_writes() {
    let database = database();
    set(&database, "a", 1).await;
    let mut t = begin(&database, TransactionOptions::default()).await;
    let (before, mark) = (t.view(), t.savepoint());
    t.put(key("a"), number(2)).unwrap();
    let between = t.view();
    t.put(key("a"), number(3)).unwrap();
    t.put(key("b"), number(4)).unwrap();
    let after = t.view();
    t.rollback_to(&mark);
    assert_eq!([&before, &between, &after, &t.view()].map(|v| value(v, "a")), [Some(1), Some(2), Some(3), Some(1)]);
    assert_eq!([&before, &between, &after, &t.view()].map(|v| value(v, "b")), [None, None, Some(4), None]);
    assert_eq!(t.size(), 0);
}

#[tokio::test]
async fn a_scan_has_read_only_what_it_passed() {
    use Direction::{Ascending, Descending};
    // With own writes the rows are 0 a c d e z: 0 and z are new, b is deleted.
    for (direction, own_writes, rows, changed, conflicts) in [
        (Ascending, false, 2, "b", true),
        (Ascending, false, 2, "c", false),
        (Descending, false, 2, "d", true),
        (Descending, false, 2, "c", false),
        (Ascending, true, 2, "a", true),
        (Ascending, true, 2, "c", false),
        (Ascending, true, 3, "b", true),
        (Descending, true, 3, "d", true),
        (Descending, true, 3, "c", false),
        (Descending, true, 5, "b", true),
        (Descending, true, 4, "a", false),
    ] {
        let database = database();
        for name in ["a", "b", "c", "d", "e"] {
            set(&database, name, 1).await;
        }
        let mut t = begin(&database, TransactionOptions::default()).await;
        t.put(key("zz"), number(0)).unwrap();
        if own_writes {
            t.put(key("0"), number(9)).unwrap();
            t.put(key("z"), number(9)).unwrap();
            t.delete(key("b")).unwrap();
        }
        let mut scan = t.view().scan(Span { start: key("0"), end: key("zz") }, direction).unwrap();
        assert_eq!(scan.next_chunk(rows).unwrap().len(), rows);
        set(&database, changed, 2).await;
        assert_eq!(t.commit().await.is_err(), conflicts, "{direction:?} {own_writes} {rows} {changed}");
    }
}

#[tokio::test]
async fn a_row_that_appears_in_a_scanned_span_conflicts() {
    let database = database();
    set(&database, "a", 1).await;
    let mut t = begin(&database, TransactionOptions::default()).await;
    let mut scan = t.view().scan(Span { start: key("a"), end: key("f") }, Direction::Ascending).unwrap();
    while !scan.next_chunk(10).unwrap().is_empty() {}
    t.put(key("z"), number(1)).unwrap();
    set(&database, "e", 1).await;
    assert!(matches!(t.commit().await, Err(Error::Conflict(Contested::Span(_)))));
}

#[tokio::test]
async fn own_writes_and_untracked_reads_do_not_conflict() {
    let database = database();
    let mut t = begin(&database, TransactionOptions::default()).await;
    t.put(key("a"), number(1)).unwrap();
    assert_eq!(value(&t.view(), "a"), Some(1));
    assert_eq!(value(&t.view().untracked(), "b"), None);
    set(&database, "a", 5).await;
    set(&database, "b", 5).await;
    t.commit().await.unwrap();
}

/// A portal reads on while later statements run: its reads count, as of the
/// snapshot it was opened on.
#[tokio::test]
async fn what_an_old_view_reads_later_still_counts() {
    let database = database();
    set(&database, "a", 1).await;
    let mut t = begin(&database, TransactionOptions::default()).await;
    let portal = t.view();
    t.begin_statement().await.unwrap();
    t.put(key("z"), number(1)).unwrap();
    set(&database, "a", 2).await;
    assert_eq!(value(&portal, "a"), Some(1));
    assert!(t.commit().await.is_err());

    // The same when the snapshot has moved past the change before the read, also
    // for a transaction that writes nothing.
    for (writes, another_statement) in [(true, false), (false, false), (true, true), (false, true)] {
        let mut t = begin(&database, TransactionOptions::default()).await;
        let portal = t.view();
        set(&database, "a", 3).await;
        t.begin_statement().await.unwrap();
        t.advance().await.unwrap();
        if writes {
            t.put(key("z"), number(1)).unwrap();
        }
        assert_eq!(value(&t.view(), "a"), Some(3));
        assert_eq!(value(&portal, "a"), Some(2));
        drop(portal);
        if another_statement {
            t.begin_statement().await.unwrap();
        }
        assert!(t.commit().await.is_err());
        set(&database, "a", 2).await;
    }
}

#[tokio::test]
async fn the_snapshot_moves_only_past_what_was_not_read() {
    let database = database();
    set(&database, "a", 1).await;
    let mut t = begin(&database, TransactionOptions::default()).await;
    assert_eq!(value(&t.view(), "a"), Some(1));
    set(&database, "b", 2).await;
    t.begin_statement().await.unwrap();
    assert_eq!(value(&t.view(), "c"), None);
    t.advance().await.unwrap();
    assert_eq!(value(&t.view(), "b"), Some(2));
    set(&database, "a", 3).await;
    assert!(matches!(t.advance().await, Err(Error::Conflict(Contested::Key(k))) if k == key("a")));
}

#[tokio::test]
async fn a_restarted_statement_has_neither_written_nor_read() {
    let database = database();
    set(&database, "a", 1).await;
    let mut t = begin(&database, TransactionOptions::default()).await;
    t.put(key("kept"), number(1)).unwrap();
    let mark = t.begin_statement().await.unwrap();
    assert_eq!(value(&t.view(), "a"), Some(1));
    t.put(key("b"), number(1)).unwrap();
    t.expect_absent(key("a"));
    set(&database, "a", 2).await;
    t.restart_statement(&mark).await.unwrap();
    assert_eq!((value(&t.view(), "a"), value(&t.view(), "b")), (Some(2), None));
    t.commit().await.unwrap();
    let t = begin(&database, TransactionOptions::default()).await;
    assert_eq!((value(&t.view(), "kept"), value(&t.view(), "b")), (Some(1), None));
}

#[tokio::test]
async fn a_commit_without_writes_orders_nothing() {
    let replica = MemoryReplica::default();
    let database = database_on(replica.clone(), Options::default());
    for read_only in [true, false] {
        let mut t = begin(&database, TransactionOptions { read_only, ..Default::default() }).await;
        assert_eq!(value(&t.view(), "a"), None);
        if !read_only {
            let mark = t.savepoint();
            t.put(key("a"), number(1)).unwrap();
            t.rollback_to(&mark);
            t.lock(&key("b"), LockMode::Share, Wait::Block).await.unwrap();
        }
        t.commit().await.unwrap();
    }
    assert_eq!(replica.batches(), 0);
}

#[tokio::test]
async fn conditions_are_checked_when_the_turn_comes() {
    let database = database();
    let mut t = begin(&database, read_committed()).await;
    t.expect_absent(key("a"));
    t.put(key("a"), number(1)).unwrap();
    set(&database, "a", 2).await;
    assert!(matches!(t.commit().await, Err(Error::Exists(k)) if k == key("a")));

    let mut t = begin(&database, read_committed()).await;
    t.expect_present(key("parent"));
    t.put(key("child"), number(1)).unwrap();
    assert!(matches!(t.commit().await, Err(Error::Missing(k)) if k == key("parent")));

    let mut t = begin(&database, read_committed()).await;
    t.expect_unchanged(all());
    t.put(key("sum"), number(1)).unwrap();
    set(&database, "b", 2).await;
    assert!(matches!(t.commit().await, Err(Error::Conflict(_))));

    // Of one's own writes nothing need be expected.
    let mut t = begin(&database, TransactionOptions::default()).await;
    t.delete(key("a")).unwrap();
    t.expect_absent(key("a"));
    t.put(key("a"), number(7)).unwrap();
    t.expect_present(key("a"));
    t.commit().await.unwrap();
}

/// READ COMMITTED trusts no lock: when it was lost, the commit finds out.
#[tokio::test]
async fn a_locked_row_that_changed_all_the_same_conflicts() {
    for (mode, conflicts) in [(LockMode::Exclusive, true), (LockMode::Share, true), (LockMode::KeyShare, false)] {
        let database = database();
        set(&database, "a", 1).await;
        let mut t = begin(&database, read_committed()).await;
        t.lock(&key("a"), mode, Wait::Block).await.unwrap();
        set(&database, "a", 2).await;
        t.begin_statement().await.unwrap();
        t.lock(&key("a"), mode, Wait::Block).await.unwrap();
        t.put(key("b"), number(1)).unwrap();
        assert_eq!(t.commit().await.is_err(), conflicts, "{mode:?}");
    }
}

/// A statement that found a row stale and then failed leaves nothing behind that
/// could fail the commit.
#[tokio::test]
async fn an_abandoned_statement_leaves_no_condition() {
    let database = database();
    set(&database, "a", 1).await;
    let mut t = begin(&database, read_committed()).await;
    let savepoint = t.savepoint();
    t.begin_statement().await.unwrap();
    set(&database, "a", 2).await;
    let locked = t.lock(&key("a"), LockMode::Exclusive, Wait::Block).await.unwrap();
    assert!(locked.newest > t.read_at());
    t.rollback_to(&savepoint);
    t.begin_statement().await.unwrap();
    t.put(key("b"), number(1)).unwrap();
    t.commit().await.unwrap();
}

#[tokio::test]
async fn a_transaction_has_a_largest_size() {
    let options = Options { max_transaction_bytes: 1000, ..Default::default() };
    let database = database_on(MemoryReplica::default(), options);
    let mut t = begin(&database, TransactionOptions::default()).await;
    t.put(key("a"), Bytes::from(vec![0; 900])).unwrap();
    t.put(key("a"), Bytes::from(vec![1; 900])).unwrap();
    let mark = t.savepoint();
    assert!(matches!(t.put(key("b"), Bytes::from(vec![0; 100])), Err(Error::TooLarge { limit: 1000 })));
    t.rollback_to(&mark);
    t.put(key("b"), number(1)).unwrap();
    t.put(key("b"), Bytes::from(vec![0; 100])).unwrap_err();
    assert!(matches!(t.commit().await, Err(Error::TooLarge { .. })));
    assert_eq!(value(&begin(&database, TransactionOptions::default()).await.view(), "a"), None);
}

#[tokio::test]
async fn reading_before_the_first_statement_is_a_mistake() {
    let t = database().begin(TransactionOptions::default()).await.unwrap();
    assert_eq!(t.view().get(&key("a")).unwrap_err().class(), Class::Bug);
}

fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn whoever_stops_waiting_leaves_the_queue() {
    let database = database();
    let [mut first, mut second, mut third] = [
        begin(&database, TransactionOptions::default()).await,
        begin(&database, TransactionOptions::default()).await,
        begin(&database, TransactionOptions::default()).await,
    ];
    let a = key("a");
    first.lock(&a, LockMode::Share, Wait::Block).await.unwrap();
    let mut reader = pin!(third.lock(&a, LockMode::Share, Wait::Block));
    {
        let mut writer = pin!(second.lock(&a, LockMode::Exclusive, Wait::Block));
        assert!(poll(writer.as_mut()).is_pending());
        // Behind the writer, not behind the first reader.
        assert!(poll(reader.as_mut()).is_pending());
        assert_eq!(database.lock_waits().len(), 2);
    }
    assert!(poll(reader.as_mut()).is_ready());
    assert_eq!(database.lock_waits(), []);
}

#[tokio::test]
async fn a_dropped_transaction_gives_back_its_locks() {
    let database = database();
    let mut first = begin(&database, TransactionOptions::default()).await;
    first.lock(&key("a"), LockMode::Exclusive, Wait::Block).await.unwrap();
    let mut second = begin(&database, TransactionOptions::default()).await;
    let refused = second.lock(&key("a"), LockMode::KeyShare, Wait::NoWait).await.unwrap_err();
    assert_eq!(refused.detail().unwrap(), format!("Blocked by transaction {}.", first.id()));
    drop(first);
    second.lock(&key("a"), LockMode::KeyShare, Wait::NoWait).await.unwrap();
}

#[tokio::test]
async fn waiting_for_a_lock_can_have_an_end() {
    let database = database();
    let mut first = begin(&database, TransactionOptions::default()).await;
    first.lock(&key("a"), LockMode::Exclusive, Wait::Block).await.unwrap();
    let options = TransactionOptions { lock_timeout: Some(Duration::from_millis(1)), ..Default::default() };
    let mut second = begin(&database, options).await;
    let error = second.lock(&key("a"), LockMode::Share, Wait::Block).await.unwrap_err();
    assert!(matches!(&error, Error::LockNotAvailable { blockers, timed_out: true, .. } if *blockers == [first.id()]));
    assert_eq!(database.lock_waits(), []);
    first.rollback().await;
    second.lock(&key("a"), LockMode::Share, Wait::Block).await.unwrap();
}

/// Forgets how it ended.
struct Amnesiac(MemoryReplica);

#[async_trait]
impl Replica for Amnesiac {
    async fn read_timestamp(&self) -> Result<Timestamp, Error> {
        self.0.read_timestamp().await
    }
    fn leader(&self) -> Option<polity_base::NodeId> {
        self.0.leader()
    }
    fn has_peers(&self) -> bool {
        false
    }
    fn applied(&self) -> Timestamp {
        self.0.applied()
    }
    fn oldest(&self) -> Timestamp {
        Timestamp(2)
    }
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, Error> {
        self.0.snapshot()
    }
    async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        if batch.preconditions.is_empty() {
            return self.0.commit(batch).await;
        }
        Err(Error::Unknown("the leader is gone".to_string()))
    }
    fn changed_since(&self, _: &Span, _: Timestamp) -> Change {
        Change::Forgotten
    }
    fn last_write(&self, key: &[u8]) -> Result<Option<Timestamp>, Error> {
        self.0.last_write(key)
    }
}

#[tokio::test]
async fn what_is_not_known_is_not_guessed() {
    let database = database_on(Amnesiac(MemoryReplica::default()), Options::default());
    for name in ["a", "b", "c"] {
        set(&database, name, 1).await;
    }
    let mut t = begin(&database, TransactionOptions::default()).await;
    value(&t.view(), "a");
    t.put(key("a"), number(2)).unwrap();
    assert_eq!(t.commit().await.unwrap_err().class(), Class::Unknown);

    // Single keys are still known by their rows; spans are not.
    let mut t = begin(&database, TransactionOptions::default()).await;
    value(&t.view(), "a");
    set(&database, "b", 2).await;
    t.advance().await.unwrap();
    t.view().scan(all(), Direction::Ascending).unwrap().next_chunk(1).unwrap();
    set(&database, "c", 2).await;
    assert!(matches!(t.advance().await, Err(Error::Conflict(Contested::Forgotten))));

    let as_of = |at| TransactionOptions { freshness: Freshness::AsOf(at), ..Default::default() };
    let refused = database.begin(as_of(Timestamp(1))).await.err().unwrap();
    assert!(matches!(refused, Error::TooOld { oldest: Timestamp(2), .. }));
    assert_eq!(value(&begin(&database, as_of(Timestamp(2))).await.view(), "c"), None);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, i64),
    Delete(u8),
    Savepoint,
    Rollback,
    View,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..12, 0i64..100).prop_map(|(k, v)| Step::Put(k, v)),
        2 => (0u8..12).prop_map(Step::Delete),
        1 => Just(Step::Savepoint),
        1 => Just(Step::Rollback),
        1 => Just(Step::View),
    ];
    proptest::collection::vec(step, 0..40)
}

fn rows(view: &View, direction: Direction, chunk: usize) -> Vec<(Key, i64)> {
    let span = Span { start: key("b"), end: key("k") };
    let mut scan = view.scan(span, direction).unwrap();
    let mut rows = Vec::new();
    loop {
        let next = scan.next_chunk(chunk).unwrap();
        assert!(next.len() <= chunk);
        if next.is_empty() {
            return rows;
        }
        rows.extend(next.into_iter().map(|(key, value)| (key, to_number(&value))));
    }
}

proptest! {
    /// Views, savepoints and scans against a model that copies everything.
    #[test]
    fn own_writes_lie_over_the_snapshot(base in proptest::collection::btree_map(0u8..12, 0i64..100, 0..12),
                                        steps in steps(), chunk in 1usize..5) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let name = |k: u8| char::from(b'a' + k).to_string();
            let database = database();
            for (k, v) in &base {
                set(&database, &name(*k), *v).await;
            }
            let mut model: BTreeMap<Key, i64> = base.iter().map(|(k, v)| (key(&name(*k)), *v)).collect();
            let mut t = begin(&database, TransactionOptions::default()).await;
            let mut savepoints = Vec::new();
            let mut views = Vec::new();
            for step in steps.into_iter().chain([Step::View]) {
                match step {
                    Step::Put(k, v) => {
                        model.insert(key(&name(k)), v);
                        t.put(key(&name(k)), number(v)).unwrap();
                    }
                    Step::Delete(k) => {
                        model.remove(&key(&name(k)));
                        t.delete(key(&name(k))).unwrap();
                    }
                    Step::Savepoint => savepoints.push((t.savepoint(), model.clone())),
                    Step::Rollback => {
                        if let Some((savepoint, then)) = savepoints.pop() {
                            t.rollback_to(&savepoint);
                            model = then;
                        }
                    }
                    Step::View => views.push((t.view(), model.clone())),
                }
            }
            for (view, model) in views {
                for k in 0..12 {
                    assert_eq!(value(&view, &name(k)), model.get(&key(&name(k))).copied());
                }
                let mut expected: Vec<_> =
                    model.range(key("b")..key("k")).map(|(k, v)| (k.clone(), *v)).collect();
                assert_eq!(rows(&view, Direction::Ascending, chunk), expected);
                expected.reverse();
                assert_eq!(rows(&view, Direction::Descending, chunk), expected);
            }
            let at = t.commit().await.unwrap();
            let t = begin(&database, TransactionOptions { freshness: Freshness::AsOf(at), ..Default::default() }).await;
            for k in 0..12 {
                assert_eq!(value(&t.view(), &name(k)), model.get(&key(&name(k))).copied());
            }
        });
    }
}

/// Commits in a row: the keys each writes or deletes.
fn commits() -> impl Strategy<Value = Vec<BTreeMap<u8, Option<i64>>>> {
    let writes = proptest::collection::btree_map(0u8..12, proptest::option::of(0i64..100), 0..4);
    proptest::collection::vec(writes, 1..20)
}

proptest! {
    /// On the store's rows, which are checkpointed and collected on the way: what two
    /// views see differs at most where something is said to be written in between.
    #[test]
    fn what_was_not_written_in_between_reads_the_same(commits in commits(), most in 0usize..12) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let database = database_on(super::local::LocalReplica::restless(), Options::default());
            let name = |k: u8| char::from(b'a' + k).to_string();
            let mut views = vec![begin(&database, TransactionOptions::default()).await.view()];
            for commit in commits {
                let mut t = begin(&database, TransactionOptions::default()).await;
                for (k, v) in commit {
                    match v {
                        Some(v) => t.put(key(&name(k)), number(v)).unwrap(),
                        None => t.delete(key(&name(k))).unwrap(),
                    }
                }
                t.commit().await.unwrap();
                views.push(begin(&database, TransactionOptions::default()).await.view());
            }
            let span = Span { start: key("b"), end: key("k") };
            for (one, other) in views.iter().flat_map(|one| views.iter().map(move |other| (one, other))) {
                let written = one.written_between(&span, other.read_at(), 12).unwrap();
                assert!(written.is_sorted() && written.iter().all(|k| span.contains(k)));
                let few = one.written_between(&span, other.read_at(), most);
                assert_eq!(few.is_some(), written.len() <= most);
                for k in (1..10).filter(|k| !written.contains(&key(&name(*k)))) {
                    assert_eq!(value(one, &name(k)), value(other, &name(k)));
                }
            }
        });
    }
}
