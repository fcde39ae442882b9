//! Hostile and clumsy clients: the node stays up and serves the others.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{Node, answer};

/// Sends `bytes` and reads whatever comes back until the server hangs up or a
/// while has passed.
fn send(node: &Node, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(node.address()).expect("the door is open");
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    // The server may hang up while we are still sending.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..n]);
    }
    answer
}

fn startup(parameters: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend_from_slice(&(8 + parameters.len() as u32).to_be_bytes());
    message.extend_from_slice(&196_608u32.to_be_bytes());
    message.extend_from_slice(parameters);
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_costs_its_sender_the_connection_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut node = Node::start(folder.path());
    let client = node.connect().await;
    let mut attacks: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 4096],
        vec![0xFF; 4096],
        u32::MAX.to_be_bytes().to_vec(),
        0x7FFF_FFFFu32.to_be_bytes().to_vec(),
        vec![0, 0, 0, 1],
        startup(b"user\0polity"),
        startup(b"user\0polity\0database\0polity\0\0"),
        startup(&[0xFF; 64]),
        startup(b"\0"),
        // Messages before the password.
        [startup(b"user\0polity\0\0"), b"Q\0\0\0\x0dselect 1\0".to_vec()].concat(),
        [startup(b"user\0polity\0\0"), b"p\xff\xff\xff\xff".to_vec()].concat(),
        [startup(b"user\0polity\0\0"), b"p\0\0\0\x08abc\0".to_vec()].concat(),
        // A cancel request with a key nobody has.
        [16u32.to_be_bytes().to_vec(), 80_877_102u32.to_be_bytes().to_vec(), vec![1; 8]].concat(),
    ];
    let mut seed: u64 = 1;
    for n in 0..100usize {
        let mut noise = if n % 2 == 0 { startup(b"user\0polity\0database\0polity\0\0") } else { Vec::new() };
        for _ in 0..n * 7 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            noise.push((seed >> 33) as u8);
        }
        attacks.push(noise);
    }
    let senders: Vec<_> = attacks
        .chunks(15)
        .map(|attacks| {
            std::thread::scope(|scope| {
                let threads: Vec<_> = attacks.iter().map(|a| scope.spawn(|| send(&node, a))).collect();
                threads.into_iter().map(|t| t.join().expect("a sender").len()).sum::<usize>()
            })
        })
        .collect();
    assert!(node.is_up(), "the node went down after {} attacks", senders.len());
    assert_eq!(answer(&client, "select 1").await, "(1)");
    assert_eq!(answer(&node.connect().await, "select 2").await, "(2)");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_connections_leave_room_for_one_that_works() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(folder.path());
    let mut idle = Vec::new();
    for _ in 0..20 {
        let batch = futures::future::join_all((0..50).map(|_| node.connect())).await;
        idle.extend(batch);
    }
    // Half-open ones too: connected, and nothing said.
    let silent: Vec<_> = (0..50).filter_map(|_| TcpStream::connect(node.address()).ok()).collect();
    let client = node.connect().await;
    assert_eq!(answer(&client, "select count(*) from generate_series(1, 100)").await, "(100)");
    assert_eq!(answer(&idle[999], "select 1").await, "(1)");
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_beyond_a_limit_are_refused_and_the_connection_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut node = Node::start(folder.path());
    let client = node.connect().await;
    let deep = format!("select {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    assert_eq!(answer(&client, &deep).await, "54001");
    let chain = format!("select 1{}", " + 1".repeat(20_000));
    let got = answer(&client, &chain).await;
    assert!(got == "(20001)" || got == "54001", "{got}");
    let huge = format!("select '{}'", "x".repeat(20 << 20));
    assert!(answer(&client, &huge).await.len() > 20 << 20);
    for (sql, code) in [
        ("select", "42601"),
        ("select 1/0", "22012"),
        ("select * from nowhere", "42P01"),
        ("select nothing from (select 1 as a) as t", "42703"),
        ("select 'x'::int", "22P02"),
        ("select 2147483647 + 1", "22003"),
        ("listen channel", "0A000"),
        ("set no_such_thing = 1", "42704"),
        ("create table t (a int) with (guarantee = 'eventual')", "0A000"),
        ("create table t (a int) with (nonsense = 1)", "22023"),
    ] {
        assert_eq!(answer(&client, sql).await, code, "{sql}");
    }
    assert_eq!(answer(&client, "select 1").await, "(1)");
    assert!(node.is_up());
}

