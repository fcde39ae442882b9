//! Byzantine tables: agreement among nodes of which less than a third of the power may
//! lie, and a proof for every row.
//!
//! ```text
//!   clients ──▶ transactions, signed ──▶ consensus ──▶ blocks, certified ──▶ ledger ──▶ proofs
//! ```
//! Two halves that meet in [`consensus::application::Application`]: consensus knows what
//! a block is and not what it does; the ledger knows what a block does and not how it
//! was agreed on. Neither does IO in its protocol, reads a clock or draws randomness.
//!
//! | module | holds |
//! |---|---|
//! | [`types`], [`signing`], [`hash`], [`codec`] | the words: heights, keys, digests, and how things that are signed are written |
//! | [`transaction`], [`block`], [`certificate`], [`evidence`], [`genesis`] | what validators exchange and agree on |
//! | [`consensus`] | agreement: Tendermint's protocol on Malachite's core |
//! | [`adversary`] | those who lie |

pub mod adversary;
pub mod block;
pub mod certificate;
pub mod codec;
pub mod consensus;
pub mod evidence;
pub mod genesis;
pub mod hash;
#[cfg(any(test, feature = "testing"))]
pub mod invariant;
pub mod ledger;
pub mod proof;
pub mod signing;
pub mod transaction;
pub mod types;
#[cfg(any(test, feature = "testing"))]
pub mod world;
