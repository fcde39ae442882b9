//! SQL scripts: statements and the results they must give.
//!
//! All files of `slt/` run against Polity. Those named `pg_*` must hold for
//! PostgreSQL too, and run against it where a server is installed, so that what
//! they claim about PostgreSQL is true.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Node, connect};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tokio_postgres::{Client, SimpleQueryMessage};

struct Session(Client);

#[derive(Debug)]
struct Failure(String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

#[async_trait::async_trait]
impl AsyncDB for Session {
    type Error = Failure;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Failure> {
        let messages = self.0.simple_query(sql).await.map_err(|error| match error.as_db_error() {
            Some(e) => Failure(format!("{} {}", e.code().code(), e.message())),
            None => Failure(error.to_string()),
        })?;
        let (mut columns, mut rows, mut count) = (None, Vec::new(), 0);
        for message in messages {
            match message {
                SimpleQueryMessage::RowDescription(described) => columns = Some(described.len()),
                SimpleQueryMessage::Row(row) => {
                    let cell = |i| match row.get(i) {
                        None => "NULL".to_owned(),
                        Some("") => "(empty)".to_owned(),
                        Some(text) => text.to_owned(),
                    };
                    rows.push((0..row.len()).map(cell).collect());
                }
                SimpleQueryMessage::CommandComplete(n) => count = n,
                _ => {}
            }
        }
        Ok(match columns {
            Some(n) => DBOutput::Rows { types: vec![DefaultColumnType::Any; n], rows },
            None => DBOutput::StatementComplete(count),
        })
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "polity"
    }
}

fn scripts(only_compatible: bool) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of scripts")
        .map(|entry| entry.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "slt"))
        .filter(|p| !only_compatible || p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("pg_")))
        .collect();
    found.sort();
    found
}

/// Runs the scripts; each begins with an empty schema. Gives the failures.
async fn run(url: &str, scripts: &[PathBuf]) -> Vec<String> {
    let mut failures = Vec::new();
    for script in scripts {
        clean(url).await;
        let mut runner = Runner::new(async || Ok(Session(connect(url).await.map_err(|e| Failure(e.to_string()))?)));
        if let Err(error) = runner.run_file_async(script).await {
            failures.push(format!("{}", error.display(false)));
        }
    }
    failures
}

/// Drops all tables, views and sequences.
async fn clean(url: &str) {
    let client = connect(url).await.expect("a connection");
    for (kind, query) in [
        ("view", "select table_name from information_schema.views where table_schema = 'public'"),
        (
            "table",
            "select table_name from information_schema.tables where table_schema = 'public' and table_type = 'BASE TABLE'",
        ),
        ("sequence", "select sequence_name from information_schema.sequences where sequence_schema = 'public'"),
    ] {
        for message in client.simple_query(query).await.expect("names") {
            if let SimpleQueryMessage::Row(row) = message {
                let name = row.get(0).expect("a name");
                client.batch_execute(&format!("drop {kind} if exists \"{name}\" cascade")).await.expect("dropped");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_give_the_results_they_state() {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::start(folder.path());
    let all = scripts(false);
    assert!(!all.is_empty(), "there are no scripts");
    let failures = run(&node.url, &all).await;
    assert!(failures.is_empty(), "{} of {} scripts failed:\n{}", failures.len(), all.len(), failures.join("\n\n"));
}

/// A PostgreSQL server on a free port, ended when dropped.
struct Oracle {
    script: PathBuf,
    folder: tempfile::TempDir,
    url: String,
}

impl Oracle {
    fn start() -> Option<Oracle> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/clients/oracle");
        let folder = tempfile::tempdir().ok()?;
        let output = Command::new(&script).arg("start").arg(folder.path().join("pg")).output().ok()?;
        let url = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !url.is_empty()).then_some(Oracle { script, folder, url })
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).arg("stop").arg(self.folder.path().join("pg")).output();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_said_to_be_compatible_hold_for_postgresql() {
    let Some(oracle) = Oracle::start() else {
        println!("skipped: no PostgreSQL server is installed here");
        return;
    };
    let failures = run(&oracle.url, &scripts(true)).await;
    assert!(failures.is_empty(), "PostgreSQL disagrees:\n{}", failures.join("\n\n"));
}
