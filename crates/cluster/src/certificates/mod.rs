//! Certificates: made, read, checked.
//!
//! A cluster has an [`Authority`] of its own, which signs one certificate for each
//! node, and for clients that prove who they are by certificate. A node needs
//! three files, [`Files`]: the authority's certificate, its own and its own key.
//! The authority's key is needed only to sign, and belongs on no node except in
//! development.

mod credentials;
mod make;

pub use credentials::{Credentials, Files};
pub use make::{Authority, Made};
