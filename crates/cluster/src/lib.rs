//! Who is there, and how nodes talk.
//!
//! Nodes of one cluster share an authority that signs their certificates; the
//! certificate says which node of which cluster its holder is, and nothing a peer
//! says about itself is believed. Between any two nodes run authenticated,
//! encrypted links; there is no mode without.
//!
//! ```text
//!   raft_links   membership   (locks, administration)    services, by number
//!        ╰──────────────┬───────────────╯
//!                     links       requests and answers, many at once, two connections a peer
//!                       │
//!                  certificates   who a peer is
//! ```
//!
//! | module           | holds                                                     |
//! |------------------|-----------------------------------------------------------|
//! | [`name`]         | who a certificate's holder is                             |
//! | [`certificates`] | making, reading and watching certificates                 |
//! | [`links`]        | requests and answers between nodes                        |
//! | [`membership`]   | who is there, as a hint                                   |
//! | [`raft_links`]   | Raft's messages, over links                               |

pub mod certificates;
pub mod error;
pub mod links;
pub mod membership;
pub mod name;
pub mod raft_links;

pub use error::Error;
pub use links::{CallError, Handler, Links, LinksConfig, Refusal, Service, Traffic};
pub use membership::{Membership, MembershipOptions};
pub use name::Name;
