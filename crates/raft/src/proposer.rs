//! Packs concurrent proposals into log entries.
//!
//! An entry costs the same whether it carries one batch or a hundred: a record of
//! the log, messages, a few hops between tasks, a transaction of the state. So batches
//! that arrive while an entry is on its way wait, and leave together in the next one; a
//! batch that finds the way free leaves at once. The busier the group, the fuller its
//! entries (the queueing known as "natural batching"). Where members are far apart an
//! entry is on its way for long: then the next leaves after [`Packing::pace`], while
//! there are not too many.
//!
//! There is no task in between. Whoever finds the way free hands the next pack to
//! openraft: a proposer, the callback of the entry that just ended, or a timer.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::FutureExt;
use openraft::Raft;
use openraft::errors::{ClientWriteError, Fatal};
use parking_lot::Mutex;
use polity_base::time::HybridClock;
use polity_base::{Batch, RangeId};
use polity_store::state::BatchOutcome;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};

use crate::error::Error;
use crate::machine::Machine;
use crate::metrics::{GroupMetrics, add};
use crate::payload::Pack;
use crate::types::{Callback, Types};

/// openraft with this crate's state machine.
pub(crate) type GroupRaft = Raft<Types, Machine>;

type Answer = oneshot::Sender<Result<BatchOutcome, Error>>;

/// How batches are packed.
#[derive(Clone, Debug)]
pub struct Packing {
    /// Entries of this member that may be on their way at once.
    pub window: usize,
    /// How long after an entry the next one leaves that is not full, if the first is on
    /// its way still.
    pub pace: Duration,
    /// Batches that one entry may hold.
    pub max_batches: usize,
    /// Bytes of batches after which an entry is full. A larger batch travels alone.
    pub target_bytes: usize,
    /// Bytes that a batch may have at most.
    pub max_bytes: usize,
}

impl Default for Packing {
    fn default() -> Packing {
        Packing {
            window: 4,
            pace: Duration::from_millis(5),
            max_batches: 512,
            target_bytes: 1 << 20,
            max_bytes: 256 << 20,
        }
    }
}

/// The queue of one group. Clones share it.
#[derive(Clone)]
pub(crate) struct Proposer {
    inner: Arc<Inner>,
}

struct Inner {
    range: RangeId,
    packing: Packing,
    clock: Arc<HybridClock>,
    metrics: Arc<GroupMetrics>,
    queue: Mutex<Queue>,
    /// Told when the last entry on its way has ended after the queue was closed.
    idle: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    in_flight: usize,
    /// When an entry left last.
    sent: Option<Instant>,
    /// Whether a timer is set for the next one.
    timed: bool,
    raft: Option<GroupRaft>,
    /// Why nothing is taken any more.
    closed: Option<String>,
}

struct Waiting {
    batch: Batch,
    size: usize,
    answer: Answer,
}

impl Proposer {
    pub fn new(range: RangeId, packing: Packing, clock: Arc<HybridClock>, metrics: Arc<GroupMetrics>) -> Proposer {
        let inner = Inner { range, packing, clock, metrics, queue: Mutex::default(), idle: Notify::new() };
        Proposer { inner: Arc::new(inner) }
    }

    /// Opens the queue: entries go to `raft`.
    pub fn open(&self, raft: GroupRaft) {
        self.inner.queue.lock().raft = Some(raft);
    }

    /// Proposes a batch; the answer comes through the channel, or the channel
    /// closes when the outcome is lost.
    pub fn propose(&self, batch: Batch) -> Result<oneshot::Receiver<Result<BatchOutcome, Error>>, Error> {
        let inner = &self.inner;
        let size = batch.size();
        if size > inner.packing.max_bytes {
            return Err(Error::TooLarge { size, limit: inner.packing.max_bytes });
        }
        let (answer, outcome) = oneshot::channel();
        let mut queue = inner.queue.lock();
        if let Some(reason) = &queue.closed {
            return Err(Error::Stopped { range: inner.range, reason: reason.clone() });
        }
        queue.waiting.push_back(Waiting { batch, size, answer });
        queue.waiting_bytes += size;
        let next = inner.next(&mut queue);
        drop(queue);
        inner.send(next);
        Ok(outcome)
    }

    /// Refuses further batches, and those that wait. Returns when the entries that
    /// are on their way have ended.
    pub async fn close(&self, reason: &str) {
        let inner = &self.inner;
        let idle = inner.idle.notified();
        tokio::pin!(idle);
        // Registered before looking, so that a notice in between is not missed.
        idle.as_mut().enable();
        let (refused, busy) = {
            let mut queue = inner.queue.lock();
            queue.closed.get_or_insert_with(|| reason.to_string());
            queue.waiting_bytes = 0;
            (std::mem::take(&mut queue.waiting), queue.in_flight > 0)
        };
        for waiting in refused {
            let error = Error::Stopped { range: inner.range, reason: reason.to_string() };
            // A proposer that went away does not want to know.
            let _ = waiting.answer.send(Err(error));
        }
        if busy {
            idle.await;
        }
        inner.queue.lock().raft = None;
    }
}

