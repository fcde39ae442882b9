//! Who says two different things.
//!
//! A liar does not show both votes to the same node. So after each decision
//! validators tell each other all votes and proposals they saw at that height
//! ([`Message::Seen`](super::message::Message)); whoever holds one half of a
//! contradiction is told the other. Two signatures of one key over two votes of one
//! kind, height and round are proof, for anyone, for good ("accountable safety":
//! Civit et al., "Polygraph", ICDCS 2021, has the theory).
//!
//! What is kept here was verified before, and what is kept already is not verified
//! again, so that hearing the same from everyone costs next to nothing.

use std::collections::{BTreeMap, BTreeSet};

use arc_malachitebft_core_types::VoteType;
use polity_base::NodeId;

use super::context::{Proposal, Vote};
use super::message::{Message, Seen, Signed};
use crate::evidence::Evidence;
use crate::types::{Height, PublicKey, Signature, Validators};

/// How many heights are watched, the one that is worked on included.
const HEIGHTS: u64 = 8;

/// So many rounds are watched at a height, so that nobody can fill the memory with
/// votes of rounds that never were.
const ROUNDS: u32 = 64;

/// Votes and proposals of the latest heights.
#[derive(Default)]
pub struct Watch {
    heights: BTreeMap<Height, PerHeight>,
    /// Who was caught at what already
    caught: BTreeSet<(Height, u32, Kind, NodeId)>,
}

struct PerHeight {
    validators: Validators,
    votes: BTreeMap<(u32, VoteType, NodeId), Signed<Vote>>,
    proposals: BTreeMap<(u32, NodeId), Signed<Proposal>>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Kind {
    Prevote,
    Precommit,
    Proposal,
}

impl From<VoteType> for Kind {
    fn from(kind: VoteType) -> Kind {
        match kind {
            VoteType::Prevote => Kind::Prevote,
            VoteType::Precommit => Kind::Precommit,
        }
    }
}

impl Watch {
    /// Begins to watch a height, and forgets old ones.
    pub fn begin(&mut self, height: Height, validators: &Validators) {
        self.heights.entry(height).or_insert_with(|| PerHeight {
            validators: validators.clone(),
            votes: BTreeMap::new(),
            proposals: BTreeMap::new(),
        });
        let oldest = Height(height.0.saturating_sub(HEIGHTS - 1));
        self.heights = self.heights.split_off(&oldest);
        self.caught.retain(|(height, ..)| *height >= oldest);
    }

    /// Takes note of a vote whose signature is right. Evidence, if it contradicts
    /// another.
    pub fn vote(&mut self, vote: &Signed<Vote>) -> Option<Evidence> {
        let Vote { height, round, kind, voter, .. } = vote.message;
        if round >= ROUNDS {
            return None;
        }
        let seen = self.heights.get_mut(&height)?;
        let first = seen.votes.entry((round, kind, voter.0)).or_insert_with(|| vote.clone());
        if first.message == vote.message || !self.caught.insert((height, round, kind.into(), voter.0)) {
            return None;
        }
        Some(Evidence::votes(first.clone(), vote.clone()))
    }

    /// Takes note of a proposal whose signature is right. Evidence, if it
    /// contradicts another.
    pub fn proposal(&mut self, proposal: &Signed<Proposal>) -> Option<Evidence> {
        let Proposal { height, round, proposer, .. } = proposal.message;
        if round >= ROUNDS {
            return None;
        }
        let seen = self.heights.get_mut(&height)?;
        let first = seen.proposals.entry((round, proposer.0)).or_insert_with(|| proposal.clone());
        if first.message == proposal.message || !self.caught.insert((height, round, Kind::Proposal, proposer.0)) {
            return None;
        }
        Some(Evidence::proposals(first.clone(), proposal.clone()))
    }

    /// Whether just this vote with just this signature was seen before, and so is right.
    pub fn has(&self, vote: &Vote, signature: &Signature) -> bool {
        let key = (vote.round, vote.kind, vote.voter.0);
        let first = self.heights.get(&vote.height).and_then(|seen| seen.votes.get(&key));
        first.is_some_and(|first| first.message == *vote && first.signature == *signature)
    }

    /// Whether a vote was seen before, or is of no interest. Its signature need not
    /// have been looked at.
    pub fn knows_vote(&self, vote: &Signed<Vote>) -> bool {
        let Vote { height, round, kind, voter, .. } = vote.message;
        let first = self.heights.get(&height).and_then(|seen| seen.votes.get(&(round, kind, voter.0)));
        round >= ROUNDS
            || first.is_some_and(|first| first.message == vote.message)
            || self.caught.contains(&(height, round, kind.into(), voter.0))
    }

    /// The same of a proposal.
    pub fn knows_proposal(&self, proposal: &Signed<Proposal>) -> bool {
        let Proposal { height, round, proposer, .. } = proposal.message;
        let first = self.heights.get(&height).and_then(|seen| seen.proposals.get(&(round, proposer.0)));
        round >= ROUNDS
            || first.is_some_and(|first| first.message == proposal.message)
            || self.caught.contains(&(height, round, Kind::Proposal, proposer.0))
    }

    /// The key that a vote or proposal must be signed with, if its height is watched
    /// and its author was a validator then.
    pub fn key_of(&self, message: &Message) -> Option<PublicKey> {
        let (height, author) = match message {
            Message::Vote(vote) => (vote.message.height, vote.message.voter),
            Message::Proposal(proposal) => (proposal.message.height, proposal.message.proposer),
            _ => return None,
        };
        let seen = self.heights.get(&height)?;
        seen.validators.get(author.0).map(|validator| validator.key.clone())
    }

    /// What was seen at a height, from a round on.
    pub fn seen(&self, height: Height, from_round: u32) -> Seen {
        let Some(seen) = self.heights.get(&height) else {
            return Seen { height, votes: Vec::new(), proposals: Vec::new() };
        };
        let votes = seen.votes.iter().filter(|((round, ..), _)| *round >= from_round);
        let proposals = seen.proposals.iter().filter(|((round, _), _)| *round >= from_round);
        Seen {
            height,
            votes: votes.map(|(_, vote)| vote.clone()).collect(),
            proposals: proposals.map(|(_, proposal)| proposal.clone()).collect(),
        }
    }
}
