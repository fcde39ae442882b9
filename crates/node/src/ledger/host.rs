//! The ledger of this node: there is none until somebody makes a byzantine table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::seams::{ClockSource, Entropy, unique_id};
use polity_base::{Guarantee, NodeId, RangeId, Timestamp};
use polity_bft::adversary::Adversary;
use polity_bft::consensus::driver::{self, Condition, Handle, Parts, SubmitError};
use polity_bft::consensus::presence::Quorum;
use polity_bft::genesis::{Genesis, Parameters};
use polity_bft::ledger::reader::validators_at;
use polity_bft::ledger::rules::RowRules;
use polity_bft::ledger::storage::store::{Durable, StoreStorage};
use polity_bft::ledger::{Ledger, Options, Outcome, Refusal};
use polity_bft::signing::{SecretKey, Verified};
use polity_bft::transaction::{Body, Operation, Precondition, SignedTransaction};
use polity_bft::types::{Height, PublicKey, Signature, Validator, Validators};
use polity_raft::Group;
use polity_store::log::Log;
use polity_store::state::{AppliedMark, Checkpointed, State};
use polity_txn::byzantine::{self, LedgerError, Reader, unreadable};
use polity_txn::{Contested, Database, Error, Outage, Snapshot};
use tokio::sync::{Mutex, watch};

use super::network::LedgerLinks;
use super::{origin, told, voice};
use crate::error::Error as NodeError;

/// The fewest nodes of which one may lie.
const LEAST_NODES: usize = 4;
/// For so long nodes are waited for: for an answer, for a quorum, for an outcome while
/// there is no quorum.
const PATIENCE: Duration = Duration::from_secs(2);
/// A ledger that was just made may take so long until its validators hear each other.
const BEGINNING: Duration = Duration::from_secs(15);
/// How often it is looked, at most, whether the cluster has agreed on a ledger.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For how many heights a transaction may wait to be ordered, of those the ledger allows.
const WAIT_HEIGHTS: u64 = 512;

type Running = Handle<Ledger<StoreStorage>>;

/// What a ledger is built on.
pub(crate) struct Surroundings {
    pub node: NodeId,
    /// The cluster's name, for the genesis
    pub cluster: u128,
    pub log: Log,
    pub state: Arc<State>,
    pub group: Group,
    pub clock: Arc<dyn ClockSource>,
    pub entropy: Arc<dyn Entropy>,
    pub links: polity_cluster::links::Links,
    pub rules: Arc<dyn RowRules>,
}

/// The ledger of this node, or the place where one may come to be.
pub(crate) struct Host {
    of: Surroundings,
    key: Arc<SecretKey>,
    network: Arc<LedgerLinks>,
    /// Set once there is one: genesis is agreed on through it
    database: OnceLock<Database>,
    /// Held while the ledger is being started
    beginning: Mutex<()>,
    started: watch::Sender<Option<Started>>,
    /// The bytes that came through here, most of which are logged: for checkpoints
    bytes: AtomicU64,
    misbehaviour: told::Misbehaviour,
}

#[derive(Clone)]
struct Started {
    handle: Running,
    reader: Reader,
    durable: Durable,
}

impl Host {
    /// The ledger that this node keeps, started, or none yet. (The database comes later:
    /// see [`Host::serve`].)
    pub async fn open(of: Surroundings) -> Result<Arc<Host>, NodeError> {
        let key = Arc::new(origin::key(&of.log, &*of.entropy).await?);
        let network = Arc::new(LedgerLinks::new(of.links.clone(), of.group.clone()));
        let host = Arc::new(Host {
            of,
            key,
            network,
            database: OnceLock::new(),
            beginning: Mutex::default(),
            started: watch::Sender::new(None),
            bytes: AtomicU64::new(0),
            misbehaviour: told::Misbehaviour::default(),
        });
        if let Some(genesis) = origin::kept(&host.of.log)? {
            host.begin(genesis).await?;
        }
        Ok(host)
    }

    /// Makes and finds ledgers by way of `database`.
    pub fn serve(&self, database: Database) {
        // There is one database of a node.
        let _ = self.database.set(database);
    }

