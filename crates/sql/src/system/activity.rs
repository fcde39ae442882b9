//! Sessions and locks: `pg_stat_activity`, `pg_locks`, and ending what others run.

use std::net::SocketAddr;

use polity_base::{TableId, Value};
use polity_txn::{ListedLock, LockMode};

use super::shape::Fill;
use super::{DATABASE_ID, Rows, SystemInput, bool, oid, text};
use crate::catalog::{Catalog, store};
use crate::error::{Condition, Error, Result};
use crate::session::Engine;

/// A session as `pg_stat_activity` shows it. Moments are microseconds since 1970 UTC.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Activity {
    /// Its number
    pub session: u32,
    /// Its user
    pub user: String,
    /// What its client calls itself
    pub application: String,
    /// The address its client connects from
    pub client: Option<SocketAddr>,
    /// When it began
    pub began: i64,
    /// When its transaction began
    pub transaction_began: Option<i64>,
    /// When its statement began
    pub statement_began: Option<i64>,
    /// Since when its state is what it is
    pub state_since: i64,
    /// `active`, `idle`, `idle in transaction`, `idle in transaction (aborted)`
    pub state: &'static str,
    /// Whether it waits for a lock
    pub waits: bool,
    /// Its statement, or its last one
    pub statement: String,
}

/// A lock as `pg_locks` shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Lock {
    /// The relation that is locked, or of which a row is; `None`: another entry of the catalog
    pub relation: Option<TableId>,
    /// Whether it is a row's
    pub row: bool,
    /// Whose it is: the session, if it is one of this node's
    pub session: Option<u32>,
    /// The transaction, as `node/number`
    pub transaction: String,
    /// In which mode
    pub mode: LockMode,
    /// Whether it is held, and not waited for
    pub granted: bool,
}

/// The sessions of this node, now.
pub(crate) fn sessions(engine: &Engine) -> Vec<Activity> {
    let waiting: Vec<_> = engine.database().lock_waits().into_iter().map(|w| w.waiter).collect();
    let shown = |presence: std::sync::Arc<crate::session::activity::Presence>| {
        let doing = presence.doing();
        Activity {
            session: presence.number,
            user: presence.user.clone(),
            application: doing.application,
            client: presence.client(),
            began: presence.began,
            transaction_began: doing.transaction.map(|t| t.1),
            statement_began: doing.statement_began,
            state_since: doing.state_since,
            state: doing.state.name(),
            waits: doing.transaction.is_some_and(|t| waiting.contains(&t.0)),
            statement: doing.statement.map(|s| s.text().to_owned()).unwrap_or_default(),
        }
    };
    engine.sessions().all().into_iter().map(shown).collect()
}

/// The locks kept on this node, now.
pub(crate) fn locks(engine: &Engine, catalog: &Catalog) -> Vec<Lock> {
    let sessions = engine.sessions().all();
    let session_of = |lock: &ListedLock| {
        let its = |t: Option<(polity_txn::TransactionId, i64)>| t.is_some_and(|t| t.0 == lock.owner);
        sessions.iter().find(|s| its(s.doing().transaction)).map(|s| s.number)
    };
    let shown = |lock: ListedLock| {
        let storage = lock.key.0.first_chunk::<4>().map(|b| u32::from_be_bytes(*b));
        let of_storage = catalog
            .tables
            .values()
            .find(|t| Some(t.primary.storage.0) == storage || t.indexes.iter().any(|i| Some(i.storage.0) == storage));
        let definition = || catalog.tables.keys().find(|id| store::table_key(**id) == lock.key).copied();
        Lock {
            relation: of_storage.map(|t| t.id).or_else(definition),
            row: of_storage.is_some(),
            session: session_of(&lock),
            transaction: lock.owner.to_string(),
            mode: lock.mode,
            granted: lock.granted,
        }
    };
    engine.database().locks().into_iter().map(shown).collect()
}

pub(super) fn fill_of(name: &str) -> Option<Fill> {
    Some(match name {
        "pg_stat_activity" => activity,
        "pg_stat_database" => database_statistics,
        "pg_locks" => lock_rows,
        _ => return None,
    })
}

fn number(session: u32) -> Value {
    Value::Int4(i32::try_from(session).unwrap_or(i32::MAX))
}

fn is_superuser(input: &SystemInput) -> bool {
    input.catalog.roles.get(&input.user).is_some_and(|r| r.superuser)
}

