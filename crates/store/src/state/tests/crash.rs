//! Power loss at any moment.
