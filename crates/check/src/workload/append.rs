//! Transactions on lists: one row a list, elements separated by commas.
//!
//! Drawn from a wide grammar: lists are read by key, by a range of keys, by a
//! secondary index, and with FOR UPDATE; elements are appended by UPDATE, by
//! INSERT … ON CONFLICT, and by reading the list and writing it back; some appends
//! are taken back by ROLLBACK TO SAVEPOINT, which nobody must ever see. A list
//! that has no row yet is empty, so range reads and index reads meet phantoms.

use super::{Answer, Attempt, Client, Failure, Isolation, Session, end, number};
use crate::history::{Access, Operation, Transaction};

/// Lists in use at a time.
const LISTS: u64 = 8;
/// Operations after which the oldest list goes out of use and a new one comes.
const OPERATIONS_A_LIST: u64 = 40;
/// Lists share an index entry by their number modulo this.
const BUCKETS: u64 = 3;

pub(super) fn setup(prefix: &str) -> Vec<String> {
    vec![
        format!("CREATE TABLE {prefix}_lists (id bigint PRIMARY KEY, bucket bigint NOT NULL, val text NOT NULL)"),
        format!("CREATE INDEX {prefix}_lists_bucket ON {prefix}_lists (bucket)"),
    ]
}

pub(super) async fn next<S: Session>(client: &mut Client, session: &mut S) -> Operation<Transaction> {
    let invoked = session.now();
    let mut run = Run { accesses: Vec::new(), appended: 0, inside: false };
    let result = run.transaction(client, session).await;
    let attempt = end(session, &result).await;
    client.line(invoked, session.now(), attempt, Transaction(run.accesses))
}

/// Reads all lists there ever were, some at a time.
pub(super) async fn last<S: Session>(client: &mut Client, session: &mut S) -> Vec<Operation<Transaction>> {
    let mut operations = Vec::new();
    let end_key = client.age / OPERATIONS_A_LIST + LISTS;
    for first in (0..end_key).step_by(100) {
        let invoked = session.now();
        let mut run = Run { accesses: Vec::new(), appended: 0, inside: false };
        let result = run.range(client, session, first, (first + 99).min(end_key)).await;
        let attempt = result.map_or_else(|failure| Attempt::failed(&failure), |()| Attempt::OK);
        operations.push(client.line(invoked, session.now(), attempt, Transaction(run.accesses)));
    }
    operations
}

/// A transaction under way.
struct Run {
    accesses: Vec<Access>,
    appended: u64,
    /// Within a savepoint that will be rolled back.
    inside: bool,
}

impl Run {
    async fn transaction<S: Session>(&mut self, client: &mut Client, session: &mut S) -> Result<(), Failure> {
        session.execute(&client.begin()).await?;
        for _ in 0..1 + client.random.below(4) {
            if client.random.chance(10) {
                self.savepoint(client, session).await?;
            } else {
                self.access(client, session).await?;
            }
        }
        Ok(())
    }

    async fn savepoint<S: Session>(&mut self, client: &mut Client, session: &mut S) -> Result<(), Failure> {
        session.execute("SAVEPOINT s").await?;
        self.inside = client.random.chance(60);
        let result = self.access(client, session).await;
        if std::mem::take(&mut self.inside) {
            result?;
            session.execute("ROLLBACK TO SAVEPOINT s").await?;
        } else {
            result?;
            session.execute("RELEASE SAVEPOINT s").await?;
        }
        Ok(())
    }

    async fn access<S: Session>(&mut self, client: &mut Client, session: &mut S) -> Result<(), Failure> {
        let oldest = client.age / OPERATIONS_A_LIST;
        let key = oldest + client.random.below(LISTS);
        let locking = client.isolation == Isolation::ReadCommitted;
        match client.random.below(100) {
            0..25 => self.point(client, session, key, "").await,
            25..32 => self.point(client, session, key, " FOR UPDATE").await,
            32..42 => {
                let width = client.random.below(3);
                self.range(client, session, key, key + width).await
            }
            42..50 => self.bucket(client, session, key % BUCKETS, oldest).await,
            50..70 => self.upsert(client, session, key).await,
            70..90 => self.update(client, session, key).await,
            // Without a lock this loses updates under READ COMMITTED, as it may.
            _ => self.write_back(client, session, key, locking).await,
        }
    }

