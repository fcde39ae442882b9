//! Transactions and evidence that wait to be ordered.
//!
//! Everything here was verified, and is known to be of use so far: a transaction that
//! is ordered, expired or contradicted is taken out. Room is bounded, and shared
//! fairly by author once it gets scarce: a flood of one author's does not keep out
//! others'. Blocks take transactions in the order they came.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::evidence::Evidence;
use crate::transaction::{SignedTransaction, TransactionId};
use crate::types::{Height, PublicKey};

/// How much waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MempoolOptions {
    /// Transactions at most
    pub count: usize,
    /// Bytes at most
    pub bytes: usize,
}

impl Default for MempoolOptions {
    fn default() -> MempoolOptions {
        MempoolOptions { count: 65_536, bytes: 256 << 20 }
    }
}

/// Why a transaction is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// It waits already.
    #[error("the transaction waits already")]
    Known,
    /// There is no room, or its author has more than a fair share of it.
    #[error("too many transactions wait to be ordered")]
    Full,
}

struct Waiting {
    transaction: Arc<SignedTransaction>,
    since: Duration,
    /// When it was last sent to others
    sent: Duration,
}

/// Transactions and evidence that wait.
pub struct Mempool {
    options: MempoolOptions,
    /// By when they came
    order: BTreeMap<u64, Waiting>,
    places: HashMap<TransactionId, u64>,
    authors: HashMap<PublicKey, usize>,
    next: u64,
    bytes: usize,
    evidence: Vec<Evidence>,
}

impl Mempool {
    /// Nothing waits.
    pub fn new(options: MempoolOptions) -> Mempool {
        Mempool {
            options,
            order: BTreeMap::new(),
            places: HashMap::new(),
            authors: HashMap::new(),
            next: 0,
            bytes: 0,
            evidence: Vec::new(),
        }
    }

    /// Whether there is something to be ordered.
    pub fn is_pending(&self) -> bool {
        !self.order.is_empty() || !self.evidence.is_empty()
    }

    /// How many transactions wait, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        (self.order.len(), self.bytes)
    }

    /// Whether a transaction waits here.
    pub fn contains(&self, id: &TransactionId) -> bool {
        self.places.contains_key(id)
    }

    /// Takes in a transaction whose signature is right.
    pub fn add(&mut self, transaction: Arc<SignedTransaction>, now: Duration) -> Result<(), Refusal> {
        let id = transaction.id();
        if self.contains(&id) {
            return Err(Refusal::Known);
        }
        let size = transaction.size();
        if self.order.len() >= self.options.count || self.bytes + size > self.options.bytes {
            return Err(Refusal::Full);
        }
        let of_author = self.authors.entry(transaction.author().clone()).or_default();
        // Nobody fills more than half of what is left.
        if *of_author > (self.options.count - self.order.len()) {
            return Err(Refusal::Full);
        }
        *of_author += 1;
        self.bytes += size;
        self.places.insert(id, self.next);
        self.order.insert(self.next, Waiting { transaction, since: now, sent: now });
        self.next += 1;
        Ok(())
    }

    /// Takes out transactions that are ordered.
    pub fn remove<'a>(&mut self, ids: impl IntoIterator<Item = &'a TransactionId>) {
        ids.into_iter().for_each(|id| self.drop_one(id));
    }

    fn drop_one(&mut self, id: &TransactionId) {
        let Some(waiting) = self.places.remove(id).and_then(|place| self.order.remove(&place)) else { return };
        self.bytes -= waiting.transaction.size();
        if let Some(count) = self.authors.get_mut(waiting.transaction.author()) {
            *count -= 1;
            if *count == 0 {
                self.authors.remove(waiting.transaction.author());
            }
        }
    }

    /// Takes out transactions that no block from `height` on may hold; their ids.
    pub fn expire(&mut self, height: Height) -> Vec<TransactionId> {
        let late = self.order.values().filter(|waiting| waiting.transaction.expires() < height);
        let late: Vec<TransactionId> = late.map(|waiting| waiting.transaction.id()).collect();
        late.iter().for_each(|id| self.drop_one(id));
        late
    }

    /// The first transactions that together are no more than this.
    pub fn first(&self, count: usize, bytes: usize) -> Vec<Arc<SignedTransaction>> {
        let mut room = bytes;
        let fits = |waiting: &&Waiting| match room.checked_sub(waiting.transaction.size()) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        self.order.values().take_while(fits).take(count).map(|waiting| waiting.transaction.clone()).collect()
    }

    /// Transactions that were not sent to others for `pause`, now that they are: some
    /// must have got lost on the way, or they would be ordered.
    pub fn resend(&mut self, now: Duration, pause: Duration, count: usize) -> Vec<Arc<SignedTransaction>> {
        let due = self.order.values_mut().filter(|waiting| waiting.sent + pause <= now).take(count);
        let sent = due.map(|waiting| {
            waiting.sent = now;
            waiting.transaction.clone()
        });
        sent.collect()
    }

    /// For how long the oldest transaction has waited.
    pub fn oldest(&self, now: Duration) -> Option<Duration> {
        self.order.values().next().map(|waiting| now.saturating_sub(waiting.since))
    }

    /// Takes in evidence that holds; whether it is new.
    pub fn accuse(&mut self, evidence: Evidence) -> bool {
        let new = !self.evidence.iter().any(|known| known.is_about_the_same(&evidence));
        if new {
            self.evidence.push(evidence);
        }
        new
    }

    /// Takes out evidence that is ordered, or of no use.
    pub fn retain_evidence(&mut self, keep: impl FnMut(&Evidence) -> bool) {
        self.evidence.retain(keep);
    }

    /// The evidence that waits.
    pub fn evidence(&self) -> &[Evidence] {
        &self.evidence
    }
}
