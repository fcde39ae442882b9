//! Whole nodes, from their doors.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use polity_base::seams::Seams;
use polity_base::{Guarantee, Key, Span, Timestamp};
use polity_store::disk::{Crash, MemoryDisk};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::clock::SystemClock;
use crate::entropy::SystemEntropy;
use crate::{KeySource, Node, NodeConfig, Security, World};
use polity_cluster::links::carrier::Transport;

fn config(data: &Path) -> NodeConfig {
    let mut config = NodeConfig::new(data.to_owned(), Security::Development { certificates: None });
    config.sql = (Ipv4Addr::LOCALHOST, 0).into();
    config.http = (Ipv4Addr::LOCALHOST, 0).into();
    config
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn connect(node: &Node) -> Client {
    let parameters = format!(
        "host={} port={} user=polity password=polity dbname=polity",
        node.sql_address().ip(),
        node.sql_address().port()
    );
    let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn a_node_says_how_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(config(folder.path())).await.unwrap();
    let (code, health) = get(node.http_address(), "/health").await;
    assert_eq!(code, 200, "{health}");
    assert!(health.contains("serving"), "{health}");
    let (code, metrics) = get(node.http_address(), "/metrics").await;
    assert_eq!(code, 200);
    for name in [
        "polity_raft_leads 1",
        "polity_raft_commit_micros{quantile=\"0.99\"}",
        "polity_log_syncs_total",
        "polity_sql_connections",
    ] {
        assert!(metrics.contains(name), "{name} in\n{metrics}");
    }
    assert_eq!(node.data(), folder.path());
    node.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_outlive_the_node() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3i64 {
        let node = Node::start(config(folder.path())).await.unwrap();
        let client = connect(&node).await;
        if round == 0 {
            client.batch_execute("CREATE TABLE t (id bigint PRIMARY KEY, v text)").await.unwrap();
        }
        let count: i64 = client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
        assert_eq!(count, round);
        client.execute("INSERT INTO t VALUES ($1, 'x')", &[&round]).await.unwrap();
        node.stop().await.unwrap();
    }
}

#[tokio::test]
async fn mistakes_are_named_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut clash = config(&data);
    clash.sql = taken.local_addr().unwrap();
    let refused = Node::start(clash).await.err().unwrap().to_string();
    assert!(refused.contains("cannot listen on") && refused.contains("PostgreSQL"), "{refused}");

    let mut open = config(&data);
    open.http = (Ipv4Addr::UNSPECIFIED, 0).into();
    let refused = Node::start(open).await.err().unwrap().to_string();
    assert!(refused.contains("loopback"), "{refused}");
    assert!(!data.exists());
}

#[tokio::test]
async fn production_is_given_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file) = (folder.path().join("data"), |name: &str| folder.path().join(name));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(file("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(file("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(file("master"), "5a".repeat(32)).unwrap();
    let production = |initial_password: Option<&str>| {
        let security = Security::Production {
            certificate: file("cert.pem"),
            private_key: file("key.pem"),
            authority: None,
            key: KeySource::File(file("master")),
            initial_password: initial_password.map(str::to_owned),
        };
        NodeConfig { security, ..config(&data) }
    };
    let refused = Node::start(production(None)).await.err().unwrap().to_string();
    assert!(refused.contains("needs a password"), "{refused}");
    Node::start(production(Some("secret"))).await.unwrap().stop().await.unwrap();

    std::fs::write(file("key.pem"), "not a key").unwrap();
    let refused = Node::start(production(Some("secret"))).await.err().unwrap().to_string();
    assert!(refused.contains("key.pem"), "{refused}");
}

/// The one value of the one row that a query gives, or the code of its error.
async fn value(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(messages) => {
            let rows = messages.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0),
                _ => None,
            });
            rows.last().unwrap_or_default().to_owned()
        }
        Err(error) => error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned()),
    }
}

