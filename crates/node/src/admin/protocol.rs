//! What administrators and nodes ask of a node, and what it answers.
//!
//! Requests travel over the links, so whoever asks has proved who it is: a node
//! by its certificate, an administrator by a client's.

use std::time::Duration;

use polity_base::{Key, NodeId, Timestamp};
use polity_cluster::membership::{Liveness, Load};
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Request {
    /// A node says where it is; sent to any node at each start. Adds it to the
    /// cluster if it is new.
    Announce(Announcement),
    /// Who is there?
    Nodes,
    /// Take leadership and vote from a node, as far as others can have them; or
    /// let it have them again.
    Drain {
        /// The node
        node: NodeId,
        /// Whether to drain it, or to end that
        drain: bool,
    },
    /// Take a node out of the cluster, for good.
    Remove {
        /// The node
        node: NodeId,
    },
    /// What are the rows at this time, in one number? Without a time: now, which is
    /// a commit of its own.
    Digest {
        /// The time
        at: Option<Timestamp>,
    },
    /// What does the node show of the eventual tables, in one number?
    EventualDigest,
    /// Disturb the node that is asked, for a drill. [`super::disturb::orders`] says
    /// which nodes are to be asked for what.
    Disturb(Local),
    /// Which disturbances are there on this node?
    Disturbances,
    /// Have leaders stand in these regions, the most preferred first; none: anywhere.
    Prefer {
        /// The regions
        regions: Vec<String>,
    },
    /// Where are leaders to stand?
    Preferred,
    /// What did the ledger begin with?
    LedgerGenesis,
    /// Where is the ledger, who are its validators, and what is the node's key?
    LedgerStatus,
    /// What do these keys of byzantine tables have, so that whoever trusts no node can
    /// check it?
    Prove {
        /// The keys of rows
        keys: Vec<Key>,
        /// As of which height; the newest, if none is given
        height: Option<u64>,
    },
    /// Have a transaction of the ledger ordered that its author has signed. It is ordered
    /// once, however often this is asked.
    Order(Vec<u8>),
    /// Have the node that is asked approve, as a validator, of a change of the validators.
    /// It happens once validators with more than two thirds of the power approve.
    Approve {
        /// The node whose power changes
        node: NodeId,
        /// The key it will sign with; if none is given, that of the validator, or what the
        /// node itself says
        key: Option<Vec<u8>>,
        /// Its power from then on; 0: it is no validator any more
        power: u64,
    },
    /// Which tables does the ledger have?
    LedgerTables,
    /// Let a key act for a user of the ledger.
    Register {
        /// The user
        user: String,
        /// The key, encoded
        key: Vec<u8>,
        /// Whether validators may not sign for the user any more
        exclusive: bool,
    },
}

/// Where a node is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Announcement {
    /// The node
    pub node: NodeId,
    /// Host and port of its link listener
    pub address: String,
    /// Where it stands
    pub region: String,
    /// Where it stands in the region
    pub zone: String,
    /// Whether its data folder holds a part of the log: a member that lost it
    /// cannot come back under the same number
    pub has_log: bool,
}

/// Nodes by number, or all of a region.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Place {
    /// One node
    Node(NodeId),
    /// All nodes of a region
    Region(String),
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let number = text.strip_prefix('n').unwrap_or(text);
        match number.parse() {
            Ok(node) => Ok(Place::Node(NodeId(node))),
            Err(_) if text.is_empty() => Err("a node's number or a region's name is needed".to_owned()),
            Err(_) => Ok(Place::Region(text.to_owned())),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Node(node) => write!(f, "node {}", node.0),
            Place::Region(region) => f.write_str(region),
        }
    }
}

/// A disturbance of the cluster.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Disturbance {
    /// What passes between two places changes, in both directions.
    Between(Place, Place, Weather),
    /// What passes between a place and all others changes.
    Around(Place, Weather),
    /// A node stands still for a while.
    Pause(NodeId, Duration),
    /// A node's process ends at once.
    Kill(NodeId),
    /// A node lies to the other validators in this way, or stops to.
    Lie(NodeId, Option<String>),
    /// All disturbances of messages end, lies too.
    Heal,
}

/// A disturbance of one node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Local {
    /// What passes between this node and those changes.
    With(Vec<NodeId>, Weather),
    /// This node stands still for a while.
    Pause(Duration),
    /// This node's process ends at once.
    Kill,
    /// This node lies to the other validators in this way, or stops to.
    Lie(Option<String>),
    /// All disturbances of messages end, lies too.
    Heal,
}

