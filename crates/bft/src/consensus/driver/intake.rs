//! Transactions on their way in, and who waits for what comes of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::machine::Event;
use crate::consensus::application::Gate;
use crate::consensus::error::Fatal;
use crate::consensus::mempool::{Mempool, MempoolOptions, Refusal};
use crate::consensus::message::Message;
use crate::consensus::presence::Quorum;
use crate::consensus::validator::To;
use crate::evidence::Evidence;
use crate::signing::Verified;
use crate::transaction::{SignedTransaction, TransactionId};
use crate::types::Height;

/// Why nothing can be said about what comes of a transaction.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitError {
    /// Its signature is not right.
    #[error("the transaction's signature is not right")]
    Signature,
    /// Its author is not known to the ledger, or it expires too late.
    #[error("the ledger takes no such transaction from this author")]
    Unwelcome,
    /// It waits already, or too many do.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Those who are heard could not decide.
    #[error("validators with {} of the {} power that decides are heard", .0.present, .0.needed)]
    NoQuorum(Quorum),
    /// It was not ordered in time, and never will be.
    #[error("the transaction was not ordered by height {0} and has expired")]
    Expired(Height),
    /// It may have been ordered or not: the answer got lost.
    #[error("it is not known what came of the transaction")]
    Unknown,
    /// The validator has stopped.
    #[error("the validator has stopped: {0}")]
    Stopped(Fatal),
}

/// What waits, and who for it.
pub struct Intake<O> {
    /// Transactions of peers whose signatures were not looked at
    unseen: Mutex<Vec<Arc<SignedTransaction>>>,
    inner: Mutex<Inner<O>>,
    gate: Gate,
    began: Instant,
    events: mpsc::UnboundedSender<Event>,
    /// There is something to pass on to others
    news: Notify,
}

struct Inner<O> {
    mempool: Mempool,
    waiters: HashMap<TransactionId, Vec<oneshot::Sender<O>>>,
    /// Clients' transactions that others have not been told of
    fresh: Vec<Arc<SignedTransaction>>,
}

impl<O> Intake<O> {
    pub fn new(options: MempoolOptions, gate: Gate, events: mpsc::UnboundedSender<Event>) -> Intake<O> {
        let inner = Inner { mempool: Mempool::new(options), waiters: HashMap::new(), fresh: Vec::new() };
        Intake {
            unseen: Mutex::default(),
            inner: Mutex::new(inner),
            gate,
            began: Instant::now(),
            events,
            news: Notify::new(),
        }
    }

    /// Takes a client's transaction in; what comes of it.
    pub fn submit(&self, transaction: Arc<SignedTransaction>) -> Result<oneshot::Receiver<O>, SubmitError> {
        if !(self.gate)(&transaction) {
            return Err(SubmitError::Unwelcome);
        }
        if !transaction.verify() {
            return Err(SubmitError::Signature);
        }
        self.admit(transaction)
    }

    /// The same for one whose signature is known to be right.
    pub fn submit_verified(
        &self,
        transaction: Verified<SignedTransaction>,
    ) -> Result<oneshot::Receiver<O>, SubmitError> {
        if !(self.gate)(&transaction) {
            return Err(SubmitError::Unwelcome);
        }
        self.admit(Arc::new(transaction.into_inner()))
    }

    fn admit(&self, transaction: Arc<SignedTransaction>) -> Result<oneshot::Receiver<O>, SubmitError> {
        let (sender, receiver) = oneshot::channel();
        let id = transaction.id();
        let mut inner = self.inner.lock();
        let idle = !inner.mempool.is_pending();
        match inner.mempool.add(transaction.clone(), self.began.elapsed()) {
            // A peer was faster, or the client asks twice: it waits for the same.
            Ok(()) | Err(Refusal::Known) => {}
            Err(refusal) => return Err(refusal.into()),
        }
        inner.waiters.entry(id).or_default().push(sender);
        inner.fresh.push(transaction);
        drop(inner);
        if idle {
            self.pending(true);
        }
        self.news.notify_one();
        Ok(receiver)
    }

    /// Takes in transactions that a peer passed on. Whoever comes first verifies what
    /// comes while it does, too.
    pub async fn receive(self: Arc<Self>, transactions: Vec<Arc<SignedTransaction>>)
    where
        O: Send + 'static,
    {
        let first = {
            let mut unseen = self.unseen.lock();
            let first = unseen.is_empty();
            // What does not fit is lost, as on the way: its node sends it again.
            let room = UNSEEN.saturating_sub(unseen.len());
            unseen.extend(transactions.into_iter().take(room));
            first
        };
        if first {
            // Verifying many signatures takes longer than a task may. A panic there
            // would be a fault of the thread's own, and loses only these.
            let _ = tokio::task::spawn_blocking(move || {
                let all = std::mem::take(&mut *self.unseen.lock());
                self.verify(all);
            })
            .await;
        }
    }

    fn verify(&self, transactions: Vec<Arc<SignedTransaction>>) {
        let new: Vec<_> = {
            let inner = self.inner.lock();
            let new = |t: &Arc<SignedTransaction>| !inner.mempool.contains(&t.id()) && (self.gate)(t);
            transactions.into_iter().filter(new).collect()
        };
        let mut right = Vec::with_capacity(new.len());
        for batch in new.chunks(BATCH) {
            let all = SignedTransaction::verify_all(batch);
            right.extend(batch.iter().filter(|transaction| all || transaction.verify()).cloned());
        }
        if right.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        let (idle, now) = (!inner.mempool.is_pending(), self.began.elapsed());
        for transaction in right {
            // For want of room it is dropped: whoever passed it on has it.
            let _ = inner.mempool.add(transaction, now);
        }
        drop(inner);
        if idle {
            self.pending(true);
        }
    }

