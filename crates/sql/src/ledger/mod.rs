//! Byzantine tables, as the ledger below knows them.
//!
//! The catalog names a table and plans with it; what the rows of the table must be, the
//! *ledger* keeps, ordered like everything else that it agrees on, so that nothing that
//! its safety rests on stands where a crash is the worst that is expected.
//!
//! ```text
//! CREATE TABLE ──▶ catalog (strong) ──difference──▶ Define, Drop ──▶ ledger
//!                  names, defaults, types            slots, keys, checks
//! ```
//! | module | holds |
//! |---|---|
//! | [`definition`] | what the ledger is told of a table |
//! | [`check`] | CHECK constraints, as every validator judges them alike |
//! | [`difference`] | what brings the ledger in step with the catalog |
//! | [`step`] | doing that |
//! | [`proving`] | rows as people name them, and as they read them once proved |

pub mod check;
pub mod definition;
pub mod difference;
pub mod proving;
pub mod step;

pub use check::Checks;
pub use definition::definition;
pub use difference::{Change, difference};
pub use proving::row_key;
