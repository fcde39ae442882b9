//! Whole clusters in one seeded process, judged by independent checkers.
//!
//! ```text
//!            one thread, one seed
//!  ┌─────────────────────────────────────────┐
//!  │ clients ──▶ sessions of n1 … n5         │   polity-check: histories
//!  │               │ node: sql, txn, raft,   │
//!  │               │ links, store: real code │   invariant: logs, rows, disks
//!  │  fate ──▶ clock  network  disk  process │
//!  └─────────────────────────────────────────┘
//! ```
//! Nodes are the real ones from the sessions down ([`polity_node::Core`]); sockets, TLS,
//! the disk, clocks and randomness are simulated. Time passes as fast as the
//! processor allows. The same seed gives the same run.
//!
//! | module | holds |
//! |---|---|
//! | [`run`] | one run, from a seed to a verdict |
//! | [`fate`] | what breaks, and when |
//! | `disturb`, `loss` | breaking it, and healing it; replacing machines whose data is lost |
//! | [`clients`] | the workloads, and what clients saw |
//! | [`door`] | the way from a client to a session |
//! | [`machine`] | what a node runs on |
//! | [`network`], [`disk`], [`world`] | links, files, time and entropy |
//! | [`invariant`] | what must hold inside the cluster |
//! | [`trace`] | what happened, in order |

pub mod clients;
pub mod disk;
mod disturb;
pub mod door;
pub mod fate;
pub mod invariant;
mod loss;
pub mod machine;
pub mod network;
pub mod panics;
pub mod run;
pub mod trace;
pub mod world;

pub use run::{Options, Report, run};
