//! What validators say to each other.
//!
//! Nothing in a message is believed because of who sent it. What counts is signed
//! (votes, proposals, certificates, transactions, evidence) or is the preimage of
//! something signed (blocks). The rest are hints and questions: a wrong one costs
//! its receiver an answer.
//!
//! | message | answers | way |
//! |---|---|---|
//! | `Vote`, `Proposal`, `Polka`, `Round` | the protocol's own | control |
//! | `Status` | "this is where I am, and what I lack" | control |
//! | `Votes` | to a status: what the sender lacks. After a decision: what I saw, so that whoever was told something else can prove it | control |
//! | `Block` | the block of a proposal | bulk |
//! | `Certified` | a decided block, with its certificate | bulk |
//! | `Fetch`, `FetchSnapshot` | questions for those | control |
//! | `Transactions`, `Evidence` | what is to be ordered | bulk |

use std::sync::Arc;

use arc_malachitebft_core_consensus::{LivenessMsg, SignedConsensusMsg};
use arc_malachitebft_core_types as malachite;
use arc_malachitebft_core_types::{NilOrVal, Round, RoundCertificateType, VoteType};
use polity_base::NodeId;
use serde::{Deserialize, Serialize};

use super::context::{Address, Context, Proposal, SignedProposal, SignedVote, Vote};
use crate::block::{Block, Certificate};
use crate::evidence::Evidence;
use crate::transaction::SignedTransaction;
use crate::types::{BlockId, Height, Signature};

/// Something that its author signed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Signed<T> {
    /// What
    pub message: T,
    /// The author's signature over its `sign_bytes`
    pub signature: Signature,
}

impl<T> Signed<T> {
    /// As the core knows it.
    pub fn into_core(self) -> malachite::SignedMessage<Context, T> {
        malachite::SignedMessage::new(self.message, self.signature)
    }
}

impl<T> From<malachite::SignedMessage<Context, T>> for Signed<T> {
    fn from(signed: malachite::SignedMessage<Context, T>) -> Signed<T> {
        Signed { message: signed.message, signature: signed.signature }
    }
}

/// Prevotes of a quorum for one block.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Polka {
    /// The height
    pub height: Height,
    /// The round
    pub round: u32,
    /// The block
    pub block: BlockId,
    /// Who prevoted
    pub signatures: Vec<(NodeId, Signature)>,
}

/// Votes that justify entering a round.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoundVotes {
    /// The height
    pub height: Height,
    /// The round of the votes
    pub round: u32,
    /// Whether they are any votes of more than a third, from a round to skip to;
    /// otherwise precommits of a quorum, from the round before
    pub skip: bool,
    /// The votes
    pub votes: Vec<(VoteType, NilOrVal<BlockId>, NodeId, Signature)>,
}

/// Where a node is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The newest height it has committed
    pub committed: Height,
    /// The round it is in at the next height, once it works on that
    pub round: Option<u32>,
    /// Blocks of the next height that were proposed and that it does not have
    pub lacks: Vec<BlockId>,
    /// Whether it asks for votes and proposals of the round
    pub asks: bool,
}

/// Votes and proposals of one height.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// The height
    pub height: Height,
    /// Votes
    pub votes: Vec<Signed<Vote>>,
    /// Proposals
    pub proposals: Vec<Signed<Proposal>>,
}

/// Part of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// The height whose state it holds
    pub height: Height,
    /// Which part, counted from 0
    pub index: u32,
    /// How many there are
    pub count: u32,
    /// Its bytes
    pub bytes: bytes::Bytes,
}

/// What one node says to another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Message {
    /// A vote
    Vote(Signed<Vote>),
    /// A proposal
    Proposal(Signed<Proposal>),
    /// Prevotes of a quorum
    Polka(Polka),
    /// Votes that justify entering a round
    Round(RoundVotes),
    /// Where the sender is
    Status(Status),
    /// Votes and proposals that the sender knows of
    Seen(Seen),
    /// A block that was proposed
    Block(Arc<Block>),
    /// A block that was decided
    Certified(Arc<Block>, Arc<Certificate>),
    /// Asks for decided blocks, from this height up to and including that
    Fetch(Height, Height),
    /// Decided blocks from this height on are not kept any more; the state of that
    /// height can be had, if any
    Pruned(Height, Option<Height>),
    /// Asks for a part of the snapshot at a height
    FetchSnapshot(Height, u32),
    /// Part of a snapshot
    Snapshot(SnapshotPart),
    /// Transactions to be ordered
    Transactions(Vec<Arc<SignedTransaction>>),
    /// Evidence to be ordered
    Evidence(Vec<Evidence>),
}

