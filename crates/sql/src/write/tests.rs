//! Scripts of statements with PostgreSQL 15's own answers, and what needs more
//! than one session.
//!
//! ```text
//! > SELECT * FROM t WHERE id = 1       a statement
//! < 1    x                             a line of COPY data
//!   id|a                               rows, tags
//! !23505 duplicate key …               an error, and
//! !DETAIL Key (id)=(1) …               its detail
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use polity_base::seams::{ClockSource, Seams};
use polity_base::text::{Settings, to_text};
use polity_base::time::{ClockReading, HybridClock};
use polity_base::{Timestamp, Value};
use polity_txn::Options;
use polity_txn::testing::{MemoryReplica, database_on, seams};

use crate::error::{Error, Result};
use crate::session::{Engine, EngineOptions, Prepared, Response, Scope, Session};

/// A clock that moves on by a microsecond whenever it is read.
struct Ticking(AtomicU64);

impl ClockSource for Ticking {
    fn read(&self) -> ClockReading {
        let now = Timestamp(self.0.fetch_add(1_000, Ordering::Relaxed));
        ClockReading { earliest: now, latest: now }
    }
}

async fn engine() -> Arc<Engine> {
    let source = Arc::new(Ticking(AtomicU64::new(1_700_000_000_000_000_000)));
    let seams = Seams { clock: source.clone(), entropy: seams().entropy };
    let clock = Arc::new(HybridClock::new(source, Timestamp::ZERO));
    let options = EngineOptions {
        database: "polity".to_owned(),
        role: "ann".to_owned(),
        password: String::new(),
        query_memory: 64 << 20,
        spill_folder: std::env::temp_dir(),
    };
    let database = database_on(MemoryReplica::default(), Options::default());
    Engine::open(database, seams, clock, options).await.unwrap()
}

/// Whether a statement gives a tag besides its rows.
fn has_tag(sql: &str) -> bool {
    let word = sql.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    !matches!(word.as_str(), "select" | "explain" | "show" | "values")
}

/// The lines psql would print.
async fn answer(sql: &str, response: Response) -> Result<Vec<String>> {
    let settings = Settings::default();
    let mut lines = Vec::new();
    match response {
        Response::Rows(mut stream) => {
            let columns = stream.columns().clone();
            lines.push(columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join("|"));
            let mut count = 0;
            loop {
                let rows = stream.next(1_000).await?;
                if rows.is_empty() {
                    break;
                }
                for row in rows {
                    count += 1;
                    let shown = row.iter().zip(columns.iter()).map(|(value, column)| match value {
                        Value::Null => "NULL".to_owned(),
                        value => to_text(value, &column.r#type, &settings),
                    });
                    lines.push(shown.collect::<Vec<_>>().join("|"));
                }
            }
            if has_tag(sql) {
                lines.push(stream.tag(count));
            }
        }
        Response::Complete(tag) => lines.push(tag),
        Response::CopyOut { mut source, .. } => {
            while let Some(bytes) = source.next().await? {
                lines.extend(String::from_utf8_lossy(&bytes).lines().map(str::to_owned));
            }
        }
        Response::CopyIn { .. } | Response::Empty => {}
    }
    Ok(lines)
}

async fn run(session: &mut Session, sql: &str, data: &[String]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for invocation in session.parse_many(sql)? {
        let response = session.execute(&invocation.prepared, invocation.parameters, Scope::Alone).await?;
        lines.extend(answer(sql, response).await?);
    }
    if session.is_copying() {
        // Torn anywhere, as the network does.
        let bytes: Vec<u8> = data.iter().flat_map(|l| [l.as_bytes(), b"\n"].concat()).collect();
        for piece in bytes.chunks(7) {
            session.copy_data(piece).await?;
        }
        lines.push(session.copy_done(Scope::Alone).await?);
    }
    Ok(lines)
}

fn shown_error(error: &Error) -> Vec<String> {
    let mut lines = vec![format!("!{} {}", error.condition().code(), error.message())];
    let detail = error.detail_text().unwrap_or_default();
    // Where in COPY's data is CONTEXT in PostgreSQL.
    let facts = detail.lines().filter(|l| !l.starts_with("COPY "));
    lines.extend(facts.map(|l| format!("!DETAIL {l}")));
    lines
}

/// Runs a script; `excused` statements may answer otherwise (details beyond
/// PostgreSQL's are always welcome).
async fn script(text: &str, excused: &[&str]) {
    let engine = engine().await;
    let mut session = engine.session("ann", &[]).unwrap();
    let mut wrong = Vec::new();
    let mut lines = text.lines().peekable();
    let mut count = 0;
    while let Some(line) = lines.next() {
        let sql = line.strip_prefix("> ").unwrap_or_else(|| panic!("not a statement: {line}"));
        let (mut data, mut expected) = (Vec::new(), Vec::new());
        while let Some(line) = lines.next_if(|l| !l.starts_with("> ")) {
            match line.strip_prefix("< ") {
                Some(line) => data.push(line.to_owned()),
                None => expected.push(line.strip_prefix("  ").unwrap_or(line).to_owned()),
            }
        }
        count += 1;
        let got = match run(&mut session, sql, &data).await {
            Ok(lines) => lines,
            Err(error) => shown_error(&error),
        };
        let more_detail = got.first() == expected.first() && got[0].starts_with('!') && expected.len() == 1;
        if got != expected && !more_detail && !excused.contains(&sql) {
            wrong.push(format!("> {sql}\nPostgreSQL:\n  {}\nhere:\n  {}\n", expected.join("\n  "), got.join("\n  ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn insert() {
    script(include_str!("scripts/insert.txt"), &[]).await;
}

#[tokio::test]
async fn insert_on_conflict() {
    script(include_str!("scripts/upsert.txt"), &[]).await;
}

#[tokio::test]
async fn statements_by_key() {
    script(include_str!("scripts/point.txt"), &[]).await;
}

#[tokio::test]
async fn foreign_keys() {
    script(include_str!("scripts/foreign.txt"), &[]).await;
}

#[tokio::test]
async fn statements_that_need_the_planner() {
    script(include_str!("scripts/general.txt"), &[]).await;
}

#[tokio::test]
async fn copy() {
    script(include_str!("scripts/copy.txt"), &[]).await;
}

#[allow(dead_code)]
async fn prepared(session: &mut Session, sql: &str, parameters: Vec<Value>) -> Result<Vec<String>> {
    let statement: Arc<Prepared> = session.prepare(sql, &[])?;
    let response = session.execute(&statement, parameters, Scope::Alone).await?;
    answer(sql, response).await
}
