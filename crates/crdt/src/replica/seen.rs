//! What this replica shows at one moment.

use polity_base::{Guarantee, Timestamp};
use polity_store::state::Reader;

use super::{Replica, recovery};
use crate::error::Error;
use crate::stamp::VersionVector;

/// What a replica shows at one moment: which writes, and the rows they make.
pub struct Seen {
    /// The writes
    pub vector: VersionVector,
    /// The rows of the node
    pub rows: Reader,
    /// When to read those of eventual tables
    pub at: Timestamp,
}

impl Replica {
    /// What it shows now: rows and vector of the same moment.
    pub fn seen(&self) -> Result<Seen, Error> {
        let rows = self.inner.shared.state.snapshot()?;
        let vector = recovery::vector(&rows)?;
        let at = rows.applied(Guarantee::Eventual).max(rows.horizon(Guarantee::Eventual));
        Ok(Seen { vector, rows, at })
    }
}
