//! A folder in memory that fails on demand.
//!
//! Every file has two contents: what readers see, and what a crash would leave.
//! Writes change the first and wait in a list; a sync applies the list to the
//! second. Names have the same two states. A crash then decides the fate of all
//! that waits: lost, kept, or torn (each write whole, missing, cut short, or with
//! some of its sectors missing, independently of the others).
//!
//! Operations that change something are counted: a test runs a workload once to
//! learn how many there are, then once more for each of them, to crash or fail
//! just there. All choices come from the seed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{BoxFuture, Disk, DiskFile, OpenOptions};

/// The smallest piece of a write that reaches a disk or does not, in bytes.
const SECTOR: u64 = 512;

/// What happens to everything that was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// It is lost.
    Lost,
    /// It survives.
    Kept,
    /// Any part of it survives.
    Torn,
}

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// With an input/output error. A write is done in part. A sync loses what
    /// it should have kept, and later syncs do not bring it back.
    Error,
    /// Because no space is left.
    Full,
}

/// A folder in memory. Clones are the same folder.
#[derive(Clone)]
pub struct MemoryDisk {
    world: Arc<Mutex<World>>,
}

#[derive(Default)]
struct World {
    random: u64,
    files: Vec<Contents>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    faults: BTreeMap<u64, Fault>,
    capacity: Option<u64>,
    locked: bool,
}

#[derive(Clone, Default)]
struct Contents {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write { offset: u64, data: Vec<u8> },
    SetLen(u64),
}

enum NameChange {
    Link(String, usize),
    Unlink(String),
    Rename(String, String, usize),
}

impl MemoryDisk {
    /// An empty folder whose failures follow from `seed`.
    pub fn new(seed: u64) -> MemoryDisk {
        MemoryDisk { world: Arc::new(Mutex::new(World { random: seed, ..World::default() })) }
    }

    /// How many operations have changed something, or tried to.
    pub fn operations(&self) -> u64 {
        self.world.lock().operations
    }

    /// Lets `operations` more operations succeed and then stops the machine: the
    /// one after them may or may not take effect, and all fail from there on.
    pub fn crash_after(&self, operations: u64) {
        let mut world = self.world.lock();
        world.crash_at = Some(world.operations + operations);
    }

    /// Lets `operations` more operations succeed and the one after them fail.
    pub fn fail_after(&self, operations: u64, fault: Fault) {
        let mut world = self.world.lock();
        let at = world.operations + operations;
        world.faults.insert(at, fault);
    }

    /// Limits the sum of all files' lengths.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world.lock().capacity = bytes;
    }

    /// Stops the machine, if it runs still, and gives the folder as the next
    /// start finds it. Open files of the old one fail.
    pub fn restart(&self, crash: Crash) -> MemoryDisk {
        let mut world = self.world.lock();
        world.crashed = true;
        let mut next = World { random: world.next_random(), ..World::default() };
        let mut names = world.durable_names.clone();
        for change in std::mem::take(&mut world.pending_names) {
            if world.survives(crash) {
                change.apply(&mut names);
            }
        }
        for (name, inode) in names {
            let contents = world.after_crash(inode, crash);
            next.names.insert(name, next.files.len());
            next.files.push(contents);
        }
        next.durable_names = next.names.clone();
        next.capacity = world.capacity;
        MemoryDisk { world: Arc::new(Mutex::new(next)) }
    }

    /// A folder with the same files, all durable: to try several fates on.
    pub fn copy(&self) -> MemoryDisk {
        let world = self.world.lock();
        let mut next = World { random: world.random, ..World::default() };
        for (name, &inode) in &world.names {
            let current = world.files[inode].current.clone();
            next.names.insert(name.clone(), next.files.len());
            next.files.push(Contents { durable: current.clone(), current, pending: Vec::new() });
        }
        next.durable_names = next.names.clone();
        MemoryDisk { world: Arc::new(Mutex::new(next)) }
    }

    /// The folder as it would be found after a crash that loses all that can be
    /// lost; this one goes on.
    pub fn durable(&self) -> MemoryDisk {
        let world = self.world.lock();
        let mut next = World { random: world.random, ..World::default() };
        for (name, &inode) in &world.durable_names {
            let durable = world.files[inode].durable.clone();
            next.names.insert(name.clone(), next.files.len());
            next.files.push(Contents { current: durable.clone(), durable, pending: Vec::new() });
        }
        next.durable_names = next.names.clone();
        MemoryDisk { world: Arc::new(Mutex::new(next)) }
    }

    /// Whether the machine has stopped.
    pub fn has_stopped(&self) -> bool {
        self.world.lock().crashed
    }

    /// The sum of all files' lengths.
    pub fn used(&self) -> u64 {
        let world = self.world.lock();
        world.names.values().map(|&inode| world.files[inode].current.len() as u64).sum()
    }

    /// Flips one bit of a file, behind everybody's back.
    ///
    /// # Panics
    /// When the file has no such byte.
    pub fn flip(&self, name: &str, byte: usize, bit: usize) {
        let mut world = self.world.lock();
        let inode = world.names[name];
        let contents = &mut world.files[inode];
        contents.current[byte] ^= 1 << bit;
        if let Some(durable) = contents.durable.get_mut(byte) {
            *durable ^= 1 << bit;
        }
    }

    /// What a file holds, or nothing.
    pub fn contents(&self, name: &str) -> Vec<u8> {
        let world = self.world.lock();
        world.names.get(name).map(|&inode| world.files[inode].current.clone()).unwrap_or_default()
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Link(name, inode) => {
                names.insert(name, inode);
            }
            NameChange::Unlink(name) => {
                names.remove(&name);
            }
            NameChange::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
        }
    }
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Change::Write { offset, data } => write(to, *offset as usize, data),
            Change::SetLen(len) => to.resize(*len as usize, 0),
        }
    }
}

