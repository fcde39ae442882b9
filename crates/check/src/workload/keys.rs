//! Unique and foreign keys: clients race for a few names, and insert children of
//! parents that others delete.

use super::{Attempt, Client, Failure, Session, number};
use crate::history::{KeyAction, Operation, ParentChange};

/// Names and parents in use at a time.
const IN_USE: u64 = 4;
/// Operations after which the oldest goes out of use: short histories are judged quickly.
const OPERATIONS_A_NAME: u64 = 40;

pub(super) fn setup(prefix: &str) -> Vec<String> {
    vec![
        format!("CREATE TABLE {prefix}_names (id bigint PRIMARY KEY, name bigint NOT NULL UNIQUE)"),
        format!("CREATE TABLE {prefix}_parents (id bigint PRIMARY KEY)"),
        format!(
            "CREATE TABLE {prefix}_children (id bigint PRIMARY KEY, parent bigint NOT NULL REFERENCES {prefix}_parents (id))"
        ),
    ]
}

pub(super) async fn next<S: Session>(client: &mut Client, session: &mut S) -> Operation<KeyAction> {
    let key = client.age / OPERATIONS_A_NAME + client.random.below(IN_USE);
    let (prefix, id) = (&client.prefix, client.unique(0));
    let change = |change| KeyAction::Parent { parent: key, change };
    let (sql, action) = match client.random.below(100) {
        0..30 => (
            format!("INSERT INTO {prefix}_names (id, name) VALUES ({id}, {key})"),
            KeyAction::Claim { name: key, taken: false },
        ),
        30..50 => {
            (format!("DELETE FROM {prefix}_names WHERE name = {key}"), KeyAction::Release { name: key, found: true })
        }
        50..65 => (format!("INSERT INTO {prefix}_parents (id) VALUES ({key})"), change(ParentChange::Inserted)),
        65..75 => (format!("DELETE FROM {prefix}_parents WHERE id = {key}"), change(ParentChange::Deleted)),
        75..95 => (
            format!("INSERT INTO {prefix}_children (id, parent) VALUES ({id}, {key})"),
            KeyAction::Adopt { parent: key, child: id, refused: false },
        ),
        95..98 => return names(client, session).await,
        _ => return children(client, session).await,
    };
    let invoked = session.now();
    let result = session.execute(&sql).await;
    let completed = session.now();
    let (attempt, action) = match result {
        Ok(answer) => (Attempt::OK, found(action, answer.count > 0)),
        Err(failure) => refused(&failure, action),
    };
    client.line(invoked, completed, attempt, action)
}

/// What a statement that went well says.
fn found(action: KeyAction, found: bool) -> KeyAction {
    match action {
        KeyAction::Release { name, .. } => KeyAction::Release { name, found },
        KeyAction::Parent { parent, change: ParentChange::Deleted } if !found => {
            KeyAction::Parent { parent, change: ParentChange::Absent }
        }
        other => other,
    }
}

/// What a refusal says: broken keys are answers.
fn refused(failure: &Failure, action: KeyAction) -> (Attempt, KeyAction) {
    let action = match action {
        KeyAction::Claim { name, .. } if failure.is("23505") => KeyAction::Claim { name, taken: true },
        KeyAction::Adopt { parent, child, .. } if failure.is("23503") => {
            KeyAction::Adopt { parent, child, refused: true }
        }
        KeyAction::Parent { parent, change: ParentChange::Inserted } if failure.is("23505") => {
            KeyAction::Parent { parent, change: ParentChange::AlreadyThere }
        }
        KeyAction::Parent { parent, change: ParentChange::Deleted } if failure.is("23503") => {
            KeyAction::Parent { parent, change: ParentChange::HasChildren }
        }
        other => return (Attempt::deciding(failure), other),
    };
    (Attempt::OK, action)
}

pub(super) async fn last<S: Session>(client: &mut Client, session: &mut S) -> Vec<Operation<KeyAction>> {
    vec![names(client, session).await, children(client, session).await]
}

async fn names<S: Session>(client: &Client, session: &mut S) -> Operation<KeyAction> {
    let invoked = session.now();
    let result = session.execute(&format!("SELECT name FROM {}_names ORDER BY id", client.prefix)).await;
    let completed = session.now();
    let names = result.and_then(|answer| answer.rows.iter().map(|row| number(row, 0)).collect());
    let (attempt, names) = split(names);
    client.line(invoked, completed, attempt, KeyAction::Names(names))
}

async fn children<S: Session>(client: &Client, session: &mut S) -> Operation<KeyAction> {
    let sql = format!(
        "SELECT c.id, c.parent, p.id FROM {0}_children c LEFT JOIN {0}_parents p ON p.id = c.parent",
        client.prefix
    );
    let invoked = session.now();
    let result = session.execute(&sql).await;
    let completed = session.now();
    let children = result.and_then(|answer| {
        let child = |row| Ok((number(row, 0)?, number(row, 1)?, row.get(2).is_some_and(Option::is_some)));
        answer.rows.iter().map(child).collect()
    });
    let (attempt, children) = split(children);
    client.line(invoked, completed, attempt, KeyAction::Children(children))
}

/// A read without an answer tells nothing.
fn split<T>(result: Result<Vec<T>, Failure>) -> (Attempt, Vec<T>) {
    match result {
        Ok(rows) => (Attempt::OK, rows),
        Err(failure) => (Attempt::failed(&failure), Vec::new()),
    }
}
