//! Administration: who belongs to the cluster, and drills.
//!
//! | module       | holds                                                      |
//! |--------------|------------------------------------------------------------|
//! | [`protocol`] | what is asked and answered                                 |
//! | `server`     | a node's answers                                           |
//! | `ledger`     | a node's answers about the ledger                          |
//! | `departure`  | nodes that were removed, as the strong range has them      |
//! | [`disturb`]  | drills: which node must do what, and doing it              |
//! | [`client`]   | asking a cluster from outside                              |

pub mod client;
pub(crate) mod departure;
pub mod disturb;
pub(crate) mod ledger;
pub mod protocol;
pub(crate) mod server;

pub use client::Client;
pub use polity_cluster::membership::Liveness;
pub use protocol::{
    Announcement, Answer, Digest, Disturbance, EventualDigest, LedgerFacts, Local, NodeFacts, Place, Request,
    ValidatorFacts, Weather,
};
