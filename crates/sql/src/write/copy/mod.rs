//! COPY: many rows as text, in and out.
//!
//! | module    | holds                                                     |
//! |-----------|-----------------------------------------------------------|
//! | [`options`] | what the options say                                    |
//! | [`lines`]   | where a row ends in a stream of bytes                   |
//! | [`fields`]  | the values of a row, read and written                   |
//! | [`input`]   | COPY FROM STDIN                                         |
//! | [`output`]  | COPY TO STDOUT                                          |

pub mod fields;
pub mod input;
pub mod lines;
pub mod options;
pub mod output;

pub use input::CopyIn;
pub use output::copy_out;

use datafusion::sql::sqlparser::ast::CopyTarget;

use crate::error::{Error, Result};

/// Only the client's own stream is read or written.
fn check_target(target: &CopyTarget, to: bool) -> Result<()> {
    match (target, to) {
        (CopyTarget::Stdin, false) | (CopyTarget::Stdout, true) => Ok(()),
        (CopyTarget::Stdin, true) | (CopyTarget::Stdout, false) => Ok(()),
        (CopyTarget::File { .. }, _) => Err(Error::unsupported("COPY to or from a file of the server")
            .hint("Use COPY FROM STDIN or TO STDOUT; psql's \\copy reads and writes files of the client.")),
        (CopyTarget::Program { .. }, _) => Err(Error::unsupported("COPY to or from a program")
            .hint("Use COPY FROM STDIN or TO STDOUT; psql's \\copy runs programs of the client.")),
    }
}
