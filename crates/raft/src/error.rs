//! Why a group could not do what it was asked.

use polity_base::{Class, NodeId, RangeId, Timestamp};

/// An error of a Raft group.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// This member does not lead the group, so it can neither write nor read
    /// with certainty. Nothing was done.
    #[error("range {range} is not led by this node{}", known(leader))]
    NotLeader {
        /// The range
        range: RangeId,
        /// Who leads it, if that is known
        leader: Option<NodeId>,
    },
    /// No majority of the voters answers. Nothing was done.
    #[error("range {range} has no quorum{}", silent(unreachable))]
    NoQuorum {
        /// The range
        range: RangeId,
        /// The members this one cannot reach, as far as it knows
        unreachable: Vec<NodeId>,
        /// Since when the first of them has been silent
        since: Option<Timestamp>,
    },
    /// The leader's [`Admission`](crate::Admission) refused the batch. Nothing was done.
    #[error("range {range} does not take the batch: what it claims is taken")]
    Taken {
        /// The range
        range: RangeId,
    },
    /// This member was restarted a moment ago and votes for nobody yet.
    #[error("range {range} was started a moment ago on this node, and votes for nobody yet")]
    Silent {
        /// The range
        range: RangeId,
    },
    /// The members cannot be changed as asked. Nothing was done.
    #[error("the members of range {range} cannot be changed: {reason}")]
    Members {
        /// The range
        range: RangeId,
        /// Why
        reason: String,
    },
    /// Rows of another member cannot be taken over.
    #[error("rows of range {range} cannot be taken over: {reason}")]
    Transfer {
        /// The range
        range: RangeId,
        /// Why
        reason: String,
    },
    /// The group is stopped on this node, in order or after a failure. Nothing
    /// was done.
    #[error("range {range} is stopped on this node: {reason}")]
    Stopped {
        /// The range
        range: RangeId,
        /// Why
        reason: String,
    },
    /// The batch was handed over, and its outcome did not come back.
    #[error("range {range} lost the outcome of a proposed batch: {reason}")]
    OutcomeUnknown {
        /// The range
        range: RangeId,
        /// Why
        reason: String,
    },
    /// The batch is larger than a log entry may be. Nothing was done.
    #[error("the batch takes {size} bytes, a log entry may take {limit}")]
    TooLarge {
        /// Bytes of the batch
        size: usize,
        /// Bytes allowed
        limit: usize,
    },
    /// The group could not be started from what is on disk.
    #[error("range {range} cannot start: {reason}")]
    Start {
        /// The range
        range: RangeId,
        /// Why
        reason: String,
    },
    /// The state could not be made durable.
    #[error("checkpoint failed: {0}")]
    Checkpoint(String),
}

fn known(leader: &Option<NodeId>) -> String {
    leader.map_or_else(String::new, |leader| format!(", but by {leader}"))
}

fn silent(nodes: &[NodeId]) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    format!(": {} cannot be reached", names.join(", "))
}

impl Error {
    /// What the caller should do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::NotLeader { .. } | Error::NoQuorum { .. } | Error::Stopped { .. } | Error::Silent { .. } => {
                Class::Unavailable
            }
            Error::Taken { .. } => Class::Conflict,
            Error::Members { .. } => Class::Input,
            Error::OutcomeUnknown { .. } => Class::Unknown,
            Error::TooLarge { .. } => Class::Resource,
            Error::Start { .. } => Class::Corrupt,
            Error::Checkpoint(_) | Error::Transfer { .. } => Class::Resource,
        }
    }
}