    /// Starts the ledger once the cluster has agreed on one, until `stop` turns true.
    pub async fn look_out(self: Arc<Host>, mut stop: watch::Receiver<bool>) {
        let mut complained = false;
        let mut commits = self.of.state.observe_commits(Guarantee::Strong);
        loop {
            commits.mark_unchanged();
            match self.adopt().await {
                Err(error) if !std::mem::replace(&mut complained, true) => {
                    tracing::error!(%error, "the ledger does not start");
                }
                _ => {}
            }
            if self.started().is_some() {
                return;
            }
            let next = async {
                tokio::time::sleep(LOOK_EVERY).await;
                commits.changed().await
            };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                changed = next => if changed.is_err() { return },
            }
        }
    }

    /// Starts the ledger that the cluster has agreed on, if it has.
    async fn adopt(&self) -> Result<(), NodeError> {
        match origin::agreed(&self.of.state)? {
            None => Ok(()),
            Some(genesis) => self.begin(genesis).await,
        }
    }

    async fn begin(&self, genesis: Genesis) -> Result<(), NodeError> {
        let _alone = self.beginning.lock().await;
        if self.started().is_some() {
            return Ok(());
        }
        origin::keep(&self.of.log, &genesis).await?;
        let (log, state, rules) = (self.of.log.clone(), self.of.state.clone(), self.of.rules.clone());
        let opened = polity_store::blocking(move || {
            let storage = StoreStorage::open(log, state);
            let durable = storage.durable();
            Ledger::open(storage, genesis, rules, Options::default()).map(|ledger| (ledger, durable))
        });
        let opened = opened.await.map_err(|e| NodeError::Ledger(format!("its task failed: {e}")))?;
        let (ledger, durable) = opened.map_err(|e| NodeError::Ledger(e.to_string()))?;
        let reader = ledger.reader();
        let parts = Parts {
            ledger: ledger.id(),
            node: self.of.node,
            key: self.key.clone(),
            application: ledger,
            log: self.of.log.clone(),
            group: RangeId::VALIDATOR,
            network: self.network.clone(),
            clock: self.of.clock.clone(),
        };
        let handle = driver::start(parts, driver::Options::default()).map_err(|e| NodeError::Ledger(e.to_string()))?;
        if let Some(receiver) = handle.told() {
            tokio::spawn(told::write_down(receiver, self.misbehaviour.clone()));
        }
        tracing::info!(ledger = %reader.id(), "the ledger of the byzantine tables runs");
        self.started.send_replace(Some(Started { handle, reader, durable }));
        Ok(())
    }

    fn started(&self) -> Option<Started> {
        self.started.borrow().clone()
    }

    /// Takes in a message of another node.
    pub async fn receive(&self, from: NodeId, message: Bytes) {
        if let Some(started) = self.started() {
            self.bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
            started.handle.receive(from, message).await;
        }
    }

    /// How often other nodes were seen to send what they must not, and what it was last.
    pub fn misbehaviour(&self) -> BTreeMap<NodeId, (u64, &'static str)> {
        self.misbehaviour.all()
    }

    /// Whether a node decides about the next height, as far as this one knows.
    pub fn is_validator(&self, node: NodeId) -> Result<bool, Error> {
        let Some(started) = self.started() else { return Ok(false) };
        let decides = || {
            let next = started.reader.height()?.next();
            Ok(validators_at(&started.reader.validators()?, next)?.get(node).is_some())
        };
        decides().map_err(unreadable)
    }

    /// How many transactions wait here to be ordered, and their bytes.
    pub fn waiting(&self) -> Option<(usize, usize)> {
        self.started().map(|started| started.handle.waiting())
    }

    /// The key that this node signs with, encoded.
    pub fn public_key(&self) -> Vec<u8> {
        self.key.public().encode()
    }

    /// Makes this node lie, or stop to. Whether it follows a ledger.
    pub fn lie(&self, adversary: Option<Box<dyn Adversary>>) -> bool {
        let started = self.started();
        if let Some(started) = &started {
            started.handle.lie(adversary);
        }
        started.is_some()
    }

    /// Has a transaction ordered that was signed elsewhere.
    pub async fn order(&self, transaction: SignedTransaction) -> Result<Outcome, Error> {
        self.hand_in(transaction).await?.map_err(|error| self.refused(error))
    }

    async fn hand_in(&self, transaction: SignedTransaction) -> Result<Result<Outcome, SubmitError>, Error> {
        let started = self.started().ok_or_else(no_ledger)?;
        let size = transaction.size();
        self.outcome(&started, size, started.handle.submit(Arc::new(transaction))).await
    }

    /// Has a transaction ordered that was signed here.
    async fn order_own(&self, transaction: Verified<SignedTransaction>) -> Result<Outcome, Error> {
        self.hand_in_own(transaction).await?.map_err(|error| self.refused(error))
    }

    async fn hand_in_own(
        &self,
        transaction: Verified<SignedTransaction>,
    ) -> Result<Result<Outcome, SubmitError>, Error> {
        let started = self.started().ok_or_else(no_ledger)?;
        let size = transaction.size();
        self.outcome(&started, size, started.handle.submit_verified(transaction)).await
    }

    /// What comes of a transaction that is being ordered, unless it is given up.
    async fn outcome(
        &self,
        started: &Started,
        size: usize,
        ordering: impl Future<Output = Result<Outcome, SubmitError>>,
    ) -> Result<Result<Outcome, SubmitError>, Error> {
        self.bytes.fetch_add(size as u64, Ordering::Relaxed);
        let mut condition = started.handle.condition();
        tokio::select! {
            outcome = ordering => Ok(outcome),
            quorum = given_up(&mut condition) => Err(Error::Unknown(match quorum {
                Some(quorum) => format!("while it waited, {}", missing(&quorum)),
                None => "the ledger stopped while it waited".to_owned(),
            })),
        }
    }

    /// A change that a validator makes in its own name.
    pub async fn approve(&self, operation: Operation) -> Result<Outcome, Error> {
        let started = self.started().ok_or_else(no_ledger)?;
        let transaction = self.signed(&started.reader, None, Vec::new(), vec![operation])?;
        self.order_own(transaction).await
    }

    fn signed(
        &self,
        reader: &Reader,
        user: Option<String>,
        preconditions: Vec<Precondition>,
        operations: Vec<Operation>,
    ) -> Result<Verified<SignedTransaction>, Error> {
        let lifetime = reader.genesis().parameters.lifetime;
        let height = reader.height().map_err(unreadable)?;
        let body = Body {
            ledger: reader.id(),
            author: self.key.public(),
            user,
            nonce: unique_id(&*self.of.entropy),
            expires: Height(height.0.saturating_add(WAIT_HEIGHTS.min(lifetime / 2).max(1))),
            preconditions,
            operations,
        };
        let signed = SignedTransaction::sign_verified(body, &self.key);
        signed.map_err(|e| LedgerError::Refused(Refusal::Malformed(e.to_string())).into())
    }

    /// A transaction as a validator signs it: one that is heard, and takes this node's word
    /// for who its users are. Whom it is asked first is left to chance.
    async fn spoken_for(&self, reader: &Reader, body: &Body) -> Result<SignedTransaction, Error> {
        let condition = self.started().ok_or_else(no_ledger)?.handle.condition();
        let silent: Vec<NodeId> = condition.borrow().quorum.silent.iter().map(|silent| silent.node).collect();
        let next = reader.height().map_err(unreadable)?.next();
        let sets = reader.validators().map_err(unreadable)?;
        let deciding = validators_at(&sets, next).map_err(unreadable)?;
        let mut asked: Vec<&Validator> = deciding.iter().filter(|v| !silent.contains(&v.node)).collect();
        let first = usize::try_from(body.nonce % asked.len().max(1) as u128).unwrap_or_default();
        asked.rotate_left(first);
        let mut said = Vec::new();
        for validator in asked {
            let body = Body { author: validator.key.clone(), ..body.clone() };
            let answer = tokio::time::timeout(PATIENCE, self.network.signature(validator.node, &body)).await;
            match answer.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}"))) {
                Ok(signature) => return Ok(SignedTransaction::with_signature(body, signature)),
                Err(why) => said.push(format!("node {}: {why}", validator.node.0)),
            }
        }
        let why = format!(
            "node {} is no validator of the ledger, and none that is heard signs for its users: {}",
            self.of.node.0,
            said.join("; ")
        );
        Err(Error::Unavailable(Outage { why, unreachable: silent, since: None }))
    }

    /// Signs what another node's user wants, as if it were a user of this one.
    pub fn speak(&self, from: NodeId, body: &[u8]) -> Result<Signature, String> {
        let ledger = self.started().ok_or("this node follows no ledger yet")?.reader.id();
        if self.of.group.peer(from).is_none() {
            return Err(format!("node {} does not belong to the cluster", from.0));
        }
        let body = Body::decode(body).map_err(|e| format!("it is no transaction: {e}"))?;
        voice::may_speak(&body, ledger, &self.key.public())?;
        let signed = SignedTransaction::sign(body, &self.key).map_err(|e| e.to_string())?;
        Ok(signed.signature().clone())
    }

    /// Has all members agree on a ledger of theirs.
    async fn found(&self, user: &str) -> Result<(), Error> {
        let database = self.database.get().ok_or_else(no_ledger)?;
        let members: BTreeSet<NodeId> = self.of.group.status().members.iter().map(|m| m.node).collect();
        if members.len() < LEAST_NODES {
            return Err(LedgerError::TooFewNodes { nodes: members.len() }.into());
        }
        let mut list = Vec::with_capacity(members.len());
        for node in members {
            let key = match node == self.of.node {
                true => self.key.public(),
                false => self.key_of(node).await?,
            };
            list.push(Validator { node, key, power: 1 });
        }
        let reading = self.of.clock.read().midpoint();
        let genesis = Genesis {
            name: format!("{:032x}", self.of.cluster),
            created_ms: reading.0 / 1_000_000,
            validators: Validators::new(list),
            parameters: Parameters { administrators: vec![user.to_owned()], ..Parameters::default() },
        };
        origin::propose(database, &genesis).await
    }

    /// The key that another node says it signs with.
    pub async fn key_of(&self, node: NodeId) -> Result<PublicKey, Error> {
        let silent = |why: String| {
            let why = format!("node {} was asked for its ledger key: {why}", node.0);
            Error::Unavailable(Outage { why, unreachable: vec![node], since: None })
        };
        let answer = tokio::time::timeout(PATIENCE, self.network.key_of(node)).await;
        let bytes = answer.map_err(|_| silent(format!("no answer in {PATIENCE:?}")))?.map_err(silent)?;
        PublicKey::decode(&bytes).map_err(|e| silent(e.to_string()))
    }

    fn refused(&self, error: SubmitError) -> Error {
        match error {
            SubmitError::NoQuorum(quorum) => outage(&quorum),
            SubmitError::Signature => LedgerError::Refused(Refusal::Denied(error.to_string())).into(),
            SubmitError::Unknown => Error::Unknown(error.to_string()),
            SubmitError::Unwelcome | SubmitError::Refused(_) | SubmitError::Expired(_) | SubmitError::Stopped(_) => {
                Error::Unavailable(Outage::because(error.to_string()))
            }
        }
    }

    /// Stops it: nothing is said to others any more once this returns.
    pub async fn stop(&self) {
        if let Some(started) = self.started() {
            started.handle.stop().await;
        }
    }

    /// What checkpoints must know of it.
    pub fn checkpointed(self: &Arc<Host>) -> Arc<dyn Checkpointed> {
        Arc::new(Checkpoints(self.clone()))
    }
}

