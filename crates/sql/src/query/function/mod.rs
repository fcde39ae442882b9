//! Functions and operators, as PostgreSQL has them.
//!
//! | module         | holds                                                       |
//! |----------------|-------------------------------------------------------------|
//! | [`kernel`]     | scalar functions as DataFusion runs them                    |
//! | [`list`]       | the functions there are, by name                            |
//! | [`fold`]       | aggregates of our own                                       |
//! | [`ordered`]    | the order of rows within an aggregate                       |
//! | [`convert`]    | conversions and sort keys                                   |
//! | [`arithmetic`] | `+ - * / %` on numbers                                      |
//! | [`math`]       | functions on numbers                                        |
//! | [`exact`]      | logarithms and powers of numbers, with all their digits     |
//! | [`text`]       | functions on text and bytes                                 |
//! | [`pattern`]    | LIKE, SIMILAR TO, regular expressions                       |
//! | [`datetime`]   | dates, times, intervals                                     |
//! | [`format`]     | values by template                                          |
//! | [`array`]      | arrays                                                      |
//! | [`json`]       | JSON                                                        |
//! | [`set`]        | functions that give sets                                    |
//! | [`names`]      | object identifiers and the names they stand for             |
//! | [`sequence`]   | numbers of sequences                                        |
//! | [`system`]     | functions about the session and the catalog                 |
//! | [`digest`]     | MD5 and base64                                              |
//! | [`random`]     | random numbers for queries                                  |

pub mod arithmetic;
pub mod array;
pub mod convert;
pub mod datetime;
pub mod digest;
pub mod exact;
pub mod fold;
pub mod format;
pub mod json;
pub mod kernel;
pub mod list;
pub mod math;
pub mod names;
pub mod ordered;
pub mod pattern;
pub mod random;
pub mod sequence;
pub mod set;
pub mod system;
pub mod text;
