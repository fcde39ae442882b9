//! redb's file, sealed block by block.
//!
//! redb sees a flat file. Its 4 KiB blocks are stored as
//!
//! ```text
//!   0      4096            12288           20480
//!   | head | block 0, copy A | block 0, copy B | block 1 | block 2 | …
//!
//!   head  = "POLITYS1" | key number u32 | file id 16 | nonce 12 | tag 16
//!   block = nonce 12 | ciphertext 4096 | tag 16        bound to file id and block number
//!   copy  = nonce 12 | sequence u64 | ciphertext 4096 | tag 16      bound to its sequence, too
//! ```
//! A block that does not verify is an error that names it, and so is one that was
//! never written: redb never reads what it has not written.
//!
//! **Power loss.** redb writes pages that nothing durable refers to and then the
//! header that refers to them, with a sync in between (we always commit in two
//! phases), so a torn page is a page nobody will ask for. The header, block 0, is
//! the one block written in place. Its two copies are written in turn: a write
//! never touches the copy that is known to be durable, and the newest one that
//! verifies is the header. After each sync the other copy is brought up to date,
//! so that damage to one copy later on does not bring an old header back, which
//! would point to pages that have been reused since.
//!
//! What is not detected: a disk that silently drops a write and keeps serving the
//! block's earlier, authentic content.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use polity_base::seams::Entropy;
use redb::StorageBackend;

use crate::disk::{DiskFile, read_exact_at};
use crate::error::Error;
use crate::seal::{NONCE_LEN, Sealer, TAG_LEN};

/// Bytes of a block as redb sees it.
const BLOCK: usize = 4096;
/// Bytes of a block as it is stored.
const STORED: usize = NONCE_LEN + BLOCK + TAG_LEN;
const HEAD_LEN: usize = 56;
const MAGIC: &[u8; 8] = b"POLITYS1";
const FILE_ID_LEN: usize = 16;
/// Where the copies of block 0 are, and where block 1 is.
const COPIES: [u64; 2] = [4096, 12288];
const FIRST: u64 = 20480;
const SEQUENCE_LEN: usize = 8;
const COPY_LEN: usize = NONCE_LEN + SEQUENCE_LEN + BLOCK + TAG_LEN;

/// The file of a state, for redb.
pub(super) struct SealedFile {
    file: Arc<dyn DiskFile>,
    name: String,
    sealer: Sealer,
    entropy: Arc<dyn Entropy>,
    id: [u8; FILE_ID_LEN],
    /// How many bytes redb thinks the file has.
    len: AtomicU64,
    header: Mutex<Header>,
    failure: Failure,
}

/// The first error of a file. redb answers everything after an error with a mere
/// "previous error", so it is kept here.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<Error>>>);

impl Failure {
    fn note(&self, error: &Error) {
        self.0.lock().get_or_insert_with(|| error.clone());
    }

    /// What went wrong first, if anything did.
    pub fn first(&self) -> Option<Error> {
        self.0.lock().clone()
    }
}

/// Block 0.
struct Header {
    block: Box<[u8]>,
    sequence: u64,
    /// The copy that holds the newest header known to be durable.
    durable: Option<usize>,
    /// Whether the header was written after that.
    written: bool,
}

impl Header {
    fn target(&self) -> usize {
        self.durable.map_or(0, |d| 1 - d)
    }
}

impl SealedFile {
    /// Makes `file`, which is empty, a sealed file.
    pub fn create(
        file: Arc<dyn DiskFile>,
        name: &str,
        sealer: Sealer,
        key_number: u32,
        entropy: Arc<dyn Entropy>,
    ) -> Result<SealedFile, Error> {
        let mut head = [0; HEAD_LEN];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&key_number.to_le_bytes());
        entropy.fill(&mut head[12..40]);
        let (about, rest) = head.split_at_mut(28);
        let (nonce, tag) = rest.split_at_mut(NONCE_LEN);
        tag.copy_from_slice(&sealer.seal_in_place(&array(nonce), about, &mut [])?);
        let id = array(&about[12..28]);