/// A pack that was taken from the queue, and the way to openraft.
struct Parcel {
    raft: GroupRaft,
    pack: Pack,
    answers: Vec<Answer>,
}

impl Inner {
    /// Takes the next pack if it is time for it; sees to it that somebody will if not.
    fn next(self: &Arc<Inner>, queue: &mut Queue) -> Option<Parcel> {
        if queue.waiting.is_empty() || queue.in_flight >= self.packing.window {
            return None;
        }
        let is_full =
            queue.waiting.len() >= self.packing.max_batches || queue.waiting_bytes >= self.packing.target_bytes;
        let since = queue.sent.map_or(Duration::MAX, |sent| sent.elapsed());
        if queue.in_flight == 0 || is_full || since >= self.packing.pace {
            return self.take(queue);
        }
        // Without a runtime, the entry on its way takes the next along when it ends.
        if !queue.timed
            && let Ok(runtime) = Handle::try_current()
        {
            queue.timed = true;
            let (inner, left) = (Arc::downgrade(self), self.packing.pace.saturating_sub(since));
            runtime.spawn(async move {
                sleep(left).await;
                let Some(inner) = inner.upgrade() else { return };
                let next = {
                    let mut queue = inner.queue.lock();
                    queue.timed = false;
                    inner.next(&mut queue)
                };
                inner.send(next);
            });
        }
        None
    }

    /// Takes the next pack from the queue; it counts as on its way from here on.
    fn take(&self, queue: &mut Queue) -> Option<Parcel> {
        let raft = queue.raft.clone()?;
        let (mut batches, mut answers, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = queue.waiting.front() {
            let full = batches.len() >= self.packing.max_batches || bytes + next.size > self.packing.target_bytes;
            if full && !batches.is_empty() {
                break;
            }
            if let Some(Waiting { batch, size, answer }) = queue.waiting.pop_front() {
                bytes += size;
                queue.waiting_bytes -= size;
                batches.push(batch);
                answers.push(answer);
            }
        }
        if batches.is_empty() {
            return None;
        }
        queue.in_flight += 1;
        queue.sent = Some(Instant::now());
        Some(Parcel { raft, pack: Pack::new(self.clock.now(), batches), answers })
    }

    /// Hands a parcel to openraft.
    fn send(self: &Arc<Inner>, parcel: Option<Parcel>) {
        let Some(Parcel { raft, pack, answers }) = parcel else { return };
        add(&self.metrics.entries, 1);
        self.metrics.batches_per_entry.record(answers.len() as u64);
        let flight = Flight { inner: Arc::downgrade(self), range: self.range, answers };
        let callback = Callback::new(move |result: openraft::raft::ClientWriteResult<Types>| flight.land(result));
        let handed = async move {
            // An error here means that the group stopped. The callback was dropped
            // with the message, which tells the proposers.
            let _: Result<(), Fatal<Types>> = raft.client_write_ff(pack, Some(callback)).await;
        };
        // The channel to openraft has room for far more than the window, so this is
        // done at once; should it not be, it must not be lost either.
        let mut handed = Box::pin(handed);
        if handed.as_mut().now_or_never().is_none()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(handed);
        }
    }
}

/// The answers that an entry on its way owes.
struct Flight {
    inner: Weak<Inner>,
    range: RangeId,
    answers: Vec<Answer>,
}

impl Flight {
    fn land(mut self, result: openraft::raft::ClientWriteResult<Types>) {
        let answers = std::mem::take(&mut self.answers);
        match result {
            Ok(response) => {
                let outcomes = response.data.0;
                debug_assert_eq!(outcomes.len(), answers.len());
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                let error = refused(self.range, error);
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// Ends the flight, also when openraft dropped it unanswered: its answers are then
/// dropped with it, and their receivers know that the outcome is lost.
impl Drop for Flight {
    fn drop(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let next = {
            let mut queue = inner.queue.lock();
            queue.in_flight -= 1;
            if queue.closed.is_some() && queue.in_flight == 0 {
                inner.idle.notify_waiters();
            }
            inner.next(&mut queue)
        };
        inner.send(next);
    }
}

fn refused(range: RangeId, error: ClientWriteError<Types>) -> Error {
    match error {
        ClientWriteError::ForwardToLeader(to) => Error::NotLeader { range, leader: to.leader_id },
        // Another leader may have committed the entry all the same.
        error @ ClientWriteError::LogEntryDiscarded(_) => Error::OutcomeUnknown { range, reason: error.to_string() },
        // Not answers to a batch; nothing is known then.
        error @ (ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)) => {
            Error::OutcomeUnknown { range, reason: error.to_string() }
        }
    }
}
