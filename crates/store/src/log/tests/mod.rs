//! The log as its users see it, on a disk that fails.
