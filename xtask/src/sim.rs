//! `cargo xtask sim`: simulates whole clusters, one process a seed, on every core.
//!
//! Fresh seeds each time, unless one is named. Each violation comes with the command
//! that replays it with a readable trace.

// Seeds and durations of a run come from outside: this is no node.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

const USAGE: &str = "\
usage: cargo xtask sim [--seeds N] [--minutes M] [--seed S] [--work N] [--trace] [--planted [BUG]] [--jobs N]
  --seeds N        how many seeds (20)
  --minutes M      stop after so many minutes, however many seeds were run
  --seed S         the first seed; fresh ones otherwise
  --work N         how long clients work and things break in each, in simulated seconds (20)
  --trace          print every event (of one seed)
  --planted [BUG]  plant bugs, all or one, and count the seeds until each is caught
  --jobs N         processes at once (as many as there are cores)";

/// Seeds a planted bug may take to be caught.
const MOST_SEEDS: u64 = 200;

struct Options {
    seeds: u64,
    minutes: Option<u64>,
    seed: Option<u64>,
    work: u64,
    trace: bool,
    planted: Option<Option<String>>,
    jobs: usize,
}

/// What all seeds came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    simulated: f64,
    operations: u64,
    unknown: u64,
    undecided: u64,
    faults: BTreeMap<String, u64>,
    violated: Vec<u64>,
    /// Processor minutes that were spent before, on building
    spent: f64,
}

/// Runs the simulation.
pub fn run(arguments: &[String]) -> Result<(), String> {
    let Some(options) = parse(arguments)? else {
        println!("{USAGE}");
        return Ok(());
    };
    let program = build()?;
    match &options.planted {
        Some(bug) => plant(&program, &options, bug.as_deref()),
        None if options.trace => {
            let seed = options.seed.ok_or("--trace needs --seed")?.to_string();
            let work = options.work.to_string();
            super::run(Command::new(program).args(["--seed", &seed, "--work", &work, "--trace"]), "polity-sim")
        }
        None => simulate(&program, &options),
    }
}

fn parse(arguments: &[String]) -> Result<Option<Options>, String> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { seeds: 20, minutes: None, seed: None, work: 20, trace: false, planted: None, jobs };
    let mut rest = arguments.iter().peekable();
    while let Some(flag) = rest.next() {
        match flag.as_str() {
            "--help" => return Ok(None),
            "--trace" => {
                options.trace = true;
                continue;
            }
            "--planted" => {
                options.planted = Some(rest.next_if(|next| !next.starts_with("--")).cloned());
                continue;
            }
            _ => {}
        }
        let value = rest.next().ok_or_else(|| format!("{flag} needs a value\n{USAGE}"))?;
        let number = value.parse::<u64>().map_err(|_| format!("{flag} {value}: not a number"))?;
        match flag.as_str() {
            "--seeds" => options.seeds = number,
            "--minutes" => (options.minutes, options.seeds) = (Some(number), u64::MAX),
            "--seed" => options.seed = Some(number),
            "--work" => options.work = number,
            "--jobs" => options.jobs = number.max(1) as usize,
            _ => return Err(format!("{flag} is unknown\n{USAGE}")),
        }
    }
    Ok(Some(options))
}

/// Builds the program, with the code of this workspace optimised a little: it is
/// that which runs. Dependencies are those of every other build.
fn build() -> Result<PathBuf, String> {
    let mut command = Command::new("cargo");
    command.args(["build", "--bin", "polity-sim", "--message-format", "json-render-diagnostics"]);
    command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    println!("xtask: builds polity-sim");
    let output = command.stderr(Stdio::inherit()).output().map_err(|e| format!("cargo build: {e}"))?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let lines = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = lines.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
    programs
        .find(|program| output.status.success() && program.ends_with("polity-sim"))
        .ok_or("it cannot be built".into())
}

/// One seed, in a process of its own.
fn one(program: &PathBuf, seed: u64, work: u64, bug: Option<&str>) -> Result<Value, String> {
    let mut command = Command::new(program);
    command.args(["--json", "--seed", &seed.to_string(), "--work", &work.to_string()]);
    if let Some(bug) = bug {
        command.args(["--bug", bug]);
    }
    let output = command.stderr(Stdio::null()).output().map_err(|e| format!("{}: {e}", program.display()))?;
    let line = String::from_utf8_lossy(&output.stdout);
    match line.lines().next().map(serde_json::from_str::<Value>) {
        Some(Ok(report)) => Ok(report),
        _ => Ok(serde_json::json!({ "seed": seed, "violations": [format!("the process ended: {}", output.status)] })),
    }
}

fn fresh() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64) % 1_000_000_000_000
}

