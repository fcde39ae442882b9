//! Load on a cluster while faults happen, and the reckoning after.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::cluster::Cluster;
use super::{answer, connect};

/// Writers that run while faults happen, and what they were told.
pub struct Load {
    stop: Arc<AtomicBool>,
    told: Arc<Mutex<Told>>,
    writers: Vec<tokio::task::JoinHandle<()>>,
}

/// What the writers were told.
#[derive(Default)]
struct Told {
    /// Rows that are there
    acknowledged: BTreeSet<i64>,
    /// Rows that may be there
    unknown: BTreeSet<i64>,
    /// The longest time between two acknowledgements
    longest_gap: Duration,
    last: Option<Instant>,
    /// Errors, by SQLSTATE
    errors: BTreeMap<String, usize>,
    /// How long each acknowledged transaction took, since the watch began
    latencies: Vec<Duration>,
    /// How often a client failed one after the other, at most, since the watch began
    most_failures: usize,
}

impl Told {
    fn acknowledge(&mut self, id: i64, took: Duration) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        self.acknowledged.insert(id);
        self.latencies.push(took);
    }
}

const TABLES: &str = "
    CREATE TABLE entries (id bigint PRIMARY KEY, writer int NOT NULL);
    CREATE TABLE totals (writer int PRIMARY KEY, entries bigint NOT NULL);";

impl Load {
    /// Starts writers, spread over the nodes at `urls`; each goes on to the next
    /// node when its own does not answer. Every transaction writes two tables.
    pub async fn start(urls: Vec<String>, writers: i32) -> Load {
        let client = connect(&urls[0]).await.unwrap();
        client.batch_execute(TABLES).await.unwrap();
        for writer in 0..writers {
            client.execute("INSERT INTO totals VALUES ($1, 0)", &[&writer]).await.unwrap();
        }
        let (stop, told) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Told::default())));
        let next = Arc::new(AtomicI64::new(1));
        let spawn = |writer: i32| {
            let (stop, told, next, urls) = (stop.clone(), told.clone(), next.clone(), urls.clone());
            tokio::spawn(write(writer, urls, stop, told, next))
        };
        let writers = (0..writers).map(spawn).collect();
        Load { stop, told, writers }
    }

    /// Waits until so many more rows are acknowledged.
    pub async fn more(&self, rows: usize) {
        let goal = self.told.lock().acknowledged.len() + rows;
        let begun = Instant::now();
        while self.told.lock().acknowledged.len() < goal {
            assert!(begun.elapsed() < Duration::from_secs(60), "writes do not go on: {:?}", self.told.lock().errors);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Forgets the longest gap so far; the next begins now.
    pub fn watch(&self) {
        let mut told = self.told.lock();
        (told.longest_gap, told.last) = (Duration::ZERO, Some(Instant::now()));
        told.latencies.clear();
        told.most_failures = 0;
    }

    /// How long transactions took since [`Load::watch`], in words.
    pub fn latencies(&self) -> String {
        let mut all = self.told.lock().latencies.clone();
        all.sort();
        let at = |part: usize| all.get(all.len() * part / 1000).copied().unwrap_or_default();
        format!("{} transactions, p50 {:?}, p99 {:?}, longest {:?}", all.len(), at(500), at(990), at(999))
    }

    /// How often one client failed in a row at most, since [`Load::watch`].
    pub fn most_failures(&self) -> usize {
        self.told.lock().most_failures
    }

    pub fn gap(&self) -> Duration {
        self.told.lock().longest_gap
    }

    /// Ends the writers and checks every node that is up.
    pub async fn check(self, cluster: &Cluster) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
        let told = std::mem::take(&mut *self.told.lock());
        for at in cluster.up() {
            let client = cluster.node(at).connect().await;
            let rows = client.query("SELECT id FROM entries", &[]).await.unwrap();
            let there: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
            let lost: Vec<_> = told.acknowledged.difference(&there).collect();
            assert!(lost.is_empty(), "node {}: acknowledged and lost: {lost:?}", at + 1);
            let invented = there.iter().filter(|id| !told.acknowledged.contains(id) && !told.unknown.contains(id));
            assert_eq!(invented.count(), 0, "node {}: rows nobody wrote", at + 1);
            let agree = "SELECT (SELECT sum(entries) FROM totals) = (SELECT count(*) FROM entries)";
            assert_eq!(answer(&client, agree).await, "(t)", "node {}: half a transaction", at + 1);
        }
        let compared = cluster.admin(&["node", "compare"]).expect("all nodes hold the same");
        assert!(compared.contains("all hold the same"), "{compared}");
        println!(
            "{} acknowledged, {} of unknown fate, errors met: {:?}",
            told.acknowledged.len(),
            told.unknown.len(),
            told.errors
        );
    }
}

async fn write(writer: i32, urls: Vec<String>, stop: Arc<AtomicBool>, told: Arc<Mutex<Told>>, next: Arc<AtomicI64>) {
    let mut at = writer as usize % urls.len();
    let mut client: Option<Client> = None;
    let mut failures = 0;
    while !stop.load(Ordering::Relaxed) {
        let Some(connected) = &client else {
            let connecting = tokio::time::timeout(Duration::from_secs(3), connect(&urls[at])).await;
            client = connecting.ok().and_then(Result::ok);
            if client.is_none() {
                at = (at + 1) % urls.len();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            continue;
        };
        let id = next.fetch_add(1, Ordering::Relaxed);
        let sql = format!(
            "BEGIN; INSERT INTO entries VALUES ({id}, {writer}); \
             UPDATE totals SET entries = entries + 1 WHERE writer = {writer}; COMMIT"
        );
        let begun = Instant::now();
        let outcome = tokio::time::timeout(Duration::from_secs(10), connected.batch_execute(&sql)).await;
        failures = if matches!(outcome, Ok(Ok(()))) { 0 } else { failures + 1 };
        {
            let mut told = told.lock();
            told.most_failures = told.most_failures.max(failures);
        }
        match outcome {
            Ok(Ok(())) => told.lock().acknowledge(id, begun.elapsed()),
            Ok(Err(error)) => {
                let code = error.code().map_or("connection", |code| code.code()).to_owned();
                let mut told = told.lock();
                // Everything but a plain refusal may have happened.
                if !["40001", "PL001", "40P01", "57P03"].contains(&code.as_str()) {
                    told.unknown.insert(id);
                }
                *told.errors.entry(code).or_default() += 1;
                drop(told);
                client = None;
                at = (at + 1) % urls.len();
            }
            Err(_) => {
                told.lock().unknown.insert(id);
                *told.lock().errors.entry("timeout".to_owned()).or_default() += 1;
                client = None;
                at = (at + 1) % urls.len();
            }
        }
    }
}