    pub fn pending(&self, pending: bool) {
        let _ = self.events.send(Event::Pending(pending));
    }

    /// What the next block may be made of.
    pub fn first(&self, count: usize, bytes: usize) -> (Vec<Arc<SignedTransaction>>, Vec<Evidence>) {
        let inner = self.inner.lock();
        (inner.mempool.first(count, bytes), inner.mempool.evidence().to_vec())
    }

    /// Whether a transaction's signature was verified here.
    pub fn knows(&self, id: &TransactionId) -> bool {
        self.inner.lock().mempool.contains(id)
    }

    /// Takes in evidence that holds; whether it is new.
    pub fn accuse(&self, evidence: Evidence) -> bool {
        self.inner.lock().mempool.accuse(evidence)
    }

    /// Takes out what is of no use any more, and answers who waits. Whether something
    /// is left.
    pub fn settle(&self, height: Height, outcomes: Vec<(TransactionId, O)>, keep: impl FnMut(&Evidence) -> bool) -> bool
    where
        O: Clone,
    {
        let mut inner = self.inner.lock();
        inner.mempool.remove(outcomes.iter().map(|(id, _)| id));
        inner.mempool.retain_evidence(keep);
        for id in inner.mempool.expire(Height(height.0 + 1)) {
            inner.waiters.remove(&id);
        }
        let mut answers = Vec::new();
        for (id, outcome) in outcomes {
            if let Some(waiters) = inner.waiters.remove(&id) {
                answers.push((waiters, outcome));
            }
        }
        let pending = inner.mempool.is_pending();
        drop(inner);
        for (waiters, outcome) in answers {
            for waiter in waiters {
                // Who has gone away does not need it.
                let _ = waiter.send(outcome.clone());
            }
        }
        pending
    }

    /// Takes out transactions that will not be ordered from here on. What came of them,
    /// if anything did, cannot be told.
    pub fn forget(&self, transactions: &[Arc<SignedTransaction>]) {
        if transactions.is_empty() {
            return;
        }
        let ids: Vec<TransactionId> = transactions.iter().map(|transaction| transaction.id()).collect();
        let mut inner = self.inner.lock();
        inner.mempool.remove(&ids);
        ids.iter().for_each(|id| drop(inner.waiters.remove(id)));
    }

    /// Takes out what a ledger does not admit any more: a snapshot has come. Whether
    /// something is left.
    pub fn sweep(&self, admits: impl Fn(&SignedTransaction) -> bool) -> bool {
        let mut all = self.first(usize::MAX, usize::MAX).0;
        all.retain(|transaction| !admits(transaction));
        self.forget(&all);
        self.inner.lock().mempool.is_pending()
    }

    /// Lets go of all who wait.
    pub fn abandon(&self) {
        self.inner.lock().waiters.clear();
    }

    pub fn size(&self) -> (usize, usize) {
        self.inner.lock().mempool.size()
    }

    fn take_fresh(&self) -> Vec<Arc<SignedTransaction>> {
        std::mem::take(&mut self.inner.lock().fresh)
    }

    fn take_stale(&self, pause: Duration) -> (Vec<Arc<SignedTransaction>>, Vec<Evidence>) {
        let mut inner = self.inner.lock();
        let stale = inner.mempool.resend(self.began.elapsed(), pause, CHUNK);
        (stale, inner.mempool.evidence().to_vec())
    }
}

/// So many transactions of peers wait to be verified.
const UNSEEN: usize = 16_384;
/// After a message there is no other for so long by each of its transactions, and for no
/// longer than that: one alone hardly waits, and under load few messages carry much. Each
/// costs its receivers more than a transaction in it does.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(6);
/// So many signatures are verified at once.
const BATCH: usize = 128;
/// So many transactions are passed on in one message.
const CHUNK: usize = 1024;

/// Passes on what clients hand in, and what seems to have got lost.
pub async fn gossip<O: Send + 'static>(intake: Arc<Intake<O>>, events: mpsc::UnboundedSender<Event>, pause: Duration) {
    let say = |message| events.send(Event::Say(To::All, message)).is_ok();
    let mut next = Instant::now();
    loop {
        let news = tokio::time::timeout(pause, intake.news.notified()).await;
        // The first goes at once. What comes right after it goes together.
        tokio::time::sleep_until(next).await;
        let mut fresh = intake.take_fresh();
        let count = u32::try_from(fresh.len()).unwrap_or(u32::MAX);
        next = Instant::now() + PAUSE.saturating_mul(count).min(LONGEST_PAUSE);
        if news.is_err() {
            let (stale, evidence) = intake.take_stale(pause);
            fresh.extend(stale);
            if !evidence.is_empty() && !say(Message::Evidence(evidence)) {
                return;
            }
        }
        for chunk in fresh.chunks(CHUNK) {
            if !say(Message::Transactions(chunk.to_vec())) {
                return;
            }
        }
        if events.is_closed() {
            return;
        }
    }
}
