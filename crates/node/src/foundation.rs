//! The lower half of a node: from the data folder up to transactions.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use polity_base::planted::{Bug, planted};
use polity_base::seams::Seams;
use polity_base::time::HybridClock;
use polity_base::{IndexId, RangeId, Timestamp};
use polity_cluster::certificates::Files;
use polity_cluster::links::carrier::Transport;
use polity_cluster::links::{Limits as LinkLimits, Links, LinksConfig, Service};
use polity_cluster::raft_links::{RaftAnswers, RaftLinks};
use polity_crdt::Limits as EventualLimits;
use polity_crdt::replica::{Alone, Peers};
use polity_raft::{Checkpointer, Group, GroupOptions, Peer};
use polity_store::disk::{self, Disk, RealDisk};
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::spill::SpillFolder;
use polity_store::state::{State, StateOptions};
use polity_txn::{Database, Directory, LockServer};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admin::{self, Client};
use crate::certificates::Papers;
use crate::clock::SystemClock;
use crate::cluster::locks::{LockAnswers, LockLinks};
use crate::cluster::{Cluster, announce, upkeep};
use crate::config::{KeySource, LinkConfig, NodeConfig, Security, World};
use crate::entropy::SystemEntropy;
use crate::error::Error;
use crate::eventual::{self, Answers, Departures, LocalCatalog, PeerLinks, Removal};
use crate::identity::Identity;
use crate::{ledger, tasks};

/// The folder in the data folder where development mode keeps the master key,
const DEVELOPMENT: &str = "dev";
/// and its file there.
const DEVELOPMENT_KEY: &str = "master.key";

/// The lower half of a node: from the data folder up to transactions.
pub(crate) struct Foundation {
    pub identity: Identity,
    pub files: Files,
    pub seams: Seams,
    pub clock: Arc<HybridClock>,
    pub log: Log,
    pub state: Arc<State>,
    pub group: Group,
    /// This node's replica of the eventual tables
    pub eventual: polity_crdt::Replica,
    /// What that replica knows of the catalog
    pub schema: Arc<LocalCatalog>,
    removal: Removal,
    /// The ledger of the byzantine tables, or its place; none if this node has no links
    pub ledger: Option<Arc<ledger::Host>>,
    pub database: Database,
    /// This node among others; none if it has no links
    pub cluster: Option<Cluster>,
    /// What answers administrators; none if it has no links
    pub administration: Option<Arc<admin::server::Server>>,
    pub spill: Arc<SpillFolder>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    /// The data folder is ours until this is dropped.
    _folder: Box<dyn Any + Send + Sync>,
}

