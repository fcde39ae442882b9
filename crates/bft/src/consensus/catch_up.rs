//! Blocks that others have decided: who claims to have them, whom to ask, what came.
//!
//! A claim is a hint. One node is asked at a time, for few blocks at once; each comes
//! with its certificate, and counts only with that. Who does not deliver what it
//! claimed is not believed until it claims again, and the next one is asked. So a
//! liar can cost time, and nothing else. When blocks are not kept any more, a
//! snapshot comes in parts and proves itself as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use polity_base::NodeId;

use super::message::SnapshotPart;
use crate::block::{Block, Certificate};
use crate::types::Height;

/// So many blocks are asked for at once.
const BLOCKS: u64 = 32;
/// So many parts may make a snapshot.
const PARTS: u32 = 1 << 16;

/// A block with its certificate, and who sent it.
pub type Certified = (NodeId, Arc<Block>, Arc<Certificate>);

/// What others have that this node lacks.
pub struct CatchUp {
    own: NodeId,
    claims: BTreeMap<NodeId, Height>,
    asked: Option<Asked>,
    /// Who was asked last
    last: NodeId,
    /// How often each has not delivered since it last did
    failures: BTreeMap<NodeId, u32>,
    blocks: BTreeMap<Height, Certified>,
    fetching: Option<Fetching>,
    /// Since when somebody claims to have the one block that is being decided here
    close_since: Option<Duration>,
}

struct Asked {
    node: NodeId,
    last: Height,
    until: Duration,
    patience: Duration,
}

struct Fetching {
    node: NodeId,
    height: Height,
    parts: Vec<Bytes>,
    count: Option<u32>,
    size: u64,
    until: Duration,
    patience: Duration,
}

/// What came of a part of a snapshot.
pub enum Received {
    /// Nobody asked
    Unasked,
    /// It does not fit what came before
    Senseless,
    /// Good; this part is next
    Part(u32),
    /// Good; it was the last
    Whole(Vec<Bytes>),
}

impl CatchUp {
    /// Nothing is claimed yet.
    pub fn new(own: NodeId) -> CatchUp {
        CatchUp {
            own,
            claims: BTreeMap::new(),
            asked: None,
            last: own,
            failures: BTreeMap::new(),
            blocks: BTreeMap::new(),
            fetching: None,
            close_since: None,
        }
    }

    /// A node says, or shows, that it has committed a height.
    pub fn claims(&mut self, node: NodeId, height: Height) {
        if node != self.own {
            let claim = self.claims.entry(node).or_insert(height);
            *claim = height.max(*claim);
        }
    }

    /// Whom to ask for which blocks, if it is time to. `height` is the next one here.
    ///
    /// The very next block is likely being decided here as well: that is waited for.
    pub fn ask(&mut self, height: Height, now: Duration, patience: Duration) -> Option<(NodeId, Height, Height)> {
        let highest = self.claims.values().max().copied().unwrap_or(Height(0));
        if self.fetching.is_some() || self.asked.is_some() || highest < height {
            if highest < height {
                self.close_since = None;
            }
            return None;
        }
        if highest == height && now < *self.close_since.get_or_insert(now) + patience {
            return None;
        }
        let first = (height.0..).find(|height| !self.blocks.contains_key(&Height(*height))).map(Height)?;
        // In turn, but first those who have delivered.
        let turn = |node: &NodeId| (self.failures.get(node).copied().unwrap_or(0), *node <= self.last, *node);
        let able = self.claims.iter().filter(|(_, claim)| **claim >= first);
        let (node, claim) = able.min_by_key(|(node, _)| turn(node))?;
        let (node, last) = (*node, Height(claim.0.min(first.0 + BLOCKS - 1)));
        let patience = patience * 4;
        self.last = node;
        self.asked = Some(Asked { node, last, until: now + patience, patience });
        Some((node, first, last))
    }

