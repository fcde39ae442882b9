//! SQL: sessions, planning and execution over transactions.
//!
//! ```text
//!   text ──▶ session ──▶ point    one row by its key: no planner          ┐
//!              │   ├───▶ query    everything that reads, on DataFusion    ├─▶ txn
//!              │   ├───▶ write    insert, update, delete, copy; constraints│
//!              │   └───▶ ddl      changes the catalog, in the transaction ┘
//!              └──▶ catalog       what tables there are, as of a timestamp
//! ```
//!
//! | module      | holds                                                                |
//! |-------------|----------------------------------------------------------------------|
//! | [`error`]   | conditions with their SQLSTATE, detail and hint                      |
//! | [`catalog`] | tables, indexes, constraints, views, sequences, roles; kept as rows  |
//! | [`ddl`]     | CREATE, ALTER, DROP, TRUNCATE                                        |
//! | [`system`]  | `pg_catalog` and `information_schema`, computed from the catalog     |
//! | [`expr`]    | a small evaluator for expressions over one row                       |
//! | [`point`]   | statements that touch one row by its key                             |
//! | [`write`]   | INSERT, UPDATE, DELETE, COPY and the constraints they must keep      |
//! | [`query`]   | SELECT and whatever else reads, planned and run by DataFusion        |
//! | [`ledger`]  | what the ledger of byzantine tables is told of them, and how they are checked there |
//! | [`rights`]  | what a statement does with tables, and whether its user may          |
//! | [`session`] | one client's conversation: transactions, settings, prepared plans    |
//!
//! Nothing here knows sockets, disks or other nodes.

pub mod catalog;
pub mod ddl;
pub mod error;
pub mod expr;
pub mod ledger;
pub mod point;
pub mod query;
pub mod rights;
pub mod session;
pub mod system;
pub mod write;

pub use error::{Condition, Error, Result};
