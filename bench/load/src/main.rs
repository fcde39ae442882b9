//! The same load on Polity, PostgreSQL, etcd and Redis, by one program, so that what
//! the client costs is the same for all.
//!
//! ```text
//! load etcd|postgres|eventual|byzantine|redis put|insert|add|hot|get|gap|visible CLIENTS SECONDS ENDPOINT…
//! ```
//! `put` writes durably, one row or key of 256 bytes; `insert` adds a new row of 200 bytes;
//! `add` adds to one of many counters, `hot` to one that all share; `get`
//! reads one, linearizable; `gap` puts and prints the longest time without an
//! acknowledged put, going on to the next endpoint when one does not answer; `visible`
//! puts at the first endpoint, one after the other, and times each until all other
//! endpoints show it. `postgres` speaks PostgreSQL's protocol, to PostgreSQL or to
//! Polity; `eventual` and `byzantine` do too, to Polity, and make tables of that guarantee.
//! Clients are
//! spread over the endpoints. Prints one line: `key=value …`, times in milliseconds.

mod redis;
mod visible;

use std::cell::RefCell;
use std::error::Error;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use etcd_client::{Client as Etcd, ConnectOptions};
use redis::Redis;
use tokio_postgres::{Client as Postgres, NoTls, Statement};

const VALUE_BYTES: usize = 256;
/// With the key, a row of 200 bytes.
const INSERT_BYTES: usize = 192;
/// Keys that are written; the first of them are there before anything is read.
const KEYS: u64 = 10_000;
const READ_KEYS: u64 = 1_000;
/// How long a put may take before the next endpoint is tried, for `gap`.
const PATIENCE: Duration = Duration::from_millis(300);
/// etcd's clients share connections, as its own benchmark's do.
const ETCD_CONNECTIONS: usize = 16;

type Failure = Box<dyn Error + Send + Sync>;

/// One client's way to a server.
enum Connection {
    Etcd(Etcd),
    Postgres { client: Postgres, put: Statement, insert: Statement, add: Statement, get: Statement },
    Redis(Redis),
}

impl Connection {
    async fn open(kind: &str, endpoint: &str) -> Result<Connection, Failure> {
        if kind == "etcd" {
            let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(2));
            return Ok(Connection::Etcd(Etcd::connect([endpoint], Some(options)).await?));
        }
        if kind == "redis" {
            return Ok(Connection::Redis(Redis::connect(endpoint).await?));
        }
        let (client, connection) = tokio_postgres::connect(endpoint, NoTls).await?;
        tokio::task::spawn_local(connection);
        let (load, counters) = tables(kind);
        let put = format!("INSERT INTO {load} VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = excluded.v");
        let put = client.prepare(&put).await?;
        let insert = client.prepare(&format!("INSERT INTO {load} VALUES ($1, $2)")).await?;
        let add = client.prepare(&format!("UPDATE {counters} SET n = n + 1 WHERE k = $1")).await?;
        let get = client.prepare(&format!("SELECT v FROM {load} WHERE k = $1")).await?;
        Ok(Connection::Postgres { client, put, insert, add, get })
    }

    async fn put(&mut self, key: u64) -> Result<(), Failure> {
        match self {
            Connection::Etcd(etcd) => {
                etcd.put(format!("k{key:08}"), vec![b'v'; VALUE_BYTES], None).await?;
            }
            Connection::Postgres { client, put, .. } => {
                client.execute(put, &[&(key as i64), &vec![b'v'; VALUE_BYTES]]).await?;
            }
            Connection::Redis(redis) => redis.set(&format!("k{key:08}"), &[b'v'; VALUE_BYTES]).await?,
        }
        Ok(())
    }

    async fn insert(&mut self, key: u64) -> Result<(), Failure> {
        let Connection::Postgres { client, insert, .. } = self else { return Err("it has no rows".into()) };
        client.execute(insert, &[&(key as i64), &vec![b'v'; INSERT_BYTES]]).await?;
        Ok(())
    }

    async fn add(&mut self, key: u64) -> Result<(), Failure> {
        match self {
            Connection::Etcd(_) => Err("etcd has no counters".into()),
            Connection::Postgres { client, add, .. } => match client.execute(add, &[&(key as i64)]).await? {
                1 => Ok(()),
                count => Err(format!("counter {key}: {count} rows").into()),
            },
            Connection::Redis(redis) => redis.increment(&format!("c{key:08}")).await,
        }
    }

    async fn get(&mut self, key: u64) -> Result<(), Failure> {
        let found = match self {
            Connection::Etcd(etcd) => etcd.get(format!("k{key:08}"), None).await?.kvs().len(),
            Connection::Postgres { client, get, .. } => client.query(get, &[&(key as i64)]).await?.len(),
            Connection::Redis(redis) => redis.get(&format!("k{key:08}")).await?,
        };
        if found == 1 { Ok(()) } else { Err(format!("key {key}: {found} values").into()) }
    }
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    milliseconds: Vec<f64>,
    acknowledged: Vec<Instant>,
    errors: u64,
    last_error: String,
}

