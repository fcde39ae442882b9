//! The replica of the eventual tables, put into its place: the other replicas over the
//! links, and what it must know of the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use polity_base::time::HybridClock;
use polity_base::{Guarantee, IndexId, Key, NodeId, Timestamp};
use polity_cluster::links::{Handler, Links, Refusal, Service, Traffic};
use polity_crdt::replica::{CallFailed, Departure, Members, Peers, Traffic as Kind};
use polity_crdt::{Replica, Schema};
use polity_raft::Group;
use polity_sql::catalog::{Catalog, CatalogCache, rows, store};
use polity_store::state::State;
use polity_txn::Database;
use tokio::time::Instant;

use crate::admin::departure;

/// The others, over the links.
pub(crate) struct PeerLinks {
    links: Links,
    group: Group,
    state: Arc<State>,
    clock: Arc<HybridClock>,
    /// Who belongs to the cluster is asked at every commit, and changes seldom
    members: Mutex<Option<(Instant, Members)>>,
}

/// So old what is known of the members may be.
const FRESH: Duration = Duration::from_millis(200);

impl PeerLinks {
    /// The members of `group`, reached over `links`.
    pub fn new(links: Links, group: Group, state: Arc<State>, clock: Arc<HybridClock>) -> PeerLinks {
        PeerLinks { links, group, state, clock, members: Mutex::default() }
    }
}

/// A member that was never reached has not been since the beginning of time.
const NEVER: Timestamp = Timestamp(1);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

#[async_trait]
impl Peers for PeerLinks {
    fn members(&self) -> Members {
        let mut known = self.members.lock();
        if let Some((at, members)) = &*known
            && at.elapsed() < FRESH
        {
            return members.clone();
        }
        let nodes: BTreeSet<NodeId> = self.group.status().members.iter().map(|m| m.node).collect();
        let removed: BTreeMap<NodeId, Departure> = match departure::all(&self.state) {
            Ok(removed) => removed,
            Err(error) => {
                tracing::error!(%error, "who was removed cannot be read");
                BTreeMap::new()
            }
        };
        let members = Members { nodes, removed };
        *known = Some((Instant::now(), members.clone()));
        members
    }

    fn unreachable_since(&self, node: NodeId) -> Option<Timestamp> {
        if node == self.links.node() {
            return None;
        }
        let links = self.links.peers();
        match links.iter().find(|link| link.node == node) {
            Some(link) if link.connected => None,
            Some(link) => Some(link.since.map_or(NEVER, |silent| {
                let nanos = u64::try_from(silent.as_nanos()).unwrap_or(u64::MAX);
                self.clock.reading().midpoint().minus_nanos(nanos)
            })),
            None => Some(NEVER),
        }
    }

    async fn call(&self, node: NodeId, traffic: Kind, request: Bytes) -> Result<Bytes, CallFailed> {
        let peer = self.group.peer(node).ok_or_else(|| CallFailed("it does not belong to the cluster".to_owned()))?;
        let traffic = match traffic {
            Kind::Control => Traffic::Control,
            Kind::Bulk => Traffic::Bulk,
        };
        let call = self.links.call(node, &peer.address, Service::EVENTUAL, traffic, request);
        let answer = tokio::time::timeout(PATIENCE, call).await;
        answer.map_err(|_| CallFailed(format!("no answer in {PATIENCE:?}")))?.map_err(|e| CallFailed(e.to_string()))
    }
}

/// Answers the others.
pub(crate) struct EventualAnswers(pub Replica);

#[async_trait]
impl Handler for EventualAnswers {
    async fn answer(&self, from: NodeId, request: Bytes) -> Result<Bytes, Refusal> {
        self.0.answer(from, request).await.map_err(|error| match error {
            polity_crdt::Error::Nonsense { .. } => Refusal::Malformed(error.to_string()),
            error => Refusal::Failed(error.to_string()),
        })
    }
}

/// The catalog as this node's copy of the strong range has it.
pub(crate) struct LocalCatalog {
    database: Database,
    cache: CatalogCache,
    /// Storages that some catalog named: one that no longer is was dropped. (One that
    /// never was may be known to others already.)
    named: Mutex<(u64, BTreeSet<IndexId>, BTreeSet<IndexId>)>,
}

impl LocalCatalog {
    /// The catalog that `database` holds, which is read without asking anyone.
    pub fn new(database: Database) -> LocalCatalog {
        LocalCatalog { cache: CatalogCache::new(database.clone()), database, named: Mutex::default() }
    }

    fn now(&self) -> Option<Arc<Catalog>> {
        // What this node holds is there without waiting.
        let view = store::local(&self.database).now_or_never()?.ok()?;
        let catalog = self.cache.at(&view).ok()?;
        let mut named = self.named.lock();
        if named.0 != catalog.version {
            let (_, known, now) = &mut *named;
            *now = storages(&catalog);
            known.extend(now.iter().copied());
            named.0 = catalog.version;
        }
        drop(named);
        Some(catalog)
    }
}

/// The storages of eventual tables, and of their indexes.
fn storages(catalog: &Catalog) -> BTreeSet<IndexId> {
    let eventual = catalog.tables.values().filter(|t| t.guarantee == Guarantee::Eventual);
    eventual.flat_map(|t| std::iter::once(t.primary.storage).chain(t.indexes.iter().map(|i| i.storage))).collect()
}

impl Schema for LocalCatalog {
    fn entries(&self, key: &Key, row: &Bytes) -> Vec<(Key, Bytes)> {
        let Some(catalog) = self.now() else { return Vec::new() };
        let Some(storage) = key.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes) else {
            return Vec::new();
        };
        let table = catalog.tables.values().find(|t| t.primary.storage.0 == storage);
        let Some(table) = table.filter(|t| !t.indexes.is_empty()) else { return Vec::new() };
        let entries = || {
            let values = rows::load(table, row)?;
            let entry = |index| Ok((rows::index_key(table, index, &values, key)?, key.0.clone()));
            table.indexes.iter().map(entry).collect::<polity_sql::Result<Vec<_>>>()
        };
        entries().unwrap_or_else(|error| {
            tracing::error!(table = table.name, %error, "a row has no index entries");
            Vec::new()
        })
    }

    fn indexes(&self) -> Vec<(IndexId, IndexId)> {
        let Some(catalog) = self.now() else { return Vec::new() };
        let eventual = catalog.tables.values().filter(|t| t.guarantee == Guarantee::Eventual);
        eventual.flat_map(|t| t.indexes.iter().map(|i| (i.storage, t.primary.storage))).collect()
    }

    fn is_dropped(&self, storage: IndexId) -> bool {
        if self.now().is_none() {
            return false;
        }
        let named = self.named.lock();
        named.1.contains(&storage) && !named.2.contains(&storage)
    }
}
