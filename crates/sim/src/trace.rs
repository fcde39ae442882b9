//! What happened, in order: for the digest that two runs of a seed must share, and
//! for whoever reads a failing run.
//!
//! ```text
//!   12.345 s  n2  sent 312 bytes to n1 (a3f09c12)
//!   12.346 s  --  n3 is cut off from n1, n2
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::Mutex;

/// Where things are noted. Clones note in the same place.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Noted>>);

struct Noted {
    now: Duration,
    events: u64,
    hash: Context,
    aloud: bool,
}

/// Who did it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// A node
    Node(u64),
    /// A client
    Client(u64),
    /// Whoever breaks things
    Fate,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Node(node) => write!(f, "n{node}"),
            Who::Client(client) => write!(f, "c{client}"),
            Who::Fate => f.write_str("--"),
        }
    }
}

impl Trace {
    /// An empty trace, which is also printed to the standard error if `aloud`.
    pub fn new(aloud: bool) -> Trace {
        Trace(Arc::new(Mutex::new(Noted { now: Duration::ZERO, events: 0, hash: Context::new(&SHA256), aloud })))
    }

    /// Says what time it is.
    pub fn tick(&self, now: Duration) {
        self.0.lock().now = now;
    }

    /// The simulated time.
    pub fn now(&self) -> Duration {
        self.0.lock().now
    }

    /// Notes an event.
    pub fn note(&self, who: Who, what: fmt::Arguments<'_>) {
        let mut noted = self.0.lock();
        let line = format!("{:>9.3} s  {who:<3} {what}\n", noted.now.as_secs_f64());
        noted.events += 1;
        noted.hash.update(line.as_bytes());
        if noted.aloud {
            eprint!("{line}");
        }
    }

    /// How many events there were, and what they come to.
    pub fn digest(&self) -> (u64, String) {
        let noted = self.0.lock();
        let hash = noted.hash.clone().finish();
        (noted.events, hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }
}
