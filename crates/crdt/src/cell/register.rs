//! A value that is written whole: the last writer wins.

use polity_base::Value;
use serde::{Deserialize, Serialize};

use crate::stamp::Stamp;

/// A value, and which write it came with.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Register {
    /// Which write
    pub stamp: Stamp,
    /// What it wrote
    pub value: Value,
}

impl Register {
    /// The later of two writes. One write has one value.
    pub fn join(&mut self, other: &Register) {
        if other.stamp > self.stamp {
            *self = other.clone();
        }
    }
}