impl Foundation {
    /// Takes the data folder and brings everything in it up. A node that joins has
    /// its own copy of the catalog when this returns.
    pub async fn lay(config: &NodeConfig) -> Result<Foundation, Error> {
        let World { seams, disk, transport } = world(config)?;
        let folder = disk::lock(&*disk)?;
        let papers = Papers::find(config)?;
        let identity = Identity::open(&*disk, &*seams.entropy, papers.claim(config)?)?;
        let files = papers.complete(&identity, seams.clock.read().midpoint())?;
        let master = master_key(config, &seams)?;
        let keys = Keyring::open(&*disk, &master, &*seams.entropy)?;
        drop(master);

        let limits = &config.limits;
        let spill = SpillFolder::open(disk.clone(), &*seams.entropy, limits.spill_bytes)?;
        let options = LogOptions { cache_bytes: limits.log_cache_bytes, segment_bytes: limits.log_segment_bytes };
        let (log, _) = Log::open(disk.clone(), &keys, seams.entropy.clone(), options).await?;
        let options = StateOptions {
            cache_bytes: limits.row_cache_bytes,
            retention: limits.retention,
            ..StateOptions::default()
        };
        let state = State::open(disk, &keys, seams.entropy.clone(), options)?;
        let state = Arc::new(state);

        let clock = Arc::new(HybridClock::new(seams.clock.clone(), tasks::clock_mark(&log)?));
        // No time is given out before a mark beyond it is durable.
        tasks::mark_clock(&log, &clock).await?;

        let links = match &config.link {
            Some(link) => Some((link, links(link, &identity, &files, &seams, transport).await?)),
            None => None,
        };
        let own = peer(config, links.as_ref())?;
        let mut options =
            GroupOptions { join: !identity.founder, keep_entries: limits.kept_entries, ..GroupOptions::default() };
        if identity.founder {
            options.founders = BTreeMap::from([(identity.node, own.clone())]);
        }
        if let Some((_, links)) = &links {
            options.network = Arc::new(RaftLinks::new(links.clone()));
        }
        options.packing.max_bytes = options.packing.max_bytes.max(limits.transaction_bytes);
        let group =
            Group::start(RangeId::STRONG, identity.node, log.clone(), state.clone(), clock.clone(), options).await?;

        let replica = Arc::new(polity_txn::StrongReplica::new(group.clone(), state.clone()));
        let directory = Directory::of_one(RangeId::STRONG, replica);
        let schema = Database::open(directory.clone(), &seams, polity_txn::Options::default());
        let schema = Arc::new(LocalCatalog::new(schema, limits.retention));
        let removal = Removal::open(&log);
        let peers: Arc<dyn Peers> = match &links {
            None => Arc::new(Alone(identity.node)),
            Some((_, links)) => {
                Arc::new(PeerLinks::new(links.clone(), group.clone(), state.clone(), clock.clone(), removal.clone()))
            }
        };
        let eventual = polity_crdt::Replica::start(polity_crdt::Options {
            node: identity.node,
            log: log.clone(),
            state: state.clone(),
            clock: clock.clone(),
            peers,
            schema: schema.clone(),
            joins: !identity.founder,
            limits: EventualLimits { transaction_bytes: limits.transaction_bytes, ..EventualLimits::default() },
        });
        let eventual = eventual.await.map_err(Error::eventual)?;
        let directory = directory.with_eventual(
            RangeId::EVENTUAL,
            polity_txn::EventualReplica::new(identity.node, eventual.clone(), state.clone()),
        );
        let ledger = match &links {
            None => None,
            Some((_, links)) => {
                let host = ledger::Host::open(ledger::Surroundings {
                    node: identity.node,
                    cluster: identity.cluster,
                    log: log.clone(),
                    state: state.clone(),
                    group: group.clone(),
                    clock: seams.clock.clone(),
                    entropy: seams.entropy.clone(),
                    links: links.clone(),
                    rules: Arc::new(polity_sql::ledger::Checks::default()),
                });
                Some(host.await?)
            }
        };
        let directory = match &ledger {
            None => directory,
            Some(host) => directory.with_ledger(host.clone()),
        };
        let options = polity_txn::Options {
            node: identity.node,
            max_transaction_bytes: limits.transaction_bytes,
            ..Default::default()
        };
        let database = match &links {
            None => Database::open(directory, &seams, options),
            Some((_, links)) => {
                let locks = LockLinks { links: links.clone(), group: group.clone() };
                Database::open_among_others(directory, &seams, options, Arc::new(locks))
            }
        };

        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        if let Some(host) = &ledger {
            host.serve(database.clone());
            tasks.spawn(host.clone().look_out(stopped.clone()));
        }
        let (interval, bytes) = (limits.checkpoint_interval, limits.checkpoint_bytes);
        let checkpointer = Checkpointer::new(state.clone(), vec![group.clone()], interval, bytes);
        let others = [Some(eventual.checkpointed()), ledger.as_ref().map(ledger::Host::checkpointed)];
        tasks.spawn(checkpointer.with_others(others.into_iter().flatten().collect()).run(stopped.clone()));
        tasks.spawn(tasks::collect_garbage(state.clone(), stopped.clone()));
        tasks.spawn(tasks::keep_clock_marked(log.clone(), clock.clone(), stopped.clone()));
        tasks.spawn(eventual::confirm_dropped(schema.clone(), database.clone(), stopped));
        let folder: Box<dyn Any + Send + Sync> = Box::new(folder);
        let mut foundation = Foundation {
            identity,
            files,
            seams,
            clock,
            log,
            state,
            group,
            eventual,
            schema,
            removal,
            database,
            spill,
            ledger,
            cluster: None,
            administration: None,
            stop,
            tasks,
            _folder: folder,
        };
        if let Some((link, links)) = links
            && let Err(error) = foundation.meet(link, links, own).await
        {
            if let Err(second) = foundation.clear().await {
                tracing::warn!(error = %second, "the node did not stop in order");
            }
            return Err(error);
        }
        Ok(foundation)
    }

