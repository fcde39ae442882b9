//! Versioned rows.
