//! What all sessions of a node share.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use polity_base::seams::Seams;
use polity_base::time::HybridClock;
use polity_store::spill::SpillFolder;
use polity_txn::Database;
use tokio::time::Instant;

use super::Session;
use super::activity::Sessions;
use super::byzantine::Definitions;
use super::lift::Lifted;
use super::prepared::{self, Prepared};
use crate::catalog::{self, Catalog, CatalogCache};
use crate::ddl::sequence::SequenceCache;
use crate::error::{Condition, Error, Result};
use crate::query::Planner;

/// How an engine is set up.
#[derive(Clone)]
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
    /// Where queries put aside what does not fit
    pub spill: Arc<SpillFolder>,
}

/// What all sessions of a node share: the catalog, plans, sequences.
pub struct Engine {
    database: Database,
    seams: Seams,
    clock: Arc<HybridClock>,
    catalogs: CatalogCache,
    sequences: SequenceCache,
    planner: Planner,
    sessions: Arc<Sessions>,
    /// The last number of a row without its node's part
    row_ids: AtomicU64,
    /// Statements with their literals lifted out, and the catalog version they
    /// were judged by; `None`: not worth lifting.
    templates: RwLock<HashMap<String, Template>>,
    /// Statements by their exact text.
    texts: RwLock<HashMap<String, Arc<Prepared>>>,
    /// When whoever connected last asked for the newest catalog in vain
    alone_since: Mutex<Option<Instant>>,
    /// What is known of the ledger's definitions
    definitions: Definitions,
}

/// How long whoever connects waits for the newest catalog: what this node knows will do
/// to let people in, and to serve eventual tables.
const LOGIN_PATIENCE: Duration = Duration::from_millis(250);
/// After that was in vain, whoever connects is let in at once for so long.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(2);

type Template = (u64, Option<Arc<Prepared>>);

/// Bits of a row's number that name the node.
const NODE_BITS: u32 = 10;

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
            sessions: Arc::default(),
            row_ids: AtomicU64::new(0),
            templates: RwLock::default(),
            texts: RwLock::default(),
            database,
            seams,
            clock,
            alone_since: Mutex::default(),
            definitions: Definitions::default(),
        }))
    }

    /// A session of `user`, with the settings its startup message asked for.
    pub fn session(self: &Arc<Self>, user: &str, startup: &[(String, String)]) -> Result<Session> {
        Session::new(self.clone(), user, startup)
    }

    /// The SCRAM-SHA-256 verifier of a role, as PostgreSQL writes it. `None`
    /// when there is no such role or it has no password.
    pub async fn role_verifier(&self, role: &str) -> Result<Option<String>> {
        let catalog = self.login_catalog().await?;
        Ok(catalog.roles.get(role).filter(|r| r.login).and_then(|r| r.password.clone()))
    }

    /// The name of the one database.
    pub async fn database_name(&self) -> Result<String> {
        Ok(self.login_catalog().await?.database.clone())
    }

    /// The newest catalog.
    pub async fn current_catalog(&self) -> Result<Arc<Catalog>> {
        let mut txn =
            self.database.begin(polity_txn::TransactionOptions { read_only: true, ..Default::default() }).await?;
        txn.begin_statement().await?;
        self.catalogs.at(&txn.view())
    }

    /// The newest catalog, or where no majority answers the one this node knows:
    /// people must be able to connect to the cut-off side of a partition to be told
    /// what it can still do for them.
    async fn login_catalog(&self) -> Result<Arc<Catalog>> {
        let alone = self.alone_since.lock().is_some_and(|since| since.elapsed() < ASK_AGAIN_AFTER);
        if !alone {
            match tokio::time::timeout(LOGIN_PATIENCE, self.current_catalog()).await {
                Ok(Err(error)) if error.condition() == Condition::NoQuorum => {}
                Ok(known) => return known,
                Err(_) => {}
            }
            *self.alone_since.lock() = Some(Instant::now());
        }
        self.catalogs.at(&catalog::store::local(&self.database).await?)
    }

    /// Gives back what this node has reserved and not used: numbers of sequences.
    /// For an orderly end, when no session is left.
    pub async fn close(&self) -> Result<()> {
        self.sequences.give_back(&*self.current_catalog().await?).await
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

    /// What is known of the ledger's definitions.
    pub(super) fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// Makes the ledger's tables those of the newest catalog, if there is a ledger: for
    /// the node that leads the catalog, should whoever changed it have crashed.
    pub async fn ledger_in_step(&self) -> Result<()> {
        crate::ledger::step::in_step(self).await
    }

    /// The planner for statements that read.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// A number for a row that has no primary key, which no other node gives:
    /// rows that one node writes later get larger ones.
    pub fn next_row_id(&self) -> i64 {
        // Microseconds, roughly, which no restart goes back behind; then the node.
        let now = self.clock.now().0 >> NODE_BITS;
        let later = |last: u64| Some(now.max(last + 1));
        let last = self.row_ids.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later).unwrap_or_default();
        let ours = self.database.node().0 & ((1 << NODE_BITS) - 1);
        (now.max(last + 1) << NODE_BITS | ours) as i64
    }

    /// The sessions of this node.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
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
            let one = Arc::new(Prepared::of(sql.to_owned(), statements.pop(), Vec::new()));
            keep(&self.texts, sql.to_owned(), one.clone());
            return Ok(vec![one]);
        }
        let each = statements.into_iter();
        Ok(each.map(|s| Arc::new(Prepared::of(s.statement.to_string(), Some(s), Vec::new()))).collect())
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
