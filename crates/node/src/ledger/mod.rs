//! The ledger of the byzantine tables, put into its place.
//!
//! ```text
//!  CREATE TABLE … byzantine        COMMIT                    other nodes
//!        │ ensure                     │ submit                    │ Service::LEDGER
//!        ▼                            ▼                           ▼
//!   genesis, once,           signed by this node's key      Handle::receive
//!   in the strong range ──▶  ┌──────────────────────────────────────┐
//!        │ kept in the log   │ polity_bft's driver and ledger          │
//!        └──────────────────▶└──────────────────────────────────────┘
//! ```
//! What the ledger began with is agreed on once, by the strong range; every node that reads
//! it there keeps it in its own log, and needs nobody's word for it from then on.
//!
//! | module    | holds                                                            |
//! |-----------|------------------------------------------------------------------|
//! | `host`    | the ledger of this node: none, or running                        |
//! | `origin`  | the key that the node signs with, and what the ledger began with |
//! | `network` | messages of validators, over the links                           |
//! | `voice`   | signing for users of nodes that are no validators                |
//! | `figures` | numbers for `/metrics` and `/health`                             |
//! | `told`    | what people should know, in the log of the process               |

mod figures;
mod host;
mod network;
mod origin;
mod told;
mod voice;

pub(crate) use figures::{LedgerFigures, health};
pub(crate) use host::{Host, Surroundings};
pub(crate) use network::LedgerAnswers;
pub(crate) use voice::Voice;
