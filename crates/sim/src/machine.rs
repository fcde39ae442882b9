//! A simulated machine: what a node runs on, and the node while it runs.
//!
//! The machine stays when the node crashes: its disk (as far as it was synced), its
//! clock, its keys. Each start of the node draws its entropy anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use polity_base::seams::Seams;
use polity_base::{NodeId, RangeId};
use polity_cluster::links::carrier::Transport;
use polity_node::admin;
use polity_node::{Core, Limits, LinkConfig, NodeConfig, Security, World};
use polity_store::disk::{Crash, MemoryDisk};
use polity_store::log::Log;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::disk::{Pace, TimedDisk};
use crate::door::{self, Caller, Door};
use crate::network::{PORT, SimulatedNetwork, host};
use crate::run::TICK;
use crate::trace::{Trace, Who};
use crate::world::{SeededEntropy, SkewedClock};

/// How often a node's leadership is sampled in its own time.
const SAMPLE_EVERY: Duration = Duration::from_millis(5);

/// What is the same for all machines of a run.
pub struct Setting {
    /// The run's seed
    pub seed: u64,
    /// The numbers of the nodes there are, as their operator knows them
    pub members: Mutex<BTreeSet<u64>>,
    /// A real folder for keys and certificates: they are made by code that wants files
    pub folder: PathBuf,
    /// How long the rows may stay behind the log on disk
    pub checkpoint_interval: Duration,
    /// Log entries that are kept for those who lag behind
    pub kept_entries: u64,
    /// For how long old versions of rows are kept
    pub retention: Duration,
    /// Bytes of a file of the log
    pub segment_bytes: u64,
    /// Where things are noted
    pub trace: Trace,
}

/// A machine.
pub struct Machine {
    /// The number of its node
    pub node: u64,
    /// Its clock
    pub clock: Arc<SkewedClock>,
    /// How fast its disk is
    pub pace: Arc<Pace>,
    /// How many millionths its monotonic clock gains
    gains_ppm: u64,
    setting: Arc<Setting>,
    disk: Mutex<MemoryDisk>,
    /// What was on the disk before it was damaged or wiped
    before_loss: Mutex<Option<MemoryDisk>>,
    /// The log that a damaged machine had when it lost power
    last_log: Mutex<Option<Log>>,
    starts: AtomicU64,
    running: Mutex<Option<Running>>,
    refusal: Mutex<Option<String>>,
    sample: Mutex<Sample>,
    stop: watch::Sender<bool>,
    stopped: AtomicBool,
    on: AtomicBool,
}

/// A node that has come up.
#[derive(Clone)]
pub struct Running {
    /// The node
    pub core: Arc<Core>,
    /// The way to its sessions
    pub door: Door,
    /// How many starts there were before this one
    pub incarnation: u64,
}

/// What a node thought of its leadership, by its own clock.
#[derive(Clone, Copy, Default)]
pub struct Sample {
    /// Whether it may answer reads alone, and the term in which
    pub lease: Option<u64>,
    /// When that was, by the simulation's clock
    pub at: Duration,
}

impl Machine {
    /// A machine that has never been started.
    pub fn new(node: u64, setting: Arc<Setting>, clock: SkewedClock, gains_ppm: u64) -> Machine {
        let seed = setting.seed ^ node.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Machine {
            node,
            clock: Arc::new(clock),
            pace: Arc::new(Pace::new(seed ^ 1)),
            gains_ppm,
            disk: Mutex::new(MemoryDisk::new(seed ^ 2)),
            before_loss: Mutex::default(),
            last_log: Mutex::default(),
            setting,
            starts: AtomicU64::new(0),
            running: Mutex::default(),
            refusal: Mutex::default(),
            sample: Mutex::default(),
            stop: watch::Sender::new(false),
            stopped: AtomicBool::new(false),
            on: AtomicBool::new(false),
        }
    }

