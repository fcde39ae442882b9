//! Asking a running cluster, as its administrator.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use polity_base::{IndexId, NodeId};
use polity_bft::ledger::records;
use polity_node::admin::{Answer, Client, Digest, Disturbance, EventualDigest, NodeFacts, Request, disturb};

/// How the cluster is reached: `polity demo --json` prints these.
#[derive(Args, Clone)]
pub struct AdminArguments {
    /// A node's link address; several are tried one after the other
    #[arg(long, global = true, value_name = "HOST:PORT", env = "POLITY_ADMIN", value_delimiter = ',')]
    pub admin: Vec<String>,
    /// The folder with ca.pem, and the client's certificate and key:
    /// client-NAME.pem, client-NAME.key
    #[arg(long, global = true, value_name = "DIR", env = "POLITY_CERTS")]
    pub certs: Option<PathBuf>,
    /// The NAME of the client certificate
    #[arg(long = "as", global = true, value_name = "NAME", default_value = "admin")]
    pub client: String,
}

/// One of several things to ask a cluster, and how it is reached.
#[derive(Args)]
pub struct Asked<What: Subcommand> {
    #[command(flatten)]
    pub admin: AdminArguments,
    #[command(subcommand)]
    pub what: What,
}

/// Whatever went wrong, in words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A cluster that is asked as its administrator.
pub struct Admin {
    client: Client,
    addresses: Vec<String>,
}

impl Admin {
    /// Reads the certificates.
    pub fn new(arguments: &AdminArguments) -> Result<Admin, Failure> {
        let folder = arguments.certs.as_ref().ok_or("--certs DIR is needed, or POLITY_CERTS")?;
        if arguments.admin.is_empty() {
            return Err("--admin HOST:PORT is needed, or POLITY_ADMIN".into());
        }
        let client = Client::open(folder, &arguments.client)?;
        Ok(Admin { client, addresses: arguments.admin.clone() })
    }

