//! Proof that somebody signed two different things.

use arc_malachitebft_core_types::{NilOrVal, Round, VoteType};
use polity_base::NodeId;

use crate::codec::{Decoded, Reader, Write, serde_as_bytes};
use crate::consensus::context::{Address, Proposal, Vote};
use crate::consensus::message::Signed;
use crate::types::{BlockId, Height, LedgerId, PublicKey, Signature};

/// Two votes or two proposals of one validator that contradict each other.
#[derive(Clone, PartialEq, Debug)]
pub enum Evidence {
    /// Two votes of one kind, height and round
    Votes(Box<(Signed<Vote>, Signed<Vote>)>),
    /// Two proposals of one height and round
    Proposals(Box<(Signed<Proposal>, Signed<Proposal>)>),
}

serde_as_bytes!(Evidence);

/// What evidence is about: height, round, kind, and who.
pub type Accusation = (Height, u32, u8, NodeId);

impl Evidence {
    /// Of two votes.
    pub fn votes(first: Signed<Vote>, second: Signed<Vote>) -> Evidence {
        Evidence::Votes(Box::new((first, second)))
    }

    /// Of two proposals.
    pub fn proposals(first: Signed<Proposal>, second: Signed<Proposal>) -> Evidence {
        Evidence::Proposals(Box::new((first, second)))
    }

    /// What it is about.
    pub fn key(&self) -> Accusation {
        match self {
            Evidence::Votes(pair) => {
                let Vote { height, round, kind, voter, .. } = pair.0.message;
                (height, round, if kind == VoteType::Prevote { 0 } else { 1 }, voter.0)
            }
            Evidence::Proposals(pair) => {
                let Proposal { height, round, proposer, .. } = pair.0.message;
                (height, round, 2, proposer.0)
            }
        }
    }

    /// Whether it proves what it says: the two contradict each other, and both are
    /// signed with the key that the validator had at their height.
    pub fn holds(&self, ledger: &LedgerId, key: &PublicKey) -> bool {
        match self {
            Evidence::Votes(pair) => {
                let (first, second) = &**pair;
                let what = |vote: &Vote| (vote.height, vote.round, vote.kind, vote.voter);
                let right = |vote: &Signed<Vote>| key.verify(&vote.message.sign_bytes(ledger), &vote.signature);
                what(&first.message) == what(&second.message)
                    && first.message.value != second.message.value
                    && right(first)
                    && right(second)
            }
            Evidence::Proposals(pair) => {
                let (first, second) = &**pair;
                let what = |proposal: &Proposal| (proposal.height, proposal.round, proposal.proposer);
                let right = |p: &Signed<Proposal>| key.verify(&p.message.sign_bytes(ledger), &p.signature);
                what(&first.message) == what(&second.message)
                    && first.message != second.message
                    && right(first)
                    && right(second)
            }
        }
    }

    /// Who lied.
    pub fn validator(&self) -> NodeId {
        self.key().3
    }

    /// Whether it proves the same as another.
    pub fn is_about_the_same(&self, other: &Evidence) -> bool {
        self.key() == other.key()
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(300);
        match self {
            Evidence::Votes(pair) => {
                out.byte(1);
                [&pair.0, &pair.1].into_iter().for_each(|vote| write_vote(vote, &mut out));
            }
            Evidence::Proposals(pair) => {
                out.byte(2);
                [&pair.0, &pair.1].into_iter().for_each(|proposal| write_proposal(proposal, &mut out));
            }
        }
        out
    }

    /// Reads evidence, right or not, and nothing else.
    pub fn decode(bytes: &[u8]) -> Decoded<Evidence> {
        Reader::whole(bytes, |reader| {
            let unknown = reader.error("evidence of an unknown kind");
            Ok(match reader.byte()? {
                1 => Evidence::votes(read_vote(reader)?, read_vote(reader)?),
                2 => Evidence::proposals(read_proposal(reader)?, read_proposal(reader)?),
                _ => return Err(unknown),
            })
        })
    }
}

// vote      height round kind 0|1 block voter signature
// proposal  height round block 0|1 locked_round proposer signature

fn write_vote(vote: &Signed<Vote>, out: &mut Vec<u8>) {
    let Vote { height, round, kind, value, voter } = &vote.message;
    out.u64(height.0);
    out.u32(*round);
    out.byte(if *kind == VoteType::Prevote { 1 } else { 2 });
    let block = match value {
        NilOrVal::Nil => None,
        NilOrVal::Val(block) => Some(block),
    };
    out.option(block, |out, block| out.raw(&block.0));
    out.u64(voter.0.0);
    vote.signature.write(out);
}

fn read_vote(reader: &mut Reader) -> Decoded<Signed<Vote>> {
    let (height, round) = (reader.height()?, reader.u32()?);
    let unknown = reader.error("a vote of an unknown kind");
    let kind = match reader.byte()? {
        1 => VoteType::Prevote,
        2 => VoteType::Precommit,
        _ => return Err(unknown),
    };
    let value = match reader.option(Reader::hash)? {
        None => NilOrVal::Nil,
        Some(block) => NilOrVal::Val(BlockId(block)),
    };
    let message = Vote { height, round, kind, value, voter: Address(reader.node()?) };
    Ok(Signed { message, signature: Signature::read(reader)? })
}

fn write_proposal(proposal: &Signed<Proposal>, out: &mut Vec<u8>) {
    let Proposal { height, round, block, locked_round, proposer } = &proposal.message;
    out.u64(height.0);
    out.u32(*round);
    out.raw(&block.0);
    out.option(locked_round.as_u32(), |out, round| out.u32(round));
    out.u64(proposer.0.0);
    proposal.signature.write(out);
}

fn read_proposal(reader: &mut Reader) -> Decoded<Signed<Proposal>> {
    let message = Proposal {
        height: reader.height()?,
        round: reader.u32()?,
        block: BlockId(reader.hash()?),
        locked_round: reader.option(Reader::u32)?.map_or(Round::Nil, Round::new),
        proposer: Address(reader.node()?),
    };
    Ok(Signed { message, signature: Signature::read(reader)? })
}
