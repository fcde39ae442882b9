//! `polity proof`: evidence for a row, and whether it holds.

use std::path::PathBuf;

use clap::Subcommand;
use polity_bft::ledger::records;
use polity_bft::proof::{Proven, verify_file};
use polity_node::admin::{Answer, Request};

use crate::Outcome;
use crate::admin::{Admin, Asked, Failure, unexpected};

/// Arguments of `polity proof`.
pub type Arguments = Asked<What>;

/// What to do with a proof.
#[derive(Subcommand)]
pub enum What {
    /// Fetch a proof of what a row is, or that there is none
    Get {
        /// The byzantine table
        table: String,
        /// The values of the row's primary key, in order
        #[arg(required = true)]
        key: Vec<String>,
        /// Where to write it
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// What it was after this height; the newest, if none is given
        #[arg(long)]
        height: Option<u64>,
    },
    /// Check a proof, asking nobody
    Verify {
        /// The file with the proof
        file: PathBuf,
        /// The file with the ledger's genesis, from a source that you trust: see polity
        /// ledger genesis
        #[arg(long, value_name = "FILE")]
        trust: PathBuf,
    },
}

/// Runs one of the commands.
pub fn run(arguments: Arguments) -> Outcome {
    match arguments.what {
        What::Verify { file, trust } => verify(&file, &trust),
        What::Get { table, key, out, height } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let bytes = runtime.block_on(get(&Admin::new(&arguments.admin)?, &table, &key, height))?;
            std::fs::write(&out, &bytes).map_err(|e| format!("{}: {e}", out.display()))?;
            println!("{} bytes in {}", bytes.len(), out.display());
            Ok(())
        }
    }
}

async fn get(admin: &Admin, table: &str, key: &[String], height: Option<u64>) -> Result<Vec<u8>, Failure> {
    let tables = admin.ledger_tables().await?;
    let (_, key) = polity_sql::ledger::row_key(&tables, table, key).map_err(|e| said(&e))?;
    match admin.ask(&Request::Prove { keys: vec![key], height }).await? {
        Answer::Proof(bytes) => Ok(bytes),
        other => Err(unexpected(other)),
    }
}

/// An error of SQL with its facts.
pub fn said(error: &polity_sql::Error) -> String {
    let more = [error.detail_text(), error.hint_text()].into_iter().flatten();
    std::iter::once(error.message()).chain(more).collect::<Vec<_>>().join("\n")
}

fn verify(file: &std::path::Path, trust: &std::path::Path) -> Outcome {
    let read = |path: &std::path::Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    let proven = verify_file(&read(file)?, &read(trust)?).map_err(|fault| format!("it does not hold: {fault}"))?;
    println!("{}", text(&proven)?);
    Ok(())
}

/// What was proved, for people.
fn text(proven: &Proven) -> Result<String, Failure> {
    let mut lines = vec![format!(
        "It holds: signed by nodes {} with a power of {} of {}.",
        proven.signers.iter().map(|node| node.0.to_string()).collect::<Vec<_>>().join(", "),
        proven.power,
        proven.total_power
    )];
    lines.push(format!("ledger    {}", proven.ledger));
    lines.push(format!("height    {} (block {}, {} ms since 1970)", proven.height, proven.block, proven.time_ms));
    if proven.changes > 0 {
        lines.push(format!("validators changed {} times since genesis", proven.changes));
    }
    let tables = proven.items.iter().filter(|(key, _)| records::storage_of(key) == records::records());
    let tables: Vec<_> = tables
        .filter_map(|(key, value)| Some((records::storage_named(key)?, records::Table::decode(value.as_ref()?).ok()?)))
        .collect();
    for (key, value) in proven.items.iter().filter(|(key, _)| records::storage_of(key) != records::records()) {
        let storage = records::storage_of(key);
        let table = tables.iter().find(|(known, _)| *known == storage).map(|(_, table)| table);
        let name = table.map_or_else(|| format!("{storage}"), |table| table.definition.name.clone());
        match (value, table) {
            (None, _) => lines.push(format!("table {name}: no row at {key}")),
            (Some(row), None) => lines.push(format!("table {name}: a row of {} bytes at {key}", row.len())),
            (Some(row), Some(table)) => {
                lines.push(format!("table {name}: the row"));
                let cells = polity_sql::ledger::proving::shown(table, row).map_err(|e| said(&e))?;
                let width = cells.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
                lines.extend(cells.iter().map(|(name, value)| format!("  {name:<width$}  {value}")));
            }
        }
    }
    Ok(lines.join("\n"))
}