fn simulate(program: &PathBuf, options: &Options) -> Result<(), String> {
    let first = options.seed.unwrap_or_else(fresh);
    let (begun, next) = (Instant::now(), AtomicU64::new(0));
    let sum = Mutex::new(Sum { spent: processor_minutes().unwrap_or_default(), ..Sum::default() });
    let late = || options.minutes.is_some_and(|minutes| begun.elapsed() >= Duration::from_secs(60 * minutes));
    let work = || -> Result<(), String> {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= options.seeds || late() {
                return Ok(());
            }
            let report = one(program, first.wrapping_add(at), options.work, None)?;
            let Ok(mut sum) = sum.lock() else { return Err("another worker panicked".into()) };
            sum.add(&report, options.work);
            if sum.seeds.is_multiple_of(10) {
                println!("xtask: {}", sum.line(begun.elapsed()));
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked".to_owned())?)
    })?;
    let sum = sum.into_inner().map_err(|_| "a worker panicked")?;
    println!("seeds {first} to {}: {}", first + sum.seeds.saturating_sub(1), sum.line(begun.elapsed()));
    match sum.violated.len() {
        0 => Ok(()),
        count => Err(format!("{count} seeds violated what must hold: {:?}", sum.violated)),
    }
}

impl Sum {
    fn add(&mut self, report: &Value, work: u64) {
        let number = |name: &str| report[name].as_u64().unwrap_or_default();
        self.seeds += 1;
        self.simulated += report["simulated"].as_f64().unwrap_or_default();
        self.operations += number("ok") + number("failed") + number("unknown");
        self.unknown += number("unknown");
        self.undecided += number("undecided");
        for (kind, count) in report["faults"].as_object().into_iter().flatten() {
            *self.faults.entry(kind.clone()).or_default() += count.as_u64().unwrap_or_default();
        }
        let violations = report["violations"].as_array().cloned().unwrap_or_default();
        if !violations.is_empty() {
            let seed = number("seed");
            self.violated.push(seed);
            for violation in &violations {
                println!("seed {seed}: {}", violation.as_str().unwrap_or_default());
            }
            println!("replay: cargo xtask sim --seed {seed} --work {work} --trace");
        }
    }

    fn line(&self, took: Duration) -> String {
        let faults: Vec<_> = self.faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let hours = self.simulated / 3600.0;
        let rate = processor_minutes().map_or_else(String::new, |minutes| {
            format!(" ({:.2} h a minute of one processor)", hours / (minutes - self.spent).max(0.001))
        });
        format!(
            "{} seeds, {hours:.2} h simulated in {:.1} min{rate}, {} operations ({} of unknown outcome), faults: {}; {} \
             undecided; {} violations",
            self.seeds,
            took.as_secs_f64() / 60.0,
            self.operations,
            self.unknown,
            faults.join(", "),
            self.undecided,
            self.violated.len(),
        )
    }
}

/// What the processes that were run have taken of processors, where Linux tells: fields
/// 16 and 17 of `/proc/self/stat`, in hundredths of a second.
fn processor_minutes() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: Vec<f64> = rest.split_whitespace().skip(13).take(2).filter_map(|field| field.parse().ok()).collect();
    (ticks.len() == 2).then(|| ticks.iter().sum::<f64>() / 6_000.0)
}

/// Plants bugs, and counts the seeds until each is caught.
fn plant(program: &PathBuf, options: &Options, only: Option<&str>) -> Result<(), String> {
    let names = Command::new(program).arg("--bugs").output().map_err(|e| format!("{}: {e}", program.display()))?;
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    let wanted: Vec<&str> = names.lines().filter(|name| only.is_none_or(|only| only == *name)).collect();
    if wanted.is_empty() {
        return Err(format!("no such bug; there are\n{names}"));
    }
    let (next, missed) = (AtomicU64::new(0), Mutex::new(BTreeSet::new()));
    let first = options.seed.unwrap_or(1);
    let work = || -> Result<(), String> {
        while let Some(bug) = wanted.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
            let mut caught = None;
            for seed in first..first + MOST_SEEDS {
                let report = one(program, seed, options.work, Some(bug))?;
                if let Some(by) = report["violations"].as_array().and_then(|all| all.first()) {
                    caught = Some((seed - first + 1, by.as_str().unwrap_or_default().to_owned()));
                    break;
                }
            }
            match caught {
                Some((seeds, by)) => {
                    println!("{bug}: caught by seed {seeds}: {}", by.lines().next().unwrap_or_default());
                }
                None => {
                    println!("{bug}: not caught by {MOST_SEEDS} seeds");
                    missed.lock().map_err(|_| "another worker panicked")?.insert(bug.to_string());
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a worker panicked".to_owned())?)
    })?;
    let missed = missed.into_inner().map_err(|_| "a worker panicked")?;
    if missed.is_empty() { Ok(()) } else { Err(format!("not caught: {missed:?}")) }
}
