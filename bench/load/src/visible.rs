//! How long a write takes until every endpoint shows it.
//!
//! One client writes a new row at the first endpoint; one at each other endpoint asks for
//! it again and again. So a figure holds half a read's round trip more than it should, on
//! the average, and no clock but this program's is read.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls, Statement};

use crate::{Failure, Run};

/// A pause between two writes, so that none waits for the one before it.
const PAUSE: Duration = Duration::from_millis(5);
/// No write takes longer unless something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn measure(run: &Run) -> Result<String, Failure> {
    let writer = connect(&run.endpoints[0]).await?;
    writer
        .batch_execute("CREATE TABLE IF NOT EXISTS seen (k bigint PRIMARY KEY) WITH (guarantee = 'eventual')")
        .await?;
    let write = writer.prepare("INSERT INTO seen VALUES ($1)").await?;
    let mut readers = Vec::new();
    for endpoint in &run.endpoints[1..] {
        let reader = connect(endpoint).await?;
        // The table may have to come first.
        let begun = Instant::now();
        let read = loop {
            match reader.prepare("SELECT 1 FROM seen WHERE k = $1").await {
                Ok(read) => break read,
                Err(error) if begun.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        };
        readers.push((reader, read));
    }
    let first: i64 = writer.query_one("SELECT coalesce(max(k), 0) FROM seen", &[]).await?.try_get(0)?;
    let mut milliseconds = Vec::new();
    let end = Instant::now() + Duration::from_secs_f64(run.seconds);
    for key in first + 1.. {
        if Instant::now() >= end {
            break;
        }
        let begun = Instant::now();
        writer.execute(&write, &[&key]).await?;
        // Where it is first does not matter: all must show it.
        for (reader, read) in &readers {
            shows(reader, read, key, begun).await?;
        }
        milliseconds.push(begun.elapsed().as_secs_f64() * 1e3);
        tokio::time::sleep(PAUSE).await;
    }
    milliseconds.sort_by(f64::total_cmp);
    let quantile = |q: f64| milliseconds.get((milliseconds.len().saturating_sub(1) as f64 * q) as usize).copied();
    Ok(format!(
        "operations={} rate={:.1} p50={:.3} p99={:.3} errors=0",
        milliseconds.len(),
        milliseconds.len() as f64 / run.seconds,
        quantile(0.5).unwrap_or(f64::NAN),
        quantile(0.99).unwrap_or(f64::NAN)
    ))
}

async fn shows(reader: &Client, read: &Statement, key: i64, begun: Instant) -> Result<(), Failure> {
    while reader.query(read, &[&key]).await?.is_empty() {
        if begun.elapsed() > PATIENCE {
            return Err(format!("row {key} is not there after {PATIENCE:?}").into());
        }
    }
    Ok(())
}

async fn connect(endpoint: &str) -> Result<Client, Failure> {
    let (client, connection) = tokio_postgres::connect(endpoint, NoTls).await?;
    tokio::task::spawn_local(connection);
    Ok(client)
}
