//! Links over real sockets on the loopback interface.

mod calls;
mod visits;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::ClockReading;
use polity_base::{NodeId, Timestamp};

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
        let authority = Authority::create(&folder.path().join("ca"), CLUSTER, 30, NOW).unwrap();
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
