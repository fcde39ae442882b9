//! The shared write-ahead log: one per node, for all its replica groups.
//!
//! ```text
//!  append(records, done) ──> queue ──┐            (any task; never waits)
//!                                    v
//!             one task:  take all · seal · write · sync · answer all
//!                                    |
//!   log-0000000007   [ head | flush group | flush group | … ]
//! ```
//! Everything that waits while a sync is on its way becomes the next *flush
//! group*: one stretch of sealed frames, one write, one sync. A group is read
//! back whole or not at all.
//!
//! **Order.** The order of calls is the order in the log, across groups. A
//! group's own view follows the calls at once (what was appended can be read),
//! durability follows with `done`.
//!
//! **Failure.** After a failed write or sync nothing may be assumed about what
//! is on the disk, not even that trying again would tell ("fsyncgate": Rebello et
//! al., "Can Applications Recover from fsync Failures?", ATC 2020). The records
//! are answered with the error, and the log takes no more until a restart has
//! read it back. Failed records may then turn out to be there, or not.
//!
//! **Segments.** Files of some 64 MiB. Each starts with the named values and
//! bounds of all groups, so that the oldest segments can be removed as soon as
//! all their entries are purged or truncated. A group that is never purged keeps
//! all segments from its first entry on. Every start begins a new segment.
//!
//! What is in a segment is described in `segment.rs`; what can be told about a
//! log that does not verify, in `recovery.rs`.

mod index;
mod record;
mod recovery;
mod segment;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use polity_base::RangeId;
use polity_base::seams::Entropy;
use tokio::sync::{Notify, oneshot, watch};

use crate::disk::Disk;
use crate::error::Error;
use crate::log::index::{Found, Index};
use crate::log::segment::FrameReader;
use crate::log::writer::{Durable, Writer};
use crate::seal::{Keyring, Sealer};

pub use record::Record;

/// The largest payload of an entry, in bytes.
pub const MAX_PAYLOAD: usize = 1 << 30;

/// What can be chosen about a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// The size from which on a segment gets a successor, in bytes
    pub segment_bytes: u64,
    /// How many bytes of recent entries stay in memory
    pub cache_bytes: usize,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { segment_bytes: 64 << 20, cache_bytes: 64 << 20 }
    }
}

/// A group as it was found when the log was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredGroup {
    /// The group
    pub group: RangeId,
    /// The index of its first entry
    pub first: Option<u64>,
    /// The index and term of its last entry
    pub last: Option<(u64, u64)>,
    /// The highest index that was purged
    pub purged: Option<u64>,
    /// Its named values
    pub states: BTreeMap<String, Bytes>,
}

/// What a log has done since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogStats {
    /// Calls of `append` that were made durable
    pub appends: u64,
    /// Flush groups, and so syncs, that this took
    pub flushes: u64,
    /// Bytes written for them
    pub bytes: u64,
}

/// The log of a node. Clones are the same log; it ends in order when the last
/// one is dropped, or by [`Log::close`].
#[derive(Clone)]
pub struct Log {
    handle: Arc<Handle>,
}

