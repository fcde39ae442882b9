//! Spreading deltas, and finding out what was missed.
//!
//! ```text
//! own commit ──▶ push to every peer at once ─────────────▶ apply, or hold until what it
//!                  ▲ one message a peer under way           depends on has come
//!                  ╰── answer: what the peer has by now, and what it waits for
//! every half second: what was applied here, to every peer
//!   ╰── what a peer still lacks of others' then: pass it on (they may be cut from it)
//! lacks what is not kept any more: fill from the rows
//! now and then: compare a stretch of rows
//! ```
//! All of it may be lost, doubled or late: vectors say what is missing, and deltas that
//! are applied twice do nothing the second time.
//!
//! | module      | holds                                                           |
//! |-------------|-----------------------------------------------------------------|
//! | `machine`   | what to send to whom and when; who has what. Does no IO          |
//! | `hold`      | deltas that came before what they depend on                      |
//! | `message`   | what replicas say to each other                                  |
//! | `driver`    | the task that reads, sends, and tells the machine                |

pub(crate) mod driver;
pub(crate) mod hold;
pub(crate) mod machine;
pub(crate) mod message;
#[cfg(test)]
mod transcripts;
