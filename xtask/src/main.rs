//! The project's own commands, run as `cargo xtask <command>`.
//!
//! | command  | does                                                          |
//! |----------|---------------------------------------------------------------|
//! | `verify` | format, floors, lint, licences, tests; changes nothing        |
//! | `fix`    | formats, and applies what clippy can mend                     |
//! | `floors` | checks that crates import only floors below them              |
//! | `bench`  | measures Polity beside PostgreSQL on this machine             |
//! | `sim`    | simulates whole clusters on fresh seeds, or plants bugs       |

mod bench;
mod floors;
mod sim;

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("verify") if arguments.len() == 1 => verify(),
        Some("fix") if arguments.len() == 1 => fix(),
        Some("floors") if arguments.len() == 1 => floors::check(),
        Some("bench") => bench::run(&arguments[1..]),
        Some("sim") => sim::run(&arguments[1..]),
        _ => Err("usage: cargo xtask verify | fix | floors | bench [--help] | sim [--help]".to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that must hold before a change lands; changes nothing.
fn verify() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"])?;
    floors::check()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    deny()?;
    cargo(&["test", "--workspace"])
}

/// Formats, and applies what clippy can mend.
fn fix() -> Result<(), String> {
    cargo(&["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty", "--allow-staged"])?;
    cargo(&["fmt", "--all"])
}

/// Licences, bans and sources, when cargo-deny is installed. (Its advisories
/// need the network and are left to a scheduled run.)
fn deny() -> Result<(), String> {
    let installed = Command::new("cargo").args(["deny", "--version"]).output().is_ok_and(|o| o.status.success());
    if !installed {
        println!("xtask: skipped: licences (cargo-deny is not installed: cargo install cargo-deny --locked)");
        return Ok(());
    }
    cargo(&["deny", "--offline", "check", "licenses", "bans", "sources"])
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    run(Command::new("cargo").args(arguments), &format!("cargo {}", arguments.join(" ")))
}

/// Runs a command, its output going where ours goes.
pub(crate) fn run(command: &mut Command, name: &str) -> Result<(), String> {
    println!("xtask: {name}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name}: {status}")),
        Err(error) => Err(format!("{name}: {error}")),
    }
}
