//! Whole nodes, from their doors.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::{Client, NoTls};

use crate::{KeySource, Node, NodeConfig, Security};

fn config(data: &Path) -> NodeConfig {
    let mut config = NodeConfig::new(data.to_owned(), Security::Development);
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
