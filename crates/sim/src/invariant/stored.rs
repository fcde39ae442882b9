//! What a crash would leave of a node at this moment.

use std::sync::Arc;

use polity_base::seams::Seams;
use polity_store::disk::Disk;
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{State, StateOptions};

use crate::machine::{Machine, master_key};
use crate::world::{SeededEntropy, SkewedClock};

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
    /// anything.
    pub async fn open(machine: &Machine) -> Result<Option<Stored>, String> {
        let disk = machine.disk().durable();
        let failed = |e: polity_store::Error| format!("n{} could not be started again: {e}", machine.node);
        let is_there = |name: &str| disk.exists(name).unwrap_or_default();
        if machine.disk().has_stopped() || !is_there("keyring") || !is_there("state") {
            return Ok(None);
        }
        let seams =
            Seams { clock: Arc::new(SkewedClock::new(0, 0)), entropy: Arc::new(SeededEntropy::new(machine.node)) };
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let master = MasterKey::from_file(&master_key(&machine.folder())).map_err(failed)?;
        let keys = Keyring::open(&*disk, &master, &*seams.entropy).map_err(failed)?;
        let options = StateOptions { cache_bytes: 1 << 20, ..StateOptions::default() };
        let state = State::open(disk.clone(), &keys, seams.entropy.clone(), options).map_err(failed)?;
        let (log, _) = Log::open(disk, &keys, seams.entropy, LogOptions::default()).await.map_err(failed)?;
        Ok(Some(Stored { log, state }))
    }
}
