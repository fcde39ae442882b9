//! Which replica serves which keys.
//!
//! A key says which guarantee it is kept under, and today one range holds all keys
//! of a guarantee. Transactions ask by key or span all the same, so that more ranges
//! are a change of this file and of the commit, not of everyone who reads.

use std::sync::Arc;

use polity_base::{Guarantee, RangeId, Span};

use crate::byzantine::Ledger;
use crate::eventual::EventualReplica;
use crate::replica::Replica;

/// The map from keys to the replicas that serve them on this node.
#[derive(Clone)]
pub struct Directory {
    strong: Place,
    eventual: Option<(Place, Arc<EventualReplica>)>,
    ledger: Option<Arc<dyn Ledger>>,
}

type Place = (RangeId, Arc<dyn Replica>);

impl Directory {
    /// A directory in which `range`, which is strong, holds every key.
    pub fn of_one(range: RangeId, replica: Arc<dyn Replica>) -> Directory {
        Directory { strong: (range, replica), eventual: None, ledger: None }
    }

    /// The same with the eventual tables in `range`.
    pub fn with_eventual(self, range: RangeId, replica: EventualReplica) -> Directory {
        let replica = Arc::new(replica);
        Directory { eventual: Some(((range, replica.clone()), replica)), ..self }
    }

    /// The same with byzantine tables, which a ledger keeps.
    pub fn with_ledger(self, ledger: Arc<dyn Ledger>) -> Directory {
        Directory { ledger: Some(ledger), ..self }
    }

    /// The ledger of the byzantine tables, if this node can have one.
    pub fn ledger(&self) -> Option<&Arc<dyn Ledger>> {
        self.ledger.as_ref()
    }

    /// The range that holds `key`, and its replica. (A node without a replica of the
    /// eventual tables has no such keys.)
    pub fn of_key(&self, key: &[u8]) -> (RangeId, &Arc<dyn Replica>) {
        let (range, replica) = match (Guarantee::of_key(key), &self.eventual) {
            (Guarantee::Eventual, Some((place, _))) => place,
            _ => &self.strong,
        };
        (*range, replica)
    }

    /// The range that holds every key of `span`, and its replica. `None` when
    /// no single range does.
    pub fn of_span(&self, span: &Span) -> Option<(RangeId, &Arc<dyn Replica>)> {
        let whole = self.eventual.is_none()
            || [Guarantee::Strong, Guarantee::Eventual].iter().any(|guarantee| {
                let all = guarantee.span();
                all.start <= span.start && span.end <= all.end
            });
        whole.then(|| self.of_key(&span.start))
    }

    /// All ranges.
    pub fn ranges(&self) -> impl Iterator<Item = (RangeId, &Arc<dyn Replica>)> {
        let eventual = self.eventual.iter().map(|(place, _)| place);
        std::iter::once(&self.strong).chain(eventual).map(|(range, replica)| (*range, replica))
    }

    /// The replica of the eventual tables, if this node has one.
    pub fn eventual(&self) -> Option<&Arc<EventualReplica>> {
        self.eventual.as_ref().map(|(_, replica)| replica)
    }
}
