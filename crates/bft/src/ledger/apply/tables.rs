//! Tables: made, changed, dropped, and swept away.
//!
//! A storage is used once. The rows of a dropped table are removed block by block, a
//! bounded number of keys in each, so that no block takes for ever.

use bytes::Bytes;
use polity_base::{IndexId, Key, Span, Value};

use super::people::Actor;
use super::{Step, Work};
use crate::ledger::error::Error;
use crate::ledger::outcome::Refusal;
use crate::ledger::records::{self, Kind, Table, is_free_for_tables};
use crate::ledger::rules::{Definition, Slots};
use crate::ledger::storage::View;

/// So many keys of dropped storages go with a block.
const SWEEP: usize = 256;

impl<V: View> Work<'_, V> {
    pub(super) fn define(&mut self, actor: &Actor, storage: IndexId, definition: &Bytes) -> Step {
        let read = Definition::decode(definition).map_err(|e| Refusal::Malformed(format!("a definition: {e}")))?;
        if let Some(fault) = read.fault(self.given.rules) {
            return Err(Refusal::Malformed(fault).into());
        }
        match self.state.get(&records::table(storage))? {
            None => self.make(actor, storage, read),
            Some(_) => self.alter(actor, storage, read),
        }
    }

    fn make(&mut self, actor: &Actor, storage: IndexId, definition: Definition) -> Step {
        let owner = actor.user()?.to_owned();
        self.take(storage, storage)?;
        for index in &definition.indexes {
            self.take(index.storage, storage)?;
        }
        self.refer_from(storage, None, &definition)?;
        let referrers = with_itself(Vec::new(), storage, &definition);
        self.put_table(storage, Some(Table { owner, definition, referrers }));
        Ok(())
    }

    fn alter(&mut self, actor: &Actor, storage: IndexId, definition: Definition) -> Step {
        let before = self.table(storage)?;
        self.require_owner(actor, &before)?;
        let kept = before.definition.columns.iter().filter_map(|old| Some((old, definition.column(old.id)?)));
        if definition.key != before.definition.key || kept.into_iter().any(|(old, new)| old.kind != new.kind) {
            return Err(Refusal::Malformed("a table's key and the types of its columns stay".to_owned()).into());
        }
        self.refer_from(storage, Some(&before.definition), &definition)?;
        let known = |index: &IndexId| before.definition.indexes.iter().any(|old| old.storage == *index);
        for index in definition.indexes.iter().filter(|index| !known(&index.storage)) {
            self.take(index.storage, storage)?;
        }
        for gone in &before.definition.indexes {
            match definition.indexes.iter().find(|index| index.storage == gone.storage) {
                None => self.dropping.push(gone.storage),
                Some(same) if (same.unique, &same.columns) == (gone.unique, &gone.columns) => {}
                Some(_) => return Err(Refusal::Malformed("what an index is of stays".to_owned()).into()),
            }
        }
        let referrers = with_itself(self.table(storage)?.referrers.clone(), storage, &definition);
        self.put_table(storage, Some(Table { owner: before.owner.clone(), definition: definition.clone(), referrers }));
        if is_stricter(&before.definition, &definition) {
            self.go_through_rows(storage, &before.definition, &definition)?;
        }
        Ok(())
    }

    /// Holds rows that are there to a new definition, and gives them the entries of new
    /// indexes.
    fn go_through_rows(&mut self, storage: IndexId, before: &Definition, after: &Definition) -> Step {
        let most = usize::try_from(self.given.parameters.most_rows).unwrap_or(usize::MAX);
        let rows = self.state.first(&Span::of_index(storage), most.saturating_add(1))?;
        if rows.len() > most {
            return Err(Refusal::TooMuch(format!("\"{}\" has more than {most} rows", after.name)).into());
        }
        let is_new = |index: &IndexId| before.indexes.iter().all(|old| old.storage != *index);
        let rows: Vec<(Key, Slots)> =
            rows.into_iter().map(|(key, row)| Ok((key, after.read_row(&row)?))).collect::<Result<_, Refusal>>()?;
        for (key, row) in &rows {
            after.judge(self.given.rules, storage, key, row)?;
            for (entry, value, index) in after.entries(key, row)? {
                if !is_new(&index.storage) {
                    continue;
                }
                if self.state.get(&entry)?.is_some() {
                    return Err(Refusal::Duplicate(index.name.clone()).into());
                }
                self.state.put(entry, Some(value));
            }
        }
        for (_, row) in &rows {
            for reference in after.references.iter().filter(|new| !before.references.contains(new)) {
                let Some(values) = reference.values(row) else { continue };
                if !self.is_there(reference, &values)? {
                    return Err(Refusal::Reference(reference.name.clone()).into());
                }
            }
        }
        Ok(())
    }

    pub(super) fn drop_table(&mut self, actor: &Actor, storage: IndexId) -> Step {
        let table = self.table(storage)?;
        self.require_owner(actor, &table)?;
        if let Some(referrer) = table.referrers.iter().find(|referrer| **referrer != storage) {
            let name = self.table(*referrer)?.definition.name.clone();
            return Err(Refusal::Malformed(format!("\"{name}\" refers to \"{}\"", table.definition.name)).into());
        }
        self.refer_from(storage, Some(&table.definition), &Definition::default())?;
        for (grant, _) in self.state.first(&records::grants(storage), usize::MAX)? {
            self.state.put(grant, None);
        }
        self.dropping.extend(table.definition.indexes.iter().map(|index| index.storage));
        self.state.put(records::dropped(storage), Some(Bytes::new()));
        self.put_table(storage, None);
        Ok(())
    }

    /// Takes a storage for a table, which nobody has had before.
    fn take(&mut self, storage: IndexId, table: IndexId) -> Step {
        let key = records::storage(storage);
        if !is_free_for_tables(storage) || self.state.get(&key)?.is_some() {
            return Err(Refusal::Malformed(format!("{storage} is not to be had")).into());
        }
        self.state.put(key, Some(Bytes::copy_from_slice(&table.0.to_be_bytes())));
        Ok(())
    }

    /// Lets parents know who refers to them.
    fn refer_from(&mut self, storage: IndexId, before: Option<&Definition>, after: &Definition) -> Step {
        let parents = |definition: &Definition| -> Vec<IndexId> {
            definition.references.iter().map(|reference| reference.parent).filter(|parent| *parent != storage).collect()
        };
        let (old, new) = (before.map(parents).unwrap_or_default(), parents(after));
        for reference in &after.references {
            let other = if reference.parent == storage { None } else { Some(self.table(reference.parent)?) };
            let parent = other.as_ref().map_or(after, |table| &table.definition);
            let values = vec![&Value::Null; reference.parent_columns.len()];
            if parent.referred_key(reference.parent, &reference.parent_columns, &values).is_none() {
                let what = format!("no key of \"{}\" is what \"{}\" refers to", parent.name, reference.name);
                return Err(Refusal::Malformed(what).into());
            }
        }
        for parent in old.iter().filter(|parent| !new.contains(parent)) {
            let mut table = Table::clone(&*self.table(*parent)?);
            table.referrers.retain(|referrer| *referrer != storage);
            self.put_table(*parent, Some(table));
        }
        for parent in new.iter().filter(|parent| !old.contains(parent)) {
            let mut table = Table::clone(&*self.table(*parent)?);
            if !table.referrers.contains(&storage) {
                table.referrers.push(storage);
                self.put_table(*parent, Some(table));
            }
        }
        Ok(())
    }

    /// Removes some of what dropped storages still hold.
    pub(super) fn sweep(&mut self) -> Result<(), Error> {
        let mut budget = SWEEP;
        for (record, _) in self.state.first(&records::all(Kind::Dropped), SWEEP)? {
            if budget == 0 {
                break;
            }
            let Some(storage) = records::storage_named(&record) else {
                return Err(Error::Damaged("a record of a dropped storage".to_owned()));
            };
            let keys = self.state.first(&Span::of_index(storage), budget)?;
            if keys.len() < budget {
                self.state.put(record, None);
            }
            budget -= keys.len();
            self.rows.insert(storage);
            keys.into_iter().for_each(|(key, _)| self.state.put(key, None));
        }
        self.state.keep();
        Ok(())
    }
}

/// Who refers to a table, itself included if it does.
fn with_itself(mut referrers: Vec<IndexId>, storage: IndexId, definition: &Definition) -> Vec<IndexId> {
    referrers.retain(|referrer| *referrer != storage);
    if definition.references.iter().any(|reference| reference.parent == storage) {
        referrers.push(storage);
    }
    referrers
}

/// Whether rows that satisfied `before` may not satisfy `after`, or lack entries.
fn is_stricter(before: &Definition, after: &Definition) -> bool {
    let not_null = |definition: &Definition| -> Vec<_> {
        definition.columns.iter().filter(|column| column.not_null).map(|column| column.id).collect()
    };
    let (old, new) = (not_null(before), not_null(after));
    new.iter().any(|column| !old.contains(column))
        || after.indexes.iter().any(|index| before.indexes.iter().all(|old| old.storage != index.storage))
        || after.checks.iter().any(|check| !before.checks.contains(check))
        || after.references.iter().any(|reference| !before.references.contains(reference))
}
