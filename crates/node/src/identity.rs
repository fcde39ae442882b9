//! Who a node is: the file `node` of its data folder.
//!
//! ```text
//! polity node 1
//! cluster 3f0c…  (32 hexadecimal digits)
//! node 1
//! ```
//! Written once, when the folder is new, and never changed: a node that forgot
//! who it is could vote twice. It is not secret.

use std::io;

use polity_base::NodeId;
use polity_base::seams::{Entropy, unique_id};
use polity_store::disk::{Disk, OpenOptions, read_exact_at};

use crate::error::Error;

const FILE: &str = "node";
const TEMPORARY: &str = "node.new";
const FIRST_LINE: &str = "polity node 1";
/// Far more than the file ever has.
const LONGEST: u64 = 4096;

/// Who a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster, by a number nobody else drew
    pub cluster: u128,
    /// The node within it
    pub node: NodeId,
}

impl Identity {
    /// The identity that the folder holds, or a new one for a new folder. A folder
    /// that belongs to another node than `expected` is refused.
    pub fn open(disk: &dyn Disk, entropy: &dyn Entropy, expected: Option<NodeId>) -> Result<Identity, Error> {
        let failed = |e: io::Error| Error::file(FILE, e);
        if !disk.exists(FILE).map_err(failed)? {
            if disk.list().map_err(failed)?.iter().any(|name| is_data(name)) {
                let what = "is missing, although the folder holds data: who would this node be?";
                return Err(Error::file(FILE, what));
            }
            let identity = Identity { cluster: unique_id(entropy), node: expected.unwrap_or(NodeId(1)) };
            identity.write(disk).map_err(failed)?;
            return Ok(identity);
        }
        let identity = Identity::read(disk)?;
        match expected {
            Some(other) if other != identity.node => {
                Err(Error::Config(format!("this data folder belongs to node {}, not {other}", identity.node)))
            }
            _ => Ok(identity),
        }
    }

    fn read(disk: &dyn Disk) -> Result<Identity, Error> {
        let failed = |e: io::Error| Error::file(FILE, e);
        let file = disk.open(FILE, OpenOptions::EXISTING).map_err(failed)?;
        let length = file.len().map_err(failed)?;
        if length > LONGEST {
            return Err(Error::file(FILE, format!("has {length} bytes, which no identity has")));
        }
        let mut bytes = vec![0; length as usize];
        read_exact_at(&*file, 0, &mut bytes).map_err(failed)?;
        let text = String::from_utf8(bytes).map_err(|_| Error::file(FILE, "is not text"))?;
        Identity::parse(&text).map_err(|what| Error::file(FILE, what))
    }

    fn parse(text: &str) -> Result<Identity, String> {
        let mut lines = text.lines();
        match lines.next() {
            Some(FIRST_LINE) => {}
            other => return Err(format!("begins with {:?}, not {FIRST_LINE:?}", other.unwrap_or(""))),
        }
        let mut value = |name: &str| {
            let line = lines.next().unwrap_or("");
            let rest = line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
            rest.ok_or_else(|| format!("has {line:?} where a line \"{name} …\" should be"))
        };
        let cluster = value("cluster")?;
        let cluster = Some(cluster).filter(|c| c.len() == 32).and_then(|c| u128::from_str_radix(c, 16).ok());
        let cluster = cluster.ok_or("has no cluster of 32 hexadecimal digits")?;
        let node = value("node")?.parse().map_err(|e| format!("has no node number: {e}"))?;
        Ok(Identity { cluster, node: NodeId(node) })
    }

    /// Writes the file aside and puts it in its place, so that it is there whole or
    /// not at all.
    fn write(self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.open(TEMPORARY, OpenOptions::FRESH)?;
        let text = format!("{FIRST_LINE}\ncluster {:032x}\nnode {}\n", self.cluster, self.node.0);
        file.write_at(0, text.as_bytes())?;
        file.sync()?;
        disk.rename(TEMPORARY, FILE)?;
        disk.sync_dir()
    }
}

/// Whether a file of this name is there only after the node had an identity.
fn is_data(name: &str) -> bool {
    name == "keyring" || name == "state" || name.starts_with("log-")
}

#[cfg(test)]
mod tests {
    use polity_store::disk::RealDisk;

    use super::*;
    use crate::entropy::SystemEntropy;

    fn put(disk: &dyn Disk, name: &str, text: &str) {
        disk.open(name, OpenOptions::FRESH).unwrap().write_at(0, text.as_bytes()).unwrap();
    }

    #[test]
    fn a_folder_remembers_its_node() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(folder.path()).unwrap();
        let entropy = SystemEntropy::default();
        let first = Identity::open(&disk, &entropy, Some(NodeId(7))).unwrap();
        assert_eq!(first.node, NodeId(7));
        assert_eq!(Identity::open(&disk, &entropy, None).unwrap(), first);
        let refused = Identity::open(&disk, &entropy, Some(NodeId(8))).unwrap_err().to_string();
        assert!(refused.contains("n7"), "{refused}");
    }

    #[test]
    fn damaged_files_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(folder.path()).unwrap();
        let cases = [
            ("", "begins with"),
            ("polity node 2\n", "begins with"),
            ("polity node 1\n", "cluster"),
            ("polity node 1\ncluster 12\nnode 1\n", "32 hexadecimal"),
            ("polity node 1\ncluster 0123456789abcdef0123456789abcdef\nnode x\n", "node number"),
        ];
        for (text, expected) in cases {
            put(&disk, FILE, text);
            let error = Identity::open(&disk, &SystemEntropy::default(), None).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn data_without_an_identity_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(folder.path()).unwrap();
        put(&disk, "log-0000000001", "x");
        let error = Identity::open(&disk, &SystemEntropy::default(), None).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
