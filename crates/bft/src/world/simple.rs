//! A ledger of counters in memory, small enough to be seen through: what consensus is
//! tried with where the real one would only take time.
//!
//! An account never falls below zero: a transaction that would make it do so is
//! ordered and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use polity_base::planted::{Bug, planted};
use polity_base::{Bounds, ColumnChange, ColumnId, Key, NodeId, RowChange};

use super::Subject;
use crate::block::{Block, Certificate, Header};
use crate::consensus::application::{Application, CertifiedBlock, CommitError, Committed, Ingredients, Verified};
use crate::consensus::validator::Tip;
use crate::consensus::verify::Trust;
use crate::evidence::Evidence;
use crate::hash::sha256;
use crate::signing::SecretKey;
use crate::transaction::{Body, Operation, SignedTransaction};
use crate::types::{BlockId, Height, LedgerId, Signature, Validator, Validators};

/// So many blocks are kept.
const KEPT: u64 = 12;
/// Accounts from here on stand for the powers of nodes.
const CHANGES: u64 = 1000;
/// A snapshot is made at every so many heights.
const SNAPSHOTS: u64 = 5;

/// The ledger.
pub struct SimpleLedger {
    ledger: LedgerId,
    node: NodeId,
    tip: Tip,
    state: State,
    time_ms: u64,
    blocks: BTreeMap<Height, CertifiedBlock>,
    /// What applying a block gave, not committed yet
    staged: Option<(BlockId, State)>,
    snapshot: Option<(Height, Bytes)>,
}

#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
struct State {
    accounts: BTreeMap<u64, i64>,
    ordered: BTreeSet<[u8; 32]>,
    accused: BTreeSet<(Height, u32, u8, NodeId)>,
    /// The validators of the next height and of the one after it
    validators: [Vec<Validator>; 2],
    /// Those of earlier heights
    earlier: BTreeMap<Height, Vec<Validator>>,
}

/// So many heights back somebody can be accused of something.
const ACCOUNTABLE: usize = 16;

impl State {
    fn apply(&mut self, node: NodeId, height: Height, transactions: &[Arc<SignedTransaction>], evidence: &[Evidence]) {
        self.earlier.insert(height, self.validators[0].clone());
        if self.earlier.len() > ACCOUNTABLE {
            self.earlier.pop_first();
        }
        let next = self.validators[1].clone();
        self.validators = [next.clone(), next];
        for transaction in transactions {
            let id = transaction.id();
            self.ordered.insert(id);
            let Some((account, mut change)) = meaning(transaction) else { continue };
            if account >= CHANGES {
                self.change(NodeId(account - CHANGES), change.unsigned_abs());
                continue;
            }
            let balance = self.accounts.entry(account).or_default();
            if planted(Bug::NondeterministicApply) && id[0] < 8 {
                change += node.0 as i64;
            }
            if *balance + change >= 0 || planted(Bug::SkipLedgerPrecondition) {
                *balance += change;
            }
        }
        self.accused.extend(evidence.iter().map(Evidence::key));
    }

    /// Gives a node this power from the height after next on, unless fewer
    /// than four would be left.
    fn change(&mut self, node: NodeId, power: u64) {
        let mut after = self.validators[1].clone();
        after.retain(|validator| validator.node != node);
        if power > 0 {
            after.push(Validator { node, key: SecretKey::from_seed([node.0 as u8; 32]).public(), power });
            after.sort_by_key(|validator| validator.node);
        }
        if after.len() >= 4 {
            self.validators[1] = after;
        }
    }

    fn root(&self) -> [u8; 32] {
        sha256(&[&postcard::to_stdvec(self).unwrap_or_default()])
    }
}

impl SimpleLedger {
    fn after(&self, transactions: &[Arc<SignedTransaction>], evidence: &[Evidence]) -> State {
        let mut state = self.state.clone();
        state.apply(self.node, self.next(), transactions, evidence);
        state
    }

    fn next(&self) -> Height {
        Height(self.tip.height.0 + 1)
    }
}

impl Application for SimpleLedger {
    type Outcome = ();

    fn admits(&self, transaction: &SignedTransaction) -> bool {
        !self.state.ordered.contains(&transaction.id())
    }

