//! Versioned rows: what the log's entries add up to.
//!
//! Every write is kept as a version with its commit timestamp, so that a read at a
//! timestamp sees exactly what was committed up to then, without locks, while
//! writing goes on.
//!
//! ```text
//!   apply ──> active layer ──(checkpoint)──> frozen layer ──> redb ──> sealed file
//!                  │                              │             │
//!                  └──────────── Reader: one consistent view of all three
//! ```
//!
//! | module       | holds                                                        |
//! |--------------|--------------------------------------------------------------|
//! | `apply`      | the one function that changes rows                           |
//! | `window`     | recent writes, which preconditions are checked against       |
//! | `layer`      | versions that are in memory only                             |
//! | `reader`     | point reads; `scan`: walks through spans                     |
//! | `checkpoint` | moving a layer to redb; `flush`: its rows on the way         |
//! | `collect`    | removing old versions                                        |
//! | `tables`     | what redb holds, and opening it                              |
//! | `digest`     | comparing replicas; `stats`: counting rows                   |
//! | `lanes`      | what there is once for each guarantee                        |
//! | [`transfer`] | giving a group's rows to another replica; `stage`: chunks that came |
//! | `version`    | how a version is a key in redb; `backend`: redb's sealed file |
//!
//! # Durability
//! The log is what makes writes durable. The file on disk holds the state as of
//! the last checkpoint, whole: each is one transaction of redb, synced in two
//! phases. After a crash the entries after [`State::applied`] are applied again.
//!
//! # Why replicas do not diverge
//! What becomes of a batch depends on: the commit timestamp, which follows from
//! the entry and the group's last commit; the recent writes of the group's window
//! and its floor, which are a function of the group's commits alone (see
//! `window.rs`); and the newest version of the keys of `Present` and `Absent`. The
//! last is read from the layers and redb together, which hold the same newest
//! versions wherever the border between them lies; collection removes a newest
//! version only when it says "deleted", which reads like no version at all. The
//! mark, the floor and the window's commits are written in the same transaction as
//! the rows, so a restart takes all of them back to the same entry. Groups share
//! nothing in these decisions, so neither does the order in which groups apply.
//!
//! An error while applying may leave an entry half applied in memory. The state
//! then refuses everything that could make it durable until a restart has gone
//! back to the last checkpoint.

mod apply;
mod backend;
mod checkpoint;
mod collect;
mod digest;
mod entry;
mod flush;
mod lanes;
mod layer;
mod reader;
mod scan;
mod stage;
mod stats;
mod tables;
#[cfg(test)]
mod tests;
pub mod transfer;
mod version;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use polity_base::seams::Entropy;
use polity_base::{Guarantee, Key, RangeId, Span, Timestamp};
use redb::Database;
use tokio::sync::watch;

use crate::disk::Disk;
use crate::error::Error;
use crate::seal::Keyring;
use crate::state::backend::Failure;
use crate::state::checkpoint::Durable;
use crate::state::collect::Pins;
use crate::state::lanes::Lanes;
use crate::state::layer::Layer;
use crate::state::reader::View;
use crate::state::window::Window;

pub use checkpoint::{Checkpoint, Checkpointed};
pub use collect::{Collected, Pin};
pub use digest::Digest;
pub use entry::{AppliedMark, BatchOutcome, EntryBody, EntryOutcome, OrderedEntry};
pub use reader::Reader;
pub use scan::Scan;
pub use stats::IndexStats;
pub use transfer::Export;
pub use window::Answer;

/// What can be chosen about a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateOptions {
    /// How many bytes of redb's pages stay in memory
    pub cache_bytes: usize,
    /// How many bytes of versions may wait in memory for a checkpoint; applying
    /// takes one itself when there are more
    pub layer_bytes: usize,
    /// How long versions are kept after they were superseded
    pub retention: Duration,
}

impl Default for StateOptions {
    fn default() -> StateOptions {
        StateOptions { cache_bytes: 256 << 20, layer_bytes: 384 << 20, retention: Duration::from_secs(600) }
    }
}

