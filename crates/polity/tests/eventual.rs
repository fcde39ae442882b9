//! Eventual tables on clusters of real processes: both sides of a partition read and
//! write, nothing acknowledged is lost or oversold, and all become equal again.

mod common;

use std::time::Duration;

use common::answer;
use common::apart::{SECONDS, agree, at_once, clients, spread, token};
use common::cluster::Cluster;
use tokio::time::Instant;

const SHOP: &str = "
    CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, stock counter CHECK (stock >= 0))
        WITH (guarantee = 'eventual');
    CREATE TABLE carts (customer int PRIMARY KEY, deliver_to text NOT NULL, wishes set_of(text))
        WITH (guarantee = 'eventual');
    CREATE TABLE cart_lines (customer int, product int, quantity int NOT NULL CHECK (quantity > 0),
        PRIMARY KEY (customer, product)) WITH (guarantee = 'eventual');
    CREATE TABLE orders (id bigint PRIMARY KEY, customer int NOT NULL);";
const BUY: &str = "UPDATE products SET stock = stock - 1 WHERE id = 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_of_a_partition_sell_what_there_is_and_no_more() {
    let cluster = Cluster::start(&["europe", "europe", "asia", "asia", "america"]);
    let all = clients(&cluster).await;
    let (europe, asia) = (&all[0], &all[2]);
    europe.batch_execute(SHOP).await.unwrap();
    assert_eq!(answer(europe, "INSERT INTO products VALUES (1, 'tea', 10)").await, "ok 1");
    assert_eq!(answer(europe, "INSERT INTO carts VALUES (7, 'home', array['ribbon'])").await, "ok 1");
    assert_eq!(answer(europe, "INSERT INTO cart_lines VALUES (7, 1, 1)").await, "ok 1");
    spread(&all).await;

    cluster.admin(&["fault", "isolate", "asia"]).unwrap();
    // Fifty buyers a side.
    let urls = cluster.urls();
    let (in_europe, in_asia) = tokio::join!(at_once(&urls[..2], 50, BUY), at_once(&urls[2..4], 50, BUY));
    println!("europe: {in_europe:?}, asia: {in_asia:?}");
    let mut sold = 0;
    for answers in [&in_europe, &in_asia] {
        for (said, times) in answers {
            match said.as_str() {
                "ok 1" => sold += times,
                "PL002" | "23514" => {}
                other => panic!("{other}"),
            }
        }
        assert!(answers.get("ok 1") > Some(&0), "a side that holds a share sells it: {answers:?}");
    }
    assert_eq!(sold, 10);
    let refused = asia.batch_execute(BUY).await.unwrap_err();
    let error = refused.as_db_error().expect("an answer");
    println!("asia, cut off: {} / {:?} / {:?}", error.message(), error.detail(), error.hint());
    assert!(error.detail().is_some(), "{error:?}");

    // Nobody who connects now has to wait for the others.
    let late = cluster.node(3).connect().await;
    assert_eq!(answer(&late, "SELECT name FROM products").await, "(tea)");

    // Carts are edited on both sides; orders are placed where a majority is.
    let cart = |to, wish| {
        format!(
            "UPDATE carts SET deliver_to = '{to}', wishes = array_append(wishes, '{wish}') WHERE customer = 7; \
             INSERT INTO cart_lines VALUES (7, {}, 2)",
            if to == "Lyon" { 2 } else { 3 }
        )
    };
    assert_eq!(answer(europe, &cart("Lyon", "ring twice")).await, "ok 1");
    assert_eq!(answer(asia, &cart("Osaka", "gift wrap")).await, "ok 1");
    assert_eq!(answer(asia, "INSERT INTO orders VALUES (1, 7)").await, "PL001");
    assert_eq!(answer(asia, "SELECT deliver_to FROM carts").await, "(Osaka)");

    cluster.admin(&["fault", "heal"]).unwrap();
    let took = agree(&all, "SELECT stock FROM products", "(0)").await;
    let lines = agree(&all, "SELECT product FROM cart_lines ORDER BY 1", "(1) (2) (3)").await;
    println!("equal {:?} after healing", took + lines);
    agree(&all, "SELECT wishes FROM carts", "({\"gift wrap\",ribbon,\"ring twice\"})").await;
    let kept = answer(europe, "SELECT deliver_to FROM carts").await;
    let lost = if kept == "(Lyon)" { "(Osaka)" } else { "(Lyon)" };
    agree(&all, "SELECT deliver_to FROM carts", &kept).await;
    let conflicts = "SELECT lost FROM polity.conflicts WHERE table_name = 'carts' AND column_name = 'deliver_to'";
    agree(&all, conflicts, lost).await;
    for client in &all {
        assert_eq!(answer(client, BUY).await, "23514");
    }
    let compared = cluster.admin(&["node", "compare"]).unwrap();
    assert!(compared.contains("all hold the same"), "{compared}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_alone_writes_as_fast_as_one_among_others() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let client = cluster.node(0).connect().await;
    let table = "CREATE TABLE t (k int PRIMARY KEY, v text NOT NULL) WITH (guarantee = 'eventual')";
    assert_eq!(answer(&client, table).await, "ok 0");
    let write = "INSERT INTO t VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = excluded.v";
    let write = client.prepare(write).await.unwrap();
    let timed = async |what: &str| {
        let mut times = Vec::new();
        for k in 0..300i32 {
            let begun = Instant::now();
            client.execute(&write, &[&(k % 100), &what]).await.unwrap();
            times.push(begun.elapsed());
        }
        times.sort();
        println!("{what}: p50 {:?}, p99 {:?}, longest {:?}", times[150], times[297], times[299]);
        (times[150], times[299])
    };
    let healthy = timed("healthy").await;
    cluster.admin(&["fault", "isolate", "1"]).unwrap();
    let cut_off = timed("cut off").await;
    cluster.kill(1);
    cluster.kill(2);
    let alone = timed("the others killed").await;
    for (p50, longest) in [cut_off, alone] {
        // A write that waited for another node would take a second at least.
        assert!(p50 < healthy.0 * 4 + Duration::from_millis(20), "{p50:?}, {:?} with others", healthy.0);
        assert!(longest < Duration::from_millis(900) + healthy.1, "{longest:?}");
    }
    assert_eq!(answer(&client, "SELECT count(*), min(v) FROM t").await, "(100,the others killed)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_alone_goes_on_and_a_crash_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let all = clients(&cluster).await;
    all[0].batch_execute(SHOP).await.unwrap();
    agree(&all, "SELECT count(*) FROM cart_lines", "(0)").await;
    cluster.admin(&["fault", "isolate", "3"]).unwrap();
    for round in 0..5 {
        let alone = cluster.node(2).connect().await;
        for product in 0..20 {
            let add = format!("INSERT INTO cart_lines VALUES ({round}, {product}, 1)");
            assert_eq!(answer(&alone, &add).await, "ok 1");
        }
        cluster.kill(2);
        cluster.restart(2);
        let back = cluster.node(2).connect().await;
        let kept = format!("SELECT count(*) FROM cart_lines WHERE customer = {round}");
        assert_eq!(answer(&back, &kept).await, "(20)");
    }
    // A killed node forgets that it was isolated; the others still have their rules.
    let _ = cluster.admin(&["fault", "heal"]);
    let all = clients(&cluster).await;
    agree(&all, "SELECT count(*), count(DISTINCT customer) FROM cart_lines", "(100,5)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_alone_knows_its_tables_and_takes_writes() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let all = clients(&cluster).await;
    let tables = "
        CREATE TABLE t (k int PRIMARY KEY, v text NOT NULL, n counter) WITH (guarantee = 'eventual');
        CREATE INDEX t_v ON t (v);";
    all[0].batch_execute(tables).await.unwrap();
    // The last definition of all is followed by nothing that would tell it was decided.
    agree(&all, "SELECT count(*) FROM t", "(0)").await;
    assert_eq!(answer(&all[1], "INSERT INTO t VALUES (1, 'one', 1), (2, 'two', 2)").await, "ok 2");
    spread(&all).await;
    for alone in 0..3 {
        cluster.up().into_iter().for_each(|at| cluster.kill(at));
        cluster.restart(alone);
        let client = cluster.node(alone).connect().await;
        let read = "SELECT count(*), sum(n) FROM t WHERE k < 10";
        assert_eq!(answer(&client, read).await, format!("(2,{})", 3 + alone));
        assert_eq!(answer(&client, &format!("INSERT INTO t VALUES ({}, 'more', 0)", 10 + alone)).await, "ok 1");
        assert_eq!(answer(&client, "UPDATE t SET n = n + 1 WHERE v = 'two'").await, "ok 1");
        assert_eq!(answer(&client, "SELECT count(*) FROM t WHERE v = 'more'").await, format!("({})", 1 + alone));
        for other in (0..3).filter(|other| *other != alone) {
            cluster.restart(other);
        }
        let all = clients(&cluster).await;
        agree(&all, "SELECT sum(n) FROM t WHERE v = 'two'", &format!("({})", 3 + alone)).await;
        agree(&all, "SELECT count(*) FROM t WHERE v = 'more'", &format!("({})", 1 + alone)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_kill_9_again_and_again() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let client = cluster.node(0).connect().await;
    let tables = "
        CREATE TABLE entries (id int PRIMARY KEY, round int NOT NULL) WITH (guarantee = 'eventual');
        CREATE TABLE totals (round int PRIMARY KEY, entries counter) WITH (guarantee = 'eventual');";
    client.batch_execute(tables).await.unwrap();
    spread(&clients(&cluster).await).await;
    let (mut next, mut acknowledged) = (0, Vec::new());
    for round in 0..4 {
        let client = cluster.node(0).connect().await;
        assert_eq!(answer(&client, &format!("INSERT INTO totals VALUES ({round}, 0)")).await, "ok 1");
        let url = cluster.node(0).url.clone();
        let writers = (0..4).map(|writer| {
            let (url, first) = (url.clone(), next + writer * 1_000_000);
            tokio::spawn(async move {
                let Ok(client) = common::connect(&url).await else { return Vec::new() };
                let mut written = Vec::new();
                for id in first.. {
                    let sql = format!(
                        "BEGIN; INSERT INTO entries VALUES ({id}, {round}); \
                         UPDATE totals SET entries = entries + 1 WHERE round = {round}; COMMIT"
                    );
                    match client.batch_execute(&sql).await {
                        Ok(()) => written.push(id),
                        Err(_) => break,
                    }
                }
                written
            })
        });
        let writers: Vec<_> = writers.collect();
        let begun = Instant::now();
        let some = format!("SELECT count(*) > 60 FROM entries WHERE round = {round}");
        while answer(&client, &some).await != "(t)" {
            assert!(begun.elapsed() < SECONDS, "nothing is written");
        }
        cluster.kill(0);
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        next += 1 << 16;
        cluster.restart(0);
        // At once, and without the others' help.
        let client = cluster.node(0).connect().await;
        let there = client.query("SELECT id FROM entries", &[]).await.unwrap();
        let there: std::collections::BTreeSet<i32> = there.iter().map(|row| row.get(0)).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
    }
    println!("{} acknowledged", acknowledged.len());
    let all = clients(&cluster).await;
    spread(&all).await;
    let whole =
        "SELECT count(*) FROM totals t WHERE entries <> (SELECT count(*) FROM entries e WHERE e.round = t.round)";
    agree(&all, whole, "(0)").await;
    let compared = cluster.admin(&["node", "compare"]).unwrap();
    assert!(compared.contains("all hold the same"), "{compared}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_has_everything_before_it_serves() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let client = cluster.node(0).connect().await;
    let table = "CREATE TABLE t (k int PRIMARY KEY, v text NOT NULL, n counter) WITH (guarantee = 'eventual')";
    assert_eq!(answer(&client, table).await, "ok 0");
    assert_eq!(answer(&client, "CREATE INDEX t_v ON t (v)").await, "ok 0");
    let rows = "INSERT INTO t SELECT g, 'v' || g, g FROM generate_series(1, 5000) g";
    assert_eq!(answer(&client, rows).await, "ok 5000");
    assert_eq!(answer(&client, "DELETE FROM t WHERE k % 5 = 0").await, "ok 1000");
    // Writes go on meanwhile.
    let (url, stop) = (cluster.node(1).url.clone(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let stopped = stop.clone();
    let writer = tokio::spawn(async move {
        let client = common::connect(&url).await.expect("the node accepts connections");
        let mut written = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            let sql = format!("INSERT INTO t VALUES ({}, 'late', 1)", 10_000 + written);
            assert_eq!(answer(&client, &sql).await, "ok 1");
            written += 1;
        }
        written
    });
    cluster.grow("a");
    let new = cluster.node(3).connect().await;
    assert_eq!(answer(&new, "SELECT count(*), sum(n) FROM t WHERE k <= 5000").await, "(4000,10000000)");
    assert_eq!(answer(&new, "SELECT k FROM t WHERE v = 'v77'").await, "(77)");
    assert_eq!(answer(&new, "UPDATE t SET n = n + 1 WHERE k = 77").await, "ok 1");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let written: i32 = writer.await.unwrap();
    let all = clients(&cluster).await;
    agree(&all, "SELECT count(*), sum(n) FROM t", &format!("({},{})", 4000 + written, 10_000_001 + written)).await;
    let compared = cluster.admin(&["node", "compare"]).unwrap();
    assert!(compared.contains("all hold the same"), "{compared}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_share_of_a_node_that_is_gone_is_taken_over_once_it_is_removed() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let all = clients(&cluster).await;
    all[0].batch_execute(SHOP).await.unwrap();
    assert_eq!(answer(&all[0], "INSERT INTO products VALUES (1, 'tea', 30)").await, "ok 1");
    spread(&all).await;
    let lost = (cluster.leader() + 1) % 3;
    assert_eq!(answer(&all[lost], BUY).await, "ok 1");
    let others: Vec<usize> = (0..3).filter(|at| *at != lost).collect();
    for at in &others {
        agree(std::slice::from_ref(&all[*at]), "SELECT stock FROM products", "(29)").await;
    }
    cluster.kill(lost);
    let urls: Vec<String> = others.iter().map(|at| cluster.node(*at).url.clone()).collect();
    let before = at_once(&urls, 40, BUY).await;
    println!("the others sell {before:?}");
    let sold = before["ok 1"];
    assert!(sold < 29 && before.contains_key("PL002"), "they do not hold what the lost node holds: {before:?}");

    cluster.admin(&["node", "remove", &(lost + 1).to_string()]).unwrap();
    // Its share is given out, and not more than that.
    let begun = Instant::now();
    let mut left = 29 - sold;
    while left > 0 {
        match answer(&all[others[left % 2]], BUY).await.as_str() {
            "ok 1" => left -= 1,
            "PL002" => assert!(begun.elapsed() < SECONDS, "its share is nobody's: {left} left"),
            other => panic!("{other}"),
        }
    }
    println!("all of it was sold {:?} after the node was removed", begun.elapsed());
    for at in &others {
        let client = std::slice::from_ref(&all[*at]);
        agree(client, "SELECT stock FROM products", "(0)").await;
        assert_eq!(answer(&all[*at], BUY).await, "23514");
    }
    // It comes back, is told, and sells nothing any more.
    cluster.restart(lost);
    let gone = cluster.node(lost).connect().await;
    let begun = Instant::now();
    while answer(&gone, BUY).await != "PL001" {
        assert!(begun.elapsed() < SECONDS, "a removed node goes on");
    }
    assert_eq!(answer(&gone, "SELECT stock FROM products").await, "PL001");
    for at in &others {
        assert_eq!(answer(&all[*at], "SELECT stock FROM products").await, "(0)");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_sees_elsewhere_what_it_saw_and_acks_are_waited_for() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let all = clients(&cluster).await;
    let tables = "
        CREATE TABLE t (k int PRIMARY KEY, v int NOT NULL) WITH (guarantee = 'eventual');
        CREATE TABLE twice (k int PRIMARY KEY) WITH (guarantee = 'eventual', ack = 2);";
    all[0].batch_execute(tables).await.unwrap();
    spread(&all).await;
    assert_eq!(answer(&all[0], "INSERT INTO twice VALUES (1)").await, "ok 1");
    for round in 10..20 {
        let (here, there) = (&all[round % 3], &all[(round + 1) % 3]);
        assert_eq!(answer(here, &format!("INSERT INTO t VALUES ({round}, 0)")).await, "ok 1");
        let arrive = format!("SET polity.causal_token = '{}'", token(here).await);
        assert_eq!(answer(there, &arrive).await, "ok 0");
        assert_eq!(answer(there, &format!("SELECT v FROM t WHERE k = {round}")).await, "(0)");
    }

    cluster.admin(&["fault", "isolate", "3"]).unwrap();
    assert_eq!(answer(&all[0], "INSERT INTO t VALUES (1, 1)").await, "ok 1");
    let seen = token(&all[0]).await;
    // Elsewhere it is not refused for long, and not shown the past.
    let arrive = format!("SET polity.causal_token = '{seen}'");
    assert_eq!(answer(&all[2], "SET polity.causal_timeout = '300ms'").await, "ok 0");
    let begun = Instant::now();
    assert_eq!(answer(&all[2], &arrive).await, "PL001");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(answer(&all[1], &arrive).await, "ok 0");
    assert_eq!(answer(&all[1], "SELECT v FROM t WHERE k = 1").await, "(1)");
    // A side of two has two replicas, a side of one has not, and says so.
    assert_eq!(answer(&all[1], "INSERT INTO twice VALUES (2)").await, "ok 1");
    assert_eq!(answer(&all[2], "INSERT INTO twice VALUES (3)").await, "40003");
    assert_eq!(answer(&all[2], "SELECT k FROM twice ORDER BY k").await, "(1) (3)");

    cluster.admin(&["fault", "heal"]).unwrap();
    assert_eq!(answer(&all[2], "SET polity.causal_timeout = '20s'").await, "ok 0");
    assert_eq!(answer(&all[2], &arrive).await, "ok 0");
    assert_eq!(answer(&all[2], "SELECT v FROM t WHERE k = 1").await, "(1)");
    agree(&all, "SELECT k FROM twice ORDER BY k", "(1) (2) (3)").await;
}