    /// Answers other nodes, and becomes known to them.
    async fn meet(&mut self, link: &LinkConfig, links: Links, own: Peer) -> Result<(), Error> {
        let cluster = {
            let (group, state) = (self.group.clone(), self.state.clone());
            Cluster::new(links.clone(), group, state, own, link.allow_faults, link.delays.clone())
        };
        self.cluster = Some(cluster.clone());
        // Who remembers nothing answers nothing that counts until the others have agreed to
        // have it: had it lost its data, it would vote without its memory, and who is sent
        // entries before it surely is a member may keep what makes it no new node any more.
        let remembers = self.identity.founder
            || self.group.status().last_index > 0
            || !self.is_new()?
            || planted(Bug::AnswerUnasked);
        let raft = Arc::new(RaftAnswers::new(self.group.clone()));
        let eventual = Arc::new(Answers { replica: self.eventual.clone(), state: self.state.clone() });
        let answer = |links: &Links| {
            links.register(Service::RAFT, raft.clone());
            links.register(Service::EVENTUAL, eventual.clone());
        };
        if remembers {
            answer(&links);
        }
        if let Some(host) = &self.ledger {
            // It trusts nobody, and needs no leave to listen.
            links.register(Service::LEDGER, Arc::new(ledger::LedgerAnswers(host.clone())));
            links.register(Service::LEDGER_VOICE, Arc::new(ledger::Voice(host.clone())));
        }
        let locks = LockServer::new(&self.database);
        self.group.admit_by(Arc::new(locks.clone()));
        links.register(Service::LOCKS, Arc::new(LockAnswers(locks)));
        let departures = Arc::new(Departures {
            node: self.identity.node,
            group: self.group.clone(),
            state: self.state.clone(),
            database: self.database.clone(),
            replica: self.eventual.clone(),
        });
        let server = Arc::new(admin::server::Server {
            cluster: cluster.clone(),
            database: self.database.clone(),
            state: self.state.clone(),
            eventual: self.eventual.clone(),
            schema: self.schema.clone(),
            departures: departures.clone(),
            ledger: self.ledger.clone().map(admin::ledger::Desk::new),
        });
        links.receive_visitors(server.clone());
        self.administration = Some(server);
        self.tasks.spawn(departures.run(self.stop.subscribe()));
        let client = Client::of_node(links.credentials(), self.seams.clock.clone(), links.transport());
        self.tasks.spawn(upkeep::run(cluster.clone(), self.stop.subscribe()));
        let (node, seeds) = (self.identity.node, link.join.clone());
        if !self.is_new()? {
            // It knows enough to serve what can be served without the others.
            let (mut stop, removal) = (self.stop.subscribe(), self.removal.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    known = announce::announce(&cluster, &client, node, &seeds) => {
                        if let Err(error) = known {
                            tracing::error!(%error, "the others do not take this node back");
                            removal.tell("the cluster");
                        }
                    }
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            });
            return Ok(());
        }
        if self.identity.founder {
            return Ok(());
        }
        announce::announce(&cluster, &client, node, &seeds).await?;
        tracing::info!("the cluster knows this node; copying what it holds");
        if !remembers {
            answer(&links);
        }
        tokio::select! {
            copied = self.copied() => copied,
            why = self.group.failed() => Err(Error::Failed(why)),
            why = self.eventual.failed() => Err(Error::Failed(why)),
        }
    }

    /// Waits until this node has a catalog, and all rows of the eventual tables.
    async fn copied(&self) -> Result<(), Error> {
        while self.is_new()? {
            tokio::time::sleep(announce::LOOK_EVERY).await;
        }
        eventual::filled(&self.eventual).await
    }

    /// Whether this node has no catalog yet.
    pub fn is_new(&self) -> Result<bool, Error> {
        let rows = polity_base::key::KeyBuilder::new(IndexId::CATALOG).finish().prefix_span();
        Ok(self.state.snapshot()?.scan(&rows, Timestamp::MAX)?.next()?.is_none())
    }

    /// Stops everything in order. Makes the rows durable, so that the next start
    /// has nothing to replay.
    pub async fn clear(mut self) -> Result<(), Error> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a background task failed");
            }
        }
        if let Some(cluster) = &self.cluster {
            cluster.hand_over().await;
        }
        eventual::part(&self.eventual, self.identity.node).await;
        if let Some(host) = &self.ledger {
            host.stop().await;
        }
        self.eventual.shutdown().await;
        self.group.shutdown().await;
        self.administration = None;
        if let Some(cluster) = self.cluster.take() {
            cluster.membership.leave().await;
            cluster.links.stop().await;
        }
        let checkpoints =
            Checkpointer::new(self.state.clone(), vec![self.group.clone()], std::time::Duration::MAX, u64::MAX);
        let made_durable = checkpoints.last().await;
        self.log.close().await;
        Ok(made_durable?)
    }
}

