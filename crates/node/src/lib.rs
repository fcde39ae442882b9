//! Puts one node together from everything below.
//!
//! [`Node::start`] goes from the ground up, and [`Node::stop`] back down:
//!
//! ```text
//!  doors       pg and http listeners
//!  sql         the engine: catalog, plans, sessions
//!  txn         snapshots, locks, commit
//!  cluster     links to other nodes; who votes; administration
//!  raft        the group; checkpoints
//!  store       the log and the rows of this node, sealed
//!  folder      taken exclusively; identity, certificates
//! ```
//! Nothing here decides anything about data. What this crate owns is the order
//! of starting and stopping, the real forms of the seams (time and randomness of
//! the machine), and what a data folder holds beside the data:
//!
//! | file                | holds                                                    |
//! |---------------------|----------------------------------------------------------|
//! | `LOCK`              | nothing; held while a process uses the folder            |
//! | `node`              | who this node is ([`identity`])                          |
//! | `keyring`           | the data keys, sealed under the master key               |
//! | `log-…`, `state`    | the log and the rows, sealed                             |
//! | `dev/…`             | the master key, if development mode made it              |
//! | `certificates/…`    | certificates, if development mode made them              |
//! | `spill-…`           | what queries put aside while they run, sealed            |
//!
//! A folder with wrong contents is answered with an error that says what is
//! wrong, never with a panic and never with a fresh start over it.

pub mod admin;
pub mod certificates;
pub mod clock;
mod cluster;
pub mod config;
pub mod entropy;
pub mod error;
mod eventual;
mod foundation;
pub mod identity;
mod inner;
mod ledger;
mod link_metrics;
mod load;
mod metrics;
mod node;
mod tasks;
#[cfg(test)]
mod tests;
mod wire;

pub use config::{KeySource, Limits, LinkConfig, NodeConfig, Security, World};
pub use error::Error;
pub use inner::Core;
pub use node::Node;
