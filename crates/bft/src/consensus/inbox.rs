//! Messages that are early: of a height that this node has not begun.
//!
//! Everyone has room for so many, and a sender who uses it up harms only himself.
//! Nothing here was verified; it is when its height begins.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use polity_base::NodeId;

use super::context::Proposal;
use super::message::{Message, Signed};
use crate::types::Height;

/// So many messages of one sender are kept.
const ROOM: usize = 256;
/// So many of them blocks, and so many proposals, since those cost more.
const FEW: usize = 2;

/// Early messages.
#[derive(Default)]
pub struct Inbox {
    senders: BTreeMap<NodeId, VecDeque<(Height, Message)>>,
}

impl Inbox {
    /// Keeps a message for later.
    pub fn hold(&mut self, from: NodeId, height: Height, message: Message) {
        let held = self.senders.entry(from).or_default();
        let kind = std::mem::discriminant(&message);
        let alike = |(_, other): &(Height, Message)| std::mem::discriminant(other) == kind;
        if matches!(message, Message::Block(_) | Message::Proposal(_))
            && held.iter().filter(|m| alike(m)).count() >= FEW
        {
            let oldest = held.iter().position(alike);
            oldest.map(|place| held.remove(place));
        }
        if held.len() >= ROOM {
            held.pop_front();
        }
        held.push_back((height, message));
    }

    /// Those who said something about a height.
    pub fn speakers(&self, height: Height) -> impl Iterator<Item = NodeId> {
        let spoke = move |held: &VecDeque<(Height, Message)>| held.iter().any(|(of, _)| *of == height);
        self.senders.iter().filter(move |(_, held)| spoke(held)).map(|(node, _)| *node)
    }

    /// Proposals of a height, and who sent them.
    pub fn proposals(&self, height: Height) -> Vec<(NodeId, Signed<Proposal>)> {
        let of_height = |(of, message): &(Height, Message)| match message {
            Message::Proposal(proposal) if *of == height => Some(proposal.clone()),
            _ => None,
        };
        let all = self.senders.iter().flat_map(|(node, held)| held.iter().map(move |message| (*node, message)));
        all.filter_map(|(node, message)| of_height(message).map(|proposal| (node, proposal))).collect()
    }

    /// The messages of a height, one of each sender in turn.
    pub fn take(&mut self, height: Height) -> Vec<(NodeId, Message)> {
        let mut taken = Vec::new();
        for (node, held) in &mut self.senders {
            let (now, later) = std::mem::take(held).into_iter().partition(|(of, _)| *of == height);
            *held = later;
            taken.push((*node, now));
        }
        let mut messages = Vec::new();
        while !taken.is_empty() {
            taken.retain_mut(|(node, held): &mut (NodeId, VecDeque<(Height, Message)>)| match held.pop_front() {
                Some((_, message)) => {
                    messages.push((*node, message));
                    true
                }
                None => false,
            });
        }
        messages
    }

    /// Drops what is of an earlier height.
    pub fn forget_before(&mut self, height: Height) {
        for held in self.senders.values_mut() {
            held.retain(|(of, _)| *of >= height);
        }
        let present: BTreeSet<NodeId> =
            self.senders.iter().filter(|(_, held)| !held.is_empty()).map(|(node, _)| *node).collect();
        self.senders.retain(|node, _| present.contains(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(n: u64) -> Message {
        Message::Fetch(Height(n), Height(n))
    }

    #[test]
    fn a_flood_of_one_crowds_out_only_its_own() {
        let mut inbox = Inbox::default();
        inbox.hold(NodeId(1), Height(5), fetch(0));
        (0..1000).for_each(|n| inbox.hold(NodeId(2), Height(5), fetch(n)));
        let taken = inbox.take(Height(5));
        assert_eq!(taken.len(), ROOM + 1);
        assert_eq!(taken[0], (NodeId(1), fetch(0)));
        assert_eq!(taken.last(), Some(&(NodeId(2), fetch(999))));
    }

    #[test]
    fn each_height_has_its_own_speakers_and_old_ones_are_forgotten() {
        let mut inbox = Inbox::default();
        inbox.hold(NodeId(1), Height(5), fetch(1));
        inbox.hold(NodeId(2), Height(6), fetch(2));
        assert_eq!(inbox.speakers(Height(5)).collect::<Vec<_>>(), [NodeId(1)]);
        inbox.forget_before(Height(6));
        assert_eq!((inbox.take(Height(5)).len(), inbox.take(Height(6)).len()), (0, 1));
    }
}