/// Ends the log when the last clone of it goes.
struct Handle {
    shared: Arc<Shared>,
    sealer: Arc<Sealer>,
    ended: watch::Receiver<()>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl Log {
    /// Reads the log in `disk` back and starts its task in the current runtime.
    ///
    /// Everything is verified. A torn end is cut, which is logged as a warning;
    /// anything else that is not as it was written is [`Error::Corrupt`].
    /// The folder must be held by this process (see [`crate::disk::lock`]).
    pub async fn open(
        disk: Arc<dyn Disk>,
        keys: &Keyring,
        entropy: Arc<dyn Entropy>,
        options: LogOptions,
    ) -> Result<(Log, Vec<RecoveredGroup>), Error> {
        let sealer = Arc::new(keys.sealer("log")?);
        let recovery = recovery::recover(&*disk, &sealer, keys.number(), Index::new(options.cache_bytes))?;
        let recovered = recovery.index.groups.iter().map(|(id, group)| RecoveredGroup {
            group: *id,
            first: group.first(),
            last: group.last(),
            purged: group.outline.purged,
            states: group.states.clone(),
        });
        let recovered: Vec<_> = recovered.collect();
        let groups = &recovery.index.groups;
        let durable = |group: &index::Group| Durable { outline: group.outline, states: group.states.clone() };
        let groups = groups.iter().map(|(id, group)| (*id, durable(group))).collect();

        let (alive, ended) = watch::channel(());
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { index: recovery.index, queue: VecDeque::new(), refusal: None, ending: false }),
            wake: Notify::new(),
            stats: Counters::default(),
        });
        let mut writer = Writer {
            shared: shared.clone(),
            disk,
            entropy,
            sealer: sealer.clone(),
            key_number: keys.number(),
            segment_bytes: options.segment_bytes,
            groups,
            oldest: recovery.oldest,
            next_segment: recovery.next_segment,
            sequence: recovery.sequence,
            active: None,
            buffer: Vec::new(),
            _alive: alive,
        };
        writer.start_segment().await?;
        tokio::spawn(writer.run());
        Ok((Log { handle: Arc::new(Handle { shared, sealer, ended }) }, recovered))
    }

    /// Appends records; `done` is called when all of them are durable, or with
    /// the reason why that is not known. Never waits.
    ///
    /// The records of one call become durable together or not at all. `done` runs
    /// in the log's own task (or, if the records are refused, before this
    /// returns): it must be quick and must not panic.
    pub fn append(&self, records: Vec<Record>, done: impl FnOnce(Result<(), Error>) + Send + 'static) {
        let shared = &self.handle.shared;
        if let Err(refused) = shared.enqueue(records, Box::new(done)) {
            let (done, error) = *refused;
            // Outside the lock: it may append again.
            done(Err(error));
        }
    }

    /// Appends records and waits until they are durable.
    pub async fn append_wait(&self, records: Vec<Record>) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        self.append(records, move |outcome| {
            // The caller may have gone away; the records are durable all the same.
            let _ = sender.send(outcome);
        });
        receiver.await.unwrap_or(Err(Error::Closed))
    }

    /// The entries of `range` that the group has: index, term, payload. They
    /// follow each other without gaps; entries that were purged or not yet
    /// appended are left out. Blocks on the disk for entries that are not recent.
    pub fn read(&self, group: RangeId, range: Range<u64>) -> Result<Vec<(u64, u64, Bytes)>, Error> {
        let found = self.handle.shared.inner.lock().index.find(group, range);
        let mut reader = FrameReader::new(&self.handle.sealer);
        let payload = |found| match found {
            Found::Here(payload) => Ok(payload),
            Found::There(segment, place, length) => {
                reader.read(&segment, place.offset, place.position, length).map(Bytes::from)
            }
        };
        let mut payload = payload;
        found.into_iter().map(|(index, term, found)| Ok((index, term, payload(found)?))).collect()
    }

    /// The term of an entry, if the group has it.
    pub fn term(&self, group: RangeId, index: u64) -> Option<u64> {
        self.handle.shared.inner.lock().index.term(group, index)
    }

    /// A named value of the group.
    pub fn state(&self, group: RangeId, name: &str) -> Option<Bytes> {
        self.with(group, |g| g.states.get(name).cloned())
    }

    /// The index of the group's first entry.
    pub fn first(&self, group: RangeId) -> Option<u64> {
        self.with(group, |g| g.first())
    }

    /// The index and term of the group's last entry.
    pub fn last(&self, group: RangeId) -> Option<(u64, u64)> {
        self.with(group, |g| g.last())
    }

    /// The highest index of the group that was purged.
    pub fn purged(&self, group: RangeId) -> Option<u64> {
        self.with(group, |g| g.outline.purged)
    }

    fn with<T>(&self, group: RangeId, read: impl FnOnce(&index::Group) -> Option<T>) -> Option<T> {
        self.handle.shared.inner.lock().index.groups.get(&group).and_then(read)
    }

    /// What the log has done so far.
    pub fn stats(&self) -> LogStats {
        self.handle.shared.stats.read()
    }

    /// Makes durable what is queued, refuses more, and waits until the log's task
    /// has ended.
    pub async fn close(&self) {
        self.handle.shared.end();
        let mut ended = self.handle.ended.clone();
        // Nothing is ever sent: this ends when the task drops its side.
        while ended.changed().await.is_ok() {}
    }
}

