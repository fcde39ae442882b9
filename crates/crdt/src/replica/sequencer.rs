//! The task that changes rows: one piece of work after the other.
//!
//! Whatever waits is computed into one entry, as long as it is not too large; while
//! entries are on their way to the disk, the next is computed on top of what they will
//! have written. An entry is applied once it is on the disk, and only then are those
//! told whose work it holds. A piece of work that writes nothing is answered when
//! everything before it is applied: it may have seen what was not on the disk yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polity_base::{Operation, RangeId, Timestamp};
use polity_store::state::EntryOutcome;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{mpsc, oneshot, watch};

use super::Shared;
use super::draft::{Draft, Pending};
use super::entry::Entry;
use super::peers::Members;
use crate::error::Error;
use crate::stamp::VersionVector;

/// Pieces of work of one entry at most.
const PIECES: usize = 512;
/// Writes after which an entry is full: more would not be remembered one by one.
const WRITES: usize = 3000;
/// An entry of more bytes takes long enough to leave the scheduler's worker to others.
const BLOCKING_BYTES: usize = 256 << 10;

/// Tells whoever gave a piece of work that it is applied, and from when on it shows.
type Finish = Box<dyn FnOnce(Result<Timestamp, Error>) + Send>;

/// A piece of work: computes its writes in the draft, and says whom to tell.
pub(super) type Work = Box<dyn FnOnce(&mut Draft<'_>) -> Option<Finish> + Send>;

impl Shared {
    /// Has the sequencer do a piece of work; gives what it gave, and from which
    /// timestamp on it shows, once it is on the disk and applied. What an error leaves
    /// written is dropped.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T, Error> + Send + 'static,
    ) -> Result<(T, Timestamp), Error> {
        let (answer, result) = oneshot::channel();
        let piece = move |draft: &mut Draft<'_>| -> Option<Finish> {
            let before = draft.vector.clone();
            match work(draft) {
                Ok(value) => Some(Box::new(move |applied: Result<Timestamp, Error>| {
                    // Whoever went away does not want to know.
                    let _ = answer.send(applied.map(|at| (value, at)));
                })),
                Err(error) => {
                    draft.vector = before;
                    draft.drop_layer();
                    let _ = answer.send(Err(error));
                    None
                }
            }
        };
        self.queue.send(Box::new(piece)).map_err(|_| self.stopped())?;
        result.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// The error of whoever comes too late.
    pub fn stopped(&self) -> Error {
        let failure = self.failure.borrow().clone();
        Error::Stopped { reason: failure.unwrap_or_else(|| "it was shut down".to_owned()) }
    }

    /// Notes that the replica cannot go on.
    pub fn fail(&self, reason: String) {
        self.failure.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert(reason);
            first
        });
    }
}

/// An entry on its way to the disk.
struct Flight {
    entry: Entry,
    vector: VersionVector,
    bytes: usize,
    finishes: Vec<Finish>,
}

/// Whether the first entry on its way is on the disk.
type Landing = Result<(), Error>;
type Landed = mpsc::UnboundedSender<Landing>;

/// The sequencer's own.
pub(super) struct Sequencer {
    pub shared: Arc<Shared>,
    pub queue: mpsc::UnboundedReceiver<Work>,
    /// What is applied once everything on its way is.
    pub vector: VersionVector,
    /// The index of the last entry.
    pub index: u64,
    pub stop: watch::Receiver<bool>,
    waiting: VecDeque<Work>,
    flights: VecDeque<Flight>,
    pending: Pending,
}

impl Sequencer {
    pub fn new(
        shared: Arc<Shared>,
        queue: mpsc::UnboundedReceiver<Work>,
        vector: VersionVector,
        index: u64,
        stop: watch::Receiver<bool>,
    ) -> Sequencer {
        let (waiting, flights, pending) = (VecDeque::new(), VecDeque::new(), Pending::new());
        Sequencer { shared, queue, vector, index, stop, waiting, flights, pending }
    }

    /// Works until it is stopped and everything on its way is applied, or the disk fails.
    pub async fn run(mut self) {
        let (landed, landings) = mpsc::unbounded_channel();
        if let Err(error) = self.work(&landed, landings).await {
            self.shared.fail(error.to_string());
        }
        for finish in self.flights.drain(..).flat_map(|flight| flight.finishes) {
            finish(Err(self.shared.stopped()));
        }
    }

