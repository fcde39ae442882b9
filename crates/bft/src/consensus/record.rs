//! What a validator writes to its log, to find itself again after a crash.
//!
//! A record is an input that the core took in, or the block of one. Taking the
//! records in again, in the same order, brings the core back to the state it was
//! in, and to the very votes it sent: nothing that it does depends on anything else.
//!
//! Records are of one height. Those of a height that is committed are of no use any
//! more.

use std::sync::Arc;

use arc_malachitebft_core_consensus::{Input, ProposedValue};
use arc_malachitebft_core_types::{Round, Timeout, TimeoutKind, Validity, ValueOrigin};
use polity_base::NodeId;
use serde::{Deserialize, Serialize};

use super::context::{Address, Context, Proposal, Vote};
use super::error::Fatal;
use super::message::{Polka, Signed};
use crate::block::Block;
use crate::types::{BlockId, Height};

/// A record of a height.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The height that was worked on
    pub height: Height,
    /// What happened
    pub entry: Entry,
}

/// What happened.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Entry {
    /// A block that was found valid: whoever votes for a block can produce it
    Block(Arc<Block>),
    /// Whether a block is valid, for a round
    Judged {
        /// The block
        block: BlockId,
        /// The round it was proposed in
        round: u32,
        /// The round it is said to have been locked in
        locked_round: Round,
        /// Who proposed it
        proposer: NodeId,
        /// Whether it is valid
        valid: bool,
    },
    /// A proposal
    Proposal(Signed<Proposal>),
    /// A vote
    Vote(Signed<Vote>),
    /// Prevotes of a quorum
    Polka(Polka),
    /// Nothing came in time
    Timeout(Step, u32),
}

/// What was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Step {
    /// A proposal
    Propose,
    /// Prevotes that agree
    Prevote,
    /// Precommits that agree
    Precommit,
}

impl Record {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Nothing in a record can fail to be written to memory.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads it back.
    pub fn decode(bytes: &[u8]) -> Result<Record, Fatal> {
        postcard::from_bytes(bytes).map_err(|e| Fatal::Log(format!("a record does not decode: {e}")))
    }

    /// The record of an input that the core wants to remember.
    pub fn of(height: Height, input: Input<Context>) -> Result<Record, Fatal> {
        let entry = match input {
            Input::Vote(vote) => Entry::Vote(vote.into()),
            Input::Proposal(proposal) => Entry::Proposal(proposal.into()),
            Input::PolkaCertificate(polka) => Entry::Polka(polka.into()),
            Input::ProposedValue(value, _) => Entry::Judged {
                block: value.value,
                round: value.round.as_u32().unwrap_or_default(),
                locked_round: value.valid_round,
                proposer: value.proposer.0,
                valid: value.validity.is_valid(),
            },
            Input::TimeoutElapsed(timeout) => Entry::Timeout(
                match timeout.kind {
                    TimeoutKind::Propose => Step::Propose,
                    TimeoutKind::Prevote => Step::Prevote,
                    TimeoutKind::Precommit => Step::Precommit,
                    other => return Err(Fatal::Core(format!("wants a timeout of {other:?} remembered"))),
                },
                timeout.round.as_u32().unwrap_or_default(),
            ),
            other => return Err(Fatal::Core(format!("wants {other:?} remembered"))),
        };
        Ok(Record { height, entry })
    }

    /// The input it was; none for a block.
    pub fn into_input(self) -> Option<Input<Context>> {
        Some(match self.entry {
            Entry::Block(_) => return None,
            Entry::Vote(vote) => Input::Vote(vote.into_core()),
            Entry::Proposal(proposal) => Input::Proposal(proposal.into_core()),
            Entry::Polka(polka) => Input::PolkaCertificate(polka.into_core()),
            Entry::Judged { block, round, locked_round, proposer, valid } => Input::ProposedValue(
                ProposedValue {
                    height: self.height,
                    round: Round::new(round),
                    valid_round: locked_round,
                    proposer: Address(proposer),
                    value: block,
                    validity: Validity::from_bool(valid),
                },
                ValueOrigin::Consensus,
            ),
            Entry::Timeout(step, round) => Input::TimeoutElapsed(match step {
                Step::Propose => Timeout::propose(Round::new(round)),
                Step::Prevote => Timeout::prevote(Round::new(round)),
                Step::Precommit => Timeout::precommit(Round::new(round)),
            }),
        })
    }
}
