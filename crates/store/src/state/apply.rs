//! The one function that changes rows.
//!
//! In log order, for each batch: if a batch with the same id was committed within
//! the window it is a duplicate; else its preconditions are checked one by one and
//! the first that does not hold decides what becomes of it; else all of it is
//! applied, at a timestamp later than that of any batch of its group before it and
//! not earlier than the entry's proposal. Spans are cleared before keys are
//! written. See the module `state` for why this comes out alike everywhere.

use std::sync::Arc;

use bytes::Bytes;
use polity_base::planted::{Bug, planted};
use polity_base::{Batch, Guarantee, Key, Operation, Precondition, RangeId, Span, Timestamp};

use crate::error::Error;
use crate::state::entry::{AppliedMark, BatchOutcome, EntryBody, EntryOutcome, OrderedEntry};
use crate::state::layer::{Cleared, Rows};
use crate::state::reader::View;
use crate::state::window::{Answer, Commit, writes};
use crate::state::{Group, State};

/// So many rows are added to a layer before readers get a turn.
const TURN: usize = 1024;

impl State {
    /// Applies the next entries of a group, and says what became of each.
    ///
    /// Readers see all of it or nothing: what is applied becomes visible when this
    /// returns.
    ///
    /// # Errors
    /// [`Error::OutOfOrder`] if the entries do not follow what was applied; nothing
    /// is done then. After any other error the state must be opened again.
    pub fn apply(&self, group: RangeId, entries: &[OrderedEntry]) -> Result<Vec<EntryOutcome>, Error> {
        self.check()?;
        if self.view.read().active.bytes() > self.options.layer_bytes {
            self.checkpoint()?;
        }
        let _turn = self.writer.lock();
        let id = group;
        let group = self.group(id);
        let mark = *group.mark.lock();
        check_order(id, mark, entries)?;
        let mut work = Work { state: self, id, group: &group, mark };
        let outcomes = entries.iter().map(|entry| work.entry(entry)).collect::<Result<Vec<_>, _>>();
        let outcomes = outcomes.map_err(|e| self.poison(e))?;
        let mark = work.mark;
        *group.mark.lock() = mark;
        self.show(id, mark);
        Ok(outcomes)
    }
}

fn check_order(group: RangeId, mark: AppliedMark, entries: &[OrderedEntry]) -> Result<(), Error> {
    let expected = mark.index + 1..;
    match entries.iter().zip(expected).find(|(entry, expected)| entry.index != *expected) {
        Some((entry, expected)) => Err(Error::OutOfOrder { group, expected, given: entry.index }),
        None => Ok(()),
    }
}

/// Entries being applied.
struct Work<'a> {
    state: &'a State,
    id: RangeId,
    group: &'a Group,
    mark: AppliedMark,
}

