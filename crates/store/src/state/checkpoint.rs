//! Making the state durable: moving a layer into redb.
//!
//! Whoever applies waits only while the layers are swapped. Everything the layer
//! holds, and the marks, floors and counts of that moment, become one transaction
//! of redb.

use std::collections::BTreeMap;
use std::sync::Arc;

use polity_base::RangeId;
use redb::WriteTransaction;

use crate::error::Error;
use crate::state::flush::Flush;
use crate::state::layer::{Layer, Rows};
use crate::state::reader::{Base, View};
use crate::state::tables::{HISTORY, StoredGroup, base, put_mark, put_stats, write};
use crate::state::{AppliedMark, State, from_redb};

/// What a checkpoint did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    /// Up to here the state of each group is durable
    pub marks: BTreeMap<RangeId, AppliedMark>,
    /// How many versions were written
    pub versions: u64,
}

/// A group whose log can be purged once the state is durable.
pub trait Checkpointed: Send + Sync + 'static {
    /// The group
    fn group(&self) -> RangeId;

    /// How many bytes it has logged since it was started
    fn logged_bytes(&self) -> u64;

    /// Takes note that its entries up to `mark` are not needed any more to recover the
    /// state.
    fn made_durable(&self, mark: AppliedMark);
}

/// What is known to be durable.
pub(super) struct Durable {
    pub marks: BTreeMap<RangeId, AppliedMark>,
}

/// A layer that no longer changes, and the groups as they were when it became one.
pub(super) struct Frozen {
    layer: Arc<Layer>,
    groups: Vec<(RangeId, StoredGroup)>,
}

impl State {
    /// Makes everything applied so far durable. Blocks for as long as the disk
    /// takes; readers and whoever applies do not wait for it.
    ///
    /// # Errors
    /// After an error nothing can be made durable until the state is opened again.
    pub fn checkpoint(&self) -> Result<Checkpoint, Error> {
        let mut durable = self.flusher.lock();
        match self.freeze(&durable)? {
            Some(frozen) => self.flush(&mut durable, &frozen),
            None => Ok(Checkpoint { marks: durable.marks.clone(), versions: 0 }),
        }
    }

    /// Writes what was frozen to redb, and lets readers find it there.
    pub(super) fn flush(&self, durable: &mut Durable, frozen: &Frozen) -> Result<Checkpoint, Error> {
        let mut stats = self.stats.read().clone();
        let versions = write(&self.db, &self.failure, |transaction| {
            let rows = frozen.layer.rows();
            let versions = Flush::new(self, transaction, &rows, &mut stats)?.run(&rows)?;
            self.write_history(transaction, &rows, &frozen.groups)?;
            for (id, stored) in &frozen.groups {
                put_mark(transaction, &self.failure, *id, stored)?;
            }
            put_stats(transaction, &self.failure, &stats, self.pins.lock().horizons())?;
            Ok(versions)
        });
        let published = versions.and_then(|versions| {
            let horizons = self.view.read().base.horizons;
            Ok((versions, base(&self.db, &self.failure, horizons)?))
        });
        let (versions, base) = published.map_err(|e| self.poison(e))?;
        self.thaw(base);
        *self.stats.write() = stats;
        durable.marks = frozen.groups.iter().map(|(id, stored)| (*id, stored.mark)).collect();
        Ok(Checkpoint { marks: durable.marks.clone(), versions })
    }

    /// Starts a new active layer. Gives the old one and the marks that belong to
    /// it, or nothing if all of it is durable already.
    pub(super) fn freeze(&self, durable: &Durable) -> Result<Option<Frozen>, Error> {
        let _turn = self.writer.lock();
        // Looked at under the lock: a failed apply leaves its mark before it
        // lets go.
        self.check()?;
        let groups: Vec<_> = self
            .groups
            .read()
            .iter()
            .map(|(id, group)| (*id, StoredGroup { mark: *group.mark.lock(), floor: group.window.read().floor() }))
            .collect();
        let mut view = self.view.write();
        let same = groups.iter().all(|(id, stored)| durable.marks.get(id) == Some(&stored.mark));
        if same && view.active.rows().is_empty() {
            return Ok(None);
        }
        let frozen = view.active.clone();
        *view = Arc::new(View {
            base: view.base.clone(),
            frozen: Some(frozen.clone()),
            active: Arc::new(Layer::default()),
            clears: view.clears.clone(),
        });
        Ok(Some(Frozen { layer: frozen, groups }))
    }

    /// Puts redb's new content in the place of the frozen layer.
    fn thaw(&self, base: Base) {
        let mut view = self.view.write();
        let clears = view.active.rows().clears.clone();
        *view =
            Arc::new(View { base: Arc::new(base), frozen: None, active: view.active.clone(), clears: clears.into() });
    }

    fn write_history(
        &self,
        transaction: &WriteTransaction,
        rows: &Rows,
        groups: &[(RangeId, StoredGroup)],
    ) -> Result<(), Error> {
        let mut history = transaction.open_table(HISTORY).map_err(|e| from_redb(e, &self.failure))?;
        for (id, stored) in groups {
            for chunk in rows.history.get(id).into_iter().flatten() {
                let key = (id.0, chunk.last.0);
                history.insert(key, &chunk.bytes[..]).map_err(|e| from_redb(e, &self.failure))?;
            }
            // A chunk is forgotten when its last commit is.
            let old = (id.0, 0)..=(id.0, stored.floor.0);
            history.retain_in(old, |_, _| false).map_err(|e| from_redb(e, &self.failure))?;
        }
        Ok(())
    }
}
