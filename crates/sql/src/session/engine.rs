//! What all sessions of a node share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::RwLock;
use polity_base::seams::Seams;
use polity_base::time::HybridClock;
use polity_txn::Database;

use super::Session;
use super::lift::Lifted;
use super::prepared::{self, Prepared};
use crate::catalog::{self, Catalog, CatalogCache};
use crate::ddl::sequence::SequenceCache;
use crate::error::{Condition, Error, Result};
use crate::query::Planner;

/// How an engine is set up.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The name of the one database
    pub database: String,
    /// The role that is made with a new cluster
    pub role: String,
    /// Its password, stored as a SCRAM verifier
    pub password: String,
    /// How many bytes all running queries together may hold in memory before
    /// they spill or are refused; a quarter of them keeps columns of the tables
    /// they scan
    pub query_memory: usize,
    /// Where queries spill to
    pub spill_folder: std::path::PathBuf,
}

/// What all sessions of a node share: the catalog, plans, sequences.
pub struct Engine {
    database: Database,
    seams: Seams,
    clock: Arc<HybridClock>,
    catalogs: CatalogCache,
    sequences: SequenceCache,
    planner: Planner,
    sessions: AtomicU32,
    /// Statements with their literals lifted out, and the catalog version they
    /// were judged by; `None`: not worth lifting.
    templates: RwLock<HashMap<String, Template>>,
    /// Statements by their exact text.
    texts: RwLock<HashMap<String, Arc<Prepared>>>,
}

type Template = (u64, Option<Arc<Prepared>>);

/// Texts that are remembered; beyond that the memory starts afresh.
const MOST_TEXTS: usize = 2_000;
/// Longer texts are not remembered.
const LONGEST_TEXT: usize = 8_192;

impl Engine {
    /// An engine over `database`; makes the catalog of a new cluster.
    pub async fn open(
        database: Database,
        seams: Seams,
        clock: Arc<HybridClock>,
        options: EngineOptions,
    ) -> Result<Arc<Engine>> {
        catalog::store::bootstrap(&database, &seams, &options).await?;
        let planner = Planner::new(&options)?;
        Ok(Arc::new(Engine {
            catalogs: CatalogCache::new(database.clone()),
            sequences: SequenceCache::new(database.clone()),
            planner,
            sessions: AtomicU32::new(0),
            templates: RwLock::default(),
            texts: RwLock::default(),
            database,
            seams,
            clock,
        }))
    }

    /// A session of `user`, with the settings its startup message asked for.
    pub fn session(self: &Arc<Self>, user: &str, startup: &[(String, String)]) -> Result<Session> {
        Session::new(self.clone(), user, startup)
    }

    /// The SCRAM-SHA-256 verifier of a role, as PostgreSQL writes it. `None`
    /// when there is no such role or it has no password.
    pub async fn role_verifier(&self, role: &str) -> Result<Option<String>> {
        let catalog = self.current_catalog().await?;
        Ok(catalog.roles.get(role).filter(|r| r.login).and_then(|r| r.password.clone()))
    }

    /// The name of the one database.
    pub async fn database_name(&self) -> Result<String> {
        Ok(self.current_catalog().await?.database.clone())
    }

    /// The newest catalog.
    pub async fn current_catalog(&self) -> Result<Arc<Catalog>> {
        let mut txn =
            self.database.begin(polity_txn::TransactionOptions { read_only: true, ..Default::default() }).await?;
        txn.begin_statement().await?;
        self.catalogs.at(&txn.view())
    }

    /// The transactions below.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Time and entropy.
    pub fn seams(&self) -> &Seams {
        &self.seams
    }

    /// The node's clock.
    pub fn clock(&self) -> &HybridClock {
        &self.clock
    }

    /// Catalogs by timestamp.
    pub fn catalogs(&self) -> &CatalogCache {
        &self.catalogs
    }

    /// Blocks of sequence values this node holds.
    pub fn sequences(&self) -> &SequenceCache {
        &self.sequences
    }

    /// The planner for statements that read.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// A number for a row that has no primary key: later rows get larger ones.
    pub fn next_row_id(&self) -> i64 {
        // The clock is never given twice on this node, also after a restart.
        self.clock.now().0 as i64
    }

    pub(super) fn next_session(&self) -> u32 {
        self.sessions.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// The template of a lifted text, if the point path can run it under this
    /// catalog; `judge` decides for texts that are new.
    pub(super) fn template(
        &self,
        lifted: &Lifted,
        catalog: &Catalog,
        judge: impl FnOnce(&str) -> Option<Prepared>,
    ) -> Option<Arc<Prepared>> {
        if let Some((version, template)) = self.templates.read().get(&lifted.text)
            && (*version == catalog.version)
        {
            return template.clone();
        }
        let template = judge(&lifted.text).map(Arc::new);
        keep(&self.templates, lifted.text.clone(), (catalog.version, template.clone()));
        template
    }

    /// The statement of exactly this text, if it is one statement; parses it at
    /// most once in a while.
    pub(super) fn parse_cached(&self, sql: &str) -> Result<Vec<Arc<Prepared>>> {
        if let Some(known) = self.texts.read().get(sql) {
            return Ok(vec![known.clone()]);
        }
        let mut statements = prepared::parse(sql)?;
        if statements.len() == 1 {
            let one = Arc::new(Prepared::new(sql.to_owned(), statements.pop(), Vec::new()));
            keep(&self.texts, sql.to_owned(), one.clone());
            return Ok(vec![one]);
        }
        let each = statements.into_iter();
        Ok(each.map(|s| Arc::new(Prepared::new(s.to_string(), Some(s), Vec::new()))).collect())
    }
}

fn keep<V>(map: &RwLock<HashMap<String, V>>, text: String, value: V) {
    if text.len() > LONGEST_TEXT {
        return;
    }
    let mut map = map.write();
    if map.len() >= MOST_TEXTS {
        map.clear();
    }
    map.insert(text, value);
}

/// An error of the floor below in the words of SQL.
impl From<polity_txn::Error> for Error {
    fn from(error: polity_txn::Error) -> Error {
        super::errors::of_transaction(error)
    }
}

/// Exactly one statement, or none, as the extended protocol has it.
pub(super) fn single(mut statements: Vec<Arc<Prepared>>) -> Result<Option<Arc<Prepared>>> {
    if statements.len() > 1 {
        return Err(Error::new(Condition::SyntaxError, "cannot insert multiple commands into a prepared statement"));
    }
    Ok(statements.pop())
}
