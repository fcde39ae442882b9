//! Golden scripts: what concurrent transactions see, as text.
//!
//! A script in `scripts/` is commands and what came of them:
//!
//! ```text
//! given a=1 b=2
//! T1 begin serializable
//! T1 update a 5
//!    a: 1 -> 5
//! T2 update a 6
//!    waits
//! T1 commit
//!    committed @2
//!    T2: a: 5 -> 6
//! ```
//! Lines that are indented are output; the test runs the others and compares.
//! `UPDATE_SCRIPTS=1 cargo test -p polity-txn` writes what it saw instead.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use polity_base::key::Direction;
use polity_base::{Key, Timestamp};
use tokio::sync::mpsc;

use super::local::LocalReplica;
use super::{all, key, name, number, to_number};
use crate::testing::{database, database_on};
use crate::*;

/// What sessions said since it was last asked.
type Said = Arc<Mutex<Vec<(String, String)>>>;

struct World {
    make: fn() -> Database,
    database: Database,
    sessions: BTreeMap<String, mpsc::UnboundedSender<String>>,
    said: Said,
}

impl World {
    fn new(make: fn() -> Database) -> World {
        World { make, database: make(), sessions: BTreeMap::new(), said: Said::default() }
    }

    async fn run(&mut self, line: &str, out: &mut String) {
        if let Some(rows) = line.strip_prefix("given ") {
            *self = World::new(self.make);
            let mut setup = self.database.begin(TransactionOptions::default()).await.unwrap();
            for row in rows.split_whitespace() {
                let (name, value) = row.split_once('=').unwrap();
                setup.put(key(name), number(value.parse().unwrap())).unwrap();
            }
            setup.commit().await.unwrap();
            return;
        }
        let (session, command) = line.split_once(' ').unwrap_or_else(|| panic!("no command: {line}"));
        let sender = self.sessions.entry(session.to_string()).or_insert_with(|| {
            let (sender, commands) = mpsc::unbounded_channel();
            tokio::spawn(run_session(session.to_string(), self.database.clone(), commands, self.said.clone()));
            sender
        });
        sender.send(command.to_string()).unwrap();
        // One thread runs everything, so a while from now all is done or waits.
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
        let said = std::mem::take(&mut *self.said.lock());
        if said.iter().all(|(who, _)| who != session) {
            out.push_str("   waits\n");
        }
        for (who, what) in said {
            let prefix = if who == session { String::new() } else { format!("{who}: ") };
            what.lines().for_each(|line| out.push_str(&format!("   {prefix}{line}\n")));
        }
    }
}

async fn run_session(me: String, database: Database, mut commands: mpsc::UnboundedReceiver<String>, said: Said) {
    let mut session = Session { database, transaction: None, savepoints: BTreeMap::new() };
    while let Some(command) = commands.recv().await {
        let words: Vec<&str> = command.split_whitespace().collect();
        let what = session.run(&words).await.unwrap_or_else(|e| {
            let detail = e.detail().map(|d| format!("\n{d}")).unwrap_or_default();
            format!("{:?}: {e}{detail}", e.class())
        });
        said.lock().push((me.clone(), named(&what)));
    }
}

/// Keys by name.
fn named(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("0x00004") {
        out.push_str(&rest[..at]);
        let hex = &rest[at + 2..];
        let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
        let byte = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..end).step_by(2).map(byte).collect();
        match bytes.len() {
            4 => out.push_str(if bytes[3] == 0 { "(first)" } else { "(last)" }),
            _ => out.push_str(&name(&bytes)),
        }
        rest = &hex[end..];
    }
    out + rest
}

struct Session {
    database: Database,
    transaction: Option<Transaction>,
    savepoints: BTreeMap<String, Savepoint>,
}

impl Session {
    async fn run(&mut self, words: &[&str]) -> Result<String, Error> {
        match words {
            ["begin", options @ ..] => {
                self.transaction = Some(self.database.begin(parse_options(options)).await?);
                return Ok(String::new());
            }
            ["commit"] => {
                let at = self.take().commit().await?;
                return Ok(format!("committed {at:?}"));
            }
            ["rollback"] => {
                self.take().rollback().await;
                return Ok(String::new());
            }
            _ => {}
        }
        let transaction = self.transaction.as_mut().expect("begin first");
        match words {
            ["savepoint", name] => {
                self.savepoints.insert(name.to_string(), transaction.savepoint());
                return Ok(String::new());
            }
            ["rollback-to", name] => {
                transaction.rollback_to(&self.savepoints[*name]);
                return Ok(String::new());
            }
            _ => {}
        }
        let mark = transaction.begin_statement().await?;
        match words {
            ["get", name] => Ok(show(name, transaction.view().get(&key(name))?)),
            ["scan"] => scan(transaction, Direction::Ascending),
            ["scan-back"] => scan(transaction, Direction::Descending),
            ["put", name, value] => {
                transaction.put(key(name), number(value.parse().unwrap()))?;
                Ok(String::new())
            }
            ["delete", name] => {
                point(transaction, name).await?;
                transaction.delete(key(name))?;
                Ok(String::new())
            }
            ["update", name, change] => update(transaction, name, change).await,
            ["update-all", change] => update_all(transaction, &mark, None, change).await,
            ["update-where", old, change] => update_all(transaction, &mark, Some(old.parse().unwrap()), change).await,
            ["insert", name, value] => insert(transaction, name, value).await,
            ["lock", name, mode, wait @ ..] => {
                let wait = if wait.is_empty() { Wait::Block } else { Wait::NoWait };
                transaction.lock(&key(name), parse_mode(mode), wait).await?;
                Ok(format!("locks {name}"))
            }
            other => panic!("no such command: {other:?}"),
        }
    }

