//! A bank: transfers in several forms, and reads of all balances.

use super::{Attempt, Client, Failure, Isolation, Session, end, number};
use crate::history::{BankAction, Operation, Outcome};

const ACCOUNTS: u64 = 8;
const OPENING: i64 = 100;

pub(super) fn setup(prefix: &str) -> Vec<String> {
    let rows: Vec<String> = (0..ACCOUNTS).map(|account| format!("({account}, {OPENING})")).collect();
    vec![
        format!("CREATE TABLE {prefix}_accounts (id bigint PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0))"),
        format!("INSERT INTO {prefix}_accounts VALUES {}", rows.join(", ")),
    ]
}

pub(super) fn open() -> Operation<BankAction> {
    let action = BankAction::Open((0..ACCOUNTS).map(|account| (account, OPENING)).collect());
    Operation { process: 0, invoked: 0, completed: 0, outcome: Outcome::Ok, action, error: None }
}

pub(super) async fn next<S: Session>(client: &mut Client, session: &mut S) -> Operation<BankAction> {
    if client.random.chance(40) {
        return read(client, session).await;
    }
    let from = client.random.below(ACCOUNTS);
    let to = (from + 1 + client.random.below(ACCOUNTS - 1)) % ACCOUNTS;
    let amount = 1 + client.random.below(60) as i64;
    let invoked = session.now();
    // What the client read without a lock may have changed underneath it at READ COMMITTED, rightly.
    let locking = client.isolation == Isolation::ReadCommitted || client.random.chance(50);
    let relative = client.random.chance(50);
    let result = async {
        session.execute(&client.begin()).await?;
        if relative {
            by_update(client, session, from, to, amount).await
        } else {
            by_hand(client, session, from, to, amount, locking).await
        }
    }
    .await;
    let attempt = end(session, &result).await;
    // If nobody knows, then what was tried.
    let applied = result.unwrap_or(true);
    client.line(invoked, session.now(), attempt, BankAction::Transfer { from, to, amount, applied })
}

/// The server computes the new balances.
async fn by_update<S: Session>(
    client: &Client,
    session: &mut S,
    from: u64,
    to: u64,
    amount: i64,
) -> Result<bool, Failure> {
    let table = format!("{}_accounts", client.prefix);
    let take = format!("UPDATE {table} SET balance = balance - {amount} WHERE id = {from} AND balance >= {amount}");
    if session.execute(&take).await?.count == 0 {
        return Ok(false);
    }
    session.execute(&format!("UPDATE {table} SET balance = balance + {amount} WHERE id = {to}")).await?;
    Ok(true)
}

/// The client reads both balances, computes, and writes both back.
async fn by_hand<S: Session>(
    client: &Client,
    session: &mut S,
    from: u64,
    to: u64,
    amount: i64,
    locking: bool,
) -> Result<bool, Failure> {
    let table = format!("{}_accounts", client.prefix);
    let lock = if locking { " FOR UPDATE" } else { "" };
    let mut balances = [0i64; 2];
    for (balance, account) in balances.iter_mut().zip([from, to]) {
        let answer = session.execute(&format!("SELECT balance FROM {table} WHERE id = {account}{lock}")).await?;
        *balance = answer.rows.first().map(|row| number(row, 0)).transpose()?.unwrap_or_default();
    }
    if balances[0] < amount {
        return Ok(false);
    }
    for (account, balance) in [(from, balances[0] - amount), (to, balances[1] + amount)] {
        session.execute(&format!("UPDATE {table} SET balance = {balance} WHERE id = {account}")).await?;
    }
    Ok(true)
}

/// Reads all balances: in one statement, or, where a transaction has one
/// snapshot, one by one.
pub(super) async fn read<S: Session>(client: &mut Client, session: &mut S) -> Operation<BankAction> {
    let one_by_one = client.isolation != Isolation::ReadCommitted && client.random.chance(30);
    let table = format!("{}_accounts", client.prefix);
    let invoked = session.now();
    let mut balances = Vec::new();
    let result = async {
        session.execute(&client.begin()).await?;
        let all = format!("SELECT id, balance FROM {table} ORDER BY id");
        let statements: Vec<String> = match one_by_one {
            false => vec![all],
            true => (0..ACCOUNTS).map(|n| format!("SELECT id, balance FROM {table} WHERE id = {n}")).collect(),
        };
        for sql in statements {
            for row in &session.execute(&sql).await?.rows {
                balances.push((number(row, 0)?, number(row, 1)?));
            }
        }
        Ok(())
    }
    .await;
    let attempt: Attempt = end(session, &result).await;
    client.line(invoked, session.now(), attempt, BankAction::Read(balances))
}
