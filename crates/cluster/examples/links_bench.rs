//! How many calls a second two nodes' links carry over the loopback interface, and
//! what a call costs.
//!
//! ```text
//! cargo run --release -p polity-cluster --example links_bench [BYTES [SECONDS]]
//! ```
//! Both nodes run in this process, so the processor time of a call is that of both
//! sides together: the caller, two encryptions, two decryptions, the handler.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::seams::{ClockSource, Entropy, Seams};
use polity_base::time::ClockReading;
use polity_base::{NodeId, Timestamp};
use polity_cluster::certificates::{Authority, Files};
use polity_cluster::links::Limits;
use polity_cluster::{Handler, Links, LinksConfig, Refusal, Service, Traffic};
use tokio::time::Instant;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);
const CLUSTER: u128 = 1;
const ECHO: Service = Service(100);
/// The unit of processor time in `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Certificates only need a time in which they are valid.
struct OneTime;

impl ClockSource for OneTime {
    fn read(&self) -> ClockReading {
        ClockReading { earliest: NOW, latest: NOW }
    }
}

/// Links draw chances only for pauses and faults.
#[derive(Default)]
struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        buffer.fill(self.0.fetch_add(1, Ordering::Relaxed) as u8);
    }
}

struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn answer(&self, _: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        Ok(request)
    }
}

async fn start(folder: &Path, authority: &Authority, node: u64) -> Result<Links, polity_cluster::Error> {
    let certificates = Files {
        authority: authority.certificate().to_owned(),
        certificate: folder.join(format!("{node}.pem")),
        private_key: folder.join(format!("{node}.key")),
    };
    let made = authority.node(NodeId(node), &[], 1, NOW)?;
    made.write(&certificates.certificate, &certificates.private_key)?;
    let seams = Seams { clock: Arc::new(OneTime), entropy: Arc::new(Counting::default()) };
    let listen = ([127, 0, 0, 1], 0).into();
    let config = LinksConfig {
        cluster: CLUSTER,
        node: NodeId(node),
        listen,
        certificates,
        seams,
        limits: Limits::default(),
        transport: polity_cluster::links::carrier::Transport::Tls,
    };
    Links::start(config).await
}

/// The processor time of this process so far, in seconds.
fn processor_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Result<Vec<f64>, _> = fields.skip(11).take(2).map(str::parse).collect();
    Ok(ticks?.into_iter().sum::<f64>() / TICKS_PER_SECOND)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let bytes: usize = arguments.next().map_or(Ok(128), |n| n.parse())?;
    let seconds: f64 = arguments.next().map_or(Ok(4.0), |n| n.parse())?;
    let folder = tempfile::tempdir()?;
    let authority = Authority::create(folder.path(), CLUSTER, 1, NOW)?;
    let one = start(folder.path(), &authority, 1).await?;
    let two = start(folder.path(), &authority, 2).await?;
    two.register(ECHO, Arc::new(Echo));
    let (address, request) = (two.local_address().to_string(), Bytes::from(vec![7; bytes]));
    println!("{bytes} bytes there and back");
    println!("callers   calls/s   µs of processor per call   median µs   99% µs   calls per frame");
    for callers in [1, 16, 64] {
        one.call(NodeId(2), &address, ECHO, Traffic::Control, request.clone()).await?;
        let (before, used) = (one.peers(), processor_seconds()?);
        let (begun, end) = (Instant::now(), Duration::from_secs_f64(seconds));
        let tasks: Vec<_> = (0..callers)
            .map(|_| {
                let (one, address, request) = (one.clone(), address.clone(), request.clone());
                tokio::spawn(async move {
                    let mut took = Vec::new();
                    while begun.elapsed() < end {
                        let start = Instant::now();
                        one.call(NodeId(2), &address, ECHO, Traffic::Control, request.clone()).await?;
                        took.push(start.elapsed());
                    }
                    Ok::<_, polity_cluster::CallError>(took)
                })
            })
            .collect();
        let mut took = Vec::new();
        for task in tasks {
            took.extend(task.await??);
        }
        let (elapsed, used) = (begun.elapsed().as_secs_f64(), processor_seconds()? - used);
        let after = one.peers();
        took.sort();
        let at = |part: f64| took[(took.len() as f64 * part) as usize].as_micros();
        println!(
            "{callers:7} {:9.0} {:26.1} {:11} {:8} {:17.1}",
            took.len() as f64 / elapsed,
            used * 1e6 / took.len() as f64,
            at(0.5),
            at(0.99),
            took.len() as f64 / (after[0].control.frames_sent - before[0].control.frames_sent) as f64,
        );
    }
    one.stop().await;
    two.stop().await;
    Ok(())
}
