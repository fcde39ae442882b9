//! Statements: which snapshot each works on, and how one starts over.

use std::sync::Arc;

use polity_base::Timestamp;

use super::{LockedKeys, Reads, Savepoint, Transaction};
use crate::database::Isolation;
use crate::error::{Contested, Error};
use crate::freshness::Freshness;
use crate::reads::{Part, ReadSet, Recorder};
use crate::replica::{Change, Replica, Snapshot};
use crate::view::Local;

/// Where a statement began, to start it over.
#[derive(Clone, Copy, Debug)]
pub struct StatementMark {
    statement: u64,
    savepoint: Savepoint,
}

/// What a statement must see of strong tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reach {
    /// All that was acknowledged before it began, wherever
    #[default]
    Everywhere,
    /// What this node knows: nobody is asked. For statements that read and write
    /// eventual tables only
    Here,
}

/// A snapshot that is current.
struct Now {
    at: Timestamp,
    snapshot: Arc<dyn Snapshot>,
    confirmed: bool,
}

impl Transaction {
    /// Begins a statement. READ COMMITTED takes a new snapshot, SERIALIZABLE
    /// takes its one snapshot with the first.
    pub async fn begin_statement(&mut self) -> Result<StatementMark, Error> {
        self.begin_statement_with(Reach::Everywhere).await
    }

    /// Begins a statement that must see so much of strong tables.
    pub async fn begin_statement_with(&mut self, reach: Reach) -> Result<StatementMark, Error> {
        self.reach = reach;
        self.statement += 1;
        self.reads.end_statement();
        self.locked.settle();
        let fixed = self.options.freshness.is_fixed()
            || (self.options.isolation == Isolation::Serializable
                && self.snapshot.is_some()
                && (self.confirmed || reach == Reach::Here));
        if !fixed {
            let now = self.now().await?;
            self.look_at(now);
        }
        if !matches!(self.local, Some(Ok(_)))
            || (self.options.isolation == Isolation::ReadCommitted && !self.options.freshness.is_fixed())
        {
            self.look_around()?;
        }
        self.look_into_ledger()?;
        self.record();
        Ok(StatementMark { statement: self.statement, savepoint: self.savepoint() })
    }

    /// Starts the present statement over on a snapshot of now: takes back what
    /// it wrote and forgets what it read. Locks are kept. Under SERIALIZABLE,
    /// what earlier statements read must be unchanged up to now; if it is not
    /// this fails with [`Error::Conflict`], and the transaction must.
    pub async fn restart_statement(&mut self, mark: &StatementMark) -> Result<(), Error> {
        if mark.statement != self.statement {
            return Err(Error::Misuse("a statement restarted after its end"));
        }
        let now = self.now().await?;
        // What changed once may go on changing: from here on its locks are waited for.
        self.defers_locks = false;
        self.claimed.clear();
        self.rollback_to(&mark.savepoint);
        self.reads.passed.clear();
        self.reads.current = None;
        self.look_into_ledger_again()?;
        self.move_to(now)
    }

    /// Moves the snapshot to now, in the midst of a statement: what was read so
    /// far (SERIALIZABLE) must be unchanged up to there, else this fails with
    /// [`Error::Conflict`]. Views taken before keep their snapshot. Under READ
    /// COMMITTED, for statements that have read nothing yet: nothing is
    /// validated then, and the rows that this statement locked count as
    /// unread until now.
    pub async fn advance(&mut self) -> Result<(), Error> {
        // Everything that waits comes first: a step that is dropped half way has
        // changed nothing.
        let now = self.now().await?;
        self.reads.passed.extend(self.reads.current.take());
        self.move_to(now)?;
        for (_, since) in &mut self.locked.current {
            *since = self.read_at;
        }
        Ok(())
    }

    /// Moves the snapshot, and all reads so far with it. Without
    /// [`Error::Conflict`] they are as if read just now.
    fn move_to(&mut self, now: Now) -> Result<(), Error> {
        if self.options.freshness.is_fixed() {
            return Err(Error::Misuse("a historical snapshot moved forward"));
        }
        let before = self.read_at;
        self.look_at(now);
        self.look_around()?;
        self.record();
        if self.options.isolation == Isolation::Serializable && before != self.read_at {
            self.reads.move_to(self.read_at, self.replica().as_ref())?;
        }
        Ok(())
    }

    pub(super) fn replica(&self) -> Arc<dyn Replica> {
        self.database.directory.of_key(&[]).1.clone()
    }

    async fn now(&self) -> Result<Now, Error> {
        let replica = self.replica();
        let (at, confirmed) = match self.reach {
            Reach::Everywhere => (replica.read_timestamp().await?, true),
            Reach::Here => (replica.applied(), false),
        };
        Ok(Now { at, snapshot: replica.snapshot()?, confirmed })
    }

    fn look_at(&mut self, now: Now) {
        // A snapshot that asked nobody may be older than one that did, and does not take
        // the place of the one that all statements read.
        let stays = self.confirmed && self.options.isolation == Isolation::Serializable;
        if now.confirmed || (!stays && now.at >= self.read_at) {
            self.read_at = now.at;
            self.snapshot = Some(now.snapshot);
            self.confirmed = now.confirmed;
        }
    }

