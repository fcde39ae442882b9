//! Clients of a simulated cluster: the workloads of [`polity_check`], over sessions.
//!
//! All clients live on one simulated machine that never fails, so that the times in
//! their histories are those of one clock. Each has a node; when it loses the
//! connection it goes on at the next one, under a new number if the outcome of its
//! last operation is unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use polity_check::history::Line;
use polity_check::random::Random;
use polity_check::workload::{Client, Failure, Isolation, Session, Workload};
use polity_check::{History, Outcome};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::door::{Connection, Dialling};
use crate::machine::Machine;
use crate::trace::Trace;

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(100);
/// What the tables' names begin with.
const PREFIX: &str = "sim";

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the clients do
    pub workloads: Vec<Workload>,
    /// How many do each
    pub clients: u64,
    /// At which level
    pub isolation: Isolation,
    /// How many replicas keep what is written to eventual tables before it is
    /// acknowledged
    pub acks: u32,
    /// Where their choices come from
    pub seed: u64,
    /// How long a client rests between two operations, at most
    pub rest: Duration,
}

/// How far the run has come. Clients and the world around them take turns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Nodes come up
    Boot,
    /// Clients make tables
    SetUp,
    /// Clients work, things break
    Work,
    /// Clients end what they do; nothing new breaks
    Drain,
    /// All is well again, and clients read what there is
    Read,
    /// Clients have read
    Over,
}

/// What clients and the world around them share.
pub struct Stage {
    /// The machines, by their places
    pub machines: Mutex<Vec<Arc<Machine>>>,
    /// How far the run has come
    pub phase: watch::Sender<Phase>,
    /// What went wrong with setting up or reading
    pub trouble: Mutex<Option<String>>,
    /// What clients saw
    pub seen: Mutex<Seen>,
    /// Whether all clients have stopped
    pub are_quiet: AtomicBool,
    trace: Trace,
}

/// What clients saw.
#[derive(Default)]
pub struct Seen {
    /// Every operation
    pub history: History,
    /// Operations that took effect,
    pub ok: u64,
    /// that did not,
    pub failed: u64,
    /// and of which nobody knows
    pub unknown: u64,
}

/// What the clients of one workload share.
struct Shared {
    stop: AtomicBool,
    begun: AtomicU64,
    next_process: AtomicU64,
}

impl Stage {
    /// A stage in its first phase.
    pub fn new(machines: Vec<Arc<Machine>>, trace: Trace) -> Stage {
        let phase = watch::Sender::new(Phase::Boot);
        let machines = Mutex::new(machines);
        Stage {
            machines,
            phase,
            trouble: Mutex::default(),
            seen: Mutex::default(),
            are_quiet: AtomicBool::new(false),
            trace,
        }
    }

    /// The machine at a place; after the last comes the first.
    fn machine(&self, place: u64) -> Arc<Machine> {
        let machines = self.machines.lock();
        machines[place as usize % machines.len()].clone()
    }

    /// Waits for a phase.
    async fn reached(&self, phase: Phase) {
        // The sender lives as long as the stage.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    fn take(&self, line: Line) -> Outcome {
        let outcome = outcome_of(&line);
        let mut seen = self.seen.lock();
        match outcome {
            Outcome::Ok => seen.ok += 1,
            Outcome::Failed => seen.failed += 1,
            Outcome::Unknown => seen.unknown += 1,
        }
        seen.history.push(line);
        outcome
    }
}

fn outcome_of(line: &Line) -> Outcome {
    match line {
        Line::Append(o) => o.outcome,
        Line::Register(o) => o.outcome,
        Line::Bank(o) => o.outcome,
        Line::Sequence(o) => o.outcome,
        Line::Set(o) => o.outcome,
        Line::Keys(o) => o.outcome,
        Line::Schema(o) => o.outcome,
        Line::Stock(o) => o.outcome,
        Line::Carts(o) => o.outcome,
    }
}

/// How clients connect.
#[derive(Clone)]
struct Dialler {
    stage: Arc<Stage>,
    started: Instant,
    read: Arc<AtomicU64>,
    isolation: Isolation,
}

impl Dialler {
    async fn connect(&self, at: u64, client: u64, seed: u64) -> Result<Connection, Failure> {
        let machine = self.stage.machine(at);
        let running = machine.running().ok_or_else(|| Failure::Lost("the node is down".to_owned()))?;
        let dialling =
            Dialling { client, started: self.started, read: self.read.clone(), trace: self.stage.trace.clone() };
        let mut connection = Connection::open(&running.door, dialling, seed)?;
        let isolation = self.isolation.sql();
        connection.execute(&format!("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL {isolation}")).await?;
        Ok(connection)
    }
}

