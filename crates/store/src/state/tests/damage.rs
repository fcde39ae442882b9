//! Damage to the file, and what it gives away.
