//! Errors of the floor below in the words of SQL: the one place where they are
//! translated.

use polity_base::text::calendar;
use polity_base::{Class, NodeId, Timestamp};
use polity_txn::error::shown;
use polity_txn::{Error as Below, Outage, Wanted};

use super::prepared::Prepared;
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
        Below::Unknown(why) => unknown(&why),
        Below::Unavailable(outage) => unavailable(&outage),
        Below::TooStale { newest, wanted, outage, .. } => {
            let wish = match wanted {
                Wanted::At(at) => format!("the state of {} was asked for", utc(at)),
                Wanted::Within(age) => format!("at most {} were allowed", shown(age)),
            };
            Error::new(Condition::NoQuorum, format!("{message}, and a newer one cannot be had"))
                .detail(format!("It is of {}; {wish}. {}", utc(newest), facts(&outage)))
                .hint(
                    "Allow an older state with SET polity.staleness, read what there is with AS OF SYSTEM TIME \
                     follower_read_timestamp(), or ask a node that reaches a majority.",
                )
        }
        Below::TooLarge { limit } => Error::new(Condition::ProgramLimitExceeded, "the transaction is too large")
            .detail(format!("A transaction may write up to {limit} bytes."))
            .hint("Split it into smaller transactions; a table created or truncated in the same transaction can be loaded without this limit."),
        Below::ReadOnly => {
            Error::new(Condition::ReadOnlySqlTransaction, "cannot execute a statement that writes in a read-only transaction")
        }
        Below::TooOld { at, oldest } => {
            Error::new(Condition::ObjectNotInPrerequisiteState, format!("the state of {} is no longer kept", utc(at)))
                .detail(format!("The oldest state that is kept here is of {}.", utc(oldest)))
                .hint("Begin a new transaction, or read a later state.")
        }
        Below::InTheFuture(at) => {
            Error::new(Condition::InvalidParameterValue, format!("{} lies in the future", utc(at)))
                .hint("Read the present by leaving out AS OF SYSTEM TIME.")
        }
        Below::Mixed { .. } => Error::new(Condition::MixedGuarantees, message)
            .detail("One transaction writes tables of one guarantee: what is agreed in two ways cannot be atomic.")
            .hint("Commit before writing tables of another guarantee."),
        Below::Eventual(error) => super::eventual::of_replica(&error),
        Below::Ledger(error) => super::byzantine::of_ledger(&error),
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

fn unknown(why: &str) -> Error {
    Error::new(Condition::StatementCompletionUnknown, "it is not known whether the transaction was committed")
        .detail(format!(
            "{}. It was handed over, and no answer came back: it took effect as a whole or not at all, or will within \
             moments.",
            capitalised(why.trim_end_matches('.'))
        ))
        .hint(
            "Look for what it would have written, best by a key that it alone would have inserted, before you repeat it; \
             repeating is safe if it would only do the same again.",
        )
}

fn unavailable(outage: &Outage) -> Error {
    Error::new(Condition::NoQuorum, "too few replicas can be reached to read the latest state or to write")
        .detail(format!("{} Nothing was changed.", facts(outage)))
        .hint(
            "What this node knows can be read with SET polity.staleness = '1h', or SELECT ... AS OF SYSTEM TIME \
             follower_read_timestamp(). Everything else goes on by itself once a majority of the replicas is reachable; \
             retry then, or connect to a node that reaches one.",
        )
}

/// Who does not answer, and since when; or whatever is known.
fn facts(outage: &Outage) -> String {
    let since = outage.since.map_or_else(String::new, |since| format!(" since {}", utc(since)));
    match outage.unreachable.as_slice() {
        [] => format!("{}.", capitalised(outage.why.trim_end_matches('.'))),
        [node] => format!("Node {} cannot be reached from here{since}.", node.0),
        [nodes @ .., last] => {
            let nodes: Vec<String> = nodes.iter().map(|NodeId(node)| node.to_string()).collect();
            format!("Nodes {} and {} cannot be reached from here{since}.", nodes.join(", "), last.0)
        }
    }
}

/// Names the tables of the statement in a refusal that does not yet.
pub(super) fn naming_tables(error: Error, prepared: &Prepared) -> Error {
    if error.condition() != Condition::NoQuorum || error.table_name().is_some() {
        return error;
    }
    let tables: Vec<String> = prepared.relations().into_iter().map(|name| format!("\"{name}\"")).collect();
    let subject = match tables.as_slice() {
        [] => return error,
        [table] => format!("table {table}"),
        tables => format!("tables {}", tables.join(", ")),
    };
    let first = prepared.relations().into_iter().next().unwrap_or_default();
    let message = format!("{subject}: {}", error.message());
    error.with_message(message).table(first)
}

/// To the second, which is what people compare with their clocks.
fn utc(at: Timestamp) -> String {
    let mut text = String::new();
    let seconds = at.unix_micros().div_euclid(1_000_000) * 1_000_000;
    // Writing to a string does not fail.
    let _ = calendar::write_timestamp(seconds, &mut text);
    format!("{text} UTC")
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + chars.as_str())
}
