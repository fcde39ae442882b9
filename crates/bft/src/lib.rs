//! The byzantine guarantee.

pub mod adversary;
pub mod block;
pub mod consensus;
pub mod evidence;
#[cfg(any(test, feature = "testing"))]
pub mod invariant;
pub mod signing;
pub mod transaction;
pub mod types;
#[cfg(any(test, feature = "testing"))]
pub mod world;
