//! The demo's node processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

use super::Progress;
use crate::admin::{Admin, AdminArguments};

/// Where the nodes stand: region and zone. The first one founds the cluster and
/// leads it at first.
const PLACES: [(&str, &str); 5] = [("europe", "a"), ("europe", "b"), ("asia", "a"), ("asia", "b"), ("america", "a")];
/// How long a message is on its way between two regions, in milliseconds: half of
/// what a round trip between London, Singapore and Virginia takes.
const DELAYS: [(&str, &str, u32); 3] = [("europe", "america", 38), ("europe", "asia", 80), ("asia", "america", 110)];
/// How long all nodes may take to be ready and have their votes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a node may take to end.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// Where the addresses are kept: nodes that come back must be found.
const ADDRESSES: &str = "addresses.json";
/// The folder of the certificates that all nodes and the administrator share.
const CERTIFICATES: &str = "certificates";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where one node listens.
#[derive(Clone, Serialize, Deserialize)]
struct Addresses {
    sql: String,
    http: String,
    link: String,
}

/// One node process.
struct Member {
    child: Child,
    /// Its end is the node's signal to stop. Not left to the child, which closes it
    /// when it is waited for
    input: Option<ChildStdin>,
    ready: serde_json::Value,
}

/// The node processes of a demo.
pub struct Cluster {
    members: Vec<Member>,
    certificates: PathBuf,
}

impl Cluster {
    /// Starts the nodes over folders in `data` and waits until all have a vote.
    pub async fn start(data: &Path, progress: Progress) -> Result<Cluster, Failure> {
        let known = known_addresses(data)?;
        let mut cluster = Cluster { members: Vec::new(), certificates: data.join(CERTIFICATES) };
        match &known {
            // Nodes that come back need each other to be ready: all at once.
            Some(addresses) => {
                progress.say(&format!("starting {} nodes", PLACES.len()));
                let mut children = Vec::new();
                for (at, place) in addresses.iter().enumerate() {
                    children.push(spawn(data, at, Some(place), None)?);
                }
                for (at, child) in children.into_iter().enumerate() {
                    cluster.members.push(ready(child, at).await?);
                }
            }
            None => {
                for (at, (region, _)) in PLACES.iter().enumerate() {
                    progress.say(&format!("starting node {} in {region}", at + 1));
                    let join = cluster.members.first().map(|first| text(&first.ready, "link"));
                    let child = spawn(data, at, None, join.as_deref())?;
                    cluster.members.push(ready(child, at).await?);
                }
                let addresses: Vec<Addresses> = cluster.members.iter().map(Member::addresses).collect();
                std::fs::write(data.join(ADDRESSES), serde_json::to_string_pretty(&addresses)?)?;
            }
        }
        progress.say("waiting until every node has a vote");
        tokio::time::timeout(PATIENCE, cluster.all_vote()).await.map_err(|_| "the nodes did not find each other")??;
        Ok(cluster)
    }