    fn admits_evidence(&self, evidence: &Evidence) -> bool {
        let (height, _, _, node) = evidence.key();
        let now = (height == self.next()).then_some(&self.state.validators[0]);
        let then = self.state.earlier.get(&height).or(now).into_iter().flatten();
        let key = then.filter(|validator| validator.node == node).map(|validator| &validator.key).next();
        !self.state.accused.contains(&evidence.key()) && key.is_some_and(|key| evidence.holds(&self.ledger, key))
    }

    fn tip(&self) -> Tip {
        self.tip.clone()
    }

    fn build(&mut self, ingredients: Ingredients) -> Result<Option<Arc<Block>>, CommitError> {
        let Ingredients { proposer, unix_ms, transactions, evidence } = ingredients;
        if transactions.is_empty() && evidence.is_empty() {
            return Ok(None);
        }
        let state = self.after(&transactions, &evidence);
        let header = Header {
            height: self.next(),
            parent: self.tip.block,
            time_ms: unix_ms.max(self.time_ms + 1),
            state_root: state.root(),
            transactions: Block::transactions_hash(&transactions),
            evidence: Block::evidence_hash(&evidence),
            proposer,
            ..Header::default()
        };
        let block = Arc::new(Block { header, transactions, evidence });
        self.staged = Some((block.id(), state));
        Ok(Some(block))
    }

    fn check(&mut self, block: &Arc<Block>, verified: Verified) -> Result<(), String> {
        let header = block.header();
        if header.height != self.next() || header.parent != self.tip.block || header.time_ms <= self.time_ms {
            return Err("it does not follow".to_owned());
        }
        if block.transactions.is_empty() && block.evidence.is_empty() {
            return Err("it is empty".to_owned());
        }
        let ids: BTreeSet<_> = block.transactions.iter().map(|t| t.id()).collect();
        if ids.len() < block.transactions.len()
            || !block.transactions.iter().all(|t| self.admits(t) && (verified(&t.id()) || t.verify()))
        {
            return Err("a transaction has no place here".to_owned());
        }
        if !block.evidence.iter().all(|evidence| self.admits_evidence(evidence)) {
            return Err("evidence does not hold".to_owned());
        }
        let state = self.after(&block.transactions, &block.evidence);
        if state.root() != header.state_root {
            return Err("its state is another".to_owned());
        }
        self.staged = Some((block.id(), state));
        Ok(())
    }

    fn commit(&mut self, block: &Arc<Block>, certificate: &Arc<Certificate>) -> Result<Committed<()>, CommitError> {
        if self.staged.as_ref().is_none_or(|(id, _)| *id != block.id()) {
            self.check(block, &|_| false).map_err(CommitError::Invalid)?;
        }
        let Some((id, state)) = self.staged.take() else {
            return Err(CommitError::Invalid("it was not checked".to_owned()));
        };
        let height = self.next();
        self.state = state;
        self.time_ms = block.header().time_ms;
        self.tip = Tip { height, block: id, validators: Validators::new(self.state.validators[0].clone()) };
        self.blocks.insert(height, (block.clone(), certificate.clone()));
        self.blocks = self.blocks.split_off(&Height((height.0 + 1).saturating_sub(KEPT)));
        if height.0.is_multiple_of(SNAPSHOTS) {
            let snapshot = postcard::to_stdvec(&(&**block, &**certificate, &self.state)).unwrap_or_default();
            self.snapshot = Some((height, snapshot.into()));
        }
        let outcomes = block.transactions.iter().map(|transaction| (transaction.id(), ())).collect();
        Ok(Committed { tip: self.tip.clone(), outcomes })
    }

    fn block(&self, height: Height) -> Result<Option<CertifiedBlock>, CommitError> {
        Ok(self.blocks.get(&height).cloned())
    }

    fn oldest_block(&self) -> Height {
        self.blocks.keys().next().copied().unwrap_or(self.next())
    }

    fn snapshot(&self) -> Option<Height> {
        self.snapshot.as_ref().map(|(height, _)| *height)
    }

