//! Sessions on eventual tables: what can be defined, what a statement does, and what
//! either side of a cut does alone.

use polity_txn::eventual::NoIndexes;

use super::*;

/// So many nodes of one cluster, each with a replica of the eventual tables.
async fn nodes(count: u64) -> (World, Vec<Arc<Engine>>) {
    let world = World::new(SECOND * 5);
    let mut engines = Vec::new();
    for node in 1..=count {
        let site = world.start_with_eventual(NodeId(node), 0, Arc::new(NoIndexes)).await.unwrap();
        engines.push(engine(site).await);
    }
    (world, engines)
}

async fn one() -> (World, Session) {
    let (world, engines) = nodes(1).await;
    (world, session(&engines[0]))
}

const PRODUCTS: &str = "create table products (id int primary key, name text not null, stock counter check (stock >= 0), \
                        tags set_of(text)) with (guarantee = 'eventual')";

/// The rows of the last statement, as text.
async fn rows(session: &mut Session, sql: &str) -> Vec<String> {
    let cell = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        Value::Array(elements) => format!("{:?}", elements.iter().map(shown).collect::<Vec<_>>()),
        other => shown(other),
    };
    ok(session, sql).await.iter().map(|row| row.iter().map(cell).collect::<Vec<_>>().join("|")).collect()
}

fn shown(value: &Value) -> String {
    match (value, value.as_i64()) {
        (Value::Text(text), _) => text.clone(),
        (Value::Null, _) => "NULL".to_owned(),
        (_, Some(number)) => number.to_string(),
        (other, None) => format!("{other:?}"),
    }
}

/// What merging cannot keep is refused when it is defined, with a reason.
#[tokio::test]
async fn what_merging_cannot_keep_is_refused_with_a_reason() {
    let (_world, mut s) = one().await;
    ok(&mut s, "create table parents (id int primary key)").await;
    let with = "with (guarantee = 'eventual')";
    for columns in [
        "a int",
        "a serial primary key",
        "a int generated always as identity primary key",
        "a int primary key, b text unique",
        "a int primary key, b int references parents",
        "a int primary key, b int, check (a < b)",
        "a counter primary key",
        "a int primary key, n counter check (n % 2 = 0)",
        "a int primary key, t set_of(text) check (t is not null)",
    ] {
        let error = fails(&mut s, &format!("create table t ({columns}) {with}")).await;
        assert_eq!(error.condition(), Condition::FeatureNotSupported, "{columns}: {error}");
        assert!(error.detail_text().is_some(), "{columns}: {error}");
    }
    for (columns, options, condition) in [
        ("a int primary key, n counter", "", Condition::InvalidTableDefinition),
        ("a int primary key, n set_of(text)", "with (guarantee = 'strong')", Condition::InvalidTableDefinition),
        ("a int primary key", "with (ack = 2)", Condition::InvalidParameterValue),
        ("a int primary key", "with (guarantee = 'eventual', ack = 0)", Condition::InvalidParameterValue),
        ("a int primary key", "with (guarantee = 'byzantine')", Condition::FeatureNotSupported),
        ("a int primary key", "with (guarantee = 'casual')", Condition::InvalidParameterValue),
        ("a int primary key, n counter check (n between 3 and 1)", with, Condition::InvalidTableDefinition),
    ] {
        refused(&mut s, &format!("create table t ({columns}) {options}"), condition).await;
    }
    ok(&mut s, &format!("create table e (a int primary key, b text) {with}; create sequence s")).await;
    for sql in [
        "create table t (a int references e)",
        "create unique index on e (b)",
        "alter table e add unique (b)",
        "alter table e alter b set not null",
        "alter table e alter b type int using b::int",
        "alter table e add check (a > 0)",
        "alter table e drop column a",
        "alter table e add c serial",
        "alter table e alter a add generated always as identity",
        "alter table e alter a set default nextval('s')",
        "alter table e add n counter, alter n drop not null",
        "alter table e set (guarantee = 'strong')",
        "alter table parents add e int references e",
        "truncate e",
    ] {
        refused(&mut s, sql, Condition::FeatureNotSupported).await;
    }
    ok(&mut s, "alter table e set (ack = 1); alter table e alter b drop not null").await;
    // The setting names the guarantee of tables that name none.
    ok(&mut s, "set polity.guarantee = 'eventual'").await;
    refused(&mut s, "create table t (a int)", Condition::FeatureNotSupported).await;
    ok(&mut s, "create table t (a int primary key, n counter)").await;
    ok(&mut s, "create table u (a int) with (guarantee = 'strong')").await;
}

