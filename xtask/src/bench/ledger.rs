//! Byzantine tables through SQL: four nodes, all of them validators, whose sessions insert
//! rows and add to one balance; the same on strong tables of the same nodes; what a
//! transaction takes on the disk; what a proof takes; and BFT-SMaRt, if it is there
//! ([`bft_smart`]).
//!
//! A byzantine transaction is final when it is answered: it is in a block that more than
//! two thirds of the power signed, and applied at the node that was asked.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Options;
use super::bft_smart::{self, Peer};
use super::report::median;
use super::servers::output;
use super::systems::{Figures, System, build_load, one, start_nodes};

const NODES: usize = 4;
/// Transactions in flight, spread over the sessions of all nodes.
const IN_FLIGHT: [u32; 3] = [1, 64, 1024];
const HOT: u32 = 64;
/// Bytes of a row that is inserted, and of a request to the peer.
const BYTES: usize = 200;
const PROOFS: usize = 20;
/// After so long without writes, what nodes write in the background is on the disk.
const SETTLING: Duration = Duration::from_secs(3);

const HEADER: &str = "| operation | in flight | system | transactions/s | p50 ms | p99 ms | server CPU µs each |\n\
                      |---|---:|---|---:|---:|---:|---:|\n";

/// Runs the comparison; gives its tables in Markdown.
pub fn run(options: &Options, folder: &Path) -> Result<String, String> {
    let root = super::servers::root()?;
    let load = build_load(&root)?;
    let polity = super::servers::build(&root)?;
    let mut text = format!("\n### Byzantine tables, strong tables, and a peer\n\n{HEADER}");
    let nodes = folder.join("polity");
    let mut system = start_nodes(&polity, &nodes, NODES)?;
    for kind in ["byzantine", "postgres"] {
        // Tables, plans and files are there before anything is measured.
        system.kind = kind;
        one(&load, &system, "insert", HOT, 1)?;
        one(&load, &system, "hot", HOT, 1)?;
    }
    for in_flight in IN_FLIGHT {
        text.push_str(&rounds(&load, &mut system, "insert", in_flight, options)?);
    }
    text.push_str(&rounds(&load, &mut system, "hot", HOT, options)?);
    let disk = on_disk(&load, &mut system, &nodes, options)?;
    let proofs = proofs(&polity, &system, folder)?;
    drop(system);
    text.push_str(&peer(&root, &folder.join("bft-smart"), options)?);
    text.push_str(&disk);
    text.push_str(&proofs);
    text.push_str(&alone(&root)?);
    Ok(text)
}

/// Byzantine and strong tables by turns; the rows of both.
fn rounds(
    load: &Path,
    system: &mut System,
    operation: &str,
    in_flight: u32,
    options: &Options,
) -> Result<String, String> {
    const GUARANTEES: [(&str, &str); 2] = [("byzantine", "byzantine table"), ("postgres", "strong table")];
    let mut figures: [Vec<Figures>; 2] = Default::default();
    for _ in 0..options.rounds {
        for ((kind, name), figures) in GUARANTEES.iter().zip(&mut figures) {
            system.kind = kind;
            let figure = one(load, system, operation, in_flight, options.seconds)?;
            print!("{}", row(operation, in_flight, name, &[figure]));
            figures.push(figure);
        }
    }
    let rows = GUARANTEES.iter().zip(&figures).map(|((_, name), figures)| row(operation, in_flight, name, figures));
    Ok(rows.collect())
}

/// A row under [`HEADER`].
fn row(operation: &str, in_flight: u32, system: &str, figures: &[Figures]) -> String {
    let of = |field: fn(&Figures) -> f64| median(figures.iter().map(field).collect());
    let (rate, p50, p99, cpu) = (of(|f| f.rate), of(|f| f.p50), of(|f| f.p99), of(|f| f.cpu));
    let operation = if operation == "hot" { "one balance + 1" } else { "a row of 200 bytes" };
    format!("| {operation} | {in_flight} | {system} | {rate:.0} | {p50:.1} | {p99:.1} | {cpu:.0} |\n")
}

