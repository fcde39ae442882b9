//! The one task that writes.
//!
//! It takes all that is queued, writes it as one flush group, syncs once, and
//! only then answers. While a sync is on its way more is queued, so the busier
//! the log, the fewer syncs an append costs. The next group is not written
//! before the last one is durable: so a crash can tear the last group only.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use polity_base::RangeId;
use polity_base::planted::{Bug, planted};
use polity_base::seams::Entropy;
use tokio::sync::watch;

use crate::disk::{Disk, OpenOptions};
use crate::error::Error;
use crate::log::index::Place;
use crate::log::record::{self, Outline, Record, Sink};
use crate::log::segment::{FrameWriter, SEGMENT_HEAD, Segment, SegmentHead, file_name};
use crate::log::{Batch, Job, Shared, Taken};
use crate::seal::Sealer;

/// How many bytes of records one flush group takes, unless one append alone has
/// more.
const FLUSH_BYTES: usize = 8 << 20;
/// How many bytes of frames are written at once.
const WRITE_BYTES: usize = 4 << 20;
/// How much of a large payload is sealed before other tasks get a turn.
const SLICE_BYTES: usize = 1 << 20;
/// How far a segment's file is extended ahead of what is written into it. A
/// sync is a third cheaper when the file's length has not changed.
const AHEAD_BYTES: u64 = 4 << 20;
/// A buffer that grew larger than this is given back.
const BUFFER_BYTES: usize = 16 << 20;

/// What is durable of a group, without its entries.
#[derive(Default)]
pub(super) struct Durable {
    pub outline: Outline,
    pub states: BTreeMap<String, Bytes>,
}

impl Durable {
    fn apply(&mut self, record: &Record) {
        self.outline.apply(record);
        if let Record::State { name, value, .. } = record {
            match self.states.get_mut(name.as_ref()) {
                Some(old) => *old = value.clone(),
                None => {
                    self.states.insert(name.clone().into_owned(), value.clone());
                }
            }
        }
    }
}

/// The task's own things.
pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub disk: Arc<dyn Disk>,
    pub entropy: Arc<dyn Entropy>,
    pub sealer: Arc<Sealer>,
    pub key_number: u32,
    pub segment_bytes: u64,
    /// What the next segment starts with; follows the disk, not the index.
    pub groups: BTreeMap<RangeId, Durable>,
    pub oldest: u64,
    pub next_segment: u64,
    pub sequence: u64,
    pub active: Option<Active>,
    pub buffer: Vec<u8>,
    /// Dropped when the task ends, which is how others learn of it
    pub _alive: watch::Sender<()>,
}

/// The segment that is written.
pub(super) struct Active {
    segment: Segment,
    head: SegmentHead,
    /// Where the next flush group starts
    end: u64,
    /// The length of the file; zeros from `end` on
    length: u64,
}

impl Active {
    /// Writes the end of a flush group, of which `end` is the next one's start.
    fn write(&mut self, offset: u64, bytes: &[u8], end: u64, step: u64) -> Result<(), Error> {
        if end > self.length {
            self.resize(end.next_multiple_of(step))?;
        }
        write(&self.segment, offset, bytes)
    }

    fn resize(&mut self, length: u64) -> Result<(), Error> {
        let file = &self.segment.file;
        file.set_len(length).map_err(|e| Error::io("resize", &file_name(self.segment.id), e))?;
        self.length = length;
        Ok(())
    }
}

impl Writer {
    /// Serves the queue until the log is closed.
    pub async fn run(mut self) {
        loop {
            // Whoever was just answered, and others about to append, join this
            // group rather than wait for the sync after it.
            tokio::task::yield_now().await;
            let active = self.active.as_ref().map_or(0, |active| active.head.id);
            match self.shared.take(active) {
                Taken::Jobs { jobs, dead } => self.serve(jobs, dead).await,
                Taken::Nothing => self.shared.wake.notified().await,
                Taken::Ending => return self.close().await,
            }
        }
    }

    async fn serve(&mut self, mut jobs: VecDeque<Job>, dead: Vec<u64>) {
        while !jobs.is_empty() {
            let mut batches = Vec::new();
            let mut answers = Vec::new();
            let mut size = 0;
            while let Some(job) = jobs.pop_front_if(|job| size == 0 || size + job.batch.size <= FLUSH_BYTES) {
                size += job.batch.size;
                batches.push(job.batch);
                answers.push(job.done);
            }
            let trim = dead.last().filter(|_| jobs.is_empty()).map(|last| last + 1);
            if let Err(cause) = self.flush(&batches, trim).await {
                return self.shared.poison(cause, answers.into_iter().chain(jobs.into_iter().map(|job| job.done)));
            }
            answers.into_iter().for_each(|done| done(Ok(())));
        }
        if let Err(cause) = self.remove(&dead) {
            self.shared.poison(cause, []);
        }
    }