#[tokio::test]
async fn counters_are_told_by_how_much_they_change() {
    let (_world, mut s) = one().await;
    ok(&mut s, PRODUCTS).await;
    ok(&mut s, "insert into products values (1, 'pen', 10), (2, 'ink', default)").await;
    for (set, after) in [("stock - 3", "7"), ("products.stock + 1", "8"), ("(2 + stock)", "10"), ("stock + id", "11")] {
        let returned = rows(&mut s, &format!("update products set stock = {set} where id = 1 returning stock")).await;
        assert_eq!(returned, [after], "{set}");
    }
    // Of many rows, by way of the planner.
    ok(&mut s, "update products set stock = stock + 5 where name in (select name from products)").await;
    assert_eq!(rows(&mut s, "select id, stock from products order by id").await, ["1|16", "2|5"]);
    for set in ["7", "default", "3 - stock", "stock * 2", "id + 1", "null"] {
        let error = fails(&mut s, &format!("update products set stock = {set} where id = 1")).await;
        assert_eq!(error.condition(), Condition::FeatureNotSupported, "{set}: {error}");
        assert_eq!(error.hint_text(), Some("Write SET stock = stock + n, or SET stock = stock - n."));
    }
    let upsert = "insert into products values (1, 'pen', 4) on conflict (id) do update set stock =";
    refused(&mut s, &format!("{upsert} excluded.stock"), Condition::FeatureNotSupported).await;
    ok(&mut s, &format!("{upsert} products.stock + excluded.stock")).await;
    assert_eq!(rows(&mut s, "select stock from products where id = 1").await, ["20"]);
    // A bound holds, and says what it is.
    let error = fails(&mut s, "update products set stock = stock - 21 where id = 1").await;
    assert_eq!(
        text(&error),
        "23514: new row for relation \"products\" violates check constraint \"products_stock_check\"\
         \nDETAIL: Failing row contains (1, pen, -1, {})."
    );
    refused(&mut s, "insert into products values (3, 'nib', -1)", Condition::CheckViolation).await;
    refused(&mut s, "insert into products values (3, 'nib', null)", Condition::NotNullViolation).await;
    assert_eq!(rows(&mut s, "select id, stock from products order by id").await, ["1|20", "2|5"]);
}

#[tokio::test]
async fn sets_change_by_what_is_put_in_and_taken_out() {
    let (world, nodes) = nodes(2).await;
    let (mut a, mut b) = (session(&nodes[0]), session(&nodes[1]));
    ok(&mut a, PRODUCTS).await;
    ok(&mut a, "insert into products values (1, 'pen', 1, array['red', 'blue', 'red'])").await;
    assert_eq!(rows(&mut a, "select tags from products").await, ["[\"blue\", \"red\"]"]);
    world.settle().await;
    world.cut(NodeId(2));
    ok(&mut a, "update products set tags = array_append(tags, 'new') where id = 1").await;
    ok(&mut a, "update products set tags = array_remove(tags, 'red') where id = 1").await;
    ok(&mut b, "update products set tags = tags || array['red', 'old'] where id = 1").await;
    assert_eq!(rows(&mut b, "select tags from products").await, ["[\"blue\", \"old\", \"red\"]"]);
    world.mend();
    world.settle().await;
    // It had put in nothing new: red was there, and is gone.
    for s in [&mut a, &mut b] {
        assert_eq!(rows(s, "select tags from products").await, ["[\"blue\", \"new\", \"old\"]"]);
    }
}

