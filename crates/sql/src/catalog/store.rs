//! The catalog as rows, and the memory of it that sessions share.
//!
//! ```text
//! key of index 1   value
//! 0                the version: drawn anew by every change
//! 1 id             a table, with its columns, indexes and constraints
//! 2 id             a view
//! 3 id             a sequence (its current value is in its own storage)
//! 4 name           a role
//! 5 name           the identifier of the relation of this name
//! 6                the first identifier no node has taken yet
//! 7                the name of the database
//! 9 id             what roles may do with a table or a view
//! ```
//! Every object is one row, so a concurrent change of two tables touches
//! different keys and does not conflict. A statement that uses a table locks and
//! guards that table's key; a statement that makes a name guards the name's.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use polity_base::key::Direction;
use polity_base::{IndexId, Key, Span, TableId, Timestamp};
use polity_txn::{Database, Freshness, Isolation, TransactionOptions, View};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::grants::Grant;
use super::model::{Catalog, Role, SUPERUSER, Table};
use crate::error::{Condition, Error, Result};

/// Where the catalog's rows are.
pub const CATALOG: IndexId = IndexId::CATALOG;

/// The first identifier of a user's object, as in PostgreSQL.
pub const FIRST_ID: u32 = 16_384;

/// The version's key.
pub const VERSION_KEY: [u8; 5] = [0, 0, 0, 1, kind::VERSION];

/// How the values of catalog rows are encoded: the first byte of each.
const FORMAT: u8 = 1;

/// Identifiers a node takes at a time.
const ID_BLOCK: u32 = 64;

/// Catalogs remembered; more than one only while old snapshots are read.
const REMEMBERED: usize = 4;

mod kind {
    pub const VERSION: u8 = 0;
    pub const TABLE: u8 = 1;
    pub const VIEW: u8 = 2;
    pub const SEQUENCE: u8 = 3;
    pub const ROLE: u8 = 4;
    pub const NAME: u8 = 5;
    pub const NEXT_ID: u8 = 6;
    pub const DATABASE: u8 = 7;
    /// Locked, never written.
    pub const STORAGE: u8 = 8;
    pub const GRANTS: u8 = 9;
}

fn key(kind: u8, rest: &[u8]) -> Key {
    let mut bytes = Vec::with_capacity(5 + rest.len());
    bytes.extend_from_slice(&CATALOG.0.to_be_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(rest);
    bytes.into()
}

/// The key of a table's row: who uses the table guards it.
pub fn table_key(id: TableId) -> Key {
    key(kind::TABLE, &id.0.to_be_bytes())
}

/// The key of a view's row.
pub fn view_key(id: TableId) -> Key {
    key(kind::VIEW, &id.0.to_be_bytes())
}

/// The key of a sequence's row.
pub fn sequence_key(id: TableId) -> Key {
    key(kind::SEQUENCE, &id.0.to_be_bytes())
}

/// The key of a role's row.
pub fn role_key(name: &str) -> Key {
    key(kind::ROLE, name.as_bytes())
}

/// The key of what roles may do with a table or a view.
pub fn grants_key(id: TableId) -> Key {
    key(kind::GRANTS, &id.0.to_be_bytes())
}

/// A key without a row, which a transaction that makes a storage holds locked:
/// the storage's rows are not garbage yet.
pub(crate) fn storage_key(storage: IndexId) -> Key {
    key(kind::STORAGE, &storage.0.to_be_bytes())
}

/// The key of a relation's name.
pub fn name_key(name: &str) -> Key {
    key(kind::NAME, name.as_bytes())
}

pub(super) fn version_key() -> Key {
    Key(Bytes::from_static(&VERSION_KEY))
}

/// What every change of the catalog writes.
pub(crate) fn version_span() -> Span {
    version_key().point()
}

/// A catalog row's value.
pub(super) fn encode<T: Serialize>(object: &T) -> Result<Bytes> {
    let bytes = postcard::to_extend(object, vec![FORMAT]).map_err(Error::internal)?;
    Ok(bytes.into())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|e| damaged(&e.to_string())),
        Some((format, _)) => Err(damaged(&format!("format {format} is not known to this version"))),
        None => Err(damaged("a row is empty")),
    }
}