/// The versioned rows of a node.
pub struct State {
    db: Database,
    failure: Failure,
    options: StateOptions,
    window_weight: usize,
    groups: RwLock<BTreeMap<RangeId, Arc<Group>>>,
    /// Held by whoever applies or swaps layers
    writer: Mutex<()>,
    /// Held by whoever writes to redb
    flusher: Mutex<Durable>,
    view: RwLock<Arc<View>>,
    visible: Lanes<AtomicU64>,
    commits: Lanes<watch::Sender<Timestamp>>,
    pins: Arc<Mutex<Pins>>,
    poison: watch::Sender<Option<Error>>,
    stats: RwLock<stats::Stats>,
}

/// What is remembered of a group of replicas.
struct Group {
    mark: Mutex<AppliedMark>,
    window: RwLock<Window>,
}

impl State {
    /// Opens the state in `disk`, or makes an empty one.
    ///
    /// The folder must be held by this process (see [`crate::disk::lock`]). What is
    /// found is the state of the last checkpoint.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the file is not what was written: the node must be
    /// rebuilt from its log, a backup or its peers.
    pub fn open(
        disk: Arc<dyn Disk>,
        keys: &Keyring,
        entropy: Arc<dyn Entropy>,
        options: StateOptions,
    ) -> Result<State, Error> {
        State::open_with(disk, keys, entropy, options, window::WEIGHT)
    }

    fn open_with(
        disk: Arc<dyn Disk>,
        keys: &Keyring,
        entropy: Arc<dyn Entropy>,
        options: StateOptions,
        window_weight: usize,
    ) -> Result<State, Error> {
        let (db, failure) = tables::open_database(&*disk, keys, entropy, options.cache_bytes)?;
        let found = tables::load(&db, &failure, window_weight)?;
        let mut visible = Lanes::<Timestamp>::default();
        for (id, mark, _) in &found.groups {
            let newest = &mut visible[id.guarantee()];
            *newest = mark.commit.max(*newest);
        }
        let view = View {
            base: Arc::new(tables::base(&db, &failure, found.horizons)?),
            frozen: None,
            active: Arc::new(Layer::default()),
            clears: Arc::from([]),
        };
        let durable = Durable { marks: found.groups.iter().map(|g| (g.0, g.1)).collect() };
        let groups = found
            .groups
            .into_iter()
            .map(|(id, mark, window)| (id, Arc::new(Group { mark: Mutex::new(mark), window: RwLock::new(window) })));
        Ok(State {
            groups: RwLock::new(groups.collect()),
            db,
            failure,
            options,
            window_weight,
            writer: Mutex::new(()),
            flusher: Mutex::new(durable),
            view: RwLock::new(Arc::new(view)),
            visible: Lanes::new(|of| AtomicU64::new(visible[of].0)),
            commits: Lanes::new(|of| watch::Sender::new(visible[of])),
            pins: Arc::new(Mutex::new(Pins::new(found.horizons))),
            poison: watch::Sender::new(None),
            stats: RwLock::new(found.stats),
        })
    }

    /// A consistent view of the rows as they are now. Cheap.
    #[allow(clippy::unnecessary_wraps)]
    pub fn snapshot(&self) -> Result<Reader, Error> {
        // In this order: what is visible is in every view from then on.
        let visible = Lanes::new(|of| Timestamp(self.visible[of].load(Ordering::Acquire)));
        Ok(Reader { view: self.view.read().clone(), visible })
    }

    /// How far the group's log is applied.
    pub fn applied(&self, group: RangeId) -> AppliedMark {
        self.groups.read().get(&group).map(|g| *g.mark.lock()).unwrap_or_default()
    }

    /// Whether a key of `span` was written after `since`, as far as applied here.
    pub fn changed_since(&self, span: &Span, since: Timestamp) -> Answer {
        let groups = self.groups.read();
        of_guarantee(&groups, span).fold(Answer::Unchanged, |answer, group| {
            match (answer, group.window.read().changed_since(span, since)) {
                (Answer::Changed(a), Answer::Changed(b)) => Answer::Changed(a.max(b)),
                (Answer::Changed(at), _) | (_, Answer::Changed(at)) => Answer::Changed(at),
                (Answer::TooOld, _) | (_, Answer::TooOld) => Answer::TooOld,
                (Answer::Unchanged, Answer::Unchanged) => Answer::Unchanged,
            }
        })
    }

