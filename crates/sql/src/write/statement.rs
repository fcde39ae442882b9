//! One statement's writes: single rows with everything that hangs on them.
//!
//! ```text
//! lock the keys ── newer than the snapshot? ── advance or start over
//!       │
//! put, update, delete: NOT NULL, CHECK, unique keys, index entries, at once
//!       │
//! finish: references, cascades, in the order they came up (see `references`)
//! ```
//! A statement that fails leaves nothing behind: see [`conclude`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use polity_base::planted::{Bug, planted};
use polity_base::{Guarantee, Key, RowChange, TableId, Value};
use polity_txn::{Isolation, LockMode, Wait};

use super::merging;
use super::references::{Gone, Referring};
use super::rule::Rule;
use super::target::{Target, differs};
use super::violation;
use crate::catalog::store::table_key;
use crate::catalog::{Catalog, Table, rows};
use crate::error::{Condition, Error, Result};
use crate::expr::{Env, Local};
use crate::query::{PlanInput, RunEnv};
use crate::session::{Context, Outcome, byzantine};

/// Rows that one statement locks one by one; beyond that, the conditions of the
/// commit alone keep concurrent transactions apart.
pub(super) const MOST_LOCKS: usize = 4_000;

/// Why a statement stops half way.
#[derive(Debug)]
pub enum Stop {
    /// A locked row is newer than the snapshot.
    Stale,
    /// It fails.
    Failed(Error),
}

/// A part of a statement, done or stopped.
pub type Step<T> = std::result::Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

impl From<polity_txn::Error> for Stop {
    fn from(error: polity_txn::Error) -> Stop {
        Stop::Failed(error.into())
    }
}

/// The state of one statement that writes.
pub struct Writing {
    /// Whether all that was read is locked, so that the snapshot may move
    pub unread: bool,
    pub(super) locks: usize,
    targets: HashMap<TableId, Arc<Target>>,
    /// General expressions need these; made when the first is met
    run: Option<RunEnv>,
    /// References to check when the statement is done
    pub(super) referring: Vec<Referring>,
    /// What many new rows refer to
    pub(super) referred: HashSet<(TableId, Key)>,
    /// Rows of parents that went or changed their key
    pub(super) gone: Vec<Gone>,
    /// Places of the columns that the statement assigns, where it is an UPDATE
    pub assigned: Vec<usize>,
}

/// How a row's keys are checked against those there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Locking {
    /// Each is locked before it is looked at
    Locked,
    /// Locked already, or too many to lock
    Done,
}

impl Writing {
    /// Begins to write to `target`: its definition cannot change from here on.
    /// `unread`: the statement reads nothing but rows it has locked.
    pub async fn begin(ctx: &mut Context<'_>, target: &Arc<Target>, unread: bool) -> Step<Writing> {
        let mut writing = Writing {
            unread,
            locks: 0,
            targets: HashMap::new(),
            run: None,
            referring: Vec::new(),
            referred: HashSet::new(),
            gone: Vec::new(),
            assigned: Vec::new(),
        };
        merging::check_guarantee(ctx, &target.table)?;
        guard(ctx, &target.table).await?;
        if !target.children.is_empty() || !target.parents.is_empty() {
            writing.targets.insert(target.table.id, target.clone());
        }
        Ok(writing)
    }

    /// Another table that is written to.
    pub async fn target(&mut self, ctx: &mut Context<'_>, table: &Arc<Table>) -> Step<Arc<Target>> {
        if let Some(known) = self.targets.get(&table.id) {
            return Ok(known.clone());
        }
        guard(ctx, table).await?;
        let target = Arc::new(prepare(ctx, table)?);
        self.targets.insert(table.id, target.clone());
        Ok(target)
    }

    /// What general expressions run with.
    pub fn run(&mut self, ctx: &Context<'_>) -> &RunEnv {
        self.run.get_or_insert_with(|| RunEnv::of(ctx))
    }

    /// Locks a row that the statement has read. When it is newer than the
    /// snapshot, moves the snapshot if nothing depends on it yet.
    pub async fn lock(&mut self, ctx: &mut Context<'_>, key: &Key, mode: LockMode, wait: Wait) -> Step<()> {
        if self.locks >= MOST_LOCKS && ctx.txn.isolation() == Isolation::ReadCommitted {
            ctx.txn.expect_unchanged(key.point());
        }
        self.lock_key(ctx, key, mode, wait).await
    }

    /// Locks a key that the commit depends on in other ways.
    async fn lock_key(&mut self, ctx: &mut Context<'_>, key: &Key, mode: LockMode, wait: Wait) -> Step<()> {
        if self.locks >= MOST_LOCKS {
            return Ok(());
        }
        self.locks += 1;
        if !ctx.txn.lock(key, mode, wait).await?.is_newer() {
            return Ok(());
        }
        if !self.unread {
            return Err(Stop::Stale);
        }
        ctx.txn.advance().await?;
        Ok(())
    }