#[tokio::test]
async fn rows_are_kept_as_their_definition_says() {
    let (_world, mut s) = one().await;
    ok(&mut s, PRODUCTS).await;
    ok(&mut s, "alter table products add price numeric(8, 2) default 1").await;
    ok(&mut s, "insert into products (id, name) values (1, 'pen'), (2, 'ink')").await;
    refused(&mut s, "insert into products (id, name) values (1, 'nib')", Condition::UniqueViolation).await;
    refused(&mut s, "update products set name = null where id = 1", Condition::NotNullViolation).await;
    assert_eq!(
        rows(&mut s, "insert into products (id, name) values (1, 'nib') on conflict do nothing returning id").await,
        Vec::<String>::new()
    );
    // A row under another key is another row, of which nobody else holds a share.
    refused(&mut s, "update products set id = 7 where id = 2", Condition::FeatureNotSupported).await;
    ok(&mut s, "create table plain (id int primary key, n counter) with (guarantee = 'eventual')").await;
    ok(&mut s, "insert into plain values (1, 5), (2, 6)").await;
    assert_eq!(rows(&mut s, "update plain set id = 7 where id = 2 returning id, n").await, ["7|6"]);
    refused(&mut s, "update plain set id = 7 where id = 1", Condition::UniqueViolation).await;
    assert_eq!(rows(&mut s, "select id, n from plain order by id").await, ["1|5", "7|6"]);
    assert_eq!(rows(&mut s, "delete from products where id = 1 returning name").await, ["pen"]);
    ok(&mut s, "insert into products (id, name, stock) values (1, 'cap', 3)").await;
    assert_eq!(
        rows(&mut s, "select id, name, stock, tags from products order by id").await,
        ["1|cap|3|[]", "2|ink|0|[]"]
    );
    ok(&mut s, "alter table products rename name to label; alter table products drop price").await;
    assert_eq!(rows(&mut s, "select label from products where id = 2 for update").await, ["ink"]);
    ok(&mut s, "begin; update products set label = 'x'; savepoint a; delete from products; rollback to a; commit")
        .await;
    assert_eq!(rows(&mut s, "select id, label from products order by id").await, ["1|x", "2|x"]);
    ok(&mut s, "begin; delete from products; rollback").await;
    assert_eq!(number(&mut s, "select count(*) from products").await, 2);
    ok(&mut s, "drop table products").await;
}

#[tokio::test]
async fn many_rows_come_by_copy_and_from_queries() {
    let (world, mut s) = one().await;
    ok(&mut s, "create table t (a int primary key, n counter, b text) with (guarantee = 'eventual')").await;
    let copy = s.parse_many("copy t from stdin").unwrap().remove(0);
    let started = s.execute(&copy.prepared, copy.parameters, Scope::Alone).await.unwrap();
    assert!(matches!(started, Response::CopyIn { .. }));
    let lines: String = (0..2_500).map(|n| format!("{n}\t{n}\tx\n")).collect();
    s.copy_data(lines.as_bytes()).await.unwrap();
    assert_eq!(s.copy_done(Scope::Alone).await.unwrap(), "COPY 2500");
    ok(&mut s, "insert into t select a + 2500, n, b from t").await;
    // Columns that were kept from a scan show what was written since, also when the
    // strong tables are ahead in time.
    for round in 1..4 {
        ok(&mut s, &format!("create table strong{round} (a int)")).await;
        world.pass(SECOND);
        assert_eq!(number(&mut s, "select count(*) from t where b = 'x'").await, 5_001 - round);
        ok(&mut s, &format!("update t set b = 'y' where a = {}", round * 1_000)).await;
    }
    assert_eq!(number(&mut s, "select sum(n)::bigint from t").await, 2 * (2_499 * 2_500 / 2));
}

/// Either side of a cut reads and writes, and all it does comes together. What was
/// lost over it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_of_a_cut_write_and_nothing_vanishes() {
    let (world, nodes) = nodes(3).await;
    let (mut a, mut b) = (session(&nodes[0]), session(&nodes[1]));
    ok(&mut a, PRODUCTS).await;
    ok(&mut a, "insert into products values (1, 'pen', 9), (2, 'ink', 1)").await;
    let lots = "create table lots (code text, price numeric(8,2), note text, primary key (code, price)) \
                with (guarantee = 'eventual')";
    ok(&mut a, lots).await;
    ok(&mut a, "insert into lots values ('a''b', 1.50, 'new')").await;
    world.settle().await;
    world.cut(NodeId(2));
    ok(&mut a, "update products set name = 'biro' where id = 1; insert into products values (3, 'nib', 1)").await;
    ok(&mut b, "update products set name = 'quill' where id = 1; delete from products where id = 2").await;
    ok(&mut b, "insert into products values (4, 'cap', 1)").await;
    // One changes what the other deletes.
    ok(&mut a, "update lots set note = 'kept' where code = 'a''b' and price = 1.5").await;
    ok(&mut b, "delete from lots").await;
    world.mend();
    world.settle().await;
    for node in &nodes {
        let mut s = session(node);
        assert_eq!(rows(&mut s, "select id, name from products order by id").await, ["1|quill", "3|nib", "4|cap"]);
        let conflicts = "select table_name, key, column_name, kept, lost, kept_node, lost_node, lost_at <= kept_at \
                         from polity.conflicts order by table_name desc";
        let told = rows(&mut s, conflicts).await;
        assert_eq!(told[0], "products|(id)=(1)|name|quill|biro|2|1|Bool(true)");
        // A row that is gone has its key still.
        assert!(told[1].starts_with("lots|(code, price)=(a'b, 1.50)|note|NULL|kept|2|1|"), "{told:?}");
        assert_eq!(told.len(), 2, "{told:?}");
    }
}