/// `first`, then `more` so many times.
fn chain(first: &str, more: &str, count: usize) -> String {
    format!("{first}{}", more.repeat(count))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_however_deep_are_answered_or_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut node = Node::start(folder.path());
    let client = node.connect().await;
    answer(&client, "create table t (id int primary key, n int, s text); insert into t values (1, 2, 'x')").await;
    // Far more than there may be: refused, with the reason.
    for count in [5_000, 200_000] {
        for sql in [
            chain("select n", " + 1", count),
            chain("select n", " + (1)", count),
            chain("select s", " || s", count),
            chain("select n = 1", " and n = 1", count),
            chain("select n", "::int", count),
            chain("select n", " is null", count),
            chain("select 1", " union all select 1", count),
            format!("select {}n{}", "abs(".repeat(count), ")".repeat(count)),
            format!("select {}n = 1", "not ".repeat(count)),
            format!("select {}n{}", "case when n = 1 then ".repeat(count), " end".repeat(count)),
            format!("select {}1{}", "(select ".repeat(count), ")".repeat(count)),
            chain("select array[1]", "[1:1]", count),
        ] {
            let sql = if sql.contains("union") { sql } else { format!("{sql} from t") };
            assert_eq!(answer(&client, &sql).await, "54001", "{count} times as in {sql:.60}");
        }
    }
    let joins: String = (0..20).map(|n| format!(" join (select id from t) u{n} using (id)")).collect();
    // As much as there may be, and as is usual for programs: works.
    for (sql, expected) in [
        (chain("select n", " + 1", 990) + " from t", "(992)"),
        (chain("select s", " || s", 300) + " from t", &format!("({})", "x".repeat(301))),
        (chain("select n", "::bigint::int", 100) + " from t", "(2)"),
        (chain("select count(*) from t where n = 2", " and n + id > 2", 240), "(1)"),
        (chain("select count(*) from t where n = 0", " or n = 2", 5_000), "(1)"),
        (chain("select count(*) from t where n = 0", " or (n = 2 and id = 1)", 5_000), "(1)"),
        (chain("select 1", " union select 1", 100), "(1)"),
        (format!("select count(*) from t{joins}"), "(1)"),
        (format!("select {}n{} from t", "abs(".repeat(100), ")".repeat(100)), "(2)"),
        (format!("select {}n{} from t", "(".repeat(100), ")".repeat(100)), "(2)"),
        (format!("select {}n{} from t", "case when n = 1 then 0 else ".repeat(60), " end".repeat(60)), "(2)"),
        (format!("select {}2{}", "(select ".repeat(12), ")".repeat(12)), "(2)"),
        (format!("select {}2{}", "(select ".repeat(13), ")".repeat(13)), "54001"),
        (chain("update t set n = n", " + 1 - 1", 400) + " where id = 1", "ok 1"),
        (chain("update t set n = n where n = 0", " or n = 2", 5_000), "ok 1"),
        (chain("explain select n", " + 1", 300) + " from t", ""),
        (chain("create view deep as select n", " + 1", 300) + " as n from t", "ok 0"),
        (chain("select n", " + 1", 300) + " from deep", "(602)"),
        (chain("alter table t add check (n > 0", " and n < 1000000", 300) + ")", "ok 0"),
        (chain("alter table t add check (n = 1", " or n = 2", 3_000) + ")", "ok 0"),
        ("insert into t values (2, 2, 'y')".to_owned(), "ok 1"),
        ("insert into t values (3, -2, 'y')".to_owned(), "23514"),
    ] {
        let got = answer(&client, &sql).await;
        assert!(got == expected || expected.is_empty() && got.contains("Scan"), "{got:.200} for {sql:.60}");
        assert!(node.is_up(), "the node is down after {sql:.60}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_statement_can_be_cancelled_and_times_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(folder.path());
    let client = node.connect().await;
    answer(&client, "create table held (id int primary key, n int)").await;
    answer(&client, "insert into held values (1, 0)").await;
    let holder = node.connect().await;
    answer(&holder, "begin; update held set n = 1").await;
    let token = client.cancel_token();
    let (got, ()) = futures::future::join(answer(&client, "update held set n = 2 where id = 1"), async {
        // Until the statement runs a cancel means nothing, so ask until it ends.
        for _ in 0..40 {
            token.cancel_query(tokio_postgres::NoTls).await.expect("the request is taken");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    })
    .await;
    assert_eq!(got, "57014");
    answer(&client, "set statement_timeout = 100").await;
    assert_eq!(answer(&client, "update held set n = 2 where id = 1").await, "57014");
    answer(&client, "set lock_timeout = 50; set statement_timeout = 0").await;
    assert_eq!(answer(&client, "update held set n = 2 where id = 1").await, "55P03");
    answer(&holder, "rollback").await;
    assert_eq!(answer(&client, "update held set n = 2 where id = 1").await, "ok 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_is_found_and_one_side_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(folder.path());
    let (a, b) = (node.connect().await, node.connect().await);
    answer(&a, "create table t (id int primary key, n int); insert into t values (1, 0), (2, 0)").await;
    answer(&a, "begin; update t set n = 1 where id = 1").await;
    answer(&b, "begin; update t set n = 2 where id = 2").await;
    let (first, second) = futures::future::join(
        async {
            let got = answer(&a, "update t set n = 1 where id = 2").await;
            answer(&a, if got == "ok 1" { "commit" } else { "rollback" }).await;
            got
        },
        async {
            let got = answer(&b, "update t set n = 2 where id = 1").await;
            answer(&b, if got == "ok 1" { "commit" } else { "rollback" }).await;
            got
        },
    )
    .await;
    let mut both = [first.as_str(), second.as_str()];
    both.sort_unstable();
    assert_eq!(both, ["40P01", "ok 1"]);
}
