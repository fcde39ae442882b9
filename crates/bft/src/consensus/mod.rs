//! Agreement on blocks among validators of which less than a third, by power, may lie.
//!
//! The protocol is Tendermint (Buchman, Kwon & Milosevic, "The latest gossip on BFT
//! consensus", 2018), descended from PBFT (Castro & Liskov, OSDI 1999): a proposer a
//! round, two votes, and locks that carry a decision over from one round to the next.
//! Its core is Malachite's; this folder is everything around it.
//!
//! ```text
//!   propose ──▶ prevote ──▶ precommit ──▶ decided          each needs > 2/3 of the power
//!      ▲           │            │             │
//!      ╰── next round: longer waits           ╰──▶ next height
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`context`] | the types the core is instantiated with; who proposes; what is signed |
//! | [`core`] | the core, driven by a loop that stops at the first failure |
//! | [`validator`] | one validator as a state machine: inputs in, outputs out |
//! | [`outbox`] | what must be durable before what leaves |
//! | [`record`], [`log`] | what is written down, and where |
//! | [`pledges`] | the last line before a double signature |
//! | [`candidates`], [`inbox`] | blocks under discussion; messages that are early |
//! | [`catch_up`] | decided blocks and snapshots of others |
//! | [`watch`], [`strikes`] | who contradicts himself; who sends nonsense |
//! | [`presence`], [`pace`] | who is heard; how long to wait |
//! | [`verify`] | signatures and certificates |
//! | [`message`] | what validators say to each other |
//! | [`mempool`] | what waits to be ordered |
//! | [`application`] | what is asked of the ledger |
//! | [`driver`] | a validator in a real process |

pub mod application;
pub mod candidates;
pub mod catch_up;
pub mod context;
pub mod core;
pub mod driver;
pub mod error;
pub mod inbox;
pub mod log;
pub mod mempool;
pub mod message;
pub mod outbox;
pub mod pace;
pub mod pledges;
pub mod presence;
pub mod record;
pub mod strikes;
pub mod validator;
pub mod verify;
pub mod watch;
