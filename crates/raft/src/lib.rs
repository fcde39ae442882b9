//! The strong guarantee: one replicated log per range, kept in step by Raft
//! (Ongaro & Ousterhout, "In Search of an Understandable Consensus Algorithm",
//! USENIX ATC 2014), through openraft.
//!
//! A [`Group`] is this node's member of one Raft group. It turns many callers'
//! batches into few log entries, the entries into bytes of the node's shared
//! log, and what is committed into rows:
//!
//! ```text
//!  propose ──▶ proposer ──▶ openraft ──▶ log store ──▶ store::log   one fsync for all
//!     ▲         packs          │             │            │
//!     │                        ▼             ╰── done ◀───╯
//!     ╰──── outcomes ◀──── machine ──▶ store::state                 one transaction for all
//! ```
//!
//! | module         | holds                                                           |
//! |----------------|-----------------------------------------------------------------|
//! | [`types`]      | the types openraft is instantiated with                         |
//! | [`payload`]    | what a log entry carries, and its bytes                         |
//! | `log_store`    | openraft's log over `store::log`                                |
//! | `machine`      | openraft's state machine over `store::state`                    |
//! | `proposer`     | packs concurrent proposals into entries                         |
//! | [`group`]      | the group: propose, read barrier, start and stop                |
//! | `decide`       | propose and read on any member: ask whoever leads                |
//! | `transfer`     | rows for a member that the log cannot help any more             |
//! | `members`      | who belongs to the group, and who votes                         |
//! | `contacts`     | who answers, and where they are                                 |
//! | [`network`]    | the seam through which members of a group talk                  |
//! | [`checkpoint`] | makes applied state durable and lets the log be purged          |
//! | [`metrics`]    | counters and histograms the admin door reads                    |
//!
//! What is durable when: an entry is in the log, fsynced, before it counts as
//! committed. Rows are not: the state is made durable by checkpoints, and after a
//! crash the log is applied again from the last one. So nothing is purged from
//! the log that the newest checkpoint does not hold.

pub mod checkpoint;
mod contacts;
mod decide;
pub mod error;
pub mod group;
mod log_store;
mod machine;
mod members;
pub mod metrics;
pub mod network;
pub mod payload;
mod proposer;
#[cfg(test)]
mod tests;
mod transfer;
pub mod types;

pub use checkpoint::Checkpointer;
pub use error::Error;
pub use group::{Admission, Group, GroupOptions};
pub use metrics::GroupMetrics;
pub use network::{Network, NoPeers};
pub use types::Peer;