/// The spill files of a folder.
fn spilled(data: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(data).unwrap().flatten().map(|file| file.path());
    files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("spill-"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sort_of_far_more_than_memory_spills_without_plain_text_or_is_refused() {
    const SECRET: &str = "attackatdawn";
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.limits.query_memory_bytes = 32 << 20;
    config.limits.spill_bytes = 1 << 30;
    // What a crash left behind.
    std::fs::write(folder.path().join("spill-0000000001"), SECRET).unwrap();
    let node = Node::start(config).await.unwrap();
    let client = connect(&node).await;
    let sort = format!(
        "select count(*) || min(s) from (select '{SECRET}{SECRET}' || a.x as s, b.x from generate_series(1, 1000) a(x), \
         generate_series(1, 1000) b(x) order by a.x * 7919 % 104729, b.x offset 1) s"
    );
    let (mut most, mut found) = (0, false);
    let mut running = std::pin::pin!(value(&client, &sort));
    let got = loop {
        tokio::select! {
            got = &mut running => break got,
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        for file in spilled(folder.path()) {
            // Files go while they are looked at.
            let bytes = std::fs::read(file).unwrap_or_default();
            most = most.max(bytes.len());
            found |= bytes.windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
        }
    };
    assert_eq!(got, format!("999999{SECRET}{SECRET}1"));
    assert!(most > 1 << 20, "the sort did not spill: {most} bytes");
    assert!(!found, "plain text was spilled");
    assert_eq!(spilled(folder.path()), Vec::<PathBuf>::new());

    // 9 million rows, once within the files' limit and once beyond it.
    let rows = "generate_series(1, 3000) a(x), generate_series(1, 3000) b(x)";
    let sort = format!("select count(*) from (select a.x, b.x from {rows} order by b.x, a.x offset 1) s");
    assert_eq!(value(&client, &sort).await, "8999999");
    let wide =
        format!("select max(s) from (select repeat('x', 200) || a.x as s from {rows} order by b.x, a.x offset 1) s");
    let got = value(&client, &wide).await;
    assert!(["53100", "53200"].contains(&got.as_str()), "{got}");
    assert_eq!(value(&client, "select 1").await, "1");
    assert_eq!(spilled(folder.path()), Vec::<PathBuf>::new());
    node.stop().await.unwrap();
}

/// A node on a disk in memory that keeps no snapshots of the past for long.
async fn on(folder: &Path, disk: &MemoryDisk) -> Result<Node, crate::Error> {
    let mut config = config(folder);
    config.limits.retention = Duration::from_millis(200);
    let seams =
        Seams { clock: Arc::new(SystemClock::new(Duration::ZERO)), entropy: Arc::new(SystemEntropy::default()) };
    config.world = Some(World { seams, disk: Arc::new(disk.clone()), transport: Transport::Tls });
    Node::start(config).await
}

/// How many keys there are besides the catalog's.
fn keys(node: &Node) -> usize {
    let span = Span { start: Key::from(16384u32.to_be_bytes().to_vec()), end: Key::from(vec![0xFF; 5]) };
    let snapshot = node.core.foundation.state.snapshot().unwrap();
    let mut scan = snapshot.scan(&span, Timestamp::MAX).unwrap();
    let mut count = 0;
    while scan.next().unwrap().is_some() {
        count += 1;
    }
    count
}

async fn until_keys(node: &Node, count: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while keys(node) != count {
        assert!(tokio::time::Instant::now() < deadline, "{} keys are left, not {count}", keys(node));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_of_dropped_tables_comes_back_whatever_crashes_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = MemoryDisk::new(5);
    let node = on(folder.path(), &disk).await.unwrap();
    let client = connect(&node).await;
    value(&client, "create table kept (id int primary key, n int); create index on kept (n)").await;
    value(&client, "insert into kept select g, g from generate_series(1, 100) g").await;
    until_keys(&node, 200).await;
    drop(client);
    node.stop().await.unwrap();
    for round in 0..6u64 {
        let node = on(folder.path(), &disk).await.unwrap();
        let client = connect(&node).await;
        value(&client, "create table dropped (id int primary key, n int); create index on dropped (n)").await;
        value(&client, "insert into dropped select g, g from generate_series(1, 500) g").await;
        value(&client, "update kept set n = n + 1").await;
        // Before, while or after the space comes back.
        disk.crash_after(6 + round * 5);
        value(&client, "drop table dropped").await;
        tokio::time::sleep(Duration::from_millis(150 * round)).await;
        disk = disk.restart(if round % 2 == 0 { Crash::Torn } else { Crash::Lost });
        drop(client);
        // What it holds in memory is of no use any more; its log fails.
        let _ = node.stop().await;

        let node = on(folder.path(), &disk).await.unwrap();
        let client = connect(&node).await;
        value(&client, "drop table if exists dropped").await;
        until_keys(&node, 200).await;
        assert_eq!(value(&client, "select count(*) from kept").await, "100", "round {round}");
        drop(client);
        node.stop().await.unwrap();
    }
    let node = on(folder.path(), &disk).await.unwrap();
    let client = connect(&node).await;
    value(&client, "insert into kept select g, g from generate_series(101, 200) g").await;
    value(&client, "truncate kept").await;
    until_keys(&node, 0).await;
    node.stop().await.unwrap();
}

/// How many keys there are of eventual tables and their indexes, and of what merging
/// remembers of the tables' rows.
fn eventual_keys(node: &Node) -> usize {
    let seen = node.core.foundation.eventual.seen().unwrap();
    let count = |first: u32, end: Vec<u8>| {
        let span = Span { start: Key::from(first.to_be_bytes().to_vec()), end: Key::from(end) };
        let mut scan = seen.rows.scan(&span, seen.at).unwrap();
        scan.next_chunk(usize::MAX, usize::MAX).unwrap().len()
    };
    let first = Guarantee::Eventual.storage(16384);
    count(first.0, vec![0xC0]) + count(first.merging().0, vec![0xFF; 5])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_of_dropped_eventual_tables_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = MemoryDisk::new(5);
    let node = on(folder.path(), &disk).await.unwrap();
    let client = connect(&node).await;
    let tables = "create table kept (id int primary key, n int) with (guarantee = 'eventual'); \
                  create table dropped (id int primary key, n int) with (guarantee = 'eventual'); \
                  create index on dropped (n)";
    value(&client, tables).await;
    value(&client, "insert into kept select g, g from generate_series(1, 100) g").await;
    value(&client, "insert into dropped select g, g from generate_series(1, 500) g").await;
    until_eventual_keys(&node, 200 + 1500).await;
    value(&client, "drop table dropped").await;
    drop(client);
    // What was dropped before a restart is found after it, too.
    node.stop().await.unwrap();
    let node = on(folder.path(), &disk).await.unwrap();
    until_eventual_keys(&node, 200).await;
    let client = connect(&node).await;
    assert_eq!(value(&client, "select count(*) from kept").await, "100");
    node.stop().await.unwrap();
}

async fn until_eventual_keys(node: &Node, count: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while eventual_keys(node) != count {
        assert!(tokio::time::Instant::now() < deadline, "{} keys are left, not {count}", eventual_keys(node));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_stop_skips_no_numbers_and_waits_for_nobody_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(config(folder.path())).await.unwrap();
    let client = connect(&node).await;
    value(&client, "create sequence s").await;
    for n in ["1", "2", "3"] {
        assert_eq!(value(&client, "select nextval('s')").await, n);
    }
    // One in the middle of a transaction, one that says nothing, one that computes.
    value(&client, "begin; create table t (id int)").await;
    let silent = TcpStream::connect(node.sql_address()).await.unwrap();
    let half = TcpStream::connect(node.http_address()).await.unwrap();
    let busy = connect(&node).await;
    let computing = tokio::spawn(async move {
        value(&busy, "select count(*) from generate_series(1, 1000000) a, generate_series(1, 1000000) b").await
    });
    let begun = tokio::time::Instant::now();
    node.stop().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20), "stopping took {:?}", begun.elapsed());
    assert_ne!(computing.await.unwrap(), "1000000000000");
    drop((silent, half));
    let node = Node::start(config(folder.path())).await.unwrap();
    let client = connect(&node).await;
    assert_eq!(value(&client, "select nextval('s')").await, "4");
    assert_eq!(value(&client, "select * from t").await, "42P01");
    node.stop().await.unwrap();
}
