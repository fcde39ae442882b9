//! Transactions: snapshots, locks, conflict checks and commit.
//!
//! *Locks are a courtesy, validation is the truth.* A transaction reads at a
//! snapshot, collects its writes, and commits them as one batch with
//! preconditions on what it has read. Every replica checks those when the
//! batch's turn comes, so no anomaly depends on this crate's memory. Locks make
//! contention queue instead of fail.
//!
//! | module          | holds                                                    |
//! |-----------------|----------------------------------------------------------|
//! | [`replica`]     | what a transaction needs of a replica                    |
//! | [`strong`]      | that of a Raft group                                     |
//! | [`eventual`]    | that of merging tables                                   |
//! | [`byzantine`]   | the ledger that keeps the others                         |
//! | [`directory`]   | which replica serves which keys                          |
//! | [`database`]    | where transactions begin                                 |
//! | [`transaction`] | statements, savepoints, isolation, commit                |
//! | `freshness`     | how old a state is read, and what closes time            |
//! | [`view`]        | the snapshot with own writes over it                     |
//! | [`locks`]       | fair row locks with deadlock detection                   |
//! | [`error`]       | why a transaction cannot go on                           |
//!
//! What is absent: SQL, the catalog, and any knowledge of how replicas agree.

pub mod byzantine;
pub mod database;
pub mod directory;
pub mod error;
pub mod eventual;
mod freshness;
pub mod locks;
mod overlay;
mod reads;
pub mod replica;
pub mod strong;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod transaction;
pub mod view;

pub use database::{Database, Isolation, Options, TransactionOptions};
pub use directory::Directory;
pub use error::{Contested, Error, Outage, WaitsFor, Wanted};
pub use eventual::{Eventual, EventualError, EventualReplica, VersionVector};
pub use freshness::Freshness;
pub use locks::{
    CallFailed, Claim, Held, Listed as ListedLock, LockMode, LockNetwork, LockRequest, LockResponse, LockServer,
    TransactionId, Wait,
};
pub use replica::{Change, Outcome, Replica, Rows, Snapshot};
pub use strong::StrongReplica;
pub use transaction::{Locked, Reach, Savepoint, StatementMark, Transaction};
pub use view::{View, ViewScan};
