//! Statements that change the catalog, run in sessions over a database in memory.

mod grants;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polity_base::key::Direction;
use polity_base::seams::{ClockSource, Seams};
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{Span, Timestamp, Type, Value};
use polity_store::disk::MemoryDisk;
use polity_store::spill::SpillFolder;
use polity_txn::testing::{MemoryReplica, database_on, seams};
use polity_txn::{Options, TransactionOptions};

use super::garbage::Collector;
use super::sequence;
use crate::catalog::{Action, Catalog, Identity, Table, rows};
use crate::error::{Condition, Error, Result};
use crate::session::{Engine, EngineOptions, Response, Scope, Session};

/// A clock that moves on by a microsecond whenever it is read.
struct Ticking(AtomicU64);

impl ClockSource for Ticking {
    fn read(&self) -> ClockReading {
        let now = Timestamp(self.0.fetch_add(1_000, Ordering::Relaxed));
        ClockReading { earliest: now, latest: now }
    }
}

struct Node {
    engine: Arc<Engine>,
    clock: Arc<Ticking>,
    replica: MemoryReplica,
}

impl Node {
    async fn new() -> Node {
        let replica = MemoryReplica::default();
        let database = database_on(replica.clone(), Options::default());
        let source = Arc::new(Ticking(AtomicU64::new(1_700_000_000_000_000_000)));
        let seams = Seams { clock: source.clone(), entropy: seams().entropy };
        let clock = Arc::new(HybridClock::new(source.clone(), Timestamp::ZERO));
        let options = EngineOptions {
            database: "polity".to_owned(),
            role: "ann".to_owned(),
            password: "secret".to_owned(),
            query_memory: 64 << 20,
            spill: SpillFolder::open(Arc::new(MemoryDisk::new(1)), &*seams.entropy, 1 << 30).unwrap(),
        };
        let engine = Engine::open(database, seams, clock, options).await.unwrap();
        Node { engine, clock: source, replica }
    }

    fn session(&self) -> Session {
        self.engine.session("ann", &[]).unwrap()
    }

    async fn catalog(&self) -> Arc<Catalog> {
        self.engine.current_catalog().await.unwrap()
    }

    async fn table(&self, name: &str) -> Arc<Table> {
        self.catalog().await.table(name).unwrap_or_else(|| panic!("no table {name}")).clone()
    }

    /// Puts rows into a table, past all checks.
    async fn fill(&self, table: &str, rows: impl IntoIterator<Item = Vec<Value>>) {
        let table = self.table(table).await;
        let mut txn = self.engine.database().begin(TransactionOptions::default()).await.unwrap();
        txn.begin_statement().await.unwrap();
        for row in rows {
            let key = match table.has_hidden_key() {
                true => rows::hidden_key(&table, self.engine.next_row_id()).unwrap(),
                false => rows::row_key(&table, &row).unwrap(),
            };
            for index in &table.indexes {
                let (entry, value) = rows::index_entry(&table, index, &row, &key).unwrap();
                txn.put(entry, value).unwrap();
            }
            txn.put(key, rows::store(&table, &row)).unwrap();
        }
        txn.commit().await.unwrap();
    }

    /// The rows of a table in the order of their keys.
    async fn rows(&self, table: &str) -> Vec<Vec<Value>> {
        let table = self.table(table).await;
        let stored = self.stored(table.primary.storage).await;
        stored.iter().map(|(_, value)| rows::load(&table, value).unwrap()).collect()
    }

    async fn stored(&self, storage: polity_base::IndexId) -> Vec<(polity_base::Key, bytes::Bytes)> {
        let mut txn = self.engine.database().begin(TransactionOptions::default()).await.unwrap();
        txn.begin_statement().await.unwrap();
        let mut scan = txn.view().scan(Span::of_index(storage), Direction::Ascending).unwrap();
        scan.next_chunk(1_000_000).unwrap()
    }

