//! What a state keeps in redb, and how it is opened.
//!
//! ```text
//! rows     versioned key                     -> stored row
//! history  group u64, last timestamp u64     -> encoded commits, within the window
//! garbage  last timestamp u64, number u32    -> keys with superseded versions, of each
//!                                               guarantee in a table of its own
//! meta     "mark/<group>", "stats", …        -> postcard
//! ```
//! Every transaction is committed in two phases and with the allocator's state,
//! so that opening after a crash neither looks at pages that were torn nor walks
//! the whole file.

use std::sync::Arc;

use polity_base::seams::Entropy;
use polity_base::{Guarantee, RangeId, Span, Timestamp};
use redb::{Builder, Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, OpenOptions};
use crate::error::Error;
use crate::seal::Keyring;
use crate::state::backend::{Failure, SealedFile};
use crate::state::lanes::Lanes;
use crate::state::reader::Base;
use crate::state::stats::Stats;
use crate::state::version::{VersionedKey, join, split, unwrap};
use crate::state::window::{Commit, Window};
use crate::state::{AppliedMark, from_redb};

/// The file's name in the data folder.
pub(super) const FILE: &str = "state";
const NEW_FILE: &str = "state.new";
const PURPOSE: &str = "state";
const FORMAT: u32 = 1;

pub(super) type RowTable = TableDefinition<'static, VersionedKey, &'static [u8]>;
pub(super) const ROWS: RowTable = TableDefinition::new("rows");
pub(super) const HISTORY: TableDefinition<'static, (u64, u64), &'static [u8]> = TableDefinition::new("history");
pub(super) type GarbageTable = TableDefinition<'static, (u64, u32), &'static [u8]>;
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");

/// A group as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredGroup {
    pub mark: AppliedMark,
    pub floor: Timestamp,
}

/// What [`load`] finds.
pub(super) struct Found {
    pub groups: Vec<(RangeId, AppliedMark, Window)>,
    pub horizons: Lanes<Timestamp>,
    pub stats: Stats,
}

/// The work list of collection for keys of `guarantee`.
pub(super) fn garbage(guarantee: Guarantee) -> GarbageTable {
    TableDefinition::new(match guarantee {
        Guarantee::Strong => "garbage",
        Guarantee::Eventual => "garbage/eventual",
        Guarantee::Byzantine => "garbage/byzantine",
    })
}

/// The name under which the horizon of `guarantee` is noted.
fn horizon_name(guarantee: Guarantee) -> &'static str {
    match guarantee {
        Guarantee::Strong => "horizon",
        Guarantee::Eventual => "horizon/eventual",
        Guarantee::Byzantine => "horizon/byzantine",
    }
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
        for guarantee in Guarantee::ALL {
            transaction.open_table(garbage(guarantee)).map_err(fail)?;
        }
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
pub(super) fn base(db: &Database, failure: &Failure, horizons: Lanes<Timestamp>) -> Result<Base, Error> {
    let transaction = db.begin_read().map_err(|e| from_redb(e, failure))?;
    let rows = transaction.open_table(ROWS).map_err(|e| from_redb(e, failure))?;
    Ok(Base { rows, horizons, failure: failure.clone() })
}

/// Reads what is remembered besides the rows.
pub(super) fn load(db: &Database, failure: &Failure, window_weight: usize) -> Result<Found, Error> {
    let transaction = db.begin_read().map_err(|e| from_redb(e, failure))?;
    let meta = transaction.open_table(META).map_err(|e| from_redb(e, failure))?;
    let history = transaction.open_table(HISTORY).map_err(|e| from_redb(e, failure))?;
    let mut groups = Vec::new();
    let mut found = Found { groups: Vec::new(), horizons: Lanes::default(), stats: Stats::default() };
    for entry in meta.iter().map_err(|e| from_redb(e, failure))? {
        let (name, value) = entry.map_err(|e| from_redb(e, failure))?;
        match name.value() {
            "format" => {
                let format: u32 = parse(value.value())?;
                if format != FORMAT {
                    return Err(Error::corrupt(FILE, 0, format!("format {format} is unknown, this is {FORMAT}")));
                }
            }
            "stats" => found.stats = parse(value.value())?,
            name if let Some(of) = Guarantee::ALL.into_iter().find(|of| name == horizon_name(*of)) => {
                found.horizons[of] = parse(value.value())?;
            }
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

pub(super) fn unreadable() -> Error {
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
    horizons: Lanes<Timestamp>,
) -> Result<(), Error> {
    put_meta(transaction, failure, "stats", stats)?;
    put_horizons(transaction, failure, horizons)
}

pub(super) fn put_horizons(
    transaction: &WriteTransaction,
    failure: &Failure,
    horizons: Lanes<Timestamp>,
) -> Result<(), Error> {
    let mut each = Guarantee::ALL.into_iter();
    each.try_for_each(|of| put_meta(transaction, failure, horizon_name(of), &horizons[of]))
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