    async fn work(&mut self, landed: &Landed, mut landings: mpsc::UnboundedReceiver<Landing>) -> Result<(), Error> {
        let mut batch = Vec::new();
        let (mut stopping, mut drained) = (false, false);
        loop {
            while !self.waiting.is_empty() && self.flights.len() < self.shared.limits.window {
                self.form(landed)?;
            }
            if drained && self.flights.is_empty() && self.waiting.is_empty() {
                return Ok(());
            }
            let has_room = self.flights.len() < self.shared.limits.window;
            tokio::select! {
                biased;
                Some(landing) = landings.recv() => self.land(landing)?,
                taken = self.queue.recv_many(&mut batch, PIECES), if has_room && !drained => {
                    drained = taken == 0;
                    self.waiting.extend(batch.drain(..));
                }
                // What is in the queue is still done; more is refused.
                () = stopped(&mut self.stop), if !stopping => {
                    stopping = true;
                    self.queue.close();
                }
            }
        }
    }

    /// Computes an entry from what waits, and sends it on its way.
    fn form(&mut self, landed: &Landed) -> Result<(), Error> {
        let shared = self.shared.clone();
        let reader = shared.state.snapshot()?;
        let members: Members = shared.peers.members();
        let around = (&members, &*shared.schema);
        let mut draft = Draft::new(shared.node, around, (&reader, &self.pending), self.vector.clone());
        let mut finishes = Vec::new();
        while draft.bytes() < shared.limits.entry_bytes && draft.writes() < WRITES && finishes.len() < PIECES {
            let Some(work) = self.waiting.pop_front() else { break };
            draft.now = shared.clock.now();
            finishes.extend(work(&mut draft));
            let conflicts = draft.keep();
            shared.counts.conflicts.fetch_add(conflicts, Ordering::Relaxed);
        }
        shared.to_take_over.lock().append(&mut draft.orphaned());
        shared.note_low(&mut draft);
        let bytes = draft.bytes();
        let (operations, vector) = draft.finish(&self.vector)?;
        if operations.is_empty() {
            self.nothing_written(finishes);
            return Ok(());
        }
        // Later than every stamp in it, and than everything a snapshot shows already.
        let shown = reader.applied(polity_base::Guarantee::Eventual);
        let entry = Entry { index: self.index + 1, at: shared.clock.now().max(shown.next()), operations };
        let record = entry.record()?;
        self.index = entry.index;
        self.vector = vector.clone();
        for operation in &entry.operations {
            match operation {
                Operation::Put { key, value } => self.pending.insert(key.clone(), (entry.index, Some(value.clone()))),
                Operation::Delete { key } => self.pending.insert(key.clone(), (entry.index, None)),
                _ => None,
            };
        }
        shared.counts.entries.fetch_add(1, Ordering::Relaxed);
        shared.counts.entry_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.flights.push_back(Flight { entry, vector, bytes, finishes });
        let landed = landed.clone();
        shared.log.append(vec![record], move |result| {
            let _ = landed.send(result.map_err(Error::from));
        });
        Ok(())
    }

    fn nothing_written(&mut self, finishes: Vec<Finish>) {
        match self.flights.back_mut() {
            Some(last) => last.finishes.extend(finishes),
            None => {
                let at = self.shared.state.applied(RangeId::EVENTUAL).commit;
                finishes.into_iter().for_each(|finish| finish(Ok(at)));
            }
        }
    }

    /// Applies the first entry on its way, which is on the disk now.
    fn land(&mut self, landing: Landing) -> Result<(), Error> {
        landing?;
        let Some(Flight { entry, vector, bytes, finishes }) = self.flights.pop_front() else { return Ok(()) };
        let index = entry.index;
        let keys: Vec<_> = entry.operations.iter().filter_map(key_of).cloned().collect();
        let shared = &self.shared;
        // Before it shows, so that a reader's token holds what it has seen.
        shared.shown.lock().clone_from(&vector);
        let ordered = [entry.ordered(shared.node)];
        let outcome = on_worker(bytes, || shared.state.apply(RangeId::EVENTUAL, &ordered))?;
        debug_assert!(matches!(&outcome[..], [EntryOutcome::Batches(_)]));
        let at = shared.state.applied(RangeId::EVENTUAL).commit;
        shared.clock.observe(at);
        for key in keys {
            if self.pending.get(&key).is_some_and(|(of, _)| *of == index) {
                self.pending.remove(&key);
            }
        }
        shared.applied.send_if_modified(|applied| {
            let news = *applied != vector;
            *applied = vector;
            news
        });
        finishes.into_iter().for_each(|finish| finish(Ok(at)));
        Ok(())
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Its sender is dropped with the replica.
    let _ = stop.wait_for(|stop| *stop).await;
}

fn key_of(operation: &Operation) -> Option<&polity_base::Key> {
    match operation {
        Operation::Put { key, .. } | Operation::Delete { key } => Some(key),
        _ => None,
    }
}

/// Runs `work` on so many bytes, which does not yield, where it disturbs least.
pub(super) fn on_worker<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let multi = Handle::try_current().is_ok_and(|h| h.runtime_flavor() == RuntimeFlavor::MultiThread);
    if multi && bytes > BLOCKING_BYTES { tokio::task::block_in_place(work) } else { work() }
}