    async fn all_vote(&self) -> Result<(), Failure> {
        let admin = Admin::new(&self.administrator())?;
        loop {
            if let Ok(nodes) = admin.nodes().await
                && nodes.iter().filter(|n| n.votes && n.reachable).count() == PLACES.len()
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn administrator(&self) -> AdminArguments {
        let admin = self.members.iter().map(|m| text(&m.ready, "link")).collect();
        AdminArguments { admin, certs: Some(self.certificates.clone()), client: "admin".to_owned() }
    }

    /// What `polity node` and `polity fault` need to be told.
    pub fn admin_arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        for member in &self.members {
            arguments.extend(["--admin".to_owned(), text(&member.ready, "link")]);
        }
        arguments.extend(["--certs".to_owned(), self.certificates.display().to_string()]);
        arguments
    }

    /// The nodes as they described themselves.
    pub fn nodes(&self) -> Vec<&serde_json::Value> {
        self.members.iter().map(|m| &m.ready).collect()
    }

    /// How to connect to the node at this place, counted from 0.
    pub fn url(&self, at: usize) -> &str {
        self.members[at].ready["sql"].as_str().unwrap_or_default()
    }

    /// Returns when all nodes are gone, which is not in the plan. One of them may
    /// be killed: that is what the demo is for.
    pub async fn lost(&mut self) -> Failure {
        for member in &mut self.members {
            let _ = member.child.wait().await;
        }
        "all nodes ended".into()
    }

    /// Ends the nodes in order; kills what does not end.
    pub async fn stop(mut self) {
        for member in &mut self.members {
            drop(member.input.take());
        }
        for member in &mut self.members {
            if tokio::time::timeout(STOP_PATIENCE, member.child.wait()).await.is_err() {
                let _ = member.child.kill().await;
            }
        }
    }
}

impl Member {
    fn addresses(&self) -> Addresses {
        let host = |url: String| url.rsplit_once('@').map_or(url.clone(), |(_, rest)| rest.to_owned());
        let sql = host(text(&self.ready, "sql"));
        Addresses {
            sql: sql.split('/').next().unwrap_or_default().to_owned(),
            http: text(&self.ready, "http").trim_start_matches("http://").to_owned(),
            link: text(&self.ready, "link"),
        }
    }
}

fn text(ready: &serde_json::Value, field: &str) -> String {
    ready[field].as_str().unwrap_or_default().to_owned()
}

/// The addresses the nodes in `data` had, if there are any.
fn known_addresses(data: &Path) -> Result<Option<Vec<Addresses>>, Failure> {
    let file = data.join(ADDRESSES);
    if !file.exists() {
        return Ok(None);
    }
    let failed = |e: String| format!("{}: {e}", file.display());
    let text = std::fs::read_to_string(&file).map_err(|e| failed(e.to_string()))?;
    let addresses: Vec<Addresses> = serde_json::from_str(&text).map_err(|e| failed(e.to_string()))?;
    if addresses.len() != PLACES.len() {
        return Err(failed(format!("has {} nodes, not {}", addresses.len(), PLACES.len())).into());
    }
    Ok(Some(addresses))
}

/// Starts the process of the node at this place, counted from 0.
fn spawn(data: &Path, at: usize, known: Option<&Addresses>, join: Option<&str>) -> Result<Child, Failure> {
    let (region, zone) = PLACES[at];
    let free = Addresses { sql: "127.0.0.1:0".into(), http: "127.0.0.1:0".into(), link: "127.0.0.1:0".into() };
    let Addresses { sql, http, link } = known.cloned().unwrap_or(free);
    let number = (at + 1).to_string();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["start", "--dev", "--json", "--until-input-ends", "--allow-faults"]);
    command.args(["--log", "warn,openraft=error", "--node", &number, "--region", region, "--zone", zone]);
    command.args(["--sql", &sql, "--http", &http, "--link", &link]);
    command.arg("--certs").arg(data.join(CERTIFICATES));
    command.arg("--data").arg(data.join(format!("node-{number}")));
    if let Some(join) = join {
        command.args(["--join", join]);
    }
    for (one, other, milliseconds) in DELAYS {
        let far = if one == region {
            other
        } else if other == region {
            one
        } else {
            continue;
        };
        command.args(["--link-delay", &format!("{far}={milliseconds}ms")]);
    }
    // Five nodes share this machine.
    command.args(["--memory", "192MiB"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    // Ctrl-C in a terminal is for the parent, which ends them in order.
    command.process_group(0);
    Ok(command.spawn()?)
}

/// Waits until a node says that it is ready.
async fn ready(mut child: Child, at: usize) -> Result<Member, Failure> {
    let out = child.stdout.take().ok_or("a node has no output")?;
    let mut line = String::new();
    let read = tokio::time::timeout(PATIENCE, BufReader::new(out).read_line(&mut line)).await;
    read.map_err(|_| format!("node {} was not ready in {} s", at + 1, PATIENCE.as_secs()))??;
    let all: serde_json::Value = serde_json::from_str(&line).map_err(|_| format!("node {} did not start", at + 1))?;
    Ok(Member { input: child.stdin.take(), child, ready: all["nodes"][0].clone() })
}
