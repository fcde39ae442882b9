//! Runs clients against a cluster while someone breaks it, and collects what they saw.
//!
//! Every client has a node; when it loses the connection it goes on at the next
//! one. An operation whose outcome is unknown ends its process: the client goes
//! on under a new number, for the old one may still be at work.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use polity_check::history::{Line, write_line};
use polity_check::random::Random;
use polity_check::workload::{Client, Failure, Isolation, Session, Workload};
use polity_check::{History, Outcome};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Config;

use super::wire::Wire;
use crate::shell::tls::Connector;

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(200);
/// How long the reads at the end and the cleanup wait for a node to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where to go, and how.
pub struct Cluster {
    /// One for each node.
    pub nodes: Vec<Config>,
    /// For nodes that ask for TLS.
    pub tls: Connector,
    /// Of all transactions.
    pub isolation: Isolation,
    /// Times in histories count from here.
    pub started: Instant,
}

/// What was asked how often, and with which outcome.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub ok: u64,
    pub failed: u64,
    pub unknown: u64,
}

/// What the clients of one workload share.
struct Shared {
    stop: AtomicBool,
    begun: AtomicU64,
    next_process: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    history: History,
    counts: Counts,
    lost_connections: u64,
    last_error: Option<String>,
    file: Option<std::io::BufWriter<std::fs::File>>,
    file_error: Option<std::io::Error>,
}

/// All that was seen of one workload.
pub struct Run {
    pub history: History,
    pub counts: Counts,
    /// Connections that were lost or not had.
    pub lost_connections: u64,
    /// The last refusal, for those who wonder why nothing went well.
    pub last_error: Option<String>,
    /// What could not be read at the end, or not be cleaned up.
    pub troubles: Vec<String>,
}

impl Cluster {
    async fn connect(&self, at: usize) -> Result<Wire, Failure> {
        Wire::connect(&self.nodes[at % self.nodes.len()], &self.tls, self.isolation.sql(), self.started).await
    }

    /// A session with any node, within [`PATIENCE`].
    async fn connect_anywhere(&self) -> Result<Wire, Failure> {
        let (begun, mut at) = (Instant::now(), 0);
        loop {
            match self.connect(at).await {
                Ok(session) => return Ok(session),
                Err(failure) if begun.elapsed() > PATIENCE => return Err(failure),
                Err(_) => sleep(RETRY).await,
            }
            at += 1;
        }
    }
}

/// Makes a workload's tables.
pub async fn set_up(cluster: &Cluster, workload: Workload, prefix: &str) -> Result<(), String> {
    let mut session = None;
    let mut refusals = Vec::new();
    for at in 0..cluster.nodes.len() {
        match cluster.connect(at).await {
            Ok(connected) => session = Some(connected),
            Err(failure) => refusals.push(failure.to_string()),
        }
    }
    let Some(mut session) = session else { return Err(format!("no node can be reached: {}", refusals.join("; "))) };
    for sql in workload.setup(prefix, 1) {
        session.execute(&sql).await.map_err(|failure| format!("{sql}: {failure}"))?;
    }
    Ok(())
}

/// Takes a workload's tables away; gives what could not be.
pub async fn clean_up(cluster: &Cluster, workload: Workload, prefix: &str) -> Vec<String> {
    let mut troubles = Vec::new();
    for sql in workload.cleanup(prefix) {
        let done = match cluster.connect_anywhere().await {
            Ok(mut session) => session.execute(&sql).await.map(|_| ()),
            Err(failure) => Err(failure),
        };
        troubles.extend(done.err().map(|failure| format!("not cleaned up: {sql}: {failure}")));
    }
    troubles
}

/// Runs one workload on tables that are there.
pub async fn run(
    cluster: Arc<Cluster>,
    workload: Workload,
    prefix: &str,
    clients: u64,
    seconds: u64,
    seed: u64,
    file: Option<std::fs::File>,
) -> std::io::Result<Run> {
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        begun: AtomicU64::new(0),
        next_process: AtomicU64::new(clients),
        seen: Mutex::new(Seen { file: file.map(std::io::BufWriter::new), ..Seen::default() }),
    });
    Client::first(workload).into_iter().for_each(|line| shared.take(line));
    let mut random = Random::new(seed);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..clients {
        let client = Client::new(workload, prefix, cluster.isolation, number, random.number());
        tasks.spawn(work(cluster.clone(), shared.clone(), client, number));
    }
    watch(&shared, workload, seconds).await;
    shared.stop.store(true, Ordering::Relaxed);
    while tasks.join_next().await.is_some() {}
    let last = Client::new(workload, prefix, cluster.isolation, clients, random.number());
    let troubles = read_all(&cluster, &shared, workload, last).await;
    let mut seen = shared.seen();
    if let Some(error) = seen.file_error.take() {
        return Err(error);
    }
    if let Some(file) = &mut seen.file {
        file.flush()?;
    }
    Ok(Run {
        history: std::mem::take(&mut seen.history),
        counts: seen.counts,
        lost_connections: seen.lost_connections,
        last_error: seen.last_error.take(),
        troubles,
    })
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn take(&self, line: Line) {
        let (outcome, error) = outcome_of(&line);
        let mut seen = self.seen();
        match outcome {
            Outcome::Ok => seen.counts.ok += 1,
            Outcome::Failed => seen.counts.failed += 1,
            Outcome::Unknown => seen.counts.unknown += 1,
        }
        seen.last_error = error.or(seen.last_error.take());
        if let Some(file) = &mut seen.file
            && let Err(error) = write_line(file, &line)
        {
            seen.file_error = Some(error);
        }
        seen.history.push(line);
    }

    fn lost(&self, failure: &Failure) {
        let mut seen = self.seen();
        seen.lost_connections += 1;
        seen.last_error = Some(failure.to_string());
    }
}

