//! Files that queries put aside what does not fit in memory into.
//!
//! They are sealed like all else, under a key of their own that is drawn when the
//! folder is opened and never written anywhere: nobody needs the files after a
//! restart, and nobody can read them then. Names begin with `spill-`; files go
//! with their last user, and what a crash left goes at the next opening.
//!
//! ```text
//!   spill-0000000007    | sealed piece, tag 16 | sealed piece, tag 16 | …
//! ```
//! Where pieces begin is known in memory alone. The nonce of a piece is the file's
//! number and its own in the file, so no nonce is used twice under one key, and a
//! piece is authentic in its place only.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use polity_base::seams::Entropy;

use crate::disk::{Disk, DiskFile, OpenOptions, read_exact_at};
use crate::error::Error;
use crate::seal::{NONCE_LEN, Sealer, TAG_LEN};

const PREFIX: &str = "spill-";

/// Where queries put aside what does not fit in memory.
pub struct SpillFolder {
    disk: Arc<dyn Disk>,
    sealer: Sealer,
    most: u64,
    next: AtomicU64,
    held: AtomicU64,
}

impl SpillFolder {
    /// The folder `disk`, of whose files those of an earlier run are removed. All
    /// files together hold at most `most` bytes.
    pub fn open(disk: Arc<dyn Disk>, entropy: &dyn Entropy, most: u64) -> Result<Arc<SpillFolder>, Error> {
        for name in disk.list().map_err(|e| Error::io("list", &disk.name(), e))? {
            if name.starts_with(PREFIX) {
                disk.remove(&name).map_err(|e| Error::io("remove", &name, e))?;
            }
        }
        let sealer = Sealer::passing(entropy, "spill")?;
        Ok(Arc::new(SpillFolder { disk, sealer, most, next: AtomicU64::new(1), held: AtomicU64::new(0) }))
    }

    /// A new file.
    pub fn create(self: &Arc<Self>) -> Result<SpillFile, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{number:010}");
        let file = self.disk.open(&name, OpenOptions::FRESH).map_err(|e| Error::io("create", &name, e))?;
        Ok(SpillFile { folder: self.clone(), name, number, file, ends: Mutex::default() })
    }

    /// Bytes of all files.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    fn hold(&self, bytes: u64) -> io::Result<()> {
        let room = |held: u64| held.checked_add(bytes).filter(|&sum| sum <= self.most);
        match self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => Ok(()),
            Err(_) => Err(io::ErrorKind::QuotaExceeded.into()),
        }
    }
}

/// A file that is written from its beginning to its end, piece by piece, and read
/// back the same way. Removed when dropped.
pub struct SpillFile {
    folder: Arc<SpillFolder>,
    name: String,
    number: u64,
    file: Arc<dyn DiskFile>,
    /// Where each piece ends, in bytes, its tag included
    ends: Mutex<Vec<u64>>,
}

impl SpillFile {
    /// Adds a piece. What `data` holds afterwards is of no use.
    pub fn append(&self, data: &mut Vec<u8>) -> Result<(), Error> {
        let failed = |e| Error::io("write", &self.name, e);
        let mut ends = self.ends.lock();
        let from = ends.last().copied().unwrap_or(0);
        let length = (data.len() + TAG_LEN) as u64;
        let nonce = self.nonce(ends.len())?;
        self.folder.hold(length).map_err(failed)?;
        let tag = self.folder.sealer.seal_in_place(&nonce, &[], data)?;
        data.extend_from_slice(&tag);
        if let Err(error) = self.file.write_at(from, data) {
            self.folder.held.fetch_sub(length, Ordering::Relaxed);
            return Err(failed(error));
        }
        ends.push(from + length);
        Ok(())
    }

