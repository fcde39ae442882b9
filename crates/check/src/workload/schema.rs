//! Definitions that change under use: some clients add and drop columns and
//! indexes, others write and read what these hold, by statements alone and in
//! transactions; some changes of definitions are rolled back.
//!
//! Defaults are negative and no two are alike; what is written into a column is the
//! row's own number. So a value says where it comes from.

use super::{Answer, Attempt, Client, Failure, Session, end, number};
use crate::history::{Existence, Operation, SchemaAction};

/// Columns, and indexes, in use at a time.
const IN_USE: u64 = 3;
/// Operations after which the oldest goes out of use: short histories are judged quickly.
const OPERATIONS_A_NAME: u64 = 50;
/// Operations after which rows go to another bucket: each read gives a whole one.
const OPERATIONS_A_BUCKET: u64 = 100;

pub(super) fn setup(prefix: &str) -> Vec<String> {
    vec![format!("CREATE TABLE {prefix}_shape (id bigint PRIMARY KEY, bucket bigint NOT NULL)")]
}

pub(super) async fn next<S: Session>(client: &mut Client, session: &mut S) -> Operation<SchemaAction> {
    let name = client.age / OPERATIONS_A_NAME + client.random.below(IN_USE);
    let bucket = client.age / OPERATIONS_A_BUCKET;
    match client.random.below(100) {
        0..11 => add_column(client, session, name).await,
        11..18 => drop_column(client, session, name).await,
        18..23 => make_index(client, session, name).await,
        23..27 => drop_index(client, session, name).await,
        27..55 => insert(client, session, name, bucket).await,
        55..65 => update(client, session, name).await,
        65..85 => read(client, session, name, bucket).await,
        _ => compare(client, session, bucket).await,
    }
}

/// Reads every bucket there was.
pub(super) async fn last<S: Session>(client: &mut Client, session: &mut S) -> Vec<Operation<SchemaAction>> {
    let mut operations = Vec::new();
    for bucket in 0..=client.age / OPERATIONS_A_BUCKET {
        operations.push(compare(client, session, bucket).await);
    }
    operations
}

async fn add_column<S: Session>(client: &mut Client, session: &mut S, column: u64) -> Operation<SchemaAction> {
    let default = -(client.unique(0) as i64);
    let sql = format!("ALTER TABLE {}_shape ADD COLUMN c{column} bigint DEFAULT {default}", client.prefix);
    let change = |change| SchemaAction::Column { column, default, change };
    define(client, session, &sql, ("42701", change(Existence::AlreadyThere)), change(Existence::Made)).await
}

async fn drop_column<S: Session>(client: &mut Client, session: &mut S, column: u64) -> Operation<SchemaAction> {
    let sql = format!("ALTER TABLE {}_shape DROP COLUMN c{column}", client.prefix);
    let change = |change| SchemaAction::Column { column, default: 0, change };
    define(client, session, &sql, ("42703", change(Existence::Absent)), change(Existence::Dropped)).await
}

async fn make_index<S: Session>(client: &mut Client, session: &mut S, index: u64) -> Operation<SchemaAction> {
    let prefix = &client.prefix;
    let sql = format!("CREATE INDEX {prefix}_shape_i{index} ON {prefix}_shape (bucket)");
    let change = |change| SchemaAction::Index { index, change };
    define(client, session, &sql, ("42P07", change(Existence::AlreadyThere)), change(Existence::Made)).await
}

async fn drop_index<S: Session>(client: &mut Client, session: &mut S, index: u64) -> Operation<SchemaAction> {
    let sql = format!("DROP INDEX {}_shape_i{index}", client.prefix);
    let change = |change| SchemaAction::Index { index, change };
    define(client, session, &sql, ("42704", change(Existence::Absent)), change(Existence::Dropped)).await
}

/// A change of definitions: alone, in a transaction, or in one that is rolled back.
async fn define<S: Session>(
    client: &mut Client,
    session: &mut S,
    sql: &str,
    (state, refused): (&str, SchemaAction),
    done: SchemaAction,
) -> Operation<SchemaAction> {
    let invoked = session.now();
    let (alone, taken_back) = (client.random.chance(70), client.random.chance(40));
    let (attempt, told) = if alone {
        let result = session.execute(sql).await;
        (result.as_ref().map_or_else(Attempt::deciding, |_| Attempt::OK), result.err())
    } else {
        let result = async {
            session.execute(&client.begin()).await?;
            session.execute(sql).await?;
            if taken_back { Err(rolled_back()) } else { Ok(()) }
        }
        .await;
        (end(session, &result).await, result.err())
    };
    // That the name is taken, or unknown, is an answer.
    if told.is_some_and(|failure| failure.is(state)) {
        return client.line(invoked, session.now(), Attempt::OK, refused);
    }
    client.line(invoked, session.now(), attempt, done)
}

