//! The eventual tables of a world: real replicas over disks in memory. What they say
//! to each other fails where the world is cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use polity_base::seams::Entropy;
use polity_base::time::HybridClock;
use polity_base::{NodeId, Timestamp};
use polity_crdt::replica::{CallFailed, Members, Traffic};
use polity_crdt::{Limits, Options, Peers, Replica, Schema};
use polity_store::disk::MemoryDisk;
use polity_store::log::{Log, LogOptions};
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{State, StateOptions};

use super::World;
use crate::Error;

/// One node's replica, and where it keeps its rows.
#[derive(Clone)]
pub(super) struct Kept {
    pub replica: Replica,
    pub state: Arc<State>,
}

/// The way from one node to the others.
struct Way {
    world: World,
    from: NodeId,
}

#[async_trait]
impl Peers for Way {
    fn members(&self) -> Members {
        let nodes: BTreeSet<NodeId> = self.world.eventual().into_keys().chain([self.from]).collect();
        Members { nodes, removed: BTreeMap::new() }
    }

    fn unreachable_since(&self, node: NodeId) -> Option<Timestamp> {
        self.world.cut_since(self.from).or_else(|| self.world.cut_since(node))
    }

    async fn call(&self, to: NodeId, _: Traffic, request: Bytes) -> Result<Bytes, CallFailed> {
        if self.unreachable_since(to).is_some() {
            return Err(CallFailed("no route".to_owned()));
        }
        let kept = self.world.eventual().remove(&to).ok_or_else(|| CallFailed("nobody is there".to_owned()))?;
        let from = self.from;
        // The answer is computed even if nobody waits for it any more.
        let answering = tokio::spawn(async move { kept.replica.answer(from, request).await });
        let answer = answering.await.map_err(|e| CallFailed(e.to_string()))?;
        answer.map_err(|e| CallFailed(e.to_string()))
    }
}

/// Starts an empty replica on `node`.
pub(super) async fn start(
    world: &World,
    node: NodeId,
    clock: Arc<HybridClock>,
    entropy: Arc<dyn Entropy>,
    schema: Arc<dyn Schema>,
) -> Result<Kept, Error> {
    let disk = Arc::new(MemoryDisk::new(node.0));
    let keys = Keyring::open(&*disk, &MasterKey::generate(&*entropy), &*entropy)?;
    let (log, _) = Log::open(disk.clone(), &keys, entropy.clone(), LogOptions::default()).await?;
    let state = Arc::new(State::open(disk, &keys, entropy, StateOptions::default())?);
    let peers = Arc::new(Way { world: world.clone(), from: node });
    let limits = Limits {
        acks_within: Duration::from_millis(300),
        shares_within: Duration::from_millis(300),
        status_every: Duration::from_millis(50),
        upkeep_every: Duration::from_millis(100),
        ..Limits::default()
    };
    let options = Options { node, log, state: state.clone(), clock, peers, schema, joins: false, limits };
    Ok(Kept { replica: Replica::start(options).await?, state })
}
