//! Eventual tables on clusters whose nodes are kept apart.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::answer;
use super::cluster::Cluster;

/// How long replicas may take to become equal: far more than they do on a quiet machine.
pub const SECONDS: Duration = Duration::from_secs(20);

/// A client of each node that is up.
pub async fn clients(cluster: &Cluster) -> Vec<Client> {
    let mut clients = Vec::new();
    for at in cluster.up() {
        clients.push(cluster.node(at).connect().await);
    }
    clients
}

/// Waits until every client's node has what the first one's has.
pub async fn spread(clients: &[Client]) {
    let token = token(&clients[0]).await;
    for client in &clients[1..] {
        assert_eq!(answer(client, "SET polity.causal_timeout = '30s'").await, "ok 0");
        assert_eq!(answer(client, &format!("SET polity.causal_token = '{token}'")).await, "ok 0");
    }
}

/// What the client's node has seen.
pub async fn token(client: &Client) -> String {
    let token = answer(client, "SHOW polity.causal_token").await;
    token.trim_matches(['(', ')']).to_owned()
}

/// Waits until a query has this answer on every node; gives how long that took.
pub async fn agree(clients: &[Client], sql: &str, expected: &str) -> Duration {
    let begun = Instant::now();
    for (at, client) in clients.iter().enumerate() {
        loop {
            let said = answer(client, sql).await;
            if said == expected {
                break;
            }
            assert!(begun.elapsed() < SECONDS, "client {at}: {sql}: {said}, not {expected}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    begun.elapsed()
}

/// So many clients of the node at `url` run a statement once each, all at the same time;
/// gives how often each answer was given.
pub async fn at_once(urls: &[String], count: usize, sql: &'static str) -> BTreeMap<String, usize> {
    let mut buyers = Vec::new();
    for at in 0..count {
        let url = urls[at % urls.len()].clone();
        buyers.push(tokio::spawn(async move {
            let client = super::connect(&url).await.expect("the node accepts connections");
            answer(&client, sql).await
        }));
    }
    let mut answers = BTreeMap::new();
    for buyer in buyers {
        *answers.entry(buyer.await.expect("a buyer does not panic")).or_default() += 1;
    }
    answers
}
