//! The types openraft is instantiated with.
//!
//! Leaders are identified as in the Raft paper, one per term, so a log position
//! is a term and an index. openraft counts log indexes from 0 and the paper from
//! 1; the store follows the paper, which leaves its 0 to mean "nothing". The two
//! functions at the end are the only place where the difference is bridged.

use std::fmt;

use openraft::impls::{BoxedErrorSource, InlineBatch};
use openraft::raft::responder::Responder;
use openraft::vote::leader_id_std;
use openraft::{OptionalSend, RaftTypeConfig};
use polity_base::NodeId;
use serde::{Deserialize, Serialize};

use crate::payload::{Outcomes, Pack};

/// The types of a strong range's Raft group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Types;

impl RaftTypeConfig for Types {
    type D = Pack;
    type R = Outcomes;
    type NodeId = NodeId;
    type Node = Peer;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, NodeId>;
    type Vote = openraft::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<Pack, NodeId, Peer>;
    type Entry = openraft::Entry<leader_id_std::CommittedLeaderId<u64>, Self::Payload>;
    type AsyncRuntime = openraft::TokioRuntime;
    type Responder<T>
        = Callback<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// A position in the log: term and index (counted from 0).
pub type LogId = openraft::type_config::alias::LogIdOf<Types>;
/// One log entry.
pub type Entry = openraft::type_config::alias::EntryOf<Types>;
/// What one log entry carries.
pub type Payload = openraft::type_config::alias::PayloadOf<Types>;
/// Who votes, and where everyone is.
pub type Membership = openraft::Membership<NodeId, Peer>;
/// A membership and where in the log it stands.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Types>;
/// A vote for a leader, or the knowledge that it was elected.
pub type Vote = openraft::type_config::alias::VoteOf<Types>;
/// What is known of a snapshot without its rows.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;

/// Where a member of a group is reached, and where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Peer {
    /// Host and port of the node's link listener; empty while the node is alone.
    pub address: String,
    /// The region it stands in
    pub region: String,
    /// Where it stands in the region
    pub zone: String,
    /// Whether it is to be left alone by leaders and votes
    pub draining: bool,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// Receives the result of a proposed entry. Dropped unused, it says that the
/// result will never be known here.
pub struct Callback<T>(Box<dyn FnOnce(T) + Send>);

impl<T> Callback<T> {
    /// A callback that runs `with`.
    pub fn new(with: impl FnOnce(T) + Send + 'static) -> Callback<T> {
        Callback(Box::new(with))
    }
}

impl<T: Send + 'static> Responder<Types, T> for Callback<T> {
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// The store's index of openraft's `index`.
pub(crate) fn stored_index(index: u64) -> u64 {
    index + 1
}

/// The position of the store's entry (`term`, `index`); none for index 0.
pub(crate) fn log_id(term: u64, index: u64) -> Option<LogId> {
    index.checked_sub(1).map(|index| LogId::new(leader_id_std::CommittedLeaderId::new(term), index))
}
