//! This node's replica of all eventual tables.
//!
//! ```text
//!  commit ─▶╮                                     ╭─▶ answers
//!  deltas ─▶┤ sequencer ──▶ store::log ──▶ apply ─┤
//!  repair ─▶╯     │      one fsync for all        ╰─▶ vector ──▶ replication ──▶ the others
//!                 ╰── reads store::state and what is on its way there
//! ```
//! One task, the [sequencer](sequencer), does everything that changes rows, one thing
//! after the other: it computes what a transaction, or a delta of another replica,
//! makes of the rows, writes down the outcome as plain puts and deletes, and lets the
//! node's log make it durable with whatever else is waiting. Only then is it applied
//! and seen. So what a reader sees survives any crash, a transaction is seen whole,
//! and a restart replays bytes instead of deciding anew.
//!
//! | module      | holds                                                           |
//! |-------------|-----------------------------------------------------------------|
//! | `options`   | what can be chosen                                              |
//! | [`peers`]   | the seam through which the other replicas are reached           |
//! | [`schema`]  | what is asked of the catalog                                    |
//! | `books`     | what the replica keeps besides rows, and under which keys       |
//! | `draft`     | rows as they become, before they are written                    |
//! | `sequencer` | the task; `entry`: its log entries; `recovery`: reading them back |
//! | `commit`    | local transactions; `merge`: deltas and rows of others          |
//! | `shares`    | escrow: shares that are given, asked for and taken over         |
//! | `upkeep`    | forgetting what all have seen, building indexes, old conflicts  |
//! | `serve`     | what other replicas ask                                         |
//! | [`status`]  | what an operator asks                                           |
//!
//! Spreading deltas, and finding out what was missed, is [`crate::replication`].

mod options;
pub mod peers;
pub mod schema;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_base::{Batch, IndexId, NodeId, Timestamp};

use crate::error::Error;
use crate::stamp::VersionVector;

pub use options::{Limits, Options};
pub use peers::{Alone, CallFailed, Departure, Members, Peers, Traffic};
pub use schema::{NoIndexes, Schema};
pub use status::{Comparison, Conflict, CounterShares, Counts, PeerStatus, Status};

/// This node's replica of all eventual tables. Clones are the same replica.
#[derive(Clone)]
pub struct Replica {
    inner: Arc<Inner>,
}

struct Inner {}

impl Replica {
    /// Starts the replica from what the log and the rows hold of it. What was
    /// acknowledged is there when this returns.
    pub async fn start(options: Options) -> Result<Replica, Error> {
        let _ = options;
        Ok(Replica { inner: Arc::new(Inner {}) })
    }

    /// Commits the changes of a local transaction: all of them, or none. Returns once
    /// they are kept by `acks` replicas, this one included, with the timestamp from which
    /// on they can be read here.
    ///
    /// An update or delete of a row that is not there changes nothing.
    ///
    /// # Errors
    /// After [`Error::AcksMissing`] the transaction is committed all the same.
    pub async fn commit(&self, batch: Batch, acks: u32) -> Result<Timestamp, Error> {
        let _ = (batch, acks);
        Err(self.interim())
    }

    /// The newest timestamp that can be read here: nothing of the eventual tables will be
    /// written at or before it any more.
    pub fn applied(&self) -> Timestamp {
        Timestamp::ZERO
    }

    /// Why rows cannot be read here at the moment, if they cannot.
    pub fn readable(&self) -> Result<(), Error> {
        Err(self.interim())
    }

    /// What was applied here.
    pub fn vector(&self) -> VersionVector {
        VersionVector::new()
    }

    /// Waits until all of `wanted` was applied here.
    pub async fn wait_for(&self, wanted: &VersionVector, within: Duration) -> Result<(), Error> {
        let _ = (wanted, within);
        Err(self.interim())
    }

    /// Answers what the replica on node `from` asks.
    pub async fn answer(&self, from: NodeId, request: Bytes) -> Result<Bytes, Error> {
        let _ = (from, request);
        Err(self.interim())
    }

    /// The replica at a glance.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// The values that lost to concurrent writes, oldest write first, at most `most` of
    /// them.
    pub fn conflicts(&self, most: usize) -> Result<Vec<Conflict>, Error> {
        let _ = most;
        Err(self.interim())
    }

    /// Who holds which shares of the counters with bounds in the rows of `storage`, at
    /// most `most` counters, in order of their keys.
    pub fn shares(&self, storage: IndexId, most: usize) -> Result<Vec<CounterShares>, Error> {
        let _ = (storage, most);
        Err(self.interim())
    }

    /// Whether the secondary index `index` is complete here, and may be read.
    pub fn is_built(&self, index: IndexId) -> bool {
        let _ = index;
        false
    }

    /// Removes the rows of a dropped storage, and what merging remembers of them, from
    /// this replica.
    pub async fn clear(&self, storage: IndexId) -> Result<(), Error> {
        let _ = storage;
        Err(self.interim())
    }

    /// Compares all rows with those of the replica on `node`, and mends what differs.
    pub async fn compare(&self, node: NodeId) -> Result<Comparison, Error> {
        let _ = node;
        Err(self.interim())
    }

    /// Makes every other member refuse whatever `node`, which was removed for good, wrote
    /// after what they have of it, and gives the last write that any of them has: what is
    /// to become [`Departure::last_write`]. Can be asked again until all members answer.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if a member does not answer. As it may have writes that
    /// nobody else has, the shares of `node` are nobody's until it does, or is removed too.
    pub async fn agree_on_last_write(&self, node: NodeId) -> Result<Timestamp, Error> {
        let _ = node;
        Err(self.interim())
    }

    /// Waits until the replica cannot go on, because the log or the rows failed, and gives
    /// the reason. Only a restart mends it.
    pub fn failed(&self) -> impl Future<Output = String> + use<> {
        std::future::pending()
    }

    /// Ends the replica, and waits until nothing of it runs any more.
    pub async fn shutdown(&self) {}

    fn interim(&self) -> Error {
        Error::NotReady { why: "under construction".into() }
    }
}
