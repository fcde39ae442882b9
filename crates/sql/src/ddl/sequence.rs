//! Sequences: CREATE, ALTER, and the numbers they give.
//!
//! A sequence's definition is in the catalog, its state is one row of its own
//! storage: the last number reserved and whether it was. No row means that
//! nothing was reserved yet. Numbers are drawn outside of transactions, as in
//! PostgreSQL: a node reserves a block by a small batch of its own and gives the
//! numbers out from memory. A number given out is never given again, whatever
//! becomes of the transaction that drew it.
//!
//! RESTART moves the sequence to a fresh storage, so that it is undone when its
//! transaction rolls back.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::sql::sqlparser::ast::{DataType, Expr, ObjectName, SequenceOptions};
use polity_base::key::KeyBuilder;
use polity_base::planted::{Bug, planted};
use polity_base::{Class, ColumnId, IndexId, Key, TableId, Type, Value, row};
use polity_txn::{Database, Isolation, TransactionOptions};

use super::extra::whole;
use super::lock::{self, Locks};
use crate::catalog::change::{self, Change};
use crate::catalog::{Catalog, SUPERUSER, Sequence, name, store, types};
use crate::error::{Condition, Error, Result};
use crate::session::{Context, Engine, SequenceMemory};

/// Numbers a node reserves at a time; so many may be skipped when it crashes.
const BLOCK: u64 = 32;

/// The name that identity options give their sequence.
pub(super) fn named(options: &[SequenceOptions]) -> Result<Option<String>> {
    let mut names = options.iter().filter_map(|o| match o {
        SequenceOptions::StartWith(Expr::CompoundIdentifier(parts), _) => Some(ObjectName::from(parts.clone())),
        _ => None,
    });
    names.next().map(|n| name::object(&n)).transpose()
}

fn invalid(message: String) -> Error {
    Error::new(Condition::InvalidParameterValue, message)
}

/// What options of CREATE or ALTER SEQUENCE ask for.
#[derive(Default)]
struct Wanted {
    increment: Option<i64>,
    start: Option<i64>,
    /// `Some(None)`: NO MINVALUE
    minimum: Option<Option<i64>>,
    maximum: Option<Option<i64>>,
    cycle: Option<bool>,
}

impl Wanted {
    fn of(options: &[SequenceOptions]) -> Result<Wanted> {
        let mut wanted = Wanted::default();
        for option in options {
            let twice = match option {
                SequenceOptions::IncrementBy(e, _) => wanted.increment.replace(number(e)?).is_some(),
                SequenceOptions::StartWith(Expr::CompoundIdentifier(_), _) => false,
                SequenceOptions::StartWith(e, _) => wanted.start.replace(number(e)?).is_some(),
                SequenceOptions::MinValue(e) => wanted.minimum.replace(e.as_ref().map(number).transpose()?).is_some(),
                SequenceOptions::MaxValue(e) => wanted.maximum.replace(e.as_ref().map(number).transpose()?).is_some(),
                SequenceOptions::Cycle(no) => wanted.cycle.replace(!no).is_some(),
                // Every node caches a block; how many numbers it has is its own business.
                SequenceOptions::Cache(e) if number(e)? >= 1 => false,
                SequenceOptions::Cache(e) => return Err(invalid(format!("CACHE ({e}) must be greater than zero"))),
            };
            if twice {
                return Err(Error::new(Condition::SyntaxError, "conflicting or redundant options"));
            }
        }
        Ok(wanted)
    }