    fn snapshot_part(&mut self, height: Height, part: u32) -> Result<Option<(Bytes, u32)>, CommitError> {
        let Some((_, bytes)) = self.snapshot.as_ref().filter(|(at, _)| *at == height) else { return Ok(None) };
        let (size, count) = (1024, bytes.len().div_ceil(1024) as u32);
        let start = (part as usize).saturating_mul(size).min(bytes.len());
        Ok((part < count).then(|| (bytes.slice(start..(start + size).min(bytes.len())), count)))
    }

    fn install(&mut self, height: Height, parts: Vec<Bytes>) -> Result<Tip, CommitError> {
        let wrong = |what: &str| CommitError::Invalid(what.to_owned());
        let read = postcard::from_bytes::<(Block, Certificate, State)>(&parts.concat());
        let (block, certificate, state) = read.map_err(|_| wrong("it does not decode"))?;
        let trust = Trust { ledger: self.ledger };
        // As far as those vouch for it who decide where this node is.
        if !trust.certificate(&certificate, &self.tip.validators) || certificate.block != block.id() {
            return Err(wrong("its certificate does not hold"));
        }
        if block.header().height != height || !block.is_whole() || state.root() != block.header().state_root {
            return Err(wrong("its state is another"));
        }
        self.tip = Tip { height, block: block.id(), validators: Validators::new(state.validators[0].clone()) };
        self.time_ms = block.header().time_ms;
        self.state = state;
        self.staged = None;
        self.blocks.clear();
        self.blocks.insert(height, (Arc::new(block), Arc::new(certificate)));
        Ok(self.tip.clone())
    }
}

impl Subject for SimpleLedger {
    fn name(validators: &Validators) -> LedgerId {
        LedgerId(validators.hash())
    }

    fn genesis(validators: &Validators, node: NodeId) -> SimpleLedger {
        let ledger = SimpleLedger::name(validators);
        let list: Vec<Validator> = validators.iter().cloned().collect();
        SimpleLedger {
            ledger,
            node,
            tip: Tip { height: Height(0), block: BlockId(ledger.0), validators: validators.clone() },
            state: State { validators: [list.clone(), list], ..State::default() },
            time_ms: 0,
            blocks: BTreeMap::new(),
            staged: None,
            snapshot: None,
        }
    }

    fn reopen(self) -> SimpleLedger {
        SimpleLedger { staged: None, ..self }
    }

    fn transaction(&self, draw: &mut dyn FnMut() -> u64) -> SignedTransaction {
        sign(draw() % 8, (draw() % 20) as i64 - 9, draw())
    }

    fn change(&self, node: NodeId, power: u64, draw: &mut dyn FnMut() -> u64) -> Vec<SignedTransaction> {
        vec![sign(CHANGES + node.0, power as i64, draw())]
    }

    fn replay(&mut self, block: &Block) -> [u8; 32] {
        self.state.apply(self.node, block.header().height, &block.transactions, &block.evidence);
        self.state.root()
    }
}

/// A transaction that changes an account by so much.
fn sign(account: u64, amount: i64, nonce: u64) -> SignedTransaction {
    let key = SecretKey::from_seed([200; 32]);
    let add = ColumnChange::Add { amount, bounds: Bounds::default() };
    let operation = Operation::Row {
        key: Key::from(account.to_be_bytes().to_vec()),
        change: RowChange::Update(vec![(ColumnId(0), add)]),
    };
    let body = Body {
        ledger: LedgerId::default(),
        author: key.public(),
        user: None,
        nonce: u128::from(nonce),
        expires: Height(u64::MAX),
        preconditions: Vec::new(),
        operations: vec![operation],
    };
    let unsigned = SignedTransaction::with_signature(body, Signature::void());
    let signature = key.sign(unsigned.sign_bytes()).unwrap_or(Signature::void());
    SignedTransaction::with_signature(unsigned.body().clone(), signature)
}

/// The account that a transaction changes, and by how much.
fn meaning(transaction: &SignedTransaction) -> Option<(u64, i64)> {
    let Operation::Row { key, change: RowChange::Update(columns) } = transaction.body().operations.first()? else {
        return None;
    };
    let (_, ColumnChange::Add { amount, .. }) = columns.first()? else { return None };
    Some((u64::from_be_bytes(key.0.as_ref().try_into().ok()?), *amount))
}
