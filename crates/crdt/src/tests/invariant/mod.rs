//! What must hold, one promise a file, each with its source.

pub mod acknowledged_is_durable;
pub mod atomic_visibility;
pub mod causal_visibility;
pub mod collection_is_safe;
pub mod escrow_bound;
pub mod no_resurrection;
pub mod session_guarantees;
pub mod strong_convergence;