/// What is all on this node is read and written there, though no leader can be asked;
/// what is not, is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_serves_eventual_tables_alone() {
    let (world, nodes) = nodes(2).await;
    let (mut a, mut old) = (session(&nodes[0]), session(&nodes[1]));
    ok(&mut old, "select 1").await;
    ok(&mut a, PRODUCTS).await;
    ok(&mut a, "create table orders (id int primary key); insert into orders values (1)").await;
    ok(&mut a, "create view stocked as select * from products where stock > 0").await;
    ok(&mut a, "insert into products values (1, 'pen', 10)").await;
    world.settle().await;
    world.cut(NodeId(2));
    // One that saw no table before the cut, and one that comes after it.
    assert!(nodes[1].role_verifier("ann").await.unwrap().is_some());
    for s in [&mut old, &mut session(&nodes[1])] {
        assert_eq!(rows(s, "select id from products where id = 1").await, ["1"]);
        for sql in [
            "show polity.causal_token",
            "set application_name = 'x'",
            "select 1, now(), version()",
            "select * from stocked",
            "with p as (select id from products) select * from p where id in (select id from p)",
            "explain select * from products",
            "select * from polity.escrow",
            "update products set stock = stock - 1 where id = 1",
            "insert into products (id, name) select id + count(*) over () + stock, name from products",
            "begin",
            "select count(*) from products",
            "update products set name = name",
            "commit",
            "begin isolation level read committed",
            "delete from products where id > 1",
            "savepoint s",
            "rollback to s",
            "commit",
            "prepare q as select name from products where id = $1",
            "execute q(1)",
            "deallocate q",
        ] {
            ok(s, sql).await;
        }
        for sql in [
            "select * from orders",
            "select * from products, orders",
            "insert into products (id, name) select id + 10, 'x' from orders",
            "with products as (select * from orders) select * from products",
            "select * from products where exists (select from pg_class)",
        ] {
            refused(s, sql, Condition::NoQuorum).await;
        }
    }
    world.mend();
    ok(&mut old, "insert into products (id, name) select id + 10, 'x' from orders").await;
    assert_eq!(rows(&mut old, "select id, stock from products order by id").await, ["1|8", "11|0"]);
}

/// Stock that is sold on both sides of a cut is never oversold; the refusal says who
/// holds the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_is_sold_on_both_sides_of_a_cut_and_never_twice() {
    let (world, nodes) = nodes(2).await;
    let (mut a, mut b) = (session(&nodes[0]), session(&nodes[1]));
    ok(&mut a, PRODUCTS).await;
    ok(&mut a, "insert into products values (1, 'pen', 10)").await;
    world.settle().await;
    let escrow = "select table_name, key, column_name, node, may_subtract, may_add from polity.escrow order by node";
    assert_eq!(rows(&mut b, escrow).await, ["products|(id)=(1)|stock|1|5|NULL", "products|(id)=(1)|stock|2|5|NULL"]);
    world.cut(NodeId(2));
    let buy = "update products set stock = stock - 2 where id = 1";
    for s in [&mut a, &mut b] {
        ok(s, buy).await;
        ok(s, buy).await;
    }
    let error = fails(&mut b, buy).await;
    assert_eq!(
        text(&error),
        "PL002: table \"products\": the share of counter \"stock\" that this node holds is too small\
         \nDETAIL: To take: 2. This node may take 1; node 1 holds 5 and cannot be reached. The total allows it.\
         \nHINT: Shares move between nodes that reach each other: retry in a moment, or ask a node that holds enough. \
         SELECT * FROM polity.escrow shows all shares."
    );
    assert_eq!(error.table_name(), Some("products"));
    world.mend();
    // Together they have 2 left.
    ok(&mut b, buy).await;
    world.settle().await;
    refused(&mut a, "update products set stock = stock - 1 where id = 1", Condition::CheckViolation).await;
    assert_eq!(rows(&mut a, "select stock from products").await, ["0"]);
}

