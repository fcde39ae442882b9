//! The ledger: what blocks do, and what can be proved about it.
//!
//! ```text
//!            ┌ apply ── what comes of a block, a function of it and of the state
//!   block ──▶│ tree ─── the root of the state after it, for the header
//!            └ journal ─ what happened, for replays, conflicts and catching up
//!                 │
//!                 ▼ committed, in one write
//!   storage: a log of entries, and versions of keys ──▶ reader: rows, history, proofs
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`machine`] | the ledger of a node: building, examining and committing blocks |
//! | [`application`] | the same, as consensus asks for it |
//! | [`apply`] | the one function that changes the state; [`overlay`]: changes on trial |
//! | [`rules`] | what rows must be, and the entries of indexes that follow from them |
//! | [`outcome`] | what becomes of a transaction |
//! | [`records`] | where everything is, and what the ledger's own records say |
//! | [`recent`], [`journal`] | what was ordered and written of late |
//! | [`tree`] | the authenticated state |
//! | [`storage`], [`entry`] | where it is kept, and how it is made again after a crash |
//! | [`reader`] | asking it, from any task |
//! | [`snapshot`] | giving it to a node that is far behind |
//! | [`audit`] | the whole of it from genesis |

pub mod application;
pub mod apply;
pub mod audit;
pub mod entry;
pub mod error;
pub mod journal;
pub mod machine;
pub mod outcome;
pub mod overlay;
pub mod reader;
pub mod recent;
pub mod records;
pub mod rules;
pub mod snapshot;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod tree;

pub use audit::{Audited, audit};
pub use error::Error;
pub use machine::{Ledger, Options};
pub use outcome::{Outcome, Refusal};
pub use reader::{LedgerReader, Revision};
