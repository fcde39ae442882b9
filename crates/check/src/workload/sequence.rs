//! Numbers from a sequence, some in transactions that are then rolled back.

use super::{Attempt, Client, Failure, Session, end, number};
use crate::history::{Operation, SequenceAction};

pub(super) fn setup(prefix: &str) -> Vec<String> {
    vec![format!("CREATE SEQUENCE {prefix}_numbers")]
}

pub(super) async fn next<S: Session>(client: &mut Client, session: &mut S) -> Operation<SequenceAction> {
    let (take, rolled_back) = (1 + client.random.below(4), client.random.chance(25));
    let invoked = session.now();
    let mut values = Vec::new();
    let mut result = async {
        session.execute(&client.begin()).await?;
        for _ in 0..take {
            let answer = session.execute(&format!("SELECT nextval('{}_numbers')", client.prefix)).await?;
            for row in &answer.rows {
                values.push(number(row, 0)?);
            }
        }
        Ok::<(), Failure>(())
    }
    .await;
    if rolled_back && result.is_ok() {
        result = Err(Failure::Refused { sqlstate: "00000".into(), message: "rolled back by the client".into() });
    }
    let attempt: Attempt = end(session, &result).await;
    client.line(invoked, session.now(), attempt, SequenceAction { sequence: 0, values })
}
