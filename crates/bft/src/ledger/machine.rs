//! The ledger of a node: where it is, what its next block would do, and committing it.
//!
//! ```text
//!   build | check ──▶ execute ──▶ staged ──commit──▶ log ──▶ storage
//! ```
//! A block that was built or checked is staged with all that comes of it, so committing
//! it costs no second execution. Nothing of it is in the state before it is committed.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use polity_base::{IndexId, Key, Span};

use super::apply::{Executed, Surroundings, execute};
use super::entry::Entry;
use super::error::Error;
use super::journal::{Events, Journal};
use super::outcome::Outcome;
use super::reader::{self, LedgerReader, Place};
use super::recent::Recent;
use super::records;
use super::rules::RowRules;
use super::snapshot::{self, Prepared};
use super::storage::{Storage, View, Views, Writes};
use super::tree::{Authenticated, Changes, Jellyfish};
use crate::block::{Block, Certificate, Header};
use crate::evidence::Evidence;
use crate::genesis::Genesis;
use crate::hash::Hash;
use crate::transaction::SignedTransaction;
use crate::types::{BlockId, Height, LedgerId, PublicKey, Validators};

/// What can be chosen about a node's ledger. None of it decides about anything that
/// others must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// How many blocks are kept whole, for others who are behind
    pub keep_blocks: u64,
    /// How many headers and certificates are kept, besides those where validators changed
    pub keep_headers: u64,
    /// For how many heights a snapshot that somebody fetches is kept ready
    pub keep_snapshot: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { keep_blocks: 4096, keep_headers: 1 << 20, keep_snapshot: 512 }
    }
}

/// So many entries of dropped indexes go with a block.
const SWEEP: usize = 256;

/// The ledger of a node.
pub struct Ledger<S: Storage> {
    pub(crate) genesis: Arc<Genesis>,
    pub(super) id: LedgerId,
    pub(super) rules: Arc<dyn RowRules>,
    pub(super) storage: S,
    pub(super) options: Options,
    pub(super) now: Now,
    staged: Option<Staged>,
    pub(super) prepared: Option<Prepared>,
    pub(super) door: Arc<RwLock<Door>>,
}

/// What is known of the next block wherever transactions come in.
#[derive(Default)]
pub(super) struct Door {
    pub next: Height,
    pub last_expiry: Height,
    /// The keys of those who decide about it
    pub validators: HashSet<PublicKey>,
}

/// Where a ledger is, and what decides about its next block: all of it follows from the
/// state.
pub(super) struct Now {
    pub place: Place,
    pub block: BlockId,
    pub time_ms: u64,
    pub recent: Recent,
    pub validators: BTreeMap<Height, Validators>,
}

/// A block that was executed.
struct Staged {
    id: BlockId,
    executed: Executed,
    tree: Writes,
    root: Hash,
}

impl<S: Storage> Ledger<S> {
    /// Opens a ledger in its storage, or begins it: applies what the log holds and the
    /// state does not.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the genesis is none, or another than it was.
    /// [`Error::Damaged`] if what is kept contradicts itself.
    pub fn open(storage: S, genesis: Genesis, rules: Arc<dyn RowRules>, options: Options) -> Result<Ledger<S>, Error> {
        if let Some(fault) = genesis.fault() {
            return Err(Error::Invalid(format!("no ledger can begin so: {fault}")));
        }
        let (genesis, id) = (Arc::new(genesis), genesis_id(&storage)?);
        let id = id.unwrap_or(genesis.ledger());
        if id != genesis.ledger() {
            return Err(Error::Invalid(format!("here is ledger {id}, and not {}", genesis.ledger())));
        }
        let now = Now::load(&storage.views().now()?, &genesis)?;
        let mut ledger =
            Ledger { genesis, id, rules, storage, options, now, staged: None, prepared: None, door: Arc::default() };
        if Place::of(&ledger.storage.views().now()?)?.is_none() && ledger.storage.unapplied()?.is_none() {
            ledger.storage.append(Entry::Genesis((*ledger.genesis).clone()).encode())?;
        }
        while let Some(entry) = ledger.storage.unapplied()? {
            ledger.replay(Entry::decode(&entry)?)?;
        }
        ledger.open_door()?;
        Ok(ledger)
    }

    /// The ledger's name.
    pub fn id(&self) -> LedgerId {
        self.id
    }

    /// The ledger to ask, from any task.
    pub fn reader(&self) -> LedgerReader<S::Views> {
        LedgerReader::new(self.genesis.clone(), self.storage.views().clone())
    }

    /// The storage, for whoever ends the ledger.
    pub fn into_storage(self) -> S {
        self.storage
    }

