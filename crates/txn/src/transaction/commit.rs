//! The end: what was written, and what must hold, become a batch.

use polity_base::{Guarantee, Operation, Precondition, Timestamp};

use super::Transaction;
use crate::byzantine::bft::transaction::{Operation as LedgerOperation, Precondition as LedgerPrecondition};
use crate::database::committed;
use crate::error::Error;
use crate::locks::Claim;
use crate::overlay::Overlay;
use crate::reads::Part;
use crate::replica::Replica as _;

impl Transaction {
    /// Commits, and returns the commit timestamp when the effect can be seen. A
    /// transaction that wrote nothing is over without asking anyone; its
    /// timestamp is that of its snapshot.
    ///
    /// When this future is dropped half way, the outcome is unknown.
    pub async fn commit(mut self) -> Result<Timestamp, Error> {
        let limit = self.database.options.max_transaction_bytes;
        if self.overlay.has_refused() {
            return Err(Error::TooLarge { limit });
        }
        if !self.changes.is_empty() {
            return match self.guarantee {
                Some(Guarantee::Byzantine) => self.commit_to_ledger().await,
                _ => self.commit_changes().await,
            };
        }
        let operations = std::mem::take::<Overlay>(&mut self.overlay).into_operations();
        if operations.is_empty() {
            self.settle_reads()?;
            return Ok(self.read_at);
        }
        let preconditions = self.preconditions();
        let batch = self.database.batch(preconditions, operations);
        // Locks are released when `self` is dropped, after the batch was applied.
        if self.claimed.is_empty() {
            return committed(self.replica().commit(batch).await?);
        }
        let claim = Claim { transaction: self.id.number, locks: std::mem::take(&mut self.claimed) };
        committed(self.replica().commit_if_free(batch, claim).await?)
    }

    /// All reads of one snapshot are serializable as they are; others must be as if they
    /// were of one.
    fn settle_reads(&self) -> Result<(), Error> {
        match self.reads.lag_behind(self.read_at) {
            true => self.reads.validate(self.replica().as_ref()),
            false => Ok(()),
        }
    }

    /// Commits what was changed in eventual tables. What was read of strong ones is not
    /// a condition: the transaction saw them as they were at its snapshot.
    async fn commit_changes(mut self) -> Result<Timestamp, Error> {
        self.settle_reads()?;
        let changes = std::mem::take(&mut self.changes).into_iter();
        let operations = changes.map(|(key, change)| Operation::Change { key, change }).collect();
        let eventual = self.database.directory.eventual().cloned();
        let eventual = eventual.ok_or(Error::Misuse("this node keeps no eventual tables"))?;
        let batch = self.database.batch(Vec::new(), operations);
        committed(eventual.commit_kept_by(batch, self.replicas).await?)
    }

    /// Has the ledger order what was changed in byzantine tables, on condition that what
    /// was read of them is as it was. What was read of others is no condition.
    async fn commit_to_ledger(mut self) -> Result<Timestamp, Error> {
        self.settle_reads()?;
        let ledger = self.database.directory.ledger().cloned();
        let (Some(ledger), Some(ordered)) = (ledger, self.ledger.take()) else {
            return Err(Error::Misuse("this node follows no ledger"));
        };
        let changes = std::mem::take(&mut self.changes).into_iter();
        let operations = changes.map(|(key, change)| LedgerOperation::Row { key, change }).collect();
        let conditions = std::mem::take(&mut self.conditions).into_iter();
        let mut preconditions = ordered.unchanged();
        preconditions.extend(conditions.filter_map(ordered_condition));
        ledger.submit(&self.user, preconditions, operations).await?;
        Ok(ledger.applied())
    }

    fn preconditions(&mut self) -> Vec<Precondition> {
        let mut preconditions = std::mem::take(&mut self.conditions);
        preconditions.retain(|condition| condition_guarantee(condition) == Guarantee::Strong);
        let unchanged = self.reads.for_each::<std::convert::Infallible>(|part: Part<'_>, since| {
            preconditions.push(Precondition::Unchanged { span: part.to_span(), since });
            Ok(())
        });
        let Ok(()) = unchanged;
        self.locked.settle();
        let locked = self.locked.earlier.drain();
        preconditions.extend(locked.map(|(key, since)| Precondition::Unchanged { span: key.point(), since }));
        preconditions
    }
}

fn condition_guarantee(condition: &Precondition) -> Guarantee {
    Guarantee::of_key(match condition {
        Precondition::Unchanged { span, .. } => &span.start,
        Precondition::Absent(key) | Precondition::Present(key) => key,
    })
}

/// A condition as the ledger checks it; none if it is about keys of others. (What must be
/// unchanged there was noted as read.)
fn ordered_condition(condition: Precondition) -> Option<LedgerPrecondition> {
    let ordered = condition_guarantee(&condition) == Guarantee::Byzantine;
    match condition {
        Precondition::Absent(key) if ordered => Some(LedgerPrecondition::Absent(key)),
        Precondition::Present(key) if ordered => Some(LedgerPrecondition::Present(key)),
        _ => None,
    }
}
