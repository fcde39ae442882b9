//! The command line.

mod admin;
mod cert;
mod check;
mod demo;
mod description;
mod fault;
mod ledger;
mod nodes;
mod proof;
mod shell;
mod start;
mod stop;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Rows, keys and messages are small and many, made by one thread and dropped by
/// another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged unless told otherwise: openraft and Malachite report each of their steps as news.
const USUAL_LOG: &str = "info,openraft=warn,arc_malachitebft=warn";

/// A distributed SQL database in which every table names its guarantee.
#[derive(Parser)]
#[command(name = "polity", version, propagate_version = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What to log: error, warn, info, debug, trace, or rules such as
    /// `info,polity_raft=debug`
    #[arg(long, global = true, env = "POLITY_LOG", default_value = USUAL_LOG, value_name = "RULES")]
    log: String,
    /// Log one JSON object a line
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster of five nodes for trying things out, with a small shop in it
    Demo(demo::Arguments),
    /// Start a node
    Start(Box<start::Arguments>),
    /// Show, drain and remove the nodes of a cluster
    Node(nodes::Arguments),
    /// Make the certificates of a cluster
    Cert(cert::Arguments),
    /// Disturb a cluster on purpose, for a drill
    Fault(fault::Arguments),
    /// Show and change the ledger of the byzantine tables
    Ledger(ledger::Arguments),
    /// Fetch and check proofs of rows of byzantine tables
    Proof(proof::Arguments),
    /// Verify what a running cluster promises, from outside
    Check(check::Arguments),
    /// Talk SQL to a node
    Sql(shell::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let quiet = matches!(arguments.command, Command::Demo(_)) && arguments.log == USUAL_LOG;
    if let Err(why) = log_to_stderr(if quiet { "warn" } else { &arguments.log }, arguments.log_json) {
        eprintln!("polity: {why}");
        return ExitCode::from(2);
    }
    let result = match arguments.command {
        Command::Demo(demo) => demo::run(demo),
        Command::Start(start) => start::run(*start),
        Command::Node(node) => nodes::run(node),
        Command::Cert(cert) => cert::run(cert),
        Command::Fault(fault) => fault::run(fault),
        Command::Ledger(ledger) => ledger::run(ledger),
        Command::Proof(proof) => proof::run(proof),
        Command::Check(check) => return check::run(check),
        Command::Sql(sql) => shell::run(sql),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("polity: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What a command ends with when it fails: a sentence for the person.
type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn log_to_stderr(rules: &str, json: bool) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(rules).map_err(|e| {
        format!("--log {rules}: {e}. Use a level such as info, or rules such as info,polity_raft=debug.")
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().init()
    } else {
        builder.init()
    }
    Ok(())
}

/// Statements of the deepest shape that is taken (1,000 levels) need 2 to 4 KiB a
/// level while libraries copy them. Memory that is not touched costs nothing.
const STACK_BYTES: usize = 16 << 20;

/// A runtime for a node: as many workers as there are cores.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().thread_name("polity").thread_stack_size(STACK_BYTES).build()
}
