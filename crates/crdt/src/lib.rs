//! The eventual guarantee: every node holds a replica, takes reads and writes
//! alone, and merges what the others did.
//!
//! ```text
//!  change of a row ──▶ delta: the part of the row's state that the change adds
//!                        │            (the same thing whoever applies it, however often)
//!                        ├──▶ join with the row's state here ──▶ the visible row
//!                        ╰──▶ every other replica, which joins it likewise
//! ```
//!
//! | module      | holds                                                          |
//! |-------------|----------------------------------------------------------------|
//! | [`stamp`]   | which write: time and origin; which writes were seen           |
//! | [`cell`]    | one column: register, counter, set                             |
//! | [`escrow`]  | who may take how much from a counter with bounds               |
//! | [`row`]     | one row: its life and its cells; change, join, forget          |
//! | [`stored`]  | a row's state as bytes: the visible row, and what merging keeps |
//! | [`delta`]   | one transaction's changes, on their way to the other replicas  |
//! | [`replica`] | this node's replica, over the node's log and rows              |
//! | [`error`]   | why a replica could not do what it was asked                   |
//!
//! A row's states form a join semilattice (Shapiro, Preguiça, Baquero, Zawirski,
//! "Conflict-free Replicated Data Types", SSS 2011) and deltas are states with few
//! cells (Almeida, Shoker, Baquero, "Delta state replicated data types", JPDC 2018).
//! So joining is commutative, associative and idempotent, and replicas that were
//! told the same hold the same.
//!
//! What is absent: SQL, and any knowledge of who the other nodes are beyond their
//! numbers. The modules of the merge rules do no IO and read no clock.

pub mod cell;
pub mod delta;
pub mod error;
pub mod escrow;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod oracle;
pub mod replica;
mod replication;
pub mod row;
pub mod stamp;
pub mod stored;
#[cfg(test)]
mod tests;

pub use cell::{Cell, Counter, Register, Set};
pub use delta::Delta;
pub use error::{Error, Holder};
pub use escrow::{Share, Shortage};
pub use replica::{Limits, Options, Peers, Replica, Schema};
pub use row::{JoinContext, Life, Lost, Refused, RowState};
pub use stamp::{Stamp, VersionVector};