    fn take(&mut self) -> Transaction {
        self.savepoints.clear();
        self.transaction.take().expect("begin first")
    }
}

fn parse_options(words: &[&str]) -> TransactionOptions {
    let mut options = TransactionOptions::default();
    for word in words {
        match *word {
            "serializable" => options.isolation = Isolation::Serializable,
            "read-committed" => options.isolation = Isolation::ReadCommitted,
            "read-only" => options.read_only = true,
            other => options.freshness = Freshness::AsOf(Timestamp(other.trim_start_matches('@').parse().unwrap())),
        }
    }
    options
}

fn parse_mode(word: &str) -> LockMode {
    match word {
        "key-share" => LockMode::KeyShare,
        "share" => LockMode::Share,
        "no-key-exclusive" => LockMode::NoKeyExclusive,
        "exclusive" => LockMode::Exclusive,
        other => panic!("no such mode: {other}"),
    }
}

fn show(name: &str, value: Option<bytes::Bytes>) -> String {
    value.map_or_else(|| format!("{name} is absent"), |value| format!("{name} = {}", to_number(&value)))
}

fn rows(transaction: &Transaction, direction: Direction) -> Result<Vec<(Key, i64)>, Error> {
    let mut scan = transaction.view().scan(all(), direction)?;
    let mut rows = Vec::new();
    loop {
        let chunk = scan.next_chunk(2)?;
        if chunk.is_empty() {
            return Ok(rows);
        }
        rows.extend(chunk.into_iter().map(|(key, value)| (key, to_number(&value))));
    }
}

fn scan(transaction: &Transaction, direction: Direction) -> Result<String, Error> {
    let rows = rows(transaction, direction)?;
    let rows: Vec<String> = rows.iter().map(|(key, value)| format!("{}={value}", name(key))).collect();
    Ok(if rows.is_empty() { "no rows".to_string() } else { rows.join(" ") })
}

/// The path of a statement that touches one row: lock, then look.
async fn point(transaction: &mut Transaction, name: &str) -> Result<Option<i64>, Error> {
    let locked = transaction.lock(&key(name), LockMode::NoKeyExclusive, Wait::Block).await?;
    if locked.newest > transaction.read_at() {
        transaction.advance().await?;
    }
    Ok(transaction.view().get(&key(name))?.map(|value| to_number(&value)))
}

fn changed(old: i64, change: &str) -> i64 {
    match change.strip_prefix('+') {
        Some(sum) => old + sum.parse::<i64>().unwrap(),
        None => change.parse().unwrap(),
    }
}

async fn update(transaction: &mut Transaction, name: &str, change: &str) -> Result<String, Error> {
    let Some(old) = point(transaction, name).await? else { return Ok(format!("{name} is absent")) };
    let new = changed(old, change);
    transaction.put(key(name), number(new))?;
    Ok(format!("{name}: {old} -> {new}"))
}

/// The path of a statement that looks for its rows: look, then lock, and start
/// over when a row has changed in between.
async fn update_all(
    transaction: &mut Transaction,
    mark: &StatementMark,
    only: Option<i64>,
    change: &str,
) -> Result<String, Error> {
    loop {
        let mut stale = false;
        let mut done = Vec::new();
        for (key, old) in rows(transaction, Direction::Ascending)? {
            if only.is_some_and(|only| only != old) {
                continue;
            }
            let locked = transaction.lock(&key, LockMode::NoKeyExclusive, Wait::Block).await?;
            stale |= locked.newest > transaction.read_at();
            let new = changed(old, change);
            transaction.put(key.clone(), number(new))?;
            done.push(format!("{}: {old} -> {new}", name(&key)));
        }
        if !stale {
            return Ok(if done.is_empty() { "no rows".to_string() } else { done.join("\n") });
        }
        transaction.restart_statement(mark).await?;
    }
}

async fn insert(transaction: &mut Transaction, name: &str, value: &str) -> Result<String, Error> {
    if point(transaction, name).await?.is_some() {
        return Ok(format!("{name} is a duplicate"));
    }
    transaction.expect_absent(key(name));
    transaction.put(key(name), number(value.parse().unwrap()))?;
    Ok(String::new())
}

fn run_script(path: &Path, make: fn() -> Database) {
    let golden = std::fs::read_to_string(path).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut out = String::new();
    runtime.block_on(async {
        let mut world = World::new(make);
        for line in golden.lines().filter(|line| !line.starts_with("   ")) {
            out.push_str(line);
            out.push('\n');
            if !line.is_empty() && !line.starts_with('#') {
                world.run(line, &mut out).await;
            }
        }
    });
    if std::env::var_os("UPDATE_SCRIPTS").is_some() {
        std::fs::write(path, &out).unwrap();
    } else if out != golden {
        let first = out.lines().zip(golden.lines()).position(|(a, b)| a != b).unwrap_or(0) + 1;
        panic!("{} differs from line {first} on; this was seen:\n{out}", path.display());
    }
}

#[test]
fn scripts_go_as_they_are_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().for_each(|path| run_script(path, database));
    paths.iter().for_each(|path| run_script(path, || database_on(LocalReplica::new(), Options::default())));
}
