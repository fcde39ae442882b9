//! A folder of the operating system.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use rustix::fs::FlockOperation;
use tokio::sync::oneshot;

use super::{BoxFuture, Disk, DiskFile, OpenOptions};

const LOCK_FILE: &str = "LOCK";

/// A folder of the operating system, and a thread that waits for its syncs.
pub struct RealDisk {
    folder: PathBuf,
    syncer: Syncer,
}

impl RealDisk {
    /// The folder at `path`, created if it does not exist, open to its owner only.
    pub fn open(path: impl AsRef<Path>) -> io::Result<RealDisk> {
        let folder = path.as_ref().to_path_buf();
        if !folder.is_dir() {
            create_folder(&folder)?;
        }
        Ok(RealDisk { folder, syncer: Syncer::start()? })
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    fn file(&self, name: &str) -> io::Result<PathBuf> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a file name")));
        }
        Ok(self.folder.join(name))
    }
}

fn create_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // The folder's own name must survive a crash as well.
    if let Some(parent) = folder.parent().filter(|p| !p.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

impl Disk for RealDisk {
    fn open(&self, name: &str, options: OpenOptions) -> io::Result<Arc<dyn DiskFile>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(options.create)
            .truncate(options.truncate)
            .mode(0o600)
            .open(self.file(name)?)?;
        Ok(Arc::new(RealFile { file, syncer: self.syncer.clone() }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        self.file(name)?.try_exists()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.file(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.file(from)?, self.file(to)?)
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }

    fn lock_exclusive(&self) -> io::Result<Box<dyn Send + Sync>> {
        let path = self.file(LOCK_FILE)?;
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // The lock ends when the file is closed, also when the process is killed.
        Ok(Box::new(file))
    }

    fn name(&self) -> String {
        self.folder.display().to_string()
    }
}

struct RealFile {
    file: File,
    syncer: Syncer,
}

impl DiskFile for RealFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut read = 0;
        while read < buf.len() {
            match self.file.read_at(&mut buf[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(n) => read += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(read)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_async(self: Arc<Self>) -> BoxFuture<'static, io::Result<()>> {
        let (done, answer) = oneshot::channel();
        self.syncer.send(Request { file: self.clone(), done });
        Box::pin(async move {
            // A sync whose thread is gone may or may not have happened: an error.
            answer.await.unwrap_or_else(|_| Err(io::Error::other("the sync thread ended")))
        })
    }
}

struct Request {
    file: Arc<RealFile>,
    done: oneshot::Sender<io::Result<()>>,
}

/// A thread that waits for syncs, so that no task has to. It ends with the last
/// handle to it.
#[derive(Clone)]
struct Syncer {
    requests: mpsc::Sender<Request>,
}

impl Syncer {
    fn start() -> io::Result<Syncer> {
        let (requests, inbox) = mpsc::channel::<Request>();
        std::thread::Builder::new().name("disk-sync".into()).spawn(move || {
            for request in inbox {
                let outcome = request.file.sync();
                // Nobody waits any more: then nobody relies on it either.
                let _ = request.done.send(outcome);
            }
        })?;
        Ok(Syncer { requests })
    }

    fn send(&self, request: Request) {
        // If the thread is gone the request is dropped, and the waiter sees that.
        let _ = self.requests.send(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{lock, read_exact_at};

    #[test]
    fn files_keep_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(folder.path().join("new/folder")).unwrap();
        assert!(!disk.exists("a").unwrap());
        assert!(disk.open("a", OpenOptions::EXISTING).is_err());
        let file = disk.open("a", OpenOptions::CREATE).unwrap();
        file.write_at(3, b"xyz").unwrap();
        file.sync().unwrap();
        assert_eq!(file.len().unwrap(), 6);
        let mut buf = [9; 8];
        assert_eq!(file.read_at(0, &mut buf).unwrap(), 6);
        assert_eq!(&buf, b"\0\0\0xyz\x09\x09");
        assert!(read_exact_at(&*file, 2, &mut buf).is_err());
        disk.rename("a", "b").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        disk.remove("b").unwrap();
        assert_eq!(file.read_at(3, &mut buf).unwrap(), 3, "an open file outlives its name");
        assert!(disk.open("../escape", OpenOptions::CREATE).is_err());
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let first = RealDisk::open(folder.path()).unwrap();
        let second = RealDisk::open(folder.path()).unwrap();
        let held = lock(&first).unwrap();
        let refused = lock(&second).err().unwrap();
        assert!(matches!(refused, crate::Error::InUse { .. }), "{refused}");
        drop(held);
        lock(&second).unwrap();
    }

    #[tokio::test]
    async fn syncs_are_awaited() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(folder.path()).unwrap();
        let file = disk.open("a", OpenOptions::CREATE).unwrap();
        file.write_at(0, b"x").unwrap();
        file.sync_async().await.unwrap();
    }
}
