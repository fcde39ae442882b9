//! Two of the four seams through which the outside world reaches a node: time
//! and entropy. (The other two are the disk, in `store`, and the links.)
//!
//! Each has a real form here and gets a simulated one in simulation. Code below
//! the roof never calls `SystemTime::now` or a thread-local random generator;
//! clippy's `disallowed-methods` keeps it so.

use std::sync::Arc;

use crate::time::ClockReading;

/// Where the time comes from.
pub trait ClockSource: Send + Sync + 'static {
    /// The interval in which the true time lies, as far as this node can know.
    fn read(&self) -> ClockReading;
}

/// Where randomness comes from.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `buffer` with unpredictable bytes.
    fn fill(&self, buffer: &mut [u8]);
}

/// 16 fresh bytes as a number, for identifiers that must not collide.
pub fn unique_id(entropy: &dyn Entropy) -> u128 {
    let mut bytes = [0; 16];
    entropy.fill(&mut bytes);
    u128::from_be_bytes(bytes)
}

/// The seams that a node is built with.
#[derive(Clone)]
pub struct Seams {
    /// Where the time comes from.
    pub clock: Arc<dyn ClockSource>,
    /// Where randomness comes from.
    pub entropy: Arc<dyn Entropy>,
}