fn outcome_of(line: &Line) -> (Outcome, Option<String>) {
    match line {
        Line::Append(o) => (o.outcome, o.error.clone()),
        Line::Register(o) => (o.outcome, o.error.clone()),
        Line::Bank(o) => (o.outcome, o.error.clone()),
        Line::Sequence(o) => (o.outcome, o.error.clone()),
        Line::Set(o) => (o.outcome, o.error.clone()),
        Line::Keys(o) => (o.outcome, o.error.clone()),
        Line::Schema(o) => (o.outcome, o.error.clone()),
        Line::Stock(o) => (o.outcome, o.error.clone()),
        Line::Carts(o) => (o.outcome, o.error.clone()),
    }
}

/// One client, from node to node until it is told to stop.
async fn work(cluster: Arc<Cluster>, shared: Arc<Shared>, mut client: Client, number: u64) {
    let (mut at, mut process) = (number as usize, number);
    while !shared.stopped() {
        let mut session = match cluster.connect(at).await {
            Ok(session) => session,
            Err(failure) => {
                shared.lost(&failure);
                at += 1;
                sleep(RETRY).await;
                continue;
            }
        };
        client.moved();
        while !shared.stopped() && !session.is_broken() {
            let age = shared.begun.fetch_add(1, Ordering::Relaxed);
            let line = client.next(&mut session, process, age).await;
            if outcome_of(&line).0 == Outcome::Unknown {
                process = shared.next_process.fetch_add(1, Ordering::Relaxed);
            }
            shared.take(line);
        }
        if session.is_broken() {
            shared.lost(&Failure::Lost("the connection broke".into()));
            at += 1;
        }
    }
}

/// Waits for the end, with a line each second; Ctrl-C ends it early.
async fn watch(shared: &Shared, workload: Workload, seconds: u64) {
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    let mut before = 0;
    for second in 1..=seconds {
        if timeout(Duration::from_secs(1), &mut interrupt).await.is_ok() {
            eprintln!("interrupted: judging what was seen so far");
            return;
        }
        let (counts, lost) = {
            let seen = shared.seen();
            (seen.counts, seen.lost_connections)
        };
        let all = counts.ok + counts.failed + counts.unknown;
        eprintln!(
            "{:<8} {second:>4}/{seconds} s  {:>6} op/s  {} ok, {} failed, {} unknown, {lost} connections lost",
            workload.name(),
            all - before,
            counts.ok,
            counts.failed,
            counts.unknown,
        );
        before = all;
    }
}

/// What each node has seen: all of them together come to what every node must see.
async fn tokens(cluster: &Cluster) -> Vec<String> {
    let mut tokens = Vec::new();
    for at in 0..cluster.nodes.len() {
        let Ok(mut session) = cluster.connect(at).await else { continue };
        let answer = session.execute("SHOW polity.causal_token").await;
        tokens.extend(answer.into_iter().filter_map(|answer| answer.rows.first()?.first()?.clone()));
    }
    tokens
}

/// Reads all there is at every node that answers, after all others have ended.
async fn read_all(cluster: &Cluster, shared: &Shared, workload: Workload, mut client: Client) -> Vec<String> {
    let age = shared.begun.load(Ordering::Relaxed);
    let mut troubles = Vec::new();
    let tokens = if Workload::EVENTUAL.contains(&workload) { tokens(cluster).await } else { Vec::new() };
    for at in 0..cluster.nodes.len() {
        let begun = Instant::now();
        let trouble = loop {
            let attempt = match cluster.connect(at).await {
                Err(failure) => Err(failure.to_string()),
                Ok(mut session) => {
                    let process = shared.next_process.fetch_add(1, Ordering::Relaxed);
                    for token in &tokens {
                        // What the node has not seen yet shows in what is read.
                        let _ = session.execute(&format!("SET polity.causal_token = '{token}'")).await;
                    }
                    let lines = client.last(&mut session, process, age).await;
                    let fault = lines.iter().find_map(|line| outcome_of(line).1);
                    lines.into_iter().for_each(|line| shared.take(line));
                    fault.map_or(Ok(()), Err)
                }
            };
            match attempt {
                Ok(()) => break None,
                Err(why) if begun.elapsed() > PATIENCE => break Some(why),
                Err(_) => sleep(RETRY).await,
            }
        };
        troubles.extend(trouble.map(|why| format!("node {}: not read at the end: {why}", at + 1)));
    }
    troubles
}
