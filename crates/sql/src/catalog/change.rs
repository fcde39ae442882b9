//! Changes of the catalog within a transaction.
//!
//! A [`Change`] starts from the catalog a statement sees, is given new, changed
//! and dropped objects, and at its end puts their rows into the transaction and
//! the new catalog into the context. Rolling the transaction back undoes both.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use polity_base::{Key, TableId};

use super::grants::Grant;
use super::model::{Catalog, Role, Sequence, Table, View};
use super::store;
use crate::ddl::byzantine;
use crate::error::{Condition, Error, Result};
use crate::session::Context;

/// A change in the making.
pub struct Change {
    before: Arc<Catalog>,
    next: Catalog,
    rows: BTreeMap<Key, Option<Bytes>>,
}

impl Change {
    /// A change of `catalog`.
    pub fn of(catalog: &Arc<Catalog>) -> Change {
        Change { before: catalog.clone(), next: (**catalog).clone(), rows: BTreeMap::new() }
    }

    /// The catalog with what has been changed so far.
    pub fn catalog(&self) -> &Catalog {
        &self.next
    }

    /// Adds or replaces a table, and the names of its indexes with it.
    pub fn put_table(&mut self, table: Table) -> Result<()> {
        if let Some(old) = self.next.tables.get(&table.id).cloned() {
            self.forget_table(&old);
        }
        self.rows.insert(store::table_key(table.id), Some(store::encode(&table)?));
        self.add_name(&table.name, table.id)?;
        for (id, name) in store::indexes(&table) {
            self.add_name(name, id)?;
            self.next.index_tables.insert(id, table.id);
        }
        self.next.tables.insert(table.id, Arc::new(table));
        Ok(())
    }

    /// Writes a table's row anew, unchanged: who uses the table at the same time
    /// finds its guard broken and looks again.
    pub fn touch_table(&mut self, id: TableId) -> Result<()> {
        if let Some(table) = self.next.tables.get(&id) {
            self.rows.insert(store::table_key(id), Some(store::encode(table.as_ref())?));
        }
        Ok(())
    }

    /// Removes a table with its indexes; sequences and views are the caller's.
    pub fn drop_table(&mut self, id: TableId) {
        if let Some(table) = self.next.tables.get(&id).cloned() {
            self.forget_table(&table);
            self.next.tables.remove(&id);
            self.rows.insert(store::table_key(id), None);
            self.forget_grants(id);
        }
    }

    fn forget_table(&mut self, table: &Table) {
        self.next.names.remove(&table.name);
        for (id, name) in store::indexes(table) {
            self.next.names.remove(name);
            self.next.index_tables.remove(&id);
        }
    }

    /// Adds or replaces a view.
    pub fn put_view(&mut self, view: View) -> Result<()> {
        self.forget_view(view.id);
        self.rows.insert(store::view_key(view.id), Some(store::encode(&view)?));
        self.add_name(&view.name, view.id)?;
        self.next.views.insert(view.id, Arc::new(view));
        Ok(())
    }

    /// Removes a view.
    pub fn drop_view(&mut self, id: TableId) {
        self.forget_view(id);
        self.forget_grants(id);
        self.rows.insert(store::view_key(id), None);
    }

    fn forget_view(&mut self, id: TableId) {
        if let Some(old) = self.next.views.remove(&id) {
            self.next.names.remove(&old.name);
        }
    }

    /// Adds or replaces a sequence.
    pub fn put_sequence(&mut self, sequence: Sequence) -> Result<()> {
        self.forget_sequence(sequence.id);
        self.rows.insert(store::sequence_key(sequence.id), Some(store::encode(&sequence)?));
        self.add_name(&sequence.name, sequence.id)?;
        self.next.sequences.insert(sequence.id, Arc::new(sequence));
        Ok(())
    }

    /// Removes a sequence.
    pub fn drop_sequence(&mut self, id: TableId) {
        self.forget_sequence(id);
        self.rows.insert(store::sequence_key(id), None);
    }

    fn forget_sequence(&mut self, id: TableId) {
        if let Some(old) = self.next.sequences.remove(&id) {
            self.next.names.remove(&old.name);
        }
    }

    /// Says what roles may do with a table or a view, in place of what was said before.
    pub fn put_grants(&mut self, id: TableId, grants: Vec<Grant>) -> Result<()> {
        if grants.is_empty() {
            self.forget_grants(id);
            return Ok(());
        }
        self.rows.insert(store::grants_key(id), Some(store::encode(&grants)?));
        self.next.grants.insert(id, grants.into());
        Ok(())
    }

    fn forget_grants(&mut self, id: TableId) {
        if self.next.grants.remove(&id).is_some() {
            self.rows.insert(store::grants_key(id), None);
        }
    }

    /// Adds or replaces a role.
    pub fn put_role(&mut self, role: Role) -> Result<()> {
        self.rows.insert(store::role_key(&role.name), Some(store::encode(&role)?));
        self.next.roles.insert(role.name.clone(), Arc::new(role));
        Ok(())
    }

    /// Removes a role.
    pub fn drop_role(&mut self, name: &str) {
        self.rows.insert(store::role_key(name), None);
        self.next.roles.remove(name);
    }

    fn add_name(&mut self, name: &str, id: TableId) -> Result<()> {
        match self.next.names.insert(name.to_owned(), id) {
            Some(other) if other != id => Err(relation_exists(name)),
            _ => Ok(()),
        }
    }

    /// Puts the change into the transaction; from here on the context's catalog
    /// has it.
    pub fn make(mut self, ctx: &mut Context<'_>) -> Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        for (id, table) in &self.next.tables {
            let before = self.before.tables.get(id);
            if before.is_none_or(|before| !Arc::ptr_eq(before, table)) {
                byzantine::may_become(&self.next, before.map(|before| &**before), table)?;
            }
        }
        byzantine::may_tell(ctx, &self.before, &self.next)?;
        for (name, id) in &self.next.names {
            if self.before.names.get(name) != Some(id) {
                self.rows.insert(store::name_key(name), Some(store::encode(id)?));
            }
        }
        for name in self.before.names.keys().filter(|n| !self.next.names.contains_key(*n)) {
            self.rows.insert(store::name_key(name), None);
        }
        // The clock never gives the same number twice.
        self.next.version = ctx.engine.next_row_id() as u64;
        self.rows.insert(store::version_key(), Some(store::encode(&self.next.version)?));
        for (key, value) in self.rows {
            match value {
                Some(value) => ctx.txn.put(key, value)?,
                None => ctx.txn.delete(key)?,
            }
        }
        *ctx.catalog = Arc::new(self.next);
        Ok(())
    }
}

/// The error for a name that is taken.
pub fn relation_exists(name: &str) -> Error {
    Error::new(Condition::DuplicateTable, format!("relation \"{name}\" already exists"))
}