    /// A decided block came. It counts if it was asked for.
    pub fn offer(
        &mut self,
        from: NodeId,
        block: Arc<Block>,
        certificate: Arc<Certificate>,
        height: Height,
        now: Duration,
    ) {
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.node == from) else { return };
        let at = block.header().height;
        if at < height || at > asked.last {
            return;
        }
        asked.until = now + asked.patience;
        if at == asked.last {
            self.asked = None;
            self.failures.remove(&from);
        }
        self.blocks.insert(at, (from, block, certificate));
    }

    /// The block of a height, if it came.
    pub fn take(&mut self, height: Height) -> Option<Certified> {
        self.blocks.remove(&height)
    }

    /// Drops what is of an earlier height.
    pub fn forget_before(&mut self, height: Height) {
        self.blocks = self.blocks.split_off(&height);
        self.close_since = None;
        if self.fetching.as_ref().is_some_and(|fetching| fetching.height < height) {
            self.fetching = None;
        }
    }

    /// What a node sent does not prove itself: nothing of it is believed.
    pub fn refuted(&mut self, node: NodeId) {
        self.claims.remove(&node);
        *self.failures.entry(node).or_default() += 1;
        self.blocks.retain(|_, (from, ..)| *from != node);
        if self.asked.as_ref().is_some_and(|asked| asked.node == node) {
            self.asked = None;
        }
        if self.fetching.as_ref().is_some_and(|fetching| fetching.node == node) {
            self.fetching = None;
        }
    }

    /// A node that was asked does not keep the blocks any more. The height whose
    /// state to fetch instead, if it has one that helps.
    pub fn pruned(&mut self, node: NodeId, snapshot: Option<Height>, height: Height, now: Duration) -> Option<Height> {
        let asked = self.asked.take_if(|asked| asked.node == node)?;
        let Some(snapshot) = snapshot.filter(|at| *at >= height) else {
            self.refuted(node);
            return None;
        };
        self.fetching = Some(Fetching {
            node,
            height: snapshot,
            parts: Vec::new(),
            count: None,
            size: 0,
            until: now + asked.patience * 2,
            patience: asked.patience * 2,
        });
        Some(snapshot)
    }

    /// A part of a snapshot came.
    pub fn part(&mut self, from: NodeId, part: SnapshotPart, limit: u64, now: Duration) -> Received {
        let Some(fetching) = self.fetching.as_mut() else { return Received::Unasked };
        if (from, part.height) != (fetching.node, fetching.height) {
            return Received::Unasked;
        }
        let count = *fetching.count.get_or_insert(part.count);
        let next = fetching.parts.len() as u32;
        fetching.size += part.bytes.len() as u64;
        if part.index < next {
            return Received::Unasked;
        }
        if part.count != count || count > PARTS || part.index != next || next >= count || fetching.size > limit {
            self.refuted(from);
            return Received::Senseless;
        }
        fetching.until = now + fetching.patience;
        fetching.parts.push(part.bytes);
        match next + 1 == count {
            true => Received::Whole(self.fetching.take().map(|fetching| fetching.parts).unwrap_or_default()),
            false => Received::Part(next + 1),
        }
    }

    /// Gives up on who does not answer.
    pub fn tick(&mut self, now: Duration) {
        let late = self.asked.as_ref().filter(|asked| asked.until <= now).map(|asked| asked.node);
        let stuck = self.fetching.as_ref().filter(|fetching| fetching.until <= now).map(|fetching| fetching.node);
        late.into_iter().chain(stuck).for_each(|node| self.refuted(node));
    }

    /// When to tick.
    pub fn deadline(&self) -> Option<Duration> {
        let asked = self.asked.as_ref().map(|asked| asked.until);
        let fetching = self.fetching.as_ref().map(|fetching| fetching.until);
        asked.into_iter().chain(fetching).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn part(height: u64, index: u32, count: u32) -> SnapshotPart {
        SnapshotPart { height: Height(height), index, count, bytes: Bytes::from_static(&[1; 10]) }
    }

    #[test]
    fn the_very_next_block_is_waited_for_a_while_and_more_are_asked_for_at_once() {
        let mut catch_up = CatchUp::new(NodeId(1));
        catch_up.claims(NodeId(2), Height(5));
        assert_eq!(catch_up.ask(Height(5), ms(0), PATIENCE), None);
        assert_eq!(catch_up.ask(Height(5), ms(99), PATIENCE), None);
        assert_eq!(catch_up.ask(Height(5), ms(100), PATIENCE), Some((NodeId(2), Height(5), Height(5))));
        let mut behind = CatchUp::new(NodeId(1));
        behind.claims(NodeId(2), Height(500));
        assert_eq!(behind.ask(Height(5), ms(0), PATIENCE), Some((NodeId(2), Height(5), Height(36))));
        assert_eq!(behind.ask(Height(5), ms(1), PATIENCE), None, "one is asked at a time");
    }

    #[test]
    fn who_claims_and_does_not_deliver_is_not_asked_again() {
        let mut catch_up = CatchUp::new(NodeId(1));
        catch_up.claims(NodeId(2), Height(u64::MAX));
        catch_up.claims(NodeId(3), Height(9));
        assert_eq!(catch_up.ask(Height(5), ms(0), PATIENCE).map(|asked| asked.0), Some(NodeId(2)));
        catch_up.tick(ms(400));
        assert_eq!(catch_up.ask(Height(5), ms(400), PATIENCE), Some((NodeId(3), Height(5), Height(9))));
        catch_up.tick(ms(800));
        assert_eq!(catch_up.ask(Height(5), ms(800), PATIENCE), None);
    }

    #[test]
    fn a_snapshot_comes_part_by_part_from_one_node() {
        let mut catch_up = CatchUp::new(NodeId(1));
        catch_up.claims(NodeId(2), Height(90));
        assert_eq!(catch_up.pruned(NodeId(2), Some(Height(80)), Height(5), ms(0)), None, "nobody asked");
        catch_up.ask(Height(5), ms(0), PATIENCE);
        assert_eq!(catch_up.pruned(NodeId(2), Some(Height(80)), Height(5), ms(0)), Some(Height(80)));
        assert!(matches!(catch_up.part(NodeId(3), part(80, 0, 2), 100, ms(1)), Received::Unasked));
        assert!(matches!(catch_up.part(NodeId(2), part(80, 0, 2), 100, ms(1)), Received::Part(1)));
        assert!(
            matches!(catch_up.part(NodeId(2), part(80, 1, 2), 100, ms(1)), Received::Whole(parts) if parts.len() == 2)
        );
    }

    #[test]
    fn a_snapshot_that_grows_too_large_or_changes_its_mind_is_given_up() {
        for senseless in [part(80, 1, 3), part(80, 2, 2)] {
            let mut catch_up = CatchUp::new(NodeId(1));
            catch_up.claims(NodeId(2), Height(90));
            catch_up.ask(Height(5), ms(0), PATIENCE);
            catch_up.pruned(NodeId(2), Some(Height(80)), Height(5), ms(0));
            assert!(matches!(catch_up.part(NodeId(2), part(80, 0, 2), 15, ms(1)), Received::Part(1)));
            assert!(matches!(catch_up.part(NodeId(2), senseless, 100, ms(1)), Received::Senseless));
        }
        let mut catch_up = CatchUp::new(NodeId(1));
        catch_up.claims(NodeId(2), Height(90));
        catch_up.ask(Height(5), ms(0), PATIENCE);
        catch_up.pruned(NodeId(2), Some(Height(80)), Height(5), ms(0));
        assert!(matches!(catch_up.part(NodeId(2), part(80, 0, 2), 9, ms(1)), Received::Senseless));
    }
}
