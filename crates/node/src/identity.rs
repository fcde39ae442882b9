//! Who a node is: the file `node` of its data folder.
//!
//! ```text
//! polity node 1
//! cluster 3f0c…  (32 hexadecimal digits)
//! node 1
//! founder        (or: joined)
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
    /// Whether it founded the cluster. One that joined never founds another one,
    /// whatever it is started with later.
    pub founder: bool,
}

/// What a node is said to be when it is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Claim {
    /// The cluster its certificate names
    pub cluster: Option<u128>,
    /// Its number
    pub node: Option<NodeId>,
    /// Whether it is to join a cluster that is there
    pub joins: bool,
}

impl Identity {
    /// The identity that the folder holds, or a new one for a new folder. A folder
    /// that belongs to another node than is claimed is refused.
    pub fn open(disk: &dyn Disk, entropy: &dyn Entropy, claim: Claim) -> Result<Identity, Error> {
        let failed = |e: io::Error| Error::file(FILE, e);
        if !disk.exists(FILE).map_err(failed)? {
            if disk.list().map_err(failed)?.iter().any(|name| is_data(name)) {
                let what = "is missing, although the folder holds data: who would this node be?";
                return Err(Error::file(FILE, what));
            }
            let identity = Identity {
                cluster: claim.cluster.unwrap_or_else(|| unique_id(entropy)),
                node: claim.node.unwrap_or(NodeId(1)),
                founder: !claim.joins,
            };
            identity.write(disk).map_err(failed)?;
            return Ok(identity);
        }
        let identity = Identity::read(disk)?;
        if claim.node.is_some_and(|other| other != identity.node) {
            let other = claim.node.unwrap_or_default();
            return Err(Error::Config(format!("this data folder belongs to node {}, not {other}", identity.node)));
        }
        if claim.cluster.is_some_and(|other| other != identity.cluster) {
            return Err(Error::Config(format!(
                "this data folder belongs to cluster {:032x}, the certificates to {:032x}",
                identity.cluster,
                claim.cluster.unwrap_or_default()
            )));
        }
        Ok(identity)
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
        let founder = match lines.next() {
            // Folders from before there were clusters.
            None | Some("founder") => true,
            Some("joined") => false,
            Some(other) => return Err(format!("has {other:?} where \"founder\" or \"joined\" should be")),
        };
        Ok(Identity { cluster, node: NodeId(node), founder })
    }

    /// Writes the file aside and puts it in its place, so that it is there whole or
    /// not at all.
    fn write(self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.open(TEMPORARY, OpenOptions::FRESH)?;
        let role = if self.founder { "founder" } else { "joined" };
        let text = format!("{FIRST_LINE}\ncluster {:032x}\nnode {}\n{role}\n", self.cluster, self.node.0);
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
        let seven = Claim { node: Some(NodeId(7)), joins: true, ..Claim::default() };
        let first = Identity::open(&disk, &entropy, seven).unwrap();
        assert_eq!((first.node, first.founder), (NodeId(7), false));
        assert_eq!(Identity::open(&disk, &entropy, Claim::default()).unwrap(), first);
        let refused = |claim| Identity::open(&disk, &entropy, claim).unwrap_err().to_string();
        let eight = refused(Claim { node: Some(NodeId(8)), ..seven });
        assert!(eight.contains("n7"), "{eight}");
        let elsewhere = refused(Claim { cluster: Some(1), ..seven });
        assert!(elsewhere.contains("belongs to cluster"), "{elsewhere}");
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
            ("polity node 1\ncluster 0123456789abcdef0123456789abcdef\nnode 1\nguest\n", "founder"),
        ];
        for (text, expected) in cases {
            put(&disk, FILE, text);
            let error = Identity::open(&disk, &SystemEntropy::default(), Claim::default()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn data_without_an_identity_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(folder.path()).unwrap();
        put(&disk, "log-0000000001", "x");
        let error = Identity::open(&disk, &SystemEntropy::default(), Claim::default()).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
