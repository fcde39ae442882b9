//! PostgreSQL's text form of every value, in and out.