    /// Every index of a table has one entry per row, which leads to it.
    async fn check_indexes(&self, table: &str) {
        let table = self.table(table).await;
        let stored = self.stored(table.primary.storage).await;
        for index in &table.indexes {
            let mut wanted: Vec<_> = stored
                .iter()
                .map(|(key, value)| rows::index_entry(&table, index, &rows::load(&table, value).unwrap(), key).unwrap())
                .collect();
            wanted.sort();
            assert_eq!(self.stored(index.storage).await, wanted, "index {}", index.name);
        }
    }
}

/// Runs statements; the tag of the last.
async fn run(session: &mut Session, sql: &str) -> Result<String> {
    let mut tag = String::new();
    for invocation in session.parse_many(sql)? {
        match Box::pin(session.execute(&invocation.prepared, invocation.parameters, Scope::Alone)).await? {
            Response::Complete(complete) => tag = complete,
            _ => tag = "rows".to_owned(),
        }
    }
    Ok(tag)
}

async fn ok(session: &mut Session, sql: &str) -> String {
    run(session, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

async fn fails(session: &mut Session, sql: &str) -> Error {
    run(session, sql).await.err().unwrap_or_else(|| panic!("{sql} went through"))
}

async fn refused(session: &mut Session, sql: &str, condition: Condition) {
    assert_eq!(fails(session, sql).await.condition(), condition, "{sql}");
}

fn ints(rows: impl IntoIterator<Item = (i32, i32)>) -> Vec<Vec<Value>> {
    rows.into_iter().map(|(a, b)| vec![Value::Int4(a), Value::Int4(b)]).collect()
}

#[tokio::test]
async fn names_are_made_up_as_postgresql_does() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table u (id int primary key, x int, y int, unique (x, y))").await;
    ok(&mut s, "create table T (a serial, \"B\" bigint generated by default as identity (increment by 2 start 10) unique, u int references u on delete cascade, x int, y int, primary key (a), foreign key (x, y) references u (x, y) match full on update set null)").await;
    ok(&mut s, "create index on t (u, x desc)").await;
    ok(&mut s, "create unique index on t (u)").await;
    ok(&mut s, "create index on t (u)").await;
    let t = node.table("t").await;
    assert_eq!(t.primary.name.as_deref(), Some("t_pkey"));
    let names: Vec<&str> = t.indexes.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["t_B_key", "t_u_x_idx", "t_u_idx", "t_u_idx1"]);
    assert_eq!(t.indexes[1].columns[1].1, Direction::Descending);
    let keys: Vec<&str> = t.foreign_keys.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(keys, ["t_u_fkey", "t_x_y_fkey"]);
    assert_eq!(t.foreign_keys[0].on_delete, Action::Cascade);
    assert!(t.foreign_keys[1].match_full);
    assert_eq!(t.columns[0].default.as_deref(), Some("nextval('t_a_seq'::regclass)"));
    assert_eq!(t.columns[1].identity, Some(Identity::ByDefault));
    assert!(t.columns[0].not_null && t.columns[1].not_null && !t.columns[2].not_null);
    let catalog = node.catalog().await;
    let sequence = catalog.sequences.values().find(|s| s.name == "t_B_seq").unwrap();
    assert_eq!((sequence.start, sequence.increment, sequence.r#type.clone()), (10, 2, Type::Int8));
    assert_eq!(sequence.owned_by, Some((t.id, t.columns[1].id)));
}

#[tokio::test]
async fn wrong_definitions_are_refused_with_postgresqls_conditions() {
    use Condition::*;
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table u (id int primary key, x int, t text)").await;
    for (sql, condition) in [
        ("create table u (a int)", DuplicateTable),
        ("create table t (a int, a int)", DuplicateColumn),
        ("create table t (ctid int)", DuplicateColumn),
        ("create table t (a int primary key, b int primary key)", InvalidTableDefinition),
        ("create table t (a int, primary key (b))", UndefinedColumn),
        ("create table t (a int, primary key (a, a))", DuplicateColumn),
        ("create table t (a int null primary key, b int not null null)", SyntaxError),
        ("create table t (a json primary key)", UndefinedObject),
        ("create table t (a nosuchtype)", UndefinedObject),
        ("create table t (a int[])", FeatureNotSupported),
        ("create table t (a int references nosuch)", UndefinedTable),
        ("create table t (a int references u (x))", InvalidForeignKey),
        ("create table t (a int references u (nosuch))", UndefinedColumn),
        ("create table t (a text references u)", DatatypeMismatch),
        ("create table t (a int, foreign key (a) references u (id, x))", InvalidForeignKey),
        ("create table t (a int) with (fillfactor = 5)", InvalidParameterValue),
        ("create table t (a int) with (nosuch = 5)", InvalidParameterValue),
        ("create table t (a int) with (guarantee = 'eventual')", FeatureNotSupported),
        ("create table t (a int) with (guarantee = 'x')", InvalidParameterValue),
        ("create temp table t (a int)", FeatureNotSupported),
        ("create unlogged table t (a int)", FeatureNotSupported),
        ("create table t (a int) inherits (u)", FeatureNotSupported),
        ("create table t (a int) partition by range (a)", FeatureNotSupported),
        ("create table t (a text generated always as identity)", InvalidParameterValue),
        ("create table t (a int generated always as (1 + 1) stored)", FeatureNotSupported),
        ("create table t (a int references u deferrable initially deferred)", FeatureNotSupported),
        ("create table nosuch.t (a int)", InvalidSchemaName),
        ("create index on u using gin (t)", FeatureNotSupported),
        ("create index on u (lower(t))", FeatureNotSupported),
        ("create index on u (x) where x > 0", FeatureNotSupported),
        ("create index on u (nosuch)", UndefinedColumn),
        ("create index u on u (x)", DuplicateTable),
        ("create schema s", FeatureNotSupported),
        ("create extension x", FeatureNotSupported),
        ("create aggregate x (int) (sfunc = a)", FeatureNotSupported),
        ("drop table nosuch", UndefinedTable),
        ("drop view u", WrongObjectType),
        ("drop index u_pkey", DependentObjectsStillExist),
        ("alter table nosuch add a int", UndefinedTable),
        ("alter table u add x int", DuplicateColumn),
        ("alter table u drop column nosuch", UndefinedColumn),
        ("alter table u drop constraint nosuch", UndefinedObject),
        ("alter table u alter x set storage plain", FeatureNotSupported),
        ("alter table u alter id drop not null", InvalidTableDefinition),
        ("alter table u add constraint k unique (x) deferrable", FeatureNotSupported),
        ("alter table u owner to nobody", UndefinedObject),
        ("create sequence q increment 0", InvalidParameterValue),
        ("create sequence q minvalue 5 maxvalue 4", InvalidParameterValue),
        ("create sequence q start 5 maxvalue 4", InvalidParameterValue),
        ("create sequence q as text", InvalidParameterValue),
        ("comment on schema public is 'x'", FeatureNotSupported),
        ("truncate nosuch", UndefinedTable),
        ("vacuum nosuch", UndefinedTable),
    ] {
        refused(&mut s, sql, condition).await;
    }
    assert_eq!(node.catalog().await.tables.len(), 1);
}

#[tokio::test]
async fn changes_are_undone_with_their_transaction_and_seen_within_it() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int primary key)").await;
    ok(&mut s, "begin; drop table t; create table t (b text); alter table t add c int; savepoint p; drop table t; rollback to p; alter table t rename c to d").await;
    assert!(node.table("t").await.column("a").is_some(), "others see the old table");
    ok(&mut s, "rollback").await;
    assert!(node.table("t").await.column("a").is_some());
    ok(
        &mut s,
        "begin; drop table t; create table t (b text); alter table t add c int; alter table t rename c to d; commit",
    )
    .await;
    let names: Vec<String> = node.table("t").await.columns.iter().map(|c| c.name.clone()).collect();
    assert_eq!(names, ["b", "d"]);
}

