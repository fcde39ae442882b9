//! Errors of the floor below in the words of SQL.

use polity_base::Class;
use polity_txn::Error as Below;

use crate::error::{Condition, Error};

/// What a transaction's error means to a PostgreSQL user.
pub(super) fn of_transaction(error: Below) -> Error {
    let message = error.to_string();
    match error {
        Below::Conflict(_) | Below::Exists(_) | Below::Missing(_) => {
            Error::new(Condition::SerializationFailure, "could not serialize access due to concurrent update")
                .detail(format!("{}.", capitalised(&message)))
                .hint("The transaction might succeed if retried.")
        }
        Below::Deadlock(waits) => {
            let each: Vec<String> =
                waits.iter().map(|w| format!("Transaction {} waits for {}.", w.waiter, w.key)).collect();
            Error::new(Condition::DeadlockDetected, "deadlock detected")
                .detail(each.join("\n"))
                .hint("The transaction might succeed if retried; lock rows in the same order everywhere to avoid this.")
        }
        Below::LockNotAvailable { timed_out: true, .. } => {
            Error::new(Condition::LockNotAvailable, "canceling statement due to lock timeout")
                .detail(format!("{}.", capitalised(&message)))
                .hint("Raise lock_timeout, or retry.")
        }
        Below::LockNotAvailable { .. } => {
            Error::new(Condition::LockNotAvailable, "could not obtain lock on row").detail(format!("{}.", capitalised(&message)))
        }
        Below::Unknown(why) => Error::new(Condition::StatementCompletionUnknown, "it is not known whether the transaction was committed")
            .detail(why)
            .hint("Look for the transaction's effect before trying again."),
        Below::Unavailable(why) => Error::new(Condition::NoQuorum, "the table is not available").detail(why),
        Below::TooLarge { limit } => Error::new(Condition::ProgramLimitExceeded, "the transaction is too large")
            .detail(format!("A transaction may write up to {limit} bytes."))
            .hint("Split it into smaller transactions; a table created or truncated in the same transaction can be loaded without this limit."),
        Below::ReadOnly => {
            Error::new(Condition::ReadOnlySqlTransaction, "cannot execute a statement that writes in a read-only transaction")
        }
        Below::TooOld { .. } | Below::InTheFuture(_) => Error::new(Condition::ObjectNotInPrerequisiteState, message)
            .hint("Begin a new transaction."),
        Below::Misuse(what) => Error::internal(what),
        Below::Replica { class, .. } => {
            let condition = match class {
                Class::Corrupt => Condition::DataCorrupted,
                Class::Resource => Condition::DiskFull,
                Class::Unavailable => Condition::NoQuorum,
                Class::Unknown => Condition::StatementCompletionUnknown,
                Class::Retry => Condition::CannotConnectNow,
                Class::Conflict => Condition::SerializationFailure,
                Class::Input | Class::Bug => Condition::InternalError,
            };
            Error::new(condition, message)
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + chars.as_str())
}
