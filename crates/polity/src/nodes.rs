//! `polity node`: who belongs to a cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Subcommand;
use comfy_table::{Table, presets};
use polity_base::NodeId;
use polity_bft::hash::hex;
use polity_node::admin::{EventualDigest, Liveness, NodeFacts, Request};

use crate::Outcome;
use crate::admin::{Admin, Asked, Failure};

/// Arguments of `polity node`.
pub type Arguments = Asked<What>;

/// What to do with the nodes.
#[derive(Subcommand)]
pub enum What {
    /// Show the nodes
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Compare what all nodes hold: every row of strong tables at one moment, while the
    /// cluster works; those of eventual tables once all have applied the same writes
    Compare,
    /// Take leadership and vote from a node, so that it can be stopped or removed
    /// without disturbing anyone
    Drain {
        /// The node's number
        number: u64,
        /// Let it have them again
        #[arg(long)]
        undo: bool,
    },
    /// Say in which regions leaders are to stand, the most preferred first; without
    /// regions, show what was said
    Prefer {
        /// The regions
        regions: Vec<String>,
        /// Let them stand anywhere
        #[arg(long, conflicts_with = "regions")]
        any: bool,
    },
    /// Take a node out of the cluster, for good: one that was drained, or one that
    /// is lost. Its number cannot be used again
    Remove {
        /// The node's number
        number: u64,
    },
}

/// How often progress is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the nodes may take to have the same eventual writes, when they are compared.
const SETTLING: Duration = Duration::from_secs(15);

/// Runs one of the commands.
pub fn run(arguments: Arguments) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let admin = Admin::new(&arguments.admin)?;
        match arguments.what {
            What::List { json } => {
                let nodes = admin.nodes().await?;
                if json {
                    println!("{}", serde_json::Value::from_iter(nodes.iter().map(object)));
                } else {
                    println!("{}", table(&nodes));
                }
            }
            What::Compare => compare(&admin).await?,
            What::Drain { number, undo } => {
                let (node, drain) = (NodeId(number), !undo);
                println!("{}", admin.command(&Request::Drain { node, drain }).await?);
                if drain {
                    drained(&admin, node).await?;
                }
            }
            What::Prefer { regions, any: false } if regions.is_empty() => {
                let regions = admin.preferred_regions().await?;
                match regions.as_slice() {
                    [] => println!("leaders may stand anywhere"),
                    some => println!("leaders are to stand in {}", some.join(", else in ")),
                }
            }
            What::Prefer { regions, .. } => println!("{}", admin.command(&Request::Prefer { regions }).await?),
            What::Remove { number } => println!("{}", admin.command(&Request::Remove { node: NodeId(number) }).await?),
        }
        Ok(())
    })
}

