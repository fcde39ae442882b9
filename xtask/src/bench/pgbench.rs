//! pgbench's built-in scripts, and bulk loading.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::Options;
use super::report::{Report, median};
use super::servers::{Server, Servers, output};

/// Name, and what pgbench is told.
const RUNS: &[(&str, &[&str], u32)] = &[
    ("select/clients=16", &["-S"], 16),
    ("select/clients=16,prepared", &["-S", "-M", "prepared"], 16),
    ("select/clients=1", &["-S"], 1),
    ("simple-update/clients=16", &["-N"], 16),
    ("simple-update/clients=16,prepared", &["-N", "-M", "prepared"], 16),
    ("tpcb/clients=16", &[], 16),
    ("tpcb/clients=16,prepared", &["-M", "prepared"], 16),
    ("simple-update/clients=1", &["-N"], 1),
];

/// Runs pgbench's scripts on both.
pub fn run(servers: &Servers, options: &Options, report: &mut Report) -> Result<(), String> {
    for server in &servers.both {
        let begun = Instant::now();
        let scale = options.scale.to_string();
        output(Command::new("pgbench").args(["-i", "-q", "-s", &scale, &server.url]), server.name)?;
        println!("{}: pgbench -i -s {scale} took {:.1} s", server.name, begun.elapsed().as_secs_f64());
    }
    for (name, arguments, clients) in RUNS {
        let mut rates = [Vec::new(), Vec::new()];
        let mut costs = [Vec::new(), Vec::new()];
        for _ in 0..options.rounds {
            for (at, server) in servers.both.iter().enumerate() {
                let (rate, cost) = one(server, arguments, *clients, options.seconds)?;
                rates[at].push(rate);
                costs[at].push(cost);
            }
        }
        report.figure(format!("pgbench::{name}"), "tps", rates.map(median), true);
        if name.starts_with("select/clients=16") || name.ends_with("clients=16,prepared") {
            report.figure(format!("pgbench::{name} cpu"), "µs/op", costs.map(median), false);
        }
    }
    Ok(())
}

/// Transactions per second, and server CPU microseconds a transaction.
fn one(server: &Server, arguments: &[&str], clients: u32, seconds: u32) -> Result<(f64, f64), String> {
    let before = server.cpu_seconds();
    let (clients, seconds) = (clients.to_string(), seconds.to_string());
    let text = output(
        Command::new("pgbench")
            .args(["-n", "-j", "2", "-c", &clients, "-T", &seconds])
            .args(arguments)
            .arg(&server.url),
        server.name,
    )?;
    let field =
        |label: &str| text.lines().find_map(|l| l.strip_prefix(label)?.split_whitespace().next()?.parse::<f64>().ok());
    let rate = field("tps = ").ok_or_else(|| format!("{}: pgbench gave no rate:\n{text}", server.name))?;
    let done = field("number of transactions actually processed: ").unwrap_or(f64::NAN);
    if field("number of failed transactions: ").is_some_and(|n| n > 0.0) {
        return Err(format!("{}: transactions failed:\n{text}", server.name));
    }
    let cpu = match (before, server.cpu_seconds()) {
        (Some(before), Some(after)) => (after - before) * 1e6 / done,
        _ => f64::NAN,
    };
    Ok((rate, cpu))
}

/// Loads a file of a million rows into a table with a primary key.
pub fn copy(servers: &Servers, options: &Options, folder: &Path, report: &mut Report) -> Result<(), String> {
    const ROWS: u32 = 1_000_000;
    let file = folder.join("rows.csv");
    let mut text = String::with_capacity(100 << 20);
    for i in 0..ROWS {
        text.push_str(&format!("{i},{},{:084}\n", i % 10, i));
    }
    std::fs::write(&file, text).map_err(|e| format!("{}: {e}", file.display()))?;
    for (name, before) in
        [("new-table", "begin; truncate loaded;"), ("existing-table", "delete from loaded where id < 0; begin;")]
    {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..options.rounds {
            for (at, server) in servers.both.iter().enumerate() {
                server.psql(
                    "drop table if exists loaded; create table loaded (id int primary key, n int, filler char(84))",
                )?;
                let script = folder.join("load.sql");
                let sql = format!("{before}\n\\copy loaded from '{}' csv\ncommit;\n", file.display());
                std::fs::write(&script, sql).map_err(|e| e.to_string())?;
                let begun = Instant::now();
                output(
                    Command::new("psql").args(["-Xq", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&script).arg(&server.url),
                    server.name,
                )?;
                rates[at].push(f64::from(ROWS) / begun.elapsed().as_secs_f64());
            }
        }
        report.figure(format!("copy::csv/{name}"), "rows/s", rates.map(median), true);
    }
    Ok(())
}