        let failed = |e| Error::io("write", name, e);
        file.write_at(0, &head).map_err(failed)?;
        file.set_len(FIRST).map_err(failed)?;
        file.sync().map_err(failed)?;
        let header = Header { block: vec![0; BLOCK].into(), sequence: 0, durable: None, written: false };
        Ok(SealedFile {
            file,
            name: name.to_owned(),
            sealer,
            entropy,
            id,
            len: AtomicU64::new(0),
            header: Mutex::new(header),
            failure: Failure::default(),
        })
    }

    /// Opens a file that [`SealedFile::create`] made and redb filled.
    pub fn open(
        file: Arc<dyn DiskFile>,
        name: &str,
        sealer: Sealer,
        key_number: u32,
        entropy: Arc<dyn Entropy>,
    ) -> Result<SealedFile, Error> {
        // What an earlier process wrote but did not sync is read below as if it
        // were durable; this makes it so.
        file.sync().map_err(|e| Error::io("sync", name, e))?;
        let stored = file.len().map_err(|e| Error::io("read", name, e))?;
        let id = read_head(&*file, name, &sealer, key_number)?;
        let copies = [0, 1].map(|i| read_copy(&*file, name, &sealer, &id, i));
        let newest = match copies {
            [Ok(a), Ok(b)] => match (a, b) {
                (Some(a), Some(b)) if b.0 > a.0 => Some((1, b)),
                (Some(a), _) => Some((0, a)),
                (None, b) => b.map(|b| (1, b)),
            },
            [Err(e), _] | [_, Err(e)] => return Err(e),
        };
        let Some((durable, (sequence, block))) = newest else {
            return Err(Error::corrupt(name, COPIES[0], "neither copy of the header verifies"));
        };
        let blocks = stored.saturating_sub(FIRST) / STORED as u64;
        Ok(SealedFile {
            file,
            name: name.to_owned(),
            sealer,
            entropy,
            id,
            len: AtomicU64::new((1 + blocks) * BLOCK as u64),
            header: Mutex::new(Header { block, sequence, durable: Some(durable), written: false }),
            failure: Failure::default(),
        })
    }

    /// Where the file's first error is kept.
    pub fn failure(&self) -> Failure {
        self.failure.clone()
    }

    fn associated(&self, block: u64) -> [u8; FILE_ID_LEN + 8] {
        bind(&self.id, block)
    }

    fn check_end(&self, offset: u64, len: usize) -> Result<(), Error> {
        let end = offset.saturating_add(len as u64);
        if end > self.len.load(Ordering::Acquire) {
            return Err(Error::corrupt(&self.name, offset, format!("{len} bytes there are beyond the file's end")));
        }
        Ok(())
    }

    fn write_header(&self, header: &mut Header, from: usize, data: &[u8]) -> Result<(), Error> {
        header.block[from..from + data.len()].copy_from_slice(data);
        header.sequence += 1;
        header.written = true;
        let target = header.target();
        self.write_copy(header, target)
    }

    fn write_copy(&self, header: &Header, target: usize) -> Result<(), Error> {
        let mut out = vec![0; COPY_LEN];
        let (nonce, rest) = out.split_at_mut(NONCE_LEN);
        let (sequence, rest) = rest.split_at_mut(SEQUENCE_LEN);
        let (block, tag) = rest.split_at_mut(BLOCK);
        self.entropy.fill(nonce);
        sequence.copy_from_slice(&header.sequence.to_le_bytes());
        block.copy_from_slice(&header.block);
        tag.copy_from_slice(&self.sealer.seal_in_place(&array(nonce), &bind_copy(&self.id, header.sequence), block)?);
        self.file.write_at(COPIES[target], &out).map_err(|e| Error::io("write", &self.name, e))
    }

    /// Reads the blocks from `first` on that fill `out`.
    fn read_blocks(&self, first: u64, out: &mut [u8]) -> Result<(), Error> {
        let count = out.len() / BLOCK;
        let mut stored = vec![0; count * STORED];
        read_exact_at(&*self.file, place(first), &mut stored).map_err(|e| Error::io("read", &self.name, e))?;
        for (i, (stored, out)) in stored.chunks_exact_mut(STORED).zip(out.chunks_exact_mut(BLOCK)).enumerate() {
            let number = first + i as u64;
            let (nonce, rest) = stored.split_at_mut(NONCE_LEN);
            let (block, tag) = rest.split_at_mut(BLOCK);
            if nonce.iter().chain(tag.iter()).all(|b| *b == 0) {
                return Err(self.damaged(number, "was never written"));
            }
            self.sealer
                .open_in_place(&array(nonce), &self.associated(number), block, &array(tag))
                .map_err(|_| self.damaged(number, "does not verify"))?;
            out.copy_from_slice(block);
        }
        Ok(())
    }

    /// Writes `data`, whole blocks, from block `first` on.
    fn write_blocks(&self, first: u64, data: &[u8]) -> Result<(), Error> {
        let count = data.len() / BLOCK;
        let mut nonces = vec![0; count * NONCE_LEN];
        self.entropy.fill(&mut nonces);
        let mut stored = Vec::with_capacity(count * STORED);
        for (i, (data, nonce)) in data.chunks_exact(BLOCK).zip(nonces.chunks_exact(NONCE_LEN)).enumerate() {
            stored.extend_from_slice(nonce);
            let from = stored.len();
            stored.extend_from_slice(data);
            let tag =
                self.sealer.seal_in_place(&array(nonce), &self.associated(first + i as u64), &mut stored[from..])?;
            stored.extend_from_slice(&tag);
        }
        self.file.write_at(place(first), &stored).map_err(|e| Error::io("write", &self.name, e))
    }

    fn damaged(&self, number: u64, what: &str) -> Error {
        Error::corrupt(&self.name, place(number), format!("block {number} {what}"))
    }

    fn read_range(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.check_end(offset, out.len())?;
        for piece in pieces(offset, out.len()) {
            let target = &mut out[piece.data.clone()];
            if piece.block == 0 {
                let header = self.header.lock();
                if header.sequence == 0 {
                    return Err(Error::corrupt(&self.name, COPIES[0], "the header was never written"));
                }
                target.copy_from_slice(&header.block[piece.from..piece.from + target.len()]);
            } else if piece.is_whole() {
                self.read_blocks(piece.block, target)?;
            } else {
                let mut block = [0; BLOCK];
                self.read_blocks(piece.block, &mut block)?;
                target.copy_from_slice(&block[piece.from..piece.from + target.len()]);
            }
        }
        Ok(())
    }

    fn write_range(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.check_end(offset, data.len())?;
        for piece in pieces(offset, data.len()) {
            let source = &data[piece.data.clone()];
            if piece.block == 0 {
                self.write_header(&mut self.header.lock(), piece.from, source)?;
            } else if piece.is_whole() {
                self.write_blocks(piece.block, source)?;
            } else {
                // redb writes whole pages; this is for completeness.
                let mut block = [0; BLOCK];
                self.read_blocks(piece.block, &mut block)?;
                block[piece.from..piece.from + source.len()].copy_from_slice(source);
                self.write_blocks(piece.block, &block)?;
            }
        }
        Ok(())
    }

    fn sync_all(&self) -> Result<(), Error> {
        let mut header = self.header.lock();
        self.file.sync().map_err(|e| Error::io("sync", &self.name, e))?;
        if header.written {
            let behind = header.durable.map_or(1, |d| d);
            header.durable = Some(1 - behind);
            header.written = false;
            self.write_copy(&header, behind)?;
        }
        Ok(())
    }

    fn resize(&self, len: u64) -> Result<(), Error> {
        let blocks = len.div_ceil(BLOCK as u64).saturating_sub(1);
        let stored = FIRST + blocks * STORED as u64;
        self.file.set_len(stored).map_err(|e| Error::io("resize", &self.name, e))?;
        self.len.store(len, Ordering::Release);
        Ok(())
    }

    fn noted<T>(&self, result: Result<T, Error>) -> io::Result<T> {
        result.map_err(|error| {
            self.failure.note(&error);
            io::Error::other(error)
        })
    }
}