/// All clients, from making the tables to reading all that is in them.
pub async fn run(stage: Arc<Stage>, plan: Plan) -> turmoil::Result {
    let dialler =
        Dialler { stage: stage.clone(), started: Instant::now(), read: Arc::default(), isolation: plan.isolation };
    let mut random = Random::new(plan.seed);
    stage.reached(Phase::SetUp).await;
    for workload in &plan.workloads {
        if let Err(why) = set_up(&dialler, *workload, plan.acks, &mut random).await {
            *stage.trouble.lock() = Some(why);
            return std::future::pending().await;
        }
    }
    stage.phase.send_replace(Phase::Work);
    let mut groups = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    for (place, workload) in plan.workloads.iter().enumerate() {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            next_process: AtomicU64::new(plan.clients),
        });
        Client::first(*workload).into_iter().for_each(|line| {
            stage.take(line);
        });
        for number in 0..plan.clients {
            let client = Client::new(*workload, PREFIX, plan.isolation, number, random.number());
            let id = place as u64 * plan.clients + number;
            let (dialler, shared, random) = (dialler.clone(), shared.clone(), random.split());
            tasks.spawn(work(dialler, shared, client, number, id, plan.rest, random));
        }
        groups.push((*workload, shared));
    }
    stage.reached(Phase::Drain).await;
    groups.iter().for_each(|(_, shared)| shared.stop.store(true, Ordering::Relaxed));
    while tasks.join_next().await.is_some() {}
    stage.are_quiet.store(true, Ordering::Relaxed);
    stage.reached(Phase::Read).await;
    for (workload, shared) in groups {
        let client = Client::new(workload, PREFIX, plan.isolation, plan.clients, random.number());
        if let Err(why) = read_all(&dialler, &shared, client, &mut random).await {
            *stage.trouble.lock() = Some(why);
            return std::future::pending().await;
        }
    }
    stage.phase.send_replace(Phase::Over);
    Ok(())
}

/// Makes a workload's tables, while nothing breaks yet.
async fn set_up(dialler: &Dialler, workload: Workload, acks: u32, random: &mut Random) -> Result<(), String> {
    let mut why = String::new();
    for attempt in 0..50 {
        let made = async {
            let mut connection = dialler.connect(attempt, u64::MAX, random.number()).await?;
            for sql in workload.cleanup(PREFIX).into_iter().chain(workload.setup(PREFIX, acks)) {
                connection.execute(&sql).await?;
            }
            Ok::<_, Failure>(())
        };
        match made.await {
            Ok(()) => return Ok(()),
            Err(failure) => why = failure.to_string(),
        }
        sleep(RETRY).await;
    }
    Err(format!("the tables of {} cannot be made: {why}", workload.name()))
}

/// One client, from node to node until it is told to stop.
async fn work(
    dialler: Dialler,
    shared: Arc<Shared>,
    mut client: Client,
    number: u64,
    id: u64,
    rest: Duration,
    mut random: Random,
) {
    let (mut at, mut process) = (number, number);
    let rest = u64::try_from(rest.as_micros()).unwrap_or(u64::MAX);
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok(mut connection) = dialler.connect(at, id, random.number()).await else {
            at += 1;
            sleep(RETRY).await;
            continue;
        };
        client.moved();
        while !shared.stop.load(Ordering::Relaxed) && !connection.is_broken() {
            let age = shared.begun.fetch_add(1, Ordering::Relaxed);
            let line = client.next(&mut connection, process, age).await;
            if dialler.stage.take(line) == Outcome::Unknown {
                process = shared.next_process.fetch_add(1, Ordering::Relaxed);
            }
            sleep(Duration::from_micros(random.below(rest + 1))).await;
            // Who is refused again and again tries another node now and then.
            if random.chance(2) {
                break;
            }
        }
        at += 1;
    }
}

/// Reads all there is at every node.
async fn read_all(dialler: &Dialler, shared: &Shared, mut client: Client, random: &mut Random) -> Result<(), String> {
    let age = shared.begun.load(Ordering::Relaxed);
    let places = dialler.stage.machines.lock().len() as u64;
    for at in 0..places {
        let mut why = String::new();
        let mut read = false;
        for _ in 0..100 {
            match dialler.connect(at, u64::MAX, random.number()).await {
                Ok(mut connection) => {
                    let process = shared.next_process.fetch_add(1, Ordering::Relaxed);
                    let lines = client.last(&mut connection, process, age).await;
                    let outcomes: Vec<_> = lines.into_iter().map(|line| dialler.stage.take(line)).collect();
                    if outcomes.iter().all(|outcome| *outcome == Outcome::Ok) {
                        read = true;
                        break;
                    }
                    why = "a read at the end failed".to_owned();
                }
                Err(failure) => why = failure.to_string(),
            }
            sleep(RETRY).await;
        }
        if !read {
            return Err(format!("node {} cannot be read at the end: {why}", at + 1));
        }
    }
    Ok(())
}