fn world(config: &NodeConfig) -> Result<World, Error> {
    if let Some(world) = &config.world {
        return Ok(world.clone());
    }
    let disk = RealDisk::open(&config.data).map_err(|e| Error::file(config.data.display(), e))?;
    let clock = Arc::new(SystemClock::new(config.clock_error));
    let seams = Seams { clock, entropy: Arc::new(SystemEntropy::default()) };
    Ok(World { seams, disk: Arc::new(disk) as Arc<dyn Disk>, transport: Transport::Tls })
}

async fn links(
    link: &LinkConfig,
    identity: &Identity,
    files: &Files,
    seams: &Seams,
    transport: Transport,
) -> Result<Links, Error> {
    let config = LinksConfig {
        cluster: identity.cluster,
        node: identity.node,
        listen: link.listen,
        certificates: files.clone(),
        seams: seams.clone(),
        limits: LinkLimits::default(),
        transport,
    };
    Ok(Links::start(config).await?)
}

/// Where others find this node.
fn peer(config: &NodeConfig, links: Option<&(&LinkConfig, Links)>) -> Result<Peer, Error> {
    let address = match links {
        None => String::new(),
        Some((LinkConfig { advertise: Some(address), .. }, _)) => address.clone(),
        Some((_, links)) if links.local_address().ip().is_unspecified() => {
            let why = "other nodes cannot be told to connect to this address; say which one they can (--advertise)";
            return Err(Error::Config(format!("{}: {why}", links.local_address())));
        }
        Some((_, links)) => links.local_address().to_string(),
    };
    Ok(Peer { address, region: config.region.clone(), zone: config.zone.clone(), draining: false })
}