    /// The keys of `span` that were written after `since`, deleted ones included, in
    /// order, as far as applied here. `None` when there are more than `most`, or when
    /// it is not known: `since` is too long ago, or a batch of very many keys wrote
    /// there, of which only the span is remembered.
    pub fn written_since(&self, span: &Span, since: Timestamp, most: usize) -> Option<Vec<Key>> {
        let mut keys = Vec::new();
        let groups = self.groups.read();
        if !of_guarantee(&groups, span).all(|group| group.window.read().written_since(span, since, most, &mut keys)) {
            return None;
        }
        let mut keys: Vec<Key> = keys.into_iter().map(|key| Key(Bytes::copy_from_slice(&key))).collect();
        keys.sort_unstable();
        keys.dedup();
        Some(keys)
    }

    /// When `key` was last written or deleted, as far as applied here; `None` if
    /// never, or if it was deleted so long ago that no trace is left.
    pub fn last_write(&self, key: &[u8]) -> Result<Option<Timestamp>, Error> {
        self.snapshot()?.last_write(key)
    }

    /// The timestamp of the newest batch that was applied to keys of `guarantee`, now
    /// and as it moves on.
    pub fn observe_commits(&self, guarantee: Guarantee) -> watch::Receiver<Timestamp> {
        self.commits[guarantee].subscribe()
    }

    /// Notes that all of `group` up to `mark` can be read.
    fn show(&self, group: RangeId, mark: AppliedMark) {
        let guarantee = group.guarantee();
        let before = self.visible[guarantee].fetch_max(mark.commit.0, Ordering::AcqRel);
        if before < mark.commit.0 {
            self.commits[guarantee].send_replace(mark.commit);
        }
    }

    /// The failure after which nothing is written until the state is opened again;
    /// none as long as it is well.
    pub fn observe_failure(&self) -> watch::Receiver<Option<Error>> {
        self.poison.subscribe()
    }

    /// The oldest timestamp at which keys of `guarantee` can be read.
    pub fn horizon(&self, guarantee: Guarantee) -> Timestamp {
        self.pins.lock().horizons()[guarantee]
    }

    /// How long states stay readable, at least.
    pub fn retention(&self) -> Duration {
        self.options.retention
    }

    /// Roughly how many bytes of versions wait in memory for a checkpoint.
    pub fn layer_bytes(&self) -> usize {
        let view = self.view.read().clone();
        view.active.bytes() + view.frozen.as_ref().map_or(0, |f| f.bytes())
    }

    fn group(&self, id: RangeId) -> Arc<Group> {
        if let Some(group) = self.groups.read().get(&id) {
            return group.clone();
        }
        let new = || {
            let window = Window::new(self.window_weight, Timestamp::ZERO);
            Arc::new(Group { mark: Mutex::default(), window: RwLock::new(window) })
        };
        self.groups.write().entry(id).or_insert_with(new).clone()
    }

    /// Refuses when an earlier failure left the memory in doubt.
    fn check(&self) -> Result<(), Error> {
        match &*self.poison.borrow() {
            Some(cause) => Err(Error::Poisoned { cause: Arc::new(cause.clone()) }),
            None => Ok(()),
        }
    }

    fn poison(&self, error: Error) -> Error {
        self.poison.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| error.clone());
            is_first
        });
        error
    }
}

/// The groups that may have written to `span`, whose keys are of one guarantee.
fn of_guarantee<'a>(groups: &'a BTreeMap<RangeId, Arc<Group>>, span: &Span) -> impl Iterator<Item = &'a Arc<Group>> {
    let guarantee = Guarantee::of_key(&span.start);
    groups.iter().filter(move |(id, _)| id.guarantee() == guarantee).map(|(_, group)| group)
}

/// The error behind one of redb.
fn from_redb(error: impl Into<redb::Error>, failure: &Failure) -> Error {
    if let Some(first) = failure.first() {
        return first;
    }
    match error.into() {
        redb::Error::Corrupted(what) => Error::corrupt(tables::FILE, 0, what),
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            Error::corrupt(tables::FILE, 0, e.to_string())
        }
        redb::Error::Io(e) => Error::io("use", tables::FILE, e),
        // A file is there under its name only with all its tables: this is an older root of
        // it, which a flipped bit has brought back.
        redb::Error::TableDoesNotExist(name) => Error::corrupt(tables::FILE, 0, format!("its table {name} is gone")),
        other => Error::Internal(format!("redb: {other}")),
    }
}