fn rolled_back() -> Failure {
    Failure::Refused { sqlstate: "00000".into(), message: "rolled back by the client".into() }
}

async fn insert<S: Session>(client: &mut Client, session: &mut S, column: u64, bucket: u64) -> Operation<SchemaAction> {
    let (row, table) = (client.unique(0), format!("{}_shape", client.prefix));
    let column = client.random.chance(70).then_some(column);
    let sql = match column {
        Some(column) => format!("INSERT INTO {table} (id, bucket, c{column}) VALUES ({row}, {bucket}, {row})"),
        None => format!("INSERT INTO {table} (id, bucket) VALUES ({row}, {bucket})"),
    };
    let action = SchemaAction::Write { row, bucket, column, inserts: true, found: true, missing: false };
    let operation = write(client, session, &sql, action).await;
    if operation.is_ok() && matches!(operation.action, SchemaAction::Write { missing: false, .. }) {
        client.own_row = Some((row, bucket));
    }
    operation
}

/// Writes a column of the row that this client inserted last.
async fn update<S: Session>(client: &mut Client, session: &mut S, column: u64) -> Operation<SchemaAction> {
    let Some((row, bucket)) = client.own_row else { return insert(client, session, column, 0).await };
    let sql = format!("UPDATE {}_shape SET c{column} = id WHERE id = {row}", client.prefix);
    let action = SchemaAction::Write { row, bucket, column: Some(column), inserts: false, found: true, missing: false };
    write(client, session, &sql, action).await
}

async fn write<S: Session>(
    client: &mut Client,
    session: &mut S,
    sql: &str,
    action: SchemaAction,
) -> Operation<SchemaAction> {
    let invoked = session.now();
    let (attempt, told) = if client.random.chance(60) {
        let result = session.execute(sql).await;
        (result.as_ref().map_or_else(Attempt::deciding, |_| Attempt::OK), result)
    } else {
        let result = async {
            session.execute(&client.begin()).await?;
            session.execute(&format!("SELECT bucket FROM {}_shape WHERE id = 0", client.prefix)).await?;
            session.execute(sql).await
        }
        .await;
        (end(session, &result).await, result)
    };
    let completed = session.now();
    let SchemaAction::Write { row, bucket, column, inserts, .. } = action else {
        return client.line(invoked, completed, attempt, action);
    };
    let with = |found, missing| SchemaAction::Write { row, bucket, column, inserts, found, missing };
    match told {
        Err(failure) if column.is_some() && failure.is("42703") => {
            client.line(invoked, completed, Attempt::OK, with(true, true))
        }
        Err(_) => client.line(invoked, completed, attempt, action),
        Ok(answer) => client.line(invoked, completed, attempt, with(answer.count > 0, false)),
    }
}

async fn read<S: Session>(client: &mut Client, session: &mut S, column: u64, bucket: u64) -> Operation<SchemaAction> {
    let sql = format!("SELECT id, c{column} FROM {}_shape WHERE bucket = {bucket}", client.prefix);
    let invoked = session.now();
    let result = session.execute(&sql).await;
    let completed = session.now();
    let with = |rows, missing| SchemaAction::Read { column, bucket, rows, missing };
    let seen = |answer: &Answer| {
        let value = |row: &super::Row| match row.get(1) {
            Some(None) => Ok(None),
            _ => number(row, 1).map(Some),
        };
        answer.rows.iter().map(|row| Ok((number(row, 0)?, value(row)?))).collect::<Result<Vec<_>, Failure>>()
    };
    match result.as_ref().map(seen) {
        Ok(Ok(rows)) => client.line(invoked, completed, Attempt::OK, with(rows, false)),
        Err(failure) if failure.is("42703") => client.line(invoked, completed, Attempt::OK, with(Vec::new(), true)),
        Ok(Err(failure)) => client.line(invoked, completed, Attempt::failed(&failure), with(Vec::new(), false)),
        Err(failure) => client.line(invoked, completed, Attempt::failed(failure), with(Vec::new(), false)),
    }
}

/// The rows of a bucket by whatever index there is, and by a scan that none serves.
async fn compare<S: Session>(client: &mut Client, session: &mut S, bucket: u64) -> Operation<SchemaAction> {
    let table = format!("{}_shape", client.prefix);
    let invoked = session.now();
    let found = super::both_ways(session, &table, "bucket", bucket).await;
    let completed = session.now();
    let (attempt, (indexed, scanned)) = match found {
        Ok(found) => (Attempt::OK, found),
        Err(failure) => (Attempt::failed(&failure), Default::default()),
    };
    client.line(invoked, completed, attempt, SchemaAction::Compare { bucket, indexed, scanned })
}