fn damaged(why: &str) -> Error {
    Error::new(Condition::DataCorrupted, "the catalog cannot be read").detail(format!("Reason: {why}."))
}

/// The catalog as `view` has it, own changes of its transaction included.
pub fn load(view: &View) -> Result<Catalog> {
    let mut catalog = Catalog::default();
    let mut scan = view.untracked().scan(Span::of_index(CATALOG), Direction::Ascending)?;
    loop {
        let chunk = scan.next_chunk(256)?;
        if chunk.is_empty() {
            return Ok(catalog);
        }
        for (key, value) in chunk {
            add(&mut catalog, &key, &value)?;
        }
    }
}

fn add(catalog: &mut Catalog, key: &[u8], value: &[u8]) -> Result<()> {
    let Some((&kind, rest)) = key.get(super::rows::STORAGE_BYTES..).and_then(|k| k.split_first()) else {
        return Err(damaged("a key is too short"));
    };
    match kind {
        kind::VERSION => catalog.version = decode(value)?,
        kind::TABLE => {
            let table: Table = decode(value)?;
            catalog.index_tables.extend(indexes(&table).map(|(id, _)| (id, table.id)));
            catalog.tables.insert(table.id, Arc::new(table));
        }
        kind::VIEW => {
            let view: super::model::View = decode(value)?;
            catalog.views.insert(view.id, Arc::new(view));
        }
        kind::SEQUENCE => {
            let sequence: super::model::Sequence = decode(value)?;
            catalog.sequences.insert(sequence.id, Arc::new(sequence));
        }
        kind::ROLE => {
            let role: Role = decode(value)?;
            catalog.roles.insert(role.name.clone(), Arc::new(role));
        }
        kind::GRANTS => {
            let id = rest.try_into().map_err(|_| damaged("the key of grants is none"))?;
            let grants: Vec<Grant> = decode(value)?;
            catalog.grants.insert(TableId(u32::from_be_bytes(id)), grants.into());
        }
        kind::NAME => {
            let name = std::str::from_utf8(rest).map_err(|_| damaged("a name is not UTF-8"))?;
            catalog.names.insert(name.to_owned(), decode(value)?);
        }
        kind::NEXT_ID => {}
        kind::DATABASE => catalog.database = decode(value)?,
        other => return Err(damaged(&format!("kind {other} is not known to this version"))),
    }
    Ok(())
}

/// Identifiers and names of a table's indexes, its primary key's first.
pub(crate) fn indexes(table: &Table) -> impl Iterator<Item = (TableId, &str)> {
    let primary = table.primary.id.zip(table.primary.name.as_deref());
    primary.into_iter().chain(table.indexes.iter().map(|i| (i.id, i.name.as_str())))
}

/// Makes the catalog of a new cluster, with one role that may do everything.
/// Does nothing when there is one already.
pub async fn bootstrap(
    database: &Database,
    seams: &polity_base::seams::Seams,
    options: &crate::session::EngineOptions,
) -> Result<()> {
    // What this node holds is enough to know, and can be read without any other.
    if local(database).await?.get(&VERSION_KEY)?.is_some() {
        return Ok(());
    }
    let mut txn = database.begin(TransactionOptions::default()).await?;
    txn.begin_statement().await?;
    if txn.view().get(&VERSION_KEY)?.is_some() {
        txn.rollback().await;
        return Ok(());
    }
    let password = match options.password.as_str() {
        "" => None,
        password => Some(crate::ddl::scram::verifier(password, seams.entropy.as_ref())?),
    };
    let role = Role { id: SUPERUSER, name: options.role.clone(), password, superuser: true, login: true };
    txn.put(version_key(), encode(&1u64)?)?;
    txn.put(key(kind::NEXT_ID, &[]), encode(&FIRST_ID)?)?;
    txn.put(key(kind::DATABASE, &[]), encode(&options.database)?)?;
    txn.put(role_key(&role.name), encode(&role)?)?;
    match txn.commit().await {
        // Another node of the new cluster was faster.
        Err(e) if e.class() == polity_base::Class::Conflict => Ok(()),
        outcome => Ok(outcome.map(drop)?),
    }
}