    /// Writes a new row. Gives its key.
    pub async fn insert(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Arc<Target>,
        row: &[Value],
        locking: Locking,
    ) -> Step<Key> {
        self.check(ctx, target, row)?;
        touch(ctx, target);
        let key = if target.key.is_empty() {
            // A number that was never given cannot be there already.
            rows::hidden_key(&target.table, ctx.engine.next_row_id())?
        } else {
            let key = target.row_key(row)?;
            self.claim(ctx, &key, locking, || primary_violation(target, row)).await?;
            key
        };
        for index in &target.indexes {
            let (entry, distinct) = index.entry(row, &key)?;
            if distinct {
                let places = || index.columns.iter().map(|(p, _)| *p);
                self.claim(ctx, &entry, locking, || Taken {
                    name: &index.name,
                    places: places().collect(),
                    target,
                    row,
                })
                .await?;
            }
            ctx.txn.put(entry, key.0.clone())?;
        }
        merging::write_row(ctx, target, key.clone(), Some(row), || merging::inserted(&target.table, row))?;
        self.refer(target, None, row, &key)?;
        Ok(key)
    }

    /// Writes a row anew that was at `key`. The row is locked.
    pub async fn update(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Arc<Target>,
        key: &Key,
        old: &[Value],
        new: &[Value],
    ) -> Step<Key> {
        self.check(ctx, target, new)?;
        touch(ctx, target);
        let moved = target.key_differs(old, new);
        let new_key = if moved {
            merging::may_move(&target.table)?;
            let new_key = target.row_key(new)?;
            self.claim(ctx, &new_key, Locking::Locked, || primary_violation(target, new)).await?;
            merging::write_row(ctx, target, key.clone(), None, || RowChange::Delete)?;
            new_key
        } else {
            key.clone()
        };
        for index in &target.indexes {
            if !moved && !index.columns.iter().any(|(place, _)| differs(old, new, *place)) {
                continue;
            }
            let (before, _) = index.entry(old, key)?;
            let (after, distinct) = index.entry(new, &new_key)?;
            if before != after {
                if distinct {
                    let places = || index.columns.iter().map(|(p, _)| *p);
                    let taken = || Taken { name: &index.name, places: places().collect(), target, row: new };
                    self.claim(ctx, &after, Locking::Locked, taken).await?;
                }
                ctx.txn.delete(before)?;
            }
            ctx.txn.put(after, new_key.0.clone())?;
        }
        merging::write_row(ctx, target, new_key.clone(), Some(new), || match moved {
            true => merging::inserted(&target.table, new),
            false => merging::updated(&target.table, old, new, &self.assigned),
        })?;
        self.refer(target, Some(old), new, &new_key)?;
        self.note_gone(target, old, Some(new));
        Ok(new_key)
    }

    /// Writes a row anew of which no key, index or reference has changed.
    pub fn replace(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        key: Key,
        old: &[Value],
        new: &[Value],
    ) -> Step<()> {
        self.check(ctx, target, new)?;
        touch(ctx, target);
        merging::write_row(ctx, target, key, Some(new), || merging::updated(&target.table, old, new, &self.assigned))?;
        Ok(())
    }

    /// Adds to numbers of a row that a ledger keeps. Whether they satisfy what they must is
    /// for the ledger to say, which knows what they are when their turn comes.
    pub fn add(
        &mut self,
        ctx: &mut Context<'_>,
        target: &Target,
        key: Key,
        new: &[Value],
        additions: RowChange,
    ) -> Step<()> {
        touch(ctx, target);
        merging::write_row(ctx, target, key, Some(new), || additions)?;
        Ok(())
    }

    /// Removes the row at `key`. The row is locked.
    pub fn delete(&mut self, ctx: &mut Context<'_>, target: &Arc<Target>, key: &Key, old: &[Value]) -> Step<()> {
        touch(ctx, target);
        for index in &target.indexes {
            let (entry, _) = index.entry(old, key)?;
            ctx.txn.delete(entry)?;
        }
        merging::write_row(ctx, target, key.clone(), None, || RowChange::Delete)?;
        self.note_gone(target, old, None);
        Ok(())
    }

    /// NOT NULL and CHECK.
    pub fn check(&mut self, ctx: &mut Context<'_>, target: &Target, row: &[Value]) -> Result<()> {
        for place in &target.not_null {
            if row.get(*place).is_none_or(Value::is_null) {
                return Err(violation::not_null(&target.table, *place, row, Local::of(ctx)));
            }
        }
        if target.checks.is_empty() {
            return Ok(());
        }
        let run = self.run.get_or_insert_with(|| RunEnv::of(ctx));
        let env = Env::of(ctx, &[]).row(row);
        for (name, rule) in &target.checks {
            if rule.is_false(&env, run)? {
                return Err(violation::check(&target.table, name, row, Local::of(ctx)));
            }
        }
        Ok(())
    }