    async fn point<S: Session>(
        &mut self,
        client: &Client,
        session: &mut S,
        key: u64,
        locking: &str,
    ) -> Result<(), Failure> {
        let sql = format!("SELECT id, val FROM {}_lists WHERE id = {key}{locking}", client.prefix);
        let answer = session.execute(&sql).await?;
        self.saw(&answer, key..=key)
    }

    async fn range<S: Session>(
        &mut self,
        client: &Client,
        session: &mut S,
        first: u64,
        last: u64,
    ) -> Result<(), Failure> {
        let sql =
            format!("SELECT id, val FROM {}_lists WHERE id >= {first} AND id <= {last} ORDER BY id", client.prefix);
        let answer = session.execute(&sql).await?;
        self.saw(&answer, first..=last)
    }

    /// By the secondary index; of what it gives, lists in use count.
    async fn bucket<S: Session>(
        &mut self,
        client: &Client,
        session: &mut S,
        bucket: u64,
        oldest: u64,
    ) -> Result<(), Failure> {
        let sql = format!("SELECT id, val FROM {}_lists WHERE bucket = {bucket} AND id >= {oldest}", client.prefix);
        let answer = session.execute(&sql).await?;
        self.saw(&answer, (oldest..oldest + LISTS).filter(|key| key % BUCKETS == bucket))
    }

    async fn upsert<S: Session>(&mut self, client: &Client, session: &mut S, key: u64) -> Result<(), Failure> {
        let element = self.element(client);
        let sql = insert(client, key, element)
            + &format!(" ON CONFLICT (id) DO UPDATE SET val = {}_lists.val || ',{element}'", client.prefix);
        // Written down before it is sent: if the answer is lost, the element may be there.
        self.append(key, element);
        session.execute(&sql).await.map(|_| ())
    }

    async fn update<S: Session>(&mut self, client: &Client, session: &mut S, key: u64) -> Result<(), Failure> {
        let element = self.element(client);
        self.append(key, element);
        let sql = format!("UPDATE {}_lists SET val = val || ',{element}' WHERE id = {key}", client.prefix);
        if session.execute(&sql).await?.count == 0 {
            session.execute(&insert(client, key, element)).await?;
        }
        Ok(())
    }

    async fn write_back<S: Session>(
        &mut self,
        client: &Client,
        session: &mut S,
        key: u64,
        locking: bool,
    ) -> Result<(), Failure> {
        self.point(client, session, key, if locking { " FOR UPDATE" } else { "" }).await?;
        let element = self.element(client);
        let seen = match self.accesses.last() {
            Some(Access::Read { elements: Some(elements), .. }) if !self.inside => elements.clone(),
            // What is read within a savepoint that is rolled back is not kept.
            _ => return self.upsert(client, session, key).await,
        };
        self.append(key, element);
        if seen.is_empty() {
            return session.execute(&insert(client, key, element)).await.map(|_| ());
        }
        let list: Vec<String> = seen.iter().chain([&element]).map(u64::to_string).collect();
        let sql = format!("UPDATE {}_lists SET val = '{}' WHERE id = {key}", client.prefix, list.join(","));
        session.execute(&sql).await.map(|_| ())
    }

    fn element(&mut self, client: &Client) -> u64 {
        self.appended += 1;
        client.unique(self.appended)
    }

    fn append(&mut self, key: u64, element: u64) {
        self.accesses.push(Access::Append { key, element, undone: self.inside });
    }

    /// Writes down what was seen of each list; those without a row are empty.
    fn saw(&mut self, answer: &Answer, keys: impl IntoIterator<Item = u64>) -> Result<(), Failure> {
        let mut lists = std::collections::HashMap::new();
        for row in &answer.rows {
            let text = row.get(1).cloned().flatten().unwrap_or_default();
            let elements: Result<Vec<u64>, _> = text.split(',').map(str::parse).collect();
            let strange = |_| Failure::Lost(format!("the server answered {text:?} for a list"));
            lists.insert(number::<u64>(row, 0)?, elements.map_err(strange)?);
        }
        if !self.inside {
            let read = |key| Access::Read { key, elements: Some(lists.remove(&key).unwrap_or_default()) };
            self.accesses.extend(keys.into_iter().map(read));
        }
        Ok(())
    }
}

fn insert(client: &Client, key: u64, element: u64) -> String {
    format!("INSERT INTO {}_lists (id, bucket, val) VALUES ({key}, {}, '{element}')", client.prefix, key % BUCKETS)
}
