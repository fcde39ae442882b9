//! The locks of this node's transactions that other nodes keep.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use polity_base::NodeId;
use tokio::runtime::Handle;

use super::network::{CallFailed, LockNetwork, LockQuestion, LockRequest, LockResponse, renew_every};

/// How long an answer may take that waits for nothing.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks other nodes for locks, and keeps them informed of who lives.
pub(crate) struct Remote {
    network: Arc<dyn LockNetwork>,
    run: u64,
    sequence: AtomicU64,
    /// By the node that keeps them: whose locks.
    live: Mutex<HashMap<NodeId, HashSet<u64>>>,
}

impl Remote {
    /// Begins to renew, as long as the result lives. Must be called in a runtime.
    pub fn start(network: Arc<dyn LockNetwork>, run: u64, lease: Duration) -> Arc<Remote> {
        let remote = Arc::new(Remote { network, run, sequence: AtomicU64::new(0), live: Mutex::default() });
        tokio::spawn(renew(Arc::downgrade(&remote), renew_every(lease)));
        remote
    }

    /// Notes that `at` may hold locks of `transaction` until [`Remote::release`].
    pub fn enlist(&self, at: NodeId, transaction: u64) {
        self.live.lock().entry(at).or_default().insert(transaction);
    }

    /// Asks node `at`. The answer may take as long as the question allows to wait,
    /// and a second more.
    pub async fn ask(&self, at: NodeId, question: LockQuestion) -> Result<LockResponse, CallFailed> {
        let waits = match &question {
            LockQuestion::Lock { wait, .. } => wait.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let request = LockRequest { run: self.run, sequence, question };
        match tokio::time::timeout(waits + PATIENCE, self.network.call(at, request)).await {
            Ok(answer) => answer,
            Err(late) => Err(CallFailed::new(at, late)),
        }
    }

    /// Tells `at`, without waiting for it, that `transaction` has ended.
    pub fn release(self: &Arc<Remote>, at: NodeId, transaction: u64) {
        if let Some(live) = self.live.lock().get_mut(&at) {
            live.remove(&transaction);
        }
        self.tell(at, LockQuestion::Release { transaction });
    }

    /// Tells `at`, without waiting for it, that `transaction` waits no longer.
    pub fn cancel(self: &Arc<Remote>, at: NodeId, transaction: u64) {
        self.tell(at, LockQuestion::Cancel { transaction });
    }

    fn tell(self: &Arc<Remote>, at: NodeId, question: LockQuestion) {
        // Outside a runtime, and when the message is lost, the next renewal says it.
        let Ok(runtime) = Handle::try_current() else { return };
        let remote = self.clone();
        runtime.spawn(async move {
            if let Err(failed) = remote.ask(at, question).await {
                tracing::debug!(%failed, "a lock will be freed by the next renewal");
            }
        });
    }
}

/// Tells every node that may hold locks of ours whose they are.
async fn renew(remote: Weak<Remote>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(remote) = remote.upgrade() else { return };
        let nodes: Vec<(NodeId, Vec<u64>)> = {
            let mut live = remote.live.lock();
            let told = live.iter().map(|(at, live)| (*at, live.iter().copied().collect())).collect();
            // Who holds nothing of ours any more is told so once.
            live.retain(|_, live| !live.is_empty());
            told
        };
        for (at, transactions) in nodes {
            let remote = remote.clone();
            tokio::spawn(async move { remote.ask(at, LockQuestion::Renew { transactions }).await });
        }
    }
}
