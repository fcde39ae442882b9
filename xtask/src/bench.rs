//! `cargo xtask bench`: Polity and PostgreSQL side by side, in one run.
//!
//! Both run on this machine with their default settings, fsync on. Every figure
//! is the median of several rounds in which the two take turns, so that a machine
//! whose speed drifts is fair to both. Needs PostgreSQL's server and clients; the
//! analytic part needs `tpchgen-cli` (PyPI), and is skipped with a word without.

// A benchmark is no node: it reads the clock itself.
#![allow(clippy::disallowed_methods)]

mod analytics;
mod bft_smart;
mod cluster;
mod eventual;
mod ledger;
mod pgbench;
mod report;
mod servers;
mod systems;

use std::path::PathBuf;

use report::Report;
use servers::Servers;

const USAGE: &str = "\
usage: cargo xtask bench [--seconds N] [--rounds N] [--scale N] [--only PART] [--write FILE]
  --seconds N   length of one pgbench run (5)
  --rounds N    rounds each figure is the median of (3)
  --scale N     pgbench's scale (10)
  --only PART   one part only: pgbench, copy or analytics; cluster, eventual and ledger run
                only when they are asked for
  --write FILE  also write the tables to a Markdown file";

/// What to run.
struct Options {
    seconds: u32,
    rounds: usize,
    scale: u32,
    only: Option<String>,
    write: Option<PathBuf>,
}

/// Runs the benchmark.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let Some(options) = parse(arguments)? else {
        println!("{USAGE}");
        return Ok(());
    };
    let folder = std::env::temp_dir().join(format!("polity-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let result = measure(&options, &folder);
    let _ = std::fs::remove_dir_all(&folder);
    result
}

/// A part that starts its own servers, and gives what it measured as text.
type Part = fn(&Options, &std::path::Path) -> Result<String, String>;

fn measure(options: &Options, folder: &std::path::Path) -> Result<(), String> {
    let alone: Option<Part> = match options.only.as_deref() {
        Some("cluster") => Some(cluster::run),
        Some("eventual") => Some(eventual::run),
        Some("ledger") => Some(ledger::run),
        _ => None,
    };
    if let Some(run) = alone {
        let text = run(options, folder)?;
        println!("{text}");
        if let Some(file) = &options.write {
            std::fs::write(file, text).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        return Ok(());
    }
    let servers = Servers::start(folder)?;
    let mut report = Report::default();
    let wanted = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    if wanted("pgbench") {
        pgbench::run(&servers, options, &mut report)?;
    }
    if wanted("copy") {
        pgbench::copy(&servers, options, folder, &mut report)?;
    }
    if wanted("analytics") {
        analytics::run(&servers, options, folder, &mut report)?;
    }
    report.print();
    if let Some(file) = &options.write {
        std::fs::write(file, report.markdown()).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Option<Options>, String> {
    let mut options = Options { seconds: 5, rounds: 3, scale: 10, only: None, write: None };
    let mut rest = arguments.iter();
    while let Some(flag) = rest.next() {
        if flag == "--help" {
            return Ok(None);
        }
        let value = rest.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))?;
        let number = || {
            value.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(|| format!("{flag} {value}: not a number above 0"))
        };
        match flag.as_str() {
            "--seconds" => options.seconds = number()?,
            "--rounds" => options.rounds = number()? as usize,
            "--scale" => options.scale = number()?,
            "--only" if ["pgbench", "copy", "analytics", "cluster", "eventual", "ledger"].contains(&value.as_str()) => {
                options.only = Some(value.clone())
            }
            "--write" => options.write = Some(PathBuf::from(value)),
            _ => return Err(format!("{flag} {value}: unknown\n{USAGE}")),
        }
    }
    Ok(Some(options))
}