/// A stretch of a read or write that lies in one block, or is whole blocks.
struct Piece {
    block: u64,
    /// Where in the block
    from: usize,
    /// Which bytes of the caller's buffer
    data: std::ops::Range<usize>,
}

impl Piece {
    fn is_whole(&self) -> bool {
        self.from == 0 && self.data.len().is_multiple_of(BLOCK)
    }
}

/// Cuts `len` bytes at `offset` into pieces: block 0, partial blocks, and runs of
/// whole blocks.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let (block, from) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
        let left = len - done;
        let run = if block == 0 || from != 0 || left < BLOCK { left.min(BLOCK - from) } else { left / BLOCK * BLOCK };
        let data = done..done + run;
        done += run;
        Some(Piece { block, from, data })
    })
}

/// Where a block other than block 0 is stored.
fn place(block: u64) -> u64 {
    FIRST + (block - 1) * STORED as u64
}

fn bind(id: &[u8; FILE_ID_LEN], block: u64) -> [u8; FILE_ID_LEN + 8] {
    let mut bytes = [0; FILE_ID_LEN + 8];
    bytes[..FILE_ID_LEN].copy_from_slice(id);
    bytes[FILE_ID_LEN..].copy_from_slice(&block.to_le_bytes());
    bytes
}

fn bind_copy(id: &[u8; FILE_ID_LEN], sequence: u64) -> [u8; FILE_ID_LEN + 16] {
    let mut bytes = [0; FILE_ID_LEN + 16];
    bytes[..FILE_ID_LEN + 8].copy_from_slice(&bind(id, 0));
    bytes[FILE_ID_LEN + 8..].copy_from_slice(&sequence.to_le_bytes());
    bytes
}