struct Run {
    kind: String,
    operation: String,
    clients: usize,
    seconds: f64,
    endpoints: Vec<String>,
    /// Seconds since 1970
    began: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, operation, clients, seconds, endpoints @ ..] = arguments.as_slice() else {
        eprintln!("usage: load etcd|postgres|eventual|byzantine|redis put|insert|add|hot|get|gap|visible CLIENTS SECONDS ENDPOINT…");
        return ExitCode::from(2);
    };
    let (Ok(clients), Ok(seconds)) = (clients.parse(), seconds.parse()) else {
        eprintln!("load: clients and seconds are numbers");
        return ExitCode::from(2);
    };
    let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (kind, operation, endpoints) = (kind.clone(), operation.clone(), endpoints.to_vec());
    let run = Run { kind, operation, clients, seconds, endpoints, began };
    match tokio::task::LocalSet::new().run_until(measure(run)).await {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {}", with_cause(&*error));
            ExitCode::FAILURE
        }
    }
}

fn with_cause(error: &(dyn Error + 'static)) -> String {
    let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
    format!("{error}{cause}")
}

async fn measure(run: Run) -> Result<String, Failure> {
    if ["postgres", "eventual", "byzantine"].contains(&run.kind.as_str()) {
        prepare_tables(&run).await?;
    }
    if run.operation == "visible" {
        return visible::measure(&run).await;
    }
    let mut first = Connection::open(&run.kind, &run.endpoints[0]).await?;
    if run.operation == "get" {
        for key in 0..READ_KEYS {
            first.put(key).await?;
        }
    }
    let mut connections = Vec::new();
    let own = if run.kind == "etcd" { run.clients.min(ETCD_CONNECTIONS) } else { run.clients };
    for at in 0..own {
        connections.push(Connection::open(&run.kind, &run.endpoints[at % run.endpoints.len()]).await?);
    }
    for at in own..run.clients {
        if let Connection::Etcd(etcd) = &connections[at % own] {
            let etcd = etcd.clone();
            connections.push(Connection::Etcd(etcd));
        }
    }
    let (run, seen) = (Rc::new(run), Rc::new(RefCell::new(Seen::default())));
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(run.seconds);
    let tasks: Vec<_> = connections
        .into_iter()
        .enumerate()
        .map(|(at, connection)| tokio::task::spawn_local(client(run.clone(), at, connection, end, seen.clone())))
        .collect();
    for task in tasks {
        task.await?;
    }
    let seen = seen.borrow();
    Ok(line(&run, &seen, begun))
}

/// The names of the table of rows and that of counters. Byzantine ones have their own, so
/// that strong ones can be beside them.
fn tables(kind: &str) -> (&'static str, &'static str) {
    if kind == "byzantine" { ("ledger", "balances") } else { ("load", "counters") }
}

async fn prepare_tables(run: &Run) -> Result<(), Failure> {
    let (client, connection) = tokio_postgres::connect(&run.endpoints[0], NoTls).await?;
    tokio::task::spawn_local(connection);
    let (counter, with) = match run.kind.as_str() {
        "eventual" => ("counter", " WITH (guarantee = 'eventual')"),
        "byzantine" => ("bigint NOT NULL", " WITH (guarantee = 'byzantine')"),
        _ => ("bigint NOT NULL", ""),
    };
    let (load, counters) = tables(&run.kind);
    let tables = format!(
        "CREATE TABLE IF NOT EXISTS {load} (k bigint PRIMARY KEY, v bytea NOT NULL){with};
         CREATE TABLE IF NOT EXISTS {counters} (k bigint PRIMARY KEY, n {counter}){with}"
    );
    // A node that is cut off has them, and cannot ask anyone whether it may make them.
    if client.batch_execute(&format!("SELECT 1 FROM {load}, {counters} LIMIT 1")).await.is_err() {
        client.batch_execute(&tables).await?;
    }
    let adds = ["add", "hot"].contains(&run.operation.as_str());
    if adds && client.query(&format!("SELECT 1 FROM {counters} LIMIT 1"), &[]).await?.is_empty() {
        let rows = format!("INSERT INTO {counters} SELECT g, 0 FROM generate_series(0, {}) g", KEYS - 1);
        client.batch_execute(&rows).await?;
    }
    Ok(())
}

async fn client(run: Rc<Run>, at: usize, connection: Connection, end: Instant, seen: Rc<RefCell<Seen>>) {
    // xorshift, Marsaglia 2003
    let mut random = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(at as u64 + 1);
    let (mut connection, mut endpoint) = (Some(connection), at);
    // No other client inserts these keys, in this run or in another.
    let (first, mut inserted) = (run.began << 32 | (at as u64) << 22, 0);
    while Instant::now() < end {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let begun = Instant::now();
        let done = match (&mut connection, run.operation.as_str()) {
            (Some(connection), "get") => connection.get(random % READ_KEYS).await,
            (Some(connection), "put") => connection.put(random % KEYS).await,
            (Some(connection), "add") => connection.add(random % KEYS).await,
            (Some(connection), "hot") => connection.add(0).await,
            (Some(connection), "insert") => {
                inserted += 1;
                connection.insert(first + inserted).await
            }
            (Some(connection), _) => {
                let put = tokio::time::timeout(PATIENCE, connection.put(random % KEYS)).await;
                put.unwrap_or_else(|_| Err("no answer in time".into()))
            }
            (None, _) => Err("no connection".into()),
        };
        let mut now = seen.borrow_mut();
        match done {
            Ok(()) => {
                now.milliseconds.push(begun.elapsed().as_secs_f64() * 1e3);
                if run.operation == "gap" {
                    now.acknowledged.push(Instant::now());
                }
            }
            Err(error) => {
                now.errors += 1;
                now.last_error = with_cause(&*error);
                drop(now);
                tokio::time::sleep(Duration::from_millis(1)).await;
                if run.operation == "gap" {
                    endpoint += 1;
                    let next = &run.endpoints[endpoint % run.endpoints.len()];
                    let open = tokio::time::timeout(PATIENCE, Connection::open(&run.kind, next));
                    connection = open.await.ok().and_then(Result::ok);
                }
            }
        }
    }
}

fn line(run: &Run, seen: &Seen, begun: Instant) -> String {
    let seconds = begun.elapsed().as_secs_f64();
    let mut times = seen.milliseconds.clone();
    times.sort_by(f64::total_cmp);
    let quantile = |q: f64| times.get((times.len().saturating_sub(1) as f64 * q) as usize).copied().unwrap_or(f64::NAN);
    let mut line = format!(
        "operations={} rate={:.1} p50={:.3} p99={:.3} max={:.1} errors={}",
        times.len(),
        times.len() as f64 / seconds,
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
        seen.errors
    );
    if run.operation == "gap" {
        let mut at = seen.acknowledged.clone();
        at.sort();
        let gap = at.windows(2).map(|w| (w[1] - w[0]).as_secs_f64() * 1e3).fold(0.0, f64::max);
        line.push_str(&format!(" gap={gap:.0}"));
    }
    if seen.errors > 0 {
        eprintln!("load: the last of {} errors: {}", seen.errors, seen.last_error);
    }
    line
}
