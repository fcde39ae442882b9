//! Making the state durable: moving a layer into redb.
//!
//! ```text
//! rows     versioned key                     -> stored row
//! history  group u64, last timestamp u64     -> encoded commits, within the window
//! garbage  last timestamp u64, number u32    -> keys with superseded versions
//! meta     "mark/<group>", "stats", …        -> postcard
//! ```
//! Whoever applies waits only while the layers are swapped. Everything the layer
//! holds, the marks of that moment included, becomes one transaction of redb,
//! committed in two phases and with the allocator's state, so that opening after a
//! crash neither verifies pages that were torn nor walks the whole file.
//!
//! While the rows pass by it is noted which of them supersede others: that is the
//! work list of collection, in the order of time. And rows are counted.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use polity_base::seams::Entropy;
use polity_base::{Key, RangeId, Span, Timestamp};
use redb::{Builder, Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, OpenOptions};
use crate::error::Error;
use crate::seal::Keyring;
use crate::state::backend::{Failure, SealedFile};
use crate::state::layer::{Layer, Rows, Versions, is_cleared};
use crate::state::reader::{Base, View};
use crate::state::stats::Stats;
use crate::state::version::{VersionedKey, join, split, unwrap, wrap};
use crate::state::window::{Commit, Window};
use crate::state::{AppliedMark, State, from_redb};

/// The file's name in the data folder.
pub(super) const FILE: &str = "state";
const NEW_FILE: &str = "state.new";
const PURPOSE: &str = "state";
const FORMAT: u32 = 1;

pub(super) type RowTable = TableDefinition<'static, VersionedKey, &'static [u8]>;
pub(super) const ROWS: RowTable = TableDefinition::new("rows");
pub(super) const HISTORY: TableDefinition<'static, (u64, u64), &'static [u8]> = TableDefinition::new("history");
pub(super) const GARBAGE: TableDefinition<'static, (u64, u32), &'static [u8]> = TableDefinition::new("garbage");
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");

/// A row of garbage is full at this many bytes.
const GARBAGE_CHUNK: usize = 16 << 10;

/// What a checkpoint did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    /// Up to here the state of each group is durable
    pub marks: BTreeMap<RangeId, AppliedMark>,
    /// How many versions were written
    pub versions: u64,
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

/// A group as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredGroup {
    pub mark: AppliedMark,
    pub floor: Timestamp,
}

/// What [`load`] finds.
pub(super) struct Found {
    pub groups: Vec<(RangeId, AppliedMark, Window)>,
    pub horizon: Timestamp,
    pub stats: Stats,
}

/// Opens redb over the sealed file, which is made if it is missing.
pub(super) fn open_database(
    disk: &dyn Disk,
    keys: &Keyring,
    entropy: Arc<dyn Entropy>,
    cache_bytes: usize,
) -> Result<(Database, Failure), Error> {
    let sealer = keys.sealer(PURPOSE)?;
    let opening = |e| Error::io("open", FILE, e);
    let exists = disk.exists(FILE).map_err(opening)?;
    let sealed = if exists {
        let file = disk.open(FILE, OpenOptions::EXISTING).map_err(opening)?;
        SealedFile::open(file, FILE, sealer, keys.number(), entropy)?
    } else {
        let file = disk.open(NEW_FILE, OpenOptions::FRESH).map_err(opening)?;
        SealedFile::create(file, FILE, sealer, keys.number(), entropy)?
    };
    let failure = sealed.failure();
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes);
    let db = builder.create_with_backend(sealed).map_err(|e| from_redb(e, &failure))?;
    if !exists {
        initialise(&db, &failure)?;
        // Only now does the file get its name: a crash before leaves no state.
        disk.rename(NEW_FILE, FILE).map_err(opening)?;
        disk.sync_dir().map_err(opening)?;
    }
    Ok((db, failure))
}

fn initialise(db: &Database, failure: &Failure) -> Result<(), Error> {
    write(db, failure, |transaction| {
        let fail = |e: redb::TableError| from_redb(e, failure);
        transaction.open_table(ROWS).map_err(fail)?;
        transaction.open_table(HISTORY).map_err(fail)?;
        transaction.open_table(GARBAGE).map_err(fail)?;
        put_meta(transaction, failure, "format", &FORMAT)
    })
}

/// Runs `change` in a transaction that is durable when this returns `Ok`.
pub(super) fn write<T>(
    db: &Database,
    failure: &Failure,
    change: impl FnOnce(&WriteTransaction) -> Result<T, Error>,
) -> Result<T, Error> {
    let transaction = begin(db, failure)?;
    let result = change(&transaction)?;
    transaction.commit().map_err(|e| from_redb(e, failure))?;
    Ok(result)
}