/// The first N bytes of a slice that has them.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

fn read_head(file: &dyn DiskFile, name: &str, sealer: &Sealer, key_number: u32) -> Result<[u8; FILE_ID_LEN], Error> {
    let mut head = [0; HEAD_LEN];
    read_exact_at(file, 0, &mut head).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::corrupt(name, 0, "the file is cut off in its head"),
        _ => Error::io("read", name, e),
    })?;
    if !head.starts_with(MAGIC) {
        return Err(Error::corrupt(name, 0, "not a state file, or of an unknown version"));
    }
    let (about, rest) = head.split_at(28);
    let (nonce, tag) = rest.split_at(NONCE_LEN);
    sealer
        .open_in_place(&array(nonce), about, &mut [], &array(tag))
        .map_err(|_| Error::corrupt(name, 8, "the head does not verify"))?;
    if about[8..12] != key_number.to_le_bytes() {
        return Err(Error::corrupt(name, 8, "sealed with a data key that is not in the keyring"));
    }
    Ok(array(&about[12..28]))
}

type Copied = Option<(u64, Box<[u8]>)>;

/// A copy of block 0, if it verifies.
fn read_copy(
    file: &dyn DiskFile,
    name: &str,
    sealer: &Sealer,
    id: &[u8; FILE_ID_LEN],
    copy: usize,
) -> Result<Copied, Error> {
    let mut stored = vec![0; COPY_LEN];
    match read_exact_at(file, COPIES[copy], &mut stored) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(Error::io("read", name, e)),
    }
    let (nonce, rest) = stored.split_at_mut(NONCE_LEN);
    let (sequence, rest) = rest.split_at_mut(SEQUENCE_LEN);
    let (block, tag) = rest.split_at_mut(BLOCK);
    let sequence = u64::from_le_bytes(array(sequence));
    match sealer.open_in_place(&array(nonce), &bind_copy(id, sequence), block, &array(tag)) {
        Ok(()) => Ok(Some((sequence, block.to_vec().into()))),
        Err(_) => {
            // A torn write, most likely: the other copy is the header then.
            tracing::warn!(file = name, copy, "a copy of the header does not verify");
            Ok(None)
        }
    }
}

impl fmt::Debug for SealedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedFile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl StorageBackend for SealedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::Acquire))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.noted(self.read_range(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.noted(self.resize(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.noted(self.sync_all())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.noted(self.write_range(offset, data))
    }
}
