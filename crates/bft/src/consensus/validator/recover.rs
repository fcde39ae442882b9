//! A start with a log: taking in again, in order, what was taken in before.
//!
//! The core comes to the same state and derives the same votes. Where the log holds
//! the vote, its signature is used again; where it does not, the crash came before
//! the vote could have left, and it is signed now. Should a vote come out other than
//! it was, the validator stops: its peers hold the first one.

use arc_malachitebft_core_consensus::Input as CoreInput;

use super::{Phase, Validator};
use crate::consensus::error::Fatal;
use crate::consensus::record::{Entry, Record};
use crate::types::Height;

impl Validator {
    pub(super) fn recover(&mut self, log: Vec<Record>) -> Result<(), Fatal> {
        let height = self.height();
        // A height is begun when the block before it is on disk.
        let newest = log.iter().map(|record| record.height).max().unwrap_or(Height(0));
        if newest > height {
            return Err(Fatal::StateLost { log: newest, state: self.tip.height });
        }
        let log: Vec<Record> = log.into_iter().filter(|record| record.height == height).collect();
        if log.is_empty() {
            return Ok(());
        }
        self.remember_promises(&log)?;
        self.hands.replayed = Some(log.iter().map(Record::encode).collect());
        let inputs: Vec<_> = log.into_iter().filter_map(Record::into_input).collect();
        self.core.index_wal_entries(&inputs);
        self.start(true)?;
        for input in inputs {
            if self.phase != Phase::Running {
                break;
            }
            self.check_block_is_here(&input)?;
            self.feed(input)?;
        }
        self.core.reset_entries_index();
        self.hands.replayed = None;
        Ok(())
    }

    /// Blocks that were vouched for, and what was signed.
    fn remember_promises(&mut self, log: &[Record]) -> Result<(), Fatal> {
        let node = self.hands.node;
        for record in log {
            match &record.entry {
                Entry::Block(block) => self.hands.candidates.restore(block.clone(), node),
                Entry::Vote(vote) if vote.message.voter.0 == node => self.hands.pledges.vote(&vote.message)?,
                Entry::Proposal(p) if p.message.proposer.0 == node => self.hands.pledges.proposal(&p.message)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn check_block_is_here(&mut self, input: &CoreInput<crate::consensus::context::Context>) -> Result<(), Fatal> {
        let CoreInput::ProposedValue(value, _) = input else { return Ok(()) };
        match value.validity.is_valid() {
            true if self.hands.candidates.block(&value.value).is_none() => {
                Err(Fatal::Log(format!("block {} was found valid, and is not in the log", value.value)))
            }
            true => Ok(()),
            false => {
                self.hands.candidates.reject(value.value);
                Ok(())
            }
        }
    }
}