    /// Applies an entry of the log once more.
    fn replay(&mut self, entry: Entry) -> Result<(), Error> {
        match entry {
            Entry::Genesis(genesis) if genesis.ledger() != self.id => {
                Err(Error::Damaged("the log begins with another ledger".to_owned()))
            }
            Entry::Genesis(_) => self.begin(),
            Entry::Block(block, certificate) => {
                let staged = self.execute(&block.transactions, &block.evidence, block.id())?;
                if block.header.height != self.next() || staged.root != block.header.state_root {
                    let why = format!("block {} does not give what it gave", block.header.height);
                    return Err(Error::Damaged(why));
                }
                self.apply(&block, &certificate, staged)
            }
            Entry::Snapshot(height, parts) => {
                let taken = snapshot::Taken::read(&parts)?;
                if taken.height() != height {
                    return Err(Error::Damaged("a snapshot in the log is of another height".to_owned()));
                }
                self.replace(&taken)
            }
        }
    }

    /// Writes what genesis says.
    fn begin(&mut self) -> Result<(), Error> {
        let view = self.storage.views().now()?;
        let changes = first_records(&self.genesis);
        let (_, tree) = Jellyfish.update(&view, &changes)?;
        let mut writes: Writes = changes.into_iter().chain(tree).collect();
        writes.push((records::place(), Some(Place::default().encode())));
        self.storage.apply(self.genesis.created_ms, writes, true)?;
        self.now = Now::load(&self.storage.views().now()?, &self.genesis)?;
        Ok(())
    }

    /// Puts a snapshot, which was verified, in place of the state.
    pub(super) fn replace(&mut self, taken: &snapshot::Taken) -> Result<(), Error> {
        let (writes, time_ms) = taken.writes(self.rules.as_ref())?;
        self.storage.apply(time_ms, writes, true)?;
        self.now = Now::load(&self.storage.views().now()?, &self.genesis)?;
        (self.staged, self.prepared) = (None, None);
        self.open_door()
    }

    /// Lets those who take transactions in know of the next height.
    fn open_door(&self) -> Result<(), Error> {
        let next = self.next();
        let validators = self.validators_at(next)?.iter().map(|validator| validator.key.clone()).collect();
        *self.door.write() = Door { next, last_expiry: self.now.recent.last_expiry(next), validators };
        Ok(())
    }

    /// The next height.
    pub(super) fn next(&self) -> Height {
        self.now.place.height.next()
    }

    /// Who decides about a height.
    pub(super) fn validators_at(&self, height: Height) -> Result<&Validators, Error> {
        reader::validators_at(&self.now.validators, height)
    }

    /// What the next block would do.
    fn execute(
        &self,
        transactions: &[Arc<SignedTransaction>],
        evidence: &[Evidence],
        id: BlockId,
    ) -> Result<Staged, Error> {
        let (view, height) = (self.storage.views().now()?, self.next());
        let surroundings = Surroundings {
            parameters: &self.genesis.parameters,
            rules: self.rules.as_ref(),
            recent: &self.now.recent,
            height,
            validators: self.validators_at(height)?,
            newest_validators: self.validators_at(Height(u64::MAX))?,
        };
        let executed = execute(&view, &surroundings, transactions, evidence)?;
        let (root, tree) = Jellyfish.update(&view, &executed.changes)?;
        Ok(Staged { id, executed, tree, root })
    }

    /// Makes the next block of what may be ordered, and stages it; none if nothing may.
    pub(super) fn make(
        &mut self,
        mut header: Header,
        transactions: Vec<Arc<SignedTransaction>>,
        evidence: Vec<Evidence>,
    ) -> Result<Option<Arc<Block>>, Error> {
        if transactions.is_empty() && evidence.is_empty() {
            return Ok(None);
        }
        let mut staged = self.execute(&transactions, &evidence, BlockId::default())?;
        header.state_root = staged.root;
        header.results = Events::results(&staged.executed.outcomes, &staged.executed.written);
        header.transactions = Block::transactions_hash(&transactions);
        header.evidence = Block::evidence_hash(&evidence);
        let block = Arc::new(Block { header, transactions, evidence });
        staged.id = block.id();
        self.staged = Some(staged);
        Ok(Some(block))
    }

    /// The header of the next block, but for what the block does.
    pub(super) fn next_header(&self) -> Result<Header, Error> {
        let height = self.next();
        Ok(Header {
            ledger: self.id,
            height,
            parent: self.now.block,
            validators: self.validators_at(height)?.hash(),
            next_validators: self.validators_at(height.next())?.hash(),
            ..Header::default()
        })
    }