#[tokio::test]
async fn if_exists_and_if_not_exists_give_notices() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int); create table if not exists t (b int); drop table if exists x; drop sequence if exists y; alter table if exists z add a int; create index if not exists t on t (a)").await;
    let notices: Vec<(String, &str)> = s.notices().into_iter().map(|n| (n.message, n.code)).collect();
    let message = |text: &str, code| (text.to_owned(), code);
    assert_eq!(
        notices,
        [
            message("relation \"t\" already exists, skipping", "42P07"),
            message("table \"x\" does not exist, skipping", "00000"),
            message("sequence \"y\" does not exist, skipping", "00000"),
            message("relation \"z\" does not exist, skipping", "00000"),
            message("relation \"t\" already exists, skipping", "42P07"),
        ]
    );
}

#[tokio::test]
async fn a_primary_key_reorders_the_rows_and_its_indexes_follow() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int, b int); create index on t (b); create unique index on t (b, a)").await;
    node.fill("t", ints([(3, 1), (1, 2), (2, 2)])).await;
    ok(&mut s, "alter table t add primary key (a)").await;
    assert_eq!(node.rows("t").await, ints([(1, 2), (2, 2), (3, 1)]));
    node.check_indexes("t").await;
    ok(&mut s, "alter table t drop constraint t_pkey").await;
    assert!(node.table("t").await.has_hidden_key());
    assert_eq!(node.rows("t").await, ints([(1, 2), (2, 2), (3, 1)]));
    node.check_indexes("t").await;
}