    /// NOT NULL and CHECK of many rows.
    pub fn check_all(&mut self, ctx: &mut Context<'_>, target: &Target, rows: &[Vec<Value>]) -> Result<()> {
        if target.checks.iter().all(|(_, rule)| matches!(rule, Rule::Small(_))) {
            return rows.iter().try_for_each(|row| self.check(ctx, target, row));
        }
        for place in &target.not_null {
            if let Some(row) = rows.iter().find(|row| row.get(*place).is_none_or(Value::is_null)) {
                return Err(violation::not_null(&target.table, *place, row, Local::of(ctx)));
            }
        }
        let run = self.run.get_or_insert_with(|| RunEnv::of(ctx));
        let env = Env::of(ctx, &[]);
        for (name, rule) in &target.checks {
            if let Some(row) = rule.first_false(rows, &env, run)? {
                return Err(violation::check(&target.table, name, row, Local::of(ctx)));
            }
        }
        Ok(())
    }

    /// Makes sure that nobody has `key`, now and when the transaction commits.
    async fn claim<'t>(
        &mut self,
        ctx: &mut Context<'_>,
        key: &Key,
        locking: Locking,
        taken: impl FnOnce() -> Taken<'t>,
    ) -> Step<()> {
        if locking == Locking::Locked {
            self.lock_key(ctx, key, LockMode::Exclusive, Wait::Block).await?;
        }
        // The condition says all that the commit depends on.
        if ctx.txn.view().untracked().get(key)?.is_some() && !planted(Bug::SkipUniqueCheck) {
            return Err(taken().error(Local::of(ctx)).into());
        }
        ctx.txn.expect_absent(key.clone());
        Ok(())
    }
}

/// Who has a key that was to be unique.
struct Taken<'t> {
    name: &'t str,
    places: Vec<usize>,
    target: &'t Target,
    row: &'t [Value],
}

impl Taken<'_> {
    fn error(self, local: Local<'_>) -> Error {
        violation::unique(&self.target.table, self.name, self.places.into_iter(), self.row, local)
    }
}

fn primary_violation<'t>(target: &'t Target, row: &'t [Value]) -> Taken<'t> {
    Taken { name: primary_name(target), places: target.key.clone(), target, row }
}

/// The name of the primary key's constraint.
pub fn primary_name(target: &Target) -> &str {
    target.table.primary.name.as_deref().unwrap_or("primary key")
}

/// A table of the context's catalog, prepared for writing.
pub fn prepare(ctx: &Context<'_>, table: &Arc<Table>) -> Result<Target> {
    // Only general expressions need the planner's input, which is large.
    let catalog: &Catalog = ctx.catalog;
    if let Some(target) = Target::of(catalog, table, None)? {
        return Ok(target);
    }
    Target::of(catalog, table, Some(&PlanInput::of(ctx)))?
        .ok_or_else(|| Error::internal(format!("table \"{}\" cannot be prepared for writing", table.name)))
}

/// Makes sure that the table's definition is the one at hand, now and when the
/// transaction commits.
pub(crate) async fn guard(ctx: &mut Context<'_>, table: &Table) -> Step<()> {
    match table.guarantee {
        Guarantee::Strong => {}
        // Replicas take what was written by an earlier or a later definition.
        Guarantee::Eventual => return Ok(()),
        Guarantee::Byzantine => {
            ctx.txn.expect_unchanged(byzantine::definition_key(table).point());
            return Ok(());
        }
    }
    let key = table_key(table.id);
    // READ COMMITTED remembers the lock as a condition, once however often it
    // is taken; SERIALIZABLE remembers the read.
    if ctx.txn.lock(&key, LockMode::Share, Wait::Block).await?.is_newer() {
        return Err(Stop::Stale);
    }
    if ctx.txn.isolation() == Isolation::Serializable {
        ctx.txn.view().get(&key)?;
    }
    Ok(())
}

/// A storage with rows in the transaction's batch cannot be filled past it any
/// more: the batch, applied later, might undo that.
pub(super) fn touch(ctx: &mut Context<'_>, target: &Target) {
    if !ctx.fresh.is_empty() {
        ctx.fresh.remove(&target.table.primary.storage);
    }
}

/// Refuses to write in a read-only transaction.
pub fn check_writable(ctx: &Context<'_>, verb: &str) -> Result<()> {
    if ctx.txn.is_read_only() {
        return Err(Error::new(
            Condition::ReadOnlySqlTransaction,
            format!("cannot execute {verb} in a read-only transaction"),
        ));
    }
    Ok(())
}

/// What a statement came to. A failed or stale one leaves nothing written.
pub fn conclude<T>(ctx: &mut Context<'_>, savepoint: &polity_txn::Savepoint, result: Step<T>) -> Result<Outcome<T>> {
    match result {
        Ok(value) => Ok(Outcome::Done(value)),
        Err(stop) => {
            ctx.txn.rollback_to(savepoint);
            match stop {
                Stop::Stale => Ok(Outcome::Stale),
                Stop::Failed(error) => Err(error),
            }
        }
    }
}

/// Keys that a statement has written, to refuse a second time.
pub type Touched = HashSet<Key>;