    /// Asks the first node that answers.
    pub async fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let mut reasons = Vec::new();
        for address in &self.addresses {
            match self.client.ask(address, request).await {
                Ok(Answer::Later(why)) => reasons.push(format!("{address}: {why}")),
                Ok(answer) => return Ok(answer),
                Err(error) => reasons.push(format!("{address}: {error}")),
            }
        }
        Err(reasons.join("\n").into())
    }

    /// Asks for something to be done, and gives what was.
    pub async fn command(&self, request: &Request) -> Result<String, Failure> {
        match self.ask(request).await? {
            Answer::Done(what) => Ok(what),
            other => Err(unexpected(other)),
        }
    }

    /// Asks every node for what it has to do for a drill.
    pub async fn disturb(&self, disturbance: &Disturbance) -> Result<String, Failure> {
        let nodes = self.nodes().await?;
        let regions = nodes.iter().map(|n| (n.node, n.region.clone())).collect();
        let mut told = Vec::new();
        for (node, order) in disturb::orders(disturbance, &regions)? {
            let address = nodes.iter().find(|n| n.node == node).map(|n| n.address.as_str()).unwrap_or_default();
            told.push(match self.client.ask_one(address, &Request::Disturb(order)).await {
                Ok((_, Answer::Done(what))) => format!("node {}: {what}", node.0),
                Ok((_, Answer::Refused(why))) => return Err(format!("node {}: {why}", node.0).into()),
                Ok((_, other)) => return Err(format!("node {} answered {other:?}", node.0).into()),
                // Ending a node's process also ends its answer; a dead node needs no healing.
                Err(why) => match disturbance {
                    Disturbance::Kill(_) => format!("node {}: killed", node.0),
                    Disturbance::Heal => format!("node {}: not there ({why})", node.0),
                    _ => return Err(format!("node {}: {why}", node.0).into()),
                },
            });
        }
        Ok(told.join("\n"))
    }

    /// Asks every node the same.
    pub async fn ask_all(&self, request: &Request) -> Result<Vec<(NodeId, Result<Answer, String>)>, Failure> {
        self.ask_where(request, |_| true).await
    }

    /// Asks these nodes the same, one after the other.
    pub async fn ask_where(
        &self,
        request: &Request,
        wanted: impl Fn(NodeId) -> bool,
    ) -> Result<Vec<(NodeId, Result<Answer, String>)>, Failure> {
        let mut answers = Vec::new();
        for node in self.nodes().await?.into_iter().filter(|node| wanted(node.node)) {
            let answer = self.client.ask_one(&node.address, request).await.map(|(_, answer)| answer);
            answers.push((node.node, answer));
        }
        Ok(answers)
    }

    /// The tables of the ledger, as a node says.
    pub async fn ledger_tables(&self) -> Result<Vec<(IndexId, records::Table)>, Failure> {
        match self.ask(&Request::LedgerTables).await? {
            Answer::Tables(tables) => {
                let table = |(storage, bytes): (u32, Vec<u8>)| Ok((IndexId(storage), records::Table::decode(&bytes)?));
                let tables: Result<_, polity_bft::codec::DecodeError> = tables.into_iter().map(table).collect();
                Ok(tables.map_err(|e| format!("the node's tables cannot be read: {e}"))?)
            }
            other => Err(unexpected(other)),
        }
    }

    /// What every node holds at one time, in one number; by node.
    pub async fn digests(&self) -> Result<Vec<(NodeId, Result<Digest, String>)>, Failure> {
        let mut at = None;
        let mut digests = Vec::new();
        for node in self.nodes().await? {
            let digest = match self.client.ask_one(&node.address, &Request::Digest { at }).await {
                Ok((_, Answer::Digest(digest))) => Ok(digest),
                Ok((_, other)) => Err(unexpected(other).to_string()),
                Err(why) => Err(why),
            };
            // The first that answers says when; the others say what they had then.
            at = at.or(digest.as_ref().ok().map(|d| d.at));
            digests.push((node.node, digest));
        }
        Ok(digests)
    }

    /// What every node shows of the eventual tables, in one number; by node.
    pub async fn eventual_digests(&self) -> Result<Vec<(NodeId, Result<EventualDigest, String>)>, Failure> {
        let mut digests = Vec::new();
        for node in self.nodes().await? {
            let digest = match self.client.ask_one(&node.address, &Request::EventualDigest).await {
                Ok((_, Answer::EventualDigest(digest))) => Ok(digest),
                Ok((_, other)) => Err(unexpected(other).to_string()),
                Err(why) => Err(why),
            };
            digests.push((node.node, digest));
        }
        Ok(digests)
    }

    /// The disturbances there are, one line each.
    pub async fn disturbances(&self) -> Result<Vec<String>, Failure> {
        let mut lines = Vec::new();
        for node in self.nodes().await? {
            let name = format!("node {} ({})", node.node.0, node.region);
            match self.client.ask_one(&node.address, &Request::Disturbances).await {
                Ok((_, Answer::Disturbances(own))) => lines.extend(own.iter().map(|line| format!("{name}: {line}"))),
                Ok((_, other)) => return Err(format!("{name} answered {other:?}").into()),
                Err(why) => lines.push(format!("{name}: does not answer: {why}")),
            }
        }
        Ok(lines)
    }

    /// Where leaders are to stand.
    pub async fn preferred_regions(&self) -> Result<Vec<String>, Failure> {
        match self.ask(&Request::Preferred).await? {
            Answer::Regions(regions) => Ok(regions),
            other => Err(unexpected(other)),
        }
    }

    /// Who is there.
    pub async fn nodes(&self) -> Result<Vec<NodeFacts>, Failure> {
        match self.ask(&Request::Nodes).await? {
            Answer::Nodes(nodes) => Ok(nodes),
            other => Err(unexpected(other)),
        }
    }
}

/// Why a node's answer is not what was asked for: it refused, or says something else.
pub fn unexpected(answer: Answer) -> Failure {
    match answer {
        Answer::Refused(why) | Answer::Later(why) => why.into(),
        other => format!("the node answered something else than was asked: {other:?}").into(),
    }
}
