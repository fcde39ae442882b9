//! What a crash would leave of a node at this moment.

use std::sync::Arc;

use polity_base::RangeId;
use polity_base::seams::Seams;
use polity_store::disk::{Disk, MemoryDisk};
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{State, StateOptions};

use crate::machine::{Machine, master_key};
use crate::world::{SeededEntropy, SkewedClock};

/// The group that holds every key.
const GROUP: RangeId = RangeId(1);
/// Under which name its vote is in the log.
const VOTE: &str = "vote";

/// The log and the rows that would be found if the machine crashed now, and all was
/// lost that can be.
pub struct Stored {
    /// The log
    pub log: Log,
    /// The rows of the last checkpoint
    pub state: State,
}

impl Stored {
    /// Reads them from a copy. None while the node has not got so far that it keeps
    /// anything, and while its machine has stopped: what its crash leaves is decided
    /// when it happens.
    pub fn of(machine: &Machine) -> Result<Option<Stored>, String> {
        let disk = machine.disk();
        if disk.has_stopped() { Ok(None) } else { Stored::at(machine, disk.durable()) }
    }

    /// Reads what a disk of this machine holds. None if it holds nothing.
    pub fn at(machine: &Machine, disk: MemoryDisk) -> Result<Option<Stored>, String> {
        let is_there = |name: &str| disk.exists(name).unwrap_or_default();
        if !is_there("keyring") || !is_there("state") {
            return Ok(None);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.map_err(|e| e.to_string())?;
        let opened = runtime.block_on(Stored::open(machine, Arc::new(disk)));
        opened.map(Some).map_err(|e| format!("n{} could not be started again: {e}", machine.node))
    }

    async fn open(machine: &Machine, disk: Arc<dyn Disk>) -> Result<Stored, polity_store::Error> {
        let seams =
            Seams { clock: Arc::new(SkewedClock::new(0, 0)), entropy: Arc::new(SeededEntropy::new(machine.node)) };
        let master = MasterKey::from_file(&master_key(&machine.folder()))?;
        let keys = Keyring::open(&*disk, &master, &*seams.entropy)?;
        let options = StateOptions { cache_bytes: 1 << 20, ..StateOptions::default() };
        let state = State::open(disk.clone(), &keys, seams.entropy.clone(), options)?;
        let (log, _) = Log::open(disk, &keys, seams.entropy, LogOptions::default()).await?;
        Ok(Stored { log, state })
    }

    /// Whether a crash would leave this entry: in the log, or in the rows, from which
    /// the log may have been purged.
    pub fn holds(&self, group: RangeId, index: u64, term: u64) -> bool {
        self.log.term(group, index) == Some(term) || self.state.applied(group).index >= index
    }

    /// Whether both logs have the same last entry, and remember the same vote.
    pub fn log_is_like(&self, other: &Stored) -> bool {
        let known = |stored: &Stored| (stored.log.last(GROUP), stored.log.state(GROUP, VOTE));
        known(self) == known(other)
    }
}
