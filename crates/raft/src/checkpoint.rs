//! Makes applied state durable now and then, and lets the log be purged.
//!
//! Rows are committed to the state without an fsync; the log is what makes them
//! survive. A checkpoint fsyncs the state, and from then on the log up to there is
//! not needed to recover it. It is taken once an interval, sooner when much was
//! written, so that neither the log on disk nor a replay after a crash grows
//! without bound, and not at all when nothing was written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polity_base::planted::{Bug, planted};
use polity_store::state::{Checkpoint, Checkpointed, State};
use tokio::sync::watch;

use crate::error::Error;
use crate::group::Group;

/// How often the byte count is looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// Takes the checkpoints of one node.
pub struct Checkpointer {
    state: Arc<State>,
    groups: Vec<Group>,
    others: Vec<Arc<dyn Checkpointed>>,
    interval: Duration,
    bytes: u64,
}

impl Checkpointer {
    /// A checkpointer of `state`, in which all of `groups` apply, that acts each
    /// `interval`, or when `bytes` were logged since it last did.
    pub fn new(state: Arc<State>, groups: Vec<Group>, interval: Duration, bytes: u64) -> Checkpointer {
        Checkpointer { state, groups, others: Vec::new(), interval, bytes }
    }

    /// One that also purges the logs of `others`, which are not Raft's.
    pub fn with_others(self, others: Vec<Arc<dyn Checkpointed>>) -> Checkpointer {
        Checkpointer { others, ..self }
    }

    /// Takes one checkpoint now.
    pub async fn once(&self) -> Result<(), Error> {
        let done = self.make_durable().await?;
        for group in &self.groups {
            if let Some(mark) = done.marks.get(&group.id()) {
                group.compact(*mark).await?;
            }
        }
        for other in &self.others {
            if let Some(mark) = done.marks.get(&other.group()) {
                other.made_durable(*mark);
            }
        }
        Ok(())
    }

    /// Takes one checkpoint of a node whose groups are stopped.
    pub async fn last(&self) -> Result<(), Error> {
        self.make_durable().await.map(|_| ())
    }

    async fn make_durable(&self) -> Result<Checkpoint, Error> {
        if planted(Bug::PurgeBeforeCheckpoint) {
            let groups = self.groups.iter().map(Group::id).chain(self.others.iter().map(|o| o.group()));
            let marks = groups.map(|group| (group, self.state.applied(group))).collect();
            return Ok(Checkpoint { marks, versions: 0 });
        }
        let state = self.state.clone();
        let done = polity_store::blocking(move || state.checkpoint()).await;
        done.map_err(|e| Error::Checkpoint(e.to_string()))?.map_err(|e| Error::Checkpoint(e.to_string()))
    }

    fn logged(&self) -> u64 {
        let raft = self.groups.iter().map(|g| g.metrics().log_bytes.load(Ordering::Relaxed));
        raft.chain(self.others.iter().map(|o| o.logged_bytes())).sum()
    }

    /// Takes checkpoints until `stop` turns true or its sender is dropped.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut since = (tokio::time::Instant::now(), self.logged());
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(GLANCE.min(self.interval)) => {}
            }
            let written = self.logged().saturating_sub(since.1);
            if written == 0 || (written < self.bytes && since.0.elapsed() < self.interval) {
                continue;
            }
            let logged = self.logged();
            if let Err(error) = self.once().await {
                // The log still holds everything. If the state cannot go on, it says so to
                // its groups.
                tracing::warn!(%error, "no checkpoint was taken");
            }
            since = (tokio::time::Instant::now(), logged);
        }
    }
}