/// What this node holds, which may lack what was committed last.
pub async fn local(database: &Database) -> Result<View> {
    let mut txn = database.begin(TransactionOptions { freshness: Freshness::Local, ..Default::default() }).await?;
    txn.begin_statement().await?;
    Ok(txn.view())
}

/// The catalogs that sessions of this node see, and the identifiers that this
/// node may give to new objects.
pub struct CatalogCache {
    database: Database,
    recent: RwLock<Vec<Arc<Catalog>>>,
    /// What the latest snapshot saw that was looked at here.
    newest: RwLock<Option<(Timestamp, Arc<Catalog>)>>,
    ids: tokio::sync::Mutex<std::ops::Range<u32>>,
}

impl CatalogCache {
    /// An empty memory.
    pub fn new(database: Database) -> CatalogCache {
        CatalogCache {
            database,
            recent: RwLock::default(),
            newest: RwLock::default(),
            ids: tokio::sync::Mutex::new(0..0),
        }
    }

    /// The catalog that `view` sees. The view's transaction must not have changed
    /// the catalog itself: then it is [`load`] that knows.
    pub fn at(&self, view: &View) -> Result<Arc<Catalog>> {
        let version = match view.untracked().get(&VERSION_KEY)? {
            Some(value) => decode::<u64>(&value)?,
            None => {
                return Err(Error::new(Condition::ObjectNotInPrerequisiteState, "the database did not exist yet")
                    .detail("The state that is read is older than the catalog.")
                    .hint("Read a later state."));
            }
        };
        let known = self.recent.read().iter().find(|c| c.version == version).cloned();
        if let Some(known) = known {
            self.note(view.read_at(), &known);
            return Ok(known);
        }
        let loaded = Arc::new(load(view)?);
        self.note(view.read_at(), &loaded);
        let mut recent = self.recent.write();
        if recent.len() >= REMEMBERED {
            recent.remove(0);
        }
        recent.push(loaded.clone());
        Ok(loaded)
    }

    /// The newest catalog that was asked for on this node, if any was.
    pub fn newest(&self) -> Option<Arc<Catalog>> {
        self.newest.read().as_ref().map(|(_, catalog)| catalog.clone())
    }

    /// Versions do not tell which is newer: several nodes draw them, each by its
    /// own clock.
    fn note(&self, at: Timestamp, catalog: &Arc<Catalog>) {
        let newer = |newest: &Option<(Timestamp, Arc<Catalog>)>| {
            newest.as_ref().is_none_or(|(seen, known)| known.version != catalog.version && *seen < at)
        };
        if newer(&self.newest.read()) {
            let mut newest = self.newest.write();
            if newer(&newest) {
                *newest = Some((at, catalog.clone()));
            }
        }
    }

    /// An identifier that no object or storage has or had. What a rolled-back
    /// transaction took stays unused.
    pub async fn new_id(&self) -> Result<u32> {
        let mut ids = self.ids.lock().await;
        if let Some(id) = ids.next() {
            return Ok(id);
        }
        *ids = self.take_block().await?;
        ids.next().ok_or_else(|| Error::new(Condition::ProgramLimitExceeded, "all object identifiers have been used"))
    }

    async fn take_block(&self) -> Result<std::ops::Range<u32>> {
        let key = key(kind::NEXT_ID, &[]);
        loop {
            let options = TransactionOptions { isolation: Isolation::Serializable, ..Default::default() };
            let mut txn = self.database.begin(options).await?;
            txn.begin_statement().await?;
            let first: u32 = match txn.view().get(&key)? {
                Some(value) => decode(&value)?,
                None => return Err(damaged("it does not say which identifiers are free")),
            };
            let block = first..first.saturating_add(ID_BLOCK);
            txn.put(key.clone(), encode(&block.end)?)?;
            match txn.commit().await {
                Ok(_) => return Ok(block),
                Err(e) if e.class() == polity_base::Class::Conflict => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