    /// Makes the records of `batches` durable.
    async fn flush(&mut self, batches: &[Batch], trim: Option<u64>) -> Result<(), Error> {
        if self.active.as_ref().is_none_or(|active| active.end >= self.segment_bytes) {
            self.start_segment().await?;
        }
        let step = self.step();
        let mut settled = Vec::new();
        let groups = &mut self.groups;
        let Some(active) = self.active.as_mut() else {
            return Err(Error::Internal("the log has no active segment".into()));
        };
        let offset = active.end;
        let mut frames = FrameWriter::start(&self.sealer, &active.head, offset, self.sequence, &mut self.buffer);
        for batch in batches {
            let mut ticket = batch.first_ticket;
            for record in &batch.records {
                let position = frames.position() + put(record, &mut frames, &active.segment).await?;
                if let Record::Entry { group, index, .. } = record {
                    settled.push((*group, *index, ticket, Place { segment: active.head.id, offset, position }));
                    ticket += 1;
                }
                groups.entry(record.group()).or_default().apply(record);
            }
        }
        if let Some(oldest) = trim {
            record::encode_trim(oldest, &mut frames);
            self.oldest = oldest;
        }
        let (from, end, sequence) = frames.finish()?;
        active.write(from, &self.buffer, end, step)?;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES);
        if !planted(Bug::AckBeforeFsync) {
            sync(&active.segment).await?;
        }
        active.end = end;
        self.sequence = sequence;
        self.shared.stats.count(batches.len(), end - offset);
        let mut inner = self.shared.inner.lock();
        settled.into_iter().for_each(|(group, at, ticket, place)| inner.index.settle(group, at, ticket, place));
        inner.index.evict();
        Ok(())
    }

    /// Starts a segment with all that must be known of earlier ones.
    ///
    /// Its header and first flush group are durable, and so is its name, before
    /// anything else is written into it.
    pub async fn start_segment(&mut self) -> Result<(), Error> {
        if let Some(mut full) = self.active.take() {
            // A segment with a successor ends where its last frame does.
            full.resize(full.end)?;
            sync(&full.segment).await?;
        }
        let mut salt = [0; 4];
        self.entropy.fill(&mut salt);
        let id = self.next_segment;
        let head = SegmentHead { id, first_sequence: self.sequence, key_number: self.key_number, salt };
        let name = file_name(id);
        let file = self.disk.open(&name, OpenOptions::FRESH).map_err(|e| Error::io("create", &name, e))?;
        let segment = Segment { id, salt, file };

        self.buffer.clear();
        self.buffer.extend_from_slice(&head.encode());
        let mut frames = FrameWriter::start(&self.sealer, &head, SEGMENT_HEAD as u64, self.sequence, &mut self.buffer);
        record::encode_trim(self.oldest, &mut frames);
        for (group, durable) in &self.groups {
            record::encode_outline(*group, durable.outline, &mut frames);
            for (name, value) in &durable.states {
                record::encode_state(*group, name, value, &mut frames);
            }
        }
        let (_, end, sequence) = frames.finish()?;
        let mut active = Active { segment, head, end, length: 0 };
        active.write(0, &self.buffer, end, self.step())?;
        self.buffer.clear();
        sync(&active.segment).await?;
        self.disk.sync_dir().map_err(|e| Error::io("create", &name, e))?;
        self.sequence = sequence;
        self.next_segment = id + 1;
        self.shared.inner.lock().index.add_segment(active.segment.clone());
        self.active = Some(active);
        Ok(())
    }

    fn step(&self) -> u64 {
        self.segment_bytes.clamp(1, AHEAD_BYTES)
    }

    /// Removes segments that a durable trim record says are not needed.
    fn remove(&mut self, dead: &[u64]) -> Result<(), Error> {
        let Some(&newest) = dead.last() else { return Ok(()) };
        for &id in dead {
            self.shared.inner.lock().index.remove_segment(id);
            let name = file_name(id);
            self.disk.remove(&name).map_err(|e| Error::io("remove", &name, e))?;
        }
        self.disk.sync_dir().map_err(|e| Error::io("remove", &file_name(newest), e))
    }

    /// Writes a last flush group: with another one after it, every acknowledged
    /// record is protected against damage as only older ones are otherwise.
    async fn close(&mut self) {
        let Some(mut active) = self.active.take() else { return };
        if matches!(self.shared.inner.lock().refusal, Some(Error::Poisoned { .. })) {
            return;
        }
        let mut frames = FrameWriter::start(&self.sealer, &active.head, active.end, self.sequence, &mut self.buffer);
        record::encode_close(&mut frames);
        let outcome = match frames.finish() {
            Ok((from, end, _)) => {
                active.resize(end).and_then(|()| write(&active.segment, from, &self.buffer)).map(|()| active)
            }
            Err(e) => Err(e),
        };
        let outcome = match outcome {
            Ok(active) => sync(&active.segment).await,
            Err(e) => Err(e),
        };
        if let Err(e) = outcome {
            // All that was acknowledged is durable without it.
            tracing::warn!(error = %e, "the log could not note that it was closed");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Also when the runtime ends, or a callback panicked: nobody waits in vain.
        self.shared.poison(Error::Closed, []);
    }
}

/// Puts a record into the open flush group, writing what grows too large to hold.
/// For an entry, returns where its payload starts, counted from the record.
async fn put(record: &Record, frames: &mut FrameWriter<'_>, segment: &Segment) -> Result<u64, Error> {
    let Record::Entry { group, index, term, payload } = record else {
        record::encode(record, frames);
        return Ok(0);
    };
    let position = record::encode_entry_head(*group, *index, *term, payload.len(), frames);
    let mut slices = payload.chunks(SLICE_BYTES);
    if let Some(first) = slices.next() {
        frames.put(first);
    }
    for slice in slices {
        tokio::task::yield_now().await;
        frames.put(slice);
        spill(frames, segment)?;
    }
    spill(frames, segment)?;
    Ok(position)
}

fn spill(frames: &mut FrameWriter<'_>, segment: &Segment) -> Result<(), Error> {
    if let Some((offset, bytes)) = frames.ready(WRITE_BYTES) {
        write(segment, offset, bytes)?;
        frames.written();
    }
    Ok(())
}

fn write(segment: &Segment, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    segment.file.write_at(offset, bytes).map_err(|e| Error::io("write", &file_name(segment.id), e))
}

async fn sync(segment: &Segment) -> Result<(), Error> {
    segment.file.clone().sync_async().await.map_err(|e| Error::io("sync", &file_name(segment.id), e))
}
