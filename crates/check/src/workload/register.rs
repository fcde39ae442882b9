//! Registers: single statements, each a transaction of its own.

use super::{Answer, Attempt, Client, Failure, Session, number};
use crate::history::{Operation, Outcome, RegisterAccess, RegisterAction};

/// Registers in use at a time.
const REGISTERS: u64 = 4;
/// Operations after which the oldest goes out of use: short histories are judged quickly.
const OPERATIONS_A_REGISTER: u64 = 50;
/// Values that compare-and-set takes are few, so that some of them match.
const VALUES: u64 = 4;

pub(super) fn setup(prefix: &str) -> Vec<String> {
    vec![format!("CREATE TABLE {prefix}_registers (id bigint PRIMARY KEY, val bigint NOT NULL)")]
}

pub(super) async fn next<S: Session>(client: &mut Client, session: &mut S) -> Operation<RegisterAction> {
    let key = client.age / OPERATIONS_A_REGISTER + client.random.below(REGISTERS);
    let (table, value) = (format!("{}_registers", client.prefix), client.random.below(VALUES) as i64);
    let from = client.random.below(VALUES) as i64;
    let write = RegisterAccess::Write(Some(value));
    let (sql, asked) = match client.random.below(100) {
        0..40 => (format!("SELECT val FROM {table} WHERE id = {key}"), RegisterAccess::Read(None)),
        40..60 => (
            format!(
                "INSERT INTO {table} (id, val) VALUES ({key}, {value}) ON CONFLICT (id) DO UPDATE SET val = {value}"
            ),
            write,
        ),
        60..70 => (format!("DELETE FROM {table} WHERE id = {key}"), RegisterAccess::Write(None)),
        _ => (
            format!("UPDATE {table} SET val = {value} WHERE id = {key} AND val = {from}"),
            RegisterAccess::CompareAndSet { from: Some(from), to: Some(value), matched: false },
        ),
    };
    let invoked = session.now();
    let result = session.execute(&sql).await.and_then(|answer| seen(&asked, &answer));
    let completed = session.now();
    let (attempt, access) = match result {
        Ok(access) => (Attempt::OK, access),
        Err(failure) => (Attempt::deciding(&failure), asked),
    };
    debug_assert!(attempt.outcome != Outcome::Ok || attempt.error.is_none());
    client.line(invoked, completed, attempt, RegisterAction { key, access })
}

fn seen(asked: &RegisterAccess, answer: &Answer) -> Result<RegisterAccess, Failure> {
    Ok(match asked {
        RegisterAccess::Read(_) => RegisterAccess::Read(answer.rows.first().map(|row| number(row, 0)).transpose()?),
        RegisterAccess::Write(value) => RegisterAccess::Write(*value),
        RegisterAccess::CompareAndSet { from, to, .. } => {
            RegisterAccess::CompareAndSet { from: *from, to: *to, matched: answer.count > 0 }
        }
    })
}