#[tokio::test]
async fn one_transaction_writes_one_guarantee() {
    let (_world, mut s) = one().await;
    ok(&mut s, PRODUCTS).await;
    ok(&mut s, "create table orders (id int primary key)").await;
    ok(&mut s, "begin; insert into orders values (1)").await;
    let error = fails(&mut s, "insert into products values (1, 'pen', 10)").await;
    assert_eq!(
        text(&error),
        "PL003: table \"products\" is eventual, and the transaction has written strong tables\
         \nDETAIL: One transaction writes tables of one guarantee: what is agreed in two ways cannot be atomic.\
         \nHINT: Commit before writing \"products\". If the two writes belong together, write the strong one first, and \
         the other once it is committed, so that it can be repeated."
    );
    ok(&mut s, "rollback; begin; insert into products values (1, 'pen', 10)").await;
    refused(&mut s, "insert into orders values (1)", Condition::MixedGuarantees).await;
    ok(&mut s, "rollback; begin; insert into products values (1, 'pen', 10)").await;
    refused(&mut s, "create table t (a int)", Condition::MixedGuarantees).await;
    ok(&mut s, "rollback; begin; create table t (a int primary key) with (guarantee = 'eventual')").await;
    let error = fails(&mut s, "insert into t values (1)").await;
    assert_eq!(error.message(), "table \"t\" is eventual, and the transaction has changed definitions");
    // What was taken back was not written, and reading is free.
    ok(&mut s, "rollback; begin; savepoint a; insert into orders values (1); rollback to a").await;
    ok(&mut s, "insert into products select id + 1, 'pen', 10 from (select 0 as id union select id from orders) as o")
        .await;
    ok(&mut s, "commit").await;
    assert_eq!(number(&mut s, "select count(*) from products").await, 1);
    assert_eq!(number(&mut s, "select count(*) from orders").await, 0);
}

/// A session that goes on elsewhere sees what it saw before, or is told that it does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_causal_token_carries_what_was_seen_to_another_node() {
    let (world, nodes) = nodes(2).await;
    let (mut a, mut b) = (session(&nodes[0]), session(&nodes[1]));
    ok(&mut a, PRODUCTS).await;
    ok(&mut a, "insert into products values (1, 'pen', 10)").await;
    let token = rows(&mut a, "show polity.causal_token").await.remove(0);
    ok(&mut b, &format!("set polity.causal_token = '{token}'")).await;
    assert_eq!(number(&mut b, "select count(*) from products").await, 1);
    world.cut(NodeId(2));
    ok(&mut a, "update products set stock = stock - 1").await;
    let later = rows(&mut a, "show polity.causal_token").await.remove(0);
    assert_ne!(token, later);
    ok(&mut b, &format!("set polity.causal_timeout = '20ms'; set polity.causal_token = '{token}'")).await;
    let error = fails(&mut b, &format!("set polity.causal_token = '{later}'")).await;
    assert_eq!(
        text(&error),
        "PL001: this node has not yet seen what the causal token has\
         \nDETAIL: It lacks writes of node 1, after 20 ms.\
         \nHINT: Retry, raise polity.causal_timeout, or connect to the node the token came from."
    );
    world.mend();
    ok(&mut b, &format!("set polity.causal_timeout = '30s'; set polity.causal_token = '{later}'")).await;
    assert_eq!(rows(&mut b, "select stock from products").await, ["9"]);
    refused(&mut b, "set polity.causal_token = 'nonsense!'", Condition::InvalidParameterValue).await;
}

