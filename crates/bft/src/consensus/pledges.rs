//! What this validator has put its name to: the last line before a double signature.
//!
//! The core votes once a round, its log makes it vote the same after a crash, and
//! this refuses should either be wrong.

use std::collections::BTreeMap;

use arc_malachitebft_core_types::VoteType;

use super::context::{Proposal, Vote};
use super::error::Fatal;
use crate::types::Height;

/// What was signed at the height that is worked on.
#[derive(Default)]
pub struct Pledges {
    height: Height,
    votes: BTreeMap<(u32, VoteType), Vote>,
    proposals: BTreeMap<u32, Proposal>,
}

impl Pledges {
    /// Begins a height: signatures of earlier ones are not given any more.
    pub fn begin(&mut self, height: Height) {
        if height > self.height {
            *self = Pledges { height, ..Pledges::default() };
        }
    }

    /// Takes note of a vote that is about to be signed, or was.
    pub fn vote(&mut self, vote: &Vote) -> Result<(), Fatal> {
        let refused = Fatal::DoubleSign { height: vote.height, round: vote.round, what: "vote" };
        if vote.height != self.height {
            return Err(refused);
        }
        match self.votes.entry((vote.round, vote.kind)).or_insert_with(|| vote.clone()) {
            first if first == vote => Ok(()),
            _ => Err(refused),
        }
    }

    /// Takes note of a proposal that is about to be signed, or was.
    pub fn proposal(&mut self, proposal: &Proposal) -> Result<(), Fatal> {
        let refused = Fatal::DoubleSign { height: proposal.height, round: proposal.round, what: "proposal" };
        if proposal.height != self.height {
            return Err(refused);
        }
        match self.proposals.entry(proposal.round).or_insert_with(|| proposal.clone()) {
            first if first == proposal => Ok(()),
            _ => Err(refused),
        }
    }
}
