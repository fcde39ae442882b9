//! The blocks of the height that is worked on: proposed, received, checked.
//!
//! A proposal names a block by its hash; the block comes separately, before or
//! after, from its author or from anyone. It is checked once, when both are here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arc_malachitebft_core_types::Round;
use polity_base::NodeId;

use super::context::Proposal;
use crate::block::Block;
use crate::types::BlockId;

/// So many blocks of one sender wait for a proposal that names them.
const STRAYS: usize = 2;

/// A block that was proposed.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The block, once it is here
    pub block: Option<Arc<Block>>,
    /// The round it was first proposed in
    pub round: u32,
    /// The round it was said to be locked in then
    pub locked_round: Round,
    /// Who proposed it
    pub proposer: NodeId,
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Unknown,
    Asked,
    Valid,
    Invalid,
}

/// The blocks of a height.
#[derive(Default)]
pub struct Candidates {
    known: BTreeMap<BlockId, Candidate>,
    /// The last block that was proposed in each round
    rounds: BTreeMap<u32, BlockId>,
    /// The block that this node made
    own: Option<BlockId>,
    /// Blocks that no proposal names, by sender
    strays: BTreeMap<NodeId, VecDeque<Arc<Block>>>,
    /// Blocks whose time has not come, and who sent them
    early: Vec<(NodeId, Arc<Block>)>,
}

impl Candidates {
    /// Forgets everything, for the next height.
    pub fn clear(&mut self) {
        *self = Candidates::default();
    }

    /// Takes note of a proposal whose signature is right.
    pub fn proposed(&mut self, proposal: &Proposal) {
        self.rounds.insert(proposal.round, proposal.block);
        self.name(proposal.block, proposal.round, proposal.locked_round, proposal.proposer.0);
    }

    /// Takes note that a quorum prevoted for a block.
    pub fn prevoted(&mut self, block: BlockId, round: u32, witness: NodeId) {
        self.name(block, round, Round::Nil, witness);
    }

    fn name(&mut self, id: BlockId, round: u32, locked_round: Round, proposer: NodeId) {
        let strays = &self.strays;
        let find = || strays.values().flatten().find(|block| block.id() == id).cloned();
        self.known.entry(id).or_insert_with(|| Candidate {
            block: find(),
            round,
            locked_round,
            proposer,
            verdict: Verdict::Unknown,
        });
    }

    /// Whether a block may still be of use.
    pub fn has_use_for(&self, id: &BlockId) -> bool {
        self.known.get(id).is_none_or(|candidate| candidate.block.is_none())
    }

    /// Takes a block in, which is what its header says.
    pub fn offer(&mut self, from: NodeId, block: Arc<Block>) {
        match self.known.get_mut(&block.id()) {
            Some(candidate) => candidate.block = candidate.block.take().or(Some(block)),
            None => {
                let strays = self.strays.entry(from).or_default();
                strays.push_back(block);
                if strays.len() > STRAYS {
                    strays.pop_front();
                }
            }
        }
    }

    /// Keeps a block until its time has come. Of each sender the last one.
    pub fn hold_early(&mut self, from: NodeId, block: Arc<Block>) {
        self.early.retain(|(sender, _)| *sender != from);
        self.early.push((from, block));
    }

    /// The blocks that came too early.
    pub fn take_early(&mut self) -> Vec<(NodeId, Arc<Block>)> {
        std::mem::take(&mut self.early)
    }

    /// A block that this node made, which is valid.
    pub fn built(&mut self, id: BlockId, block: Arc<Block>, round: u32, node: NodeId) {
        self.own = Some(id);
        let verdict = Verdict::Valid;
        let candidate = Candidate { block: Some(block), round, locked_round: Round::Nil, proposer: node, verdict };
        self.known.insert(id, candidate);
    }

    /// A block that the log holds, which was valid.
    pub fn restore(&mut self, block: Arc<Block>, node: NodeId) {
        let (id, proposer) = (block.id(), block.header().proposer);
        if proposer == node {
            self.own = Some(id);
        }
        let verdict = Verdict::Valid;
        let candidate = Candidate { block: Some(block), round: 0, locked_round: Round::Nil, proposer, verdict };
        self.known.insert(id, candidate);
    }

    /// A block that the log says is not valid.
    pub fn reject(&mut self, id: BlockId) {
        if let Some(candidate) = self.known.get_mut(&id) {
            candidate.verdict = Verdict::Invalid;
        }
    }

    /// Blocks that are here and were proposed, each once.
    pub fn unchecked(&mut self) -> Vec<Arc<Block>> {
        let candidates = self.known.values_mut().filter(|candidate| candidate.verdict == Verdict::Unknown);
        let with_blocks = candidates.filter_map(|candidate| {
            let block = candidate.block.clone()?;
            candidate.verdict = Verdict::Asked;
            Some(block)
        });
        with_blocks.collect()
    }

    /// Takes note of whether a block is valid; the candidate, unless that is known.
    pub fn judge(&mut self, id: BlockId, valid: bool) -> Option<&Candidate> {
        let candidate = self.known.get_mut(&id).filter(|candidate| candidate.verdict == Verdict::Asked)?;
        candidate.verdict = if valid { Verdict::Valid } else { Verdict::Invalid };
        Some(candidate)
    }

    /// Blocks that were proposed and are not here.
    pub fn lacking(&self) -> impl Iterator<Item = BlockId> {
        let lacking = self.known.iter().filter(|(_, c)| c.block.is_none() && c.verdict == Verdict::Unknown);
        lacking.map(|(id, _)| *id)
    }

    /// A block that is here.
    pub fn block(&self, id: &BlockId) -> Option<Arc<Block>> {
        self.known.get(id).and_then(|candidate| candidate.block.clone())
    }

    /// The block that this node made.
    pub fn own(&self) -> Option<BlockId> {
        self.own
    }

    /// The block that was proposed in a round, if it is valid.
    pub fn proposed_in(&self, round: u32) -> Option<BlockId> {
        let id = self.rounds.get(&round)?;
        self.known.get(id).filter(|candidate| candidate.verdict == Verdict::Valid).map(|_| *id)
    }
}
