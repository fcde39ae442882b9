//! How one direction of one connection is disturbed by the [`Faults`] in force.
//!
//! Without a fault, messages go straight through. With one, they are dropped or
//! wait in a line of their own until they are due, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use polity_base::NodeId;
use polity_base::seams::Entropy;
use tokio::time::Instant;

use super::faults::{Disturbance, Faults, Way};
use super::frame::Message;

/// Messages that may wait in line before the connection stops taking more.
const LINE: usize = 4096;

/// One direction of one connection.
pub struct Passage {
    faults: Arc<Faults>,
    entropy: Arc<dyn Entropy>,
    peer: NodeId,
    way: Way,
    seen: u64,
    disturbance: Option<Disturbance>,
    line: VecDeque<(Instant, Message)>,
    /// When the narrowed line is free again
    free: Instant,
}

impl Passage {
    pub fn new(faults: Arc<Faults>, entropy: Arc<dyn Entropy>, peer: NodeId, way: Way) -> Passage {
        let (line, free) = (VecDeque::new(), Instant::now());
        let mut passage = Passage { faults, entropy, peer, way, seen: 0, disturbance: None, line, free };
        passage.refresh();
        passage
    }

    fn refresh(&mut self) {
        let version = self.faults.version();
        if version != self.seen {
            self.seen = version;
            self.disturbance = self.faults.on(self.peer, self.way);
        }
    }

    /// Lets a message in: gives it back if it may pass now.
    pub fn admit(&mut self, message: Message) -> Option<Message> {
        self.refresh();
        let Some(disturbance) = &self.disturbance else {
            if self.line.is_empty() {
                return Some(message);
            }
            self.line.push_back((Instant::now(), message));
            return None;
        };
        if disturbance.cut || self.chance() < disturbance.drop {
            return None;
        }
        let now = Instant::now();
        let mut due = now + disturbance.delay + disturbance.jitter.mul_f64(self.chance());
        if let Some(rate) = disturbance.bytes_per_second {
            let takes = Duration::from_secs_f64(message.body.len() as f64 / rate.max(1) as f64);
            self.free = self.free.max(now) + takes;
            due += self.free - now;
        }
        // Connections keep their order.
        due = self.line.back().map_or(due, |(last, _)| due.max(*last));
        self.line.push_back((due, message));
        None
    }

    /// Whether nothing passes.
    pub fn is_cut(&mut self) -> bool {
        self.refresh();
        self.disturbance.as_ref().is_some_and(|disturbance| disturbance.cut)
    }

    /// Whether more may be let in.
    pub fn has_room(&self) -> bool {
        self.line.len() < LINE
    }

    /// The next message whose time has come. Waits for ever while none is in line;
    /// may be dropped and called again.
    pub async fn due(&mut self) -> Message {
        loop {
            let Some((due, _)) = self.line.front() else { return std::future::pending().await };
            tokio::time::sleep_until(*due).await;
            let cut = self.is_cut();
            match self.line.pop_front() {
                Some((_, message)) if !cut => return message,
                _ => {}
            }
        }
    }

    /// A number from 0 to 1, 1 excluded.
    fn chance(&self) -> f64 {
        chance(&*self.entropy)
    }
}

/// A number from 0 to 1, 1 excluded.
pub fn chance(entropy: &dyn Entropy) -> f64 {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes);
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
}
