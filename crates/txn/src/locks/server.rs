//! Keeps locks for the transactions of other nodes.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use polity_base::{Key, NodeId, Timestamp};
use tokio::time::Instant;

use super::local::Turn;
use super::network::{LockQuestion, LockRequest, LockResponse, turn};
use super::{LockMode, Reply, TransactionId, Wait};
use crate::Database;
use crate::database::Inner;

/// Answers what other nodes ask about locks, from the same table that this
/// node's own transactions use, so that every deadlock is a cycle of one graph.
/// Clones are the same server.
#[derive(Clone)]
pub struct LockServer {
    shared: Arc<Shared>,
}

struct Shared {
    database: Arc<Inner>,
    sessions: Mutex<HashMap<NodeId, LockSession>>,
}

/// What is kept for one node.
struct LockSession {
    run: u64,
    heard: Instant,
    /// The sequence number of each transaction's last question.
    transactions: HashMap<u64, u64>,
}

impl LockServer {
    /// The server of the locks that `database` keeps. Must be called in a runtime.
    pub fn new(database: &Database) -> LockServer {
        let shared = Arc::new(Shared { database: database.inner.clone(), sessions: Mutex::default() });
        tokio::spawn(free_the_silent(Arc::downgrade(&shared), database.inner.options.lock_lease));
        LockServer { shared }
    }

    /// Answers a request of the node `from`, whose identity the caller has
    /// verified. May take a tenth of a lease. Dropped half way, the transaction leaves
    /// the queue.
    pub async fn answer(&self, from: NodeId, request: LockRequest) -> LockResponse {
        let shared = &self.shared;
        let LockRequest { run, sequence, question } = request;
        shared.hear(from, run);
        match question {
            LockQuestion::Lock { transaction, key, mode, wait, stay } => {
                let leader = shared.database.leader(&key);
                if leader != Some(shared.database.options.node) {
                    return LockResponse::NotHere { leader };
                }
                shared.enlist(from, run, transaction, sequence);
                let owner = TransactionId { node: from, number: transaction };
                shared.lock(owner, &key, mode, wait, stay).await
            }
            LockQuestion::Cancel { transaction } => {
                if !shared.asked_after(from, transaction, sequence) {
                    shared.database.locks.table().leave(TransactionId { node: from, number: transaction });
                }
                LockResponse::Done
            }
            LockQuestion::Release { transaction } => {
                shared.release(from, |number, asked| number == transaction && asked < sequence);
                LockResponse::Done
            }
            LockQuestion::Renew { transactions } => {
                shared.release(from, |number, asked| asked < sequence && !transactions.contains(&number));
                LockResponse::Done
            }
        }
    }

    pub(super) fn database(&self) -> &Arc<Inner> {
        &self.shared.database
    }

    /// Frees the locks of a node that is known to be gone, without waiting for its
    /// lease to lapse.
    pub fn forget(&self, node: NodeId) {
        self.shared.forget(node);
    }
}

impl Shared {
    /// Notes that a node lives, and that an earlier run of it does not.
    fn hear(&self, from: NodeId, run: u64) {
        let stale = {
            let mut sessions = self.sessions.lock();
            match sessions.get_mut(&from) {
                Some(session) if session.run == run => {
                    session.heard = Instant::now();
                    None
                }
                _ => {
                    let new = LockSession { run, heard: Instant::now(), transactions: HashMap::new() };
                    sessions.insert(from, new)
                }
            }
        };
        self.free(from, stale);
    }

    fn enlist(&self, from: NodeId, run: u64, transaction: u64, sequence: u64) {
        if let Some(session) = self.sessions.lock().get_mut(&from).filter(|session| session.run == run) {
            let last = session.transactions.entry(transaction).or_insert(sequence);
            *last = sequence.max(*last);
        }
    }

    fn asked_after(&self, from: NodeId, transaction: u64, sequence: u64) -> bool {
        let sessions = self.sessions.lock();
        sessions.get(&from).and_then(|s| s.transactions.get(&transaction)).is_some_and(|asked| *asked > sequence)
    }

    /// Frees the locks of the transactions that `ended` says of, by their numbers
    /// and the sequence numbers of their last questions.
    fn release(&self, from: NodeId, ended: impl Fn(u64, u64) -> bool) {
        let mut released = Vec::new();
        if let Some(session) = self.sessions.lock().get_mut(&from) {
            session.transactions.retain(|number, asked| {
                let ended = ended(*number, *asked);
                if ended {
                    released.push(*number);
                }
                !ended
            });
        }
        for number in released {
            self.database.locks.table().release_all(TransactionId { node: from, number });
        }
    }

    async fn lock(
        &self,
        owner: TransactionId,
        key: &Key,
        mode: LockMode,
        wait: Option<Duration>,
        stay: bool,
    ) -> LockResponse {
        let locks = self.database.locks.table();
        // It may have been told to stop waiting, and that message be on its way.
        locks.leave_others(owner, key, mode);
        let time = wait.unwrap_or_default().min(turn(self.database.options.lock_lease));
        let turn = if stay { Turn::Resumed(time) } else { Turn::AtMost(time) };
        let wait = if wait.is_some() { Wait::Block } else { Wait::NoWait };
        match locks.turn(owner, key, mode, wait, turn).await {
            Reply::Granted => {
                let (_, replica) = self.database.directory.of_key(key);
                match replica.last_write(key) {
                    Ok(newest) => LockResponse::Granted { newest: newest.unwrap_or(Timestamp::ZERO) },
                    Err(error) => LockResponse::Failed(error.to_string()),
                }
            }
            Reply::Queued => LockResponse::Waiting,
            Reply::Refused(blockers) => LockResponse::Refused(blockers),
            Reply::Deadlock(cycle) => LockResponse::Deadlock(cycle),
        }
    }

    fn forget(&self, node: NodeId) {
        let session = self.sessions.lock().remove(&node);
        self.free(node, session);
    }

    fn free(&self, node: NodeId, session: Option<LockSession>) {
        for number in session.into_iter().flat_map(|s| s.transactions.into_keys()) {
            self.database.locks.table().release_all(TransactionId { node, number });
        }
    }
}

/// Frees the locks of nodes that were silent for longer than their lease.
async fn free_the_silent(shared: Weak<Shared>, lease: Duration) {
    loop {
        tokio::time::sleep(lease / 5).await;
        let Some(shared) = shared.upgrade() else { return };
        let silent: Vec<NodeId> = {
            let sessions = shared.sessions.lock();
            sessions.iter().filter(|(_, session)| session.heard.elapsed() > lease).map(|(node, _)| *node).collect()
        };
        for node in silent {
            tracing::info!(%node, "freed the locks of a node that was silent for {lease:?}");
            shared.forget(node);
        }
    }
}