    /// The piece at `place`, counted from 0; `None` if so many were not written yet.
    pub fn piece(&self, place: usize) -> Result<Option<Vec<u8>>, Error> {
        let (from, to) = {
            let ends = self.ends.lock();
            let Some(&to) = ends.get(place) else { return Ok(None) };
            (place.checked_sub(1).and_then(|p| ends.get(p)).copied().unwrap_or(0), to)
        };
        let mut data = vec![0; (to - from) as usize];
        read_exact_at(&*self.file, from, &mut data).map_err(|e| Error::io("read", &self.name, e))?;
        let damaged = || Error::corrupt(&self.name, from, "the piece is not what was written");
        let tag = data.split_off(data.len().saturating_sub(TAG_LEN));
        let tag = tag.as_slice().try_into().map_err(|_| damaged())?;
        self.folder.sealer.open_in_place(&self.nonce(place)?, &[], &mut data, tag).map_err(|_| damaged())?;
        Ok(Some(data))
    }

    /// Bytes on disk.
    pub fn len(&self) -> u64 {
        self.ends.lock().last().copied().unwrap_or(0)
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.ends.lock().is_empty()
    }

    fn nonce(&self, place: usize) -> Result<[u8; NONCE_LEN], Error> {
        let place = u32::try_from(place).map_err(|_| Error::Internal(format!("{} has too many pieces", self.name)))?;
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&self.number.to_le_bytes());
        nonce[8..].copy_from_slice(&place.to_le_bytes());
        Ok(nonce)
    }
}

impl Drop for SpillFile {
    fn drop(&mut self) {
        self.folder.held.fetch_sub(self.len(), Ordering::Relaxed);
        // What stays is sealed, and removed at the next start.
        if let Err(error) = self.folder.disk.remove(&self.name) {
            tracing::warn!(file = self.name, %error, "a spill file could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::log::testing::CountingEntropy;

    fn folder(disk: &MemoryDisk, most: u64) -> Arc<SpillFolder> {
        SpillFolder::open(Arc::new(disk.clone()), &CountingEntropy::default(), most).unwrap()
    }

    #[test]
    fn pieces_come_back_and_only_noise_is_on_disk() {
        let disk = MemoryDisk::new(1);
        let folder = folder(&disk, 1 << 20);
        let file = folder.create().unwrap();
        let text = b"attack at dawn ".repeat(100);
        for _ in 0..3 {
            file.append(&mut text.clone()).unwrap();
        }
        assert_eq!(file.piece(0).unwrap().as_deref(), Some(text.as_slice()));
        assert_eq!(file.piece(2).unwrap().as_deref(), Some(text.as_slice()));
        assert_eq!(file.piece(3).unwrap(), None);
        let mut bytes = vec![0; file.len() as usize];
        read_exact_at(&*disk.open(&file.name, OpenOptions::EXISTING).unwrap(), 0, &mut bytes).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"attack"));
        let third = bytes.len() / 3;
        assert_ne!(bytes[..third], bytes[third..2 * third], "equal pieces look different");
        disk.flip(&file.name, third + 5, 3);
        assert!(matches!(file.piece(1), Err(Error::Corrupt { offset, .. }) if offset == third as u64));
    }

    #[test]
    fn files_go_with_their_users_and_leftovers_at_the_next_opening() {
        let disk = MemoryDisk::new(1);
        let first = folder(&disk, 1 << 20);
        let (kept, dropped) = (first.create().unwrap(), first.create().unwrap());
        dropped.append(&mut vec![1; 100]).unwrap();
        drop(dropped);
        assert_eq!(disk.list().unwrap(), [kept.name.as_str()]);
        assert_eq!(first.held(), 0);
        std::mem::forget(kept);
        folder(&disk, 1 << 20);
        assert!(disk.list().unwrap().is_empty());
    }

    #[test]
    fn more_than_the_limit_is_refused_and_room_comes_back() {
        let disk = MemoryDisk::new(1);
        let folder = folder(&disk, 1_000);
        let (a, b) = (folder.create().unwrap(), folder.create().unwrap());
        a.append(&mut vec![0; 900]).unwrap();
        assert!(matches!(b.append(&mut vec![0; 900]), Err(Error::Full { .. })));
        drop(a);
        b.append(&mut vec![0; 900]).unwrap();
    }
}