#[tokio::test]
async fn duplicates_are_found_while_an_index_is_built() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int, b int)").await;
    node.fill("t", ints([(1, 5), (2, 6), (1, 7)])).await;
    for sql in ["alter table t add primary key (a)", "create unique index t_pkey on t (a)"] {
        let error = fails(&mut s, sql).await;
        assert_eq!(error.condition(), Condition::UniqueViolation);
        assert_eq!(error.message(), "could not create unique index \"t_pkey\"");
        assert_eq!(error.detail_text(), Some("Key (a)=(1) is duplicated."));
    }
    node.fill("t", [vec![Value::Null, Value::Int4(0)]]).await;
    let error = fails(&mut s, "alter table t add primary key (b), add constraint n unique (a)").await;
    assert_eq!(error.condition(), Condition::UniqueViolation);
    assert!(node.table("t").await.has_hidden_key(), "the first change is undone with the second");
    refused(&mut s, "alter table t alter a set not null", Condition::NotNullViolation).await;
    ok(&mut s, "create unique index on t (b)").await;
    node.check_indexes("t").await;
}

#[tokio::test]
async fn duplicates_in_different_chunks_are_found() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int, b text)").await;
    // Each row is large, so that a chunk has few of them.
    let row = |a: i32| vec![Value::Int4(a), Value::Text("x".repeat(200_000))];
    node.fill("t", (0..400).map(|i| row(if i == 399 { 7 } else { i }))).await;
    let error = fails(&mut s, "alter table t add primary key (a)").await;
    assert_eq!(error.detail_text(), Some("Key (a)=(7) is duplicated."));
}

