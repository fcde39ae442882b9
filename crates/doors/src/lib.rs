//! Doors: where bytes from outside become requests.
//!
//! | module   | holds                                                     |
//! |----------|-----------------------------------------------------------|
//! | [`pg`]   | PostgreSQL's wire protocol, version 3                     |
//! | [`http`] | `/health` and `/metrics`                                  |
//!
//! Doors know no storage and no replication: they know sessions.

pub mod http;
pub mod pg;
