//! How fast the log is on this machine's disk.
//!
//! `cargo run --release -p polity-store --example log_bench -- [folder]`

use std::sync::Arc;
use std::time::Duration;

use polity_base::RangeId;
use polity_base::seams::Entropy;
use polity_store::disk::{OpenOptions, RealDisk};
use polity_store::{Disk, Keyring, Log, LogOptions, MasterKey, Record};
use tokio::time::Instant;

/// Good enough to measure with.
struct ProcessEntropy;

impl Entropy for ProcessEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        aws_lc_rs::rand::fill(buffer).expect("the operating system has no entropy");
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map_or_else(std::env::temp_dir, Into::into).join("polity-log-bench");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(&folder)?);
    let keys = Keyring::open(&*disk, &MasterKey::from_hex(&"7".repeat(64), "bench")?, &ProcessEntropy)?;
    syncs(&*disk).await?;
    let (log, _) = Log::open(disk.clone(), &keys, Arc::new(ProcessEntropy), LogOptions::default()).await?;
    let mut group = 0;
    for appenders in [1, 16, 64, 256] {
        for bytes in [100, 1000] {
            group += 1000;
            appends(&log, group, appenders, bytes).await?;
        }
    }
    bulk(&log, 64 << 20).await?;
    log.close().await;
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

/// What the disk itself takes, without and with a hop to another thread.
async fn syncs(disk: &dyn Disk) -> Result<(), Box<dyn std::error::Error>> {
    for (form, zeroed) in [("growing", 0), ("written before", 4 << 20)] {
        let file = disk.open("raw", OpenOptions::FRESH)?;
        file.write_at(0, &vec![0; zeroed])?;
        file.sync()?;
        for asynchronous in [false, true] {
            let (start, cpu) = (Instant::now(), cpu_time());
            for n in 0..1000 {
                file.write_at(n * 512, &[n as u8; 512])?;
                if asynchronous { file.clone().sync_async().await? } else { file.sync()? }
            }
            let (took, cpu) = (start.elapsed() / 1000, (cpu_time() - cpu) / 1000);
            println!("disk::sync/file={form}/async={asynchronous}: {took:?}, {cpu:?} CPU");
        }
    }
    disk.remove("raw")?;
    Ok(())
}

async fn appends(log: &Log, group: u64, appenders: u64, bytes: usize) -> Result<(), Box<dyn std::error::Error>> {
    let (start, cpu, before) = (Instant::now(), cpu_time(), log.stats());
    let until = start + Duration::from_secs(3);
    let tasks: Vec<_> = (0..appenders)
        .map(|n| {
            let (log, group) = (log.clone(), RangeId(group + n));
            tokio::spawn(async move {
                let payload = bytes::Bytes::from(vec![7; bytes]);
                let mut index = 0;
                while Instant::now() < until {
                    log.append_wait(vec![Record::Entry { group, index, term: 1, payload: payload.clone() }]).await?;
                    index += 1;
                    if index % 1000 == 0 {
                        log.append_wait(vec![Record::Purge { group, upto_index: index - 100 }]).await?;
                    }
                }
                log.append_wait(vec![Record::Purge { group, upto_index: index - 1 }]).await
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let (took, cpu, after) = (start.elapsed(), cpu_time() - cpu, log.stats());
    let (appends, flushes) = (after.appends - before.appends, after.flushes - before.flushes);
    println!(
        "log::append/appenders={appenders}/bytes={bytes}: {:.0}/s, {:.1} an fsync, {:.2} us CPU each, {:.0} fsyncs/s",
        appends as f64 / took.as_secs_f64(),
        appends as f64 / flushes as f64,
        cpu.as_secs_f64() * 1e6 / appends as f64,
        flushes as f64 / took.as_secs_f64(),
    );
    Ok(())
}

async fn bulk(log: &Log, bytes: usize) -> Result<(), Box<dyn std::error::Error>> {
    let payload = bytes::Bytes::from(vec![7; bytes]);
    let start = Instant::now();
    for index in 0..4 {
        log.append_wait(vec![Record::Entry { group: RangeId(1), index, term: 1, payload: payload.clone() }]).await?;
    }
    let rate = 4.0 * bytes as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("log::append/bytes={bytes}: {rate:.0} MB/s");
    Ok(())
}

/// The processor time of this process, in steps of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = |n| stat.rsplit(')').next()?.split_whitespace().nth(n)?.parse::<u64>().ok();
    Duration::from_millis(10 * (ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0)))
}