fn write(to: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset..end].copy_from_slice(data);
}

impl World {
    /// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
    /// generators", OOPSLA 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn survives(&mut self, crash: Crash) -> bool {
        match crash {
            Crash::Lost => false,
            Crash::Kept => true,
            Crash::Torn => self.next_random().is_multiple_of(2),
        }
    }

    fn after_crash(&mut self, inode: usize, crash: Crash) -> Contents {
        let Contents { mut durable, pending, .. } = self.files[inode].clone();
        for change in pending {
            match (crash, change) {
                (Crash::Lost, _) => {}
                (Crash::Torn, Change::Write { offset, data }) => self.tear(&mut durable, offset, &data),
                (_, change) => {
                    if self.survives(crash) {
                        change.apply(&mut durable);
                    }
                }
            }
        }
        Contents { current: durable.clone(), durable, pending: Vec::new() }
    }

    fn tear(&mut self, to: &mut Vec<u8>, offset: u64, data: &[u8]) {
        match self.next_random() % 4 {
            0 => {}
            1 => write(to, offset as usize, data),
            2 => {
                let kept = self.next_random() as usize % (data.len() + 1);
                write(to, offset as usize, &data[..kept]);
            }
            _ => {
                let mut from = 0;
                while from < data.len() {
                    let at = offset + from as u64;
                    let until = data.len().min(from + (SECTOR - at % SECTOR) as usize);
                    if self.next_random().is_multiple_of(2) {
                        write(to, at as usize, &data[from..until]);
                    }
                    from = until;
                }
            }
        }
    }

    /// Counts an operation, and says whether and how it fails.
    fn step(&mut self) -> Result<Option<Fault>, io::Error> {
        if self.crashed {
            return Err(stopped());
        }
        let number = self.operations;
        self.operations += 1;
        if self.crash_at == Some(number) {
            self.crashed = true;
        }
        Ok(self.faults.remove(&number))
    }

    /// For operations that take effect wholly or not at all.
    fn step_whole(&mut self) -> io::Result<()> {
        match self.step()? {
            Some(fault) => Err(fault.error()),
            None => Ok(()),
        }
    }

    /// After an operation took effect: whether the caller hears of it.
    fn answer(&self) -> io::Result<()> {
        if self.crashed { Err(stopped()) } else { Ok(()) }
    }

    fn alive(&self) -> io::Result<()> {
        self.answer()
    }

    fn room_for(&self, inode: usize, len: u64) -> bool {
        let used: u64 = self.names.values().map(|&i| self.files[i].current.len() as u64).sum();
        let now = self.files[inode].current.len() as u64;
        self.capacity.is_none_or(|capacity| len <= now || used + (len - now) <= capacity)
    }

    fn change(&mut self, inode: usize, change: Change) {
        let contents = &mut self.files[inode];
        change.apply(&mut contents.current);
        contents.pending.push(change);
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Fault::Error => io::Error::other("injected input/output error"),
            Fault::Full => io::Error::from(io::ErrorKind::StorageFull),
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("the machine has stopped")
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str, options: OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world.lock();
        world.alive()?;
        let inode = match world.names.get(name).copied() {
            Some(inode) => {
                if options.truncate && !world.files[inode].current.is_empty() {
                    world.step_whole()?;
                    world.change(inode, Change::SetLen(0));
                    world.answer()?;
                }
                inode
            }
            None if options.create => {
                world.step_whole()?;
                let inode = world.files.len();
                world.files.push(Contents::default());
                world.names.insert(name.to_owned(), inode);
                world.pending_names.push(NameChange::Link(name.to_owned(), inode));
                world.answer()?;
                inode
            }
            None => return Err(not_found(name)),
        };
        Ok(Arc::new(MemoryFile { world: self.world.clone(), inode }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        let world = self.world.lock();
        world.alive()?;
        Ok(world.names.contains_key(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let world = self.world.lock();
        world.alive()?;
        Ok(world.names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.step_whole()?;
        world.names.remove(name).ok_or_else(|| not_found(name))?;
        world.pending_names.push(NameChange::Unlink(name.to_owned()));
        world.answer()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        world.step_whole()?;
        let inode = world.names.remove(from).ok_or_else(|| not_found(from))?;
        world.names.insert(to.to_owned(), inode);
        world.pending_names.push(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        world.answer()
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut world = self.world.lock();
        world.step_whole()?;
        world.answer()?;
        world.durable_names = world.names.clone();
        world.pending_names.clear();
        Ok(())
    }

    fn lock_exclusive(&self) -> io::Result<Box<dyn Send + Sync>> {
        let mut world = self.world.lock();
        if world.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        world.locked = true;
        Ok(Box::new(Held(self.world.clone())))
    }

    fn name(&self) -> String {
        "(memory)".to_owned()
    }
}

struct Held(Arc<Mutex<World>>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.lock().locked = false;
    }
}

struct MemoryFile {
    world: Arc<Mutex<World>>,
    inode: usize,
}

impl DiskFile for MemoryFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let world = self.world.lock();
        world.alive()?;
        let current = &world.files[self.inode].current;
        let from = current.len().min(offset as usize);
        let n = buf.len().min(current.len() - from);
        buf[..n].copy_from_slice(&current[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut world = self.world.lock();
        let mut fault = world.step()?;
        if fault.is_none() && !world.room_for(self.inode, offset + data.len() as u64) {
            fault = Some(Fault::Full);
        }
        let written = match fault {
            Some(_) => world.next_random() as usize % (data.len() + 1),
            None => data.len(),
        };
        world.change(self.inode, Change::Write { offset, data: data[..written].to_vec() });
        match fault {
            Some(fault) => Err(fault.error()),
            None => world.answer(),
        }
    }

    fn len(&self) -> io::Result<u64> {
        let world = self.world.lock();
        world.alive()?;
        Ok(world.files[self.inode].current.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        world.step_whole()?;
        if !world.room_for(self.inode, len) {
            return Err(Fault::Full.error());
        }
        world.change(self.inode, Change::SetLen(len));
        world.answer()
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.world.lock();
        let fault = world.step()?;
        world.answer()?;
        let pending = std::mem::take(&mut world.files[self.inode].pending);
        if let Some(fault) = fault {
            // Some of it got there, the rest is forgotten though readers see it.
            let mut durable = std::mem::take(&mut world.files[self.inode].durable);
            for change in pending {
                if let Change::Write { offset, data } = change {
                    world.tear(&mut durable, offset, &data);
                }
            }
            world.files[self.inode].durable = durable;
            return Err(fault.error());
        }
        let durable = &mut world.files[self.inode].durable;
        pending.iter().for_each(|change| change.apply(durable));
        Ok(())
    }

    fn sync_async(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async move {
            // Others may run meanwhile, as they do while a real disk works.
            tokio::task::yield_now().await;
            self.sync()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced_then_not(disk: &MemoryDisk) {
        let file = disk.open("a", OpenOptions::CREATE).unwrap();
        file.write_at(0, b"kept").unwrap();
        file.sync().unwrap();
        disk.sync_dir().unwrap();
        file.write_at(4, &[b'x'; 2000]).unwrap();
        disk.open("b", OpenOptions::CREATE).unwrap();
    }

    #[test]
    fn a_crash_takes_what_was_not_synced() {
        let disk = MemoryDisk::new(1);
        synced_then_not(&disk);
        let after = disk.restart(Crash::Lost);
        assert_eq!(after.contents("a"), b"kept");
        assert_eq!(after.list().unwrap(), ["a"]);
        assert!(disk.list().is_err(), "the old machine has stopped");
    }

    #[test]
    fn torn_writes_take_many_shapes_and_leave_synced_bytes_alone() {
        let mut shapes = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let disk = MemoryDisk::new(seed);
            synced_then_not(&disk);
            let contents = disk.restart(Crash::Torn).contents("a");
            assert!(contents.starts_with(b"kept"));
            shapes.insert(contents);
        }
        assert!(shapes.len() > 10);
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_the_next() {
        let survives = |seed| {
            let disk = MemoryDisk::new(seed);
            let file = disk.open("a", OpenOptions::CREATE).unwrap();
            disk.sync_dir().unwrap();
            file.write_at(0, &[7; 5000]).unwrap();
            disk.fail_after(0, Fault::Error);
            assert!(file.sync().is_err());
            file.sync().unwrap();
            assert_eq!(disk.contents("a").len(), 5000, "readers see it all the same");
            disk.restart(Crash::Kept).contents("a").len() == 5000
        };
        assert!((0..32).any(survives));
        assert!(!(0..32).all(survives));
    }

    #[test]
    fn space_runs_out() {
        let disk = MemoryDisk::new(1);
        disk.set_capacity(Some(10));
        let file = disk.open("a", OpenOptions::CREATE).unwrap();
        file.write_at(0, b"0123456789").unwrap();
        let full = file.write_at(5, b"01234567").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }
}
