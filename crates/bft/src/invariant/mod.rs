//! What must hold whatever happens, one property a file.
//!
//! They look at what honest nodes sent and committed, and at nothing inside them.
//! What they verify they verify with code of their own.
//!
//! | property | source |
//! |---|---|
//! | [`agreement`] | Pease, Shostak & Lamport 1980; Buchman, Kwon & Milosevic 2018, section 3, Agreement |
//! | [`validity`] | Buchman, Kwon & Milosevic 2018, section 3, external validity (Cachin et al. 2001) |
//! | [`certificates`] | Castro & Liskov 1999, section 4.2: quorums intersect in an honest node |
//! | [`no_double_sign`] | Buchman, Kwon & Milosevic 2018, algorithm 1: one vote a step |
//! | [`state_root`] | Schneider 1990, section 2: replicas that start alike and apply alike are alike |
//! | [`durability`] | Gray & Reuter 1993, chapter 10: what was acknowledged survives |

pub mod agreement;
pub mod certificates;
pub mod durability;
pub mod no_double_sign;
pub mod state_root;
pub mod validity;

use std::sync::Arc;

use polity_base::NodeId;

use crate::block::{Block, Certificate};
use crate::consensus::message::Message;
use crate::consensus::validator::Tip;
use crate::transaction::SignedTransaction;
use crate::types::{Height, LedgerId, Validators};

/// Something that happened at an honest node, or at a client.
pub enum Sight<'a> {
    /// A client handed in a transaction
    Submitted(&'a SignedTransaction),
    /// A node sent a message
    Sent(NodeId, &'a Message),
    /// A node committed a block, which these validators decided about
    Committed(NodeId, &'a Arc<Block>, &'a Arc<Certificate>, &'a Validators),
    /// A node put a snapshot in place of its state
    Installed(NodeId, &'a Tip),
    /// A node has started
    Started(NodeId, &'a Tip),
}

/// A property.
pub trait Invariant {
    /// Looks at what happened. What is wrong, if something is.
    fn look(&mut self, sight: &Sight) -> Result<(), String>;
}

/// Applies a block after those before it; the root of the state then.
pub type Replay = Box<dyn FnMut(&Block) -> [u8; 32]>;

/// All properties, for a ledger that begins at `genesis`. `replay` applies blocks, in
/// order, from the beginning, and says what the state's root is after each.
pub fn all(ledger: LedgerId, replay: Replay) -> Vec<Box<dyn Invariant>> {
    vec![
        Box::<agreement::Agreement>::default(),
        Box::<validity::Validity>::default(),
        Box::new(certificates::Certificates::new(ledger)),
        Box::<no_double_sign::NoDoubleSign>::default(),
        Box::new(state_root::StateRoot::new(replay)),
        Box::<durability::Durability>::default(),
    ]
}

/// The first height.
const FIRST: Height = Height(1);
