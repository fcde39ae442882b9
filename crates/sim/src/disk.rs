//! A simulated disk: a [`MemoryDisk`], whose syncs take time.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use polity_check::random::Random;
use polity_store::disk::{BoxFuture, Disk, DiskFile, MemoryDisk, OpenOptions};

/// A disk whose syncs take time.
pub struct TimedDisk {
    disk: MemoryDisk,
    pace: Arc<Pace>,
}

/// How long syncs take.
pub struct Pace(Mutex<(Random, Duration)>);

impl Pace {
    /// A pace that follows from `seed`.
    pub fn new(seed: u64) -> Pace {
        Pace(Mutex::new((Random::new(seed), Duration::ZERO)))
    }

    /// Has every sync take up to so much longer.
    pub fn slow_down(&self, by: Duration) {
        self.0.lock().1 = by;
    }

    fn next(&self) -> Duration {
        let mut pace = self.0.lock();
        let slow = u64::try_from(pace.1.as_micros()).unwrap_or(u64::MAX);
        // Mostly less than a tick; now and then a disk thinks about it.
        let usual = if pace.0.chance(2) { 20_000 } else { 1_500 };
        Duration::from_micros(pace.0.below(usual) + pace.0.below(slow + 1))
    }
}

impl TimedDisk {
    /// The disk, at this pace.
    pub fn new(disk: MemoryDisk, pace: Arc<Pace>) -> TimedDisk {
        TimedDisk { disk, pace }
    }
}

impl Disk for TimedDisk {
    fn open(&self, name: &str, options: OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(TimedFile { file: self.disk.open(name, options)?, pace: self.pace.clone() }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.disk.exists(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn lock_exclusive(&self) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock_exclusive()
    }

    fn name(&self) -> String {
        self.disk.name()
    }
}

struct TimedFile {
    file: Arc<dyn DiskFile>,
    pace: Arc<Pace>,
}

impl DiskFile for TimedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn sync_async(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            tokio::time::sleep(self.pace.next()).await;
            self.file.sync()
        })
    }
}
