//! `polity check`: verifies a running cluster from outside.
//!
//! Clients run transactions on tables of their own and write down what they saw;
//! the checkers of `polity-check` judge that. Break the cluster meanwhile: what
//! was acknowledged must still be true. docs/checking.md says more.

mod drive;
mod report;
mod wire;

use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use polity_check::Level;
use polity_check::workload::{Isolation, Workload};

use crate::shell::tls::Connector;
use drive::Cluster;
use report::{Part, Report};

/// Exit code: an anomaly was found that the level forbids.
const FOUND: u8 = 1;
/// Exit code: nothing could be said.
const COULD_NOT_RUN: u8 = 2;

/// Arguments of `polity check`.
#[derive(Args)]
pub struct Arguments {
    /// The cluster's nodes: postgresql://user:password@host:port/database. Clients
    /// are spread over them
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,
    /// What the clients do
    #[arg(long, value_enum, default_value = "all")]
    workload: WorkloadArgument,
    /// How long they do it, all workloads together
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// How many at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1000))]
    clients: u64,
    /// At which isolation they run
    #[arg(long, value_enum, default_value = "serializable")]
    isolation: IsolationArgument,
    /// By which promise they are judged. Usually that of the isolation:
    /// strict-serializable for serializable, snapshot for repeatable-read
    #[arg(long, value_enum, value_name = "LEVEL")]
    expect: Option<LevelArgument>,
    /// Chooses the operations; the same seed, the same operations of each client
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    /// Write what the clients saw to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// The certificate authority of the nodes, PEM; without it any certificate is
    /// accepted, as with libpq's sslmode=require
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WorkloadArgument {
    /// Transactions on lists: dependency cycles
    Append,
    /// Single rows: linearizability
    Register,
    /// Transfers: the total stays
    Bank,
    /// Sequences: no number twice
    Sequence,
    /// Inserted rows stay, once
    Set,
    /// Unique and foreign keys
    Keys,
    /// Columns and indexes that come and go
    Schema,
    /// An eventual table's counters: nothing is oversold or lost, sessions see what they saw
    Stock,
    /// An eventual table's sets and plain columns: nothing is lost or comes back
    Carts,
    /// Those on strong tables, one after the other
    All,
    /// Those on eventual tables
    Eventual,
}

#[derive(Clone, Copy, ValueEnum)]
enum IsolationArgument {
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

#[derive(Clone, Copy, ValueEnum)]
enum LevelArgument {
    ReadCommitted,
    Snapshot,
    Serializable,
    StrictSerializable,
}

impl Arguments {
    fn workloads(&self) -> Vec<Workload> {
        match self.workload {
            WorkloadArgument::Append => vec![Workload::Append],
            WorkloadArgument::Register => vec![Workload::Register],
            WorkloadArgument::Bank => vec![Workload::Bank],
            WorkloadArgument::Sequence => vec![Workload::Sequence],
            WorkloadArgument::Set => vec![Workload::Set],
            WorkloadArgument::Keys => vec![Workload::Keys],
            WorkloadArgument::Schema => vec![Workload::Schema],
            WorkloadArgument::Stock => vec![Workload::Stock],
            WorkloadArgument::Carts => vec![Workload::Carts],
            WorkloadArgument::All => Workload::STRONG.to_vec(),
            WorkloadArgument::Eventual => Workload::EVENTUAL.to_vec(),
        }
    }

    /// The isolation to run at, and the level to judge by.
    fn levels(&self) -> (Isolation, Level) {
        let (isolation, usual) = match self.isolation {
            IsolationArgument::ReadCommitted => (Isolation::ReadCommitted, Level::ReadCommitted),
            IsolationArgument::RepeatableRead => (Isolation::RepeatableRead, Level::Snapshot),
            IsolationArgument::Serializable => (Isolation::Serializable, Level::StrictSerializable),
        };
        let level = match self.expect {
            None => usual,
            Some(LevelArgument::ReadCommitted) => Level::ReadCommitted,
            Some(LevelArgument::Snapshot) => Level::Snapshot,
            Some(LevelArgument::Serializable) => Level::Serializable,
            Some(LevelArgument::StrictSerializable) => Level::StrictSerializable,
        };
        (isolation, level)
    }
}

/// Runs the check. The exit code tells: 0 clean, 1 an anomaly, 2 could not run.
pub fn run(arguments: Arguments) -> ExitCode {
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(check(&arguments)));
    match outcome {
        Ok(report) => {
            if arguments.json {
                println!("{}", report.json());
            } else {
                print!("{}", report.text());
            }
            if report.is_broken() {
                ExitCode::from(FOUND)
            } else if report.is_conclusive() {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(COULD_NOT_RUN)
            }
        }
        Err(why) => {
            eprintln!("polity check: {why}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

async fn check(arguments: &Arguments) -> Result<Report, String> {
    let (isolation, level) = arguments.levels();
    let seed = arguments.seed.unwrap_or_else(any_number);
    let nodes: Result<Vec<_>, _> =
        arguments.urls.iter().map(|url| url.parse().map_err(|error| format!("{url}: {error}"))).collect();
    let tls = match &arguments.ca {
        Some(file) => Connector::new(file).map_err(|error| error.to_string())?,
        None => Connector::trusting_anyone().map_err(|error| error.to_string())?,
    };
    let cluster = Arc::new(Cluster { nodes: nodes?, tls, isolation, started: tokio::time::Instant::now() });
    let file = match &arguments.history {
        Some(path) => Some(std::fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?),
        None => None,
    };
    let workloads = arguments.workloads();
    let seconds = (arguments.seconds / workloads.len() as u64).max(1);
    // Others may check the same cluster at the same time, with the same seed.
    let prefix = format!("polity_check_{:012x}", any_number() >> 16);
    let mut report = Report { seed, isolation, level, nodes: cluster.nodes.len(), parts: Vec::new() };
    for workload in workloads {
        let file = file.as_ref().map(std::fs::File::try_clone).transpose().map_err(|error| error.to_string())?;
        let ready = drive::set_up(&cluster, workload, &prefix).await;
        let run = match &ready {
            Ok(()) => drive::run(cluster.clone(), workload, &prefix, arguments.clients, seconds, seed, file)
                .await
                .map_err(|error| format!("--history: {error}")),
            Err(why) => Err(why.clone()),
        };
        let left = drive::clean_up(&cluster, workload, &prefix).await;
        let mut run = run?;
        run.troubles.extend(left);
        let findings = polity_check::check(&run.history);
        report.parts.push(Part { workload, run, findings });
    }
    Ok(report)
}

/// Different every time: the standard library seeds its hashers from the system.
fn any_number() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
