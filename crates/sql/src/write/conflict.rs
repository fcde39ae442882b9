//! ON CONFLICT.
//!
//! The keys that may conflict are locked before they are looked at, so two
//! sessions that upsert one row queue up and the second finds the first's.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{ConflictTarget, OnConflict, OnConflictAction};
use polity_base::{Key, Value};
use polity_txn::{LockMode, Wait};

use super::rule::Rule;
use super::statement::{Locking, Step, Touched, Writing};
use super::target::Target;
use super::update::{Assignments, Set};
use crate::catalog::{Catalog, Table, name, rows};
use crate::error::{Condition, Error, Result};
use crate::expr::{Env, Parameters, Scope};
use crate::query::{PlanInput, RunEnv};
use crate::session::Context;

/// What to do about rows whose key is there already.
pub struct Conflict {
    arbiters: Vec<Arbiter>,
    update: Option<Update>,
}

/// A unique index whose conflicts are resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Arbiter {
    Primary,
    Index(usize),
}

struct Update {
    set: Set,
    filter: Option<Rule>,
}

impl Conflict {
    /// Compiles the clause for rows of `table`. What the small evaluator does not
    /// cover needs `input`; without it, it gives `None`.
    pub fn compile(
        catalog: &Catalog,
        on: &OnConflict,
        table: &Arc<Table>,
        qualifier: &str,
        parameters: &mut Parameters,
        input: Option<&PlanInput>,
    ) -> Result<Option<Conflict>> {
        let arbiters = arbiters(on, table)?;
        let update = match &on.action {
            OnConflictAction::DoNothing => None,
            OnConflictAction::DoUpdate(_) if on.conflict_target.is_none() => {
                return Err(Error::new(
                    Condition::SyntaxError,
                    "ON CONFLICT DO UPDATE requires inference specification or constraint name",
                )
                .hint("For example, ON CONFLICT (column_name)."));
            }
            OnConflictAction::DoUpdate(update) => {
                let assignments = Assignments::of(table, &update.assignments)?;
                let mut scope = Scope::new(catalog, parameters).with_table(table, qualifier);
                scope = scope.with_table(table, "excluded");
                let Some(set) = Set::compile(table, &assignments, &mut scope, input)? else { return Ok(None) };
                let mut filter = None;
                if let Some(ast) = &update.selection {
                    filter = Rule::compile(ast, Some(&polity_base::Type::Bool), &mut scope, input)?;
                    if filter.is_none() {
                        return Ok(None);
                    }
                }
                Some(Update { set, filter })
            }
        };
        Ok(Some(Conflict { arbiters, update }))
    }

    /// Inserts the row, or does what is to be done instead. Gives the row that
    /// is stored now, if one was.
    pub async fn insert(
        &self,
        ctx: &mut Context<'_>,
        writing: &mut Writing,
        target: &Arc<Target>,
        row: Vec<Value>,
        parameters: &[Value],
        touched: &mut Touched,
    ) -> Step<Option<Vec<Value>>> {
        writing.check(ctx, target, &row)?;
        let Some(existing) = self.existing(ctx, writing, target, &row).await? else {
            let key = writing.insert(ctx, target, &row, Locking::Locked).await?;
            touched.insert(key);
            return Ok(Some(row));
        };
        let Some(update) = &self.update else { return Ok(None) };
        if touched.contains(&existing) {
            return Err(Error::new(
                Condition::CardinalityViolation,
                "ON CONFLICT DO UPDATE command cannot affect row a second time",
            )
            .hint(
                "Ensure that no rows proposed for insertion within the same command have duplicate constrained values.",
            )
            .into());
        }
        let key_change = target.is_key_change(&update.set.places());
        let mode = if key_change { LockMode::Exclusive } else { LockMode::NoKeyExclusive };
        writing.lock(ctx, &existing, mode, Wait::Block).await?;
        let stored = ctx.txn.view().get(&existing)?;
        let stored = stored.ok_or_else(|| Error::internal("an index entry points to no row"))?;
        let old = rows::load(&target.table, &stored)?;
        let mut both = old.clone();
        both.extend(row);
        let mut run = None;
        if let Some(filter) = &update.filter {
            let run = run.get_or_insert_with(|| RunEnv::of(ctx));
            if !filter.is_true(&Env::of(ctx, parameters).row(&both), run)? {
                return Ok(None);
            }
        }
        let mut new = old.clone();
        update.set.apply(ctx, &both, &mut new, parameters, &mut run).await?;
        writing.assigned = update.set.places();
        let key = writing.update(ctx, target, &existing, &old, &new).await?;
        touched.insert(key);
        Ok(Some(new))
    }