    /// Whether a block may be the next one, and stages it if so. Signatures of
    /// transactions are verified unless they are `known` to be right.
    pub(super) fn examine(&mut self, block: &Block, known: &dyn Fn(&SignedTransaction) -> bool) -> Result<(), Error> {
        let id = block.id();
        if self.staged.as_ref().is_some_and(|staged| staged.id == id) && block.is_whole() {
            return Ok(());
        }
        self.follows(block)?;
        self.examine_transactions(block, known)?;
        self.examine_evidence(block)?;
        let staged = self.execute(&block.transactions, &block.evidence, id)?;
        let results = Events::results(&staged.executed.outcomes, &staged.executed.written);
        if results != block.header.results || staged.root != block.header.state_root {
            return Err(Error::Diverged(block.header.height));
        }
        self.staged = Some(staged);
        Ok(())
    }

    /// Whether a block follows what is here, as far as its header says.
    fn follows(&self, block: &Block) -> Result<(), Error> {
        let (header, expected) = (&block.header, self.next_header()?);
        let invalid = |why: &str| Err(Error::Invalid(why.to_owned()));
        match header {
            _ if header.ledger != self.id => invalid("it is of another ledger"),
            _ if (header.height, header.parent) != (expected.height, expected.parent) => {
                invalid("it does not follow the block before it")
            }
            _ if header.time_ms <= self.now.time_ms => invalid("it is not later than the block before it"),
            _ if header.validators != expected.validators || header.next_validators != expected.next_validators => {
                invalid("it names other validators")
            }
            _ if self.validators_at(header.height)?.get(header.proposer).is_none() => {
                invalid("its proposer is no validator")
            }
            _ if block.transactions.is_empty() && block.evidence.is_empty() => invalid("it is empty"),
            _ if !block.is_whole() => invalid("it does not hold what its header says"),
            _ => Ok(()),
        }
    }

    fn examine_transactions(&self, block: &Block, known: &dyn Fn(&SignedTransaction) -> bool) -> Result<(), Error> {
        let mut ids = HashSet::with_capacity(block.transactions.len());
        for transaction in &block.transactions {
            if !self.may_order(transaction) || !ids.insert(transaction.id()) {
                return Err(Error::Invalid(format!("{transaction:?} has no place in it")));
            }
        }
        let unknown: Vec<_> = block.transactions.iter().filter(|transaction| !known(transaction)).cloned().collect();
        match SignedTransaction::verify_all(&unknown) {
            true => Ok(()),
            false => Err(Error::Invalid("a transaction's signature is wrong".to_owned())),
        }
    }

    fn examine_evidence(&self, block: &Block) -> Result<(), Error> {
        let mut about = HashSet::with_capacity(block.evidence.len());
        for evidence in &block.evidence {
            if !self.may_accuse(evidence)? || !about.insert(evidence.key()) {
                return Err(Error::Invalid(format!("evidence against {} does not hold", evidence.validator())));
            }
        }
        Ok(())
    }

    /// Whether a transaction whose signature is right may be in the next block.
    pub(super) fn may_order(&self, transaction: &SignedTransaction) -> bool {
        let (body, next) = (transaction.body(), self.next());
        body.ledger == self.id
            && body.expires >= next
            && body.expires <= self.now.recent.last_expiry(next)
            && !self.now.recent.has_ordered(&transaction.id())
    }

    /// Whether evidence holds, is not too old, and was not committed yet.
    pub(super) fn may_accuse(&self, evidence: &Evidence) -> Result<bool, Error> {
        let (height, _, _, node) = evidence.key();
        let next = self.next();
        if height > next || height < self.now.recent.oldest(next) {
            return Ok(false);
        }
        let Some(validator) = self.validators_at(height)?.get(node) else { return Ok(false) };
        let committed = self.storage.views().now()?.get(&records::accusation(&evidence.key()))?;
        Ok(committed.is_none() && evidence.holds(&self.id, &validator.key))
    }

    /// Commits a block that was examined: durable in one write, then applied. What became
    /// of each of its transactions.
    pub(super) fn settle(&mut self, block: &Arc<Block>, certificate: &Arc<Certificate>) -> Result<Vec<Outcome>, Error> {
        let staged = self.staged.take().filter(|staged| staged.id == block.id());
        let staged = staged.ok_or_else(|| Error::Invalid("it was not examined".to_owned()))?;
        let outcomes = staged.executed.outcomes.clone();
        self.storage.append(Entry::Block(block.clone(), certificate.clone()).encode())?;
        self.apply(block, certificate, staged)?;
        self.open_door()?;
        self.storage.forget(self.options.keep_blocks);
        Ok(outcomes)
    }