impl Work<'_> {
    fn entry(&mut self, entry: &OrderedEntry) -> Result<EntryOutcome, Error> {
        let outcome = match &entry.body {
            EntryBody::Batches { proposed_at, batches } => {
                let outcomes = batches.iter().map(|batch| self.batch(*proposed_at, batch));
                EntryOutcome::Batches(outcomes.collect::<Result<_, _>>()?)
            }
            EntryBody::Blank | EntryBody::Membership(_) => EntryOutcome::Nothing,
        };
        self.mark.index = entry.index;
        self.mark.term = entry.term;
        Ok(outcome)
    }

    fn batch(&mut self, proposed_at: Timestamp, batch: &Batch) -> Result<BatchOutcome, Error> {
        if batch.operations.iter().any(|o| matches!(o, Operation::Change { .. })) {
            return Err(Error::Internal(format!("{}: a change of a row's columns among bytes", self.id)));
        }
        if let Some(refusal) = self.refusal(batch)? {
            return Ok(refusal);
        }
        let at = proposed_at.max(self.mark.commit.next());
        if at == Timestamp::MAX {
            return Err(Error::Internal(format!("{} ran out of timestamps", self.id)));
        }
        self.commit(batch, at);
        self.mark.commit = at;
        Ok(BatchOutcome::Committed(at))
    }

    /// Why the batch is not applied, if it is not.
    fn refusal(&self, batch: &Batch) -> Result<Option<BatchOutcome>, Error> {
        let window = self.group.window.read();
        if let Some(at) = window.duplicate(batch.id)
            && !planted(Bug::ForgetBatchIds)
        {
            return Ok(Some(BatchOutcome::Duplicate(at)));
        }
        for precondition in &batch.preconditions {
            let refusal = match precondition {
                Precondition::Unchanged { .. } if planted(Bug::SkipReadValidation) => None,
                Precondition::Present(_) if planted(Bug::SkipPresenceCheck) => None,
                Precondition::Absent(_) if planted(Bug::SkipUniqueCheck) => None,
                Precondition::Unchanged { span, since } => match window.changed_since(span, *since) {
                    Answer::Unchanged => None,
                    Answer::Changed(_) => Some(BatchOutcome::Conflict(span.clone())),
                    Answer::TooOld => Some(BatchOutcome::TooOld),
                },
                Precondition::Present(key) => (!self.exists(key)?).then(|| BatchOutcome::Missing(key.clone())),
                Precondition::Absent(key) => self.exists(key)?.then(|| BatchOutcome::Exists(key.clone())),
            };
            if refusal.is_some() {
                return Ok(refusal);
            }
        }
        Ok(None)
    }

    /// Whether the key has a row now, after all batches so far.
    fn exists(&self, key: &Key) -> Result<bool, Error> {
        let view = self.state.view.read().clone();
        Ok(view.version(key, Timestamp::MAX)?.is_some_and(|(_, row)| row.is_some()))
    }

    fn commit(&self, batch: &Batch, at: Timestamp) {
        let mut clears: Vec<Span> = Vec::new();
        let mut rows: Vec<(&Key, Option<&Bytes>)> = Vec::with_capacity(batch.operations.len());
        for operation in &batch.operations {
            match operation {
                Operation::Put { key, value } => rows.push((key, Some(value))),
                Operation::Delete { key } => rows.push((key, None)),
                Operation::Clear { span } if span.is_empty() => {}
                Operation::Clear { span } => clears.push(span.clone()),
                // Refused before anything was applied.
                Operation::Change { .. } => {}
            }
        }
        if rows.len() == 2 && planted(Bug::ApplyHalfABatch) {
            rows.pop();
        }
        // What merging remembers is in nobody's read set.
        let watched = |key: &[u8]| !Guarantee::is_of_merging(key);
        let keys: Vec<&[u8]> = rows.iter().map(|(key, _)| &***key).filter(|key| watched(key)).collect();
        let spans: Vec<Span> = clears.iter().filter(|span| watched(&span.start)).cloned().collect();
        let written = writes(keys.into_iter(), &spans);
        let commit = Commit { at, id: batch.id, writes: written };
        if !clears.is_empty() {
            self.clear(&clears, at);
        }
        let layer = self.state.view.read().active.clone();
        for turn in rows.chunks(TURN) {
            layer.change(|content| {
                for (key, value) in turn {
                    content.push((*key).clone(), (at, value.cloned()));
                }
            });
        }
        layer.change(|content: &mut Rows| commit.encode(content.history(self.id, at)));
        self.group.window.write().record(commit);
    }

    /// Hides what is in the spans from all views taken from now on.
    fn clear(&self, spans: &[Span], at: Timestamp) {
        let cleared = spans.iter().map(|span| Cleared { span: span.clone(), at });
        // What is cleared once more need not be remembered twice: every read looks here.
        let is_covered = |known: &Cleared| spans.iter().any(|span| span.covers(&known.span));
        let mut view = self.state.view.write();
        view.active.change(|content| {
            content.clears.retain(|known| !is_covered(known));
            content.clears.extend(cleared.clone());
        });
        let clears = view.clears.iter().filter(|known| !is_covered(known)).cloned().chain(cleared);
        *view = Arc::new(View {
            base: view.base.clone(),
            frozen: view.frozen.clone(),
            active: view.active.clone(),
            clears: clears.collect(),
        });
    }
}
