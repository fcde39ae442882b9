//! The disk: what a node keeps, and how it gets it back.
//!
//! Two things are stored, and they lean on each other. The [`log`] makes writes
//! durable in the order they were decided, one fsync for all that are waiting.
//! The [`state`] holds versioned rows, made durable now and then; what it loses
//! in a crash the log replays. Neither knows what a write means.
//!
//! ```text
//!   log (append, group commit)     state (redb: versions of rows)
//!              \                        /
//!               seal (AES-256-GCM-SIV, derived keys)
//!                          |
//!               disk (a folder; real, or torn and flipped in memory)
//! ```
//!
//! Beside them, [`spill`] is where queries put aside what does not fit in memory.
//!
//! Nothing reaches the disk unsealed, and nothing is read from it unverified:
//! damage is an error that names the file and the place, never a wrong answer.

mod blocking;
pub mod disk;
pub mod error;
pub mod log;
pub mod seal;
pub mod spill;
pub mod state;

pub use blocking::blocking;
pub use disk::{Disk, DiskFile};
pub use error::Error;
pub use log::{Log, LogOptions, Record, RecoveredGroup};
pub use seal::{Keyring, MasterKey, Sealer};