    /// Its disk, as it is now.
    pub fn disk(&self) -> MemoryDisk {
        self.disk.lock().clone()
    }

    /// The node, if it is up.
    pub fn running(&self) -> Option<Running> {
        self.running.lock().clone()
    }

    /// Why the node did not come up, if it did not.
    pub fn refusal(&self) -> Option<String> {
        self.refusal.lock().clone()
    }

    /// What the node thought last of its leadership.
    pub fn sample(&self) -> Sample {
        *self.sample.lock()
    }

    /// The folder with the node's keys.
    pub fn folder(&self) -> PathBuf {
        self.setting.folder.join(host(self.node))
    }

    /// What happens to the disk in a crash, and to all that knew of the node. The
    /// node itself is for turmoil to end, after this.
    pub fn lose_power(&self, crash: Crash) {
        if self.before_loss.lock().is_some()
            && let Some(running) = self.running()
        {
            *self.last_log.lock() = Some(running.core.log().clone());
        }
        self.forget();
        self.on.store(false, Ordering::Relaxed);
        let mut disk = self.disk.lock();
        *disk = disk.restart(crash);
    }

    /// Takes note of what the disk holds, before it is damaged or wiped.
    pub fn remember_disk(&self) {
        let durable = self.disk.lock().durable();
        self.before_loss.lock().get_or_insert(durable);
    }

    /// What the disk held before it was damaged or wiped, if it was.
    pub fn before_loss(&self) -> Option<MemoryDisk> {
        self.before_loss.lock().clone()
    }

    /// Whether a machine that lost data had this entry in its log when it ran last, as
    /// far as it knew.
    pub fn had(&self, group: RangeId, index: u64, term: u64) -> bool {
        let had =
            |log: &Log| log.term(group, index) == Some(term) || log.purged(group).is_some_and(|purged| purged >= index);
        self.running().is_some_and(|running| had(running.core.log())) || self.last_log.lock().as_ref().is_some_and(had)
    }

    /// Takes what there is now for all that there ever was.
    pub fn forget_loss(&self) {
        *self.before_loss.lock() = None;
    }

    /// Puts an empty disk in place of the one there was.
    pub fn wipe(&self) {
        *self.disk.lock() = MemoryDisk::new(self.setting.seed ^ self.node ^ 4);
    }

    /// Lets go of the node.
    fn forget(&self) {
        *self.running.lock() = None;
        *self.refusal.lock() = None;
        *self.sample.lock() = Sample::default();
    }

    /// Whether it has not lost power since it was started last.
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Whether the node stopped in order.
    pub fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Has the node stop in order.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// The node, from its start until it is told to stop.
    pub async fn run(self: Arc<Machine>) -> turmoil::Result {
        self.forget();
        self.stop.send_replace(false);
        self.stopped.store(false, Ordering::Relaxed);
        self.on.store(true, Ordering::Relaxed);
        let incarnation = self.starts.fetch_add(1, Ordering::Relaxed);
        let trace = &self.setting.trace;
        let core = match Core::start(&self.config(incarnation)).await {
            Ok(core) => Arc::new(core),
            Err(error) => {
                trace.note(Who::Node(self.node), format_args!("does not come up: {error}"));
                *self.refusal.lock() = Some(error.to_string());
                return std::future::pending().await;
            }
        };
        trace.note(Who::Node(self.node), format_args!("is up"));
        let (door, callers) = Door::new();
        *self.running.lock() = Some(Running { core: core.clone(), door, incarnation });
        let hurry = tokio::spawn(hurry(self.gains_ppm));
        self.serve(&core, callers).await;
        hurry.abort();
        self.forget();
        trace.note(Who::Node(self.node), format_args!("stops"));
        let stopped = match Arc::into_inner(core) {
            Some(core) => core.stop().await.map_err(|error| error.to_string()),
            None => Err("somebody holds the node still".to_owned()),
        };
        trace.note(Who::Node(self.node), format_args!("stopped: {stopped:?}"));
        self.stopped.store(true, Ordering::Relaxed);
        std::future::pending().await
    }