    /// Applies what is wanted; a new type brings its own limits along.
    fn apply(self, sequence: &mut Sequence, new: bool, new_type: Option<Type>) -> Result<()> {
        let old_limits = limits(&sequence.r#type);
        if let Some(t) = new_type {
            if !matches!(t, Type::Int2 | Type::Int4 | Type::Int8) {
                return Err(invalid("sequence type must be smallint, integer, or bigint".to_owned()));
            }
            sequence.r#type = t;
        }
        if self.increment == Some(0) {
            return Err(invalid("INCREMENT must not be zero".to_owned()));
        }
        sequence.increment = self.increment.unwrap_or(sequence.increment);
        sequence.cycle = self.cycle.unwrap_or(sequence.cycle);
        let up = sequence.increment > 0;
        let (least, most) = limits(&sequence.r#type);
        let at_limit = |value: i64, old: i64| new || value == old;
        sequence.maximum = match self.maximum {
            Some(Some(n)) => n,
            None if !at_limit(sequence.maximum, old_limits.1) => sequence.maximum,
            _ => {
                if up {
                    most
                } else {
                    -1
                }
            }
        };
        sequence.minimum = match self.minimum {
            Some(Some(n)) => n,
            None if !at_limit(sequence.minimum, old_limits.0) => sequence.minimum,
            _ => {
                if up {
                    1
                } else {
                    least
                }
            }
        };
        check_limits(sequence, (least, most))?;
        let default_start = if up { sequence.minimum } else { sequence.maximum };
        sequence.start = self.start.unwrap_or(if new { default_start } else { sequence.start });
        check_start("START", sequence, sequence.start)
    }
}

fn number(expr: &Expr) -> Result<i64> {
    whole(expr).ok_or_else(|| {
        Error::new(Condition::NumericValueOutOfRange, format!("value \"{expr}\" is out of range for type bigint"))
    })
}

fn limits(r#type: &Type) -> (i64, i64) {
    match r#type {
        Type::Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        Type::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    }
}

fn check_limits(s: &Sequence, (least, most): (i64, i64)) -> Result<()> {
    if !(least..=most).contains(&s.maximum) {
        return Err(invalid(format!("MAXVALUE ({}) is out of range for sequence data type {}", s.maximum, s.r#type)));
    }
    if !(least..=most).contains(&s.minimum) {
        return Err(invalid(format!("MINVALUE ({}) is out of range for sequence data type {}", s.minimum, s.r#type)));
    }
    if s.minimum >= s.maximum {
        return Err(invalid(format!("MINVALUE ({}) must be less than MAXVALUE ({})", s.minimum, s.maximum)));
    }
    Ok(())
}

fn check_start(word: &str, s: &Sequence, value: i64) -> Result<()> {
    if value < s.minimum {
        return Err(invalid(format!("{word} value ({value}) cannot be less than MINVALUE ({})", s.minimum)));
    }
    if value > s.maximum {
        return Err(invalid(format!("{word} value ({value}) cannot be greater than MAXVALUE ({})", s.maximum)));
    }
    Ok(())
}

/// A new sequence.
pub(super) fn with_options(
    id: TableId,
    storage: IndexId,
    name: String,
    r#type: Option<Type>,
    options: &[SequenceOptions],
) -> Result<Sequence> {
    let mut sequence = Sequence {
        id,
        name,
        storage,
        r#type: Type::Int8,
        start: 1,
        increment: 1,
        minimum: 1,
        maximum: i64::MAX,
        cycle: false,
        owner: SUPERUSER,
        owned_by: None,
    };
    Wanted::of(options)?.apply(&mut sequence, true, r#type)?;
    Ok(sequence)
}

/// The sequence of an identity column whose type has changed.
pub(super) fn with_type(sequence: &Sequence, r#type: Type) -> Result<Sequence> {
    let mut changed = sequence.clone();
    Wanted::default().apply(&mut changed, false, Some(r#type))?;
    Ok(changed)
}

/// CREATE SEQUENCE
pub(super) async fn create(
    ctx: &mut Context<'_>,
    if_not_exists: bool,
    written: &ObjectName,
    r#type: Option<&DataType>,
    options: &[SequenceOptions],
    owned_by: Option<&ObjectName>,
) -> Result<String> {
    let name = name::object(written)?;
    let ids = ctx.engine.catalogs();
    let (id, storage) = (TableId(ids.new_id().await?), IndexId(ids.new_id().await?));
    let r#type = r#type.map(types::data_type).transpose()?;
    let mut sequence = with_options(id, storage, name.clone(), r#type, options)?;
    loop {
        if ctx.catalog.names.contains_key(&name) {
            if if_not_exists {
                super::notice_exists(ctx, &name);
                return Ok("CREATE SEQUENCE".to_owned());
            }
            return Err(change::relation_exists(&name));
        }
        sequence.owner = super::current_role(ctx)?.id;
        sequence.owned_by = match owned_by {
            Some(column) => owner_column(ctx.catalog, column)?,
            None => None,
        };
        let mut locks = Locks::default();
        locks.name(&name);
        if let Some((table, _)) = sequence.owned_by {
            locks.table(table);
        }
        if locks.take(ctx).await? {
            break;
        }
    }
    let mut change = Change::of(ctx.catalog);
    change.put_sequence(sequence)?;
    change.make(ctx)?;
    lock::fresh(ctx, storage).await?;
    Ok("CREATE SEQUENCE".to_owned())
}

/// The column of OWNED BY table.column.
fn owner_column(catalog: &Catalog, written: &ObjectName) -> Result<Option<(TableId, ColumnId)>> {
    let mut parts = written.0.clone();
    let column = parts.pop().and_then(|p| p.as_ident().map(name::fold)).unwrap_or_default();
    if parts.is_empty() {
        if column == "none" {
            return Ok(None);
        }
        return Err(Error::new(Condition::SyntaxError, "invalid OWNED BY option")
            .hint("Specify OWNED BY table.column or OWNED BY NONE."));
    }
    let table = lock::table(catalog, &ObjectName(parts))?;
    match table.column(&column) {
        Some(c) => Ok(Some((table.id, c.id))),
        None => Err(super::no_column(&table.name, &column)),
    }
}

/// The options of ALTER SEQUENCE.
pub(super) struct Alteration<'a> {
    pub r#type: Option<&'a DataType>,
    pub options: &'a [SequenceOptions],
    /// RESTART, RESTART WITH n
    pub restart: Option<Option<i64>>,
    /// OWNED BY NONE, OWNED BY table.column
    pub owned_by: Option<Option<&'a ObjectName>>,
}

/// ALTER SEQUENCE with options. The sequence must be locked.
pub(super) async fn alter(ctx: &mut Context<'_>, id: TableId, alteration: Alteration<'_>) -> Result<()> {
    let old = ctx.catalog.sequences.get(&id).cloned().ok_or_else(|| Error::internal("a sequence that is not there"))?;
    let mut sequence = (*old).clone();
    let r#type = alteration.r#type.map(types::data_type).transpose()?;
    Wanted::of(alteration.options)?.apply(&mut sequence, false, r#type)?;
    if let Some(owned_by) = alteration.owned_by {
        if is_identity(ctx.catalog, &old) {
            return Err(Error::new(Condition::FeatureNotSupported, "cannot change ownership of identity sequence")
                .detail(format!("Sequence \"{}\" is linked to an identity column.", old.name)));
        }
        sequence.owned_by = owned_by.map(|column| owner_column(ctx.catalog, column)).transpose()?.flatten();
    }
    if let Some(at) = alteration.restart {
        let at = at.unwrap_or(sequence.start);
        check_start("RESTART", &sequence, at)?;
        sequence.storage = restarted(ctx, &sequence, at).await?;
    }
    let mut change = Change::of(ctx.catalog);
    change.put_sequence(sequence)?;
    change.make(ctx)
}

/// A fresh storage for a sequence that starts over at `at`.
pub(super) async fn restarted(ctx: &mut Context<'_>, sequence: &Sequence, at: i64) -> Result<IndexId> {
    let storage = IndexId(ctx.engine.catalogs().new_id().await?);
    lock::fresh(ctx, storage).await?;
    if at != sequence.start {
        let put = polity_base::Operation::Put {
            key: state_key(storage),
            value: state_row(State { last: at, is_called: false }),
        };
        ctx.engine.database().write_direct(vec![put]).await?;
    }
    Ok(storage)
}

/// Whether the sequence serves an identity column.
pub(super) fn is_identity(catalog: &Catalog, sequence: &Sequence) -> bool {
    let column = sequence.owned_by.and_then(|(t, c)| catalog.tables.get(&t)?.column_by_id(c));
    column.is_some_and(|c| c.identity.is_some())
}

// The numbers.

/// What a sequence's row says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// The last number reserved, or the first one to give
    pub last: i64,
    /// Whether `last` was reserved
    pub is_called: bool,
}

fn state_key(storage: IndexId) -> Key {
    KeyBuilder::new(storage).finish()
}

fn state_row(state: State) -> Bytes {
    row::encode(&[Value::Int8(state.last), Value::Bool(state.is_called)])
}

fn state_of(sequence: &Sequence, stored: Option<Bytes>) -> Result<State> {
    let Some(stored) = stored else { return Ok(State { last: sequence.start, is_called: false }) };
    match row::decode(&stored).as_deref() {
        Ok([Value::Int8(last), Value::Bool(is_called)]) => Ok(State { last: *last, is_called: *is_called }),
        _ => Err(Error::new(
            Condition::DataCorrupted,
            format!("the state of sequence \"{}\" cannot be read", sequence.name),
        )),
    }
}

/// Numbers a node holds of one sequence.
#[derive(Default)]
struct Held {
    /// The next number to give; `None`: none is held
    next: Option<i64>,
    /// How many numbers are held from there on
    count: u64,
    /// What the numbers were reserved under
    increment: i64,
    bounds: (i64, i64),
}

impl Held {
    fn fits(&self, s: &Sequence) -> bool {
        self.count > 0 && self.increment == s.increment && self.bounds == (s.minimum, s.maximum)
    }

    fn give(&mut self) -> Option<i64> {
        let value = self.next?;
        self.count = self.count.checked_sub(1)?;
        self.next = if self.count > 0 { value.checked_add(self.increment) } else { None };
        Some(value)
    }
}

/// The numbers of all sequences that this node holds.
pub struct SequenceCache {
    database: Database,
    held: parking_lot::Mutex<HashMap<IndexId, Arc<tokio::sync::Mutex<Held>>>>,
}

impl SequenceCache {
    /// Holds nothing yet.
    pub fn new(database: Database) -> SequenceCache {
        SequenceCache { database, held: parking_lot::Mutex::default() }
    }

    fn of(&self, storage: IndexId) -> Arc<tokio::sync::Mutex<Held>> {
        self.held.lock().entry(storage).or_default().clone()
    }

    /// The next number.
    pub async fn next(&self, sequence: &Sequence) -> Result<i64> {
        let held = self.of(sequence.storage);
        let mut held = held.lock().await;
        self.next_held(sequence, &mut held, 1).await
    }

    /// The next number, if one is held and nobody is drawing right now.
    pub fn try_next(&self, sequence: &Sequence) -> Option<i64> {
        let held = self.of(sequence.storage);
        let mut held = held.try_lock().ok()?;
        if held.fits(sequence) { held.give() } else { None }
    }

    /// The next `n` numbers.
    pub async fn next_many(&self, sequence: &Sequence, n: usize) -> Result<Vec<i64>> {
        let held = self.of(sequence.storage);
        let mut held = held.lock().await;
        let mut values = Vec::with_capacity(n);
        while values.len() < n {
            let missing = (n - values.len()) as u64;
            values.push(self.next_held(sequence, &mut held, missing).await?);
        }
        Ok(values)
    }

    async fn next_held(&self, sequence: &Sequence, held: &mut Held, wanted: u64) -> Result<i64> {
        if !held.fits(sequence) {
            *held = self.reserve(sequence, wanted.max(BLOCK)).await?;
        }
        held.give().ok_or_else(|| Error::internal("a reserved block without numbers"))
    }

    async fn reserve(&self, s: &Sequence, wanted: u64) -> Result<Held> {
        self.update(s, |state| {
            let first = match state.is_called {
                true => following(s, state.last)?,
                false => state.last,
            };
            let limit = if s.increment > 0 { s.maximum } else { s.minimum };
            let room = first.abs_diff(limit) / s.increment.unsigned_abs();
            let count = wanted.min(room.saturating_add(1));
            let step = i128::from(s.increment) * (i128::from(count) - 1);
            let last = i64::try_from(i128::from(first) + step).map_err(Error::internal)?;
            let held = Held { next: Some(first), count, increment: s.increment, bounds: (s.minimum, s.maximum) };
            Ok((State { last, is_called: true }, held))
        })
        .await
    }

    /// Changes the state by a transaction of its own, again when another node
    /// was first.
    async fn update<T>(&self, s: &Sequence, change: impl Fn(State) -> Result<(State, T)>) -> Result<T> {
        let key = state_key(s.storage);
        loop {
            let options = TransactionOptions { isolation: Isolation::Serializable, ..Default::default() };
            let mut txn = self.database.begin(options).await?;
            txn.begin_statement().await?;
            let (state, result) = change(state_of(s, txn.view().get(&key)?)?)?;
            if planted(Bug::SkipSequenceReservation) {
                return Ok(result);
            }
            txn.put(key.clone(), state_row(state))?;
            match txn.commit().await {
                Ok(_) => return Ok(result),
                Err(e) if e.class() == Class::Conflict => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// `setval`: the next number is `value`, or the one after it when `is_called`.
    pub async fn set(&self, sequence: &Sequence, value: i64, is_called: bool) -> Result<()> {
        if !(sequence.minimum..=sequence.maximum).contains(&value) {
            return Err(Error::new(
                Condition::NumericValueOutOfRange,
                format!(
                    "setval: value {value} is out of bounds for sequence \"{}\" ({}..{})",
                    sequence.name, sequence.minimum, sequence.maximum
                ),
            ));
        }
        let held = self.of(sequence.storage);
        let mut held = held.lock().await;
        self.update(sequence, |_| Ok((State { last: value, is_called }, ()))).await?;
        *held = Held::default();
        Ok(())
    }

    /// What `SELECT last_value, is_called FROM sequence` shows: numbers that are
    /// held here and not given out do not count.
    pub fn state(&self, sequence: &Sequence, view: &polity_txn::View) -> Result<State> {
        let stored = state_of(sequence, view.untracked().get(&state_key(sequence.storage))?)?;
        let held = self.of(sequence.storage);
        let Ok(held) = held.try_lock() else { return Ok(stored) };
        match held.next {
            Some(next) => match next.checked_sub(held.increment) {
                Some(last) if (sequence.minimum..=sequence.maximum).contains(&last) => {
                    Ok(State { last, is_called: true })
                }
                _ => Ok(State { last: next, is_called: false }),
            },
            None => Ok(stored),
        }
    }

    /// Gives back what is held, so that no number is skipped when the node
    /// starts again. For an orderly end.
    pub async fn give_back(&self, catalog: &Catalog) -> Result<()> {
        for sequence in catalog.sequences.values() {
            let held = self.of(sequence.storage);
            let mut held = held.lock().await;
            if let Some(next) = held.next.filter(|_| held.fits(sequence)) {
                let count = held.count;
                let end = i128::from(next) + i128::from(held.increment) * (i128::from(count) - 1);
                self.update(sequence, |state| {
                    // Only if nobody has reserved more since.
                    let ours = state.is_called && i128::from(state.last) == end;
                    Ok((if ours { State { last: next, is_called: false } } else { state }, ()))
                })
                .await?;
                *held = Held::default();
            }
        }
        Ok(())
    }
}

/// The number after `last`.
fn following(s: &Sequence, last: i64) -> Result<i64> {
    let next = last.checked_add(s.increment).filter(|n| (s.minimum..=s.maximum).contains(n));
    match next {
        Some(n) => Ok(n),
        None if s.cycle => Ok(if s.increment > 0 { s.minimum } else { s.maximum }),
        None => {
            let (which, limit) = if s.increment > 0 { ("maximum", s.maximum) } else { ("minimum", s.minimum) };
            Err(Error::new(
                Condition::SequenceGeneratorLimitExceeded,
                format!("nextval: reached {which} value of sequence \"{}\" ({limit})", s.name),
            ))
        }
    }
}

/// Calls on sequences: what they need of a session.
#[derive(Clone, Copy)]
pub struct Calls<'a> {
    /// What sessions share
    pub engine: &'a Engine,
    /// Where sequences are found
    pub catalog: &'a Catalog,
    /// What the session remembers
    pub memory: &'a SequenceMemory,
}

impl<'a> Calls<'a> {
    /// The calls of a statement.
    pub fn of(ctx: &'a Context<'_>) -> Calls<'a> {
        Calls { engine: ctx.engine, catalog: ctx.catalog, memory: ctx.sequences }
    }

    fn sequence(&self, id: TableId) -> Result<&'a Arc<Sequence>> {
        if let Some(sequence) = self.catalog.sequences.get(&id) {
            return Ok(sequence);
        }
        let named = self.catalog.names.iter().find(|(_, named)| **named == id);
        Err(match named {
            Some((name, _)) => Error::new(Condition::WrongObjectType, format!("\"{name}\" is not a sequence")),
            None => Error::new(Condition::UndefinedTable, format!("there is no sequence with OID {}", id.0)),
        })
    }

    /// `nextval`
    pub async fn next(&self, id: TableId) -> Result<i64> {
        let value = self.engine.sequences().next(self.sequence(id)?).await?;
        self.memory.note(id, value);
        Ok(value)
    }

    /// `nextval`, so many times
    pub async fn next_many(&self, id: TableId, count: usize) -> Result<Vec<i64>> {
        let values = self.engine.sequences().next_many(self.sequence(id)?, count).await?;
        if let Some(last) = values.last() {
            self.memory.note(id, *last);
        }
        Ok(values)
    }

    /// `currval`
    pub fn current(&self, id: TableId) -> Result<i64> {
        let sequence = self.sequence(id)?;
        self.memory.value(id).ok_or_else(|| {
            Error::new(
                Condition::ObjectNotInPrerequisiteState,
                format!("currval of sequence \"{}\" is not yet defined in this session", sequence.name),
            )
        })
    }

    /// `lastval`
    pub fn last(&self) -> Result<i64> {
        let last = self.memory.last().filter(|id| self.catalog.sequences.contains_key(id));
        last.and_then(|id| self.memory.value(id)).ok_or_else(|| {
            Error::new(Condition::ObjectNotInPrerequisiteState, "lastval is not yet defined in this session")
        })
    }

    /// `setval`
    pub async fn set(&self, id: TableId, value: i64, is_called: bool) -> Result<i64> {
        self.engine.sequences().set(self.sequence(id)?, value, is_called).await?;
        if is_called {
            self.memory.note(id, value);
        }
        Ok(value)
    }
}

/// The refusal of a call that draws or sets numbers where nothing may be written.
pub fn read_only(call: &str) -> Error {
    Error::new(Condition::ReadOnlySqlTransaction, format!("cannot execute {call}() in a read-only transaction"))
}

/// `nextval`
pub async fn next_value(ctx: &mut Context<'_>, id: TableId) -> Result<i64> {
    Calls::of(ctx).next(id).await
}

/// Locks for a change of a sequence.
pub(super) fn lock_sequence(sequence: &Sequence, locks: &mut Locks) {
    locks.key(store::sequence_key(sequence.id));
    if let Some((table, _)) = sequence.owned_by {
        locks.table(table);
    }
}