#[tokio::test]
async fn references_are_checked_when_they_are_added() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table p (a int primary key, b int unique); create table c (x int, y int)").await;
    node.fill("p", ints([(1, 10), (2, 20)])).await;
    node.fill("c", ints([(1, 10), (3, 20)])).await;
    node.fill("c", [vec![Value::Null, Value::Null]]).await;
    let error = fails(&mut s, "alter table c add foreign key (x) references p").await;
    assert_eq!(error.condition(), Condition::ForeignKeyViolation);
    assert_eq!(error.detail_text(), Some("Key (x)=(3) is not present in table \"p\"."));
    ok(&mut s, "alter table c add foreign key (y) references p (b)").await;
    let error = fails(&mut s, "drop table p").await;
    assert_eq!(error.condition(), Condition::DependentObjectsStillExist);
    assert_eq!(error.detail_text(), Some("constraint c_y_fkey on table c depends on table p"));
    let error = fails(&mut s, "truncate p").await;
    assert_eq!(error.detail_text(), Some("Table \"c\" references \"p\"."));
    let error = fails(&mut s, "alter table p drop constraint p_b_key").await;
    assert_eq!(error.detail_text(), Some("constraint c_y_fkey on table c depends on index p_b_key"));
    ok(&mut s, "truncate p cascade").await;
    assert!(node.rows("c").await.is_empty() && node.rows("p").await.is_empty());
    s.notices();
    ok(&mut s, "drop table p cascade").await;
    assert_eq!(s.notices()[0].message, "drop cascades to constraint c_y_fkey on table c");
    assert!(node.table("c").await.foreign_keys.is_empty());
}

#[tokio::test]
async fn rows_of_a_writer_whose_lock_was_lost_are_not_overlooked() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table p (a int primary key); create table t (a int, b int)").await;
    let changes = [
        "create index on t (b)",
        "alter table t add unique (b)",
        "alter table t add primary key (a)",
        "alter table t add check (b > 0)",
        "alter table t add foreign key (a) references p",
        "alter table t alter b set not null",
        "alter table t alter b type text",
        "alter table t add column c int",
        "alter table t add column c serial",
    ];
    for (n, change) in (0..).zip(changes) {
        for isolation in ["read committed", "serializable"] {
            ok(&mut s, &format!("begin isolation level {isolation}; {change}")).await;
            // Locks nothing, like a batch that was sent while another leader knew of the lock.
            node.fill("t", ints([(n, -1)])).await;
            refused(&mut s, "commit", Condition::SerializationFailure).await;
            ok(&mut s, "truncate t").await;
        }
    }
    ok(&mut s, "insert into p values (1); begin; alter table t add foreign key (a) references p").await;
    node.fill("p", [vec![Value::Int4(2)]]).await;
    refused(&mut s, "commit", Condition::SerializationFailure).await;
    ok(&mut s, "begin; create table f (a int, b int); create index on f (b); insert into f values (1, 2)").await;
    ok(&mut s, "alter table f alter b set not null; insert into f values (3, 4); commit").await;
    node.check_indexes("f").await;
}

#[tokio::test]
async fn columns_come_and_go() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int primary key, b int, c int); create index on t (b); create index on t (c)").await;
    node.fill("t", [vec![Value::Int4(1), Value::Int4(2), Value::Int4(3)]]).await;
    ok(&mut s, "alter table t drop column b, add column d text, add column if not exists a int").await;
    assert_eq!(node.rows("t").await, [[Value::Int4(1), Value::Int4(3), Value::Null]]);
    assert_eq!(node.table("t").await.indexes.len(), 1);
    refused(&mut s, "alter table t add column e int not null", Condition::NotNullViolation).await;
    ok(&mut s, "alter table t drop column a").await;
    assert_eq!(node.rows("t").await, [[Value::Int4(3), Value::Null]]);
    assert!(node.table("t").await.has_hidden_key());
    node.check_indexes("t").await;
    ok(&mut s, "alter table t add column n serial").await;
    assert_eq!(node.rows("t").await, [[Value::Int4(3), Value::Null, Value::Int4(1)]]);
    ok(&mut s, "drop table t").await;
    assert!(node.catalog().await.sequences.is_empty() && node.catalog().await.names.is_empty());
}