fn master_key(config: &NodeConfig, seams: &Seams) -> Result<MasterKey, Error> {
    match &config.security {
        Security::Development { .. } => {
            let folder = config.data.join(DEVELOPMENT);
            std::fs::create_dir_all(&folder).map_err(|e| Error::file(folder.display(), e))?;
            Ok(MasterKey::from_file_or_generate(&folder.join(DEVELOPMENT_KEY), &*seams.entropy)?)
        }
        Security::Production { key: KeySource::File(file), .. } => Ok(MasterKey::from_file(file)?),
        Security::Production { key: KeySource::Environment(name), .. } => Ok(MasterKey::from_env(name)?),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use polity_base::key::KeyBuilder;
    use polity_base::seams::ClockSource;
    use polity_base::time::ClockReading;
    use polity_base::{Class, Key, NodeId, Operation, Value};
    use polity_store::disk::{Crash, MemoryDisk};
    use polity_txn::TransactionOptions;

    use super::*;

    fn config(data: &Path) -> NodeConfig {
        let mut config = NodeConfig::new(data.to_owned(), Security::Development { certificates: None });
        config.sql = (Ipv4Addr::LOCALHOST, 0).into();
        config.http = (Ipv4Addr::LOCALHOST, 0).into();
        config
    }

    fn key(n: i32) -> Key {
        let mut key = KeyBuilder::new(IndexId(16384));
        key.push(&Value::Int4(n)).unwrap();
        key.finish()
    }

    async fn put(node: &Foundation, n: i32, value: &'static str) -> Timestamp {
        let put = Operation::Put { key: key(n), value: Bytes::from_static(value.as_bytes()) };
        node.database.write_direct(vec![put]).await.unwrap()
    }

    async fn get(node: &Foundation, n: i32) -> Option<Bytes> {
        let mut transaction = node.database.begin(TransactionOptions::default()).await.unwrap();
        transaction.begin_statement().await.unwrap();
        transaction.view().get(&key(n)).unwrap()
    }

    #[tokio::test]
    async fn a_node_comes_back_as_itself() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = None;
        for round in 0..4 {
            let node = Foundation::lay(&config(folder.path())).await.unwrap();
            assert_eq!(*first.get_or_insert(node.identity), node.identity);
            for earlier in 0..round {
                assert_eq!(get(&node, earlier).await.as_deref(), Some(b"v".as_slice()), "round {round}");
            }
            put(&node, round, "v").await;
            node.clear().await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_folder_has_one_process() {
        let folder = tempfile::tempdir().unwrap();
        let node = Foundation::lay(&config(folder.path())).await.unwrap();
        let refused = Foundation::lay(&config(folder.path())).await.err().unwrap();
        assert!(refused.to_string().contains("in use"), "{refused}");
        node.clear().await.unwrap();
        Foundation::lay(&config(folder.path())).await.unwrap().clear().await.unwrap();
    }

    #[tokio::test]
    async fn wrong_folders_are_answered_with_reasons() {
        let folder = tempfile::tempdir().unwrap();
        let node = Foundation::lay(&config(folder.path())).await.unwrap();
        put(&node, 1, "v").await;
        node.clear().await.unwrap();

        let refused = async |what: &str| {
            let error = Foundation::lay(&config(folder.path())).await.err().unwrap();
            assert!(error.to_string().contains(what), "{error}");
            error.class()
        };
        let file = |name: &str| folder.path().join(name);
        let set_aside = |name: &str, text: &str| {
            let (file, old) = (file(name), std::fs::read(file(name)).unwrap());
            std::fs::write(&file, text).unwrap();
            move || std::fs::write(file, old).unwrap()
        };

        let put_back = set_aside("dev/master.key", &"0".repeat(64));
        assert_eq!(refused("another key").await, Class::Input);
        put_back();
        let put_back = set_aside("dev/master.key", "short");
        refused("64 hexadecimal digits").await;
        put_back();
        let put_back = set_aside("keyring", "short");
        assert_eq!(refused("keyring").await, Class::Corrupt);
        put_back();
        let put_back = set_aside("node", "somebody else's file");
        refused("node: begins with").await;
        put_back();
        let rows = std::fs::read(file("state")).unwrap();
        std::fs::write(file("state"), &rows[..rows.len() / 2]).unwrap();
        assert_eq!(refused("state").await, Class::Corrupt);
        std::fs::write(file("state"), &rows).unwrap();

        let node = Foundation::lay(&config(folder.path())).await.unwrap();
        assert!(get(&node, 1).await.is_some());
        node.clear().await.unwrap();
    }

    #[tokio::test]
    async fn another_number_than_the_folders_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        Foundation::lay(&config(folder.path())).await.unwrap().clear().await.unwrap();
        let other = NodeConfig { node: Some(NodeId(2)), ..config(folder.path()) };
        let refused = Foundation::lay(&other).await.err().unwrap();
        assert!(refused.to_string().contains("belongs to node"), "{refused}");
    }

    /// A clock that stands still unless it is set.
    struct SetClock(AtomicU64);

    impl ClockSource for SetClock {
        fn read(&self) -> ClockReading {
            let now = Timestamp(self.0.load(Ordering::Relaxed));
            ClockReading { earliest: now, latest: now }
        }
    }

    #[tokio::test]
    async fn no_time_is_given_twice_though_the_node_crashes_and_its_clock_is_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = MemoryDisk::new(11);
        let mut last = Timestamp::ZERO;
        for round in 0..5 {
            let clock = SetClock(AtomicU64::new(1_800_000_000_000_000_000 - round * 3_600_000_000_000));
            let seams = Seams { clock: Arc::new(clock), entropy: Arc::new(SystemEntropy::default()) };
            let world = World { seams, disk: Arc::new(disk.clone()), transport: Transport::Tls };
            let node = Foundation::lay(&NodeConfig { world: Some(world), ..config(folder.path()) }).await.unwrap();
            assert!(node.clock.now() > last, "round {round}");
            let committed = put(&node, 1, "v").await;
            assert!(committed > last, "round {round}");
            last = node.clock.now();
            disk = disk.restart(Crash::Lost);
            // What it holds in memory is of no use any more; its log fails.
            let _ = node.clear().await;
        }
    }
}
