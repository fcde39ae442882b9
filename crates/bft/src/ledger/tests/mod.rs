//! Ledgers as a whole.

mod catch_up;
mod disk;
mod life;
mod sameness;