#[tokio::test]
async fn types_change_with_their_rows() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int primary key, b int); create index on t (b)").await;
    node.fill("t", ints([(1, 2), (3, 4)])).await;
    ok(&mut s, "alter table t alter b type bigint").await;
    assert_eq!(node.rows("t").await[0], [Value::Int4(1), Value::Int8(2)]);
    node.check_indexes("t").await;
    let before = node.table("t").await.primary.storage;
    ok(&mut s, "alter table t alter b type text").await;
    assert_eq!(node.rows("t").await[1], [Value::Int4(3), Value::Text("4".into())]);
    node.check_indexes("t").await;
    let between = node.table("t").await.primary.storage;
    assert_ne!(before, between);
    ok(&mut s, "alter table t alter b type varchar").await;
    assert_eq!(node.table("t").await.primary.storage, between, "nothing to rewrite");
    let error = fails(&mut s, "alter table t alter b type int").await;
    assert_eq!(error.hint_text(), Some("You might need to specify \"USING b::integer\"."));
}

#[tokio::test]
async fn renamed_things_are_found_under_their_new_names() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a serial primary key, b int unique, constraint f foreign key (b) references t (a))")
        .await;
    ok(&mut s, "alter table t rename to u; alter table u rename b to c; alter table u rename constraint f to g").await;
    refused(&mut s, "alter table u rename constraint nosuch to y", Condition::UndefinedObject).await;
    ok(&mut s, "alter table u rename constraint t_pkey to u_pkey; alter index t_b_key rename to u_c_key; alter sequence t_a_seq rename to u_a_seq").await;
    let u = node.table("u").await;
    assert_eq!(u.primary.name.as_deref(), Some("u_pkey"));
    assert_eq!(u.indexes[0].name, "u_c_key");
    assert_eq!(u.foreign_keys[0].name, "g");
    assert!(u.column("c").is_some());
    assert!(super::expression::draws_from(u.columns[0].default.as_deref().unwrap(), "u_a_seq"));
    refused(&mut s, "alter table u rename to u_pkey", Condition::DuplicateTable).await;
    assert!(node.catalog().await.table("t").is_none());
}

#[tokio::test]
async fn truncation_is_undone_with_its_transaction() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int primary key, b int unique)").await;
    node.fill("t", ints([(1, 1)])).await;
    ok(&mut s, "begin; truncate t; rollback").await;
    assert_eq!(node.rows("t").await.len(), 1);
    ok(&mut s, "truncate table only t restart identity").await;
    assert!(node.rows("t").await.is_empty());
}

#[tokio::test]
async fn sequences_give_every_number_once() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create sequence q increment by 5 minvalue 10 maxvalue 30 start with 20 no cycle").await;
    let catalog = node.catalog().await;
    let q = catalog.sequences.values().next().unwrap().clone();
    let sequences = node.engine.sequences();
    let mut given = Vec::new();
    while let Ok(n) = sequences.next(&q).await {
        given.push(n);
    }
    assert_eq!(given, [20, 25, 30]);
    let error = sequences.next(&q).await.unwrap_err();
    assert_eq!(error.message(), "nextval: reached maximum value of sequence \"q\" (30)");
    ok(&mut s, "alter sequence q cycle restart with 30").await;
    let q = node.catalog().await.sequences.values().next().unwrap().clone();
    assert_eq!(sequences.next_many(&q, 3).await.unwrap(), [30, 10, 15]);
    sequences.set(&q, 25, false).await.unwrap();
    assert_eq!(sequences.next(&q).await.unwrap(), 25);
    assert_eq!(sequences.set(&q, 31, true).await.unwrap_err().condition(), Condition::NumericValueOutOfRange);
    // What another node would draw starts after what this one holds.
    let other = sequence::SequenceCache::new(node.engine.database().clone());
    assert_eq!(other.next(&q).await.unwrap(), 10);
}

#[tokio::test]
async fn a_sequence_that_was_given_back_has_no_gap() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create sequence q").await;
    let catalog = node.catalog().await;
    let q = catalog.sequences.values().next().unwrap().clone();
    let before = node.replica.batches();
    for n in 1..=32 {
        assert_eq!(node.engine.sequences().next(&q).await.unwrap(), n);
    }
    assert_eq!(node.replica.batches(), before + 1, "one block, one batch");
    assert_eq!(node.engine.sequences().next(&q).await.unwrap(), 33);
    node.engine.sequences().give_back(&catalog).await.unwrap();
    let restarted = sequence::SequenceCache::new(node.engine.database().clone());
    assert_eq!(restarted.next(&q).await.unwrap(), 34);
}

