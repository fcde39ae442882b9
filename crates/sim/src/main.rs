//! The simulation's program: runs seeds, and says what came of them.
//!
//! Everything that asks the operating system for randomness or time by itself (the
//! keys of hash maps, tokio's select, openraft's timeouts) is given what follows from
//! the seed instead; that is what `mad_turmoil` is for, and why this is a program of
//! its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use polity_base::planted::Bug;
use polity_sim::{Options, Report, panics, run};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Runs whole clusters in one seeded process.
#[derive(Parser, Debug)]
#[command(args_override_self = true)]
struct Arguments {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// How long clients work and things break in each, in simulated seconds
    #[arg(long, default_value_t = 20)]
    work: u64,
    /// Print every event
    #[arg(long)]
    trace: bool,
    /// Break nothing
    #[arg(long)]
    calm: bool,
    /// Plant a bug, by its name
    #[arg(long)]
    bug: Option<String>,
    /// Say the names of the bugs there are, and end
    #[arg(long)]
    bugs: bool,
    /// Stop at the first violation
    #[arg(long)]
    stop: bool,
    /// Say what came of each seed as one line of JSON
    #[arg(long)]
    json: bool,
    /// Where real files go that cannot be simulated
    #[arg(long)]
    folder: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    if arguments.bugs {
        bugs().for_each(|bug| println!("{bug:?}"));
        return ExitCode::SUCCESS;
    }
    let bug = match arguments.bug.as_deref().map(bug) {
        None => None,
        Some(Ok(bug)) => Some(bug),
        Some(Err(why)) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    if arguments.seeds > 1 {
        return each_alone(&arguments);
    }
    panics::watch();
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(0));
    let _time = mad_turmoil::time::SimClocksGuard::init();
    let folder = arguments.folder.clone();
    let folder = folder.unwrap_or_else(|| std::env::temp_dir().join(format!("polity-sim-{}", std::process::id())));
    let options = Options {
        seed: arguments.seed,
        work: Duration::from_secs(arguments.work),
        aloud: arguments.trace,
        bug,
        faults: !arguments.calm,
        folder,
    };
    let report = seeded(options);
    if arguments.json {
        println!("{}", json(&report));
    } else {
        println!("{}", line(&report));
        report.violations.iter().for_each(|violation| println!("  {violation}"));
    }
    ExitCode::from(u8::from(!report.violations.is_empty()))
}

/// Runs every seed in a process of its own: what a process draws once follows from
/// the seed, too.
fn each_alone(arguments: &Arguments) -> ExitCode {
    let mut violated = false;
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let mut rest: Vec<String> = std::env::args().skip(1).collect();
        // The last one counts.
        rest.extend(["--seed".to_owned(), seed.to_string(), "--seeds".to_owned(), "1".to_owned()]);
        let done = std::env::current_exe().and_then(|program| Command::new(program).args(rest).status());
        violated |= !done.is_ok_and(|status| status.success());
        if violated && arguments.stop {
            break;
        }
    }
    ExitCode::from(u8::from(violated))
}

/// Those that can be caught here.
fn bugs() -> impl Iterator<Item = Bug> {
    Bug::ALL.into_iter().chain(Bug::OF_EVENTUAL)
}

fn bug(name: &str) -> Result<Bug, String> {
    if !polity_base::planted::AVAILABLE {
        return Err("bugs can only be planted in a build with debug assertions".to_owned());
    }
    let known = bugs().find(|bug| format!("{bug:?}").eq_ignore_ascii_case(&name.replace('-', "")));
    let names: Vec<_> = bugs().map(|bug| format!("{bug:?}")).collect();
    known.ok_or_else(|| format!("there is no bug {name}; there are {}", names.join(", ")))
}

/// Runs one seed on a thread of its own: what a thread draws once, such as the keys
/// of its hash maps, follows from the seed too.
fn seeded(options: Options) -> Report {
    *mad_turmoil::rand::get_rng() = StdRng::seed_from_u64(options.seed);
    let seed = options.seed;
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(move || run(&options));
    let report = thread.map_err(|e| e.to_string()).and_then(|thread| thread.join().map_err(|_| "it panicked".into()));
    report.unwrap_or_else(|why| Report { seed, violations: vec![why], ..Report::default() })
}

fn line(report: &Report) -> String {
    let faults: Vec<_> = report.faults.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!(
        "seed {} nodes {} simulated {:.1} s operations {} ok {} failed {} unknown; {} violations; {}; trace {} of {} \
         events; {}",
        report.seed,
        report.nodes,
        report.simulated.as_secs_f64(),
        report.ok,
        report.failed,
        report.unknown,
        report.violations.len(),
        faults.join(", "),
        report.trace.1,
        report.trace.0,
        report.workloads.join("+"),
    )
}

fn json(report: &Report) -> serde_json::Value {
    let faults: BTreeMap<String, u64> = report.faults.iter().map(|(kind, count)| (kind.to_string(), *count)).collect();
    serde_json::json!({
        "seed": report.seed,
        "nodes": report.nodes,
        "simulated": report.simulated.as_secs_f64(),
        "ok": report.ok,
        "failed": report.failed,
        "unknown": report.unknown,
        "undecided": report.undecided,
        "faults": faults,
        "violations": report.violations,
        "trace": report.trace.1,
        "workloads": report.workloads,
    })
}
