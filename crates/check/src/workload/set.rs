//! Sets: rows are inserted, alone and in transactions, and read by an index.

use super::{Attempt, Client, Session, end, number};
use crate::history::{Operation, SetAction};

/// Operations after which a new set is used: each read gives a whole set.
const OPERATIONS_A_SET: u64 = 200;

pub(super) fn setup(prefix: &str) -> Vec<String> {
    vec![
        format!("CREATE TABLE {prefix}_elements (element bigint PRIMARY KEY, owner bigint NOT NULL)"),
        format!("CREATE INDEX {prefix}_elements_owner ON {prefix}_elements (owner)"),
    ]
}

pub(super) async fn next<S: Session>(client: &mut Client, session: &mut S) -> Operation<SetAction> {
    let set = client.age / OPERATIONS_A_SET;
    if client.random.chance(15) {
        return read(client, session, set).await;
    }
    let element = client.unique(0);
    let sql = format!("INSERT INTO {}_elements (element, owner) VALUES ({element}, {set})", client.prefix);
    let alone = client.random.chance(50);
    let invoked = session.now();
    let attempt = if alone {
        session.execute(&sql).await.map_or_else(|failure| Attempt::deciding(&failure), |_| Attempt::OK)
    } else {
        let result = async {
            session.execute(&client.begin()).await?;
            session.execute(&sql).await
        }
        .await;
        end(session, &result).await
    };
    client.line(invoked, session.now(), attempt, SetAction::Add { set, element })
}

/// Reads every set there was.
pub(super) async fn last<S: Session>(client: &mut Client, session: &mut S) -> Vec<Operation<SetAction>> {
    let mut operations = Vec::new();
    for set in 0..=client.age / OPERATIONS_A_SET {
        operations.push(read(client, session, set).await);
    }
    operations
}

async fn read<S: Session>(client: &Client, session: &mut S, set: u64) -> Operation<SetAction> {
    let sql = format!("SELECT element FROM {}_elements WHERE owner = {set}", client.prefix);
    let invoked = session.now();
    let result = session.execute(&sql).await;
    let completed = session.now();
    let elements = result.and_then(|answer| answer.rows.iter().map(|row| number(row, 0)).collect());
    let (attempt, elements) = match elements {
        Ok(elements) => (Attempt::OK, elements),
        Err(failure) => (Attempt::failed(&failure), Vec::new()),
    };
    client.line(invoked, completed, attempt, SetAction::Read { set, elements })
}