#[tokio::test]
async fn roles_keep_a_verifier_and_no_password() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create user bob with encrypted password 'hunter2' nocreatedb; create role carol; alter role carol superuser login password 'x'; alter user bob password null").await;
    let catalog = node.catalog().await;
    assert!(
        catalog.roles["ann"].superuser
            && catalog.roles["ann"].password.as_deref().unwrap().starts_with("SCRAM-SHA-256$4096:")
    );
    assert!(catalog.roles["bob"].login && catalog.roles["bob"].password.is_none());
    assert!(catalog.roles["carol"].superuser && catalog.roles["carol"].login);
    for (sql, condition) in [
        ("create role bob", Condition::DuplicateObject),
        ("create role pg_x", Condition::ReservedName),
        ("create role x createdb", Condition::FeatureNotSupported),
        ("create role x in role bob", Condition::FeatureNotSupported),
        ("drop role ann", Condition::ObjectInUse),
        ("drop role nosuch", Condition::UndefinedObject),
        ("create role x nosuchoption", Condition::SyntaxError),
    ] {
        refused(&mut s, sql, condition).await;
    }
    ok(&mut s, "create table t (a int); alter table t owner to bob").await;
    let error = fails(&mut s, "drop role bob").await;
    assert_eq!(error.detail_text(), Some("owner of table t"));
    let mut bob = node.engine.session("bob", &[]).unwrap();
    refused(&mut bob, "create role x", Condition::InsufficientPrivilege).await;
    ok(&mut bob, "alter role bob password 'new'").await;
    ok(&mut s, "drop table t; drop role bob, carol; drop role if exists bob").await;
    assert_eq!(node.catalog().await.roles.len(), 1);
}

#[tokio::test]
async fn comments_and_options_are_kept() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int) with (fillfactor = 70, guarantee = 'strong'); comment on table t is 'it''s'; comment on column t.a is 'c'").await;
    let t = node.table("t").await;
    assert_eq!(
        (t.fillfactor, t.comment.as_deref(), t.columns[0].comment.as_deref()),
        (Some(70), Some("it's"), Some("c"))
    );
    ok(&mut s, "alter table t set (fillfactor = 80); comment on table t is null").await;
    assert_eq!((node.table("t").await.fillfactor, node.table("t").await.comment.clone()), (Some(80), None));
    ok(&mut s, "alter table t reset (fillfactor); vacuum analyze t; analyze; vacuum (full, verbose) t").await;
    assert_eq!(node.table("t").await.fillfactor, None);
}

#[tokio::test]
async fn identity_columns_change() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int not null, b int)").await;
    refused(&mut s, "alter table t alter b add generated always as identity", Condition::ObjectNotInPrerequisiteState)
        .await;
    ok(&mut s, "alter table t alter a add generated always as identity (sequence name public.myseq start with 7 increment by 1 no minvalue no maxvalue cache 1)").await;
    assert!(node.catalog().await.names.contains_key("myseq"));
    refused(&mut s, "alter table t alter a set default 5", Condition::SyntaxError).await;
    refused(&mut s, "drop sequence myseq", Condition::DependentObjectsStillExist).await;
    ok(&mut s, "alter table t alter a set generated by default set increment by 3 restart with 100").await;
    let t = node.table("t").await;
    assert_eq!(t.columns[0].identity, Some(Identity::ByDefault));
    let q = node.catalog().await.sequences.values().next().unwrap().clone();
    assert_eq!(node.engine.sequences().next_many(&q, 2).await.unwrap(), [100, 103]);
    ok(&mut s, "alter table t alter a drop identity; alter table t alter a drop identity if exists").await;
    assert!(node.catalog().await.sequences.is_empty());
}

