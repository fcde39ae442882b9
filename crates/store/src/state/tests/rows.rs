//! Reading and writing rows.
