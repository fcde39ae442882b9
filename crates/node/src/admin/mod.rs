//! Administration: who belongs to the cluster, and drills.
//!
//! | module       | holds                                                      |
//! |--------------|------------------------------------------------------------|
//! | [`protocol`] | what is asked and answered                                 |
//! | `server`     | a node's answers                                           |
//! | [`disturb`]  | drills: which node must do what, and doing it              |
//! | [`client`]   | asking a cluster from outside                              |

pub mod client;
pub(crate) mod departure;
pub mod disturb;
pub mod protocol;
pub(crate) mod server;

pub use client::Client;
pub use polity_cluster::membership::Liveness;
pub use protocol::{Announcement, Answer, Digest, Disturbance, Local, NodeFacts, Place, Request, Weather};
