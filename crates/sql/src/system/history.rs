//! `polity.history`: what the rows of byzantine tables were, at each height that changed
//! them, as far back as is kept; rows that were deleted included.
//!
//! It is read bit by bit, a few keys at a time, so that a table of any size can be looked
//! through. What is read later may be newer.

use std::sync::Arc;

use polity_base::{Guarantee, Key, Span, Value};
use polity_txn::byzantine::Reader;
use polity_txn::byzantine::bft::ledger::reader::Revision;

use super::ledger::{moment, number};
use super::text;
use crate::catalog::{Catalog, Column, Privileges, Table, rows};
use crate::error::Result;
use crate::expr::Local;
use crate::expr::text::write;
use crate::ledger::step::of_ledger;
use crate::session::Engine;
use crate::write::violation::key_text;

/// So many keys are looked at at once.
const AT_ONCE: usize = 256;

/// A walk through the history of all tables that somebody may read.
#[derive(Clone)]
pub(crate) struct History {
    reader: Reader,
    /// Those that are not done, the next one last
    tables: Vec<Arc<Table>>,
    /// What is left of the next one; all of it, if none
    left: Option<Span>,
}

impl History {
    /// The history of what `user` may read; none if there is no ledger.
    pub fn of(engine: &Engine, catalog: &Catalog, user: &str) -> Option<History> {
        let reader = engine.database().directory().ledger()?.reader()?;
        let shown = |table: &&Arc<Table>| {
            table.guarantee == Guarantee::Byzantine && catalog.privileges_of(user, table.id).include(Privileges::SELECT)
        };
        let tables = catalog.tables.values().rev().filter(shown).cloned().collect();
        Some(History { reader, tables, left: None })
    }

    /// The next rows; none at the end.
    pub fn next_rows(&mut self) -> Result<Vec<Vec<Value>>> {
        let mut found = Vec::new();
        while found.is_empty() {
            let Some(table) = self.tables.last().cloned() else { break };
            let span = self.left.take().unwrap_or_else(|| Span::of_index(table.primary.storage));
            let keys = self.reader.keys(&span, AT_ONCE).map_err(of_ledger)?;
            for key in &keys {
                let revisions = self.reader.history(key).map_err(of_ledger)?;
                append(&table, key, &revisions, &mut found)?;
            }
            match keys.last().filter(|_| keys.len() == AT_ONCE) {
                Some(last) => self.left = Some(Span { start: last.point().end, end: span.end }),
                None => drop(self.tables.pop()),
            }
        }
        Ok(found)
    }
}

fn append(table: &Table, key: &Key, revisions: &[Revision], found: &mut Vec<Vec<Value>>) -> Result<()> {
    let known = revisions.iter().find_map(|revision| revision.value.as_ref());
    let named = match known {
        Some(stored) => key_of(table, &rows::load(table, stored)?),
        // All that is left is that it went.
        None => key.to_string(),
    };
    for revision in revisions {
        let row = match &revision.value {
            Some(value) => text(shown(table, &rows::load(table, value)?)),
            None => Value::Null,
        };
        let (height, time) = (number(revision.height.0), moment(revision.time_ms));
        found.push(vec![text(table.name.as_str()), text(named.clone()), height, time, row]);
    }
    Ok(())
}

fn key_of(table: &Table, row: &[Value]) -> String {
    let places = table.primary.columns.iter().filter_map(|id| {
        let at = table.columns.iter().position(|c| c.id == *id)?;
        Some((table.columns[at].name.as_str(), &table.columns[at].r#type, row.get(at)?))
    });
    key_text(places, Local::UTC)
}

/// A row as people read it.
fn shown(table: &Table, row: &[Value]) -> String {
    let cell = |(column, value): (&Column, &Value)| match value {
        Value::Null => "NULL".to_owned(),
        value => write(value, &column.r#type, Local::UTC),
    };
    let cells: Vec<String> = table.columns.iter().zip(row).map(cell).collect();
    format!("({})", cells.join(", "))
}