type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// One call, and whom to answer.
struct Job {
    batch: Batch,
    done: Done,
}

/// Records of one call.
struct Batch {
    records: Vec<Record>,
    /// Roughly how many bytes they take
    size: usize,
    /// The ticket of the first entry among them
    first_ticket: u64,
}

/// What callers and the task share.
struct Shared {
    inner: Mutex<Inner>,
    wake: Notify,
    stats: Counters,
}

struct Inner {
    index: Index,
    queue: VecDeque<Job>,
    /// Why no more records are taken
    refusal: Option<Error>,
    /// Whether the task ends once the queue is empty
    ending: bool,
}

/// What there is for the task to do.
enum Taken {
    Jobs {
        jobs: VecDeque<Job>,
        /// Segments that hold nothing of use once `jobs` are durable
        dead: Vec<u64>,
    },
    Nothing,
    Ending,
}

impl Shared {
    fn enqueue(&self, records: Vec<Record>, done: Done) -> Result<(), Box<(Done, Error)>> {
        let largest = records.iter().map(Record::size).max().unwrap_or(0);
        if largest > MAX_PAYLOAD {
            return Err(Box::new((done, Error::TooLarge { size: largest, limit: MAX_PAYLOAD })));
        }
        let size = records.iter().map(Record::size).sum();
        let mut inner = self.inner.lock();
        if let Some(error) = inner.refusal.clone() {
            return Err(Box::new((done, error)));
        }
        if let Err(error) = inner.index.check(&records) {
            return Err(Box::new((done, error)));
        }
        let first_ticket = inner.index.next_ticket();
        records.iter().for_each(|record| inner.index.apply(record));
        inner.queue.push_back(Job { batch: Batch { records, size, first_ticket }, done });
        drop(inner);
        self.wake.notify_one();
        Ok(())
    }

    /// Everything that is queued. Since records change the index when they are
    /// queued, a segment without live entries is dead once these are durable.
    fn take(&self, active: u64) -> Taken {
        let mut inner = self.inner.lock();
        match inner.queue.is_empty() {
            true if inner.ending => Taken::Ending,
            true => Taken::Nothing,
            false => Taken::Jobs { jobs: std::mem::take(&mut inner.queue), dead: inner.index.dead_segments(active) },
        }
    }

    /// Refuses records from now on, fails those that are queued, and `failed`.
    fn poison(&self, cause: Error, failed: impl IntoIterator<Item = Done>) {
        let refusal = match &cause {
            Error::Closed => Error::Closed,
            cause => Error::Poisoned { cause: Arc::new(cause.clone()) },
        };
        let mut inner = self.inner.lock();
        inner.refusal.get_or_insert(refusal.clone());
        inner.ending = true;
        let queued = std::mem::take(&mut inner.queue);
        drop(inner);
        failed.into_iter().for_each(|done| done(Err(cause.clone())));
        queued.into_iter().for_each(|job| (job.done)(Err(refusal.clone())));
        self.wake.notify_one();
    }

    fn end(&self) {
        let mut inner = self.inner.lock();
        inner.refusal.get_or_insert(Error::Closed);
        inner.ending = true;
        drop(inner);
        self.wake.notify_one();
    }
}

#[derive(Default)]
struct Counters {
    appends: AtomicU64,
    flushes: AtomicU64,
    bytes: AtomicU64,
}

impl Counters {
    fn count(&self, appends: usize, bytes: u64) {
        self.appends.fetch_add(appends as u64, Ordering::Relaxed);
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn read(&self) -> LogStats {
        LogStats {
            appends: self.appends.load(Ordering::Relaxed),
            flushes: self.flushes.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}
