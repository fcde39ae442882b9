//! Whole clusters of real processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::time::Instant;

use super::Node;

/// Some nodes that know each other, over folders of their own.
pub struct Cluster {
    /// The nodes by place, counted from 0; none where one is down
    pub nodes: Vec<Option<Node>>,
    regions: Vec<&'static str>,
    folder: tempfile::TempDir,
    /// The SQL, http and link addresses each node was first given
    addresses: Vec<[String; 3]>,
    /// A disk of so many MiB for the node of this number
    small_disk: Option<(u64, u64)>,
}

impl Cluster {
    /// Starts a node in each of these regions, and waits until every one has a
    /// vote (an odd number of them).
    pub fn start(regions: &[&'static str]) -> Cluster {
        Cluster::start_with(regions, None)
    }

    /// The same; the node of a number may get a disk of so many MiB, which only it sees
    /// ([`can_have_small_disks`]).
    pub fn start_with(regions: &[&'static str], small_disk: Option<(u64, u64)>) -> Cluster {
        let folder = tempfile::tempdir().expect("a folder for the cluster");
        let mut cluster =
            Cluster { nodes: Vec::new(), regions: regions.to_vec(), folder, addresses: Vec::new(), small_disk };
        for at in 0..regions.len() {
            cluster.add(at, at as u64 + 1);
        }
        let votes = regions.len();
        cluster.wait_for(|nodes| nodes.iter().filter(|n| n["role"] != "learner").count() == votes);
        cluster
    }

    /// Starts a new node under this number at this place.
    pub fn add(&mut self, at: usize, number: u64) {
        let free = ["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()];
        let seed = self.nodes.iter().flatten().map(|n| n.link.clone()).next();
        let node = self.spawn(at, number, &free, seed.as_deref());
        let addresses = [node.address(), node.http_address(), node.link.clone()];
        if at == self.nodes.len() {
            self.nodes.push(Some(node));
            self.addresses.push(addresses);
        } else {
            self.nodes[at] = Some(node);
            self.addresses[at] = addresses;
        }
    }

    /// Starts a new node in a region at a new place, under the number that comes next.
    pub fn grow(&mut self, region: &'static str) {
        self.regions.push(region);
        self.add(self.nodes.len(), self.nodes.len() as u64 + 1);
    }

    /// Starts the node at this place again, where it was.
    pub fn restart(&mut self, at: usize) {
        let addresses = self.addresses[at].clone();
        self.nodes[at] = Some(self.spawn(at, at as u64 + 1, &addresses, None));
    }

    /// What the node at this place says when it is started on a folder that is not as
    /// it left it.
    pub fn refusal(&self, at: usize) -> String {
        let number = at as u64 + 1;
        let certificates = self.certificates().display().to_string();
        let number_text = number.to_string();
        let arguments = ["--node", &number_text, "--region", self.regions[at], "--certs", &certificates];
        let [sql, http, link] = &self.addresses[at];
        let arguments = arguments.into_iter().chain(["--sql", sql, "--http", http, "--link", link]);
        Node::start_with(&self.data(number), arguments).err().expect("the node does not start")
    }

    fn spawn(&self, at: usize, number: u64, addresses: &[String; 3], join: Option<&str>) -> Node {
        let [sql, http, link] = addresses;
        let number_text = number.to_string();
        let mut arguments = vec!["--node", &number_text, "--region", self.regions[at], "--allow-faults"];
        arguments.extend(["--sql", sql, "--http", http, "--link", link]);
        let certificates = self.certificates().display().to_string();
        arguments.extend(["--certs", &certificates]);
        if let Some(join) = join {
            arguments.extend(["--join", join]);
        }
        let data = self.data(number);
        let node = match self.small_disk {
            Some((small, mib)) if small == number => {
                std::fs::create_dir_all(&data).expect("a folder for the disk");
                Node::start_by(on_a_small_disk(&data, mib, env!("CARGO_BIN_EXE_polity")), &data, arguments)
            }
            _ => Node::start_with(&data, arguments),
        };
        node.unwrap_or_else(|why| panic!("node {number}: {why}"))
    }

    /// The data folder of a node, by its number.
    pub fn data(&self, number: u64) -> PathBuf {
        self.folder.path().join(format!("node-{number}"))
    }

    fn certificates(&self) -> PathBuf {
        self.folder.path().join("certificates")
    }

    /// Kills the node at this place.
    pub fn kill(&mut self, at: usize) {
        self.nodes[at].take().expect("a node that is up").kill();
    }

    /// The node at this place, which is up.
    pub fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().expect("a node that is up")
    }

    /// Where SQL is spoken, one for each node that is up.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().flatten().map(|node| node.url.clone()).collect()
    }

    /// The places of the nodes that are up.
    pub fn up(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|at| self.nodes[*at].is_some()).collect()
    }

    /// Runs an administrator's command: `node` or `fault` with its arguments.
    pub fn admin(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_polity"));
        command.args(arguments).arg("--certs").arg(self.certificates());
        for node in self.nodes.iter().flatten() {
            command.args(["--admin", &node.link]);
        }
        let output = command.output().map_err(|e| e.to_string())?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// What `polity node list --json` says; none if nobody answers.
    pub fn list(&self) -> Vec<serde_json::Value> {
        let text = self.admin(&["node", "list", "--json"]).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until the list of nodes is as wanted.
    pub fn wait_for(&self, wanted: impl Fn(&[serde_json::Value]) -> bool) -> Vec<serde_json::Value> {
        let begun = Instant::now();
        loop {
            let list = self.list();
            if wanted(&list) {
                return list;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the cluster did not get there: {list:#?}");
        }
    }

    /// The place of the node that leads.
    pub fn leader(&self) -> usize {
        let list = self.wait_for(|nodes| nodes.iter().any(|n| n["role"] == "leader" && n["reachable"] == true));
        let leader = list.iter().find(|n| n["role"] == "leader").expect("just seen");
        let id = leader["id"].as_u64().expect("a number");
        self.nodes.iter().position(|n| n.as_ref().is_some_and(|n| n.id == id)).expect("the leader is up")
    }

    /// A file of a node's data folder.
    pub fn file(&self, number: u64, name: &str) -> PathBuf {
        self.data(number).join(Path::new(name))
    }
}

/// A command that gives the program a file system of so many MiB at `folder`, which no
/// other process sees.
fn on_a_small_disk(folder: &Path, mib: u64, program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg("mount -t tmpfs -o size=$1m none \"$2\" && shift 2 && exec \"$@\"").arg("sh");
    command.arg(mib.to_string()).arg(folder).arg(program);
    command
}

/// Whether this machine lets a process have a small disk of its own.
pub fn can_have_small_disks() -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    on_a_small_disk(folder.path(), 1, "true").output().is_ok_and(|output| output.status.success())
}
