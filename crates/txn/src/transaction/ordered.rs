//! What a transaction knows of the ledger.
//!
//! It is serializable there, whatever it is elsewhere: all that its statements read of
//! byzantine tables is a condition of its commit, each part since the height at which it
//! was read. So a statement may look at a newer state than the one before it; only what
//! commits nothing, and so asks for nothing, must see one state to be serializable.

use std::sync::Arc;

use polity_base::{Span, Timestamp};

use super::Transaction;
use crate::byzantine::bft::transaction::Precondition;
use crate::byzantine::bft::types::Height;
use crate::byzantine::{self, Ledger};
use crate::database::Isolation;
use crate::error::Error;
use crate::freshness::Freshness;
use crate::reads::{Part, Recorder};
use crate::view::{LedgerView, Local};

/// What a transaction sees of the ledger, and has read of it.
pub(super) struct Ordered {
    pub view: LedgerView,
    /// All blocks up to here show in the view, and perhaps the next ones
    height: Height,
    /// What earlier statements read, and at which height. Their views may still be read.
    passed: Vec<(Arc<Recorder>, Height)>,
}

impl Ordered {
    /// What `ledger` shows now; or what it showed then, if that is earlier.
    fn of(ledger: &dyn Ledger, then: Timestamp, records: bool) -> Result<Option<Ordered>, Error> {
        let Some(reader) = ledger.reader() else { return Ok(None) };
        // In this order: what the snapshot shows beyond the height may cost a needless
        // conflict and never a lost one, and what it shows beyond the time may be half of
        // a block.
        let height = reader.height().map_err(byzantine::unreadable)?;
        let at = then.min(ledger.applied());
        let snapshot = ledger.snapshot()?;
        let reads = records.then(|| Arc::new(Recorder::new(at)));
        let view = LedgerView { local: Local { snapshot, at }, reads };
        Ok(Some(Ordered { view, height, passed: Vec::new() }))
    }

    /// Ends a statement: what it read stays read.
    fn end_statement(&mut self) {
        if let Some(recorder) = &mut self.view.reads {
            let next = Arc::new(Recorder::new(recorder.at()));
            self.passed.push((std::mem::replace(recorder, next), self.height));
        }
        self.passed.retain(|(recorder, _)| Arc::strong_count(recorder) > 1 || recorder.with(|set| !set.is_empty()));
    }

    /// Whether earlier statements have read something.
    fn has_passed(&self) -> bool {
        self.passed.iter().any(|(recorder, _)| recorder.with(|set| !set.is_empty()))
    }

    /// Notes that a span is relied on.
    pub fn note(&self, span: Span) {
        if let Some(reads) = &self.view.reads {
            reads.span(span.start, span.end);
        }
    }

    /// All that was read, as conditions.
    pub fn unchanged(&self) -> Vec<Precondition> {
        let mut conditions = Vec::new();
        let current = self.view.reads.as_ref().map(|reads| (reads, self.height));
        let passed = self.passed.iter().map(|(reads, height)| (reads, *height));
        for (reads, height) in passed.chain(current) {
            let unchanged = |part: Part<'_>| Precondition::Unchanged(part.to_span(), height);
            reads.with(|set| conditions.extend(set.parts().map(unchanged)));
        }
        conditions
    }
}

impl Transaction {
    /// The byzantine tables as the next statement sees them: as this node has applied
    /// them. A serializable transaction, and one that reads the past, goes on with what
    /// its first statement saw.
    pub(super) fn look_into_ledger(&mut self) -> Result<(), Error> {
        let stays = self.options.isolation == Isolation::Serializable || self.options.freshness.is_fixed();
        match &mut self.ledger {
            Some(ordered) if stays => {
                ordered.end_statement();
                Ok(())
            }
            _ => self.look_anew(),
        }
    }

    /// The same for a statement that starts over: what it read is forgotten.
    pub(super) fn look_into_ledger_again(&mut self) -> Result<(), Error> {
        let Some(ordered) = &mut self.ledger else { return self.look_anew() };
        match &mut ordered.view.reads {
            Some(recorder) => *recorder = Arc::new(Recorder::new(recorder.at())),
            // It is not known whether statements before this one read something.
            None if self.statement > 1 && self.options.isolation == Isolation::Serializable => return Ok(()),
            None => {}
        }
        match self.options.isolation == Isolation::Serializable && ordered.has_passed() {
            true => Ok(()),
            false => self.look_anew(),
        }
    }

    fn look_anew(&mut self) -> Result<(), Error> {
        let Some(ledger) = self.database.directory.ledger() else { return Ok(()) };
        let then = match self.options.freshness {
            Freshness::AsOf(at) => at,
            _ => Timestamp::MAX,
        };
        let mut before = self.ledger.take();
        self.ledger = Ordered::of(ledger.as_ref(), then, !self.options.read_only)?;
        if let (Some(before), Some(now)) = (&mut before, &mut self.ledger) {
            before.end_statement();
            now.passed = std::mem::take(&mut before.passed);
        }
        Ok(())
    }
}
