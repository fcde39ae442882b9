//! Validators in one process that are not simulated: real time, real tasks, channels
//! for links, a log on a disk in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use polity_base::seams::{ClockSource, Entropy};
use polity_base::time::ClockReading;
use polity_base::{NodeId, Timestamp};
use polity_store::disk::Disk;
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use tokio::sync::mpsc;

use crate::consensus::application::Application;
use crate::consensus::driver::{Handle, Network};

/// What a node sent to another.
type Letter = (NodeId, Bytes);

/// Channels between nodes.
#[derive(Default)]
pub struct Hub {
    /// Each with a way for urgent and one for large letters
    nodes: Mutex<BTreeMap<NodeId, [mpsc::UnboundedSender<Letter>; 2]>>,
}

/// One node's end of a hub.
pub struct Port {
    hub: Arc<Hub>,
    node: NodeId,
    all: Vec<NodeId>,
}

impl Hub {
    /// A node's end; `all` are the nodes there are.
    pub fn port(self: &Arc<Hub>, node: NodeId, all: &[NodeId]) -> Arc<Port> {
        let all = all.iter().copied().filter(|other| *other != node).collect();
        Arc::new(Port { hub: self.clone(), node, all })
    }

    /// Delivers to a validator what is sent to its node, until it is unplugged.
    pub fn plug<A: Application>(&self, node: NodeId, handle: Handle<A>) {
        let ways = [(); 2].map(|()| {
            let (sender, mut receiver) = mpsc::unbounded_channel::<Letter>();
            let handle = handle.clone();
            tokio::spawn(async move {
                while let Some((from, bytes)) = receiver.recv().await {
                    handle.receive(from, bytes).await;
                }
            });
            sender
        });
        self.nodes.lock().insert(node, ways);
    }

    /// Nothing arrives at a node any more.
    pub fn unplug(&self, node: NodeId) {
        self.nodes.lock().remove(&node);
    }
}

impl Network for Port {
    fn send(&self, to: NodeId, message: Bytes, bulk: bool) {
        if let Some(ways) = self.hub.nodes.lock().get(&to) {
            // A node that is gone misses it.
            let _ = ways[usize::from(bulk)].send((self.node, message));
        }
    }

    fn peers(&self) -> Vec<NodeId> {
        self.all.clone()
    }
}

/// A clock that advances by a millisecond each time it is read.
#[derive(Default)]
pub struct StepClock(AtomicU64);

impl ClockSource for StepClock {
    fn read(&self) -> ClockReading {
        let at = Timestamp((super::EPOCH_MS + self.0.fetch_add(1, Ordering::Relaxed)) * 1_000_000);
        ClockReading { earliest: at, latest: at }
    }
}

/// Numbers that never repeat, for keys that protect nothing.
#[derive(Default)]
pub struct Counting(AtomicU64);

impl Entropy for Counting {
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let number = self.0.fetch_add(1, Ordering::Relaxed) + 1;
            chunk.copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes()[..chunk.len()]);
        }
    }
}

/// A log on a disk, sealed with the same keys each time.
pub async fn open_log(disk: Arc<dyn Disk>) -> Result<Log, polity_store::Error> {
    let entropy = Counting::default();
    let keys = polity_store::disk::MemoryDisk::new(0);
    let keyring = Keyring::open(&keys, &MasterKey::generate(&entropy), &entropy)?;
    let (log, _) = Log::open(disk, &keyring, Arc::new(Counting::default()), LogOptions::default()).await?;
    Ok(log)
}