/// A transaction that is durable once it is committed.
pub(super) fn begin(db: &Database, failure: &Failure) -> Result<WriteTransaction, Error> {
    let mut transaction = db.begin_write().map_err(|e| from_redb(e, failure))?;
    // Includes the commit in two phases.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// What readers read from redb as it is now.
pub(super) fn base(db: &Database, failure: &Failure, horizon: Timestamp) -> Result<Base, Error> {
    let transaction = db.begin_read().map_err(|e| from_redb(e, failure))?;
    let rows = transaction.open_table(ROWS).map_err(|e| from_redb(e, failure))?;
    Ok(Base { rows, horizon, failure: failure.clone() })
}

/// Reads what is remembered besides the rows.
pub(super) fn load(db: &Database, failure: &Failure, window_weight: usize) -> Result<Found, Error> {
    let transaction = db.begin_read().map_err(|e| from_redb(e, failure))?;
    let meta = transaction.open_table(META).map_err(|e| from_redb(e, failure))?;
    let history = transaction.open_table(HISTORY).map_err(|e| from_redb(e, failure))?;
    let mut groups = Vec::new();
    let mut found = Found { groups: Vec::new(), horizon: Timestamp::ZERO, stats: Stats::default() };
    for entry in meta.iter().map_err(|e| from_redb(e, failure))? {
        let (name, value) = entry.map_err(|e| from_redb(e, failure))?;
        match name.value() {
            "format" => {
                let format: u32 = parse(value.value())?;
                if format != FORMAT {
                    return Err(Error::corrupt(FILE, 0, format!("format {format} is unknown, this is {FORMAT}")));
                }
            }
            "horizon" => found.horizon = parse(value.value())?,
            "stats" => found.stats = parse(value.value())?,
            name => {
                let id = name.strip_prefix("mark/").and_then(|id| id.parse().ok());
                let id = id.ok_or_else(|| Error::corrupt(FILE, 0, format!("unknown note {name:?}")))?;
                groups.push((RangeId(id), parse::<StoredGroup>(value.value())?));
            }
        }
    }
    for (id, stored) in groups {
        let mut window = Window::new(window_weight, stored.floor);
        let range = history.range((id.0, 0)..=(id.0, u64::MAX)).map_err(|e| from_redb(e, failure))?;
        for entry in range {
            let (_, chunk) = entry.map_err(|e| from_redb(e, failure))?;
            let mut bytes = chunk.value();
            while !bytes.is_empty() {
                let commit = Commit::decode(&mut bytes).ok_or_else(unreadable)?;
                if commit.at > stored.floor {
                    window.record(commit);
                }
            }
        }
        found.groups.push((id, stored.mark, window));
    }
    Ok(found)
}

fn unreadable() -> Error {
    Error::corrupt(FILE, 0, "a note in it does not parse")
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    postcard::from_bytes(bytes).map_err(|_| unreadable())
}

pub(super) fn put_meta<T: Serialize>(
    transaction: &WriteTransaction,
    failure: &Failure,
    name: &str,
    value: &T,
) -> Result<(), Error> {
    let bytes = postcard::to_stdvec(value).map_err(|e| Error::Internal(format!("cannot note {name}: {e}")))?;
    let mut meta = transaction.open_table(META).map_err(|e| from_redb(e, failure))?;
    meta.insert(name, &bytes[..]).map_err(|e| from_redb(e, failure))?;
    Ok(())
}

pub(super) fn put_mark(
    transaction: &WriteTransaction,
    failure: &Failure,
    group: RangeId,
    stored: &StoredGroup,
) -> Result<(), Error> {
    put_meta(transaction, failure, &format!("mark/{}", group.0), stored)
}

pub(super) fn put_stats(
    transaction: &WriteTransaction,
    failure: &Failure,
    stats: &Stats,
    horizon: Timestamp,
) -> Result<(), Error> {
    put_meta(transaction, failure, "stats", stats)?;
    put_meta(transaction, failure, "horizon", &horizon)
}

/// Removes the versions that redb has in a span.
pub(super) fn clear_rows(
    rows: &mut Table<'_, VersionedKey, &'static [u8]>,
    span: &Span,
    stats: &mut Stats,
    failure: &Failure,
) -> Result<(), Error> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let from: &[u8] = join(&span.start, Timestamp::MAX, &mut a);
    let to: &[u8] = join(&span.end, Timestamp::MAX, &mut b);
    let mut last = Vec::new();
    let mut is_first = true;
    let removed = rows.retain_in::<&[u8], _>(from..to, |stored, value| {
        let (key, _) = split(stored);
        if is_first || last != key {
            is_first = false;
            last.clear();
            last.extend_from_slice(key);
            stats.change(key, unwrap(value).map(<[u8]>::len), None);
        }
        false
    });
    removed.map_err(|e| from_redb(e, failure))
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
            put_stats(transaction, &self.failure, &stats, self.horizon())?;
            Ok(versions)
        });
        let published = versions.and_then(|versions| {
            let horizon = self.view.read().base.horizon;
            Ok((versions, base(&self.db, &self.failure, horizon)?))
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

/// The entries of a row of garbage.
pub(super) fn superseded(mut chunk: &[u8]) -> Result<Vec<(&[u8], Timestamp)>, Error> {
    let mut next = || {
        let (at, rest) = chunk.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        chunk = rest;
        Some((key, Timestamp(u64::from_le_bytes(*at))))
    };
    let entries: Vec<_> = std::iter::from_fn(&mut next).collect();
    if chunk.is_empty() { Ok(entries) } else { Err(unreadable()) }
}

/// A layer on its way into redb.
struct Flush<'a> {
    state: &'a State,
    transaction: &'a WriteTransaction,
    rows: Table<'a, VersionedKey, &'static [u8]>,
    stats: &'a mut Stats,
    /// Keys with versions that another one superseded, and when it did
    superseded: Vec<(Timestamp, Key)>,
    ahead: Ahead,
}

/// What is known of the keys that redb has from the current one on.
enum Ahead {
    Unknown,
    /// The next one
    Key(Vec<u8>),
    /// There are none
    End,
}

impl<'a> Flush<'a> {
    fn new(
        state: &'a State,
        transaction: &'a WriteTransaction,
        content: &Rows,
        stats: &'a mut Stats,
    ) -> Result<Flush<'a>, Error> {
        let rows = transaction.open_table(ROWS).map_err(|e| from_redb(e, &state.failure))?;
        let mut flush = Flush { state, transaction, rows, stats, superseded: Vec::new(), ahead: Ahead::Unknown };
        for cleared in &content.clears {
            // All that redb has there is older than a clear that is in a layer.
            clear_rows(&mut flush.rows, &cleared.span, flush.stats, &state.failure)?;
        }
        Ok(flush)
    }

    /// Writes the layer's versions; how many there were.
    fn run(mut self, content: &Rows) -> Result<u64, Error> {
        let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
        let mut count = 0;
        for (key, versions) in content.iter() {
            let before = self.newest(key)?;
            self.note(key, versions, before.is_some());
            let (at, newest) = versions.newest();
            let newest = newest.as_ref().filter(|_| !is_cleared(&content.clears, key, *at));
            self.stats.change(key, before.flatten(), newest.map(Bytes::len));
            for (at, value) in versions.iter() {
                if is_cleared(&content.clears, key, *at) {
                    continue;
                }
                let stored = wrap(value.as_deref(), &mut value_bytes);
                let inserted = self.rows.insert(join(key, *at, &mut key_bytes), stored);
                inserted.map_err(|e| from_redb(e, &self.state.failure))?;
                count += 1;
            }
        }
        self.write_garbage()?;
        Ok(count)
    }

    /// Whether redb has versions of `key`, and the size of its row if it has one.
    /// Keys are asked for in order.
    #[allow(clippy::option_option)]
    fn newest(&mut self, key: &[u8]) -> Result<Option<Option<usize>>, Error> {
        match &self.ahead {
            Ahead::End => return Ok(None),
            Ahead::Key(next) if &**next > key => return Ok(None),
            _ => {}
        }
        let mut bytes = Vec::new();
        let from: Bound<&[u8]> = Bound::Included(join(key, Timestamp::MAX, &mut bytes));
        let failure = &self.state.failure;
        let mut cursor = self.rows.lower_bound(from).map_err(|e| from_redb(e, failure))?;
        let Some((stored, value)) = cursor.next().map_err(|e| from_redb(e, failure))? else {
            self.ahead = Ahead::End;
            return Ok(None);
        };
        let (found, _) = split(stored.value());
        if found == key {
            return Ok(Some(unwrap(value.value()).map(<[u8]>::len)));
        }
        self.ahead = Ahead::Key(found.to_vec());
        Ok(None)
    }

    fn note(&mut self, key: &Key, versions: &Versions, has_older: bool) {
        let mut versions = versions.iter().peekable();
        while let Some((at, value)) = versions.next() {
            // A deletion supersedes itself as soon as nobody reads before it.
            if value.is_none() || versions.peek().is_some() || has_older {
                self.superseded.push((*at, key.clone()));
            }
        }
    }

    fn write_garbage(&mut self) -> Result<(), Error> {
        self.superseded.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        let failure = &self.state.failure;
        let mut garbage = self.transaction.open_table(GARBAGE).map_err(|e| from_redb(e, failure))?;
        let mut chunk = Vec::with_capacity(GARBAGE_CHUNK * 2);
        let mut number = 0;
        let mut entries = self.superseded.iter().peekable();
        while let Some((at, key)) = entries.next() {
            chunk.extend_from_slice(&at.0.to_le_bytes());
            chunk.extend_from_slice(&(key.len() as u32).to_le_bytes());
            chunk.extend_from_slice(key);
            if chunk.len() >= GARBAGE_CHUNK || entries.peek().is_none() {
                // Numbered, since one timestamp may fill several chunks, also of
                // different checkpoints when there are several groups.
                while garbage.get((at.0, number)).map_err(|e| from_redb(e, failure))?.is_some() {
                    number += 1;
                }
                garbage.insert((at.0, number), &chunk[..]).map_err(|e| from_redb(e, failure))?;
                chunk.clear();
            }
        }
        Ok(())
    }
}