fn activity(input: &SystemInput, rows: &mut Rows<'_>) {
    let at = |micros: Option<i64>| micros.map_or(Value::Null, Value::TimestampTz);
    let sees_all = is_superuser(input);
    for a in &input.activity {
        let user = input.catalog.roles.get(&a.user).map_or(Value::Null, |r| oid(r.id));
        let who = [
            ("datid", Value::Oid(DATABASE_ID)),
            ("datname", text(&input.catalog.database)),
            ("pid", number(a.session)),
            ("leader_pid", Value::Null),
            ("usesysid", user),
            ("usename", text(&a.user)),
            ("application_name", text(&a.application)),
        ];
        // What others run is theirs to show.
        if !sees_all && a.user != input.user {
            let hidden = rows.add_partly(who);
            rows.set(hidden, [("query", text("<insufficient privilege>"))]);
            continue;
        }
        let row = rows.add_partly(who);
        rows.set(
            row,
            [
                ("client_addr", a.client.map_or(Value::Null, |c| text(c.ip().to_canonical().to_string()))),
                ("client_port", a.client.map_or(Value::Null, |c| Value::Int4(i32::from(c.port())))),
                ("backend_start", Value::TimestampTz(a.began)),
                ("xact_start", at(a.transaction_began)),
                ("query_start", at(a.statement_began)),
                ("state_change", Value::TimestampTz(a.state_since)),
                ("wait_event_type", wait(a).map_or(Value::Null, |w| text(w.0))),
                ("wait_event", wait(a).map_or(Value::Null, |w| text(w.1))),
                ("state", text(a.state)),
                ("query", text(&a.statement)),
                ("backend_type", text("client backend")),
            ],
        );
    }
}

/// What a session waits for, as PostgreSQL names it.
fn wait(a: &Activity) -> Option<(&'static str, &'static str)> {
    match (a.waits, a.state) {
        (true, _) => Some(("Lock", "tuple")),
        (false, "active") => None,
        _ => Some(("Client", "ClientRead")),
    }
}

fn database_statistics(input: &SystemInput, rows: &mut Rows<'_>) {
    rows.add([
        ("datid", Value::Oid(DATABASE_ID)),
        ("datname", text(&input.catalog.database)),
        ("numbackends", Value::Int4(i32::try_from(input.activity.len()).unwrap_or(i32::MAX))),
    ]);
}

fn lock_rows(input: &SystemInput, rows: &mut Rows<'_>) {
    // The modes in which PostgreSQL takes a row's heavyweight lock.
    let mode = |m: LockMode| match m {
        LockMode::KeyShare => "AccessShareLock",
        LockMode::Share => "RowShareLock",
        LockMode::NoKeyExclusive => "ExclusiveLock",
        LockMode::Exclusive => "AccessExclusiveLock",
    };
    for lock in &input.locks {
        let kind = match (lock.relation, lock.row) {
            (Some(_), true) => "tuple",
            (Some(_), false) => "relation",
            (None, _) => "object",
        };
        let row = rows.add_partly([("locktype", text(kind)), ("database", Value::Oid(DATABASE_ID))]);
        rows.set(
            row,
            [
                ("relation", lock.relation.map_or(Value::Null, oid)),
                ("virtualtransaction", text(&lock.transaction)),
                ("pid", lock.session.map_or(Value::Null, number)),
                ("mode", text(mode(lock.mode))),
                ("granted", bool(lock.granted)),
                ("fastpath", bool(false)),
            ],
        );
    }
}

/// `pg_cancel_backend` and, with `dismiss`, `pg_terminate_backend`: whether there is such a session. Its user and
/// superusers may.
pub(super) fn end(input: &SystemInput, session: i32, dismiss: bool) -> Result<Value> {
    let found = u32::try_from(session).ok().and_then(|number| input.sessions.find(number));
    let Some(presence) = found else { return Ok(Value::Bool(false)) };
    if presence.user != input.user && !is_superuser(input) {
        let what = if dismiss { "terminate process" } else { "cancel query" };
        return Err(Error::new(Condition::InsufficientPrivilege, format!("permission denied to {what}"))
            .detail(format!("Session {session} is of user \"{}\".", presence.user))
            .hint("A session can be ended by its user and by superusers."));
    }
    if dismiss {
        return Ok(Value::Bool(presence.dismiss()));
    }
    presence.canceller.cancel();
    Ok(Value::Bool(true))
}
