//! The store's rows without a log: batches are applied in the order they come.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use polity_base::{Batch, NodeId, RangeId, Span, Timestamp};
use polity_store::disk::MemoryDisk;
use polity_store::seal::{Keyring, MasterKey};
use polity_store::state::{BatchOutcome, EntryBody, EntryOutcome, OrderedEntry, State, StateOptions};

use crate::strong::{Seen, change, outcome};
use crate::testing::seams;
use crate::*;

const RANGE: RangeId = RangeId(1);

pub(crate) struct LocalReplica {
    state: Arc<State>,
    index: Mutex<u64>,
    restless: bool,
}

impl LocalReplica {
    /// An empty replica.
    pub fn new() -> LocalReplica {
        let (disk, entropy) = (MemoryDisk::new(1), seams().entropy);
        let keys = Keyring::open(&disk, &MasterKey::generate(&*entropy), &*entropy).unwrap();
        let options = StateOptions { retention: Duration::ZERO, cache_bytes: 1 << 20, ..Default::default() };
        let state = State::open(Arc::new(disk), &keys, entropy, options).unwrap();
        LocalReplica { state: Arc::new(state), index: Mutex::new(0), restless: false }
    }

    /// One that often makes its rows durable and collects what is old.
    pub fn restless() -> LocalReplica {
        LocalReplica { restless: true, ..LocalReplica::new() }
    }

    fn apply(&self, batch: Batch) -> BatchOutcome {
        let mut index = self.index.lock();
        *index += 1;
        // The timestamp is then the one after the last.
        let body = EntryBody::Batches { proposed_at: Timestamp::ZERO, batches: vec![batch] };
        let outcomes = self.state.apply(RANGE, &[OrderedEntry { index: *index, term: 1, body }]).unwrap();
        if self.restless && index.is_multiple_of(3) {
            self.state.checkpoint().unwrap();
            self.state.collect(Timestamp::MAX, 100).unwrap();
        }
        let [EntryOutcome::Batches(outcomes)] = outcomes.as_slice() else { panic!("{outcomes:?}") };
        outcomes[0].clone()
    }
}

#[async_trait]
impl Replica for LocalReplica {
    async fn read_timestamp(&self) -> Result<Timestamp, Error> {
        Ok(self.applied())
    }

    fn leader(&self) -> Option<NodeId> {
        Some(NodeId(1))
    }

    fn has_peers(&self) -> bool {
        false
    }

    fn applied(&self) -> Timestamp {
        self.state.applied(RANGE).commit
    }

    fn oldest(&self) -> Timestamp {
        self.state.horizon(polity_base::Guarantee::Strong)
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, Error> {
        Ok(Arc::new(Seen::of(&self.state)?))
    }

    async fn commit(&self, batch: Batch) -> Result<Outcome, Error> {
        tokio::task::yield_now().await;
        Ok(outcome(self.apply(batch)))
    }

    fn changed_since(&self, span: &Span, since: Timestamp) -> Change {
        change(self.state.changed_since(span, since))
    }

    fn last_write(&self, key: &[u8]) -> Result<Option<Timestamp>, Error> {
        Ok(self.state.last_write(key)?)
    }
}