/// The peer's rows, or why there are none.
fn peer(root: &Path, folder: &Path, options: &Options) -> Result<String, String> {
    let Some(place) = bft_smart::place() else {
        let why =
            format!("BFT-SMaRt was not measured: {} does not name its sources (see bench/bft-smart)", bft_smart::PLACE);
        println!("{why}");
        return Ok(format!("\n{why}.\n"));
    };
    let mut text = String::new();
    for (name, signed) in [("BFT-SMaRt", true), ("BFT-SMaRt, requests unsigned", false)] {
        let peer = Peer::start(root, &place, &folder.join(if signed { "signed" } else { "unsigned" }), signed)?;
        for in_flight in IN_FLIGHT {
            let figures = (0..options.rounds).map(|_| {
                let figure = peer.load(in_flight, options.seconds, BYTES)?;
                print!("{}", row("insert", in_flight, name, &[figure]));
                Ok(figure)
            });
            text.push_str(&row("insert", in_flight, name, &figures.collect::<Result<Vec<_>, String>>()?));
        }
    }
    Ok(text)
}

/// How much a node's folder grows by a transaction.
fn on_disk(load: &Path, system: &mut System, nodes: &Path, options: &Options) -> Result<String, String> {
    let mut text = "\n### Bytes on a node's disk for a row of 200 bytes\n\n| table | bytes |\n|---|---:|\n".to_owned();
    for (kind, name) in [("byzantine", "byzantine"), ("postgres", "strong")] {
        system.kind = kind;
        std::thread::sleep(SETTLING);
        let before = bytes_below(nodes)?;
        let figures = one(load, system, "insert", HOT, options.seconds)?;
        std::thread::sleep(SETTLING);
        let count = figures.rate * f64::from(options.seconds) * NODES as f64;
        let line = format!("| {name} | {:.0} |\n", (bytes_below(nodes)? as f64 - before as f64) / count);
        print!("{line}");
        text.push_str(&line);
    }
    Ok(text)
}

/// What the files of a folder take on the disk.
fn bytes_below(folder: &Path) -> Result<u64, String> {
    let said = output(Command::new("du").args(["-s", "-B1"]).arg(folder), "du")?;
    let bytes = said.split_whitespace().next().and_then(|bytes| bytes.parse().ok());
    bytes.ok_or_else(|| format!("du said {said}"))
}

/// The commands of a proof, as a whole: each starts a process, and `get` opens a
/// connection.
fn proofs(polity: &Path, system: &System, folder: &Path) -> Result<String, String> {
    let (genesis, proof) = (folder.join("genesis"), folder.join("proof"));
    let timed = |command: &mut Command| {
        let begun = Instant::now();
        output(command, "polity proof").map(|_| begun.elapsed().as_secs_f64() * 1e3)
    };
    timed(Command::new(polity).args(["ledger", "genesis", "--out"]).arg(&genesis).args(&system.administrator))?;
    let (mut getting, mut verifying) = (Vec::new(), Vec::new());
    for key in 0..PROOFS {
        let mut get = Command::new(polity);
        get.args(["proof", "get", "balances", &key.to_string(), "--out"]).arg(&proof).args(&system.administrator);
        getting.push(timed(&mut get)?);
        verifying.push(timed(Command::new(polity).args(["proof", "verify"]).arg(&proof).arg("--trust").arg(&genesis))?);
    }
    let line = format!(
        "\n### Proofs\n\n`polity proof get` takes {:.1} ms and `verify` {:.1} ms, with the start of the process and, for \
         `get`, two connections.\n",
        median(getting),
        median(verifying)
    );
    print!("{line}");
    Ok(line)
}

/// The ledger without nodes: what its work costs one thread, and the two halves of a proof.
fn alone(root: &Path) -> Result<String, String> {
    let mut command = Command::new("cargo");
    command.args(["bench", "--package", "polity-bft", "--features", "testing", "--bench", "ledger"]).current_dir(root);
    let said = output(command.stderr(Stdio::inherit()), "cargo bench")?;
    print!("{said}");
    Ok(format!("\n### The ledger alone, in one thread\n\n```text\n{}\n```\n", said.trim()))
}
