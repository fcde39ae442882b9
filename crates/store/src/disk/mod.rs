//! The third seam: a folder of files.
//!
//! Everything that a node keeps goes through [`Disk`] and [`DiskFile`], so that
//! a simulated world can lose unsynced writes, tear them, flip bits and fill up.
//! [`RealDisk`] is a folder of the operating system, [`MemoryDisk`] the folder
//! that fails on demand.
//!
//! What callers may rely on, and no more:
//!
//! - Written bytes survive a crash only after `sync` of their file has returned
//!   `Ok`. Until then any part of them may survive, in any order.
//! - A created, renamed or removed name survives a crash only after `sync_dir`.
//! - After a failed `sync` nothing is known about the writes before it, and a
//!   later `sync` that succeeds says nothing about them either.
//! - Bytes that were synced are not harmed by a write next to them ("powersafe
//!   overwrite"): a disk tears at a sector's edge, it does not erase neighbours.

mod memory;
mod real;

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

pub use memory::{Crash, Fault, MemoryDisk};
pub use real::RealDisk;

/// A future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How to open a file. Files are always readable and writable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    /// Whether to create the file when it does not exist
    pub create: bool,
    /// Whether to empty the file when it does
    pub truncate: bool,
}

impl OpenOptions {
    /// A file that exists.
    pub const EXISTING: OpenOptions = OpenOptions { create: false, truncate: false };
    /// A file that is created unless it exists.
    pub const CREATE: OpenOptions = OpenOptions { create: true, truncate: false };
    /// A file that is empty, whether it existed or not.
    pub const FRESH: OpenOptions = OpenOptions { create: true, truncate: true };
}

/// A folder. Names have no separators.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open(&self, name: &str, options: OpenOptions) -> io::Result<Arc<dyn DiskFile>>;
    /// Whether the file exists.
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes a file. Files that are open stay readable.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Renames a file, replacing one that has the new name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
    /// Takes the folder for this process until the returned guard is dropped.
    /// Fails with [`io::ErrorKind::WouldBlock`] when another holds it.
    fn lock_exclusive(&self) -> io::Result<Box<dyn Send + Sync>>;
    /// The folder's name in messages.
    fn name(&self) -> String;
}

/// An open file.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads at `offset` into `buf`; how many bytes were read, fewer only at the
    /// file's end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `data` at `offset`; the file grows as needed.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the writes so far durable. Blocks.
    fn sync(&self) -> io::Result<()>;
    /// As [`DiskFile::sync`], without blocking the calling task.
    fn sync_async(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>>;
}

/// Takes the folder, or says who is in the way.
pub fn lock(disk: &dyn Disk) -> Result<Box<dyn Send + Sync>, crate::Error> {
    disk.lock_exclusive().map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => crate::Error::InUse { folder: disk.name() },
        _ => crate::Error::io("lock", &disk.name(), e),
    })
}

/// Reads exactly `buf.len()` bytes.
pub fn read_exact_at(file: &dyn DiskFile, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    match file.read_at(offset, buf)? {
        n if n == buf.len() => Ok(()),
        n => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("wanted {} bytes at offset {offset}, the file has {n}", buf.len()),
        )),
    }
}
