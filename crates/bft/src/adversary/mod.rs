//! Validators that lie, one way of lying a file.
//!
//! An adversary stands between an honest validator and its links: it sees what the
//! validator would send, and sends something else. It holds the validator's own key
//! and nobody else's. So the same liar lies in the simulated world and in a real
//! process, whose validator goes on believing in itself.
//!
//! ```text
//! validator ──▶ outbox ──▶ adversary ──▶ links
//!                             ╰── own ideas, now and then
//! ```
//!
//! | adversary | what it does | what must come of it |
//! |---|---|---|
//! | [`equivocator`] | proposes one block to some and another to the rest, and votes for both | evidence |
//! | [`double_voter`] | votes for the block, and for nothing, at once | evidence |
//! | [`silent`] | says nothing | named as silent |
//! | [`withholder`] | talks, but never votes | rounds go on without it |
//! | [`wrong_root`] | proposes blocks whose state is not what it says | its blocks are refused |
//! | [`forger`] | votes in the name of others | ignored for a while |
//! | [`replayer`] | has old transactions ordered again | refused, each time |
//! | [`stale_certificate`] | sends blocks with certificates of others to whom is behind | ignored; others are asked |
//! | [`amnesiac`] | forgets at each restart what it has signed | evidence, if it contradicts itself |
//! | [`split_payload`] | sends a different block to everyone under one header | the block is fetched elsewhere |
//! | [`flooder`] | sends garbage, much of it | ignored for a while |
//! | [`lying_snapshot`] | offers snapshots of a state that never was | refused; others are asked |

pub mod amnesiac;
pub mod double_voter;
pub mod equivocator;
pub mod flooder;
pub mod forger;
pub mod lying_snapshot;
pub mod replayer;
pub mod silent;
pub mod split_payload;
pub mod stale_certificate;
pub mod withholder;
pub mod wrong_root;

use std::sync::Arc;

use polity_base::NodeId;

use crate::consensus::context::{Proposal, Vote};
use crate::consensus::error::Fatal;
use crate::consensus::message::{Message, Signed};
use crate::consensus::validator::To;
use crate::signing::SecretKey;
use crate::types::LedgerId;

/// What a liar has at hand.
pub struct Means {
    /// The ledger
    pub ledger: LedgerId,
    /// Who it is
    pub node: NodeId,
    /// Its key
    pub key: Arc<SecretKey>,
    /// The other nodes
    pub peers: Vec<NodeId>,
    /// Where its choices come from; never 0
    pub random: u64,
}

/// What is sent.
#[derive(Clone, Debug)]
pub enum Sent {
    /// A message
    Message(Message),
    /// Bytes that need not be one
    Bytes(Vec<u8>),
}

/// What is sent to whom.
pub type Sends = Vec<(To, Sent)>;

/// A way of lying.
pub trait Adversary: Send {
    /// What is sent in place of what the validator would send.
    fn send(&mut self, means: &mut Means, to: To, message: Message) -> Sends;

    /// What is sent besides, some times a second.
    fn tick(&mut self, _: &mut Means) -> Sends {
        Vec::new()
    }

    /// Whether the validator's log is lost when it restarts.
    fn forgets(&self) -> bool {
        false
    }
}

/// A way of lying by its name: those of the table above.
pub fn by_name(name: &str) -> Option<Box<dyn Adversary>> {
    Some(match name {
        "equivocator" => Box::<equivocator::Equivocator>::default(),
        "double_voter" => Box::<double_voter::DoubleVoter>::default(),
        "silent" => Box::new(silent::Silent),
        "withholder" => Box::new(withholder::Withholder),
        "wrong_root" => Box::<wrong_root::WrongRoot>::default(),
        "forger" => Box::<forger::Forger>::default(),
        "replayer" => Box::<replayer::Replayer>::default(),
        "stale_certificate" => Box::<stale_certificate::StaleCertificate>::default(),
        "amnesiac" => Box::new(amnesiac::Amnesiac),
        "split_payload" => Box::new(split_payload::SplitPayload),
        "flooder" => Box::<flooder::Flooder>::default(),
        "lying_snapshot" => Box::<lying_snapshot::LyingSnapshot>::default(),
        _ => return None,
    })
}

/// The names of all ways of lying.
pub const NAMES: [&str; 12] = [
    "equivocator",
    "double_voter",
    "silent",
    "withholder",
    "wrong_root",
    "forger",
    "replayer",
    "stale_certificate",
    "amnesiac",
    "split_payload",
    "flooder",
    "lying_snapshot",
];

impl Means {
    /// A number that follows from the ones before.
    pub fn draw(&mut self) -> u64 {
        // xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift
        // generators, scrambled", 2016.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Two parts of the other nodes: whom to tell one thing, and whom the other.
    pub fn halves(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let mut first = self.peers.clone();
        let second = first.split_off(first.len() / 2);
        (first, second)
    }

    /// The vote, signed.
    pub fn vote(&self, vote: Vote) -> Result<Signed<Vote>, Fatal> {
        let signature = self.key.sign(&vote.sign_bytes(&self.ledger)).map_err(|e| Fatal::Sign(e.to_string()))?;
        Ok(Signed { message: vote, signature })
    }

    /// The proposal, signed.
    pub fn proposal(&self, proposal: Proposal) -> Result<Signed<Proposal>, Fatal> {
        let signature = self.key.sign(&proposal.sign_bytes(&self.ledger)).map_err(|e| Fatal::Sign(e.to_string()))?;
        Ok(Signed { message: proposal, signature })
    }
}

/// The same to each of these.
fn to_each(nodes: &[NodeId], message: &Message) -> Sends {
    nodes.iter().map(|node| (To::Node(*node), Sent::Message(message.clone()))).collect()
}

/// Just what the validator wanted to send.
fn unchanged(to: To, message: Message) -> Sends {
    vec![(to, Sent::Message(message))]
}
