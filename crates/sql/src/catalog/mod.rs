//! What tables, indexes, views, sequences and roles there are.
//!
//! The catalog is rows of its own, in the first indexes of the key space, read
//! and written in transactions like any others: DDL is transactional for free,
//! and a statement sees the catalog of the timestamp it reads at.

pub mod change;
pub mod fresh;
pub mod grants;
pub mod model;
pub mod name;
pub mod rows;
pub mod store;
pub mod types;

pub use fresh::Filler;
pub use grants::{Grant, Grants, Privileges};
pub use model::*;
pub use store::CatalogCache;