/// Waits until a node leads nothing and has no vote, showing what is missing.
async fn drained(admin: &Admin, node: NodeId) -> Outcome {
    let mut last = String::new();
    loop {
        let nodes = admin.nodes().await?;
        let Some(facts) = nodes.iter().find(|n| n.node == node) else {
            return Err(format!("node {} is not there any more", node.0).into());
        };
        let now = match (facts.leads, facts.votes) {
            (true, _) => "it still leads",
            (false, true) if !nodes.iter().any(|n| !n.votes && !n.draining) => {
                println!("it keeps its vote: there is no other node that could take it");
                return Ok(());
            }
            (false, true) => "it still votes",
            (false, false) => {
                println!("it leads nothing and has no vote: stop it, or remove it");
                return Ok(());
            }
        };
        if now != last {
            println!("{now}");
            last = now.to_owned();
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Prints what each node holds; fails if they differ or one does not answer.
async fn compare(admin: &Admin) -> Outcome {
    println!("strong tables, at one moment:");
    let strong = admin.digests().await?;
    let strong = strong.into_iter().map(|(node, digest)| (node, digest.map(|d| (d.rows, d.sha256))));
    let verdict = verdict(strong.collect());
    println!("eventual tables, once each node has what the others have:");
    let eventual = settled(admin).await?;
    let has = |node: &NodeId| eventual.iter().find(|(n, _)| n == node).and_then(|(_, d)| d.as_ref().ok());
    let vectors: BTreeSet<&str> = eventual.iter().filter_map(|(node, _)| Some(has(node)?.vector.as_str())).collect();
    if vectors.len() > 1 {
        println!("they have not applied the same writes yet: compare again when fewer are under way");
    }
    let spread = vectors.len() <= 1;
    let eventual = eventual.iter().map(|(node, d)| (*node, d.clone().map(|d| (d.rows, d.sha256)))).collect();
    match (verdict, self::verdict(eventual)) {
        (Err(why), _) => Err(why),
        (Ok(()), _) if !spread => Err("the strong tables are the same; eventual writes are still under way".into()),
        (Ok(()), Err(why)) => Err(why),
        (Ok(()), Ok(())) => {
            println!("all hold the same");
            Ok(())
        }
    }
}

/// What the nodes show of the eventual tables once they have applied the same writes, or
/// after a while.
async fn settled(admin: &Admin) -> Result<Vec<(NodeId, Result<EventualDigest, String>)>, Failure> {
    let deadline = tokio::time::Instant::now() + SETTLING;
    loop {
        let digests = admin.eventual_digests().await?;
        let mut known = digests.iter().filter_map(|(_, d)| d.as_ref().ok().map(|d| &d.vector));
        let first = known.next();
        if known.all(|vector| Some(vector) == first) || tokio::time::Instant::now() >= deadline {
            return Ok(digests);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Rows and SHA-256 of a node, or why it says nothing.
type Held = (NodeId, Result<(u64, [u8; 32]), String>);

/// Prints what each node holds; an error if they differ or one does not answer.
fn verdict(digests: Vec<Held>) -> Outcome {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["node", "rows", "SHA-256"]);
    for (node, digest) in &digests {
        let (rows, sha256) = match digest {
            Ok((rows, sha256)) => (rows.to_string(), hex(sha256)),
            Err(why) => ("?".to_owned(), why.clone()),
        };
        table.add_row([node.0.to_string(), rows, sha256]);
    }
    println!("{table}");
    let silent = digests.iter().filter(|(_, d)| d.is_err()).count();
    let mut known = digests.iter().filter_map(|(_, d)| d.as_ref().ok());
    let first = known.next();
    match first {
        _ if known.any(|d| Some(d) != first) => Err("the nodes differ".into()),
        _ if silent > 0 => Err(format!("{silent} nodes do not answer; the others hold the same").into()),
        _ => Ok(()),
    }
}

fn role(node: &NodeFacts) -> &'static str {
    match (node.leads, node.votes) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }
}

fn liveness(node: &NodeFacts) -> Option<&'static str> {
    node.liveness.map(|liveness| match liveness {
        Liveness::Alive => "alive",
        Liveness::Suspect => "suspect",
        Liveness::Down => "down",
    })
}

fn table(nodes: &[NodeFacts]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "node",
        "region",
        "zone",
        "address",
        "role",
        "state",
        "for",
        "gossip",
        "sessions",
        "busy",
        "behind",
        "eventual lag",
    ]);
    for node in nodes {
        let state = if node.reachable { "up" } else { "unreachable" };
        let state = if node.draining { format!("{state}, draining") } else { state.to_owned() };
        table.add_row([
            node.node.0.to_string(),
            node.region.clone(),
            node.zone.clone(),
            node.address.clone(),
            role(node).to_owned(),
            state,
            node.since.map_or_else(|| "?".to_owned(), span),
            liveness(node).unwrap_or("?").to_owned(),
            node.load.map_or_else(|| "?".to_owned(), |load| load.sessions.to_string()),
            node.load.map_or_else(|| "?".to_owned(), |load| format!("{} %", load.busy_permille.div_ceil(10))),
            node.behind.map_or_else(|| "?".to_owned(), |n| n.to_string()),
            node.eventual_lag.map_or_else(|| "?".to_owned(), lag),
        ]);
    }
    table
}

fn object(node: &NodeFacts) -> serde_json::Value {
    serde_json::json!({
        "id": node.node.0,
        "region": node.region,
        "zone": node.zone,
        "address": node.address,
        "role": role(node),
        "draining": node.draining,
        "reachable": node.reachable,
        "since_seconds": node.since.map(|s| s.as_secs_f64()),
        "entries_behind": node.behind,
        "eventual_lag_seconds": node.eventual_lag.map(|lag| lag.as_secs_f64()),
        "gossip": liveness(node),
        "sessions": node.load.map(|load| load.sessions),
        "busy_permille": node.load.map(|load| load.busy_permille),
    })
}

/// What is on its way is no lag worth a word.
fn lag(lag: Duration) -> String {
    if lag < Duration::from_secs(1) { "none".to_owned() } else { span(lag) }
}

fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}