    /// The key of the row that has one of the row's unique keys.
    async fn existing(
        &self,
        ctx: &mut Context<'_>,
        writing: &mut Writing,
        target: &Target,
        row: &[Value],
    ) -> Step<Option<Key>> {
        for arbiter in &self.arbiters {
            let key = match arbiter {
                Arbiter::Primary => target.row_key(row)?,
                Arbiter::Index(at) => {
                    let Some(index) = target.indexes.get(*at) else { continue };
                    match index.entry(row, &[])? {
                        (key, true) => key,
                        // A NULL is equal to nothing.
                        (_, false) => continue,
                    }
                }
            };
            writing.lock(ctx, &key, LockMode::Exclusive, Wait::Block).await?;
            if let Some(found) = ctx.txn.view().get(&key)? {
                return Ok(Some(match arbiter {
                    Arbiter::Primary => key,
                    Arbiter::Index(_) => Key(found),
                }));
            }
        }
        Ok(None)
    }
}

fn arbiters(on: &OnConflict, table: &Table) -> Result<Vec<Arbiter>> {
    let unique = || {
        let primary = (!table.has_hidden_key()).then_some(Arbiter::Primary);
        let indexes = table.indexes.iter().enumerate().filter(|(_, i)| i.unique).map(|(at, _)| Arbiter::Index(at));
        primary.into_iter().chain(indexes)
    };
    match &on.conflict_target {
        None => Ok(unique().collect()),
        Some(ConflictTarget::Columns(words)) => {
            let mut wanted = Vec::with_capacity(words.len());
            for word in words {
                let name = name::fold(word);
                let column = table.column(&name).ok_or_else(|| {
                    Error::new(Condition::UndefinedColumn, format!("column \"{name}\" does not exist"))
                })?;
                wanted.push(column.id);
            }
            wanted.sort_unstable();
            wanted.dedup();
            let matches = |arbiter: &Arbiter| {
                let mut columns: Vec<_> = match arbiter {
                    Arbiter::Primary => table.primary.columns.clone(),
                    Arbiter::Index(at) => {
                        table.indexes.get(*at).map_or_else(Vec::new, |i| i.columns.iter().map(|(id, _)| *id).collect())
                    }
                };
                columns.sort_unstable();
                columns.dedup();
                columns == wanted
            };
            let found: Vec<Arbiter> = unique().filter(matches).collect();
            if found.is_empty() {
                return Err(Error::new(
                    Condition::InvalidColumnReference,
                    "there is no unique or exclusion constraint matching the ON CONFLICT specification",
                ));
            }
            Ok(found)
        }
        Some(ConflictTarget::OnConstraint(written)) => {
            let name = name::object(written)?;
            let named = |arbiter: &Arbiter| match arbiter {
                Arbiter::Primary => table.primary.name.as_ref() == Some(&name),
                Arbiter::Index(at) => table.indexes.get(*at).is_some_and(|i| i.constraint && i.name == name),
            };
            unique().find(named).map(|a| vec![a]).ok_or_else(|| {
                Error::new(
                    Condition::UndefinedObject,
                    format!("constraint \"{name}\" for table \"{}\" does not exist", table.name),
                )
            })
        }
    }
}
