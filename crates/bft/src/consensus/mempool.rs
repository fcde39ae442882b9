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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::SecretKey;
    use crate::transaction::Body;
    use crate::types::{LedgerId, Signature};

    fn transaction(author: u8, nonce: u64, expires: u64) -> Arc<SignedTransaction> {
        let body = Body {
            ledger: LedgerId::default(),
            author: SecretKey::from_seed([author; 32]).public(),
            user: None,
            nonce: u128::from(nonce),
            expires: Height(expires),
            preconditions: Vec::new(),
            operations: Vec::new(),
        };
        Arc::new(SignedTransaction::with_signature(body, Signature::void()))
    }

    fn pool(count: usize) -> Mempool {
        Mempool::new(MempoolOptions { count, bytes: 1 << 20 })
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn transactions_come_out_in_the_order_they_came_and_as_many_as_fit() {
        let mut pool = pool(100);
        (0..5).for_each(|n| pool.add(transaction(1, n, 9), NOW).unwrap());
        let nonces = |taken: Vec<Arc<SignedTransaction>>| taken.iter().map(|t| t.body().nonce).collect::<Vec<_>>();
        assert_eq!(nonces(pool.first(3, usize::MAX)), [0, 1, 2]);
        assert_eq!(nonces(pool.first(9, transaction(1, 0, 9).size() * 2 + 1)), [0, 1]);
        pool.remove([&transaction(1, 1, 9).id()]);
        assert_eq!(nonces(pool.first(9, usize::MAX)), [0, 2, 3, 4]);
        assert_eq!(pool.add(transaction(1, 3, 9), NOW), Err(Refusal::Known));
    }

    #[test]
    fn one_author_alone_cannot_fill_it() {
        let mut pool = pool(10);
        let taken = (0..20).filter(|n| pool.add(transaction(1, *n, 9), NOW).is_ok()).count();
        assert!((5..10).contains(&taken), "{taken}");
        assert_eq!(pool.add(transaction(2, 0, 9), NOW), Ok(()));
    }

    #[test]
    fn what_is_too_late_goes() {
        let mut pool = pool(10);
        pool.add(transaction(1, 1, 4), NOW).unwrap();
        pool.add(transaction(1, 2, 5), NOW).unwrap();
        assert_eq!(pool.expire(Height(5)), [transaction(1, 1, 4).id()]);
        assert_eq!(pool.size().0, 1);
        pool.remove([&transaction(1, 2, 5).id()]);
        assert_eq!((pool.size(), pool.is_pending()), ((0, 0), false));
    }

    #[test]
    fn what_waits_for_long_is_sent_again_now_and_then() {
        let (mut pool, second) = (pool(10), Duration::from_secs(1));
        pool.add(transaction(1, 1, 9), NOW).unwrap();
        assert_eq!(pool.resend(second / 2, second, 9).len(), 0);
        assert_eq!(pool.resend(second, second, 9).len(), 1);
        assert_eq!(pool.resend(second, second, 9).len(), 0);
        assert_eq!(pool.resend(second * 2, second, 9).len(), 1);
    }
}
