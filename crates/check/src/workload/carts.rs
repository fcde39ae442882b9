//! Carts under the eventual guarantee: things are put in and taken out, notes are
//! written, carts are deleted, on every node, whatever it can reach. Sessions take
//! their causal token along when they change nodes.

use super::{Answer, Attempt, Client, Failure, Session, end, number};
use crate::history::{CartAction, Operation, SeenCart};

/// Carts in use at a time.
const CARTS: u64 = 4;
/// Operations after which the oldest goes out of use and a new one comes.
const OPERATIONS_A_CART: u64 = 60;
/// Carts share an index entry by their number modulo this.
const OWNERS: u64 = 3;

pub(super) fn setup(prefix: &str, acks: u32) -> Vec<String> {
    vec![
        format!(
            "CREATE TABLE {prefix}_carts (id bigint PRIMARY KEY, owner bigint NOT NULL, note bigint, \
             items set_of(bigint)) WITH (guarantee = 'eventual', ack = {acks})"
        ),
        format!("CREATE INDEX {prefix}_carts_owner ON {prefix}_carts (owner)"),
    ]
}

pub(super) async fn next<S: Session>(client: &mut Client, session: &mut S) -> Operation<CartAction> {
    client.resume(session).await;
    let cart = client.age / OPERATIONS_A_CART + client.random.below(CARTS);
    let seen = client.seen_cart.clone().filter(|_| client.random.chance(80));
    let operation = match (client.random.below(100), seen) {
        (0..40, _) => add(client, session, cart).await,
        (40..58, Some((cart, elements))) if !elements.is_empty() => {
            let element = *client.random.pick(&elements);
            remove(client, session, cart, element).await
        }
        (58..72, _) => note(client, session, cart).await,
        (72..75, Some((cart, elements))) => delete(client, session, cart, elements).await,
        (75..82, _) => compare(client, session, cart % OWNERS).await,
        _ => read(client, session, cart).await,
    };
    client.take_token_along(session).await;
    operation
}

/// A statement alone, or in a transaction with a read before it.
async fn execute<S: Session>(
    client: &mut Client,
    session: &mut S,
    sql: &str,
    with: impl FnOnce(bool) -> CartAction,
) -> Operation<CartAction> {
    let invoked = session.now();
    let (attempt, answer) = if client.random.chance(75) {
        let result = session.execute(sql).await;
        (result.as_ref().map_or_else(Attempt::deciding, |_| Attempt::OK), result)
    } else {
        let result = async {
            session.execute("BEGIN").await?;
            session.execute(&format!("SELECT count(*) FROM {}_carts", client.prefix)).await?;
            session.execute(sql).await
        }
        .await;
        (end(session, &result).await, result)
    };
    client.line(invoked, session.now(), attempt, with(answer.is_ok_and(|answer| answer.count > 0)))
}

async fn add<S: Session>(client: &mut Client, session: &mut S, cart: u64) -> Operation<CartAction> {
    let (element, table, id) = (client.unique(0), format!("{}_carts", client.prefix), client.session());
    let sql = format!(
        "INSERT INTO {table} (id, owner, items) VALUES ({cart}, {}, '{{{element}}}') ON CONFLICT (id) DO UPDATE SET \
         items = array_append({table}.items, {element})",
        cart % OWNERS
    );
    execute(client, session, &sql, |_| CartAction::Add { session: id, cart, element }).await
}

async fn remove<S: Session>(client: &mut Client, session: &mut S, cart: u64, element: u64) -> Operation<CartAction> {
    let id = client.session();
    let sql = format!("UPDATE {}_carts SET items = array_remove(items, {element}) WHERE id = {cart}", client.prefix);
    execute(client, session, &sql, |found| CartAction::Remove { session: id, cart, element, found }).await
}

async fn note<S: Session>(client: &mut Client, session: &mut S, cart: u64) -> Operation<CartAction> {
    let (value, id) = (client.unique(0) as i64, client.session());
    let sql = format!("UPDATE {}_carts SET note = {value} WHERE id = {cart}", client.prefix);
    execute(client, session, &sql, |found| CartAction::Note { session: id, cart, value, found }).await
}

async fn delete<S: Session>(client: &mut Client, session: &mut S, cart: u64, seen: Vec<u64>) -> Operation<CartAction> {
    let id = client.session();
    client.seen_cart = None;
    let sql = format!("DELETE FROM {}_carts WHERE id = {cart}", client.prefix);
    execute(client, session, &sql, |found| CartAction::Delete { session: id, cart, seen, found }).await
}

async fn read<S: Session>(client: &mut Client, session: &mut S, cart: u64) -> Operation<CartAction> {
    let sql = format!("SELECT id, note, items FROM {}_carts WHERE id = {cart}", client.prefix);
    let operation = see(client, session, &sql, vec![cart], false).await;
    if let (true, CartAction::Read { seen, .. }) = (operation.is_ok(), &operation.action) {
        client.seen_cart = seen.first().map(|seen| (cart, seen.elements.clone()));
    }
    operation
}

/// Reads all there is, for the end.
pub(super) async fn last<S: Session>(client: &mut Client, session: &mut S) -> Operation<CartAction> {
    let sql = format!("SELECT id, note, items FROM {}_carts ORDER BY id", client.prefix);
    see(client, session, &sql, Vec::new(), true).await
}

async fn see<S: Session>(
    client: &mut Client,
    session: &mut S,
    sql: &str,
    asked: Vec<u64>,
    last: bool,
) -> Operation<CartAction> {
    let invoked = session.now();
    let result = session.execute(sql).await;
    let completed = session.now();
    let (attempt, seen) = match result.and_then(|answer| carts(&answer)) {
        Ok(seen) => (Attempt::OK, seen),
        Err(failure) => (Attempt::failed(&failure), Vec::new()),
    };
    let session = client.session();
    client.line(invoked, completed, attempt, CartAction::Read { session, asked, seen, last })
}

fn carts(answer: &Answer) -> Result<Vec<SeenCart>, Failure> {
    let cart = |row: &super::Row| {
        let note = match row.get(1) {
            Some(None) => None,
            _ => Some(number(row, 1)?),
        };
        let text = row.get(2).cloned().flatten().unwrap_or_default();
        let inner = text.trim_matches(['{', '}']);
        let elements: Result<Vec<u64>, _> = inner.split(',').filter(|e| !e.is_empty()).map(str::parse).collect();
        let strange = |_| Failure::Lost(format!("the server answered {text:?} for a set"));
        Ok(SeenCart { cart: number(row, 0)?, note, elements: elements.map_err(strange)? })
    };
    answer.rows.iter().map(cart).collect()
}

/// The carts of an owner by the index, and by a scan that it does not serve.
async fn compare<S: Session>(client: &mut Client, session: &mut S, owner: u64) -> Operation<CartAction> {
    let table = format!("{}_carts", client.prefix);
    let invoked = session.now();
    let found = super::both_ways(session, &table, "owner", owner).await;
    let completed = session.now();
    let (attempt, (indexed, scanned)) = match found {
        Ok(found) => (Attempt::OK, found),
        Err(failure) => (Attempt::failed(&failure), Default::default()),
    };
    let session = client.session();
    client.line(invoked, completed, attempt, CartAction::Compare { session, owner, indexed, scanned })
}