/// A replica that does not know of a new column yet goes on writing rows without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_is_added_while_a_replica_writes_rows_without_it() {
    let (world, nodes) = nodes(2).await;
    let (mut a, mut b) = (session(&nodes[0]), session(&nodes[1]));
    ok(&mut a, "create table t (a int primary key, b text, c text) with (guarantee = 'eventual')").await;
    ok(&mut a, "insert into t values (1, 'x', 'x')").await;
    world.settle().await;
    world.cut(NodeId(2));
    ok(&mut a, "alter table t drop c; alter table t add d int not null default 5; alter table t add n counter").await;
    ok(&mut a, "insert into t values (2, 'y', 6, 1); update t set n = n + 1").await;
    ok(&mut b, "insert into t values (3, 'z', 'z'); update t set b = 'w', c = 'v' where a = 1").await;
    assert_eq!(rows(&mut b, "select * from t order by a").await, ["1|w|v", "3|z|z"]);
    world.mend();
    world.settle().await;
    for s in [&mut a, &mut b] {
        assert_eq!(rows(s, "select * from t order by a").await, ["1|w|5|1", "2|y|6|2", "3|z|5|0"]);
        assert_eq!(rows(s, "select a from t where d = 5 order by a").await, ["1", "3"]);
    }
    ok(&mut b, "update t set d = d + 1, n = n + 1 where a = 3").await;
    assert_eq!(rows(&mut b, "select * from t where a = 3").await, ["3|z|6|1"]);
}

/// An index is of use where it was built, and no sooner.
#[tokio::test]
async fn an_index_that_was_not_built_here_is_not_read() {
    let (_world, mut s) = one().await;
    ok(&mut s, PRODUCTS).await;
    ok(&mut s, "insert into products select n, 'p' || n % 10 from generate_series(1, 200) as n").await;
    ok(&mut s, "create index products_name on products (name)").await;
    // Its replica has no catalog to build it by.
    assert_eq!(number(&mut s, "select count(*) from products where name = 'p3'").await, 20);
    ok(&mut s, "update products set name = 'p3' where id = 5; delete from products where name = 'p4'").await;
    assert_eq!(number(&mut s, "select count(*) from products where name = 'p3'").await, 21);
    assert_eq!(number(&mut s, "select count(*) from products").await, 180);
}

/// A commit that fewer replicas keep than were asked for says so, and has happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_waits_for_the_replicas_its_table_asks_for() {
    let (world, nodes) = nodes(2).await;
    let (mut a, mut b) = (session(&nodes[0]), session(&nodes[1]));
    ok(&mut a, "create table t (a int primary key) with (guarantee = 'eventual', ack = 2)").await;
    ok(&mut a, "insert into t values (1)").await;
    assert_eq!(number(&mut b, "select count(*) from t").await, 1);
    world.cut(NodeId(2));
    let error = fails(&mut a, "insert into t values (2)").await;
    assert_eq!(
        text(&error),
        "40003: the transaction is kept by 1 of the 2 replicas asked for\
         \nDETAIL: It is committed on node 1, and will spread to the others as they are reached.\
         \nHINT: Do not repeat it unless repeating is harmless: it has taken effect."
    );
    assert_eq!(number(&mut a, "select count(*) from t").await, 2);
}

/// Tools for PostgreSQL show, and dump, a table as it was defined.
#[tokio::test]
async fn the_system_catalog_says_what_a_table_is() {
    let (_world, mut s) = one().await;
    ok(
        &mut s,
        "create table t (a int primary key, n counter check (n >= 0), tags set_of(int)) \
                with (guarantee = 'eventual', ack = 2)",
    )
    .await;
    let options = "select array_to_string(reloptions, ', ') from pg_class where relname = 't'";
    assert_eq!(rows(&mut s, options).await, ["guarantee=eventual, ack=2"]);
    let columns = "select attname, format_type(atttypid, atttypmod), format_type(t.typbasetype, -1), t.typtype \
                   from pg_attribute join pg_type t on t.oid = atttypid \
                   where attrelid = 't'::regclass and attnum > 0 order by attnum";
    assert_eq!(
        rows(&mut s, columns).await,
        ["a|integer|-|b", "n|counter|bigint|d", "tags|set_of(integer)|integer[]|d"]
    );
    let standard = "select data_type from information_schema.columns where table_name = 't' order by ordinal_position";
    assert_eq!(rows(&mut s, standard).await, ["integer", "bigint", "ARRAY"]);
}