#[tokio::test]
async fn tables_are_copied_by_like() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a serial primary key, b int not null unique, c text); create index on t (c desc)")
        .await;
    ok(&mut s, "alter table t drop column b; create table u (like t including indexes including defaults); create table v (like t)").await;
    let u = node.table("u").await;
    assert_eq!(u.primary.name.as_deref(), Some("u_pkey"));
    assert_eq!((u.indexes.len(), u.indexes[0].name.as_str(), u.columns.len(), u.next_column), (1, "u_c_idx", 2, 2));
    assert!(u.columns[0].default.is_some());
    let v = node.table("v").await;
    assert!(v.has_hidden_key() && v.columns[0].not_null && v.columns[0].default.is_none());
}

#[tokio::test]
async fn garbage_is_cleared_when_nobody_can_read_it_any_more() {
    let node = Node::new().await;
    let mut s = node.session();
    ok(&mut s, "create table t (a int, b int); create index on t (b)").await;
    node.fill("t", ints([(1, 1), (2, 2)])).await;
    let old = node.table("t").await;
    let mut collector = Collector::default();
    let retention = Duration::from_secs(60);
    assert!(collector.collect(&node.engine, retention).await.unwrap().is_empty());
    ok(&mut s, "truncate t").await;
    assert!(collector.collect(&node.engine, retention).await.unwrap().is_empty(), "seen, not old enough");
    assert_eq!(node.stored(old.primary.storage).await.len(), 2);
    // A transaction in progress has made a storage and filled it.
    node.fill("t", ints([(3, 3)])).await;
    let mut other = node.session();
    ok(&mut other, "begin; alter table t add primary key (a)").await;
    collector.collect(&node.engine, retention).await.unwrap();
    node.clock.0.fetch_add(61_000_000_000, Ordering::Relaxed);
    let mut cleared = collector.collect(&node.engine, retention).await.unwrap();
    cleared.sort();
    assert_eq!(cleared, [old.primary.storage, old.indexes[0].storage]);
    assert!(node.stored(old.primary.storage).await.is_empty());
    ok(&mut other, "commit").await;
    assert_eq!(node.rows("t").await, ints([(3, 3)]));
    node.check_indexes("t").await;
    // What a rolled-back transaction has filled is garbage as well.
    ok(&mut other, "begin; create unique index on t (b); rollback").await;
    collector.collect(&node.engine, retention).await.unwrap();
    node.clock.0.fetch_add(61_000_000_000, Ordering::Relaxed);
    assert!(!collector.collect(&node.engine, retention).await.unwrap().is_empty());
    assert_eq!(node.rows("t").await, ints([(3, 3)]));
}

#[tokio::test]
async fn concurrent_changes_wait_and_plan_again() {
    let node = Node::new().await;
    let (mut a, mut b) = (node.session(), node.session());
    ok(&mut a, "create table t (a int)").await;
    ok(&mut a, "begin; alter table t add b int").await;
    let waiting = tokio::spawn(async move {
        let tag = run(&mut b, "alter table t add c int").await;
        (b, tag)
    });
    while node.engine.database().lock_waits().is_empty() {
        tokio::task::yield_now().await;
    }
    ok(&mut a, "commit").await;
    let (_, tag) = waiting.await.unwrap();
    assert_eq!(tag.unwrap(), "ALTER TABLE");
    let names: Vec<String> = node.table("t").await.columns.iter().map(|c| c.name.clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[tokio::test]
async fn two_transactions_that_make_one_name_do_not_both_commit() {
    let node = Node::new().await;
    let (mut a, mut b) = (node.session(), node.session());
    ok(&mut a, "begin; create table t (a int)").await;
    let waiting = tokio::spawn(async move { run(&mut b, "create table t (b int)").await });
    while node.engine.database().lock_waits().is_empty() {
        tokio::task::yield_now().await;
    }
    ok(&mut a, "commit").await;
    assert_eq!(waiting.await.unwrap().unwrap_err().condition(), Condition::DuplicateTable);
    assert!(node.table("t").await.column("a").is_some());
}
