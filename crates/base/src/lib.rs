//! The ground floor: words every other crate speaks.
//!
//! Nothing here does IO, reads a clock or draws randomness. Time and entropy
//! come in through the traits of [`seams`], so that a simulated world can
//! supply both.
//!
//! | module      | holds                                                       |
//! |-------------|-------------------------------------------------------------|
//! | [`ids`]     | names of nodes, ranges, tables, indexes, columns            |
//! | [`time`]    | hybrid logical timestamps and clock intervals               |
//! | [`seams`]   | where time and entropy enter the node                       |
//! | [`types`]   | SQL types and their PostgreSQL object identifiers           |
//! | [`value`]   | one SQL value                                               |
//! | [`decimal`] | exact decimal numbers of up to 38 digits                    |
//! | [`text`]    | PostgreSQL's text form of every value, in and out           |
//! | [`key`]     | order-preserving encoding of values into keys, and spans    |
//! | [`row`]     | compact encoding of a row                                   |
//! | [`batch`]   | the effect of one transaction: what is replicated           |
//! | [`guarantee`] | which failure model a key is kept under                   |
//! | [`class`]   | what a caller should do about an error                      |
//! | [`planted`] | bugs planted on purpose, for simulation to catch            |

pub mod batch;
pub mod class;
pub mod decimal;
pub mod guarantee;
pub mod ids;
pub mod key;
pub mod planted;
pub mod row;
pub mod seams;
pub mod text;
pub mod time;
pub mod types;
pub mod value;

pub use batch::{Batch, Bounds, ColumnChange, Operation, Precondition, RowChange};
pub use class::Class;
pub use decimal::Decimal;
pub use guarantee::Guarantee;
pub use ids::{ColumnId, IndexId, NodeId, RangeId, TableId};
pub use key::{Key, Span};
pub use time::Timestamp;
pub use types::Type;
pub use value::{Interval, Value};