    /// Takes the state of the eventual tables as it is here and now; or as it was, for
    /// a transaction that reads the past.
    fn look_around(&mut self) -> Result<(), Error> {
        let Some(eventual) = self.database.directory.eventual() else { return Ok(()) };
        let at = match self.options.freshness {
            Freshness::AsOf(at) => at.min(eventual.applied()),
            _ => eventual.applied(),
        };
        // Statements about other tables go on while these cannot be read.
        self.local = Some(match eventual.replica().readable() {
            Ok(()) => Ok(Local { snapshot: eventual.snapshot()?, at }),
            Err(error) => Err(error.into()),
        });
        Ok(())
    }

    /// Fixes the snapshot at `at`, up to which everything is applied here.
    pub(crate) fn take_snapshot_at(&mut self, at: Timestamp) -> Result<(), Error> {
        let replica = self.replica();
        self.snapshot = Some(replica.snapshot()?);
        self.read_at = at;
        self.confirmed = true;
        // Asked after the snapshot was taken: what is collected later is in it.
        let oldest = replica.oldest();
        if self.read_at < oldest {
            return Err(Error::TooOld { at, oldest });
        }
        Ok(())
    }

    /// From here on, reads are recorded at the present snapshot, if they matter. What
    /// was read where nobody was asked is what this node happened to know, and promises
    /// nothing; a statement that must know more reads it anew.
    fn record(&mut self) {
        let matters = self.options.isolation == Isolation::Serializable && !self.options.read_only && self.confirmed;
        if matters {
            self.reads.current = Some(Arc::new(Recorder::new(self.read_at)));
        }
    }
}

impl Reads {
    fn end_statement(&mut self) {
        self.earlier.append(&mut self.passed);
        self.earlier.extend(self.current.take());
        let Some(newest) = self.earlier.last().map(|r| r.at()) else { return };
        if self.settled.is_empty() {
            self.settled_at = newest;
        }
        self.fold();
    }

    /// Makes all reads so far valid at `now`, or fails. Those whose views may go
    /// on reading the old snapshot stay with it.
    fn move_to(&mut self, now: Timestamp, replica: &dyn Replica) -> Result<(), Error> {
        let current = self.current.take();
        self.earlier.append(&mut self.passed);
        // First part what nobody can add to any more, then validate: a view that
        // reads in between must not have its reads taken for validated.
        let mut closed = Vec::new();
        for recorder in std::mem::take(&mut self.earlier) {
            match Arc::try_unwrap(recorder) {
                Ok(recorder) => closed.push(recorder),
                Err(open) => self.earlier.push(open),
            }
        }
        let valid = closed
            .iter()
            .try_for_each(|r| r.with(|set| validate_parts(set, r.at(), replica)))
            .and_then(|()| self.validate(replica));
        self.current = current;
        if valid.is_err() {
            self.earlier.extend(closed.into_iter().map(Arc::new));
            return valid;
        }
        closed.into_iter().for_each(|r| self.settled.merge(r.into_set()));
        self.settled_at = now;
        Ok(())
    }

    /// Settles what was read at the settled timestamp and cannot grow any more.
    fn fold(&mut self) {
        for recorder in std::mem::take(&mut self.earlier) {
            if recorder.at() != self.settled_at {
                self.earlier.push(recorder);
                continue;
            }
            match Arc::try_unwrap(recorder) {
                Ok(recorder) => self.settled.merge(recorder.into_set()),
                Err(open) => self.earlier.push(open),
            }
        }
    }

    /// Calls `f` with every part that was read, and when.
    pub(super) fn for_each<E>(&self, mut f: impl FnMut(Part<'_>, Timestamp) -> Result<(), E>) -> Result<(), E> {
        for part in self.settled.parts() {
            f(part, self.settled_at)?;
        }
        for recorder in self.earlier.iter().chain(&self.passed).chain(&self.current) {
            recorder.with(|set| set.parts().try_for_each(|part| f(part, recorder.at())))?;
        }
        Ok(())
    }

    /// Fails when something that was read has changed up to now.
    pub(super) fn validate(&self, replica: &dyn Replica) -> Result<(), Error> {
        self.for_each(|part, since| validate_part(&part, since, replica))
    }

    /// Whether some read was of an older snapshot than `read_at`.
    pub(super) fn lag_behind(&self, read_at: Timestamp) -> bool {
        let lags = |recorder: &Arc<Recorder>| recorder.at() < read_at && recorder.with(|set| !set.is_empty());
        (!self.settled.is_empty() && self.settled_at < read_at) || self.earlier.iter().chain(&self.passed).any(lags)
    }
}

impl LockedKeys {
    pub(super) fn settle(&mut self) {
        for (key, since) in self.current.drain(..) {
            self.earlier.entry(key).or_insert(since);
        }
    }
}

fn validate_parts(set: &ReadSet, since: Timestamp, replica: &dyn Replica) -> Result<(), Error> {
    set.parts().try_for_each(|part| validate_part(&part, since, replica))
}

fn validate_part(part: &Part<'_>, since: Timestamp, replica: &dyn Replica) -> Result<(), Error> {
    let span = part.to_span();
    let changed = match (replica.changed_since(&span, since), part) {
        (Change::Unchanged, _) => false,
        (Change::Changed(_), _) => true,
        // The rows themselves remember single keys for longer.
        (Change::Forgotten, Part::Point(key)) => replica.last_write(key)?.is_none_or(|last| last > since),
        (Change::Forgotten, Part::Span { .. }) => return Err(Error::Conflict(Contested::Forgotten)),
    };
    if changed { Err(Error::conflict(span)) } else { Ok(()) }
}
