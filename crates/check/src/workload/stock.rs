//! A stock under the eventual guarantee: sold, delivered, moved and read on every
//! node, whatever it can reach. Sessions take their causal token along when they
//! change nodes.

use super::{Attempt, Client, Failure, Session, end, number};
use crate::history::{Operation, Outcome, StockAction};
use crate::stock::PACK;

const ITEMS: u64 = 5;
/// Little enough that it runs out.
const OPENING: i64 = 40;

pub(super) fn setup(prefix: &str, acks: u32) -> Vec<String> {
    let rows: Vec<String> = (0..ITEMS).map(|item| format!("({item}, {OPENING}, 0)")).collect();
    vec![
        format!(
            "CREATE TABLE {prefix}_stock (id bigint PRIMARY KEY, pieces counter CHECK (pieces >= 0), sold counter) \
             WITH (guarantee = 'eventual', ack = {acks})"
        ),
        format!("INSERT INTO {prefix}_stock (id, pieces, sold) VALUES {}", rows.join(", ")),
    ]
}

pub(super) fn open() -> Operation<StockAction> {
    let action = StockAction::Open((0..ITEMS).map(|item| (item, OPENING)).collect());
    Operation { process: 0, invoked: 0, completed: 0, outcome: Outcome::Ok, action, error: None }
}

pub(super) async fn next<S: Session>(client: &mut Client, session: &mut S) -> Operation<StockAction> {
    client.resume(session).await;
    let item = client.random.below(ITEMS);
    let id = client.session();
    let table = format!("{}_stock", client.prefix);
    let amount = 1 + client.random.below(4) as i64;
    let operation = match client.random.below(100) {
        0..50 => {
            let sql =
                format!("UPDATE {table} SET pieces = pieces - {amount}, sold = sold + {amount} WHERE id = {item}");
            change(client, session, &[sql], StockAction::Sell { session: id, item, amount }).await
        }
        50..55 => {
            let sql = format!("UPDATE {table} SET pieces = pieces + {PACK} WHERE id = {item}");
            change(client, session, &[sql], StockAction::Deliver { session: id, item }).await
        }
        55..70 => {
            let to = (item + 1 + client.random.below(ITEMS - 1)) % ITEMS;
            let less = format!("UPDATE {table} SET pieces = pieces - {amount} WHERE id = {item}");
            let more = format!("UPDATE {table} SET pieces = pieces + {amount} WHERE id = {to}");
            change(client, session, &[less, more], StockAction::Move { session: id, from: item, to, amount }).await
        }
        _ => read(client, session, false).await,
    };
    client.take_token_along(session).await;
    operation
}

/// Runs the statements in one transaction, or one alone by itself. Rows that have not
/// reached the node yet are not changed.
async fn change<S: Session>(
    client: &mut Client,
    session: &mut S,
    statements: &[String],
    action: StockAction,
) -> Operation<StockAction> {
    let missing = || Failure::Refused { sqlstate: "02000".into(), message: "the row is not there yet".into() };
    let invoked = session.now();
    let alone = statements.len() == 1 && client.random.chance(70);
    let attempt = if alone {
        match session.execute(&statements[0]).await {
            Ok(answer) if answer.count == 0 => Attempt::failed(&missing()),
            Ok(_) => Attempt::OK,
            Err(failure) => Attempt::deciding(&failure),
        }
    } else {
        let result = async {
            session.execute("BEGIN").await?;
            for sql in statements {
                if session.execute(sql).await?.count == 0 {
                    return Err(missing());
                }
            }
            Ok(())
        }
        .await;
        end(session, &result).await
    };
    client.line(invoked, session.now(), attempt, action)
}

/// Reads everything at one moment.
pub(super) async fn read<S: Session>(client: &mut Client, session: &mut S, last: bool) -> Operation<StockAction> {
    let sql = format!("SELECT id, pieces, sold FROM {}_stock ORDER BY id", client.prefix);
    let invoked = session.now();
    let result = session.execute(&sql).await;
    let completed = session.now();
    let row = |row: &super::Row| Ok((number(row, 0)?, number(row, 1)?, number(row, 2)?));
    let seen = result.and_then(|answer| answer.rows.iter().map(row).collect::<Result<Vec<_>, Failure>>());
    let (attempt, rows) = match seen {
        Ok(rows) => (Attempt::OK, rows),
        Err(failure) => (Attempt::failed(&failure), Vec::new()),
    };
    client.line(invoked, completed, attempt, StockAction::Read { session: client.session(), rows, last })
}
