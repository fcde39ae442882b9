//! Locks that a transaction asks for with its batch, instead of before it.
//!
//! A statement that is a transaction of its own holds its locks for hardly longer than
//! its batch takes. Where another node keeps them, each would cost a question and an
//! answer, and one more to give them back. So it notes which it would take, and the
//! leader takes them for it when the batch arrives, and gives them back when the batch is
//! decided. If somebody has one of them already nothing is done, and the statement runs
//! again, waiting for its locks this time.

use std::sync::Arc;

use bytes::Bytes;
use polity_base::{Batch, Key, NodeId};
use polity_raft::Admission;
use serde::{Deserialize, Serialize};

use super::{LockMode, LockServer, Reply, TransactionId};
use crate::database::Inner;
use crate::error::Error;

/// The locks that a batch asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Claim {
    /// The number of the transaction on the node where it ran
    pub transaction: u64,
    /// Which keys, in which modes
    pub locks: Vec<(Key, LockMode)>,
}

impl Claim {
    /// Its bytes, for the way to the leader.
    pub(crate) fn encode(&self) -> Result<Bytes, Error> {
        let bytes = postcard::to_stdvec(self).map_err(|_| Error::Misuse("a claim that cannot be written down"))?;
        Ok(bytes.into())
    }
}

/// Locks that are held until the batch that claimed them is decided.
pub struct Held {
    database: Arc<Inner>,
    owner: TransactionId,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.database.locks.table().release_all(self.owner);
    }
}

impl LockServer {
    /// Takes all that a transaction of `author` claims, or nothing.
    pub fn take(&self, author: NodeId, claim: &Claim) -> Option<Held> {
        let database = self.database().clone();
        let held = Held { owner: TransactionId { node: author, number: claim.transaction }, database };
        let locks = held.database.locks.table();
        let free = claim.locks.iter().all(|(key, mode)| locks.ask(held.owner, key, *mode) == Reply::Granted);
        free.then_some(held)
    }
}

impl Admission for LockServer {
    fn admit(&self, batch: &Batch, claim: &Bytes) -> Option<Box<dyn Send>> {
        match postcard::from_bytes(claim) {
            Ok(claim) => self.take(batch.author, &claim).map(|held| Box::new(held) as Box<dyn Send>),
            // What must hold is in the batch's preconditions; a claim only avoids conflicts.
            Err(_) => Some(Box::new(())),
        }
    }
}