    fn apply(&mut self, block: &Block, certificate: &Certificate, staged: Staged) -> Result<(), Error> {
        let Staged { id, executed, tree, .. } = staged;
        let Executed { changes, entries, outcomes, written, validators, dropped } = executed;
        let height = block.header.height;
        let place = Place { height, ..self.now.place };
        let events = Events::new(block, outcomes, written);
        self.now.recent.push(height, &events.ids, &events.written);
        let journal = Journal { header: block.header.clone(), certificate: certificate.clone(), events: Some(events) };
        let mut writes: Writes = Vec::with_capacity(changes.len() + entries.len() + tree.len() + 4);
        writes.extend(changes);
        writes.extend(entries);
        writes.extend(tree);
        writes.push((records::journal_at(height), Some(journal.encode().into())));
        writes.push((records::place(), Some(place.encode())));
        writes.extend(self.forgotten(height)?);
        writes.extend(self.leftovers(&dropped)?);
        self.storage.apply(block.header.time_ms, writes, false)?;
        self.now.validators.extend(validators);
        (self.now.place, self.now.block, self.now.time_ms) = (place, id, block.header.time_ms);
        Ok(())
    }

    /// What goes of indexes that were dropped. Their entries are no part of what is agreed
    /// on, so neither is when they go.
    fn leftovers(&self, dropped: &[IndexId]) -> Result<Writes, Error> {
        let (view, mut writes) = (self.storage.views().now()?, Writes::new());
        let mut storages = Vec::new();
        view.scan(&records::leftovers(), &mut |key, _| {
            storages.extend(records::storage_named(key));
            ControlFlow::Continue(())
        })?;
        for storage in storages {
            let before = writes.len();
            view.scan(&Span::of_index(storage), &mut |key, _| {
                writes.push((Key(Bytes::copy_from_slice(key)), None));
                if writes.len() < SWEEP { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if writes.len() >= SWEEP {
                break;
            }
            if writes.len() == before {
                writes.push((records::leftover(storage), None));
            }
        }
        writes.extend(dropped.iter().map(|storage| (records::leftover(*storage), Some(Bytes::new()))));
        Ok(writes)
    }

    /// What is forgotten of earlier heights.
    fn forgotten(&self, height: Height) -> Result<Writes, Error> {
        let view = self.storage.views().now()?;
        let mut writes = Writes::new();
        let of = |back: u64| height.0.checked_sub(back).filter(|height| *height > 0).map(Height);
        if let Some(old) = of(self.genesis.parameters.lifetime)
            && let Some(journal) = reader::journal(&view, old)?
        {
            writes.push((records::journal_at(old), Some(journal.without_events().encode().into())));
        }
        if let Some(old) = of(self.options.keep_headers.max(self.genesis.parameters.lifetime + 1))
            && let Some(journal) = reader::journal(&view, old)?
            && journal.header.validators == journal.header.next_validators
        {
            writes.push((records::journal_at(old), None));
        }
        Ok(writes)
    }
}

impl Now {
    fn load<V: View>(view: &V, genesis: &Genesis) -> Result<Now, Error> {
        let (place, validators) = (Place::of(view)?.unwrap_or_default(), reader::validators(view)?);
        let mut now = Now {
            place,
            block: BlockId(genesis.ledger().0),
            time_ms: genesis.created_ms,
            recent: Recent::new(genesis.parameters.lifetime),
            validators,
        };
        let oldest = now.recent.oldest(place.height.next());
        for height in (oldest.0..=place.height.0).map(Height) {
            let journal = reader::journal(view, height)?;
            let journal = journal.ok_or_else(|| Error::Damaged(format!("nothing is known of height {height}")))?;
            let events = journal.events.ok_or_else(|| Error::Damaged(format!("height {height} is forgotten")))?;
            now.recent.push(height, &events.ids, &events.written);
            (now.block, now.time_ms) = (journal.header.id(), journal.header.time_ms);
        }
        Ok(now)
    }
}

/// The ledger that a state is of; none if it is empty.
fn genesis_id<S: Storage>(storage: &S) -> Result<Option<LedgerId>, Error> {
    let view = storage.views().now()?;
    let place = Place::of(&view)?.unwrap_or_default();
    let newest = reader::journal(&view, place.height)?;
    Ok(newest.map(|journal| journal.header.ledger))
}

/// The records that a ledger begins with.
pub(super) fn first_records(genesis: &Genesis) -> Changes {
    let mut parameters = Vec::new();
    genesis.parameters.write(&mut parameters);
    let first: [(Key, Vec<u8>); 2] =
        [(records::parameters(), parameters), (records::validators(Height(1)), genesis.validators.encode())];
    first.into_iter().map(|(key, value)| (key, Some(value.into()))).collect()
}
