//! Locks that a change of the catalog takes, and a catalog that is current
//! under them.
//!
//! A change locks the keys of what it changes, then looks whether the catalog is
//! still what it was planned on. While it waited another change may have
//! committed: then the snapshot moves forward and the change is planned again.
//! The locked keys become preconditions of the commit, so a lost lock costs a
//! retry and no more. A change that looked through the rows of a table has them for a
//! precondition, too: see [`rows_stay`].

use std::sync::Arc;

use polity_base::key::Direction;
use polity_base::{Guarantee, Key, Span};
use polity_txn::{Change, Contested, Isolation, LockMode, View, Wait};

use crate::catalog::{Table, name, store};
use crate::error::Result;
use crate::session::Context;

/// Rows compared at a time.
const CHUNK_ROWS: usize = 1_024;

/// Keys to lock, and whether for oneself alone.
#[derive(Default)]
pub(super) struct Locks(Vec<(Key, bool)>);

impl Locks {
    /// A table that is changed: nobody else may read its definition to write.
    pub(super) fn table(&mut self, id: polity_base::TableId) {
        self.0.push((store::table_key(id), true));
    }

    /// A view or a sequence that is changed.
    pub(super) fn key(&mut self, key: Key) {
        self.0.push((key, true));
    }

    /// A relation's name that is given or taken away.
    pub(super) fn name(&mut self, name: &str) {
        self.0.push((store::name_key(name), true));
    }

    /// Something that must stay as it is.
    pub(super) fn keep(&mut self, key: Key) {
        self.0.push((key, false));
    }

    /// Takes the locks. `false`: the catalog was changed in the meantime, the
    /// context has the new one, plan again.
    pub(super) async fn take(mut self, ctx: &mut Context<'_>) -> Result<bool> {
        // One order for all keeps two changes from waiting for each other.
        self.0.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        self.0.dedup_by(|later, first| later.0 == first.0);
        let mut newest = polity_base::Timestamp::ZERO;
        for (key, alone) in &self.0 {
            let mode = if *alone { LockMode::Exclusive } else { LockMode::KeyShare };
            newest = newest.max(ctx.txn.lock(key, mode, Wait::Block).await?.newest);
        }
        if newest > ctx.txn.read_at() {
            advance(ctx).await?;
            return Ok(false);
        }
        let view = ctx.txn.view();
        for (key, alone) in self.0 {
            if ctx.txn.isolation() == Isolation::Serializable {
                // A read is checked again, and then counts from there, whenever the
                // snapshot moves: the commit's condition is never an old one.
                view.get(&key)?;
            } else if !alone {
                // Keys locked for oneself alone are conditions already.
                ctx.txn.expect_unchanged(key.point());
            }
        }
        Ok(true)
    }
}

/// Moves the snapshot to now, and the catalog with it.
pub(super) async fn advance(ctx: &mut Context<'_>) -> Result<()> {
    ctx.txn.advance().await?;
    *ctx.catalog = Arc::new(store::load(&ctx.txn.view())?);
    Ok(())
}

/// Makes the change conditional on a table's definition and rows being what `before`
/// showed, from then until the commit.
///
/// They are locked, but locks live in the memory of a leader. When it is lost, its
/// successor gives the lock to the next who asks, while a writer that held it before may
/// have its batch under way still: to that batch nothing has changed as long as the
/// change is not committed, and the rows it writes are ones that the change never saw.
pub(super) async fn rows_stay(ctx: &mut Context<'_>, before: &View, table: &Table) -> Result<()> {
    let storage = table.primary.storage;
    if storage.guarantee() != Guarantee::Strong || ctx.fresh.contains(&storage) {
        return Ok(());
    }
    ctx.txn.advance().await?;
    for span in [store::table_key(table.id).point(), Span::of_index(storage)] {
        let changed = match ctx.txn.changed_since(&span, before.read_at()) {
            Change::Unchanged => false,
            Change::Changed(_) => true,
            // It took so long that this is not remembered.
            Change::Forgotten => differ(ctx, before, &span).await?,
        };
        if changed {
            return Err(polity_txn::Error::Conflict(Contested::from(span)).into());
        }
        ctx.txn.expect_unchanged(span);
    }
    Ok(())
}

/// Whether `span` shows something else now than it did before.
async fn differ(ctx: &Context<'_>, before: &View, span: &Span) -> Result<bool> {
    let now = ctx.txn.view().untracked();
    let mut then = before.untracked().scan(span.clone(), Direction::Ascending)?;
    let mut now = now.scan(span.clone(), Direction::Ascending)?;
    loop {
        let (old, new) = (then.next_chunk(CHUNK_ROWS)?, now.next_chunk(CHUNK_ROWS)?);
        if old != new {
            return Ok(true);
        }
        if old.is_empty() {
            return Ok(false);
        }
        ctx.watch.rest().await?;
    }
}

/// Notes a storage made in this transaction: it may be written directly, and it
/// is not garbage as long as the transaction lives.
pub(super) async fn fresh(ctx: &mut Context<'_>, storage: polity_base::IndexId) -> Result<()> {
    let key = store::storage_key(storage);
    ctx.txn.lock(&key, LockMode::Exclusive, Wait::Block).await?;
    if ctx.txn.isolation() == Isolation::Serializable {
        // Should the lock be lost, whoever takes the rows for garbage writes the key,
        // and this read does not hold any more. Under READ COMMITTED a locked key is
        // a condition of the commit anyway.
        ctx.txn.view().get(&key)?;
    }
    ctx.fresh.insert(storage);
    Ok(())
}

/// Resolves a name to a table, or says that it is not one.
pub(super) fn table(
    catalog: &crate::catalog::Catalog,
    name: &datafusion::sql::sqlparser::ast::ObjectName,
) -> Result<Arc<crate::catalog::Table>> {
    let name = name::object(name)?;
    catalog.table(&name).cloned().ok_or_else(|| match catalog.relation(&name) {
        Some(_) => crate::Error::new(crate::Condition::WrongObjectType, format!("\"{name}\" is not a table")),
        None => no_relation(&name),
    })
}

/// The error for a relation that is not there.
pub(super) fn no_relation(name: &str) -> crate::Error {
    crate::Error::new(crate::Condition::UndefinedTable, format!("relation \"{name}\" does not exist"))
}