#[async_trait]
impl byzantine::Ledger for Host {
    fn reader(&self) -> Option<Reader> {
        self.started().map(|started| started.reader)
    }

    fn condition(&self) -> Option<watch::Receiver<Condition>> {
        self.started().map(|started| started.handle.condition())
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, Error> {
        byzantine::snapshot_of(&self.of.state)
    }

    fn applied(&self) -> Timestamp {
        byzantine::applied_in(&self.of.state)
    }

    async fn ensure(&self, user: &str) -> Result<(), Error> {
        let patience = match self.started() {
            Some(_) => PATIENCE,
            None => {
                let agreed = origin::agreed(&self.of.state);
                if agreed.map_err(|e| Error::Replica { class: e.class(), source: Arc::new(e) })?.is_none() {
                    self.found(user).await?;
                }
                BEGINNING
            }
        };
        let mut started = self.started.subscribe();
        let waiting = async {
            // `look_out` starts it.
            let _ = started.wait_for(Option::is_some).await;
            let Some(mut condition) = self.condition() else { return };
            let _ = condition.wait_for(|condition| condition.quorum.missing() == 0).await;
        };
        let _ = tokio::time::timeout(patience, waiting).await;
        let condition = self.condition().ok_or_else(no_ledger)?;
        let condition = condition.borrow();
        match condition.quorum.missing() {
            0 => Ok(()),
            _ => Err(outage(&condition.quorum)),
        }
    }

    async fn submit(
        &self,
        user: &str,
        preconditions: Vec<Precondition>,
        operations: Vec<Operation>,
    ) -> Result<Height, Error> {
        let reader = self.reader().ok_or_else(no_ledger)?;
        let transaction = self.signed(&reader, Some(user.to_owned()), preconditions, operations)?;
        if transaction.size() > polity_bft::transaction::MAX_BYTES {
            return Err(LedgerError::TooLarge { limit: polity_bft::transaction::MAX_BYTES }.into());
        }
        let outcome = match self.hand_in_own(transaction.clone()).await? {
            Err(SubmitError::Unwelcome) if matches!(self.is_validator(self.of.node), Ok(false)) => {
                self.order(self.spoken_for(&reader, transaction.body()).await?).await?
            }
            done => done.map_err(|error| self.refused(error))?,
        };
        match outcome {
            Outcome::Applied => reader.height().map_err(unreadable),
            Outcome::Refused(refusal) => Err(match refusal {
                Refusal::Conflict(key) => Error::Conflict(Contested::Key(key)),
                Refusal::TooOld => Error::Conflict(Contested::Forgotten),
                Refusal::Missing(key) => Error::Missing(key),
                Refusal::Exists(key) => Error::Exists(key),
                other => LedgerError::Refused(other).into(),
            }),
        }
    }
}

/// Returns once there was no quorum for a while, with what there was; or the validator has
/// stopped.
async fn given_up(condition: &mut watch::Receiver<Condition>) -> Option<Quorum> {
    loop {
        let lost = condition.wait_for(|c| c.quorum.missing() > 0 || c.stopped.is_some()).await;
        let quorum = lost.ok().filter(|c| c.stopped.is_none()).map(|c| c.quorum.clone())?;
        let back = condition.wait_for(|c| c.quorum.missing() == 0 || c.stopped.is_some());
        if tokio::time::timeout(PATIENCE, back).await.is_err() {
            return Some(quorum);
        }
    }
}

fn missing(quorum: &Quorum) -> String {
    format!(
        "validators with a power of {} of {} are heard, and deciding takes {}",
        quorum.present, quorum.total, quorum.needed
    )
}

fn outage(quorum: &Quorum) -> Error {
    let silent = quorum.silent.iter().map(|silent| silent.node).collect();
    let Quorum { present, needed, total, .. } = *quorum;
    LedgerError::NoQuorum { present, needed, total, silent }.into()
}

fn no_ledger() -> Error {
    Error::Unavailable(Outage::because("this node follows no ledger yet".to_owned()))
}

struct Checkpoints(Arc<Host>);

impl Checkpointed for Checkpoints {
    fn group(&self) -> RangeId {
        RangeId::LEDGER
    }

    fn logged_bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn made_durable(&self, mark: AppliedMark) {
        if let Some(started) = self.0.started() {
            started.durable.made_durable(mark);
        }
    }
}
