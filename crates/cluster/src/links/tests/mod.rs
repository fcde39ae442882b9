//! Links over real sockets on the loopback interface.

mod bounds;
mod calls;
mod drills;
mod refusals;
mod renewal;
mod stranger;
mod visits;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::ClockReading;
use polity_base::{NodeId, Timestamp};

use super::carrier::Transport;
use super::*;
use crate::certificates::{Authority, Files};

pub const CLUSTER: u128 = 0x3f0c;
/// 2027-01-15
pub const NOW: Timestamp = Timestamp(1_800_000_000_000_000_000);

/// A clock that stands still unless it is set.
pub struct SetClock(pub AtomicU64);

impl ClockSource for SetClock {
    fn read(&self) -> ClockReading {
        let now = Timestamp(self.0.load(Ordering::Relaxed));
        ClockReading { earliest: now, latest: now }
    }
}

/// Numbers that look random (splitmix64).
pub struct Numbers(pub AtomicU64);

impl Entropy for Numbers {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A cluster's authority, and a clock that all its nodes share.
pub struct World {
    pub folder: tempfile::TempDir,
    pub authority: Authority,
    pub clock: Arc<SetClock>,
}

impl World {
    pub fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(&folder.path().join("ca"), CLUSTER, 60, NOW).unwrap();
        World { folder, authority, clock: Arc::new(SetClock(AtomicU64::new(NOW.0))) }
    }

    /// The files of a node, made if they are not there.
    pub fn files(&self, node: u64) -> Files {
        let files = self.places(&format!("n{node}"));
        if !files.certificate.exists() {
            let made = self.authority.node(NodeId(node), &[], 10, NOW).unwrap();
            made.write(&files.certificate, &files.private_key).unwrap();
        }
        files
    }

    pub fn places(&self, stem: &str) -> Files {
        let place = |name: &str| Path::join(self.folder.path(), name);
        Files {
            authority: self.authority.certificate().to_owned(),
            certificate: place(&format!("{stem}.pem")),
            private_key: place(&format!("{stem}.key")),
        }
    }

    pub fn config(&self, node: u64) -> LinksConfig {
        LinksConfig {
            cluster: CLUSTER,
            node: NodeId(node),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            certificates: self.files(node),
            seams: Seams { clock: self.clock.clone(), entropy: Arc::new(Numbers(AtomicU64::new(node))) },
            // Machines that run tests have better to do than to answer at once.
            limits: Limits {
                silence: Duration::from_secs(20),
                dial_timeout: Duration::from_secs(20),
                dial_wait: Duration::from_secs(20),
                ..Limits::default()
            },
            transport: Transport::Tls,
        }
    }

    pub async fn start(&self, node: u64) -> Links {
        Links::start(self.config(node)).await.unwrap()
    }
}

/// Answers with what it was asked, behind the number of the node that asked.
pub struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn answer(&self, from: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        Ok([&from.0.to_le_bytes(), &request[..]].concat().into())
    }
}

pub fn echoed(from: u64, request: &[u8]) -> Bytes {
    [&from.to_le_bytes(), request].concat().into()
}

pub const ECHO: Service = Service(100);

/// Calls the echo at `to`.
pub async fn echo(from: &Links, to: &Links, traffic: Traffic, request: &'static [u8]) -> Result<Bytes, CallError> {
    let address = to.local_address().to_string();
    from.call(to.node(), &address, ECHO, traffic, Bytes::from_static(request)).await
}

/// Starts a call of the echo that goes on by itself.
pub fn call(
    from: &Links,
    to: &Links,
    service: Service,
    traffic: Traffic,
    request: impl Into<Bytes>,
) -> tokio::task::JoinHandle<Result<Bytes, CallError>> {
    let (from, to, address, request) = (from.clone(), to.node(), to.local_address().to_string(), request.into());
    tokio::spawn(async move { from.call(to, &address, service, traffic, request).await })
}

/// Waits until something is so; fails when it is not within a time that is ample.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let ample = tokio::time::Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(tokio::time::Instant::now() < ample, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Answers once it may.
pub struct Gate(pub tokio::sync::Semaphore, pub AtomicU64);

impl Gate {
    pub fn closed() -> Arc<Gate> {
        Arc::new(Gate(tokio::sync::Semaphore::new(0), AtomicU64::new(0)))
    }

    /// How many requests have come.
    pub fn came(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }

    pub fn open(&self) {
        self.0.add_permits(tokio::sync::Semaphore::MAX_PERMITS / 2);
    }
}

#[async_trait]
impl Handler for Gate {
    async fn answer(&self, _: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        self.1.fetch_add(1, Ordering::Relaxed);
        drop(self.0.acquire().await);
        Ok(request)
    }
}

pub const GATE: Service = Service(101);
