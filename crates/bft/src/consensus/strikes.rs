//! Who sends what an honest node never sends: bytes that are no message, signatures
//! that are not right, certificates that do not hold.
//!
//! That proves nothing to others, since links are not signed, but it costs time to
//! look at. So who does it again and again is not listened to for a while, longer
//! each time. An honest node that is behind, slow or confused about who decides
//! does none of this: what it signs is signed rightly.

use std::collections::BTreeMap;
use std::time::Duration;

use polity_base::NodeId;

/// So many strikes, and a node is ignored for a while.
const PATIENCE: u32 = 8;
/// The first while,
const FIRST: Duration = Duration::from_millis(250);
/// and the longest.
const LONGEST: Duration = Duration::from_secs(30);

/// Strikes of all nodes.
#[derive(Default)]
pub struct Strikes {
    nodes: BTreeMap<NodeId, Count>,
}

#[derive(Default)]
struct Count {
    strikes: u32,
    until: Duration,
}

impl Strikes {
    /// Counts a strike; whether it is time to tell somebody.
    pub fn strike(&mut self, node: NodeId, now: Duration) -> bool {
        let count = self.nodes.entry(node).or_default();
        count.strikes = count.strikes.saturating_add(1);
        if count.strikes.is_multiple_of(PATIENCE) {
            let doublings = (count.strikes / PATIENCE - 1).min(16);
            count.until = now + (FIRST * (1 << doublings)).min(LONGEST);
        }
        count.strikes == 1 || count.strikes.is_multiple_of(PATIENCE)
    }

    /// Whether a node is not listened to at the moment.
    pub fn ignores(&self, node: NodeId, now: Duration) -> bool {
        self.nodes.get(&node).is_some_and(|count| now < count.until)
    }

    /// How many strikes a node has.
    pub fn of(&self, node: NodeId) -> u32 {
        self.nodes.get(&node).map_or(0, |count| count.strikes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_on_is_ignored_for_longer_and_longer() {
        let (mut strikes, node) = (Strikes::default(), NodeId(3));
        let ms = Duration::from_millis;
        let told: Vec<bool> = (0..8).map(|_| strikes.strike(node, ms(1000))).collect();
        assert_eq!(told, [true, false, false, false, false, false, false, true]);
        assert!(strikes.ignores(node, ms(1249)) && !strikes.ignores(node, ms(1250)));
        assert!(!strikes.ignores(NodeId(4), ms(1000)));
        (0..8).for_each(|_| {
            strikes.strike(node, ms(2000));
        });
        assert!(strikes.ignores(node, ms(2499)) && !strikes.ignores(node, ms(2500)));
        (0..8000).for_each(|_| {
            strikes.strike(node, ms(3000));
        });
        assert!(!strikes.ignores(node, ms(33_000)));
    }
}
