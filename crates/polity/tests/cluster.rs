//! Clusters of real processes: leaders that are killed, cut off or paused, nodes
//! that come back, lose their folder or are replaced. After each, everything that
//! was acknowledged is there once, on every node.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use common::cluster::Cluster;
use common::{answer, connect};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_postgres::Client;

/// Writers that run while faults happen, and what they were told.
struct Load {
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
    errors: std::collections::BTreeMap<String, usize>,
}

impl Told {
    fn acknowledge(&mut self, id: i64) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        self.acknowledged.insert(id);
    }
}

const TABLES: &str = "
    CREATE TABLE entries (id bigint PRIMARY KEY, writer int NOT NULL);
    CREATE TABLE totals (writer int PRIMARY KEY, entries bigint NOT NULL);";

impl Load {
    /// Starts writers, spread over the nodes at `urls`; each goes on to the next
    /// node when its own does not answer. Every transaction writes two tables.
    async fn start(urls: Vec<String>, writers: i32) -> Load {
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
    async fn more(&self, rows: usize) {
        let goal = self.told.lock().acknowledged.len() + rows;
        let begun = Instant::now();
        while self.told.lock().acknowledged.len() < goal {
            assert!(begun.elapsed() < Duration::from_secs(60), "writes do not go on: {:?}", self.told.lock().errors);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Forgets the longest gap so far; the next begins now.
    fn watch(&self) {
        let mut told = self.told.lock();
        (told.longest_gap, told.last) = (Duration::ZERO, Some(Instant::now()));
    }

    fn gap(&self) -> Duration {
        self.told.lock().longest_gap
    }

    /// Ends the writers and checks every node that is up.
    async fn check(self, cluster: &Cluster) {
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
        match tokio::time::timeout(Duration::from_secs(10), connected.batch_execute(&sql)).await {
            Ok(Ok(())) => told.lock().acknowledge(id),
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

fn urls(cluster: &Cluster) -> Vec<String> {
    cluster.up().into_iter().map(|at| cluster.node(at).url.clone()).collect()
}

/// How long writes may stand still when a leader is lost: far more than they do
/// on a quiet machine, which the benchmark measures.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_when_the_leader_is_killed_and_nothing_is_lost() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(urls(&cluster), 6).await;
    load.more(100).await;
    for round in 0..3 {
        let leader = cluster.leader();
        load.watch();
        cluster.kill(leader);
        load.more(100).await;
        println!("round {round}: no write for {:?} after the leader, node {}, was killed", load.gap(), leader + 1);
        assert!(load.gap() < PATIENCE);
        cluster.restart(leader);
        load.more(100).await;
    }
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_that_is_cut_off_refuses_and_says_why_and_goes_on_after_healing() {
    let cluster = Cluster::start(&["europe", "europe", "asia"]);
    let load = Load::start(urls(&cluster)[..2].to_vec(), 4).await;
    load.more(50).await;
    let asia = cluster.node(2).connect().await;
    assert_eq!(answer(&asia, "INSERT INTO entries VALUES (-1, -1) RETURNING id").await, "(-1)");
    assert_eq!(answer(&asia, "DELETE FROM entries WHERE id = -1").await, "ok 1");

    cluster.admin(&["fault", "cut", "asia", "europe"]).unwrap();
    let begun = Instant::now();
    let refused = asia.batch_execute("INSERT INTO entries VALUES (-2, -2)").await.unwrap_err();
    let took = begun.elapsed();
    let error = refused.as_db_error().expect("an answer");
    assert_eq!(error.code().code(), "PL001", "{error:?}");
    assert!(error.message().contains("entries"), "{error:?}");
    assert!(error.detail().is_some_and(|d| d.contains("Node 1") && d.contains("since")), "{error:?}");
    assert!(error.hint().is_some(), "{error:?}");
    assert!(took < Duration::from_secs(10), "it took {took:?} to refuse");
    println!("refused after {took:?}: {} / {:?} / {:?}", error.message(), error.detail(), error.hint());
    // The others do not notice for longer than it takes to elect a leader.
    load.more(200).await;
    // What was known before the cut can be read by name.
    let stale = "SELECT count(*) >= 50 FROM entries AS OF SYSTEM TIME follower_read_timestamp()";
    assert_eq!(answer(&asia, stale).await, "(t)");

    cluster.admin(&["fault", "heal"]).unwrap();
    let begun = Instant::now();
    loop {
        match answer(&asia, "INSERT INTO entries VALUES (-3, -3)").await.as_str() {
            "ok 1" => break,
            "PL001" => assert!(begun.elapsed() < Duration::from_secs(30), "asia does not come back"),
            other => panic!("{other}"),
        }
    }
    println!("asia writes again {:?} after healing", begun.elapsed());
    // The refused row is not there, the others are there once.
    assert_eq!(answer(&asia, "SELECT id FROM entries WHERE id < 0").await, "(-3)");
    assert_eq!(answer(&asia, "DELETE FROM entries WHERE id < 0").await, "ok 1");
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_is_replaced_and_does_no_harm_when_it_goes_on() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(urls(&cluster), 6).await;
    load.more(100).await;
    let leader = cluster.leader();
    load.watch();
    cluster.admin(&["fault", "pause", &(leader + 1).to_string(), "6s"]).unwrap();
    load.more(300).await;
    println!("no write for {:?} after the leader stood still", load.gap());
    // It goes on by itself, believing that it leads.
    cluster.wait_for(|nodes| nodes.iter().all(|n| n["reachable"] == true));
    load.more(300).await;
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(urls(&cluster), 6).await;
    load.more(100).await;
    for at in 0..3 {
        load.watch();
        cluster.nodes[at].take().expect("it is up").stop();
        load.more(50).await;
        cluster.restart(at);
        load.more(50).await;
        println!("node {}: longest time without a write {:?}", at + 1, load.gap());
    }
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_folder_is_replaced_by_a_new_one() {
    let mut cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(urls(&cluster), 4).await;
    load.more(200).await;
    let lost = (cluster.leader() + 1) % 3;
    cluster.kill(lost);
    std::fs::remove_dir_all(cluster.data(lost as u64 + 1)).unwrap();
    load.more(100).await;

    let number = (lost + 1).to_string();
    cluster.admin(&["node", "remove", &number]).unwrap();
    cluster.add(lost, 4);
    let list = cluster
        .wait_for(|nodes| nodes.len() == 3 && nodes.iter().all(|n| n["role"] != "learner" && n["reachable"] == true));
    assert!(list.iter().any(|n| n["id"] == 4));
    load.more(100).await;
    load.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_hands_leadership_and_vote_on() {
    let cluster = Cluster::start(&["a", "b", "c"]);
    let load = Load::start(urls(&cluster), 4).await;
    load.more(100).await;
    let leader = cluster.leader();
    let said = cluster.admin(&["node", "drain", &(leader + 1).to_string()]).unwrap();
    // Of three, none can take its vote.
    assert!(said.contains("keeps its vote"), "{said}");
    assert_ne!(cluster.leader(), leader);
    load.more(100).await;
    load.check(&cluster).await;
}
