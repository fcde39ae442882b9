//! Eventual tables: single-row upserts and counter increments on one of three nodes,
//! beside Redis and PostgreSQL; whether a cut costs anything; how long a write takes to be
//! everywhere; what finding and mending differences costs, and what a row carries.
//!
//! Redis syncs its log before it answers and has one replica, which it does not wait for;
//! PostgreSQL is alone. Neither is told SQL that the other is not: Redis is told none.
//! Needs `redis-server` and PostgreSQL's server, and `protoc` to build the load program.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::Options;
use super::report::median;
use super::servers::output;
use super::systems::{
    Figures, HEADER, System, build_load, one, parse, start_lone_postgres, start_polity, start_redis, table,
};

const CLIENTS: [u32; 3] = [1, 16, 64];
/// Clients while the others are cut off, and beside the writes that are watched.
const CUT_CLIENTS: [u32; 2] = [1, 16];
const BESIDE: u32 = 16;

/// Runs the comparison; gives its tables in Markdown.
pub fn run(options: &Options, folder: &Path) -> Result<String, String> {
    let root = super::servers::root()?;
    let load = build_load(&root)?;
    let polity = super::servers::build(&root)?;
    let mut text = String::new();
    for (title, operation) in [("Single-row upserts", "put"), ("Counter increments", "add")] {
        let systems = [
            start_eventual(&polity, &folder.join(format!("polity-{operation}")))?,
            start_redis(&folder.join(format!("redis-{operation}")))?,
            start_lone_postgres(&root, &folder.join(format!("postgres-{operation}")))?,
        ];
        text.push_str(&format!("\n### {title}\n\n{HEADER}"));
        text.push_str(&table(&load, &systems, operation, &CLIENTS, options)?);
    }
    text.push_str(&cut_off(&load, &polity, &folder.join("cut"), options)?);
    text.push_str(&everywhere(&load, &polity, &folder.join("everywhere"), options)?);
    text.push_str(&reconciliation(&root)?);
    Ok(text)
}

/// Three nodes whose first one is asked.
fn start_eventual(program: &Path, folder: &Path) -> Result<System, String> {
    let mut system = start_polity(program, folder)?;
    system.kind = "eventual";
    system.endpoints.truncate(1);
    Ok(system)
}

/// Upserts on a node among others, and cut off from all of them, by turns.
fn cut_off(load: &Path, polity: &Path, folder: &Path, options: &Options) -> Result<String, String> {
    let system = start_eventual(polity, folder)?;
    let fault = |arguments: &[&str]| {
        output(Command::new(polity).arg("fault").args(arguments).args(&system.administrator), "polity fault")
    };
    let mut text = "\n### Upserts on a node that is cut off from all others\n\n\
                    | clients | | operations/s | p50 ms | p99 ms |\n|---:|---|---:|---:|---:|\n"
        .to_owned();
    for clients in CUT_CLIENTS {
        let mut figures: [Vec<Figures>; 2] = Default::default();
        for _ in 0..options.rounds {
            figures[0].push(one(load, &system, "put", clients, options.seconds)?);
            fault(&["isolate", "1"])?;
            figures[1].push(one(load, &system, "put", clients, options.seconds)?);
            fault(&["heal"])?;
        }
        for (name, figures) in ["among others", "cut off"].iter().zip(&figures) {
            let of = |field: fn(&Figures) -> f64| median(figures.iter().map(field).collect());
            let line = format!(
                "| {clients} | {name} | {:.0} | {:.2} | {:.2} |\n",
                of(|f| f.rate),
                of(|f| f.p50),
                of(|f| f.p99)
            );
            print!("{line}");
            text.push_str(&line);
        }
    }
    Ok(text)
}

/// From sending a write until every node shows it.
fn everywhere(load: &Path, polity: &Path, folder: &Path, options: &Options) -> Result<String, String> {
    let mut system = start_polity(polity, folder)?;
    system.kind = "eventual";
    let mut text = "\n### From sending a write to one node until all three show it\n\n\
                    | beside it | p50 ms | p99 ms |\n|---|---:|---:|\n"
        .to_owned();
    for clients in [0, BESIDE] {
        let mut figures = Vec::new();
        for _ in 0..options.rounds {
            let beside = match clients {
                0 => None,
                _ => Some(Beside::start(load, &system, clients, options.seconds + 2)?),
            };
            figures.push(one(load, &system, "visible", 1, options.seconds)?);
            if let Some(beside) = beside {
                beside.end()?;
            }
        }
        let of = |field: fn(&Figures) -> f64| median(figures.iter().map(field).collect());
        let name = if clients == 0 { "nothing".to_owned() } else { format!("{clients} clients that upsert") };
        let line = format!("| {name} | {:.2} | {:.2} |\n", of(|f| f.p50), of(|f| f.p99));
        print!("{line}");
        text.push_str(&line);
    }
    Ok(text)
}

/// Load beside what is measured.
struct Beside(Child);

impl Beside {
    fn start(load: &Path, system: &System, clients: u32, seconds: u32) -> Result<Beside, String> {
        let mut command = Command::new(load);
        command.args([system.kind, "put", &clients.to_string(), &seconds.to_string(), &system.endpoints[0]]);
        Ok(Beside(command.stdout(Stdio::piped()).spawn().map_err(|e| e.to_string())?))
    }

    fn end(self) -> Result<(), String> {
        let said = self.0.wait_with_output().map_err(|e| e.to_string())?;
        parse(&String::from_utf8_lossy(&said.stdout)).map(|_| ())
    }
}

/// Two replicas in one process, without SQL: what the protocol costs, and what a row
/// carries.
fn reconciliation(root: &Path) -> Result<String, String> {
    let mut command = Command::new("cargo");
    command.args(["bench", "--package", "polity-crdt", "--bench", "reconcile"]).current_dir(root);
    let said = output(command.stderr(Stdio::inherit()), "cargo bench")?;
    print!("{said}");
    Ok(format!("\n### Finding and mending differences, and what a row carries\n\n```text\n{}\n```\n", said.trim()))
}
