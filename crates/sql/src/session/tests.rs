//! Sessions on several nodes: what they promise each other, and what they refuse.

mod eventual;

use std::sync::Arc;
use std::time::Duration;

use polity_base::{NodeId, Timestamp, Value};
use polity_store::disk::MemoryDisk;
use polity_store::spill::SpillFolder;
use polity_txn::Outage;
use polity_txn::testing::{Site, World};

use super::{Engine, EngineOptions, Response, Scope, Session};
use crate::ddl::garbage::Collector;
use crate::error::{Condition, Error, Result};

const SECOND: Duration = Duration::from_secs(1);

/// Two nodes of one cluster, and their clocks are 20 seconds apart.
async fn two() -> (World, [Arc<Engine>; 2]) {
    let world = World::new(SECOND * 5);
    let first = engine(world.start(NodeId(1), 0)).await;
    let second = engine(world.start(NodeId(2), -20_000_000_000)).await;
    (world, [first, second])
}

async fn engine(site: Site) -> Arc<Engine> {
    let options = EngineOptions {
        database: "polity".to_owned(),
        role: "ann".to_owned(),
        password: "secret".to_owned(),
        query_memory: 64 << 20,
        spill: SpillFolder::open(Arc::new(MemoryDisk::new(1)), &*site.seams.entropy, 1 << 30).unwrap(),
    };
    Engine::open(site.database, site.seams, site.clock, options).await.unwrap()
}

fn session(engine: &Arc<Engine>) -> Session {
    engine.session("ann", &[]).unwrap()
}

/// The rows of the last statement.
async fn run(session: &mut Session, sql: &str) -> Result<Vec<Vec<Value>>> {
    let mut last = Vec::new();
    for invocation in session.parse_many(sql)? {
        let response = session.execute(&invocation.prepared, invocation.parameters, Scope::Alone).await?;
        last = match response {
            Response::Rows(mut rows) => rows.next(usize::MAX).await?,
            _ => Vec::new(),
        };
    }
    Ok(last)
}