    async fn serve(&self, core: &Arc<Core>, mut callers: mpsc::UnboundedReceiver<Caller>) {
        let mut stop = self.stop.subscribe();
        let mut orders = JoinSet::new();
        let mut ticks = tokio::time::interval(SAMPLE_EVERY);
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                caller = callers.recv() => match caller {
                    Some(Caller::Client(line)) => drop(tokio::spawn(door::serve(core.engine().clone(), line))),
                    Some(Caller::Operator { remove, answer }) => {
                        let core = core.clone();
                        orders.spawn(async move {
                            let done = core.administer(&admin::Request::Remove { node: remove }).await;
                            // Whoever asked may have given up.
                            let _ = answer.send(done);
                        });
                    }
                    None => break,
                },
                _ = ticks.tick() => {
                    let status = core.group().status();
                    // A sample is a moment old when it is looked at.
                    let valid = status.heard.is_some_and(|ago| ago + 4 * SAMPLE_EVERY < core.group().lease());
                    let lease = (status.leads && valid && status.voters.len() > 1).then_some(status.term);
                    *self.sample.lock() = Sample { lease, at: self.setting.trace.now() };
                }
            }
        }
        orders.shutdown().await;
    }

    fn config(&self, incarnation: u64) -> NodeConfig {
        let setting = &self.setting;
        let certificates = Some(setting.folder.join("certificates"));
        let mut config = NodeConfig::new(self.folder(), Security::Development { certificates });
        config.node = Some(NodeId(self.node));
        config.zone = host(self.node);
        // The first node founds the cluster, unless its folder is lost: whoever starts
        // that machine again knows that there is a cluster.
        let founds = self.node == 1 && self.before_loss.lock().is_none();
        let others = setting.members.lock().iter().copied().filter(|other| *other != self.node && !founds).collect();
        let others: Vec<u64> = others;
        config.link = Some(LinkConfig {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)),
            advertise: Some(format!("{}:{PORT}", host(self.node))),
            join: others.into_iter().map(|other| format!("{}:{PORT}", host(other))).collect(),
            allow_faults: true,
            delays: BTreeMap::new(),
        });
        config.limits = Limits {
            row_cache_bytes: 4 << 20,
            log_cache_bytes: 64 << 10,
            query_memory_bytes: 64 << 20,
            spill_bytes: 64 << 20,
            transaction_bytes: 4 << 20,
            checkpoint_interval: setting.checkpoint_interval,
            checkpoint_bytes: 256 << 10,
            retention: setting.retention,
            log_segment_bytes: setting.segment_bytes,
            kept_entries: setting.kept_entries,
            ..Limits::default()
        };
        let seed = setting.seed ^ self.node.rotate_left(32) ^ incarnation.rotate_left(48) ^ 3;
        let seams = Seams { clock: self.clock.clone(), entropy: Arc::new(SeededEntropy::new(seed)) };
        let network = SimulatedNetwork { node: self.node, trace: setting.trace.clone() };
        config.world = Some(World {
            seams,
            disk: Arc::new(TimedDisk::new(self.disk(), self.pace.clone())),
            transport: Transport::Plain(Arc::new(network)),
        });
        config
    }
}

/// Makes the monotonic clock of the runtime it runs in gain so many millionths.
async fn hurry(gains_ppm: u64) {
    let Some(every) = 1_000_000u64.checked_div(gains_ppm) else { return };
    loop {
        tokio::time::sleep(Duration::from_millis(every)).await;
        // The tick this happens in ends when the clock has gone on by more than a tick:
        // the rest is gained.
        tokio::time::advance(2 * TICK).await;
    }
}

/// The file in a node's folder with the key that its data is encrypted under.
pub fn master_key(folder: &Path) -> PathBuf {
    folder.join("dev").join("master.key")
}
