//! What this node's replica of the eventual tables knows: lost values, shares of
//! counters, and the other replicas.

use polity_base::{ColumnId, Key, NodeId, Timestamp, Type, Value};

use super::{Rows, SystemInput, text};
use crate::catalog::{Catalog, Privileges, Table};
use crate::error::Result;
use crate::expr::Local;
use crate::expr::text::write;
use crate::session::Engine;
use crate::session::eventual::table_of;
use crate::system::shape::Fill;
use crate::write::violation::key_text;

/// Rows that a table of the schema `polity` shows at most.
const MOST: usize = 10_000;

pub(super) fn fill_of(name: &str) -> Option<Fill> {
    matches!(name, "conflicts" | "escrow" | "replication").then_some(live)
}

/// What was looked up for the statement.
fn live(input: &SystemInput, rows: &mut Rows<'_>) {
    rows.rows.clone_from(&input.live);
}

/// The rows of a table of the schema `polity`, now.
pub(crate) fn rows_of(table: &str, engine: &Engine, catalog: &Catalog, user: &str) -> Result<Vec<Vec<Value>>> {
    let directory = engine.database().directory();
    let Some(replica) = directory.eventual().map(|r| r.replica()) else { return Ok(Vec::new()) };
    let looking = Looking { catalog };
    // Whoever may not read a table does not see its values here. What is left of one that
    // was dropped is for superusers.
    let reads = |table: &Table| catalog.privileges_of(user, table.id).include(Privileges::SELECT);
    let is_superuser = catalog.roles.get(user).is_some_and(|role| role.superuser);
    match table {
        "conflicts" => {
            let found = replica.conflicts(MOST).map_err(polity_txn::Error::from)?;
            let row = |conflict: polity_txn::eventual::Conflict| {
                let lost = conflict.lost;
                let kept = lost.kept.as_ref().map_or(Value::Null, |v| looking.value(&conflict.key, lost.column, v));
                vec![
                    looking.table(&conflict.key),
                    looking.key(&conflict.key),
                    looking.column(&conflict.key, lost.column),
                    kept,
                    looking.value(&conflict.key, lost.column, &lost.lost),
                    node(lost.kept_stamp.origin),
                    node(lost.lost_stamp.origin),
                    moment(lost.kept_stamp.at),
                    moment(lost.lost_stamp.at),
                ]
            };
            let shown = |conflict: &polity_txn::eventual::Conflict| {
                table_of(catalog, &conflict.key).map_or(is_superuser, reads)
            };
            Ok(found.into_iter().filter(shown).map(row).collect())
        }
        "escrow" => {
            let mut all = Vec::new();
            let counts = |t: &&std::sync::Arc<Table>| {
                t.columns.iter().any(|c| matches!(c.merge, crate::catalog::Merge::Counter(b) if b.any()))
            };
            for table in catalog.tables.values().filter(counts).filter(|table| reads(table)) {
                let left = MOST.saturating_sub(all.len());
                for counter in replica.shares(table.primary.storage, left).map_err(polity_txn::Error::from)? {
                    for share in counter.shares {
                        let may = |right: Option<i64>| right.map_or(Value::Null, Value::Int8);
                        all.push(vec![
                            text(table.name.as_str()),
                            looking.key(&counter.key),
                            looking.column(&counter.key, counter.column),
                            node(share.node),
                            may(share.take),
                            may(share.add),
                        ]);
                    }
                }
            }
            Ok(all)
        }
        _ => {
            let row = |peer: polity_txn::eventual::PeerStatus| {
                vec![
                    node(peer.node),
                    text(peer.vector.to_string()),
                    Value::Int8(i64::try_from(peer.lag.as_millis()).unwrap_or(i64::MAX)),
                    peer.unreachable_since.map_or(Value::Null, moment),
                    Value::Bool(peer.holds_back),
                ]
            };
            Ok(replica.status().peers.into_iter().map(row).collect())
        }
    }
}

/// Names what keys and columns are.
struct Looking<'a> {
    catalog: &'a Catalog,
}

impl Looking<'_> {
    fn table(&self, key: &Key) -> Value {
        table_of(self.catalog, key).map_or(Value::Null, |t| text(t.name.as_str()))
    }

    fn column(&self, key: &Key, column: ColumnId) -> Value {
        let name = table_of(self.catalog, key).and_then(|t| t.column_by_id(column)).map(|c| c.name.as_str());
        name.map_or_else(|| text(column.to_string()), text)
    }

    fn value(&self, key: &Key, column: ColumnId, value: &Value) -> Value {
        if value.is_null() {
            return Value::Null;
        }
        let known = table_of(self.catalog, key).and_then(|t| t.column_by_id(column));
        let r#type = known.map_or(Type::Text, |c| c.r#type.clone());
        text(write(value, &r#type, Local::UTC))
    }

    /// The primary key as in messages: the row may be gone. As bytes, if the table is.
    fn key(&self, key: &Key) -> Value {
        let shown = || {
            let table = table_of(self.catalog, key)?;
            let columns: Option<Vec<_>> = table.primary.columns.iter().map(|id| table.column_by_id(*id)).collect();
            let columns = columns?;
            let values = key.columns(columns.iter().map(|column| &column.r#type))?;
            let shown = columns.iter().zip(&values).map(|(c, value)| (c.name.as_str(), &c.r#type, value));
            Some(key_text(shown, Local::UTC))
        };
        text(shown().unwrap_or_else(|| key.to_string()))
    }
}

fn node(NodeId(node): NodeId) -> Value {
    Value::Int8(i64::try_from(node).unwrap_or(i64::MAX))
}

fn moment(at: Timestamp) -> Value {
    Value::TimestampTz(at.unix_micros())
}