async fn ok(session: &mut Session, sql: &str) -> Vec<Vec<Value>> {
    run(session, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

async fn number(session: &mut Session, sql: &str) -> i64 {
    let rows = ok(session, sql).await;
    rows[0][0].as_i64().unwrap_or_else(|| panic!("{sql}: {rows:?}"))
}

async fn fails(session: &mut Session, sql: &str) -> Error {
    run(session, sql).await.err().unwrap_or_else(|| panic!("{sql} went through"))
}

async fn refused(session: &mut Session, sql: &str, condition: Condition) {
    let error = fails(session, sql).await;
    assert_eq!(error.condition(), condition, "{sql}: {error}");
}

#[tokio::test]
async fn earlier_states_are_read_as_they_were() {
    let (world, [first, _]) = two().await;
    let mut s = session(&first);
    ok(&mut s, "create table t (a int primary key); insert into t values (1)").await;
    world.pass(SECOND * 10);
    ok(&mut s, "insert into t values (2); alter table t add b int").await;
    world.pass(SECOND * 3);
    for as_of in ["'-5s'", "'-5 seconds'", "with_max_staleness('1s')", "follower_read_timestamp()"] {
        let newer = as_of.contains('(');
        let count = number(&mut s, &format!("select count(*) from t as of system time {as_of}")).await;
        assert_eq!(count, if newer { 2 } else { 1 }, "{as_of}");
    }
    // By key, with the columns there were; and several statements on one state.
    assert_eq!(ok(&mut s, "select * from t as of system time '-5s' where a = 1").await, [[Value::Int4(1)]]);
    assert!(ok(&mut s, "select * from t as of system time '-5s' where a = 2").await.is_empty());
    ok(&mut s, "begin as of system time '-5s'").await;
    assert_eq!(number(&mut s, "select count(*) from t").await, 1);
    world.pass(SECOND * 60);
    assert_eq!(number(&mut s, "select count(*) from t").await, 1);
    ok(&mut s, "commit").await;
    assert_eq!(number(&mut s, "select count(*) from t").await, 2);
    // Before there was a table.
    refused(&mut s, "select * from t as of system time '-1000s'", Condition::ObjectNotInPrerequisiteState).await;
}

#[tokio::test]
async fn what_reads_the_past_writes_nothing() {
    let (world, [first, _]) = two().await;
    let mut s = session(&first);
    ok(&mut s, "create table t (a int primary key, b int); create sequence q; insert into t values (1, 1)").await;
    world.pass(SECOND);
    let writes = [
        "insert into t values (2, 2)",
        "update t set b = 2 where a = 1",
        "update t set b = b + 1",
        "delete from t",
        "select * from t for update",
        "select nextval('q')",
        "create table u (a int)",
        "create table u as select * from t",
        "truncate t",
        "drop table t",
    ];
    for sql in writes {
        ok(&mut s, "begin as of system time '-1ms'").await;
        refused(&mut s, sql, Condition::ReadOnlySqlTransaction).await;
        ok(&mut s, "rollback; set polity.staleness = '1h'").await;
        refused(&mut s, sql, Condition::ReadOnlySqlTransaction).await;
        ok(&mut s, "set polity.staleness = 0").await;
    }
    refused(&mut s, "select * from t as of system time '-1ms' for update", Condition::ReadOnlySqlTransaction).await;
    refused(&mut s, "begin read write as of system time '-1ms'", Condition::ReadOnlySqlTransaction).await;
    ok(&mut s, "rollback").await;
    assert_eq!(number(&mut s, "select count(*) from t").await, 1);
}

#[tokio::test]
async fn times_that_cannot_be_read_are_refused() {
    let (_world, [first, _]) = two().await;
    let mut s = session(&first);
    ok(&mut s, "create table t (a int)").await;
    refused(&mut s, "select * from t as of system time '2100-01-01'", Condition::InvalidParameterValue).await;
    refused(&mut s, "select * from t as of system time 'soon'", Condition::InvalidParameterValue).await;
    refused(&mut s, "set polity.staleness = 'a while'", Condition::InvalidParameterValue).await;
    ok(&mut s, "begin").await;
    refused(&mut s, "select * from t as of system time '-1ms'", Condition::ActiveSqlTransaction).await;
    ok(&mut s, "rollback; set polity.staleness = '90 s'").await;
    assert_eq!(ok(&mut s, "show polity.staleness").await, [[Value::Text("90000".into())]]);
    assert_eq!(ok(&mut s, "begin; show transaction_read_only").await, [[Value::Text("on".into())]]);
}

/// The whole text of a refusal, since an operator acts on it.
fn text(error: &Error) -> String {
    let line = |name: &str, text: Option<&str>| text.map_or(String::new(), |text| format!("\n{name}: {text}"));
    let (detail, hint) = (line("DETAIL", error.detail_text()), line("HINT", error.hint_text()));
    format!("{}: {}{detail}{hint}", error.condition().code(), error.message())
}

#[tokio::test]
async fn a_side_without_a_majority_says_what_it_cannot_and_what_it_can() {
    let (world, [first, second]) = two().await;
    let (mut a, mut b) = (session(&first), session(&second));
    ok(&mut a, "create table orders (a int primary key); insert into orders values (1)").await;
    ok(&mut b, "select * from orders").await;
    world.pass(SECOND * 3);
    world.cut(NodeId(2));
    let unavailable = "\nDETAIL: Node 1 cannot be reached from here since 2026-09-21 14:13:23 UTC. Nothing was changed.\
        \nHINT: What this node knows can be read with SET polity.staleness = '1h', or SELECT ... AS OF SYSTEM TIME \
        follower_read_timestamp(). Everything else goes on by itself once a majority of the replicas is reachable; retry \
        then, or connect to a node that reaches one.";
    for sql in ["select * from orders", "insert into orders values (2)", "update orders set a = 5 where a = 1"] {
        let error = fails(&mut b, sql).await;
        let said = "PL001: table \"orders\": too few replicas can be reached to read the latest state or to write";
        assert_eq!(text(&error), format!("{said}{unavailable}"), "{sql}");
        assert_eq!(error.table_name(), Some("orders"));
    }
    // What it knows, it tells whoever asks for it by name.
    assert_eq!(number(&mut b, "select count(*) from orders as of system time follower_read_timestamp()").await, 1);
    ok(&mut b, "set polity.staleness = '1min'").await;
    assert_eq!(number(&mut b, "select count(*) from orders").await, 1);
    // Unless that is too old. Its clock is 20 seconds behind, and so are ages.
    world.pass(SECOND * 120);
    let error = fails(&mut b, "select * from orders").await;
    assert_eq!(
        text(&error),
        "PL001: table \"orders\": the newest state that can be read here is 103 s old, and a newer one cannot be had\
         \nDETAIL: It is of 2026-09-21 14:13:20 UTC; at most 60 s were allowed. Node 1 cannot be reached from here since \
         2026-09-21 14:13:23 UTC.\
         \nHINT: Allow an older state with SET polity.staleness, read what there is with AS OF SYSTEM TIME \
         follower_read_timestamp(), or ask a node that reaches a majority."
    );
    ok(&mut b, "set polity.staleness = '0'").await;
    world.mend();
    ok(&mut b, "insert into orders values (2)").await;
}

#[test]
fn an_unknown_outcome_says_how_to_find_out() {
    let error = Error::from(polity_txn::Error::Unknown("the leader of range r1 changed".to_owned()));
    assert_eq!(
        text(&error),
        "40003: it is not known whether the transaction was committed\
         \nDETAIL: The leader of range r1 changed. It was handed over, and no answer came back: it took effect as a whole \
         or not at all, or will within moments.\
         \nHINT: Look for what it would have written, best by a key that it alone would have inserted, before you repeat \
         it; repeating is safe if it would only do the same again."
    );
    let since = Some(Timestamp(1_790_000_000_000_000_000));
    let outage = Outage { why: String::new(), unreachable: vec![NodeId(2), NodeId(4), NodeId(5)], since };
    let error = Error::from(polity_txn::Error::Unavailable(outage));
    assert_eq!(
        error.detail_text(),
        Some("Nodes 2, 4 and 5 cannot be reached from here since 2026-09-21 14:13:20 UTC. Nothing was changed.")
    );
}

/// Numbers and rows that two nodes make at once are told apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_nodes_number_never_collides() {
    let (_world, [first, second]) = two().await;
    ok(&mut session(&first), "create table t (id serial primary key, n int); create table h (n int)").await;
    let writers = [first.clone(), second].map(|engine| {
        tokio::spawn(async move {
            let mut s = session(&engine);
            for n in 0..100 {
                ok(&mut s, &format!("insert into t (n) values ({n}); insert into h values ({n})")).await;
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    let mut s = session(&first);
    assert_eq!(number(&mut s, "select count(distinct id) from t").await, 200);
    assert_eq!(number(&mut s, "select count(*) from h").await, 200);
}

/// A row that was written by the old definition of a table, by a node whose locks
/// were lost, does not get in.
#[tokio::test]
async fn a_change_of_a_table_and_a_row_of_another_node_do_not_both_commit() {
    for isolation in ["serializable", "read committed"] {
        for change in ["alter table t add b int not null default 7", "create unique index u on t (a)", "drop table t"] {
            let (world, [first, second]) = two().await;
            let (mut a, mut b) = (session(&first), session(&second));
            ok(&mut a, "create table t (a int); insert into t values (1)").await;
            ok(&mut b, &format!("begin isolation level {isolation}; insert into t values (1)")).await;
            // Locks are where the range is led: they are forgotten.
            world.lead(NodeId(2));
            let changed = run(&mut a, change).await;
            let inserted = run(&mut b, "commit").await;
            assert!(changed.is_ok(), "{change}: {changed:?}");
            let error = inserted.expect_err(change);
            assert_eq!(error.condition(), Condition::SerializationFailure, "{change}: {error}");
            // And who begins anew has the new definition.
            let again = run(&mut b, "insert into t values (2)").await;
            assert_eq!(again.is_ok(), !change.starts_with("drop"), "{change}: {again:?}");
        }
    }
}

/// A table that is being filled is not garbage, even if nobody knows of its lock.
#[tokio::test]
async fn rows_that_were_taken_for_garbage_do_not_become_a_table() {
    for isolation in ["serializable", "read committed"] {
        let (world, [first, second]) = two().await;
        let (mut a, mut b) = (session(&first), session(&second));
        ok(&mut a, "create table t (a int); insert into t select * from generate_series(1, 100)").await;
        ok(&mut b, &format!("begin isolation level {isolation}; create table u as select * from t")).await;
        world.lead(NodeId(2));
        let cleared = Collector::default().collect(&first, Duration::ZERO).await.unwrap();
        let error = run(&mut b, "commit").await;
        match cleared.is_empty() {
            true => assert_eq!(number(&mut a, "select count(*) from u").await, 100),
            false => assert_eq!(error.expect_err("commits without rows").condition(), Condition::SerializationFailure),
        }
        assert!(!cleared.is_empty(), "the lock outlived its keeper: this tests nothing");
    }
}

#[tokio::test]
async fn two_nodes_may_found_one_cluster() {
    let world = World::new(SECOND * 5);
    let (first, second) = (world.start(NodeId(1), 0), world.start(NodeId(2), 0));
    let (first, second) = tokio::join!(engine(first), engine(second));
    ok(&mut session(&first), "create table t (a int)").await;
    ok(&mut session(&second), "insert into t values (1)").await;
}
