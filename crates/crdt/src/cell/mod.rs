//! One column of a row, by how it merges.
//!
//! | kind       | concurrent writes                              | source                      |
//! |------------|------------------------------------------------|-----------------------------|
//! | [`Register`] | the later one stands, the other is told of   | last writer wins, Johnson and Thomas 1975 |
//! | [`Counter`]  | add up                                       | PN-counter, Shapiro et al. 2011 |
//! | [`Set`]      | an element stays if an addition was not seen by who took it out | OR-set, ibid. |

pub mod counter;
pub mod register;
pub mod set;

use serde::{Deserialize, Serialize};

pub use counter::{Counter, Tally};
pub use register::Register;
pub use set::{Marks, Removal, Set};

use crate::stamp::VersionVector;

/// The state of one column of a row, or a part of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Cell {
    /// A value
    Register(Register),
    /// A number that is added to
    Counter(Counter),
    /// Elements
    Set(Set),
}

impl Cell {
    /// The word for this kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Cell::Register(_) => "register",
            Cell::Counter(_) => "counter",
            Cell::Set(_) => "set",
        }
    }

    /// Forgets what every replica has seen and nobody will ask for.
    pub fn collect(&mut self, stable: &VersionVector) -> bool {
        match self {
            Cell::Set(set) => set.collect(stable),
            Cell::Register(_) | Cell::Counter(_) => false,
        }
    }

    /// Joins `other`, which is of the same column. Cells of two kinds do not come
    /// from one column: of such, the greater kind stands, so that replicas agree.
    pub fn join(&mut self, other: &Cell) {
        match (&mut *self, other) {
            (Cell::Register(a), Cell::Register(b)) => a.join(b),
            (Cell::Counter(a), Cell::Counter(b)) => a.join(b),
            (Cell::Set(a), Cell::Set(b)) => a.join(b),
            (a, b) if a.rank() < b.rank() => *self = b.clone(),
            _ => {}
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Cell::Register(_) => 0,
            Cell::Counter(_) => 1,
            Cell::Set(_) => 2,
        }
    }
}