impl Message {
    /// Whether it is large, and so must not stand before what is urgent.
    pub fn is_bulk(&self) -> bool {
        matches!(
            self,
            Message::Block(_)
                | Message::Certified(..)
                | Message::Snapshot(_)
                | Message::Transactions(_)
                | Message::Evidence(_)
        )
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Nothing in a message can fail to be written to memory.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads what a peer sent.
    pub fn decode(bytes: &[u8]) -> Result<Message, postcard::Error> {
        match postcard::take_from_bytes(bytes)? {
            (message, []) => Ok(message),
            _ => Err(postcard::Error::DeserializeBadEncoding),
        }
    }
}

impl From<SignedConsensusMsg<Context>> for Message {
    fn from(message: SignedConsensusMsg<Context>) -> Message {
        match message {
            SignedConsensusMsg::Vote(vote) => Message::Vote(vote.into()),
            SignedConsensusMsg::Proposal(proposal) => Message::Proposal(proposal.into()),
        }
    }
}

impl From<LivenessMsg<Context>> for Message {
    fn from(message: LivenessMsg<Context>) -> Message {
        match message {
            LivenessMsg::Vote(vote) => Message::Vote(vote.into()),
            LivenessMsg::PolkaCertificate(polka) => Message::Polka(polka.into()),
            LivenessMsg::SkipRoundCertificate(votes) => Message::Round(votes.into()),
        }
    }
}

impl From<malachite::PolkaCertificate<Context>> for Polka {
    fn from(polka: malachite::PolkaCertificate<Context>) -> Polka {
        Polka {
            height: polka.height,
            round: polka.round.as_u32().unwrap_or_default(),
            block: polka.value_id,
            signatures: polka.polka_signatures.into_iter().map(|s| (s.address.0, s.signature)).collect(),
        }
    }
}

impl Polka {
    /// As the core knows it.
    pub fn into_core(self) -> malachite::PolkaCertificate<Context> {
        let signatures = self.signatures.into_iter();
        malachite::PolkaCertificate {
            height: self.height,
            round: Round::new(self.round),
            value_id: self.block,
            polka_signatures: signatures.map(|(node, s)| malachite::PolkaSignature::new(Address(node), s)).collect(),
        }
    }
}

impl From<malachite::RoundCertificate<Context>> for RoundVotes {
    fn from(certificate: malachite::RoundCertificate<Context>) -> RoundVotes {
        RoundVotes {
            height: certificate.height,
            round: certificate.round.as_u32().unwrap_or_default(),
            skip: certificate.cert_type == RoundCertificateType::Skip,
            votes: certificate
                .round_signatures
                .into_iter()
                .map(|s| (s.vote_type, s.value_id, s.address.0, s.signature))
                .collect(),
        }
    }
}

impl RoundVotes {
    /// As the core knows it.
    pub fn into_core(self) -> malachite::RoundCertificate<Context> {
        let votes = self.votes.into_iter();
        malachite::RoundCertificate {
            height: self.height,
            round: Round::new(self.round),
            cert_type: if self.skip { RoundCertificateType::Skip } else { RoundCertificateType::Precommit },
            round_signatures: votes
                .map(|(kind, value, node, s)| malachite::RoundSignature::new(kind, value, Address(node), s))
                .collect(),
        }
    }
}

impl From<SignedVote> for Message {
    fn from(vote: SignedVote) -> Message {
        Message::Vote(vote.into())
    }
}

impl From<SignedProposal> for Message {
    fn from(proposal: SignedProposal) -> Message {
        Message::Proposal(proposal.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn noise_is_no_message_or_one_that_comes_out_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()).unwrap(), message);
            }
        }
    }

    #[test]
    fn nothing_may_follow_a_message() {
        let message = Message::Fetch(Height(3), Height(9));
        let mut bytes = message.encode();
        assert_eq!(Message::decode(&bytes).unwrap(), message);
        bytes.push(0);
        assert!(Message::decode(&bytes).is_err());
    }
}