/// What happens to messages.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub enum Weather {
    /// None arrives.
    Cut,
    /// Each takes longer, one way, by this.
    Slow(Duration),
    /// This share of them is lost, from 0 to 1.
    Loss(f64),
}

/// What is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It is done; in words for people.
    Done(String),
    /// To [`Request::Nodes`]
    Nodes(Vec<NodeFacts>),
    /// To [`Request::Digest`]
    Digest(Digest),
    /// To [`Request::EventualDigest`]
    EventualDigest(EventualDigest),
    /// To [`Request::Disturbances`]: one line each.
    Disturbances(Vec<String>),
    /// Whoever leads must be asked: it is at this address.
    Elsewhere(String),
    /// It was not done, and why.
    Refused(String),
    /// It was not done, and may be if it is asked again a little later.
    Later(String),
    /// To [`Request::Preferred`]
    Regions(Vec<String>),
    /// To [`Request::LedgerGenesis`]: its bytes.
    Genesis(Vec<u8>),
    /// To [`Request::LedgerStatus`]
    Ledger(Box<LedgerFacts>),
    /// To [`Request::Prove`]: the bytes of a proof, as `docs/proofs.md` describes them.
    Proof(Vec<u8>),
    /// To [`Request::LedgerTables`]: the storages of rows, and the ledger's records of their
    /// tables, encoded.
    Tables(Vec<(u32, Vec<u8>)>),
    /// Nothing was to be done: it is so already.
    Already(String),
}

/// Where the ledger is, as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LedgerFacts {
    /// The ledger's name: the hash of its genesis
    pub ledger: [u8; 32],
    /// The bytes of the key that this node signs with
    pub key: Vec<u8>,
    /// The newest committed height
    pub height: u64,
    /// The hash of the newest block's header, and of the state after it; none if there is
    /// no block yet
    pub newest: Option<([u8; 32], [u8; 32])>,
    /// Who decides from the next height on
    pub validators: Vec<ValidatorFacts>,
    /// Power of the validators that this node hears, itself included
    pub present: u64,
    /// The least power that decides
    pub needed: u64,
    /// How this node lies, if it does, for a drill
    pub lies: Option<String>,
    /// Why its validator has stopped, if it has
    pub stopped: Option<String>,
}

/// One validator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ValidatorFacts {
    /// The node
    pub node: NodeId,
    /// The bytes of its key
    pub key: Vec<u8>,
    /// Its voting power
    pub power: u64,
    /// Whether the node that was asked hears it
    pub heard: bool,
}

/// All rows of a node at one time, in one number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Digest {
    /// The time
    pub at: Timestamp,
    /// How many rows were visible then
    pub rows: u64,
    /// SHA-256 over them
    pub sha256: [u8; 32],
}

/// What a node shows of the eventual tables, in one number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventualDigest {
    /// Which writes it has applied: nodes with the same have the same rows
    pub vector: String,
    /// How many rows are visible
    pub rows: u64,
    /// SHA-256 over them
    pub sha256: [u8; 32],
}

/// What is known of a node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The node
    pub node: NodeId,
    /// Host and port of its link listener
    pub address: String,
    /// Where it stands
    pub region: String,
    /// Where it stands in the region
    pub zone: String,
    /// Whether it leads the range
    pub leads: bool,
    /// Whether it votes
    pub votes: bool,
    /// Whether it is to be left alone by leaders and votes
    pub draining: bool,
    /// Whether it answers the node that was asked
    pub reachable: bool,
    /// For how long that has been so, if it is known
    pub since: Option<Duration>,
    /// How many log entries it lacks, as far as the leader knows
    pub behind: Option<u64>,
    /// How old the oldest write to an eventual table is that it is not known to have, as
    /// far as the node that was asked knows; zero if it has all
    pub eventual_lag: Option<Duration>,
    /// Whether it lives, as gossip has it: some node hears it, or none does
    pub liveness: Option<Liveness>,
    /// What it told last of how busy it is
    pub load: Option<Load>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbers_or_regions() {
        assert_eq!("3".parse(), Ok(Place::Node(NodeId(3))));
        assert_eq!("n3".parse(), Ok(Place::Node(NodeId(3))));
        assert_eq!("asia".parse(), Ok(Place::Region("asia".to_owned())));
        assert!("".parse::<Place>().is_err());
    }
}
